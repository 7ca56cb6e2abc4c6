//! `ringkeep supervise`: a process that holds the listeners, starts a node, starts it again when it crashes,
//! and puts another program in its place when asked. And `ringkeep upgrade`, which asks.
//!
//! One thread that waits with poll(2). What is decided about a handoff is decided in
//! [`crate::handoff::supervisor`]; here are its processes, sockets and clocks.

mod child;
mod desk;
mod listeners;
mod notify;

use std::{
    collections::VecDeque,
    env, fs,
    hash::{BuildHasher, RandomState},
    io::{self, BufRead, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use uring::{
    process::{self, Signal, Signals},
    sys,
};

use super::{Supervise, Upgrade};
use crate::{
    handoff::{
        Id, Message, Notes, Supervisor,
        supervisor::{Effect, Event, Plan, Step},
    },
    shard::log,
};
use child::Node;
use desk::Desk;
use listeners::{Greeting, Listeners};
use notify::Notifier;

/// Between two looks at whether a node serves.
const LOOK: Duration = Duration::from_millis(50);
/// The wait before a node that crashed is started again: the first one, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A node that has run for so long was well.
const WELL: Duration = Duration::from_secs(30);
/// An incumbent that was told to end takes a fraction of a second.
const LEAVE: Duration = Duration::from_secs(10);
/// A successor that was asked to end, because nothing comes of it, is killed behind this.
const GIVE_UP: Duration = Duration::from_secs(3);
/// A successor that says that it serves has to be found doing so within this time.
const CHECK: Duration = Duration::from_secs(5);

/// Why there is no supervisor.
#[derive(Debug)]
pub enum SuperviseError {
    /// What the operating system refused.
    System(&'static str, io::Error),
    /// The socket for upgrades cannot be opened.
    Control(PathBuf, io::Error),
    /// Another supervisor has it.
    Taken(PathBuf),
    /// That is no address.
    Address(String),
    /// An address cannot be listened on.
    Listen(String, io::Error),
    /// What a service manager has left is of no use.
    Inherited(io::Error),
    /// A node runs whose listeners cannot be had.
    Holds(u32, io::Error),
    /// The node ended before it ever served.
    Start(String),
}

impl std::fmt::Display for SuperviseError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SuperviseError::System(what, error) => write!(out, "cannot {what}: {error}"),
            SuperviseError::Control(path, error) => {
                write!(out, "cannot open {}: {error}", path.display())
            }
            SuperviseError::Taken(path) => {
                write!(out, "another supervisor answers at {}", path.display())
            }
            SuperviseError::Address(text) => write!(
                out,
                "'{text}' is no address to listen on: give an IP address"
            ),
            SuperviseError::Listen(at, error) => write!(out, "cannot listen on {at}: {error}"),
            SuperviseError::Inherited(error) => {
                write!(out, "what was inherited is of no use: {error}")
            }
            SuperviseError::Holds(pid, error) => write!(
                out,
                "process {pid} runs already and does not give its listeners ({error}): stop it first"
            ),
            SuperviseError::Start(how) => write!(out, "the node {how} before it served"),
        }
    }
}

/// Holds the listeners and keeps a node running until it is told to stop. True: all ended in order.
///
/// # Errors
/// [`SuperviseError`].
pub fn supervise(asked: &Supervise) -> Result<bool, SuperviseError> {
    // Before anything else is opened, as it takes descriptors by their numbers.
    let inherited = Listeners::inherited(|name| env::var(name).ok())?;
    let signals = Signals::new().map_err(|error| SuperviseError::System("take signals", error))?;
    sys::ignore_sigpipe();
    let desk = Desk::open(&asked.control)?;
    let mut keeper = Keeper {
        asked,
        binary: asked.binary.clone(),
        listeners: inherited,
        signals,
        desk,
        notifier: Notifier::new(env::var("NOTIFY_SOCKET").ok()),
        began: Instant::now(),
        node: None,
        leaving: Vec::new(),
        lead: None,
        disappointed: None,
        start_at: Some(Instant::now()),
        back_off: BACK_OFF.0,
        has_served: false,
        is_stopping: false,
        ended_well: true,
    };
    keeper.recall();
    keeper.run()
}

