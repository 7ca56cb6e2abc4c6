//! Decides who the primary is, and how long it may accept writes.
//!
//! Four things are promised, and the page on [elections](crate::docs::elections) argues for each: a node
//! votes once in an epoch, also across crashes; it votes for nobody while it hears a primary; a primary
//! accepts writes only until a time at which nobody can have been elected yet; and who is elected has all
//! that a majority acknowledged.

use std::{
    cmp::Reverse,
    hash::{Hash, Hasher},
    net::IpAddr,
};

use super::{
    Ballot, Epoch, Message, NodeId, Peer, Standing,
    role::{self, Counters, Machine, Role, Signal, Transition},
    wire::{Pulse, Stamp, WireRole},
};
use crate::base::{Ms, Rng};

/// How long things take, in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timings {
    /// Between two heartbeats.
    pub heartbeat: Ms,
    /// A primary that was not heard for so long is gone. Voters count it from when a heartbeat arrived.
    pub down_after: Ms,
    /// How long a candidate waits for votes.
    pub candidacy: Ms,
    /// How long who was not elected waits before it stands again, at least.
    pub back_off: Ms,
    /// And at most so much longer.
    pub jitter: Ms,
}

impl Timings {
    /// Those of kevy, which cannot be changed there. The ones to use with members that are kevys.
    pub const KEVY: Timings = Timings {
        heartbeat: 200,
        down_after: 5000,
        candidacy: 3000,
        back_off: 1000,
        jitter: 4000,
    };

    /// Timings that notice a loss within `down_after`; for members that are all ringkeeps.
    pub fn within(down_after: Ms) -> Timings {
        Timings {
            heartbeat: down_after / 6,
            down_after,
            candidacy: down_after / 2,
            back_off: down_after / 4,
            jitter: down_after,
        }
    }

    /// How long a primary may accept writes after it sent a heartbeat that a voter answered. An eighth
    /// shorter than what the voter waits, so that clocks may differ in rate by that much.
    pub fn lease(&self) -> Ms {
        self.down_after - self.down_after / 8
    }
}

/// What an elector is told once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node. It is in the list, too.
    pub id: NodeId,
    /// All members. Their number decides what a majority is.
    pub peers: Vec<Peer>,
    /// Where this node serves clients, for people who read announcements.
    pub address: String,
    /// How long things take.
    pub timings: Timings,
    /// Refuse messages that do not come from the address of the member that they name. Members whose host
    /// is a name in the list are not checked.
    pub check_source: bool,
    /// Chance; another one at each start.
    pub seed: u64,
}

impl Settings {
    /// Can a member be started with these?
    ///
    /// # Errors
    /// [`SettingsFault`].
    pub fn check(&self) -> Result<(), SettingsFault> {
        let names = || self.peers.iter().map(|peer| peer.id);
        let is_before = |at: usize, id| names().take(at).any(|before| before == id);
        if let Some((_, id)) = names().enumerate().find(|(at, id)| is_before(*at, *id)) {
            return Err(SettingsFault::Twice(id));
        }
        if !names().any(|id| id == self.id) {
            return Err(SettingsFault::NotListed(self.id));
        }
        let timings = &self.timings;
        if timings.heartbeat < 10 || timings.heartbeat.saturating_mul(3) > timings.down_after {
            return Err(SettingsFault::Timings);
        }
        Ok(())
    }
}

/// Why settings were refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SettingsFault {
    /// This node is not in the list.
    NotListed(NodeId),
    /// Two members have one name.
    Twice(NodeId),
    /// Heartbeats must be at least 10 ms apart and fit three times into what makes a primary be gone.
    Timings,
}

impl std::fmt::Display for SettingsFault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotListed(id) => write!(out, "the list of peers does not name {id}, this node"),
            Self::Twice(id) => write!(out, "the list of peers names {id} twice"),
            Self::Timings => {
                out.write_str("heartbeats are too rare for the time after which a primary is gone")
            }
        }
    }
}

impl std::error::Error for SettingsFault {}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed.
    Wake,
    /// A message arrived.
    Received {
        /// What it says.
        message: Message,
        /// Where the connection comes from, if known.
        source: Option<IpAddr>,
    },
    /// The ballot of the last [`Effect::PersistBallot`] is on the disk, and so is everything that was asked
    /// for before it done.
    BallotDurable,
    /// It is not, or nobody knows.
    BallotFailed,
    /// How far the data of this node reaches: the number of the next frame of each of the streams that it
    /// writes or follows.
    Position(Vec<u64>),
    /// The data of this node is now that of the primary that it was told to follow in this epoch, up to the
    /// position: a snapshot was loaded whole, or the stream goes on where it stopped.
    Joined(Epoch),
    /// The disk of this node is full or broken.
    DiskPressure,
    /// The node may take part again.
    Select,
    /// The operator takes the primary out.
    Relinquish,
    /// This primary gives way for another member, which is to stand at once; nothing happens if that
    /// [cannot be](Elector::check_heir). The shell has seen to it that the member has all of the data.
    HandOver {
        /// The member.
        to: NodeId,
    },
    /// There is a new connection to another member, which may have missed what was said last.
    Reached,
    /// The node ends.
    Close,
}

/// What the shell has to do, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Accept writes before this time and none from it on, on every core; 0 shuts the gate. It is shut at the
    /// start.
    Writes {
        /// On the clock that steps are called with.
        until: Ms,
    },
    /// Begin a new history on every stream, and serve replicas. Those that follow an older one are dropped.
    Lead {
        /// The epoch that this node leads.
        epoch: Epoch,
    },
    /// Go on with the history of this epoch on every stream, and serve replicas: another process of this node
    /// began it.
    LeadOn {
        /// The epoch that this node leads.
        epoch: Epoch,
    },
    /// Serve no replica any more, and count no acknowledgement.
    Resign,
    /// Follow this primary. `None`: follow nobody, apply nothing more and acknowledge nothing more; what
    /// was a catch-up ends, too.
    Follow(Option<Following>),
    /// Acknowledgements to the primary may count from here on: it is on the disk whose history this is. Until
    /// then send none.
    Acknowledge {
        /// The epoch of the primary that is followed.
        epoch: Epoch,
    },
    /// No primary is left, and this node would stand, but a peer with data of the same history is ahead of it
    /// on some streams. Pull what is missing from there, as from a primary; report positions.
    CatchUp {
        /// The peer.
        from: NodeId,
    },
    /// Write the ballot, sync it, and report [`Event::BallotDurable`] or [`Event::BallotFailed`]. No other
    /// one is asked for before the answer. What follows it in the list need not wait for the disk.
    PersistBallot(Ballot),
    /// Send this to a peer, or drop it.
    Send {
        /// The peer.
        to: NodeId,
        /// What to say.
        message: Message,
    },
    /// The role has changed; for the log.
    Role(Transition),
}

/// Whom to follow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Following {
    /// The primary.
    pub primary: NodeId,
    /// Its epoch.
    pub epoch: Epoch,
}

/// How things stand; for `INFO`.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The role.
    pub role: Role,
    /// Since when.
    pub since: Ms,
    /// What led to it.
    pub signal: Option<Signal>,
    /// The epoch.
    pub epoch: Epoch,
    /// The primary, if it is heard.
    pub primary: Option<NodeId>,
    /// The time up to which writes are accepted, 0 for none.
    pub writes_until: Ms,
    /// The disk refused a ballot; the node neither votes nor stands.
    pub is_muted: bool,
    /// It has been here for long enough to vote and to stand.
    pub is_awake: bool,
    /// What happened to the role.
    pub role_counters: &'a Counters,
    /// What else happened.
    pub tally: &'a Tally,
}

/// What is known of another member; for `INFO`.
#[derive(Clone, Copy, Debug)]
pub struct OtherView {
    /// Its name.
    pub id: NodeId,
    /// For how many milliseconds it has not been heard, if it ever was.
    pub silent: Option<Ms>,
    /// It is a ringkeep.
    pub is_ringkeep: bool,
    /// Its epoch, as it said last.
    pub epoch: Epoch,
    /// The sum of its positions, as it said last.
    pub number: u64,
}

/// Why the part of the primary cannot be handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoHeir {
    /// This node does not lead, or a majority does not hear it.
    NotLeading,
    /// No member has this name, or it is this node's.
    Unknown,
    /// It has not been heard of late.
    Silent,
    /// It stands when its own rules say so.
    Kevy,
}

impl std::fmt::Display for NoHeir {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::NotLeading => "this node does not lead, or no majority hears it",
            Self::Unknown => "it is no member of the elections",
            Self::Silent => "it is not heard in elections",
            Self::Kevy => "it is a kevy, which cannot be told to stand",
        })
    }
}

/// What happened, beside changes of the role.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Two primaries in one epoch.
    pub dual_primaries: u64,
    /// Ballots that the disk refused.
    pub persist_failures: u64,
    /// Messages of nobody in the list, or not from where its sender is.
    pub refused: u64,
    /// Votes that were given.
    pub votes: u64,
    /// Votes that were refused because a primary is heard.
    pub loyal: u64,
    /// Votes that were refused because this node has data that the candidate lacks.
    pub ahead: u64,
    /// How often the lease of this primary ran out.
    pub lapses: u64,
    /// How often this node had to catch up before it could stand.
    pub catch_ups: u64,
    /// How often the primary gave way to a higher epoch that nobody leads.
    pub outdated: u64,
    /// How often it gave way for a member that was chosen.
    pub handed_over: u64,
}

/// One member's part in elections.
#[derive(Clone)]
pub struct Elector {
    settings: Settings,
    others: Vec<Other>,
    rng: Rng,
    now: Ms,
    machine: Machine,

