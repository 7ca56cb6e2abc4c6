//! A node that a supervisor starts and replaces: what it inherits, how a successor waits for its turn, and
//! the data directory on its way from one process to the next.

use std::{
    env, fs,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::Command,
    sync::{Arc, atomic::Ordering::SeqCst, mpsc},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use uring::{
    Wake,
    pass::{own_user, peer_user, receive_descriptors},
    sys,
};

use super::{Options, StartError, preload::Preload};
use crate::{
    base::{Ms, Position},
    handoff::{
        Id, Owner, Redirected, Seal, Successor, files,
        passing::{Changes, Client, Greeting, HEAD_LEN, Head, Kind, states},
        successor::{Effect, Event},
    },
    recover::Plan,
    shard::{Arrival, Back, Estate, Shared, for_clients, lock, log},
    tools::DataDir,
};

/// Listeners that a supervisor may hold.
const LISTENERS_MAX: u16 = 1000;
/// A successor that loads looks after its supervisor this often.
const LOOK: Duration = Duration::from_millis(5);
/// A supervisor waits so long for a hello, unless it says otherwise.
const HELLO_MS: Ms = 5000;
/// It has it this much earlier.
const HELLO_SPARE_MS: Ms = 2000;
/// Once everything is loaded, nobody is made to wait for clients of the incumbent longer than this.
const CLIENTS_WAIT: Duration = Duration::from_secs(2);
/// An incumbent that has begun to say something says all of it within this.
const FRAME_TIME: Duration = Duration::from_secs(5);

/// What whoever started the process has left it, where handoffs are wanted.
pub(super) struct Inherited {
    /// Listeners for clients.
    pub clients: Arc<Vec<OwnedFd>>,
    names: Vec<String>,
    /// The supervisor, of a successor whose turn it is.
    pub turn: Option<Turn>,
}

/// What a successor serves.
pub(super) struct Served {
    /// Where clients find it.
    listening: Vec<String>,
    /// How far each shard is.
    revisions: Vec<u64>,
}

/// The data directory is to be taken over.
pub(super) struct Turn {
    /// For this handoff it was sealed.
    pub id: Id,
    /// What was read of it before.
    pub preload: Option<Preload>,
    channel: Channel,
}

/// What the environment says.
#[derive(PartialEq, Eq, Debug)]
struct Environment {
    names: Vec<String>,
    /// The descriptor on which a successor finds its supervisor.
    channel: Option<RawFd>,
    /// When a successor is to have said hello, in milliseconds from its start.
    hello_ms: Ms,
}

/// Takes what was inherited, before anything else is opened. A successor then waits here until it is its
/// turn, and may wait for long; meanwhile it reads ahead, which `preload` begins.
///
/// # Errors
/// The supervisor left something that cannot be used, or has given up.
pub(super) fn arrive(
    options: &Options,
    preload: impl FnOnce() -> Option<Preload>,
) -> Result<Option<Inherited>, StartError> {
    if options.handoff.is_none() {
        return Ok(None);
    }
    let found = Environment::read(|name| env::var(name).ok()).map_err(StartError::Handoff)?;
    let count = found.names.len() as u16;
    let inherited = sys::inherit(count, found.channel);
    let (clients, channel) = inherited.map_err(|error| {
        StartError::Handoff(format!("what was inherited is of no use: {error}"))
    })?;
    Ok(Some(Inherited {
        clients: Arc::new(clients),
        names: found.names,
        turn: channel
            .map(|channel| Channel::greet(channel, found.hello_ms, preload()))
            .transpose()?,
    }))
}

impl Environment {
    fn read(var: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let count = match var("LISTEN_FDS") {
            None => 0,
            Some(text) => text
                .parse()
                .ok()
                .filter(|count| *count <= LISTENERS_MAX)
                .ok_or_else(|| format!("LISTEN_FDS cannot be '{text}'"))?,
        };
        let names = var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names: Vec<String> = names.split(':').map(String::from).collect();
        if count == 0 {
            names.clear();
        }
        let serves = |name: &String| {
            let kind = name.split('-').next();
            matches!(kind, Some("resp" | "unix"))
        };
        // The kernel would go on giving clients to one that nobody serves.
        if names.len() != usize::from(count) || !names.iter().all(serves) {
            return Err(format!(
                "LISTEN_FDS is {count} and LISTEN_FDNAMES '{}': each listener needs a name, resp-0, \
                 resp-1 and so on, or unix-0",
                names.join(":")
            ));
        }
        let is_successor = var("HANDOFF_ROLE").is_some_and(|role| role == "successor");
        let channel = match is_successor.then(|| var("HANDOFF_SOCK_FD").unwrap_or_default()) {
            None => None,
            Some(text) => {
                let number = text.parse();
                Some(number.map_err(|_| format!("HANDOFF_SOCK_FD cannot be '{text}'"))?)
            }
        };
        let hello_ms = var("HANDOFF_HELLO_MS").and_then(|text| text.parse().ok());
        Ok(Self {
            names,
            channel,
            hello_ms: hello_ms.unwrap_or(HELLO_MS),
        })
    }
}

impl Inherited {
    /// The port of the first listener that has one.
    pub fn port(&self) -> Option<u16> {
        self.addresses().first().map(SocketAddr::port)
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let local = |fd: &OwnedFd| TcpListener::from(fd.try_clone().ok()?).local_addr().ok();
        self.clients.iter().filter_map(local).collect()
    }

    /// Where clients find the node.
    pub fn listening(&self) -> Vec<String> {
        let addresses = self.addresses();
        addresses.iter().map(SocketAddr::to_string).collect()
    }

    /// The listeners of a core: each one has at least one core, and each core at least one of them.
    pub fn clients_of(
        clients: &[OwnedFd],
        (core, cores): (usize, usize),
    ) -> impl Iterator<Item = &OwnedFd> {
        let count = clients.len();
        let is_own = move |at: usize| at % cores == core || (count < cores && at == core % count);
        let clients = clients.iter().enumerate();
        clients.filter(move |(at, _)| is_own(*at)).map(|(_, fd)| fd)
    }
}

/// A successor's line to its supervisor.
struct Channel {
    stream: UnixStream,
    machine: Successor,
    began: Instant,
    effects: Vec<Effect>,
}

impl Channel {
    /// Says hello, which the supervisor waits for so long, and waits for its turn.
    fn greet(fd: OwnedFd, hello_ms: Ms, preload: Option<Preload>) -> Result<Turn, StartError> {
        let build = concat!("ringkeep ", env!("CARGO_PKG_VERSION"));
        let hello_at = hello_ms.saturating_sub(HELLO_SPARE_MS);
        let machine = Successor::new(std::process::id(), build.as_bytes(), hello_at);
        let mut channel = Channel {
            stream: UnixStream::from(fd),
            machine,
            began: Instant::now(),
            effects: Vec::new(),
        };
        let blocking = channel.stream.set_nonblocking(false);
        blocking.map_err(|error| StartError::Handoff(error.to_string()))?;
        let _ = channel.stream.set_read_timeout(Some(LOOK));
        loop {
            if !channel.machine.is_known() && preload.as_ref().is_none_or(Preload::is_done) {
                channel.step(Event::Prepared);
            }
            for effect in std::mem::take(&mut channel.effects) {
                match effect {
                    Effect::Begin(id) => {
                        return Ok(Turn {
                            id,
                            preload,
                            channel,
                        });
                    }
                    Effect::Exit(ending) => return Err(StartError::Handoff(ending.to_string())),
                    Effect::Send(_) => channel.send(&effect),
                    Effect::Serve => {}
                }
            }
            channel.hear();
        }
    }

    fn send(&mut self, effect: &Effect) {
        let Effect::Send(message) = effect else {
            return;
        };
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        if self.stream.write_all(&bytes).is_err() {
            self.step(Event::Eof);
        }
    }

    /// Waits for bytes, or as long as the stream lets it; false if there will be none any more.
    fn hear(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.step(Event::Eof),
            Ok(len) => {
                self.step(Event::Bytes(&bytes[..len]));
                return true;
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {
                    self.step(Event::Tick);
                    return true;
                }
                _ => self.step(Event::Eof),
            },
        }
        false
    }

    fn step(&mut self, event: Event<'_>) {
        let now = self.began.elapsed().as_millis() as Ms;
        self.machine.step(now, wall_ms(), event, &mut self.effects);
    }

    /// Does what is left to do; true once the handoff is over for this process.
    fn settle(&mut self) -> bool {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Send(_) => self.send(&effect),
                Effect::Exit(ending) => {
                    log(&format!("handoff: {ending}"));
                    std::process::exit(1);
                }
                Effect::Serve => return true,
                Effect::Begin(_) => {}
            }
        }
        false
    }
}