/// A name that no other handoff has.
fn random_id() -> Id {
    let chance = RandomState::new();
    let mut id = [0; 16];
    for (at, half) in id.chunks_exact_mut(8).enumerate() {
        half.copy_from_slice(&chance.hash_one(at as u64).to_le_bytes());
    }
    Id(id)
}

struct Keeper<'a> {
    asked: &'a Supervise,
    /// What is started next.
    binary: String,
    /// None before the first start, and while a node that was found has not given them yet.
    listeners: Option<Listeners>,
    signals: Signals,
    desk: Desk,
    notifier: Notifier,
    began: Instant,
    node: Option<Node>,
    /// Processes that end by themselves.
    leaving: Vec<Leaving>,
    lead: Option<Lead>,
    /// Who asked for an upgrade of which nothing came, and why: told when the old process serves again.
    disappointed: Option<(u64, String)>,
    /// When a node is started, where there is none.
    start_at: Option<Instant>,
    back_off: Duration,
    has_served: bool,
    is_stopping: bool,
    ended_well: bool,
}

struct Leaving {
    node: Node,
    /// Until then.
    until: Option<Instant>,
    /// Who waits for that, and what they are told then.
    caller: Option<(u64, String)>,
}

/// A handoff that is under way.
struct Lead {
    machine: Supervisor,
    id: Id,
    began: Instant,
    binary: String,
    caller: Option<u64>,
    old: Option<UnixStream>,
    new: Option<UnixStream>,
    successor: Option<Node>,
    /// When a successor that was asked to end is killed.
    kill_at: Option<Instant>,
}

/// What there was to wait for.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Desk,
    Node,
    Leaving,
    Old,
    New,
    Successor,
}

