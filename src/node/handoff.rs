//! A node that a supervisor starts and replaces: what it inherits, how a successor waits for its turn, and
//! the data directory on its way from one process to the next.

use std::{
    env, fs,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener},
    os::{
        fd::{OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::Command,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use uring::sys;

use super::{Options, StartError};
use crate::{
    base::{Ms, Position},
    handoff::{
        Id, Owner, Seal, Successor, files,
        successor::{Effect, Event},
    },
    recover::Plan,
    shard::{Back, Estate, log},
    tools::DataDir,
};

/// Listeners that a supervisor may hold.
const LISTENERS_MAX: u16 = 1000;
/// A successor that loads looks after its supervisor this often.
const LOOK: Duration = Duration::from_millis(5);

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
    channel: Channel,
}

/// What the environment says.
#[derive(PartialEq, Eq, Debug, Default)]
struct Environment {
    names: Vec<String>,
    /// The descriptor on which a successor finds its supervisor.
    channel: Option<RawFd>,
}

/// Takes what was inherited, before anything else is opened. A successor then waits here until it is its
/// turn, and may wait for long.
///
/// # Errors
/// The supervisor left something that cannot be used, or has given up.
pub(super) fn arrive(options: &Options) -> Result<Option<Inherited>, StartError> {
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
        turn: channel.map(Channel::greet).transpose()?,
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
        Ok(Self { names, channel })
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
    /// Says hello and waits for its turn.
    fn greet(fd: OwnedFd) -> Result<Turn, StartError> {
        let build = concat!("ringkeep ", env!("CARGO_PKG_VERSION"));
        let (machine, hello) = Successor::new(std::process::id(), build.as_bytes(), 0);
        let mut channel = Channel {
            stream: UnixStream::from(fd),
            machine,
            began: Instant::now(),
            effects: vec![hello],
        };
        let blocking = channel.stream.set_nonblocking(false);
        blocking.map_err(|error| StartError::Handoff(error.to_string()))?;
        loop {
            for effect in std::mem::take(&mut channel.effects) {
                match effect {
                    Effect::Begin(id) => return Ok(Turn { id, channel }),
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

/// Checks that a directory is what the incumbent has sealed for this handoff. Where each shard goes on.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn check_seal(dir: &Path, id: Id, plans: &[Plan]) -> Result<Vec<u64>, String> {
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
    Ok(seal.revisions())
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
    /// Whom to tell that all is served, and what.
    told: Option<(mpsc::Sender<Served>, Served)>,
}

impl House {
    /// Of a node that has taken the directory; a successor tells with `sender` when it serves.
    pub fn new(
        inherited: &Inherited,
        (dir, owner, revisions): (Arc<DataDir>, Owner, Vec<u64>),
        sender: Option<mpsc::Sender<Served>>,
    ) -> Self {
        Self {
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
    fn let_go(&mut self, id: Id, ends: Vec<Position>) -> io::Result<[u8; 32]> {
        let seal = Seal {
            id,
            owner: self.owner.number,
            ends,
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
            .env_remove("HANDOFF_SOCK_FD");
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

    #[test]
    fn the_environment_of_a_supervisor_is_understood() {
        assert_eq!(read(&[]), Ok(Environment::default()));
        let cold = [("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "resp-0:unix-0")];
        let names = vec!["resp-0".to_string(), "unix-0".to_string()];
        let channel = None;
        assert_eq!(
            read(&cold),
            Ok(Environment {
                names: names.clone(),
                channel
            })
        );
        let role = [("HANDOFF_ROLE", "successor"), ("HANDOFF_SOCK_FD", "5")];
        let channel = Some(5);
        assert_eq!(
            read(&[cold, role].concat()),
            Ok(Environment { names, channel })
        );
        let other = [("HANDOFF_ROLE", "x"), ("HANDOFF_SOCK_FD", "5")];
        assert_eq!(read(&other), Ok(Environment::default()));
        // A supervisor's own activation is nothing to its children.
        assert_eq!(read(&[("LISTEN_PID", "1")]), Ok(Environment::default()));
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
