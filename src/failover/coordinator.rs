//! The old primary's part in a failover. See [`failover`](super).

use super::{
    Answer, Id, Place, Request, Say, Stands,
    record::{Change, Kind, Ledger},
    request::{FORCE_NEEDS, NO_REPLICA},
};
use crate::{
    base::{Ms, Position},
    resp::Error,
};

/// Every core must have ended what it had begun within this.
const FREEZE_MS: Ms = 1000;
/// A target that does not answer within this is not ready.
const ASK_MS: Ms = 1000;
/// Between two questions.
const ASK_AGAIN_MS: Ms = 250;
/// Replicas are asked how far they are.
const ACKS_MS: Ms = 20;
/// Between two grants, and for how long they are said before the target is asked to do without.
const GRANT_AGAIN_MS: Ms = 100;
/// See there.
const GRANT_MS: Ms = 1000;

/// What holds where nothing else is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a target may take to have everything.
    pub timeout: Ms,
}

impl Default for Settings {
    fn default() -> Self {
        Self { timeout: 10_000 }
    }
}

/// A replica that has a link for each stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Where it takes clients.
    pub place: Place,
    /// What it is.
    pub kind: Kind,
    /// All links of it stream.
    pub is_online: bool,
    /// The next frame of each stream that it does not have.
    pub applied: Vec<u64>,
    /// The same of its disk, if it tells.
    pub durable: Option<Vec<u64>>,
}

/// Who says who the primary is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// The records of the two nodes.
    Records,
    /// Elections: this node leads this epoch.
    Elected(u64),
}

/// Who leads, where primaries are elected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leader {
    /// This node.
    Us,
    /// The one that the part is handed over to.
    Target,
    /// Somebody else.
    Another,
    /// Nobody, as far as is known.
    Nobody,
}

/// What happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Time passed.
    Wake,
    /// All cores are frozen, and the streams stand here.
    Frozen(Vec<Position>),
    /// How far the replicas are.
    Replicas(Vec<Candidate>),
    /// The target answered.
    Heard(Id, Answer),
    /// Where primaries are elected: who leads, and the epoch.
    Led(Leader, u64),
    /// [`Effect::HandOver`] was not possible, and this node still leads.
    Kept(String),
}

/// What the shell has to do, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Hold back writes on every core, end those that were begun, and report [`Event::Frozen`].
    Freeze,
    /// Let them go on, or be answered as this node's role says.
    Thaw,
    /// Have all replicas say how far they are.
    AskAcks,
    /// Say this to the target.
    Say {
        /// Where it takes clients.
        to: Place,
        /// A kevy hears `REPLICAOF NO ONE` instead of a grant, and nothing else.
        kind: Kind,
        /// What.
        say: Say,
    },
    /// Primaries are elected: have this one be elected next, which has everything.
    HandOver(Place),
    /// Be a replica of nobody: no write is taken from here on, frozen or not.
    Demote,
    /// Follow the new primary.
    Follow(Place),
    /// Be the primary again: nobody else is.
    Lead,
    /// It is over.
    Ended(Box<Outcome>),
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// The target has everything, and is the primary.
    Clean,
    /// It is the primary and lacks something.
    Forced,
    /// Nothing changed.
    Aborted,
    /// The target will not be the primary: this node is again.
    Reclaimed,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Verdict; 4] = [
        Verdict::Clean,
        Verdict::Forced,
        Verdict::Aborted,
        Verdict::Reclaimed,
    ];

    /// As it is told.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Clean => "clean",
            Verdict::Forced => "forced",
            Verdict::Aborted => "aborted",
            Verdict::Reclaimed => "reclaimed",
        }
    }
}

