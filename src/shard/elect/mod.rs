//! This node's part in elections: the elector of `elect` meets sockets, files, the links to the primary and
//! the other cores. Lives on core 0 and costs it no system call of its own.
//!
//! Effects are carried out in their order, each finished before the next begins; what takes several turns
//! (other cores, the disk) holds up those behind it, and the elector goes on meanwhile. Only the writing of a
//! ballot goes on beside what follows.

mod lines;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
    },
};

use uring::{FileId, Reactor, SocketId};

use self::lines::Lines;
use super::{
    alarm::Alarm,
    durable::Term,
    follow::Follower,
    handoff::tell_cores,
    log,
    message::Order,
    orders::Orders,
    safe_file::{MARK, SafeFile},
    shared::{ElectionView, MemberView, Shared, lock},
    state::State,
    tls::Fault as TlsFault,
};
use crate::{
    base::{Ms, Position},
    elect::{
        Ballot, Effect, Elector, Epoch, Event, NodeId, Places, Settings, SettingsFault,
        elector::{Following, NoHeir, View},
        role::Role,
    },
};

/// Files of the data directory.
pub const BALLOT: &str = "elect.meta";
/// See there.
pub const PLACES: &str = "elect.places";

/// How often positions are told to the elector while nothing else happens.
const POSITIONS_MS: Ms = 50;
/// A disk that was full or broken must have been well for so long before the node takes part again.
const WELL_MS: Ms = 10_000;
/// A node that stops does not wait longer for others to be told.
const ENDING_MS: Ms = 1000;
/// After the disk refused the places.
const NOTE_AGAIN_MS: Ms = 1000;
/// Clients of a primary wait so long for its next process to have a majority.
const CLIENTS_WAIT_MS: Ms = 2000;

/// What a member is started with.
#[derive(Debug)]
pub struct Membership {
    /// Names, timings and the list.
    pub settings: Settings,
    /// The data directory.
    pub dir: PathBuf,
    /// What was found there.
    pub ballot: Ballot,
    /// See there.
    pub places: Option<Places>,
    /// The epoch that the process led which handed the directory over to this one; 0: it led none.
    pub led: u64,
}

/// See the module page.
pub(super) struct Election {
    shared: Arc<Shared>,
    settings: Settings,
    elector: Elector,
    lines: Lines,
    ballot: SafeFile,
    noted: SafeFile,
    /// Where the data stands, and what of that is on the disk.
    places: Places,
    places_on_disk: Option<Places>,
    /// What is on its way there, and what is to be.
    noting: Option<Places>,
    wanted: Option<Places>,
    note_again_at: Ms,
    /// Effects that wait for their turn.
    due: VecDeque<Effect>,
    busy: Busy,
    /// Something was ordered that other cores may not have done yet.
    unsettled: bool,
    orders: Orders,
    following: Option<Following>,
    joined: Joined,
    catching_up: bool,
    leads: bool,
    /// The ballot on its way to the disk was refused at once.
    ballot_failed: bool,
    told: Ms,
    /// When this process began to take part.
    began: Ms,
    /// The last step, and until when nothing is listened to behind a stall.
    stepped: Ms,
    deaf_until: Ms,
    well_since: Option<Ms>,
    /// Since when the node stops.
    is_ending: Option<Ms>,
    /// Since when clients wait for the gate of a primary that goes on in this process.
    awaited_since: Option<Ms>,
    alarm: Alarm,
    effects: Vec<Effect>,
}

/// What holds up the effects.
#[derive(Clone, Debug)]
enum Busy {
    No,
    /// All cores must have done what was ordered, and what they had asked each other for before that: so many
    /// more rounds. Then this.
    Settling(Box<Effect>, u8),
    /// A load of the data must end before this begins.
    Loading(Box<Effect>),
    /// All cores must have begun their histories, which are new ones or those of before.
    Beginning {
        epoch: Epoch,
        is_new: bool,
    },
    /// The places must be on the disk; then this.
    Noting(Then, Places),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    /// Follow this primary.
    Follow(Following),
    /// Nothing more.
    GoOn,
}