impl Turn {
    /// Keeps the supervisor informed, on a thread of its own, until it is sent what is
    /// served.
    pub fn accompany(self) -> mpsc::Sender<Served> {
        let (sender, served) = mpsc::channel();
        let mut channel = self.channel;
        thread::spawn(move || {
            // Without it, this one waits for ever; the supervisor then gives up.
            let _ = channel.stream.set_read_timeout(Some(LOOK));
            let mut is_there = true;
            loop {
                let told = match is_there {
                    true => served.try_recv().ok(),
                    false => served.recv().ok(),
                };
                if let Some(Served {
                    listening,
                    revisions,
                }) = told
                {
                    channel.step(Event::Serving(listening, revisions));
                }
                if channel.settle() {
                    return log("handoff: serves");
                }
                if is_there {
                    is_there = channel.hear();
                }
            }
        });
        sender
    }
}

/// The line on which the clients of the incumbent come. Asked for by a successor that has the directory.
pub(super) struct Passage {
    line: UnixStream,
    /// Who has the next client without a port of its own.
    turn: usize,
    taken: usize,
}

impl Passage {
    /// Tells the incumbent at this control socket that its clients will be taken over; nothing if it passes
    /// none on.
    pub fn ask(control: &Path, id: Id) -> Option<Self> {
        let mut line = UnixStream::connect(for_clients(control)).ok()?;
        let user = peer_user(&line);
        if !user.is_some_and(|user| user == own_user() || user == 0) {
            log("handoff: clients of a process of another user are not taken over");
            return None;
        }
        line.write_all(&Greeting(id).compose()).ok()?;
        line.set_read_timeout(Some(LOOK)).ok()?;
        Some(Self {
            line,
            turn: 0,
            taken: 0,
        })
    }