/// What became of a failover.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Its name.
    pub id: Id,
    /// How it ended, and why if that is not clean.
    pub verdict: Verdict,
    /// See there.
    pub reason: String,
    /// The target, if one was chosen.
    pub to: Option<Place>,
    /// The epochs before and after.
    pub old_epoch: u64,
    /// See there.
    pub new_epoch: u64,
    /// Where the streams stood when nothing was written any more.
    pub frontier: Vec<Position>,
    /// How far the target was in each when it was decided.
    pub reached: Vec<u64>,
    /// Frames that the target lacks.
    pub skipped: u64,
    /// The target's disk had to have everything.
    pub durable: bool,
    /// From the freeze until the target had everything.
    pub waited_ms: Ms,
    /// From the first write that was held back until none was any more.
    pub frozen_ms: Ms,
}

/// Where it stands, as INFO and STATUS tell it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Phase {
    /// Nothing is under way.
    #[default]
    Idle,
    /// Cores end what they have begun.
    Freezing,
    /// The target catches up.
    Waiting,
    /// It is asked.
    Asking,
    /// The decision goes to the disk.
    Deciding,
    /// It has the role, and has not said so yet.
    Granting,
    /// It has been silent for long.
    Unknown,
    /// This node notes that it is the primary again.
    Reclaiming,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 8] = [
        Phase::Idle,
        Phase::Freezing,
        Phase::Waiting,
        Phase::Asking,
        Phase::Deciding,
        Phase::Granting,
        Phase::Unknown,
        Phase::Reclaiming,
    ];

    /// As it is told.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Freezing => "freezing",
            Phase::Waiting => "waiting",
            Phase::Asking => "asking",
            Phase::Deciding => "deciding",
            Phase::Granting => "granting",
            Phase::Unknown => "unknown",
            Phase::Reclaiming => "reclaiming",
        }
    }

    /// As redis-server tells it.
    pub fn redis_name(self) -> &'static str {
        match self {
            Phase::Idle => "no-failover",
            Phase::Freezing | Phase::Waiting => "waiting-for-sync",
            _ => "failover-in-progress",
        }
    }
}

/// See the module page.
#[derive(Clone, Debug)]
pub struct Coordinator {
    settings: Settings,
    phase: Phase,
    run: Run,
    /// What is on its way to the disk.
    change: Option<Change>,
    now: Ms,
    /// When the phase began, and when something is to be said again.
    since: Ms,
    again_at: Ms,
    is_frozen: bool,
}

/// What is known of the failover under way, or of the last one.
#[derive(Clone, Debug)]
struct Run {
    id: Id,
    request: Request,
    started: Ms,
    frozen: Ms,
    caught_up: Option<Ms>,
    frontier: Vec<Position>,
    chosen: Option<(Place, Kind)>,
    reached: Vec<u64>,
    /// The target's disk must have everything, and has it.
    durable: bool,
    is_durable: bool,
    /// The target said that it is ready.
    is_ready: bool,
    forced: bool,
    old_epoch: u64,
    epoch: u64,
    rule: Rule,
    /// What the record said before the decision.
    before: Stands,
}