    ballot: Ballot,
    durable: Ballot,
    is_writing: Option<Ballot>,
    /// What leaves when the ballot is durable.
    after: After,
    is_muted: bool,
    retry_at: Ms,

    /// When this run of the node became a member, and whether it may vote yet: it may have promised
    /// something before.
    started: Ms,
    is_awake: bool,
    /// The primary, while it is heard; this node itself while it leads. It is that of `ballot.epoch`, or a
    /// kevy of an older one, see [`Elector::on_primary_left_behind`].
    primary: Option<NodeId>,
    primary_epoch: Epoch,
    primary_heard: Ms,
    /// Since when there is none.
    lost_at: Ms,
    /// Until when others that rank higher are let pass.
    defer_until: Ms,
    back_off_until: Ms,
    /// The highest epoch that a member spoke of.
    seen: Epoch,
    /// The highest epoch known to have had a primary.
    newest: Epoch,

    /// For whom this node gave way, and until when it votes for nobody else.
    heir: Option<(NodeId, Ms)>,

    following: Option<Following>,
    catching_up: Option<NodeId>,
    offsets: Vec<u64>,

    stood_at: Ms,
    has_offered: bool,
    led_since: Ms,
    lease_until: Ms,
    gate: Ms,
    nonce: u64,

    next_beat: Ms,
    /// What the last heartbeat said.
    said: Option<(Epoch, Role, Option<NodeId>, bool)>,
    tally: Tally,
}

/// What is known of another member.
#[derive(Clone)]
struct Other {
    id: NodeId,
    address: Option<IpAddr>,
    heard: Option<Ms>,
    is_ringkeep: bool,
    epoch: Epoch,
    number: u64,
    standing: Standing,
    is_free: bool,
    /// The last stamp it sent, to be echoed.
    stamp: Option<Stamp>,
    /// The latest heartbeat of this node as a primary that it answered.
    granted: Option<Ms>,
    /// It answered this run of the node that it is no primary.
    is_settled: bool,
    has_voted: bool,
}

/// What waits for the disk.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum After {
    Nothing,
    /// A vote for somebody who showed this much.
    Vote {
        to: NodeId,
        shown: Shown,
    },
    Offers,
    Lead,
}

/// How a candidate says what it has.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Shown {
    Sum(u64),
    Standing(Standing),
}

impl Elector {
    /// A member that begins as a replica which knows no primary. `offsets` is where its data stands.
    ///
    /// # Errors
    /// [`SettingsFault`].
    pub fn new(
        now: Ms,
        settings: Settings,
        ballot: Ballot,
        offsets: Vec<u64>,
    ) -> Result<Self, SettingsFault> {
        settings.check()?;
        let others = settings.peers.iter().filter(|peer| peer.id != settings.id);
        let others = others.map(Other::new).collect();
        let mut rng = Rng::seeded(settings.seed);
        let mut elector = Self {
            nonce: rng.next_u64(),
            settings,
            others,
            rng,
            now,
            machine: Machine::new(now),
            ballot,
            durable: ballot,
            is_writing: None,
            after: After::Nothing,
            is_muted: false,
            retry_at: 0,
            started: now,
            is_awake: false,
            primary: None,
            primary_epoch: Epoch(0),
            primary_heard: 0,
            lost_at: now,
            defer_until: now,
            back_off_until: 0,
            seen: ballot.epoch,
            newest: ballot.history,
            heir: None,
            following: None,
            catching_up: None,
            offsets,
            stood_at: 0,
            has_offered: false,
            led_since: 0,
            lease_until: 0,
            gate: 0,
            next_beat: now,
            said: None,
            tally: Tally::default(),
        };
        elector.turn(Signal::CapabilitySelected, Role::Replica, &mut Vec::new());
        Ok(elector)
    }

    /// The primary whose other process led the epoch of this ballot, and does nothing any more; as
    /// [`new`](Elector::new) where the ballot is none of a primary. It accepts writes once a majority has
    /// answered it, like a primary that was stopped for a while, whatever the other process was told.
    ///
    /// # Errors
    /// [`SettingsFault`].
    pub fn continued(
        now: Ms,
        settings: Settings,
        ballot: Ballot,
        offsets: Vec<u64>,
        out: &mut Vec<Effect>,
    ) -> Result<Self, SettingsFault> {
        let mut elector = Self::new(now, settings, ballot, offsets)?;
        let id = elector.settings.id;
        if ballot.voted != Some(id) || ballot.history != ballot.epoch {
            return Ok(elector);
        }
        elector.machine = Machine::leading(now);
        // A primary has promised nothing to anybody that it might have forgotten.
        elector.is_awake = true;
        elector.primary = Some(id);
        elector.primary_epoch = ballot.epoch;
        // The others first have to find this process.
        elector.led_since = now + elector.down_after();
        out.push(Effect::LeadOn {
            epoch: ballot.epoch,
        });
        Ok(elector)
    }

    /// Takes an event and appends what is to be done. A time that lies before the last one counts as that.
    pub fn step(&mut self, now: Ms, event: Event, out: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        // Before anything else: the process may have stood still since the last step.
        self.expire(out);
        match event {
            Event::Wake => {}
            Event::Received { message, source } => self.on_message(message, source, out),
            Event::BallotDurable => self.on_durable(out),
            Event::BallotFailed => self.on_failed(out),
            Event::Position(offsets) => self.offsets = offsets,
            Event::Joined(epoch) => self.on_joined(epoch, out),
            Event::DiskPressure => self.on_disk_pressure(out),
            Event::Select => self.on_select(out),
            Event::Relinquish => self.turn(Signal::GracefulRelinquish, Role::Idle, out),
            Event::HandOver { to } => self.on_hand_over(to, out),
            Event::Reached => self.said = None,
            Event::Close => {
                if self.machine.role() == Role::Leader {
                    // Others hear that it leads no more, and need not wait until it is silent for long.
                    self.resign(out);
                    self.speak(out);
                }
                self.turn(Signal::ChannelClose, Role::Idle, out);
            }
        }
        self.tick(out);
        self.speak(out);
    }

    /// When to step at the latest.
    pub fn wakes_at(&self) -> Ms {
        if self.machine.role() == Role::Idle {
            return Ms::MAX;
        }
        let timings = &self.settings.timings;
        let times = [
            self.next_beat,
            self.lease_until,
            self.primary_heard + timings.down_after,
            self.started + timings.down_after,
            self.stood_at + timings.candidacy,
            self.defer_until,
            self.back_off_until,
            self.retry_at,
            self.heir.map_or(0, |(_, until)| until),
        ];
        times
            .into_iter()
            .filter(|at| *at > self.now)
            .min()
            .unwrap_or(self.now + timings.heartbeat)
    }

    /// Can this node hand the part of the primary over to a member?
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check_heir(&self, to: NodeId) -> Result<(), NoHeir> {
        if self.machine.role() != Role::Leader || self.now >= self.lease_until {
            return Err(NoHeir::NotLeading);
        }
        match self.others.iter().find(|other| other.id == to) {
            None => Err(NoHeir::Unknown),
            Some(other) if !self.hears(other) => Err(NoHeir::Silent),
            Some(other) if !other.is_ringkeep => Err(NoHeir::Kevy),
            Some(_) => Ok(()),
        }
    }