/// How far the data is that of the primary that is followed.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Joined {
    No,
    /// It is, and that is being noted.
    Noting(Places),
    /// And the elector was told.
    Yes,
}

impl Election {
    /// Takes part from now on. `found` are the positions that were found on the disk, by stream; `own` those
    /// of this node's own streams.
    pub fn new<R: Reactor>(
        membership: &Membership,
        found: &[(usize, Position)],
        own: Vec<Position>,
        shared: Arc<Shared>,
        reactor: &mut R,
    ) -> std::io::Result<Result<Self, SettingsFault>> {
        let Membership {
            settings,
            dir,
            ballot,
            places,
            led,
        } = membership;
        let folder: FileId = reactor.open_dir(dir)?;
        let places_here = match places {
            Some(places) => places.found(found),
            // Data from before this node was a member.
            None => Places {
                history: ballot.history,
                streams: own,
            },
        };
        let now = reactor.boot_clock_ms();
        let (settings, offsets) = (settings.clone(), places_here.offsets());
        let mut due = Vec::new();
        let elector = match *led > 0 && *led == ballot.epoch.0 {
            true => Elector::continued(now, settings.clone(), *ballot, offsets, &mut due),
            false => Elector::new(now, settings.clone(), *ballot, offsets),
        };
        Ok(elector.map(|elector| Self {
            elector,
            lines: Lines::new(&settings.peers, settings.id, shared.clone()),
            shared,
            settings,
            ballot: SafeFile::new(0, dir, BALLOT, folder),
            noted: SafeFile::new(1, dir, PLACES, folder),
            places: places_here.clone(),
            places_on_disk: places.clone(),
            noting: None,
            wanted: Some(places_here.clone()),
            note_again_at: 0,
            // What was found is of a history that the journal may have left by now; not that of a primary.
            busy: match due.is_empty() {
                true => Busy::Noting(Then::GoOn, places_here.clone()),
                false => Busy::No,
            },
            due: due.into(),
            awaited_since: (*led > 0).then_some(now),
            unsettled: false,
            orders: Orders::default(),
            following: None,
            joined: Joined::No,
            catching_up: false,
            leads: false,
            ballot_failed: false,
            told: 0,
            began: now,
            stepped: now,
            deaf_until: 0,
            well_since: None,
            is_ending: None,
            alarm: Alarm::new(MARK),
            effects: Vec::new(),
        }))
    }

    /// A listener is the port of elections.
    pub fn listens(&mut self, listener: SocketId) {
        self.lines.listens(listener);
    }

    /// Ends all connections, and takes none in any more: the others find the process that leads on.
    pub fn leave<R: Reactor>(mut self, reactor: &mut R) {
        self.lines.leave(reactor);
    }

    /// Takes in a connection, if it is for elections.
    pub fn accept<R: Reactor>(
        &mut self,
        sockets: (SocketId, SocketId),
        peer: Option<SocketAddr>,
        reactor: &mut R,
    ) -> bool {
        let now = reactor.boot_clock_ms();
        self.lines.accept(sockets, peer, now, reactor)
    }

    /// Takes in what came from a socket, if it is one of these.
    pub fn on_data(&mut self, socket: SocketId, bytes: &[u8], now: Ms) -> bool {
        let is_ours = self.lines.on_data(socket, bytes, now);
        self.tell_reached(now);
        is_ours
    }

    /// A connection stands, or does not.
    pub fn on_connected(&mut self, socket: SocketId, is_good: bool, now: Ms) -> bool {
        let is_ours = self.lines.on_connected(socket, is_good, now);
        self.tell_reached(now);
        is_ours
    }

    /// TLS cannot be spoken with a member that was dialed.
    pub fn on_tls_fault(&mut self, socket: SocketId, fault: TlsFault, now: Ms) -> bool {
        self.lines.on_tls_fault(socket, fault, now)
    }