    /// Takes clients over as they come, on a thread of its own.
    pub fn accompany<W: Wake + Send + 'static>(mut self, shared: Arc<Shared>, wakers: Vec<W>) {
        thread::spawn(move || {
            let mut serving = Serving {
                shared,
                wakers,
                since: None,
                has_gone: false,
            };
            let end = loop {
                match self.frame(&mut serving) {
                    Ok(None) => {}
                    Ok(Some(closed)) => break Ok(closed),
                    Err(error) => break Err(error),
                }
            };
            serving.go();
            let taken = self.taken;
            match end {
                Ok(closed) => log(&format!(
                    "handoff: {taken} connections of clients taken over, {closed} were closed"
                )),
                Err(error) => log(&format!(
                    "handoff: {taken} connections of clients taken over, then: {error}"
                )),
            }
        });
    }

    /// Reads a frame; at the end, how many clients were not passed on.
    fn frame<W: Wake>(&mut self, serving: &mut Serving<W>) -> io::Result<Option<u32>> {
        let mut head = [0; HEAD_LEN];
        let (got, fds) = loop {
            serving.look();
            match receive_descriptors(&self.line, &mut head) {
                Err(error) if is_early(&error) => {}
                other => break other?,
            }
        };
        if got == 0 {
            return Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                "the process before is gone",
            ));
        }
        self.read(&mut head[got..])?;
        let unknown = || io::Error::new(ErrorKind::InvalidData, "it says what cannot be read");
        let head = Head::read(head).ok_or_else(unknown)?;
        let mut body = vec![0; head.len];
        self.read(&mut body)?;
        let number = || body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        match head.kind {
            Kind::Clients => {
                let states = states(&body, head.clients).ok_or_else(unknown)?;
                if fds.len() != states.len() {
                    // The limit of open descriptors.
                    let text = "the kernel has lost connections";
                    return Err(io::Error::other(text));
                }
                for (fd, state) in fds.into_iter().zip(states) {
                    let client = Client::decode(state).ok_or_else(unknown)?;
                    self.deliver(fd, client, serving);
                }
                serving.wakers.iter().for_each(Wake::wake);
            }
            Kind::Go => {
                serving.shared.skip_clients(number().unwrap_or_default());
                serving.go();
            }
            Kind::Changes => {
                let changes = Changes::decode(&body).ok_or_else(unknown)?;
                serving.shared.go_on_with(&changes);
            }
            Kind::End => return Ok(number().map(|counts| (counts >> 32) as u32)),
        }
        Ok(None)
    }

    fn deliver<W>(&mut self, fd: OwnedFd, client: Client, serving: &Serving<W>) {
        let connection = TcpStream::from(fd);
        // A Unix socket has no such addresses.
        let (peer, local) = (connection.peer_addr().ok(), connection.local_addr().ok());
        let cores = serving.wakers.len();
        let core = match client.port_shard {
            Some(shard) => (shard % cores as u64) as usize,
            None => {
                self.turn += 1;
                self.turn % cores
            }
        };
        let arrival = Arrival {
            fd: connection.into(),
            peer,
            local,
            client,
        };
        self.taken += 1;
        serving.shared.handover.passage.deliver(core, arrival);
    }

    /// Reads so many bytes, which must come soon.
    fn read(&mut self, mut bytes: &mut [u8]) -> io::Result<()> {
        let until = Instant::now() + FRAME_TIME;
        while !bytes.is_empty() {
            match self.line.read(bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(len) => bytes = &mut bytes[len..],
                Err(error) if is_early(&error) && Instant::now() < until => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A successor that serves nobody before the clients of the incumbent have come.
struct Serving<W> {
    shared: Arc<Shared>,
    wakers: Vec<W>,
    /// When everything was loaded.
    since: Option<Instant>,
    has_gone: bool,
}

impl<W: Wake> Serving<W> {
    /// Begins without them if it takes too long.
    fn look(&mut self) {
        if self.has_gone || self.shared.loading.load(SeqCst) {
            return;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= CLIENTS_WAIT {
            log("handoff: serves without having heard of the clients of the process before");
            self.go();
        }
    }

    fn go(&mut self) {
        if !std::mem::replace(&mut self.has_gone, true) && self.shared.handover.go() {
            self.wakers.iter().for_each(Wake::wake);
        }
    }
}

/// Has nothing come yet?
fn is_early(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

/// Checks that a directory is what the incumbent has sealed for this handoff, and tells what that was.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn check_seal(dir: &Path, id: Id, plans: &[Plan]) -> Result<Seal, String> {
    let name = dir.join(files::SEAL);
    let text =
        fs::read(&name).map_err(|error| format!("cannot read {}: {error}", name.display()))?;
    let seal = Seal::read(&text).map_err(|fault| format!("{}: {fault}", name.display()))?;
    if seal.id != id {
        return Err(format!(
            "{} is of handoff {}, not {id}",
            name.display(),
            seal.id
        ));
    }
    let mut ends: Vec<(usize, Position)> =
        plans.iter().map(|plan| (plan.shard, plan.end)).collect();
    ends.sort_unstable();
    let ends: Vec<Position> = ends.into_iter().map(|(_, end)| end).collect();
    if ends != seal.ends {
        return Err(format!(
            "{} ends at {:?}, and what can be loaded at {ends:?}",
            name.display(),
            seal.ends
        ));
    }
    Ok(seal)
}

/// Notes that this process has the directory from now on. Without `begins` only where others have noted that
/// before: they would take what this one writes for their own.
///
/// # Errors
/// The file cannot be read or written.
pub(super) fn take_over(dir: &Path, begins: bool) -> io::Result<Owner> {
    let name = dir.join(files::OWNER);
    let last = match fs::read(&name) {
        // One that cannot be read is of no owner that could come back.
        Ok(text) => Owner::read(&text).unwrap_or_default(),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Err(_) if begins => Owner::default(),
        Err(_) => return Ok(Owner::default()),
    };
    let owner = last.next(std::process::id(), wall_ms());
    write(dir, files::OWNER, &owner.compose())?;
    match fs::remove_file(dir.join(files::SEAL)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(owner),
    }
}

/// Writes a file so that after a crash it is there whole or not at all.
fn write(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let beside = dir.join(format!("{name}.new"));
    let mut file = fs::File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, dir.join(name))?;
    fs::File::open(dir)?.sync_all()
}

/// What core 0 needs for a handoff.
pub(super) struct House {
    /// The data directory.
    pub dir: Arc<DataDir>,
    /// As this process has noted it.
    pub owner: Owner,
    clients: Arc<Vec<OwnedFd>>,
    names: Vec<String>,
    /// Whom the node was started to follow.
    asked: Option<(String, u16)>,
    shared: Arc<Shared>,
    /// Whom to tell that all is served, and what.
    told: Option<(mpsc::Sender<Served>, Served)>,
}

impl House {
    /// Of a node that has taken the directory; a successor tells with `sender` when it serves.
    pub fn new(
        inherited: &Inherited,
        (dir, owner, revisions): (Arc<DataDir>, Owner, Vec<u64>),
        sender: Option<mpsc::Sender<Served>>,
        (asked, shared): (Option<(String, u16)>, Arc<Shared>),
    ) -> Self {
        Self {
            asked,
            shared,
            dir,
            owner,
            clients: inherited.clients.clone(),
            names: inherited.names.clone(),
            told: sender.map(|sender| {
                let listening = inherited.listening();
                (
                    sender,
                    Served {
                        listening,
                        revisions,
                    },
                )
            }),
        }
    }
}

impl Estate for House {
    fn let_go(&mut self, id: Id, ends: Vec<Position>, leads: u64) -> io::Result<[u8; 32]> {
        let follows = lock(&self.shared.told_to_follow).clone();
        // Members are told by the elections whom they follow.
        let is_redirected = follows != self.asked && self.shared.election.is_none();
        let seal = Seal {
            id,
            owner: self.owner.number,
            ends,
            leads,
            redirected: is_redirected.then(|| Redirected {
                asked: self.asked.clone(),
                follows,
            }),
        };
        let (text, sum) = seal.compose();
        write(self.dir.path(), files::SEAL, &text)?;
        self.dir.let_go()?;
        Ok(sum)
    }

    fn listeners(&self) -> (&[String], &[OwnedFd]) {
        (&self.names, &self.clients)
    }

    fn take_back(&mut self) -> Back {
        match self.dir.take_back() {
            Ok(true) => {}
            Ok(false) => return Back::Held,
            Err(error) => {
                log(&format!("handoff: cannot lock the data directory: {error}"));
                return Back::Held;
            }
        }
        let there = fs::read(self.dir.path().join(files::OWNER));
        let there = there.ok().and_then(|text| Owner::read(&text).ok());
        match there == Some(self.owner) {
            true => Back::Ours,
            false => Back::Changed,
        }
    }

    fn begin_anew(&mut self) {
        let mut command = Command::new("/proc/self/exe");
        let mut args = env::args_os();
        if let Some(name) = args.next() {
            command.arg0(name);
        }
        let left = self.clients.iter().try_for_each(sys::leave_open);
        command
            .args(args)
            .env("LISTEN_FDS", self.names.len().to_string())
            .env("LISTEN_FDNAMES", self.names.join(":"))
            .env_remove("HANDOFF_ROLE")
            .env_remove("HANDOFF_SOCK_FD")
            .env_remove("HANDOFF_HELLO_MS");
        // It comes back only if it fails.
        let error = left.err().unwrap_or_else(|| command.exec());
        log(&format!("handoff: cannot begin anew: {error}"));
        std::process::exit(70);
    }

    fn serves(&mut self) {
        if let Some((sender, served)) = self.told.take() {
            // Who is gone need not be told.
            let _ = sender.send(served);
        }
    }
}

fn wall_ms() -> Ms {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as Ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Environment, String> {
        let find = |name: &str| pairs.iter().find(|(known, _)| *known == name);
        Environment::read(|name| find(name).map(|(_, value)| value.to_string()))
    }

    fn found(names: Vec<String>, channel: Option<RawFd>, hello_ms: Ms) -> Environment {
        Environment {
            names,
            channel,
            hello_ms,
        }
    }

    #[test]
    fn the_environment_of_a_supervisor_is_understood() {
        assert_eq!(read(&[]), Ok(found(Vec::new(), None, 5000)));
        let cold = [("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "resp-0:unix-0")];
        let names = vec!["resp-0".to_string(), "unix-0".to_string()];
        assert_eq!(read(&cold), Ok(found(names.clone(), None, 5000)));
        let role = [("HANDOFF_ROLE", "successor"), ("HANDOFF_SOCK_FD", "5")];
        let successor = [cold, role].concat();
        assert_eq!(read(&successor), Ok(found(names.clone(), Some(5), 5000)));
        let patient = [("HANDOFF_HELLO_MS", "12000")];
        let patient = [&successor[..], &patient].concat();
        assert_eq!(read(&patient), Ok(found(names, Some(5), 12000)));
        let other = [("HANDOFF_ROLE", "x"), ("HANDOFF_SOCK_FD", "5")];
        assert_eq!(read(&other), Ok(found(Vec::new(), None, 5000)));
        // A supervisor's own activation is nothing to its children.
        assert_eq!(
            read(&[("LISTEN_PID", "1")]),
            Ok(found(Vec::new(), None, 5000))
        );
    }

    #[test]
    fn a_listener_that_nobody_would_serve_is_refused() {
        for (count, names) in [
            ("1", "metrics"),
            ("2", "resp"),
            ("1", ""),
            ("-1", ""),
            ("9999", ""),
        ] {
            let found = read(&[("LISTEN_FDS", count), ("LISTEN_FDNAMES", names)]);
            assert!(found.is_err(), "{count} {names}");
        }
        assert!(read(&[("HANDOFF_ROLE", "successor")]).is_err());
    }

    #[test]
    fn every_listener_has_a_core_and_every_core_a_listener() {
        let listener = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").expect("a port"));
        for (count, cores) in [(1, 1), (1, 4), (2, 3), (3, 2), (5, 5)] {
            let clients: Vec<OwnedFd> = (0..count).map(|_| listener()).collect();
            let of = |core| Inherited::clients_of(&clients, (core, cores)).count();
            let counts: Vec<usize> = (0..cores).map(of).collect();
            assert!(
                counts.iter().all(|count| *count > 0),
                "{count} {cores} {counts:?}"
            );
            assert_eq!(counts.iter().sum::<usize>(), count.max(cores));
        }
    }
}