    /// How things stand.
    pub fn view(&self) -> View<'_> {
        View {
            role: self.machine.role(),
            since: self.machine.since(),
            signal: self.machine.signal(),
            epoch: self.ballot.epoch,
            primary: self.primary,
            writes_until: self.gate,
            is_muted: self.is_muted,
            is_awake: self.is_awake,
            role_counters: self.machine.counters(),
            tally: &self.tally,
        }
    }

    /// What is known of the other members.
    pub fn others(&self) -> impl Iterator<Item = OtherView> {
        self.others.iter().map(|other| OtherView {
            id: other.id,
            silent: other.heard.map(|heard| self.since(heard)),
            is_ringkeep: other.is_ringkeep,
            epoch: other.epoch,
            number: other.number,
        })
    }

    /// The last ballot that is known to be on the disk.
    pub fn durable(&self) -> Ballot {
        self.durable
    }

    /// Hashes what decides the next steps, for who walks through all states: times as seen from the last
    /// step, long ago and over being one, and neither chance nor what only counts. Stamps of others are taken
    /// for times of the same clock.
    pub fn hash_state(&self, into: &mut impl Hasher) {
        let timings = self.settings.timings;
        let left = |until: Ms| until.saturating_sub(self.now);
        let ago = |at: Ms| self.since(at).min(timings.down_after);
        let role = self.machine.role();
        (
            role,
            self.ballot,
            self.durable,
            self.is_writing,
            &self.after,
        )
            .hash(into);
        (self.is_muted, left(self.retry_at)).hash(into);
        (!self.is_awake).then(|| ago(self.started)).hash(into);
        (self.primary, self.primary_epoch, ago(self.primary_heard)).hash(into);
        if self.others.iter().any(Other::is_known_kevy) {
            self.since(self.lost_at.max(self.started)).hash(into);
        }
        (left(self.defer_until), left(self.back_off_until)).hash(into);
        self.heir.map(|(id, until)| (id, left(until))).hash(into);
        (self.seen.max(self.ballot.epoch), self.newest).hash(into);
        (self.following, self.catching_up, &self.offsets).hash(into);
        match role {
            Role::Candidate => (ago(self.stood_at), self.has_offered).hash(into),
            Role::Leader => {
                let lapsed = self.lease_until.max(self.led_since);
                (
                    left(self.lease_until),
                    left(lapsed.saturating_add(timings.candidacy)),
                )
                    .hash(into);
                (self.gate != 0, left(self.gate)).hash(into);
            }
            Role::Replica | Role::Idle => {}
        }
        (self.nonce, left(self.next_beat), self.said).hash(into);
        for other in &self.others {
            (
                other.heard.map(ago),
                other.granted.map_or(timings.down_after, ago),
            )
                .hash(into);
            (other.is_ringkeep, other.epoch, other.number, other.is_free).hash(into);
            (&other.standing, other.is_settled, other.has_voted).hash(into);
            let age = |stamp: Stamp| self.since(stamp.sent).min(4 * timings.down_after);
            other
                .stamp
                .map(|stamp| (stamp.nonce, age(stamp)))
                .hash(into);
        }
    }

    // ---- time ----

    /// What ends by time alone.
    fn expire(&mut self, out: &mut Vec<Effect>) {
        let is_leader = self.machine.role() == Role::Leader;
        if is_leader && self.gate != 0 && self.now >= self.lease_until {
            self.gate = 0;
            self.tally.lapses += 1;
            out.push(Effect::Writes { until: 0 });
        }
        if !is_leader
            && self.primary.is_some()
            && self.since(self.primary_heard) >= self.down_after()
        {
            self.lose_primary();
        }
        self.heir = self.heir.filter(|(_, until)| self.now < *until);
        if !self.is_awake {
            let all_settled = self.others.iter().all(|other| other.is_settled);
            if all_settled || self.since(self.started) >= self.down_after() {
                self.is_awake = true;
                self.let_others_pass();
            }
        }
    }

    fn tick(&mut self, out: &mut Vec<Effect>) {
        // What came may have settled the last of the others.
        self.expire(out);
        let timings = self.settings.timings;
        match self.machine.role() {
            Role::Leader => {
                self.renew_lease(out);
                let lapsed = self.lease_until.max(self.led_since);
                if self.now >= lapsed.saturating_add(timings.candidacy) {
                    self.resign(out);
                }
            }
            Role::Candidate if self.since(self.stood_at) >= timings.candidacy => self.give_up(out),
            Role::Replica => self.consider(out),
            Role::Candidate | Role::Idle => {}
        }
        self.persist(out);
    }

    /// Sends heartbeats, when they are due and when they say something new.
    fn speak(&mut self, out: &mut Vec<Effect>) {
        let role = self.machine.role();
        if role == Role::Idle {
            self.said = None;
            return;
        }
        let is_free = self.may_vote();
        let follows = self.primary.or(self.heir.map(|(heir, _)| heir));
        let saying = Some((self.ballot.epoch, role, follows, is_free));
        if self.now < self.next_beat && self.said == saying {
            return;
        }
        self.said = saying;
        self.next_beat = self.now + self.settings.timings.heartbeat;
        let (epoch, from) = (self.ballot.epoch, self.settings.id);
        let offset = self.number();
        let standing = self.standing();
        let role = match role {
            Role::Leader => WireRole::Primary,
            Role::Candidate => WireRole::Candidate,
            Role::Replica | Role::Idle => WireRole::Replica,
        };
        let stamp = Stamp {
            nonce: self.nonce,
            sent: self.now,
        };
        let hides = self.hides_from_kevys();
        for other in &self.others {
            if hides && other.is_known_kevy() {
                continue;
            }
            let message = if other.is_ringkeep {
                let (standing, echo) = (standing.clone(), other.stamp);
                let pulse = Pulse {
                    epoch,
                    from,
                    role,
                    standing,
                    follows,
                    is_free,
                    stamp,
                    echo,
                };
                Message::Pulse(Box::new(pulse))
            } else {
                Message::Heartbeat {
                    epoch,
                    from,
                    role,
                    offset,
                    is_ringkeep: true,
                }
            };
            out.push(Effect::Send {
                to: other.id,
                message,
            });
            // A kevy that missed the announcement learns nothing from heartbeats of the same epoch.
            if role == WireRole::Primary && !other.is_ringkeep {
                out.push(Effect::Send {
                    to: other.id,
                    message: self.announcement(),
                });
            }
        }
    }

    // ---- messages ----

    fn on_message(&mut self, message: Message, source: Option<IpAddr>, out: &mut Vec<Effect>) {
        let from = message.from();
        let found = self.others.iter().position(|other| other.id == from);
        let is_from = |other: &Other| match (source, other.address) {
            (Some(source), Some(address)) => source.to_canonical() == address.to_canonical(),
            _ => true,
        };
        let Some(at) = found.filter(|at| !self.settings.check_source || is_from(&self.others[*at]))
        else {
            self.tally.refused += 1;
            return;
        };
        if self.machine.role() == Role::Idle {
            return;
        }
        let is_news = message.epoch() > self.seen;
        self.seen = self.seen.max(message.epoch());
        match message {
            Message::Heartbeat {
                epoch,
                role,
                offset,
                is_ringkeep,
                ..
            } => {
                let shows_stamp = is_ringkeep && !self.others[at].is_ringkeep;
                if shows_stamp && self.machine.role() == Role::Leader {
                    // The sooner it is shown one, the sooner this node may write.
                    self.said = None;
                }
                let other = &mut self.others[at];
                other.heard = Some(self.now);
                other.is_ringkeep = is_ringkeep;
                (other.epoch, other.number) = (epoch, offset);
                if role == WireRole::Primary {
                    self.on_primary(at, epoch, out);
                } else if role == WireRole::Replica
                    && self.primary == Some(from)
                    && epoch >= self.primary_epoch
                {
                    // It was started anew.
                    self.lose_primary();
                }
                if is_news && !is_ringkeep && role == WireRole::Replica {
                    // It took part in an election that passed this node by, and whoever won will be heard.
                    let until = self.now + self.settings.timings.candidacy;
                    self.back_off_until = self.back_off_until.max(until);
                }
            }
            Message::Pulse(pulse) => self.on_pulse(at, *pulse, out),
            Message::Offer { epoch, offset, .. } => {
                // A ringkeep shows more to those that it knows, and who was not heard yet may be one.
                let other = &self.others[at];
                if other.heard.is_some() && !other.is_ringkeep {
                    self.on_offer(at, epoch, Shown::Sum(offset), out);
                }
            }
            Message::Ask {
                epoch, standing, ..
            } => self.on_offer(at, epoch, Shown::Standing(standing), out),
            Message::Accept { epoch, .. } => {
                if self.machine.role() == Role::Candidate
                    && self.has_offered
                    && epoch == self.ballot.epoch
                {
                    self.others[at].has_voted = true;
                    self.count_votes(out);
                }
            }
            Message::Announce { epoch, .. } => self.on_primary(at, epoch, out),
        }
    }

    fn on_pulse(&mut self, at: usize, pulse: Pulse, out: &mut Vec<Effect>) {
        let heir = pulse.heir();
        let is_for_us = heir.is_none_or(|heir| heir == self.settings.id);
        let Pulse {
            epoch,
            from,
            role,
            standing,
            follows,
            is_free,
            stamp,
            echo,
        } = pulse;
        let other = &mut self.others[at];
        let is_same = |last: &Stamp| last.nonce == stamp.nonce;
        if let Some(last) = other.stamp.filter(is_same) {
            if last.sent > stamp.sent {
                return;
            }
        } else if role == WireRole::Primary || self.machine.role() == Role::Leader {
            // A primary may not write before it is answered, and is not before it has shown a stamp.
            self.said = None;
        }
        other.heard = Some(self.now);
        other.is_ringkeep = true;
        other.epoch = epoch;
        other.number = standing.sum();
        other.standing = standing;
        other.is_free = is_free && is_for_us;
        other.stamp = Some(stamp);
        let answers = echo.filter(|echo| echo.nonce == self.nonce && echo.sent <= self.now);
        if answers.is_some() && role != WireRole::Primary {
            other.is_settled = true;
        }
        let is_leader = self.machine.role() == Role::Leader;
        if is_leader && epoch == self.ballot.epoch && follows == Some(self.settings.id) {
            other.granted = other.granted.max(answers.map(|echo| echo.sent));
        }
        if role == WireRole::Primary {
            self.on_primary(at, epoch, out);
        } else if is_leader && epoch > self.ballot.epoch {
            // Whoever stood in vain can hear nobody of an older epoch any more. A new election reaches it.
            self.tally.outdated += 1;
            self.resign(out);
        } else if role == WireRole::Replica
            && self.primary == Some(from)
            && epoch >= self.primary_epoch
        {
            // It led this epoch and never will again: it was started anew, or gave way.
            self.lose_primary();
            match heir {
                None => {}
                Some(_) if is_for_us => self.defer_until = self.now,
                // Who is to be the primary gets the time to win.
                Some(_) => {
                    let until = self.now + self.settings.timings.candidacy;
                    self.back_off_until = self.back_off_until.max(until);
                }
            }
        }
        let other = &self.others[at];
        let is_asking = self.machine.role() == Role::Candidate && self.has_offered;
        if is_asking && other.is_free && !other.has_voted && epoch < self.ballot.epoch {
            // It may have heard the primary still when it was asked, or not have been reached.
            let (to, message) = (from, self.question());
            out.push(Effect::Send { to, message });
        }
    }

    /// What a candidate asks ringkeeps.
    fn question(&self) -> Message {
        Message::Ask {
            epoch: self.ballot.epoch,
            from: self.settings.id,
            standing: self.standing(),
        }
    }

    /// A member says that it is the primary of an epoch.
    fn on_primary(&mut self, at: usize, epoch: Epoch, out: &mut Vec<Effect>) {
        let id = self.others[at].id;
        self.newest = self.newest.max(epoch);
        if epoch < self.ballot.epoch {
            return self.on_primary_left_behind(at, epoch, out);
        }
        if epoch > self.ballot.epoch {
            return self.learn(id, epoch, out);
        }
        let rank = (self.others[at].number, Reverse(id));
        match self.primary.filter(|_| self.primary_epoch == epoch) {
            None => self.learn(id, epoch, out),
            Some(known) if known == id => self.primary_heard = self.now,
            // Two primaries in one epoch: only kevys vote twice. Who has more stays, then the smaller id.
            Some(_) if self.machine.role() == Role::Leader => {
                self.tally.dual_primaries += 1;
                if rank > (self.number(), Reverse(self.settings.id)) {
                    self.learn(id, epoch, out);
                } else {
                    // A new election ends the duel, and the next epoch keeps it from coming back.
                    self.resign(out);
                    self.defer_until = self.now;
                }
            }
            Some(known) => {
                let before = self.others.iter().find(|other| other.id == known);
                if before.is_some_and(|before| rank > (before.number, Reverse(known))) {
                    self.learn(id, epoch, out);
                }
            }
        }
    }

    /// A member leads an epoch that this node has left behind, by standing in vain or by a vote for who did.
    /// A ringkeep gives way to that, so that an election reaches everybody; a kevy never does, so it is
    /// followed. Not if a later primary was ever heard of, or if one may have been elected: besides this
    /// node, a majority must be in no later epoch.
    fn on_primary_left_behind(&mut self, at: usize, epoch: Epoch, out: &mut Vec<Effect>) {
        let other = &self.others[at];
        let id = other.id;
        let is_kevy = self.hears(other) && other.is_known_kevy();
        let is_newest = epoch >= self.newest.max(self.ballot.history);
        let is_free = self.machine.role() == Role::Replica && self.after == After::Nothing;
        if !is_kevy || !is_newest || !is_free {
            return;
        }
        if self.primary == Some(id) && self.primary_epoch == epoch {
            self.primary_heard = self.now;
            return;
        }
        if self.primary.is_some() && self.primary_epoch >= epoch {
            return;
        }
        // Who was voted for gets the time to win.
        let voted_for_another = self.ballot.voted.is_some_and(|id| id != self.settings.id);
        let is_early = voted_for_another && self.now < self.back_off_until;
        let stays = |other: &&Other| self.hears(other) && other.epoch <= epoch;
        if !is_early && self.others.iter().filter(stays).count() >= self.quorum() {
            self.learn(id, epoch, out);
        }
    }

    /// Takes another one for the primary.
    fn learn(&mut self, primary: NodeId, epoch: Epoch, out: &mut Vec<Effect>) {
        self.heir = None;
        self.after = After::Nothing;
        match self.machine.role() {
            Role::Leader => self.turn(Signal::PeerLeaderObserved, Role::Replica, out),
            Role::Candidate => self.turn(Signal::ElectionLost, Role::Replica, out),
            Role::Replica | Role::Idle => {}
        }
        if epoch > self.ballot.epoch {
            self.ballot.epoch = epoch;
            self.ballot.voted = None;
        }
        self.primary = Some(primary);
        self.primary_epoch = epoch;
        self.primary_heard = self.now;
        self.back_off_until = 0;
        self.follow(Some(Following { primary, epoch }), out);
    }

    fn on_offer(&mut self, at: usize, epoch: Epoch, shown: Shown, out: &mut Vec<Effect>) {
        let to = self.others[at].id;
        if epoch <= self.ballot.epoch || self.is_muted || self.after == After::Lead {
            return;
        }
        let is_for_another = self.heir.is_some_and(|(heir, _)| heir != to);
        if self.primary == Some(to) {
            // It asks for votes, so it leads no more.
            self.lose_primary();
        }
        if self.machine.role() == Role::Leader {
            if self.now < self.lease_until {
                self.tally.loyal += 1;
                return;
            }
            self.resign(out);
        }
        if !self.may_vote() || is_for_another {
            self.tally.loyal += 1;
            return;
        }
        if !self.is_content(to, &shown) {
            self.tally.ahead += 1;
            return;
        }
        if self.machine.role() == Role::Candidate {
            self.turn(Signal::ElectionLost, Role::Replica, out);
        }
        self.follow(None, out);
        self.ballot.epoch = epoch;
        self.ballot.voted = Some(to);
        self.after = After::Vote { to, shown };
        // Who is voted for gets the time to win.
        self.back_off_until = self.now + self.settings.timings.candidacy;
        self.persist(out);
    }

    /// Has a candidate all that this node has?
    fn is_content(&self, candidate: NodeId, shown: &Shown) -> bool {
        match shown {
            Shown::Standing(standing) => standing.covers(&self.standing()),
            Shown::Sum(sum) => {
                (*sum, Reverse(candidate)) > (self.number(), Reverse(self.settings.id))
            }
        }
    }

    // ---- the ballot ----

    /// Asks for the ballot to be written, if the disk does not have it and no other one is on its way.
    fn persist(&mut self, out: &mut Vec<Effect>) {
        let is_early = self.is_muted && self.now < self.retry_at;
        if self.is_writing.is_none() && self.ballot != self.durable && !is_early {
            self.is_writing = Some(self.ballot);
            out.push(Effect::PersistBallot(self.ballot));
        }
    }

    fn on_durable(&mut self, out: &mut Vec<Effect>) {
        let Some(written) = self.is_writing.take() else {
            return;
        };
        let was_joined = self.has_joined();
        self.durable = written;
        self.is_muted = false;
        if let Some(following) = self.following.filter(|_| self.has_joined() && !was_joined) {
            out.push(Effect::Acknowledge {
                epoch: following.epoch,
            });
        }
        if self.durable != self.ballot {
            return;
        }
        match std::mem::replace(&mut self.after, After::Nothing) {
            After::Nothing => {}
            After::Vote { to, shown } => {
                // Positions may have moved until whoever was followed was left.
                if self.is_content(to, &shown) {
                    self.tally.votes += 1;
                    let message = Message::Accept {
                        epoch: written.epoch,
                        from: self.settings.id,
                    };
                    out.push(Effect::Send { to, message });
                } else {
                    self.tally.ahead += 1;
                    self.back_off_until = 0;
                }
            }
            After::Offers => self.offer(out),
            After::Lead => self.turn(Signal::ElectionWon, Role::Leader, out),
        }
    }

    /// What was to be promised is not on the disk, or nobody knows. It is written anew later; what waited for
    /// it does not happen.
    fn on_failed(&mut self, out: &mut Vec<Effect>) {
        if self.is_writing.take().is_none() {
            return;
        }
        self.is_muted = true;
        self.tally.persist_failures += 1;
        self.retry_at = self.now + self.settings.timings.back_off;
        self.after = After::Nothing;
        if self.machine.role() == Role::Candidate {
            self.give_up(out);
        }
    }

    fn on_joined(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        if self
            .following
            .is_none_or(|following| following.epoch != epoch)
        {
            return;
        }
        if self.has_joined() {
            out.push(Effect::Acknowledge { epoch });
        }
        self.ballot.history = epoch;
    }

    /// Does the disk say that the data is that of the primary that is followed?
    fn has_joined(&self) -> bool {
        self.following
            .is_some_and(|following| following.epoch == self.durable.history)
    }

    // ---- standing ----

    /// Stands, or prepares to, if nobody leads.
    fn consider(&mut self, out: &mut Vec<Effect>) {
        let is_waiting = self.now < self.back_off_until || self.after != After::Nothing;
        if is_waiting || self.is_writing.is_some() || !self.may_vote() {
            return;
        }
        let heard: Vec<&Other> = self
            .others
            .iter()
            .filter(|other| self.hears(other))
            .collect();
        let ours = self.standing();
        let sum = ours.sum();
        let number = self.number();
        let id = self.settings.id;
        let ranks_higher = |other: &&&Other| match other.is_ringkeep {
            true => {
                let theirs = &other.standing;
                other.is_free
                    && (theirs.history, theirs.sum(), Reverse(other.id))
                        > (ours.history, sum, Reverse(id))
            }
            false => (other.number, Reverse(other.id)) > (number, Reverse(id)),
        };
        if self.now < self.defer_until && heard.iter().any(|other| ranks_higher(&other)) {
            return;
        }
        let would_vote = |other: &&&Other| match other.is_ringkeep {
            true => other.is_free && ours.covers(&other.standing),
            false => (number, Reverse(id)) > (other.number, Reverse(other.id)),
        };
        if heard.iter().filter(would_vote).count() + 1 >= self.quorum() {
            return self.stand(out);
        }
        let is_ahead = |other: &&&Other| {
            other.is_ringkeep
                && other.is_free
                && other.standing.history == ours.history
                && !would_vote(other)
        };
        let source = heard
            .iter()
            .filter(is_ahead)
            .max_by_key(|other| (other.standing.sum(), Reverse(other.id)));
        let source = source.map(|other| other.id);
        if let Some(from) = source.filter(|from| self.catching_up != Some(*from)) {
            self.follow(None, out);
            self.catching_up = Some(from);
            self.tally.catch_ups += 1;
            out.push(Effect::CatchUp { from });
        }
    }

    fn stand(&mut self, out: &mut Vec<Effect>) {
        let epoch = self.ballot.epoch.max(self.seen).next();
        if epoch > Epoch::MAX {
            return;
        }
        self.ballot.epoch = epoch;
        self.ballot.voted = Some(self.settings.id);
        self.stood_at = self.now;
        self.has_offered = false;
        for other in &mut self.others {
            other.has_voted = false;
        }
        self.turn(Signal::MissedHeartbeats, Role::Candidate, out);
    }

    fn offer(&mut self, out: &mut Vec<Effect>) {
        self.has_offered = true;
        let (epoch, from, offset) = (self.ballot.epoch, self.settings.id, self.number());
        for other in &self.others {
            let message = match other.is_ringkeep {
                true => self.question(),
                false => Message::Offer {
                    epoch,
                    from,
                    offset,
                },
            };
            out.push(Effect::Send {
                to: other.id,
                message,
            });
        }
        self.count_votes(out);
    }

    fn count_votes(&mut self, out: &mut Vec<Effect>) {
        let votes = 1 + self.others.iter().filter(|other| other.has_voted).count();
        if votes >= self.quorum() && self.after == After::Nothing {
            // What is written from here on is this epoch's, also if the node comes back from a crash.
            self.ballot.history = self.ballot.epoch;
            self.after = After::Lead;
            self.persist(out);
        }
    }

    /// Stands no more.
    fn give_up(&mut self, out: &mut Vec<Effect>) {
        self.after = After::Nothing;
        self.turn(Signal::ElectionLost, Role::Replica, out);
        let timings = self.settings.timings;
        self.back_off_until = self.now + timings.back_off + self.rng.below(timings.jitter + 1);
    }

    // ---- leading ----

    /// Writes are safe until nobody's promise holds any more that a majority needs to be without.
    fn renew_lease(&mut self, out: &mut Vec<Effect>) {
        let lease = self.settings.timings.lease();
        let mut ends: Vec<Ms> = self
            .others
            .iter()
            .map(|other| other.lease_end(self.ballot.epoch, lease))
            .collect();
        ends.sort_unstable_by_key(|end| Reverse(*end));
        self.lease_until = match self.quorum() {
            1 => Ms::MAX,
            quorum => ends[quorum - 2],
        };
        let gate = if self.lease_until > self.now {
            self.lease_until
        } else {
            0
        };
        if gate != self.gate {
            self.gate = gate;
            out.push(Effect::Writes { until: gate });
        }
    }

    /// Leads no more, though nobody else is known to.
    fn resign(&mut self, out: &mut Vec<Effect>) {
        self.turn(Signal::PeerLeaderObserved, Role::Replica, out);
        self.lose_primary();
    }

    /// Gives way for a member. It gets the time to win: this node votes for nobody else meanwhile, and does
    /// not stand.
    fn on_hand_over(&mut self, to: NodeId, out: &mut Vec<Effect>) {
        if self.check_heir(to).is_err() {
            return;
        }
        self.resign(out);
        self.tally.handed_over += 1;
        let until = self.now + self.settings.timings.candidacy;
        self.heir = Some((to, until));
        self.back_off_until = until;
    }

    // ---- the role ----

    fn turn(&mut self, signal: Signal, to: Role, out: &mut Vec<Effect>) {
        let Ok(Some(transition)) = self.machine.step(signal, to, self.now) else {
            return;
        };
        for effect in transition.effects {
            match effect {
                role::Effect::CloseWrites => {
                    (self.gate, self.lease_until) = (0, 0);
                    out.push(Effect::Writes { until: 0 });
                }
                role::Effect::StopStream => out.push(Effect::Resign),
                role::Effect::StopFollowing => self.follow(None, out),
                role::Effect::PersistBallot => self.persist(out),
                role::Effect::Offer => self.after = After::Offers,
                role::Effect::StartStream => {
                    // Only what is sent from here on is sent by a primary.
                    self.nonce = self.rng.next_u64();
                    self.led_since = self.now;
                    self.primary = Some(self.settings.id);
                    self.primary_epoch = self.ballot.epoch;
                    self.newest = self.ballot.epoch;
                    for other in &mut self.others {
                        other.granted = None;
                    }
                    out.push(Effect::Lead {
                        epoch: self.ballot.epoch,
                    });
                }
                role::Effect::OpenWrites => self.renew_lease(out),
                role::Effect::Announce => {
                    for other in &self.others {
                        out.push(Effect::Send {
                            to: other.id,
                            message: self.announcement(),
                        });
                    }
                }
                role::Effect::Join => self.next_beat = self.now,
                role::Effect::Withdraw => {
                    self.after = After::Nothing;
                    (self.primary, self.heir) = (None, None);
                }
            }
        }
        out.push(Effect::Role(transition));
    }

    fn on_disk_pressure(&mut self, out: &mut Vec<Effect>) {
        let signal = match self.machine.role() {
            Role::Leader => Signal::LeaderDiskPressureWithdraw,
            Role::Candidate => Signal::CandidateDiskPressureWithdraw,
            Role::Replica => Signal::DiskPressureWithdraw,
            Role::Idle => Signal::ChannelClose,
        };
        self.turn(signal, Role::Idle, out);
    }

    /// Takes part again, as after a start.
    fn on_select(&mut self, out: &mut Vec<Effect>) {
        if self.machine.role() != Role::Idle {
            return;
        }
        self.started = self.now;
        self.is_awake = false;
        self.nonce = self.rng.next_u64();
        for other in &mut self.others {
            other.heard = None;
            other.is_settled = false;
        }
        self.turn(Signal::CapabilitySelected, Role::Replica, out);
    }

    // ---- small things ----

    fn follow(&mut self, following: Option<Following>, out: &mut Vec<Effect>) {
        if self.following != following || self.catching_up.is_some() {
            self.following = following;
            self.catching_up = None;
            out.push(Effect::Follow(following));
        }
    }

    fn lose_primary(&mut self) {
        self.primary = None;
        self.lost_at = self.now;
        self.let_others_pass();
    }

    fn let_others_pass(&mut self) {
        let timings = self.settings.timings;
        // Who ranks highest may be unable to stand; then others get their turn, not all at once.
        self.defer_until = self.now + timings.candidacy + self.rng.below(timings.candidacy + 1);
    }

    /// Would this node give a vote?
    fn may_vote(&self) -> bool {
        self.machine.role() != Role::Idle
            && self.is_awake
            && !self.is_muted
            && self.primary.is_none()
    }

    /// A kevy that followed this node waits for it as long as it hears it, whatever it says of its role. So
    /// who has known no primary for long, and could not become one, is silent for as long as makes a kevy
    /// think that it is gone; then it speaks for a while, and so on.
    fn hides_from_kevys(&self) -> bool {
        let waits = self.machine.role() == Role::Replica && self.may_vote();
        let down_after = self.down_after();
        let alone = self.since(self.lost_at.max(self.started));
        waits
            && alone >= 2 * down_after
            && (alone - 2 * down_after) % (3 * down_after) < down_after * 5 / 4
    }

    fn hears(&self, other: &Other) -> bool {
        other
            .heard
            .is_some_and(|at| self.since(at) < self.down_after())
    }

    fn standing(&self) -> Standing {
        Standing {
            history: self.ballot.history,
            offsets: self.offsets.clone(),
        }
    }

    /// What kevys are told: they compare numbers of any histories, so who is in an old one has nothing.
    fn number(&self) -> u64 {
        match self.ballot.history >= self.newest {
            true => self
                .offsets
                .iter()
                .fold(0, |sum, offset| sum.saturating_add(*offset)),
            false => 0,
        }
    }

    fn announcement(&self) -> Message {
        let (epoch, from) = (self.ballot.epoch, self.settings.id);
        Message::Announce {
            epoch,
            from,
            address: self.settings.address.clone(),
        }
    }

    fn quorum(&self) -> usize {
        self.settings.peers.len() / 2 + 1
    }

    fn since(&self, at: Ms) -> Ms {
        self.now.saturating_sub(at)
    }

    fn down_after(&self) -> Ms {
        self.settings.timings.down_after
    }
}