    fn tell_reached(&mut self, now: Ms) {
        if std::mem::take(&mut self.lines.has_reached) {
            self.tell(Event::Reached, now);
        }
    }

    /// A send is over.
    pub fn on_sent(&mut self, socket: SocketId, is_good: bool, now: Ms) -> bool {
        self.lines.on_sent(socket, is_good, now)
    }

    /// Nothing more comes from a socket.
    pub fn on_end(&mut self, socket: SocketId, now: Ms) -> bool {
        self.lines.on_end(socket, now)
    }

    /// Another core has carried out an order.
    pub fn on_settled(&mut self, round: u64) {
        self.orders.on_settled(round);
    }

    /// A request to the ring for one of the files is over.
    pub fn on_done<R: Reactor>(&mut self, mark: u64, is_good: bool, reactor: &mut R) {
        if let Some(is_there) = self.ballot.on_done(mark, is_good, reactor) {
            let event = match is_there {
                true => Event::BallotDurable,
                false => Event::BallotFailed,
            };
            self.tell(event, reactor.boot_clock_ms());
        }
        if let Some(is_there) = self.noted.on_done(mark, is_good, reactor) {
            self.places_on_disk = self.noting.take().filter(|_| is_there);
            if !is_there {
                self.note_again_at = reactor.boot_clock_ms() + NOTE_AGAIN_MS;
            }
        }
    }

    /// The node stops: has everybody been told?
    pub fn is_ended(&self) -> bool {
        let is_told = self.is_ending.is_some() && self.due.is_empty() && self.lines.is_flushed();
        is_told
            || self
                .is_ending
                .is_some_and(|since| self.stepped >= since + ENDING_MS)
    }

    /// The primary that is known, and the epoch. This node is that not before all cores have begun.
    pub fn leader(&self) -> (Option<NodeId>, Epoch) {
        let view = self.elector.view();
        let is_begun = |id: &NodeId| *id != self.settings.id || self.leads;
        (view.primary.filter(is_begun), view.epoch)
    }

    /// Is this the name of this node?
    pub fn is_us(&self, id: NodeId) -> bool {
        id == self.settings.id
    }