impl Coordinator {
    /// At the start of the node. A failover whose end is not known is gone on with: the node must be a
    /// replica then, which follows nobody yet.
    pub fn new(now: Ms, settings: Settings, ledger: &Ledger) -> Self {
        let record = ledger.record();
        let open = match (&record.open, &record.stands) {
            (Some((id, kind)), Stands::Replica(place)) => Some((*id, place.clone(), *kind)),
            _ => None,
        };
        let mut run = Run::new(Id(0), Request::default(), now);
        let mut phase = Phase::Idle;
        if let Some((id, place, kind)) = open {
            run.id = id;
            run.chosen = Some((place, kind));
            run.epoch = record.epoch;
            run.old_epoch = record.epoch.saturating_sub(1);
            phase = Phase::Unknown;
        }
        Self {
            settings,
            phase,
            run,
            change: None,
            now,
            since: now,
            again_at: now,
            is_frozen: false,
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The failover under way: its name, target, when it began, its time-out, where it froze and how far the
    /// target is.
    pub fn view(&self) -> Option<View> {
        let run = &self.run;
        (self.phase != Phase::Idle).then(|| View {
            id: run.id,
            target: run
                .chosen
                .clone()
                .map(|(place, _)| place)
                .or(run.request.to.clone()),
            started: run.started,
            timeout: self.timeout(),
            frontier: run.frontier.clone(),
            reached: run.reached.clone(),
            forced: run.forced,
        })
    }

    fn timeout(&self) -> Ms {
        self.run.request.timeout.unwrap_or(self.settings.timeout)
    }

    /// Begins one. The caller has seen to it that this node is a primary, and, where primaries are elected,
    /// that each candidate can be.
    ///
    /// # Errors
    /// The reply to the operator: nothing has happened.
    pub fn begin(
        &mut self,
        now: Ms,
        (id, request): (Id, Request),
        candidates: &[Candidate],
        rule: Rule,
        (ledger, out): (&Ledger, &mut Vec<Effect>),
    ) -> Result<(), Error> {
        self.now = self.now.max(now);
        if self.phase != Phase::Idle {
            return Err(Error::fixed("ERR FAILOVER already in progress."));
        }
        if candidates.is_empty() {
            return Err(Error::fixed("ERR FAILOVER requires connected replicas."));
        }
        if request.force && (request.to.is_none() || request.timeout.is_none()) {
            return Err(FORCE_NEEDS);
        }
        if let Some(to) = &request.to {
            let Some(found) = candidates.iter().find(|other| other.place == *to) else {
                return Err(NO_REPLICA);
            };
            if !found.is_online {
                return Err(Error::fixed("ERR FAILOVER target replica is not online."));
            }
            if request.durable == Some(true) && found.durable.is_none() {
                return Err(Error::fixed(
                    "ERR FAILOVER target does not tell what it has on its disk",
                ));
            }
        }
        let old_epoch = match rule {
            Rule::Records => ledger.record().epoch,
            Rule::Elected(epoch) => epoch,
        };
        self.run = Run {
            old_epoch,
            epoch: old_epoch + 1,
            rule,
            ..Run::new(id, request, self.now)
        };
        self.enter(Phase::Freezing);
        self.is_frozen = true;
        out.push(Effect::Freeze);
        Ok(())
    }

    /// Undoes it. `force`: also behind the decision.
    ///
    /// # Errors
    /// The reply to the operator: nothing has happened.
    pub fn abort(
        &mut self,
        now: Ms,
        force: bool,
        (ledger, out): (&mut Ledger, &mut Vec<Effect>),
    ) -> Result<(), Error> {
        self.now = self.now.max(now);
        match self.phase {
            Phase::Idle => Err(Error::fixed("ERR No failover in progress.")),
            Phase::Freezing | Phase::Waiting | Phase::Asking => {
                self.give_up("operator", out);
                Ok(())
            }
            Phase::Granting | Phase::Unknown if force && !self.run.is_elected() => {
                self.reclaim(ledger);
                Ok(())
            }
            Phase::Deciding | Phase::Granting | Phase::Unknown | Phase::Reclaiming => Err(
                Error::fixed("ERR FAILOVER past the point of no return, waiting for the target"),
            ),
        }
    }

    /// Takes an event in, and looks at what the disk did.
    pub fn step(&mut self, now: Ms, event: Event, ledger: &mut Ledger, out: &mut Vec<Effect>) {
        if self.now == 0 {
            // What is gone on with begins when the node does.
            (self.since, self.run.started) = (now, now);
        }
        self.now = self.now.max(now);
        match event {
            Event::Wake => {}
            Event::Frozen(frontier) if self.phase == Phase::Freezing => {
                self.run.frontier = frontier;
                self.run.frozen = self.now;
                self.enter(Phase::Waiting);
            }
            Event::Frozen(_) => {}
            Event::Replicas(candidates) => match self.phase {
                Phase::Waiting => self.look_at(&candidates, ledger),
                Phase::Asking => self.look_at_disk_of(&candidates, ledger),
                _ => {}
            },
            Event::Heard(id, answer) if id == self.run.id => self.hear(answer, ledger, out),
            Event::Heard(..) => {}
            Event::Led(leader, epoch) => self.look_at_leader(leader, epoch, out),
            Event::Kept(reason) if self.phase == Phase::Granting => {
                self.give_up(&format!("refused: {reason}"), out);
            }
            Event::Kept(_) => {}
        }
        self.look_at_disk(ledger, out);
        self.look_at_clock(ledger, out);
        if self.phase == Phase::Deciding && self.run.is_elected() {
            // From here on it is decided by votes.
            let place = self.run.chosen.clone().map(|(place, _)| place);
            out.extend(place.map(Effect::HandOver));
            self.enter(Phase::Granting);
        }
    }

    /// When to step at the latest.
    pub fn wakes_at(&self) -> Ms {
        match self.phase {
            Phase::Idle | Phase::Freezing | Phase::Deciding | Phase::Reclaiming => self.limit(),
            Phase::Granting | Phase::Unknown if self.run.is_elected() => self.limit(),
            Phase::Waiting | Phase::Asking | Phase::Granting | Phase::Unknown => {
                self.limit().min(self.again_at)
            }
        }
    }

    /// When the phase ends if nothing happens.
    fn limit(&self) -> Ms {
        match self.phase {
            Phase::Idle | Phase::Deciding | Phase::Unknown | Phase::Reclaiming => Ms::MAX,
            Phase::Freezing => self.since + FREEZE_MS,
            // Who is to be forced may be gone just now.
            Phase::Waiting if self.run.request.force => self.patience().saturating_add(ASK_MS),
            Phase::Waiting => self.patience(),
            Phase::Asking if self.run.is_ready => self.patience(),
            Phase::Asking => self.since + ASK_MS,
            Phase::Granting => self.since + GRANT_MS,
        }
    }

    /// Until when the target may take to have everything.
    fn patience(&self) -> Ms {
        self.run.started.saturating_add(self.timeout())
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        (self.since, self.again_at) = (self.now, self.now);
    }

    /// How far replicas are, while somebody is waited for. Of a ringkeep the disk may be behind still: it
    /// hurries once it is asked.
    fn look_at(&mut self, candidates: &[Candidate], ledger: &mut Ledger) {
        let run = &self.run;
        let is_meant = |candidate: &&Candidate| match &run.request.to {
            Some(to) => candidate.place == *to,
            None => run.request.durable != Some(true) || candidate.durable.is_some(),
        };
        let meant = candidates.iter().filter(|other| other.is_online);
        let mut meant = meant.filter(is_meant);
        let complete = meant.clone().find(|other| run.is_there(&other.applied));
        let is_late = self.now >= self.patience();
        let first = meant.next();
        let chosen = match complete {
            // Nobody votes for who lacks something.
            None if is_late && run.request.force && !run.is_elected() => first,
            found => found,
        };
        let Some(candidate) = chosen else {
            // For who asks meanwhile.
            if let Some(first) = first {
                self.run.reached = first.applied.clone();
            }
            return;
        };
        let (place, kind) = (candidate.place.clone(), candidate.kind);
        let is_whole = complete.is_some();
        let run = &mut self.run;
        run.reached = candidate.applied.clone();
        run.durable = run.request.durable.unwrap_or(candidate.durable.is_some());
        run.forced = !is_whole;
        run.caught_up = Some(self.now);
        run.chosen = Some((place.clone(), kind));
        if kind == Kind::Kevy {
            self.decide(ledger);
        } else {
            self.enter(Phase::Asking);
            self.look_at_disk_of(candidates, ledger);
        }
    }

    /// How far the disk of the target is.
    fn look_at_disk_of(&mut self, candidates: &[Candidate], ledger: &mut Ledger) {
        let run = &mut self.run;
        let chosen = run.chosen.as_ref().map(|(place, _)| place);
        let found = candidates.iter().find(|other| Some(&other.place) == chosen);
        let durable = found.and_then(|found| found.durable.as_ref());
        run.is_durable = durable.is_some_and(|durable| run.is_there(durable));
        if run.is_durable {
            run.caught_up = Some(self.now);
        }
        self.decide_if_ready(ledger);
    }

    fn decide_if_ready(&mut self, ledger: &mut Ledger) {
        let run = &self.run;
        if run.is_ready && (run.is_durable || !run.durable || run.forced) {
            self.decide(ledger);
        }
    }

    fn hear(&mut self, answer: Answer, ledger: &mut Ledger, out: &mut Vec<Effect>) {
        match (self.phase, answer) {
            (Phase::Asking, Answer::Ready(at)) => {
                let mut pairs = at.iter().zip(&self.run.frontier);
                let is_there = at.len() == self.run.frontier.len()
                    && pairs.all(|(at, wanted)| {
                        at.generation == wanted.generation && at.offset >= wanted.offset
                    });
                if is_there || self.run.forced {
                    self.run.reached = at.iter().map(|at| at.offset).collect();
                    self.run.is_ready = true;
                    self.decide_if_ready(ledger);
                }
            }
            (Phase::Asking, Answer::Refused(reason)) => {
                self.give_up(&format!("refused: {reason}"), out);
            }
            (Phase::Granting | Phase::Unknown, Answer::Promoted(_)) => {
                let place = self.run.chosen.clone().map(|(place, _)| place);
                ledger.change(|record| record.open = None);
                out.extend(place.map(Effect::Follow));
                self.end(self.run.verdict(), String::new(), out);
            }
            (Phase::Granting | Phase::Unknown, Answer::Refused(_) | Answer::Revoked) => {
                self.reclaim(ledger);
            }
            _ => {}
        }
    }

    /// From here on this node is no primary, unless the target says that it is none.
    fn decide(&mut self, ledger: &mut Ledger) {
        let Some((place, kind)) = self.run.chosen.clone() else {
            return;
        };
        if self.run.is_elected() {
            return self.enter(Phase::Deciding);
        }
        let (id, epoch) = (self.run.id, self.run.epoch);
        self.run.before = ledger.record().stands.clone();
        self.change = Some(ledger.change(|record| {
            record.epoch = epoch;
            record.stands = Stands::Replica(place);
            record.open = Some((id, kind));
        }));
        self.enter(Phase::Deciding);
    }

    fn reclaim(&mut self, ledger: &mut Ledger) {
        let epoch = ledger.record().epoch + 1;
        self.run.epoch = epoch;
        self.change = Some(ledger.change(|record| {
            record.epoch = epoch;
            record.stands = Stands::Primary;
            record.open = None;
        }));
        self.enter(Phase::Reclaiming);
    }

    /// Elections go on while a part is handed over.
    fn look_at_leader(&mut self, leader: Leader, epoch: u64, out: &mut Vec<Effect>) {
        let Rule::Elected(led) = self.run.rule else {
            return;
        };
        match self.phase {
            Phase::Freezing | Phase::Waiting | Phase::Asking
                if (leader, epoch) != (Leader::Us, led) =>
            {
                self.give_up("election", out);
            }
            Phase::Granting | Phase::Unknown if epoch > led => {
                self.run.epoch = epoch;
                match leader {
                    Leader::Target => self.end(self.run.verdict(), String::new(), out),
                    Leader::Us => self.end(Verdict::Reclaimed, "target".into(), out),
                    Leader::Another => self.end(Verdict::Aborted, "election".into(), out),
                    Leader::Nobody => {}
                }
            }
            _ => {}
        }
    }

    fn look_at_disk(&mut self, ledger: &mut Ledger, out: &mut Vec<Effect>) {
        let Some(is_good) = self.change.and_then(|change| ledger.is_durable(change)) else {
            return;
        };
        self.change = None;
        match (self.phase, is_good) {
            (Phase::Deciding, true) => {
                out.push(Effect::Demote);
                self.enter(Phase::Granting);
            }
            (Phase::Deciding, false) => {
                // It may be on the disk. A node that is started anew from that asks the target, which was
                // granted nothing.
                let before = self.run.before.clone();
                ledger.change(|record| {
                    record.stands = before;
                    record.open = None;
                });
                self.give_up("disk", out);
            }
            (Phase::Reclaiming, true) => {
                out.push(Effect::Lead);
                self.end(Verdict::Reclaimed, "target".into(), out);
            }
            (Phase::Reclaiming, false) => self.reclaim(ledger),
            _ => {}
        }
    }

    fn look_at_clock(&mut self, ledger: &mut Ledger, out: &mut Vec<Effect>) {
        let is_late = self.now >= self.limit();
        match self.phase {
            Phase::Freezing if is_late => self.give_up("shard", out),
            Phase::Waiting if is_late => self.give_up("catch-up", out),
            Phase::Waiting if self.now >= self.again_at => {
                let (again_at, patience) = (self.now + ACKS_MS, self.patience());
                self.again_at = match self.now < patience {
                    true => again_at.min(patience),
                    false => again_at,
                };
                out.push(Effect::AskAcks);
            }
            Phase::Asking if is_late && !self.run.is_ready => self.give_up("target-lost", out),
            Phase::Asking if is_late && self.run.request.force => {
                // It has everything, if not on its disk.
                self.run.forced = true;
                self.decide(ledger);
            }
            Phase::Asking if is_late => self.give_up("catch-up", out),
            Phase::Asking if self.now >= self.again_at => {
                self.again_at = self.now + ASK_AGAIN_MS;
                let say = Say::Ask {
                    id: self.run.id,
                    epoch: self.run.epoch,
                    forced: self.run.forced,
                    frontier: self.run.frontier.clone(),
                };
                self.say(say, out);
            }
            Phase::Granting if is_late => {
                // Clients that were held back do not wait for a target of which nobody knows.
                self.thaw(out);
                self.enter(Phase::Unknown);
                self.look_at_clock(ledger, out);
            }
            Phase::Granting | Phase::Unknown if self.run.is_elected() => {}
            Phase::Granting if self.now >= self.again_at => {
                self.again_at = self.now + GRANT_AGAIN_MS;
                let (id, epoch) = (self.run.id, self.run.epoch);
                self.say(Say::Grant { id, epoch }, out);
            }
            Phase::Unknown if self.now >= self.again_at => {
                self.again_at = self.now + ASK_AGAIN_MS;
                let (id, epoch) = (self.run.id, self.run.epoch);
                let is_kevy = matches!(self.run.chosen, Some((_, Kind::Kevy)));
                self.say(
                    match is_kevy {
                        // It may have heard it, and cannot be told otherwise.
                        true => Say::Grant { id, epoch },
                        false => Say::Revoke { id },
                    },
                    out,
                );
            }
            _ => {}
        }
    }

    fn say(&self, say: Say, out: &mut Vec<Effect>) {
        if let Some((to, kind)) = self.run.chosen.clone() {
            out.push(Effect::Say { to, kind, say });
        }
    }

    /// Undoes everything: nothing was decided, and a target that is ready will be granted nothing.
    fn give_up(&mut self, reason: &str, out: &mut Vec<Effect>) {
        self.run.epoch = self.run.old_epoch;
        self.end(Verdict::Aborted, reason.into(), out);
    }

    fn thaw(&mut self, out: &mut Vec<Effect>) {
        if std::mem::take(&mut self.is_frozen) {
            out.push(Effect::Thaw);
        }
    }

    fn end(&mut self, verdict: Verdict, reason: String, out: &mut Vec<Effect>) {
        self.thaw(out);
        let run = &self.run;
        let outcome = Outcome {
            id: run.id,
            verdict,
            reason,
            to: run.chosen.clone().map(|(place, _)| place),
            old_epoch: run.old_epoch,
            new_epoch: run.epoch,
            frontier: run.frontier.clone(),
            reached: run.reached.clone(),
            skipped: match verdict {
                Verdict::Clean | Verdict::Forced => run.skipped(),
                // The target is not the primary: nothing is lost.
                Verdict::Aborted | Verdict::Reclaimed => 0,
            },
            durable: run.durable,
            waited_ms: run.caught_up.unwrap_or(self.now).saturating_sub(run.frozen),
            frozen_ms: self.now - run.started,
        };
        self.enter(Phase::Idle);
        self.change = None;
        out.push(Effect::Ended(Box::new(outcome)));
    }
}

/// A failover under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// Its name.
    pub id: Id,
    /// The target, asked for or chosen.
    pub target: Option<Place>,
    /// When it began, on the clock that steps are called with.
    pub started: Ms,
    /// How long the target may take.
    pub timeout: Ms,
    /// Where the streams stand.
    pub frontier: Vec<Position>,
    /// How far the target is.
    pub reached: Vec<u64>,
    /// It was not waited for.
    pub forced: bool,
}

impl Run {
    fn new(id: Id, request: Request, now: Ms) -> Self {
        Self {
            id,
            request,
            started: now,
            frozen: now,
            caught_up: None,
            frontier: Vec::new(),
            chosen: None,
            reached: Vec::new(),
            durable: false,
            is_durable: false,
            is_ready: false,
            forced: false,
            old_epoch: 0,
            epoch: 0,
            rule: Rule::Records,
            before: Stands::AsStarted,
        }
    }