impl Other {
    fn new(peer: &Peer) -> Self {
        Self {
            id: peer.id,
            address: peer.host.parse().ok(),
            heard: None,
            is_ringkeep: false,
            epoch: Epoch(0),
            number: 0,
            standing: Standing::default(),
            is_free: false,
            stamp: None,
            granted: None,
            is_settled: false,
            has_voted: false,
        }
    }

    fn is_known_kevy(&self) -> bool {
        self.heard.is_some() && !self.is_ringkeep
    }

    /// Until when this member has promised a primary of `epoch` to vote for nobody else. A ringkeep has
    /// answered a heartbeat; of a kevy it is only known that it spoke in that epoch, and it may vote all the
    /// same.
    fn lease_end(&self, epoch: Epoch, lease: Ms) -> Ms {
        let from = match self.is_ringkeep {
            true => self.granted,
            false => self.heard.filter(|_| self.epoch == epoch),
        };
        from.map_or(0, |from| from + lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elect::parse_peers;

    const T: Timings = Timings::KEVY;

    fn id(text: &str) -> NodeId {
        NodeId::new(text).expect("a name")
    }

    fn settings(list: &str) -> Settings {
        Settings {
            id: id("b"),
            peers: parse_peers(list).expect("a list"),
            address: "10.0.0.2:6379".into(),
            timings: T,
            check_source: true,
            seed: 1,
        }
    }

    /// `b` of three whose others are kevys.
    fn member() -> Elector {
        let settings = settings("a@10.0.0.1:1,b@10.0.0.2:1,c@10.0.0.3:1");
        Elector::new(0, settings, Ballot::default(), vec![7, 3]).expect("good settings")
    }

    fn step(elector: &mut Elector, now: Ms, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        elector.step(now, event, &mut out);
        out
    }

    /// The same without heartbeats and what is for the log.
    fn decisions(elector: &mut Elector, now: Ms, event: Event) -> Vec<Effect> {
        let mut out = step(elector, now, event);
        out.retain(|effect| {
            !matches!(
                effect,
                Effect::Send {
                    message: Message::Heartbeat { .. } | Message::Pulse(_),
                    ..
                } | Effect::Role(_)
            )
        });
        out
    }

    fn says(message: Message) -> Event {
        Event::Received {
            message,
            source: None,
        }
    }

    fn beat(from: &str, epoch: u64, role: WireRole, offset: u64) -> Event {
        let epoch = Epoch(epoch);
        says(Message::Heartbeat {
            epoch,
            from: id(from),
            role,
            offset,
            is_ringkeep: false,
        })
    }

    /// `b` leads epoch 2, and `a` is heard at 5100.
    fn leader() -> Elector {
        let mut elector = member();
        for from in ["a", "c"] {
            step(&mut elector, 4900, beat(from, 1, WireRole::Replica, 0));
        }
        let ballot = Ballot {
            epoch: Epoch(2),
            voted: Some(id("b")),
            history: Epoch(0),
        };
        let stood = decisions(&mut elector, 5000, Event::Wake);
        assert_eq!(stood, [Effect::PersistBallot(ballot)]);
        let (epoch, from) = (Epoch(2), id("b"));
        let offer = |to| Effect::Send {
            to: id(to),
            message: Message::Offer {
                epoch,
                from,
                offset: 10,
            },
        };
        assert_eq!(
            decisions(&mut elector, 5010, Event::BallotDurable),
            [offer("a"), offer("c")]
        );
        let vote = says(Message::Accept {
            epoch,
            from: id("a"),
        });
        let won = decisions(&mut elector, 5020, vote);
        assert_eq!(
            won,
            [Effect::PersistBallot(Ballot {
                history: epoch,
                ..ballot
            })]
        );
        let address = "10.0.0.2:6379".to_string();
        let announcement = Message::Announce {
            epoch,
            from,
            address,
        };
        let told = |to| Effect::Send {
            to: id(to),
            message: announcement.clone(),
        };
        let led = decisions(&mut elector, 5030, Event::BallotDurable);
        assert_eq!(led[..3], [Effect::Lead { epoch }, told("a"), told("c")]);
        // Nobody has spoken in this epoch yet.
        assert_eq!(elector.view().writes_until, 0);
        let opened = decisions(&mut elector, 5100, beat("a", 2, WireRole::Replica, 0));
        assert_eq!(
            opened,
            [Effect::Writes {
                until: 5100 + T.lease()
            }]
        );
        elector
    }

    /// A ringkeep speaks that has as much as `b`.
    fn speaks(
        from: &str,
        (epoch, role): (u64, WireRole),
        follows: Option<&str>,
        is_free: bool,
    ) -> Event {
        let standing = Standing {
            history: Epoch(0),
            offsets: vec![7, 3],
        };
        says(Message::Pulse(Box::new(Pulse {
            epoch: Epoch(epoch),
            from: id(from),
            role,
            standing,
            follows: follows.map(id),
            is_free,
            stamp: Stamp { nonce: 9, sent: 0 },
            echo: None,
        })))
    }

    fn ask(from: &str, epoch: u64) -> Event {
        let (epoch, from) = (Epoch(epoch), id(from));
        let standing = Standing {
            history: epoch,
            offsets: vec![7, 3],
        };
        says(Message::Ask {
            epoch,
            from,
            standing,
        })
    }

    fn asks_for_votes(effects: &[Effect], epoch: u64, whom: &str) -> bool {
        let is_it = |effect: &Effect| match effect {
            Effect::PersistBallot(ballot) => {
                (ballot.epoch, ballot.voted) == (Epoch(epoch), Some(id(whom)))
            }
            _ => false,
        };
        effects.iter().any(is_it)
    }

    #[test]
    fn who_gave_way_votes_for_the_heir_alone_and_for_a_while() {
        let mut elector = leader();
        assert_eq!(elector.check_heir(id("a")), Err(NoHeir::Kevy));
        assert_eq!(elector.check_heir(id("b")), Err(NoHeir::Unknown));
        let refused = decisions(&mut elector, 5150, Event::HandOver { to: id("a") });
        assert_eq!(refused, []);
        // What `c` says keeps the lease.
        step(&mut elector, 5200, beat("c", 2, WireRole::Replica, 0));
        let follows = speaks("a", (2, WireRole::Replica), Some("b"), false);
        step(&mut elector, 5200, follows);
        assert_eq!(elector.check_heir(id("a")), Ok(()));
        let mut later = elector.clone();
        step(&mut later, 9000, beat("c", 2, WireRole::Replica, 0));
        step(&mut later, 5200 + T.down_after, Event::Wake);
        assert_eq!(later.check_heir(id("a")), Err(NoHeir::Silent));
        let gave_way = step(&mut elector, 5200, Event::HandOver { to: id("a") });
        assert_eq!(gave_way[..2], [Effect::Writes { until: 0 }, Effect::Resign]);
        let said = gave_way.iter().find_map(|effect| match effect {
            Effect::Send {
                message: Message::Pulse(pulse),
                ..
            } => Some(pulse.heir()),
            _ => None,
        });
        assert_eq!(said, Some(Some(id("a"))));
        assert_eq!(elector.check_heir(id("a")), Err(NoHeir::NotLeading));
        let mut late = elector.clone();
        let other = step(&mut elector, 5300, ask("c", 3));
        assert!(!asks_for_votes(&other, 3, "c"));
        let heir = step(&mut elector, 5400, ask("a", 3));
        assert!(asks_for_votes(&heir, 3, "a"));
        let other = step(&mut late, 5200 + T.candidacy, ask("c", 3));
        assert!(asks_for_votes(&other, 3, "c"));
    }

    #[test]
    fn the_heir_stands_at_once_and_others_let_it_pass() {
        for heir in ["b", "c"] {
            let mut elector = member();
            let leads = speaks("a", (1, WireRole::Primary), Some("a"), false);
            step(&mut elector, 6000, leads);
            step(&mut elector, 6001, Event::BallotDurable);
            let free = speaks("c", (1, WireRole::Replica), None, true);
            step(&mut elector, 6100, free);
            let gave_way = speaks("a", (1, WireRole::Replica), Some(heir), true);
            let stood = step(&mut elector, 6200, gave_way);
            assert_eq!(asks_for_votes(&stood, 2, "b"), heir == "b");
            if heir == "c" {
                let waits = step(&mut elector, 6200 + T.candidacy - 1, Event::Wake);
                assert!(!asks_for_votes(&waits, 2, "b"));
                let voted = step(&mut elector, 6200 + T.candidacy - 1, ask("c", 2));
                assert!(asks_for_votes(&voted, 2, "c"));
            }
        }
    }

    #[test]
    fn who_is_free_for_the_heir_is_free_for_nobody_else() {
        for names in [Some("c"), None] {
            let mut elector = member();
            let leads = speaks("a", (1, WireRole::Primary), Some("a"), false);
            step(&mut elector, 6000, leads);
            step(&mut elector, 6001, Event::BallotDurable);
            let mut stood = Vec::new();
            for now in (7000..7000 + 3 * T.candidacy).step_by(200) {
                let free = speaks("a", (1, WireRole::Replica), names, true);
                stood.extend(step(&mut elector, now, free));
            }
            assert_eq!(asks_for_votes(&stood, 2, "b"), names.is_none());
        }
    }

    #[test]
    fn who_was_stopped_shuts_the_gate_before_anything_else() {
        for event in [
            Event::Wake,
            beat("a", 2, WireRole::Replica, 0),
            Event::Position(vec![1]),
        ] {
            let mut elector = leader();
            let woken = step(&mut elector, 60_000, event);
            assert_eq!(woken[0], Effect::Writes { until: 0 });
        }
        let mut elector = leader();
        assert_eq!(
            decisions(&mut elector, 5099 + T.lease(), Event::Position(vec![7, 3])).len(),
            2
        );
        assert_eq!(elector.view().writes_until, 5100 + T.lease());
    }

    #[test]
    fn a_primary_with_a_lease_answers_no_offer() {
        let mut elector = leader();
        let offer = || {
            says(Message::Offer {
                epoch: Epoch(9),
                from: id("a"),
                offset: 99,
            })
        };
        assert_eq!(decisions(&mut elector, 5150, offer()), []);
        assert_eq!(
            (elector.view().role, elector.view().epoch),
            (Role::Leader, Epoch(2))
        );
        // Without one it gives way first.
        let answered = decisions(&mut elector, 5100 + T.lease(), offer());
        let ballot = Ballot {
            epoch: Epoch(9),
            voted: Some(id("a")),
            history: Epoch(2),
        };
        let gave_way = [
            Effect::Writes { until: 0 },
            Effect::Resign,
            Effect::PersistBallot(ballot),
        ];
        assert!(answered.ends_with(&gave_way), "{answered:?}");
        let voted = decisions(&mut elector, 9990, Event::BallotDurable);
        let message = Message::Accept {
            epoch: Epoch(9),
            from: id("b"),
        };
        assert_eq!(
            voted,
            [Effect::Send {
                to: id("a"),
                message
            }]
        );
    }

    #[test]
    fn of_two_primaries_of_one_epoch_one_stays() {
        let mut elector = leader();
        let given = decisions(&mut elector, 5200, beat("a", 2, WireRole::Primary, 99));
        let following = Following {
            primary: id("a"),
            epoch: Epoch(2),
        };
        let wanted = [
            Effect::Writes { until: 0 },
            Effect::Resign,
            Effect::Follow(Some(following)),
        ];
        assert_eq!(given, wanted);
        // Who has more stands for the next epoch at once.
        let mut elector = leader();
        step(&mut elector, 5200, beat("c", 2, WireRole::Replica, 0));
        let kept = decisions(&mut elector, 5200, beat("a", 2, WireRole::Primary, 9));
        let ballot = Ballot {
            epoch: Epoch(3),
            voted: Some(id("b")),
            history: Epoch(2),
        };
        assert_eq!(
            kept,
            [
                Effect::Writes { until: 0 },
                Effect::Resign,
                Effect::PersistBallot(ballot)
            ]
        );
        assert_eq!(elector.view().tally.dual_primaries, 1);
    }

    #[test]
    fn only_members_are_heard_and_only_from_where_they_are() {
        let mut elector = member();
        let lies = [
            ("x", None),
            ("b", None),
            ("a", Some("10.0.0.9")),
            ("a", Some("::ffff:10.0.0.3")),
        ];
        for (from, source) in lies {
            let Event::Received { message, .. } = beat(from, 999, WireRole::Primary, 0) else {
                continue;
            };
            let source = source.map(|text| text.parse().expect("an address"));
            assert_eq!(
                decisions(&mut elector, 10, Event::Received { message, source }),
                []
            );
        }
        assert_eq!(
            (elector.view().epoch, elector.view().tally.refused),
            (Epoch(1), 4)
        );
        let Event::Received { message, .. } = beat("a", 2, WireRole::Primary, 0) else {
            return;
        };
        let source = "::ffff:10.0.0.1".parse().ok();
        assert_eq!(
            decisions(&mut elector, 10, Event::Received { message, source }).len(),
            2
        );
        assert_eq!(elector.view().primary, Some(id("a")));
    }

    /// `b`, which has stood for epoch 5 in vain, with data of epoch 2.
    fn left_ahead(history: u64) -> Elector {
        let ballot = Ballot {
            epoch: Epoch(5),
            voted: Some(id("b")),
            history: Epoch(history),
        };
        let settings = settings("a@10.0.0.1:1,b@10.0.0.2:1,c@10.0.0.3:1");
        Elector::new(0, settings, ballot, vec![7, 3]).expect("good settings")
    }

    fn follows(primary: &str, epoch: u64) -> [Effect; 1] {
        [Effect::Follow(Some(Following {
            primary: id(primary),
            epoch: Epoch(epoch),
        }))]
    }

    #[test]
    fn a_kevy_that_leads_an_epoch_left_behind_is_followed() {
        let mut elector = left_ahead(2);
        step(&mut elector, 10, beat("c", 4, WireRole::Replica, 0));
        let beats = || beat("a", 4, WireRole::Primary, 0);
        assert_eq!(decisions(&mut elector, 20, beats()), follows("a", 4));
        assert_eq!(elector.view().epoch, Epoch(5));
        // As long as it is heard no other one gets the vote.
        step(&mut elector, 4000, beats());
        let offer = says(Message::Offer {
            epoch: Epoch(9),
            from: id("c"),
            offset: 99,
        });
        assert_eq!(decisions(&mut elector, 8000, offer), []);
        // Its data is that of its epoch, and is acknowledged once the disk says so.
        let ballot = Ballot {
            history: Epoch(4),
            ..elector.durable()
        };
        let joined = decisions(&mut elector, 8100, Event::Joined(Epoch(4)));
        assert_eq!(joined, [Effect::PersistBallot(ballot)]);
        let durable = decisions(&mut elector, 8200, Event::BallotDurable);
        assert_eq!(durable, [Effect::Acknowledge { epoch: Epoch(4) }]);
        // Until it is started anew, or somebody leads an epoch above.
        let mut other = elector.clone();
        step(&mut other, 8300, beat("a", 4, WireRole::Replica, 0));
        assert_eq!(other.view().primary, None);
        let later = decisions(&mut elector, 8300, beat("c", 5, WireRole::Primary, 0));
        assert_eq!(later, follows("c", 5));
    }

    #[test]
    fn a_kevy_that_may_have_been_deposed_is_not_followed() {
        let beats = || beat("a", 4, WireRole::Primary, 0);
        // Nobody else is known to be in its epoch, or another one is in a later one.
        let mut elector = left_ahead(2);
        assert_eq!(decisions(&mut elector, 10, beats()), []);
        step(&mut elector, 20, beat("c", 5, WireRole::Replica, 0));
        assert_eq!(decisions(&mut elector, 30, beats()), []);
        // There was a later primary.
        let mut elector = left_ahead(5);
        step(&mut elector, 10, beat("c", 4, WireRole::Replica, 0));
        assert_eq!(decisions(&mut elector, 20, beats()), []);
        let mut elector = left_ahead(2);
        step(&mut elector, 10, beat("c", 5, WireRole::Primary, 0));
        step(&mut elector, 20, beat("c", 5, WireRole::Replica, 0));
        assert_eq!(elector.view().primary, None);
        assert_eq!(decisions(&mut elector, 30, beats()), []);
        // A ringkeep will give way.
        let mut elector = left_ahead(2);
        step(&mut elector, 10, beat("c", 4, WireRole::Replica, 0));
        let message = Message::Heartbeat {
            epoch: Epoch(4),
            from: id("a"),
            role: WireRole::Primary,
            offset: 0,
            is_ringkeep: true,
        };
        assert_eq!(decisions(&mut elector, 20, says(message)), []);
        assert_eq!(decisions(&mut elector, 30, beats()), follows("a", 4));
    }

    #[test]
    fn who_missed_an_election_listens_before_it_stands() {
        let mut elector = leader();
        // Both gates and lease are long gone when it goes on, and whom it hears first is in a later epoch.
        step(&mut elector, 60_000, Event::Wake);
        assert_eq!(elector.view().role, Role::Replica);
        let stood = decisions(&mut elector, 60_100, beat("c", 4, WireRole::Replica, 0));
        assert_eq!(stood, []);
        let until = 60_100 + T.candidacy;
        for at in (60_200..until).step_by(200) {
            step(&mut elector, at, beat("c", 4, WireRole::Replica, 0));
        }
        assert_eq!(elector.view().epoch, Epoch(2));
        // Nobody led it.
        step(&mut elector, until, Event::Wake);
        assert_eq!(elector.view().epoch, Epoch(5));
        // Or somebody does.
        let mut elector = leader();
        step(&mut elector, 60_000, Event::Wake);
        step(&mut elector, 60_100, beat("c", 4, WireRole::Replica, 0));
        let told = decisions(&mut elector, 60_200, beat("a", 4, WireRole::Primary, 0));
        assert_eq!(told[..1], follows("a", 4));
    }

    #[test]
    fn a_disk_that_fails_takes_the_vote_away() {
        let mut elector = member();
        step(&mut elector, 5000, beat("a", 1, WireRole::Replica, 99));
        let offer = |epoch| {
            says(Message::Offer {
                epoch: Epoch(epoch),
                from: id("a"),
                offset: 99,
            })
        };
        assert_eq!(decisions(&mut elector, 5100, offer(2)).len(), 1);
        assert_eq!(decisions(&mut elector, 5200, Event::BallotFailed), []);
        assert!(elector.view().is_muted);
        assert_eq!(decisions(&mut elector, 5300, offer(3)), []);
        // The disk may have it all the same, so it is the same ballot that is tried again.
        let ballot = Ballot {
            epoch: Epoch(2),
            voted: Some(id("a")),
            history: Epoch(0),
        };
        assert_eq!(
            decisions(&mut elector, 6200, Event::Wake),
            [Effect::PersistBallot(ballot)]
        );
        assert_eq!(decisions(&mut elector, 6300, Event::BallotDurable), []);
        assert!(!elector.view().is_muted);
        assert_eq!(decisions(&mut elector, 6400, offer(3)).len(), 1);
    }

    #[test]
    fn an_idle_member_is_silent() {
        let mut elector = leader();
        let closed = decisions(&mut elector, 5200, Event::DiskPressure);
        assert_eq!(closed, [Effect::Writes { until: 0 }, Effect::Resign]);
        assert_eq!(
            step(&mut elector, 9000, beat("a", 5, WireRole::Primary, 0)),
            []
        );
        assert_eq!(
            (elector.wakes_at(), elector.view().role),
            (Ms::MAX, Role::Idle)
        );
        assert!(!step(&mut elector, 9100, Event::Select).is_empty());
        assert_eq!(elector.view().role, Role::Replica);
    }

    fn pulse(from: &str, epoch: u64, follows: Option<&str>, echo: Option<Stamp>) -> Event {
        let role = WireRole::Replica;
        let stamp = Stamp { nonce: 7, sent: 1 };
        let (epoch, standing) = (Epoch(epoch), Standing::default());
        says(Message::Pulse(Box::new(Pulse {
            epoch,
            from: id(from),
            role,
            standing,
            follows: follows.map(id),
            is_free: follows.is_none(),
            stamp,
            echo,
        })))
    }

    /// What heartbeats of this one are stamped with.
    fn stamp_of(elector: &Elector, sent: Ms) -> Option<Stamp> {
        let nonce = elector.nonce;
        Some(Stamp { nonce, sent })
    }

    #[test]
    fn only_answers_to_this_run_settle_a_start() {
        let mut elector = member();
        let ours = stamp_of(&elector, 5);
        let theirs = ours.map(|stamp| Stamp { nonce: 0, ..stamp });
        let later = stamp_of(&elector, 11);
        step(&mut elector, 10, pulse("c", 1, None, ours));
        for echo in [None, theirs, later] {
            step(&mut elector, 10, pulse("a", 1, None, echo));
            assert!(!elector.is_awake, "{echo:?}");
        }
        step(&mut elector, 10, pulse("a", 1, None, ours));
        assert!(elector.is_awake);
    }

    #[test]
    fn only_answers_of_followers_open_the_gate() {
        let mut elector = leader();
        let shut = 5100 + T.lease();
        step(&mut elector, shut, Event::Wake);
        let role = elector.view().role;
        assert_eq!((role, elector.view().writes_until), (Role::Leader, 0));
        let ours = stamp_of(&elector, 9000);
        let theirs = ours.map(|stamp| Stamp { nonce: 0, ..stamp });
        // Drawn at the start, before it led.
        let nonce = member().nonce;
        let before = ours.map(|stamp| Stamp { nonce, ..stamp });
        for (epoch, follows, echo) in [
            (2, Some("b"), None),
            (2, Some("b"), theirs),
            (2, Some("b"), before),
            (2, Some("a"), ours),
            (2, None, ours),
            (1, Some("b"), ours),
        ] {
            step(&mut elector, shut, pulse("c", epoch, follows, echo));
            assert_eq!(
                elector.view().writes_until,
                0,
                "{epoch} {follows:?} {echo:?}"
            );
        }
        // From when the heartbeat left, whenever the answer comes.
        step(&mut elector, shut + 500, pulse("c", 2, Some("b"), ours));
        assert_eq!(elector.view().writes_until, 9000 + T.lease());
    }

    #[test]
    fn what_was_overtaken_counts_no_more() {
        let mut elector = leader();
        let Event::Received { message, .. } = pulse("c", 2, Some("b"), None) else {
            return;
        };
        step(&mut elector, 5200, says(message.clone()));
        let Message::Pulse(mut older) = message else {
            return;
        };
        older.epoch = Epoch(9);
        older.stamp.sent = 0;
        step(&mut elector, 5200, says(Message::Pulse(older.clone())));
        assert_eq!(elector.view().role, Role::Leader);
        older.stamp.sent = 2;
        step(&mut elector, 5200, says(Message::Pulse(older)));
        assert_ne!(elector.view().role, Role::Leader);
    }

    #[test]
    fn a_vote_counts_in_its_epoch() {
        let mut elector = member();
        for from in ["a", "c"] {
            step(&mut elector, 4900, beat(from, 1, WireRole::Replica, 0));
        }
        step(&mut elector, 5000, Event::Wake);
        step(&mut elector, 5010, Event::BallotDurable);
        let vote = |epoch| {
            let (epoch, from) = (Epoch(epoch), id("a"));
            says(Message::Accept { epoch, from })
        };
        assert_eq!(decisions(&mut elector, 5020, vote(1)), []);
        assert_eq!(decisions(&mut elector, 5020, vote(3)), []);
        assert_eq!(decisions(&mut elector, 5020, vote(2)).len(), 1);
    }

    #[test]
    fn half_of_the_members_is_no_majority() {
        let settings = settings("a@h:1,b@h:1,c@h:1,d@h:1");
        let mut elector =
            Elector::new(0, settings, Ballot::default(), vec![7, 3]).expect("good settings");
        step(&mut elector, 4900, beat("a", 1, WireRole::Replica, 0));
        assert_eq!(decisions(&mut elector, 9000, Event::Wake), []);
        step(&mut elector, 9000, beat("a", 1, WireRole::Replica, 0));
        let stood = decisions(&mut elector, 9000, beat("c", 1, WireRole::Replica, 0));
        assert_eq!(stood.len(), 1, "{stood:?}");
    }

    #[test]
    fn a_sum_is_no_standing() {
        let offer = says(Message::Offer {
            epoch: Epoch(2),
            from: id("a"),
            offset: 99,
        });
        // Who was not heard may be a ringkeep, and will ask again.
        let mut elector = member();
        assert_eq!(decisions(&mut elector, 5000, offer.clone()), []);
        step(&mut elector, 5000, pulse("a", 1, None, None));
        assert_eq!(decisions(&mut elector, 5000, offer.clone()), []);
        let mut elector = member();
        step(&mut elector, 5000, beat("a", 1, WireRole::Replica, 99));
        assert_eq!(decisions(&mut elector, 5000, offer).len(), 1);
    }

    #[test]
    fn kevys_are_told_nothing_of_old_data() {
        let mut elector = member();
        let told = |out: Vec<Effect>| {
            let number = |effect: &Effect| match effect {
                Effect::Send {
                    message: Message::Heartbeat { offset, .. },
                    ..
                } => Some(*offset),
                _ => None,
            };
            out.iter().filter_map(number).collect::<Vec<_>>()
        };
        assert_eq!(told(step(&mut elector, 10, Event::Wake)), [10, 10]);
        let newer = beat("a", 5, WireRole::Primary, 0);
        assert_eq!(told(step(&mut elector, 20, newer)), [0, 0]);
        step(&mut elector, 30, Event::Joined(Epoch(5)));
        assert_eq!(told(step(&mut elector, 9000, Event::Wake)), [10, 10]);
    }

    #[test]
    fn the_next_epoch_is_above_all_that_were_heard_of() {
        let mut elector = member();
        step(&mut elector, 4900, beat("a", 1, WireRole::Replica, 0));
        step(&mut elector, 4900, beat("c", 41, WireRole::Candidate, 0));
        let ballot = Ballot {
            epoch: Epoch(42),
            voted: Some(id("b")),
            history: Epoch(0),
        };
        assert_eq!(
            decisions(&mut elector, 5000, Event::Wake),
            [Effect::PersistBallot(ballot)]
        );
    }

    #[test]
    fn a_primary_goes_on_in_another_process_and_writes_once_it_is_answered() {
        let settings = || settings("a@10.0.0.1:1,b@10.0.0.2:1,c@10.0.0.3:1");
        let ballot = Ballot {
            epoch: Epoch(2),
            voted: Some(id("b")),
            history: Epoch(2),
        };
        let goes_on = |ballot: Ballot, now| {
            let mut out = Vec::new();
            let elector = Elector::continued(now, settings(), ballot, vec![7, 3], &mut out);
            (elector.expect("good settings"), out)
        };
        let (mut elector, out) = goes_on(ballot, 9000);
        assert_eq!(out, [Effect::LeadOn { epoch: Epoch(2) }]);
        step(&mut elector, 8999, Event::Wake);
        // Whoever is known to understand a stamp is shown one at once.
        let said = step(&mut elector, 9000, pulse("a", 2, Some("b"), None));
        let stamp = said.iter().find_map(|effect| match effect {
            Effect::Send {
                message: Message::Pulse(pulse),
                ..
            } if pulse.role == WireRole::Primary => Some(pulse.stamp),
            _ => None,
        });
        assert_eq!(stamp.map(|stamp| stamp.sent), Some(9000));
        // What the process before was told is no promise to this one.
        let foreign = stamp.map(|stamp| Stamp {
            nonce: !stamp.nonce,
            ..stamp
        });
        let answer = pulse("a", 2, Some("b"), foreign);
        assert_eq!(decisions(&mut elector, 9002, answer), []);
        assert_eq!(elector.view().writes_until, 0);
        step(&mut elector, 9003, pulse("a", 2, Some("b"), stamp));
        let until = stamp.map_or(0, |stamp| stamp.sent) + T.lease();
        assert_eq!(elector.view().writes_until, until);
        assert_eq!(elector.view().role, Role::Leader);

        // Where nobody answers, it gives way; somebody of a higher epoch is followed.
        let (mut elector, _) = goes_on(ballot, 0);
        step(&mut elector, T.down_after + T.candidacy - 1, Event::Wake);
        assert_eq!(elector.view().role, Role::Leader);
        step(&mut elector, T.down_after + T.candidacy, Event::Wake);
        assert_eq!(elector.view().role, Role::Replica);
        let (mut elector, _) = goes_on(ballot, 0);
        step(&mut elector, 1, beat("c", 3, WireRole::Primary, 0));
        assert_eq!(elector.view().role, Role::Replica);
        assert_eq!(elector.view().primary, Some(id("c")));

        // A ballot of nobody who led is none to lead with.
        for ballot in [
            Ballot {
                voted: Some(id("a")),
                ..ballot
            },
            Ballot {
                history: Epoch(1),
                ..ballot
            },
        ] {
            let (elector, out) = goes_on(ballot, 0);
            assert_eq!((elector.view().role, out), (Role::Replica, Vec::new()));
        }
    }

    #[test]
    fn one_member_is_its_own_majority() {
        let mut elector =
            Elector::new(0, settings("b@h:1"), Ballot::default(), vec![0]).expect("good settings");
        step(&mut elector, 0, Event::Wake);
        step(&mut elector, 1, Event::BallotDurable);
        let led = decisions(&mut elector, 2, Event::BallotDurable);
        assert_eq!(
            led,
            [
                Effect::Lead { epoch: Epoch(2) },
                Effect::Writes { until: Ms::MAX }
            ]
        );
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let fault = |settings| Elector::new(0, settings, Ballot::default(), vec![]).err();
        assert_eq!(
            fault(settings("a@h:1")),
            Some(SettingsFault::NotListed(id("b")))
        );
        assert_eq!(
            fault(settings("b@h:1,a@h:1,b@h:2")),
            Some(SettingsFault::Twice(id("b")))
        );
        let timings = Timings {
            heartbeat: 2000,
            ..T
        };
        assert_eq!(
            fault(Settings {
                timings,
                ..settings("b@h:1")
            }),
            Some(SettingsFault::Timings)
        );
    }
}