impl Keeper<'_> {
    fn run(&mut self) -> Result<bool, SuperviseError> {
        loop {
            self.on_time()?;
            if self.is_stopping
                && self.node.is_none()
                && self.lead.is_none()
                && self.leaving.is_empty()
            {
                break;
            }
            let limit = self.wakes_at().map_or(Duration::from_secs(60), |at| {
                at.saturating_duration_since(Instant::now())
            });
            for source in self.wait(limit)? {
                self.on(source)?;
            }
        }
        // Nobody is to be found any more.
        let _ = fs::remove_file(self.notes_path());
        let _ = fs::remove_file(self.node_path());
        log("stopped");
        Ok(self.ended_well)
    }

    fn wait(&self, limit: Duration) -> Result<Vec<Source>, SuperviseError> {
        let mut waited: Vec<(Source, BorrowedFd<'_>)> =
            vec![(Source::Signals, self.signals.as_fd())];
        waited.extend(self.desk.fds().map(|fd| (Source::Desk, fd)));
        let leaving = self.leaving.iter();
        waited.extend(leaving.map(|leaving| (Source::Leaving, leaving.node.process.as_fd())));
        match &self.lead {
            // Its end is heard on its line first, and it is looked after when the handoff is over.
            Some(lead) => {
                waited.extend(lead.old.iter().map(|line| (Source::Old, line.as_fd())));
                waited.extend(lead.new.iter().map(|line| (Source::New, line.as_fd())));
                let successor = lead.successor.iter();
                waited.extend(successor.map(|node| (Source::Successor, node.process.as_fd())));
            }
            None => {
                let node = self.node.iter();
                waited.extend(node.map(|node| (Source::Node, node.process.as_fd())));
            }
        }
        let fds: Vec<BorrowedFd<'_>> = waited.iter().map(|(_, fd)| *fd).collect();
        let ready =
            process::wait(&fds, limit).map_err(|error| SuperviseError::System("wait", error))?;
        let ready = waited.iter().zip(ready).filter(|(_, ready)| *ready);
        Ok(ready.map(|((source, _), _)| *source).collect())
    }

    fn wakes_at(&self) -> Option<Instant> {
        let now = Instant::now();
        let machine = self.lead.as_ref().and_then(|lead| lead.machine.wakes_at());
        let machine = machine.map(|at| self.began + Duration::from_millis(at));
        let kill = self.lead.as_ref().and_then(|lead| lead.kill_at);
        let leaving = self
            .leaving
            .iter()
            .filter_map(|leaving| leaving.until)
            .min();
        let looks = self.lead.is_none() && self.node.as_ref().is_some_and(|node| !node.is_ready);
        let look = looks.then(|| now + LOOK);
        let start = self.start_at.filter(|_| self.node.is_none());
        // Callers that say nothing are looked for now and then.
        let patience = (self.desk.fds().count() > 1).then(|| now + Duration::from_secs(1));
        [machine, kill, leaving, look, start, patience]
            .into_iter()
            .flatten()
            .min()
    }

    fn on_time(&mut self) -> Result<(), SuperviseError> {
        let now = Instant::now();
        if let Some(lead) = &mut self.lead {
            if lead.kill_at.is_some_and(|at| at <= now) {
                lead.kill_at = None;
                if let Some(successor) = &lead.successor {
                    successor.process.end(true);
                }
            }
            let at = self.now_ms();
            if self
                .lead
                .as_ref()
                .is_some_and(|lead| lead.machine.wakes_at().is_some_and(|due| due <= at))
            {
                self.drive(Event::Tick);
            }
        }
        for leaving in &mut self.leaving {
            if leaving.until.is_some_and(|until| until <= now) {
                leaving.until = None;
                log(&format!(
                    "process {} does not end and is killed",
                    leaving.node.noted.pid
                ));
                leaving.node.process.end(true);
            }
        }
        if self.lead.is_some() {
            return Ok(());
        }
        match &self.node {
            None if self.is_stopping => self.start_at = None,
            None => {
                if self.start_at.is_some_and(|at| at <= now) {
                    self.find_or_start()?;
                }
            }
            Some(node) if !node.is_ready => self.look()?,
            Some(_) => {}
        }
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn on(&mut self, source: Source) -> Result<(), SuperviseError> {
        match source {
            Source::Signals => {
                while let Some(signal) = self.signals.take() {
                    match signal {
                        Signal::Hangup => self.upgrade(None, self.binary.clone()),
                        Signal::Terminate => self.stop(),
                    }
                }
            }
            Source::Desk => {
                for (caller, binary) in self.desk.hear() {
                    self.upgrade(Some(caller), binary);
                }
            }
            Source::Node => self.on_node_end()?,
            Source::Leaving => self.on_leaving(),
            Source::Old => self.hear(false),
            Source::New => self.hear(true),
            Source::Successor => {
                let successor = self.lead.as_mut().and_then(|lead| lead.successor.take());
                if let Some(mut successor) = successor {
                    // Its last words may be in its channel still.
                    self.hear(true);
                    self.drive(Event::NewEnded(successor.end().how));
                }
            }
        }
        Ok(())
    }

    // ---- One node, whatever happens to it.

    /// What a supervisor before this one has written down.
    fn recall(&mut self) {
        let text = match fs::read(self.notes_path()) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => {
                return log(&format!(
                    "cannot read {}: {error}",
                    self.notes_path().display()
                ));
            }
        };
        let notes = match Notes::read(&text) {
            Ok(notes) => notes,
            Err(fault) => return log(&format!("{}: {fault}", self.notes_path().display())),
        };
        let successor = notes.handoff.and_then(|(_, _, successor)| successor);
        for noted in [notes.node, successor].into_iter().flatten() {
            if let Some(node) = Node::find_again(&noted) {
                log(&format!(
                    "process {} was started by an earlier supervisor",
                    noted.pid
                ));
                self.leaving.push(Leaving {
                    node,
                    until: None,
                    caller: None,
                });
            }
        }
    }

    fn notes_path(&self) -> PathBuf {
        let mut path = self.asked.control.as_os_str().to_owned();
        path.push(".state");
        path.into()
    }

    /// Writes down what a supervisor after this one has to know. Without that it finds a node that answers,
    /// but not one that is still loading.
    fn note(&self, step: Option<Step>) {
        let handoff = self.lead.as_ref().zip(step).map(|(lead, step)| {
            let successor = lead.successor.as_ref().map(|node| node.noted.clone());
            (lead.id, step, successor)
        });
        let node = self.node.as_ref().map(|node| node.noted.clone());
        let text = Notes { node, handoff }.compose();
        let path = self.notes_path();
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, &path));
        if let Err(error) = written {
            log(&format!("cannot write {}: {error}", path.display()));
        }
    }

    fn node_path(&self) -> &Path {
        Path::new(self.asked.options.handoff.as_deref().unwrap_or_default())
    }

    fn find_or_start(&mut self) -> Result<(), SuperviseError> {
        if let Ok(greeting) = Greeting::hear(self.node_path()) {
            return self.adopt(greeting);
        }
        // One of them may have the data directory, and be loading it.
        if !self.leaving.is_empty() {
            self.start_at = Some(Instant::now() + LOOK);
            return Ok(());
        }
        if self.listeners.is_none() {
            let opened = Listeners::open(&self.asked.options, self.asked.unix.as_deref())?;
            self.listeners = Some(opened);
        }
        let Some(listeners) = &self.listeners else {
            return Ok(());
        };
        self.start_at = None;
        match Node::start(&self.binary, &self.asked.node, listeners, None) {
            Ok(node) => {
                log(&format!(
                    "process {} is started: {}",
                    node.noted.pid, self.binary
                ));
                self.node = Some(node);
                self.note(None);
            }
            Err(error) if !self.has_served => {
                return Err(SuperviseError::Start(format!(
                    "cannot be started ({}: {error})",
                    self.binary
                )));
            }
            Err(error) => {
                log(&format!("cannot start {}: {error}", self.binary));
                self.try_later();
            }
        }
        Ok(())
    }

    fn try_later(&mut self) {
        self.start_at = Some(Instant::now() + self.back_off);
        self.back_off = (self.back_off * 2).min(BACK_OFF.1);
    }

    /// A process serves that was not started here, or was to end.
    fn adopt(&mut self, greeting: Greeting) -> Result<(), SuperviseError> {
        let pid = greeting.pid;
        let known = self
            .leaving
            .iter()
            .position(|leaving| leaving.node.noted.pid == pid);
        let node = match known {
            Some(at) => self.leaving.swap_remove(at).node,
            None => {
                let binary = fs::read_link(format!("/proc/{pid}/exe")).ok();
                let binary = binary.and_then(|path| path.into_os_string().into_string().ok());
                let binary = binary.filter(|path| Path::new(path).exists());
                let binary = binary.unwrap_or_else(|| self.binary.clone());
                match Node::find(pid, &binary) {
                    Ok(node) => node,
                    // It has just ended.
                    Err(_) => {
                        self.try_later();
                        return Ok(());
                    }
                }
            }
        };
        self.binary = node.noted.binary.clone();
        log(&format!("process {pid} is found: {}", self.binary));
        self.start_at = None;
        self.node = Some(node);
        self.on_ready(greeting)
    }

    /// Looks whether the node serves.
    fn look(&mut self) -> Result<(), SuperviseError> {
        let Ok(greeting) = Greeting::hear(self.node_path()) else {
            return Ok(());
        };
        if self
            .node
            .as_ref()
            .is_some_and(|node| node.noted.pid == greeting.pid)
        {
            return self.on_ready(greeting);
        }
        // It waits in vain for the data directory, which another process has.
        if let Some(node) = self.node.take() {
            self.leaving.push(Leaving {
                node,
                until: None,
                caller: None,
            });
        }
        self.adopt(greeting)
    }

    fn on_ready(&mut self, greeting: Greeting) -> Result<(), SuperviseError> {
        let pid = greeting.pid;
        if self.listeners.is_none() {
            let listeners = greeting.ask();
            self.listeners = Some(listeners.map_err(|error| SuperviseError::Holds(pid, error))?);
        }
        if let Some(node) = &mut self.node {
            node.is_ready = true;
        }
        self.has_served = true;
        self.console("serves on");
        self.notifier.serves(pid);
        log(&format!("process {pid} serves"));
        self.note(None);
        Ok(())
    }

    fn on_node_end(&mut self) -> Result<(), SuperviseError> {
        let Some(mut node) = self.node.take() else {
            return Ok(());
        };
        let end = node.end();
        log(&format!("process {} {}", node.noted.pid, end.how));
        self.note(None);
        self.console(&end.how);
        if self.is_stopping || (end.is_well && node.is_ready) {
            // Told by us, or by a client.
            self.ended_well = end.is_well || end.was_asked;
            self.is_stopping = true;
        } else if !self.has_served {
            return Err(SuperviseError::Start(end.how));
        } else {
            if node.is_ready && node.since.elapsed() >= WELL {
                self.back_off = BACK_OFF.0;
            }
            self.notifier
                .status(&format!("process {} {}", node.noted.pid, end.how));
            self.try_later();
        }
        Ok(())
    }

    /// Tells who waits for it why nothing came of an upgrade, and what the old process does.
    fn console(&mut self, does: &str) {
        if let Some((caller, why)) = self.disappointed.take() {
            let text = format!("{why}; the old process {does}");
            self.desk.finish(caller, &Err(text));
        }
    }

    fn on_leaving(&mut self) {
        let has_ended = |leaving: &mut Leaving| {
            let fds = [leaving.node.process.as_fd()];
            process::wait(&fds, Duration::ZERO).is_ok_and(|ended| ended[0])
        };
        for mut leaving in self.leaving.extract_if(.., has_ended).collect::<Vec<_>>() {
            let end = leaving.node.end();
            log(&format!("process {} {}", leaving.node.noted.pid, end.how));
            if let Some((caller, text)) = leaving.caller.take() {
                self.desk.finish(caller, &Ok(text));
            }
        }
    }

    fn stop(&mut self) {
        if !self.is_stopping {
            log("is told to stop");
            self.notifier.stops();
        }
        self.is_stopping = true;
        self.drive(Event::Stop);
        if self.lead.is_none() {
            self.end_node();
        }
    }

    fn end_node(&self) {
        if let Some(node) = &self.node {
            node.process.end(false);
        }
    }

    // ---- A handoff.

    /// Another program is to take over, or the one that was put under the name of the running one.
    fn upgrade(&mut self, caller: Option<u64>, binary: String) {
        log(&format!("upgrade to {binary}"));
        let why = match &self.node {
            _ if self.is_stopping => "the supervisor stops",
            _ if self.lead.is_some() || self.disappointed.is_some() => {
                "another upgrade is under way"
            }
            Some(node) if node.is_ready => {
                let pid = node.noted.pid;
                return match process::connect_now(self.node_path()) {
                    Ok(line) if line.set_nonblocking(true).is_ok() => {
                        self.begin(line, pid, binary, caller);
                    }
                    Ok(_) => self.refuse(caller, "the node cannot be reached"),
                    Err(error) => {
                        self.refuse(caller, &format!("the node cannot be reached: {error}"))
                    }
                };
            }
            _ => "the node does not serve yet",
        };
        self.refuse(caller, why);
    }

    fn refuse(&mut self, caller: Option<u64>, why: &str) {
        log(&format!("no upgrade: {why}"));
        if let Some(caller) = caller {
            self.desk.finish(caller, &Err(why.into()));
        }
    }

    fn begin(&mut self, line: UnixStream, incumbent: u32, binary: String, caller: Option<u64>) {
        let plan = Plan {
            id: random_id(),
            incumbent,
            deadline_ms: self.asked.deadline_ms,
            // As the library's own program has it: 25 s of 60.
            grace_ms: self.asked.deadline_ms * 5 / 12,
        };
        self.notifier.reloads();
        self.lead = Some(Lead {
            machine: Supervisor::new(plan, self.now_ms()),
            id: plan.id,
            began: Instant::now(),
            binary,
            caller,
            old: Some(line),
            new: None,
            successor: None,
            kill_at: None,
        });
    }

    /// Reads what the incumbent, or the successor, has said.
    fn hear(&mut self, new: bool) {
        let mut bytes = [0; 4096];
        loop {
            let line = self.lead.as_mut().and_then(|lead| match new {
                true => lead.new.as_mut(),
                false => lead.old.as_mut(),
            });
            let Some(line) = line else {
                return;
            };
            match line.read(&mut bytes) {
                Ok(len) if len > 0 => self.drive(match new {
                    true => Event::New(&bytes[..len]),
                    false => Event::Old(&bytes[..len]),
                }),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return self.on_line_end(new),
            }
        }
    }

    fn on_line_end(&mut self, new: bool) {
        let Some(lead) = &mut self.lead else {
            return;
        };
        if !new {
            lead.old = None;
            return self.drive(Event::OldGone);
        }
        lead.new = None;
        // How it ended says more than that it is gone. A process that ends closes its lines a little earlier.
        let ends = lead.successor.as_ref().is_none_or(|successor| {
            let fds = [successor.process.as_fd()];
            process::wait(&fds, Duration::from_millis(200)).is_ok_and(|ended| ended[0])
        });
        if !ends {
            self.drive(Event::NewGone);
        }
    }

    fn drive(&mut self, event: Event<'_>) {
        let now = self.now_ms();
        let mut effects = Vec::new();
        let Some(lead) = &mut self.lead else {
            return;
        };
        lead.machine.step(now, event, &mut effects);
        let mut queue = VecDeque::from(effects);
        while let Some(effect) = queue.pop_front() {
            let answer = self.carry_out(effect);
            if let (Some(answer), Some(lead)) = (answer, &mut self.lead) {
                let mut effects = Vec::new();
                lead.machine.step(
                    self.began.elapsed().as_millis() as u64,
                    answer,
                    &mut effects,
                );
                queue.extend(effects);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event<'static>> {
        let lead = self.lead.as_mut()?;
        match effect {
            Effect::Note(step) => {
                let text = format!("{} ms: {step}", lead.began.elapsed().as_millis());
                if let Some(caller) = lead.caller {
                    self.desk.say(caller, &format!(". {text}"));
                }
                log(&format!("upgrade: {text}"));
                self.note(Some(step));
                None
            }
            Effect::TellOld(message) => {
                let sent = lead.old.as_mut().is_some_and(|line| send(line, &message));
                (!sent).then_some(Event::OldGone)
            }
            Effect::TellNew(message) => {
                let sent = lead.new.as_mut().is_some_and(|line| send(line, &message));
                (!sent).then_some(Event::NewGone)
            }
            Effect::Start => Some(self.start_successor()),
            Effect::Check => {
                let pid = lead.successor.as_ref().map(|node| node.noted.pid);
                Some(Event::Checked(match pid {
                    Some(pid) => self.check(pid),
                    None => Err("it has ended".into()),
                }))
            }
            Effect::EndNew { gently } => {
                if let Some(successor) = &lead.successor {
                    successor.process.end(!gently);
                    lead.kill_at = gently.then(|| Instant::now() + GIVE_UP);
                }
                None
            }
            Effect::Over(outcome) => {
                self.finish(outcome.map_err(|failure| failure.to_string()));
                None
            }
        }
    }

    fn start_successor(&mut self) -> Event<'static> {
        let (Some(lead), Some(listeners)) = (&mut self.lead, &self.listeners) else {
            return Event::CannotStart("there are no listeners".into());
        };
        let started = UnixStream::pair().and_then(|(near, far)| {
            near.set_nonblocking(true)?;
            let channel = Some((&far, lead.machine.hello_ms()));
            let node = Node::start(&lead.binary, &self.asked.node, listeners, channel)?;
            Ok((near, node))
        });
        match started {
            Ok((near, node)) => {
                let pid = node.noted.pid;
                lead.new = Some(near);
                lead.successor = Some(node);
                // Whoever takes this one's place has to know of it.
                self.note(Some(Step::Start));
                Event::Started(pid)
            }
            Err(error) => Event::CannotStart(format!("{}: {error}", lead.binary)),
        }
    }

    /// Does the successor serve? It has to answer supervisors in place of the incumbent. Clients it answers
    /// only once it has those of the incumbent, who lets them go when it is told to end.
    fn check(&self, pid: u32) -> Result<(), String> {
        let end = Instant::now() + CHECK;
        loop {
            let found = match Greeting::hear(self.node_path()) {
                Ok(greeting) if greeting.pid == pid => return Ok(()),
                Ok(greeting) => format!("process {} answers supervisors", greeting.pid),
                Err(error) => format!("nobody answers supervisors: {error}"),
            };
            if Instant::now() >= end {
                return Err(found);
            }
            std::thread::sleep(LOOK);
        }
    }

    fn finish(&mut self, outcome: Result<(), String>) {
        let Some(lead) = self.lead.take() else {
            return;
        };
        let ms = lead.began.elapsed().as_millis();
        match (outcome, lead.successor) {
            (Ok(()), Some(mut successor)) => {
                let pid = successor.noted.pid;
                successor.is_ready = true;
                successor.since = Instant::now();
                let text = format!("process {pid} serves, {ms} ms after it was asked for");
                log(&format!("upgrade: {text}"));
                self.binary = lead.binary;
                if let Some(node) = self.node.replace(successor) {
                    let until = Some(Instant::now() + LEAVE);
                    let caller = lead.caller.map(|caller| (caller, text));
                    self.leaving.push(Leaving {
                        node,
                        until,
                        caller,
                    });
                }
                self.notifier.serves(pid);
            }
            (outcome, _) => {
                let why = outcome
                    .err()
                    .unwrap_or_else(|| "the new process is gone".into());
                log(&format!("upgrade: nothing came of it: {why}"));
                self.disappointed = lead.caller.map(|caller| (caller, why));
                // It may begin anew, which takes a while.
                if let Some(node) = &mut self.node {
                    node.is_ready = false;
                }
            }
        }
        self.note(None);
        if self.is_stopping {
            self.end_node();
        }
    }
}

/// Sends what is little and read at once; false if the line is of no use.
fn send(line: &mut UnixStream, message: &Message) -> bool {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    line.write_all(&bytes).is_ok()
}

/// Asks a supervisor to put another program in the place of the running one, and tells how it goes. True: it
/// serves.
///
/// # Errors
/// The supervisor cannot be asked.
pub fn upgrade(asked: &Upgrade) -> io::Result<bool> {
    let mut line = UnixStream::connect(&asked.control)?;
    // A name that stays what it is: the one who starts it may be in another folder.
    let binary = std::path::absolute(&asked.binary)?;
    writeln!(line, "upgrade {}", binary.display())?;
    for said in io::BufReader::new(line).lines() {
        let said = said?;
        match said.split_at_checked(2) {
            Some((". ", text)) => println!("{text}"),
            Some(("+ ", text)) => {
                println!("done: {text}");
                return Ok(true);
            }
            Some(("- ", text)) => {
                eprintln!("ringkeep: no upgrade: {text}");
                return Ok(false);
            }
            _ => break,
        }
    }
    Err(io::Error::new(
        ErrorKind::UnexpectedEof,
        "the supervisor went away; whoever serves goes on",
    ))
}