    /// Is this the frontier, or behind it?
    fn is_there(&self, reached: &[u64]) -> bool {
        let mut pairs = reached.iter().zip(&self.frontier);
        reached.len() == self.frontier.len() && pairs.all(|(at, wanted)| *at >= wanted.offset)
    }

    fn is_elected(&self) -> bool {
        self.rule != Rule::Records
    }

    /// How it ends if the target is the primary.
    fn verdict(&self) -> Verdict {
        match self.skipped() > 0 || self.lacks_disk() {
            false => Verdict::Clean,
            true => Verdict::Forced,
        }
    }

    /// Was the target's disk to have everything, and was not waited for?
    fn lacks_disk(&self) -> bool {
        self.durable && !self.is_durable
    }

    fn skipped(&self) -> u64 {
        let pairs = self.frontier.iter().zip(&self.reached);
        pairs
            .map(|(wanted, at)| wanted.offset.saturating_sub(*at))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id = Id(7);

    fn place(host: &str) -> Place {
        let host = host.into();
        Place { host, port: 1 }
    }

    fn replica(applied: u64, durable: u64) -> Vec<Candidate> {
        vec![Candidate {
            place: place("b"),
            kind: Kind::Ringkeep,
            is_online: true,
            applied: vec![applied],
            durable: Some(vec![durable]),
        }]
    }

    fn frontier() -> Vec<Position> {
        vec![Position {
            generation: 1,
            offset: 10,
        }]
    }

    struct Desk {
        coordinator: Coordinator,
        ledger: Ledger,
        now: Ms,
    }

    impl Desk {
        /// A failover that waits for its target, which lacks nothing.
        fn waiting(rule: Rule, force: bool) -> Self {
            let mut ledger = Ledger::default();
            let mut coordinator = Coordinator::new(0, Settings::default(), &ledger);
            let request = Request {
                to: Some(place("b")),
                force,
                timeout: Some(500),
                durable: None,
            };
            let mut out = Vec::new();
            let begun = (&ledger, &mut out);
            let ask = (ID, request);
            coordinator
                .begin(1, ask, &replica(9, 9), rule, begun)
                .expect("it can be");
            coordinator.step(1, Event::Frozen(frontier()), &mut ledger, &mut out);
            Self {
                coordinator,
                ledger,
                now: 1,
            }
        }

        /// One that is decided as soon as it can be.
        fn ready(rule: Rule) -> (Self, Vec<Effect>) {
            let mut desk = Self::waiting(rule, false);
            desk.step(Event::Replicas(replica(10, 10)));
            let out = desk.step(Event::Heard(ID, Answer::Ready(frontier())));
            (desk, out)
        }

        fn step(&mut self, event: Event) -> Vec<Effect> {
            let mut out = Vec::new();
            self.now += 1;
            self.coordinator
                .step(self.now, event, &mut self.ledger, &mut out);
            out
        }

        fn write(&mut self) -> Vec<Effect> {
            assert!(self.ledger.next_write().is_some());
            self.ledger.on_written(true);
            self.step(Event::Wake)
        }
    }

    fn ended(out: &[Effect]) -> Option<(Verdict, &str, u64)> {
        out.iter().find_map(|effect| match effect {
            Effect::Ended(outcome) => {
                Some((outcome.verdict, outcome.reason.as_str(), outcome.new_epoch))
            }
            _ => None,
        })
    }

    #[test]
    fn who_is_the_primary_again_has_noted_that() {
        let (mut desk, _) = Desk::ready(Rule::Records);
        assert_eq!(desk.write()[0], Effect::Demote);
        let refused = desk.step(Event::Heard(ID, Answer::Refused("no".into())));
        assert_eq!(refused, []);
        assert_eq!(desk.write()[0], Effect::Lead);
    }

    #[test]
    fn who_is_to_be_forced_is_not_waited_for_without_a_rest() {
        let mut desk = Desk::waiting(Rule::Records, true);
        for now in 400..1500 {
            desk.now = now;
            desk.step(Event::Replicas(Vec::new()));
            assert!(desk.coordinator.wakes_at() > desk.now, "at {now}");
        }
        let out = desk.step(Event::Replicas(Vec::new()));
        assert_eq!(ended(&out), Some((Verdict::Aborted, "catch-up", 0)));
    }

    #[test]
    fn in_elections_the_part_is_handed_over_and_nothing_is_noted() {
        let (mut desk, out) = Desk::ready(Rule::Elected(4));
        assert_eq!(out, [Effect::HandOver(place("b"))]);
        assert!(desk.ledger.is_settled());
        assert_eq!(desk.step(Event::Led(Leader::Nobody, 4)), []);
        let out = desk.step(Event::Led(Leader::Target, 5));
        assert_eq!(out[0], Effect::Thaw);
        assert_eq!(ended(&out), Some((Verdict::Clean, "", 5)));
    }

    #[test]
    fn what_elections_make_of_it_is_told() {
        for (event, wanted) in [
            (Event::Led(Leader::Us, 6), (Verdict::Reclaimed, "target", 6)),
            (
                Event::Led(Leader::Another, 5),
                (Verdict::Aborted, "election", 5),
            ),
            (
                Event::Kept("no".into()),
                (Verdict::Aborted, "refused: no", 4),
            ),
        ] {
            let (mut desk, _) = Desk::ready(Rule::Elected(4));
            assert_eq!(ended(&desk.step(event)), Some(wanted));
        }
        // Before it is handed over, any other leader ends it.
        for (leader, epoch) in [(Leader::Nobody, 4), (Leader::Another, 5), (Leader::Us, 5)] {
            let mut desk = Desk::waiting(Rule::Elected(4), false);
            assert_eq!(desk.step(Event::Led(Leader::Us, 4)), []);
            let out = desk.step(Event::Led(leader, epoch));
            assert_eq!(ended(&out), Some((Verdict::Aborted, "election", 4)));
        }
    }

    #[test]
    fn nobody_who_lacks_something_is_handed_a_part_in_elections() {
        let mut desk = Desk::waiting(Rule::Elected(4), true);
        desk.now = 600;
        assert_eq!(desk.step(Event::Replicas(replica(9, 9))), [Effect::AskAcks]);
        desk.now = 1600;
        let out = desk.step(Event::Replicas(replica(9, 9)));
        assert_eq!(ended(&out), Some((Verdict::Aborted, "catch-up", 4)));
    }

    #[test]
    fn held_writes_do_not_wait_for_an_election_for_ever() {
        let (mut desk, _) = Desk::ready(Rule::Elected(4));
        desk.now += GRANT_MS;
        assert_eq!(desk.step(Event::Led(Leader::Nobody, 4)), [Effect::Thaw]);
        assert_eq!(desk.coordinator.phase(), Phase::Unknown);
        let tools = (&mut desk.ledger, &mut Vec::new());
        assert!(desk.coordinator.abort(desk.now, true, tools).is_err());
        let out = desk.step(Event::Led(Leader::Target, 5));
        assert_eq!(ended(&out), Some((Verdict::Clean, "", 5)));
    }
}