    /// Why this node could not stand now, if so.
    pub fn obstacle(&self) -> Option<&'static str> {
        let view = self.elector.view();
        if view.role != Role::Replica || view.primary.is_none() {
            Some("it follows no primary in elections")
        } else if view.is_muted {
            Some("it cannot write its ballot")
        } else if !view.is_awake {
            Some("it was started too recently to stand")
        } else if self.joined != Joined::Yes {
            Some("it has not noted yet that it has the data of its primary")
        } else {
            None
        }
    }

    /// Gives way for a member that has everything.
    ///
    /// # Errors
    /// Why that cannot be; nothing has happened.
    pub fn hand_over<R: Reactor>(
        &mut self,
        to: NodeId,
        state: &mut State,
        follower: &mut Follower,
        reactor: &mut R,
    ) -> Result<(), NoHeir> {
        let now = reactor.boot_clock_ms();
        self.tell_positions(follower, state, now);
        self.tell(Event::Wake, now);
        self.elector.check_heir(to)?;
        self.tell(Event::HandOver { to }, now);
        self.go_on(state, follower, reactor);
        Ok(())
    }

    /// The epoch that this node leads, if it would go on leading in another process; otherwise 0.
    pub fn leads_on(&self) -> u64 {
        let view = self.elector.view();
        let is_leader = view.role == Role::Leader && self.leads;
        let is_done = self.due.is_empty() && matches!(self.busy, Busy::No);
        match is_leader && is_done {
            true => view.epoch.0,
            false => 0,
        }
    }

    /// Is nothing on its way to the disk?
    pub fn rests(&self) -> bool {
        self.ballot.rests() && self.noted.rests()
    }

    /// Must the core not sleep?
    pub fn has_work(&self) -> bool {
        self.lines.has_work()
    }

    /// Lets the elector know of what happened, and does what it wants.
    pub fn step<R: Reactor>(
        &mut self,
        state: &mut State,
        follower: &mut Follower,
        reactor: &mut R,
    ) -> bool {
        let now = reactor.boot_clock_ms();
        let mut worked = false;
        let timings = self.settings.timings;
        if now.saturating_sub(self.stepped) > timings.down_after / 2 {
            // The process stood still. What waits for it was said long ago: who stood on votes that were free
            // then would depose a primary that has been elected since.
            self.deaf_until = now + timings.heartbeat;
        }
        self.stepped = now;
        if !self.lines.heard.is_empty() {
            // Who is asked to stand, or to vote, says how far it is now.
            self.tell_positions(follower, state, now);
        }
        for (message, source) in std::mem::take(&mut self.lines.heard) {
            worked = true;
            if now >= self.deaf_until {
                self.tell(Event::Received { message, source }, now);
            }
        }
        self.see(follower, state, now);
        if now >= self.elector.wakes_at() {
            worked = true;
            self.tell(Event::Wake, now);
        }
        worked |= self.go_on(state, follower, reactor);
        self.release_clients(now, state);
        self.note_wanted(now, reactor);
        let lines = self.lines.step(now, reactor);
        if let Some(election) = &self.shared.election {
            election.cut.store(self.lines.cut, Relaxed);
        }
        let at = self.elector.wakes_at().min(lines);
        self.alarm.set(at, now, reactor);
        worked
    }

    /// Clients of a primary that goes on in this process are served once it may write, or if it leads no
    /// more, or if that takes too long.
    fn release_clients(&mut self, now: Ms, state: &mut State) {
        let Some(since) = self.awaited_since else {
            return;
        };
        let view = self.elector.view();
        let is_open = view.writes_until > now && self.leads && self.due.is_empty();
        if is_open || view.role != Role::Leader || now >= since + CLIENTS_WAIT_MS {
            self.awaited_since = None;
            log(match is_open {
                true => "elections: leads on, in another process",
                false => "elections: serves clients without being the primary that it was",
            });
            if self.shared.handover.go() {
                tell_cores(state);
            }
        }
    }

    fn tell(&mut self, event: Event, now: Ms) {
        self.elector.step(now, event, &mut self.effects);
        self.due.extend(self.effects.drain(..));
    }

    /// The timer is due.
    pub fn on_timer(&mut self) {
        self.alarm.on_timer();
    }

    // ---- what the elector cannot see by itself ----

    fn see(&mut self, follower: &mut Follower, state: &mut State, now: Ms) {
        if self.joined == Joined::No
            && let Some(following) = self.following
            && let Some(streams) = follower.joined()
        {
            let places = Places {
                history: following.epoch,
                streams,
            };
            self.joined = Joined::Noting(places.clone());
            self.places = places.clone();
            self.wanted = Some(places);
        }
        if let Joined::Noting(places) = &self.joined
            && self.places_on_disk.as_ref() == Some(places)
            && let Some(following) = self.following
        {
            self.joined = Joined::Yes;
            follower.stay_in_history();
            self.tell_positions(follower, state, now);
            self.tell(Event::Joined(following.epoch), now);
        }
        if now >= self.told + POSITIONS_MS {
            self.told = now;
            self.tell_positions(follower, state, now);
            self.look_at_disk(now);
            self.publish(now);
            if state.shared.is_stopping() && self.is_ending.is_none() {
                self.is_ending = Some(now);
                self.tell(Event::Close, now);
            }
        }
    }

    /// Sees how far the data of this node reaches.
    fn look_at_positions(&mut self, follower: &Follower, state: &mut State) {
        if self.leads {
            state.publish_ends();
            let marks = self.shared.durable.shards.iter();
            let streams = marks.map(|marks| Position {
                generation: marks.generation.load(SeqCst),
                offset: marks.next.load(SeqCst),
            });
            self.places.streams = streams.collect();
        } else if self.joined == Joined::Yes || self.catching_up {
            for (place, at) in self.places.streams.iter_mut().zip(follower.positions()) {
                // Of another history than the one that was joined nothing counts before it is joined.
                if let Some(at) = at.filter(|at| at.generation == place.generation) {
                    place.offset = place.offset.max(at.offset);
                }
            }
        }
    }

    fn tell_positions(&mut self, follower: &Follower, state: &mut State, now: Ms) {
        self.look_at_positions(follower, state);
        self.tell(Event::Position(self.places.offsets()), now);
    }

    /// A node whose journal cannot be written gives way, and takes part again once it can.
    fn look_at_disk(&mut self, now: Ms) {
        let is_idle = self.elector.view().role == Role::Idle;
        if self.is_ending.is_some() {
        } else if self.shared.durable.broken.load(Relaxed) {
            self.well_since = None;
            if !is_idle {
                self.tell(Event::DiskPressure, now);
            }
        } else if is_idle {
            let since = *self.well_since.get_or_insert(now);
            if now >= since + WELL_MS {
                self.tell(Event::Select, now);
            }
        }
    }

    // ---- effects ----

    /// Carries out effects as far as they go; true if there was one.
    fn go_on<R: Reactor>(
        &mut self,
        state: &mut State,
        follower: &mut Follower,
        reactor: &mut R,
    ) -> bool {
        let mut worked = false;
        loop {
            match std::mem::replace(&mut self.busy, Busy::No) {
                Busy::No => {}
                Busy::Settling(effect, 0) if self.orders.are_settled(state) => {
                    self.unsettled = false;
                    self.due.push_front(*effect);
                }
                Busy::Settling(effect, rounds) if self.orders.are_settled(state) => {
                    self.order(Order::Settle, state);
                    self.busy = Busy::Settling(effect, rounds - 1);
                }
                Busy::Loading(effect) if !self.shared.loading.load(SeqCst) => {
                    self.due.push_front(*effect);
                }
                Busy::Beginning { epoch, is_new } if self.orders.are_settled(state) => {
                    self.begin_to_lead(epoch, state, follower);
                    if is_new {
                        self.note_first(Then::GoOn);
                    }
                }
                Busy::Noting(then, places) if self.places_on_disk.as_ref() == Some(&places) => {
                    self.on_noted(then, state, follower);
                }
                busy => {
                    self.busy = busy;
                    return worked;
                }
            }
            if !matches!(self.busy, Busy::No) {
                continue;
            }
            let Some(effect) = self.due.pop_front() else {
                if self.ballot_failed {
                    self.ballot_failed = false;
                    self.tell(Event::BallotFailed, reactor.boot_clock_ms());
                    continue;
                }
                return worked;
            };
            worked = true;
            self.carry_out(effect, state, follower, reactor);
        }
    }

    fn carry_out<R: Reactor>(
        &mut self,
        effect: Effect,
        state: &mut State,
        follower: &mut Follower,
        reactor: &mut R,
    ) {
        match effect {
            Effect::Writes { until } => {
                // Before a write is accepted: nobody is to see a primary of an epoch that it does not lead.
                self.publish(reactor.boot_clock_ms());
                if let Some(election) = &self.shared.election {
                    election.writes_until.store(until, SeqCst);
                }
                if until > 0 && self.leads {
                    // Not before: a core that has seen this node follow does not look at the gate in that
                    // turn.
                    self.shared.following.store(false, SeqCst);
                }
                self.unsettled |= until == 0;
            }
            Effect::Lead { .. } | Effect::LeadOn { .. } if self.must_wait(&effect, state) => {}
            // The histories that another process began are found again, and only new ones begun.
            Effect::Lead { epoch } | Effect::LeadOn { epoch } => {
                self.order(Order::Lead, state);
                let is_new = matches!(effect, Effect::Lead { .. });
                self.busy = Busy::Beginning { epoch, is_new };
            }
            Effect::Resign => {
                self.look_at_positions(follower, state);
                self.leads = false;
                self.lead_epoch(0);
                self.shared.following.store(true, SeqCst);
                follower.follow_elected(state, None);
                self.order(Order::Resign, state);
            }
            Effect::Follow(None) => {
                self.look_at_positions(follower, state);
                self.follow_nobody(state, follower);
            }
            Effect::Follow(Some(_)) if self.following.is_some() || self.catching_up => {
                self.look_at_positions(follower, state);
                self.follow_nobody(state, follower);
                self.due.push_front(effect);
            }
            Effect::Follow(Some(_)) if self.must_wait(&effect, state) => {}
            Effect::Follow(Some(following)) => {
                // See `elect::places`.
                self.note_first(Then::Follow(following));
            }
            Effect::Acknowledge { epoch } => follower.acknowledge_for(Some(epoch.0)),
            Effect::CatchUp { .. } if self.must_wait(&effect, state) => {}
            Effect::CatchUp { from } => {
                if let Some(target) = self.target(from) {
                    log(&format!("elections: catching up from {from}"));
                    self.catching_up = true;
                    follower.catch_up(state, target);
                }
            }
            Effect::PersistBallot(_) if self.must_settle(&effect, state) => {}
            Effect::PersistBallot(ballot) => {
                let now = reactor.boot_clock_ms();
                self.tell_positions(follower, state, now);
                if !self.ballot.write(ballot.compose(), reactor) {
                    self.ballot_failed = true;
                }
            }
            Effect::Send { to, message } => self.lines.send(to, &message),
            // Others may be elected as soon as they hear of it.
            Effect::Role(transition)
                if transition.from == Role::Leader && self.must_settle(&effect, state) => {}
            Effect::Role(transition) => {
                let (from, to) = (transition.from.name(), transition.to.name());
                let (signal, epoch) = (transition.signal.name(), self.elector.view().epoch.0);
                log(&format!(
                    "elections: {from} to {to} in epoch {epoch}: {signal}"
                ));
            }
        }
    }

    /// Must other cores be done with something before this?
    fn must_settle(&mut self, effect: &Effect, state: &mut State) -> bool {
        if self.unsettled {
            self.order(Order::Settle, state);
            self.busy = Busy::Settling(Box::new(effect.clone()), 1);
        }
        self.unsettled
    }

    /// The same, and with what is being loaded? Nobody can tell before where the shards are.
    fn must_wait(&mut self, effect: &Effect, state: &mut State) -> bool {
        if self.shared.loading.load(SeqCst) {
            self.busy = Busy::Loading(Box::new(effect.clone()));
            return true;
        }
        self.must_settle(effect, state)
    }

    fn follow_nobody(&mut self, state: &mut State, follower: &mut Follower) {
        (self.following, self.joined, self.catching_up) = (None, Joined::No, false);
        follower.follow_elected(state, None);
        self.unsettled = true;
    }

    /// Every core has begun its new histories: this node is the primary, and takes writes when the gate
    /// opens.
    fn begin_to_lead(&mut self, epoch: Epoch, state: &mut State, follower: &mut Follower) {
        follower.lead(state);
        self.leads = true;
        self.lead_epoch(epoch.0);
        self.look_at_positions(follower, state);
        self.places.history = epoch;
    }

    fn lead_epoch(&self, epoch: u64) {
        if let Some(election) = &self.shared.election {
            election.epoch_led.store(epoch, SeqCst);
            let term = &election.term;
            let is_other = Term(term.load(SeqCst)).leads() != (epoch > 0);
            term.fetch_add(u64::from(is_other), SeqCst);
        }
    }

    /// Gives an order to all cores, this one included.
    fn order(&mut self, order: Order, state: &mut State) {
        self.unsettled = true;
        self.orders.give(order, state);
    }

    /// Where replicas find this member.
    fn target(&self, id: NodeId) -> Option<(String, u16)> {
        let peer = self.settings.peers.iter().find(|peer| peer.id == id)?;
        Some((peer.host.clone(), peer.stream_base()?))
    }

    // ---- places ----

    /// Has the places noted on the disk before anything else happens.
    fn note_first(&mut self, then: Then) {
        self.wanted = Some(self.places.clone());
        self.busy = Busy::Noting(then, self.places.clone());
    }

    /// Writes what is to be on the disk, unless something is on its way there.
    fn note_wanted<R: Reactor>(&mut self, now: Ms, reactor: &mut R) {
        if self.noting.is_some() || now < self.note_again_at || self.wanted == self.places_on_disk {
            return;
        }
        if let Some(places) = self.wanted.clone() {
            match self.noted.write(places.compose(), reactor) {
                true => self.noting = Some(places),
                false => self.note_again_at = now + NOTE_AGAIN_MS,
            }
        }
    }

    fn on_noted(&mut self, then: Then, state: &mut State, follower: &mut Follower) {
        match then {
            Then::GoOn => {}
            Then::Follow(following) => {
                let Some(target) = self.target(following.primary) else {
                    return;
                };
                self.following = Some(following);
                follower.follow_elected(state, Some(target));
            }
        }
    }

    // ---- what others may know ----

    /// Tells the scopes who is down. Who has never been heard is that after the same time.
    fn note_down(&self, now: Ms) {
        let Some(scopes) = &self.shared.scopes else {
            return;
        };
        let (patience, here_for) = (
            self.settings.timings.down_after,
            now.saturating_sub(self.began),
        );
        scopes.note_down(|name| {
            let mut others = self.elector.others();
            let other = others.find(|other| other.id.as_str() == name);
            other.is_some_and(|other| other.silent.unwrap_or(here_for) >= patience)
        });
    }

    /// Publishes who takes the writes of this node's range, if others have some of the slots.
    fn publish_range(&self, now: Ms, view: &View<'_>) {
        let Some(fleet) = &self.shared.fleet else {
            return;
        };
        // A primary whose gate is shut may be one of two.
        let is_open = self.leads && view.writes_until > now;
        let takes_writes = |id: &NodeId| *id != self.settings.id || is_open;
        let primary = view.primary.filter(takes_writes);
        let others = self.settings.peers.iter().map(|peer| &peer.id);
        let others = others.filter(|id| **id != self.settings.id);
        let unreached = others.filter(|id| !self.lines.is_up(**id));
        fleet.note_own(primary.as_ref(), view.epoch.0, unreached);
    }

    /// Publishes what INFO and ELECT tell.
    fn publish(&self, now: Ms) {
        let Some(election) = &self.shared.election else {
            return;
        };
        self.note_down(now);
        let view = self.elector.view();
        self.publish_range(now, &view);
        let members = self.settings.peers.iter().map(|peer| {
            let other = self.elector.others().find(|other| other.id == peer.id);
            MemberView {
                id: peer.id,
                host: peer.host.clone(),
                ip: self.lines.address(peer.id),
                elect_port: peer.elect_port,
                client_port: peer.client_port,
                is_reached: self.lines.is_up(peer.id),
                trouble: self.lines.trouble(peer.id),
                other,
            }
        });
        let role_counters = view.role_counters.clone();
        *lock(&election.view) = Some(ElectionView {
            role: view.role,
            signal: view.signal,
            since: now.saturating_sub(view.since),
            epoch: view.epoch,
            history: self.places.history,
            primary: view.primary,
            lease: view.writes_until.saturating_sub(now),
            is_muted: view.is_muted,
            role_counters,
            tally: view.tally.clone(),
            offset: self.places.offsets().iter().sum(),
            members: members.collect(),
        });
    }
}
