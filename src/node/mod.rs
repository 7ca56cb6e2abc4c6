//! The process: arguments, cores, signals.

mod args;
mod boot;
mod config;
mod fleet;
mod handoff;
mod key;
mod member;
mod preload;
mod supervise;
mod usage;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed, mpsc},
    thread,
    time::Duration,
    time::{SystemTime, UNIX_EPOCH},
};

pub use args::{Command, Options, Supervise, Upgrade, UsageError, parse};
use boot::{Boot, Taking};
pub use config::{ConfigFile, World};
use handoff::{House, Inherited};
use preload::Preload;
pub use supervise::{SuperviseError, supervise, upgrade};
use uring::{
    Doctor, Endpoint, KernelReactor, Reactor, RingConfig, Severity, Wake,
    affinity::{self, CoreNumber},
    sys,
};
pub use usage::usage;

use crate::{
    base::seed_histories,
    failover::{Place, Record, Stands},
    handoff::Redirected,
    journal::FileName,
    mesh,
    proof::NAME_MAX,
    recover::RecoverError,
    shard::{
        CertificateFiles, Core, Door, Election, Failovers, Keyring, Membership, NodeTls, Ownership,
        Settings, Shared, TlsPort, lock, log, read_users,
    },
    store::seed_collections,
    tools::DataError,
};

/// As in kevy.
const REPLICATION_ABOVE: usize = 10_000;
/// Descriptors that clients leave to files, other nodes and supervisors: so many, and more for each core and
/// each shard.
const DESCRIPTORS_KEPT: usize = 64;
const DESCRIPTORS_PER_PART: usize = 8;
/// The kernel takes 8 bytes for each.
const ROOM_FOR_DESCRIPTORS: u64 = 65_536;
/// Bytes of a segment of a journal.
const SEGMENT_LEN: u64 = 64 << 20;

/// Why the node did not start.
#[derive(Debug)]
pub enum StartError {
    /// The ring could not be set up.
    Ring(std::io::Error),
    /// An address could not be listened on.
    Listen(String, std::io::Error),
    /// A Lua state could not be made.
    Scripts(String),
    /// This port was to be for two things.
    PortTwice(u16, &'static str, &'static str),
    /// The address to listen on is none.
    Bind(String),
    /// The map of the slots cannot be used.
    Map(PathBuf, String),
    /// Cluster mode without an address to send clients to, or without ports for all shards.
    Cluster,
    /// The data directory cannot be used.
    Data(DataError),
    /// What is in it cannot be read.
    Recover(PathBuf, RecoverError),
    /// TLS cannot be had with these files.
    Tls(String),
    /// A supervisor cannot have it handed over.
    Handoff(String),
    /// The node cannot be a member of elections.
    Member(String),
    /// What is wrong with the file of the nodes' key.
    NodeKey(String),
    /// What is wrong with the file of users.
    Users(Vec<String>),
    /// The data directory is one of kevy, with this file in it.
    KevyData(String, String),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Ring(error) => write!(out, "cannot set up io_uring: {error}"),
            StartError::Listen(at, error) => write!(out, "cannot listen on {at}: {error}"),
            StartError::Scripts(error) => write!(out, "cannot set up scripts: {error}"),
            StartError::Cluster => write!(
                out,
                "cluster mode needs an address that clients can be sent to (--cluster-announce-ip) and a \
                 port below 65536 for each shard (--cluster-port)"
            ),
            StartError::Map(path, why) => write!(out, "cluster map {}: {why}", path.display()),
            StartError::Data(error) => write!(out, "{error}"),
            StartError::KevyData(dir, name) => write!(
                out,
                "{dir} holds data of a kevy ({name}), and nothing of them would be served: 'ringkeep import \
                 --kevy {dir} --dir OTHER' takes them over"
            ),
            StartError::Tls(text) => write!(out, "TLS: {text}"),
            StartError::Handoff(text) => write!(out, "handoff: {text}"),
            StartError::Member(text) => write!(out, "elections: {text}"),
            StartError::NodeKey(text) => write!(out, "node key: {text}"),
            StartError::Users(errors) => {
                let lines: Vec<&str> = errors.iter().map(|error| error.trim()).collect();
                out.write_str(&lines.join("\n"))
            }
            StartError::Recover(dir, error) => out.write_str(&error.within(dir)),
            StartError::PortTwice(port, one, other) => {
                write!(out, "port {port} is to be for {one} and for {other}")
            }
            StartError::Bind(text) => write!(
                out,
                "'{text}' is no address to listen on: give an IP address"
            ),
        }
    }
}

/// How many clients there can be, so that some descriptors are left for files, other nodes and supervisors.
fn clients_within(descriptors: u64, parts: usize) -> usize {
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let kept = DESCRIPTORS_KEPT + DESCRIPTORS_PER_PART * parts;
    descriptors.saturating_sub(kept).max(descriptors / 2)
}

/// Prints what the kernel offers and what hurts; the text of `ringkeep doctor`.
pub fn doctor() -> Doctor {
    uring::probe(&RingConfig::default())
}

/// Has a command that only prints end when nobody reads it any more.
pub fn only_prints() {
    sys::end_at_sigpipe();
}

/// Starts the cores and serves until a signal or SHUTDOWN.
///
/// # Errors
/// [`StartError`]: nothing was served.
pub fn run(options: &Options) -> Result<(), StartError> {
    let descriptors = sys::raise_descriptor_limit().unwrap_or(1024);
    // While there are no threads. Who has more than this opens them slowly, not never.
    let _ = sys::make_room_for_descriptors(descriptors.min(ROOM_FOR_DESCRIPTORS));
    sys::ignore_sigpipe();
    tell_settings(options);
    look_for_kevy(options)?;
    let cpus = if options.cpus.is_empty() {
        affinity::usable_cores()
            .into_iter()
            .map(|core| core.0)
            .collect()
    } else {
        options.cpus.clone()
    };
    let cores = options.threads.unwrap_or(cpus.len()).max(1);
    let shards = options.shards.unwrap_or(cores).max(1);
    let clients_max = clients_within(descriptors, cores + shards);
    // A core without a shard would only forward; that is allowed, it serves connections.
    let mut settings = Settings {
        port: options.port,
        bind: options.bind.join(" "),
        unix: options.unix.clone(),
        cores,
        shards,
        // A cluster has one.
        databases: match options.slots.is_some() || options.map.is_some() {
            true => 1,
            false => options.databases,
        },
        spin_us: options.spin_us,
        dir: options.dir.clone(),
        journals: options.journals.unwrap_or(options.dir.is_some()),
        segment_len: SEGMENT_LEN,
        clients_max,
        takes_time: true,
        announce: options
            .announce
            .map_or_else(|| options.bind.first().cloned(), |at| Some(at.to_string()))
            .unwrap_or_default(),
        slots: options.slots,
        replication_port: None,
    };
    // The run id is shown to clients; the seeds must not follow from it.
    let chance = RandomState::new();
    let seed = chance.hash_one(0);
    seed_collections(chance.hash_one(1));
    seed_histories(chance.hash_one(3));
    let preload = || {
        let dir = options.dir.as_ref()?;
        let wanted = boot::wanted(&settings);
        Some(Preload::begin(dir.as_ref(), wanted, &settings, seed))
    };
    let mut inherited = handoff::arrive(options, preload)?;
    let mut turn = inherited
        .as_mut()
        .and_then(|inherited| inherited.turn.take());
    let taking = match (&inherited, &turn) {
        (_, Some(turn)) => Taking::Over(turn.id),
        (Some(_), None) => Taking::First,
        (None, None) => Taking::Plainly,
    };
    let successor_of = turn.as_ref().map(|turn| turn.id);
    // A successor has ports beside those of the process that it follows.
    let mut ports = match turn {
        Some(_) => Ports::Beside,
        None => Ports::Claimed(Vec::new()),
    };
    let preload = turn.as_mut().and_then(|turn| turn.preload.take());
    let served = turn.map(handoff::Turn::accompany);
    let mut options = options.clone();
    if let Some(port) = inherited.as_ref().and_then(Inherited::port) {
        (options.port, settings.port) = (port, port);
    }
    let options = &options;
    let clients = inherited
        .as_ref()
        .map(|inherited| inherited.clients.clone());
    // Ports of ours for clients, beside those that were inherited.
    let port = clients
        .as_ref()
        .is_none_or(|clients| clients.is_empty())
        .then_some(options.port);
    let addresses = options
        .bind
        .iter()
        .map(|text| {
            text.parse::<IpAddr>()
                .map_err(|_| StartError::Bind(text.clone()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(first) = options.slots {
        let announced = options.announce.or(addresses.first().copied());
        if usize::from(first) + shards > usize::from(u16::MAX) + 1
            || announced.is_some_and(|address| address.is_unspecified())
        {
            return Err(StartError::Cluster);
        }
    }
    let of_shards =
        |first: u16| (0..shards as u16).filter_map(move |shard| first.checked_add(shard));
    let clusters = Vec::from_iter(options.slots.into_iter().flat_map(of_shards));
    let wanted = replication_wanted(options).and_then(|first| u16::try_from(first).ok());
    // Before any of them is looked at: what the node was told is wrong, whoever has the port now.
    one_use_each(&[
        ("clients", Vec::from_iter(port)),
        ("clients in TLS", Vec::from_iter(options.tls_port)),
        ("cluster clients", clusters.clone()),
        ("replicas", wanted.into_iter().flat_map(of_shards).collect()),
        ("elections", Vec::from_iter(member::port(options))),
        ("metrics", Vec::from_iter(options.metrics_port)),
    ])?;
    for (address, port) in clusters
        .into_iter()
        .chain(port)
        .chain(options.tls_port)
        .flat_map(|port| addresses.iter().map(move |address| (address, port)))
    {
        let at = SocketAddr::new(*address, port);
        let taken = ports.take(at);
        taken.map_err(|error| StartError::Listen(at.to_string(), error))?;
    }
    settings.replication_port = replication_port(options, &addresses, shards, &mut ports)?;
    let replication_port = settings.replication_port;
    let fleet = fleet::read(options)?;
    let elect_port = member::check(options, &addresses, replication_port, &mut ports)?;
    metrics_port(options, &addresses, &mut ports)?;
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let run_id = format!(
        "{:016x}{:016x}{:08x}",
        started.as_nanos() as u64,
        chance.hash_one(2),
        std::process::id()
    );
    let node_key = match &options.node_key_file {
        None => None,
        Some(path) => {
            // Where there are no members, others know it from themselves by this.
            let drawn = run_id.get(..NAME_MAX).unwrap_or(&run_id);
            let name = options.node_id.as_ref().map_or(drawn, |id| id.as_str());
            let key = key::read(path).map_err(StartError::NodeKey)?;
            Some(Keyring::new(key, path.clone(), name.to_string()))
        }
    };
    let mut shared = Shared::new(settings, started.as_millis() as u64, run_id);
    shared.node_key = node_key;
    shared.fleet = fleet;
    shared.election = elect_port.map(|_| Election::default());
    shared.scopes = options.node_id.and_then(|own| {
        let scopes = options.scopes.clone();
        (!scopes.is_empty()).then(|| Ownership::new(scopes, own.as_str(), &options.peers))
    });
    let record = match &options.dir {
        Some(dir) => member::read_record(dir.as_ref())?,
        None => Record::default(),
    };
    let mut replica_of = upstream(options, &record);
    shared.failovers = Failovers::new(record);
    if let Ok(mut tunables) = shared.tunables.write() {
        tunables.password = options.password.clone();
        tunables.protects = options.protects;
        tunables.primary_user = options.primary_user.clone();
        tunables.primary_password = options.primary_password.clone();
        tunables.fsync = options.fsync;
        tunables.replicas_min = options.replicas_min;
        tunables.quorum_writes = options.quorum_writes;
        tunables.staleness_max_ms = options.staleness_max_ms;
        tunables.save_points = options.save_points.clone();
        for (name, text) in &options.parameters {
            if let Err(why) = tunables.set(name, text) {
                log(&format!("{name} stays as it was: {why}"));
            }
        }
        shared.scripts.running().set_busy_ms(tunables.busy_ms);
    }
    shared.tls = tls_port(options, &shared)?;
    shared.node_tls = node_tls(options, &shared)?;
    if let Some(file) = &options.config {
        // As the file has it.
        lock(&shared.told_to_follow).clone_from(&options.replica_of);
        let is_led = !options.peers.is_empty();
        let rewrite = config::rewriter(file, shared.parameters(), is_led);
        // Nobody else sets it.
        let _ = shared.rewrite.set(rewrite);
    }
    // Cores look at it before their first turn, with a data directory or without.
    shared.tunables_version.fetch_add(1, Relaxed);
    if !options.password.is_empty() {
        shared.set_default_password(&options.password);
    }
    if let Some(path) = &options.acl_file {
        let users = read_users(path).map_err(StartError::Users)?;
        *lock(&shared.users) = Arc::new(users);
        shared.acl_file = Some(path.clone());
    }
    shared.remember_start(config::is_live);
    // Until they have been counted.
    let needs_replicas = options.replicas_min > 0;
    shared.lacks_replicas.store(needs_replicas, Relaxed);
    let shared = Arc::new(shared);
    let boot = match &options.dir {
        None => None,
        Some(dir) => Some(Boot::survey(
            dir.as_ref(),
            &shared,
            seed,
            (taking, preload),
        )?),
    };
    let redirected = boot.as_ref().and_then(|boot| boot.redirected.as_ref());
    // Who is given something else than the process before is to do that; members are told by elections.
    let is_meant = |known: &&Redirected| known.asked == options.replica_of && elect_port.is_none();
    if let Some(redirected) = redirected.filter(is_meant) {
        replica_of = redirected.follows.clone();
        log(&match &replica_of {
            None => "handoff: following nobody, as the process before".into(),
            Some((host, port)) => {
                format!("handoff: following {host}:{port}, as the process before")
            }
        });
    }
    *lock(&shared.told_to_follow) = replica_of.clone();
    let mut membership = match (&options.dir, elect_port) {
        (Some(dir), Some(_)) => {
            let membership = member::read(options, dir.as_ref(), chance.hash_one(4))?;
            let led = boot.as_ref().map_or(0, |boot| boot.led);
            Some(Membership { led, ..membership })
        }
        _ => None,
    };
    if membership.as_ref().is_some_and(|member| member.led > 0) {
        shared.handover.wait();
    }

    let mut house = inherited
        .as_ref()
        .zip(boot.as_ref())
        .map(|(inherited, boot)| {
            shared.handover.owner.store(boot.owner.number, Relaxed);
            let taken = (boot.dir(), boot.owner, boot.revisions.clone());
            let role = (options.replica_of.clone(), shared.clone());
            House::new(inherited, taken, served, role)
        });

    // The directory is ours, so the incumbent has let it go.
    let passage = options
        .handoff
        .as_ref()
        .zip(successor_of)
        .filter(|_| options.passes_clients)
        .and_then(|(path, id)| handoff::Passage::ask(Path::new(path), id));
    if passage.is_some() {
        shared.handover.wait();
    }

    // Every core makes its ring on its own thread (a ring belongs to the thread that made it) and
    // hands its waker over; the mailboxes are built from all wakers and handed back.
    let (to_main, from_cores) = mpsc::channel();
    let mut threads = Vec::new();
    let mut mesh_senders = Vec::new();
    for core in 0..cores {
        let (mesh_sender, mesh_receiver) = mpsc::channel();
        mesh_senders.push(mesh_sender);
        let to_main = to_main.clone();
        let shared = shared.clone();
        let (options, addresses) = (options.clone(), addresses.clone());
        let membership = membership.take();
        let (house, clients) = (house.take(), clients.clone());
        let replica_of = replica_of.clone();
        let cpu = (!cpus.is_empty() && options.pin).then(|| cpus[core % cpus.len()]);
        let thread = std::thread::Builder::new().name(format!("core-{core}"));
        let spawned = thread.spawn(move || {
            let _guard = WholeOrNothing;
            if let Some(cpu) = cpu {
                // Running unpinned is slower, not wrong.
                if !affinity::pin_current_thread(CoreNumber(cpu)) {
                    log(&format!("core {core}: cannot be pinned to CPU {cpu}"));
                }
            }
            let config = RingConfig {
                level: options.level,
                ..RingConfig::default()
            };
            let reactor = match KernelReactor::new(config) {
                Ok(reactor) => reactor,
                Err(error) => return drop(to_main.send(Err(StartError::Ring(error)))),
            };
            if core == 0 {
                let text = format!("{:?}", reactor.choice().level).to_lowercase();
                *lock(&shared.ring) = text;
            }
            if to_main.send(Ok((core, Some(reactor.waker())))).is_err() {
                return;
            }
            let Ok(mesh) = mesh_receiver.recv() else {
                return;
            };
            let core_seed = seed.wrapping_add(core as u64);
            let mut core_loop = match Core::new(reactor, mesh, shared.clone(), core_seed) {
                Ok(core_loop) => core_loop,
                Err(error) => {
                    return drop(to_main.send(Err(StartError::Scripts(error.to_string()))));
                }
            };
            let addresses_of_links = addresses.clone();
            let clients = clients.as_deref();
            for client in clients
                .into_iter()
                .flat_map(|clients| Inherited::clients_of(clients, (core, cores)))
            {
                match client.try_clone() {
                    Ok(client) => core_loop.adopt(client, Door::Plain),
                    Err(error) => {
                        let at = "an inherited listener".into();
                        return drop(to_main.send(Err(StartError::Listen(at, error))));
                    }
                }
            }
            for address in addresses {
                let own = options.slots.into_iter().flat_map(|first| {
                    let shards = (core..shards).step_by(cores);
                    shards.map(move |shard| (first + shard as u16, Door::Shard(shard)))
                });
                let plain = port.map(|port| (port, Door::Plain));
                let tls = options.tls_port.map(|port| (port, Door::Tls));
                for (port, door) in own.chain(plain).chain(tls) {
                    let at = SocketAddr::new(address, port);
                    let endpoint = Endpoint::Tcp(at);
                    let listened = match clients {
                        None => core_loop.listen(&endpoint, door),
                        // One that can be left for a while.
                        Some(_) => sys::listener(&endpoint, 1024)
                            .map(|listener| core_loop.adopt(listener, door)),
                    };
                    if let Err(error) = listened {
                        let at = at.to_string();
                        return drop(to_main.send(Err(StartError::Listen(at, error))));
                    }
                }
            }
            for (own, shard) in (core..shards).step_by(cores).enumerate() {
                for address in replication_port.iter().flat_map(|_| &addresses_of_links) {
                    let port = replication_port.unwrap_or_default() + shard as u16;
                    let at = SocketAddr::new(*address, port);
                    if let Err(error) = core_loop.serve_replicas(&Endpoint::Tcp(at), own) {
                        let at = at.to_string();
                        return drop(to_main.send(Err(StartError::Listen(at, error))));
                    }
                }
            }
            if let (0, Some(path)) = (core, &options.unix)
                && let Err(error) = core_loop.listen(&Endpoint::Unix(path.into()), Door::Plain)
            {
                return drop(to_main.send(Err(StartError::Listen(path.clone(), error))));
            }
            for address in &addresses_of_links {
                let Some(port) = options.metrics_port.filter(|_| core == 0) else {
                    break;
                };
                let at = SocketAddr::new(*address, port);
                if let Err(error) = core_loop.tell_metrics(&Endpoint::Tcp(at)) {
                    let at = format!("metrics port {at}");
                    return drop(to_main.send(Err(StartError::Listen(at, error))));
                }
            }
            if let Some(dir) = &options.dir {
                core_loop.keep(dir.into());
            }
            if let (Some(house), Some(path)) = (house, &options.handoff)
                && let Err(error) = core_loop.hand_over(path.into(), Box::new(house))
            {
                return drop(to_main.send(Err(StartError::Listen(path.clone(), error))));
            }
            if let (Some(membership), Some(port)) = (membership, elect_port) {
                let addresses = addresses_of_links.iter();
                let at: Vec<_> = addresses
                    .map(|address| Endpoint::Tcp(SocketAddr::new(*address, port)))
                    .collect();
                if let Err(error) = core_loop.take_part(membership, &at) {
                    let at = format!("port {port} for elections");
                    return drop(to_main.send(Err(StartError::Listen(at, error))));
                }
            }
            if core == 0
                && let Err(error) = core_loop.serve_failovers(options.dir.as_ref().map(Path::new))
            {
                return drop(to_main.send(Err(StartError::Ring(error))));
            }
            if let (0, Some((host, port))) = (core, replica_of) {
                core_loop.follow(host, port);
            }
            if to_main.send(Ok((core, None))).is_err() {
                return;
            }
            if let Err(error) = core_loop.run() {
                // Half a node would answer for keys that it lost; no node is better.
                log(&format!("core {core}: the ring failed: {error}"));
                std::process::exit(70);
            }
        });
        threads.push(spawned.map_err(StartError::Ring)?);
    }
    let mut wakers = vec![None; cores];
    for _ in 0..cores {
        if let Ok(message) = from_cores.recv() {
            let (core, waker) = message?;
            wakers[core] = waker;
        }
    }
    let wakers: Vec<_> = wakers.into_iter().flatten().collect();
    if let Some(waker) = wakers.first() {
        let boxed = wakers
            .iter()
            .map(|waker| Box::new(waker.clone()) as Box<dyn Wake + Send + Sync>)
            .collect();
        for (sender, mesh) in mesh_senders.into_iter().zip(mesh::build(boxed)) {
            // A core that is gone has already said why.
            let _ = sender.send(mesh);
        }
        for _ in 0..cores {
            if let Ok(message) = from_cores.recv() {
                message?;
            }
        }
        drop(ports);
        let signals = sys::watch_termination(waker).map_err(StartError::Ring)?;
        // Every core looks at it once per beat.
        let _ = shared.signals.set(signals);
        if let Some(boot) = boot {
            boot.start(&shared, &wakers);
        }
        if let Some(passage) = passage {
            passage.accompany(shared.clone(), wakers.clone());
        }
        log(&format!(
            "ringkeep {} ready on {}:{}, {cores} core(s), {shards} shard(s), ring {}, \
             {descriptors} descriptors{}",
            env!("CARGO_PKG_VERSION"),
            options.bind.join(" "),
            options.port,
            lock(&shared.ring),
            options
                .tls_port
                .map_or(String::new(), |port| format!(", TLS on port {port}"))
                + match options.tls_replication {
                    true => ", links between nodes in TLS",
                    false => "",
                },
        ));
    }
    for thread in threads {
        let _ = thread.join();
    }
    if let Some(path) = &options.unix {
        let _ = std::fs::remove_file(path);
    }
    log("stopped");
    Ok(())
}

/// The port for TLS, if there is to be one, with what it serves with.
fn tls_port(options: &Options, shared: &Shared) -> Result<Option<TlsPort>, StartError> {
    let Some(port) = options.tls_port else {
        return Ok(None);
    };
    let certificates = certificate_files(shared).read().map_err(StartError::Tls)?;
    Ok(Some(TlsPort::new(port, certificates)))
}

/// What links between nodes are made with, if they are to be in TLS.
fn node_tls(options: &Options, shared: &Shared) -> Result<Option<NodeTls>, StartError> {
    if !options.tls_replication {
        return Ok(None);
    }
    let read = certificate_files(shared).read_for_nodes();
    read.map(|certificates| Some(NodeTls::new(certificates)))
        .map_err(StartError::Tls)
}

fn certificate_files(shared: &Shared) -> CertificateFiles {
    let tunables = shared.tunables.read();
    tunables.map_or_else(|_| Default::default(), |all| all.certificates.clone())
}

/// Which file there was, and what of it is left out.
fn tell_settings(options: &Options) {
    options.notes.iter().for_each(|note| log(note));
    if let Some(file) = &options.config {
        let defaults = match file.is_kevy {
            true => ", with kevy's defaults for what it leaves out",
            false => "",
        };
        log(&format!("settings from {}{defaults}", file.path.display()));
    }
}

/// A kevy.toml names the directory that kevy had, and a node that starts there without data would seem to
/// have lost them.
fn look_for_kevy(options: &Options) -> Result<(), StartError> {
    let is_kevy = options.config.as_ref().is_some_and(|file| file.is_kevy);
    let Some(dir) = options.dir.as_ref().filter(|_| is_kevy) else {
        return Ok(());
    };
    if Path::new(dir).join(FileName::Meta.to_string()).exists() {
        return Ok(());
    }
    // What is not there yet has nothing in it; what cannot be read is told of by who opens it.
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let is_data = |name: &String| {
        name == "shards.meta"
            || name.starts_with("aof-") && name.ends_with(".aof")
            || name.starts_with("dump-") && name.ends_with(".rdb")
    };
    match names.find(is_data) {
        Some(name) => Err(StartError::KevyData(dir.clone(), name)),
        None => Ok(()),
    }
}

/// Whom the node follows at first: a failover's word is younger than the command line.
fn upstream(options: &Options, record: &Record) -> Option<(String, u16)> {
    let asked = options.replica_of.clone();
    let found = match &record.stands {
        Stands::AsStarted => return asked,
        Stands::Primary => None,
        // It is gone on with, and nobody is followed before it has ended.
        Stands::Replica(_) if record.open.is_some() => return None,
        Stands::Replica(Place { host, port }) => Some((host.clone(), *port)),
    };
    if found != asked {
        let text = |of: &Option<(String, u16)>| match of {
            None => "no replica".to_string(),
            Some((host, port)) => format!("a replica of {host}:{port}"),
        };
        log(&format!(
            "{}, as a failover has left it, not {} as the command line says; REPLICAOF changes that",
            text(&found),
            text(&asked)
        ));
    }
    found
}

/// Ends the process when a core panics: half a node would answer for keys that it lost.
struct WholeOrNothing;

impl Drop for WholeOrNothing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::exit(70);
        }
    }
}

/// The port on which replicas of the first shard are to connect; none where clients need a password and
/// replicas nothing, unless it was asked for.
fn replication_wanted(options: &Options) -> Option<usize> {
    let is_guarded = !options.password.is_empty() || options.acl_file.is_some();
    match options.replication_port {
        Some(0) => None,
        // Without a key of the nodes, or their certificates, it asks nobody who they are.
        None if is_guarded && options.node_key_file.is_none() && !options.tls_replication => None,
        Some(first) => Some(usize::from(first)),
        None => Some(usize::from(options.port) + REPLICATION_ABOVE),
    }
}

/// The same, if it can be listened on. One that nobody asked for is left out where the ports are taken or do
/// not exist.
fn replication_port(
    options: &Options,
    addresses: &[IpAddr],
    shards: usize,
    ports: &mut Ports,
) -> Result<Option<u16>, StartError> {
    let Some(first) = replication_wanted(options) else {
        return Ok(None);
    };
    let is_asked = options.replication_port.is_some();
    for port in first..first + shards {
        let bound = u16::try_from(port).map_err(|_| std::io::Error::from(ErrorKind::InvalidInput));
        let bound = bound.and_then(|port| {
            let mut addresses = addresses.iter();
            addresses.try_for_each(|address| ports.take(SocketAddr::new(*address, port)))
        });
        if let Err(error) = bound {
            if is_asked {
                return Err(StartError::Listen(
                    format!("replication port {port}"),
                    error,
                ));
            }
            log(&format!("no replicas: replication port {port}: {error}"));
            return Ok(None);
        }
    }
    Ok(Some(first as u16))
}

/// Refuses a port that is to be for two things: the kernel would share it between them without an error.
fn one_use_each(uses: &[(&'static str, Vec<u16>)]) -> Result<(), StartError> {
    let mut seen = HashMap::new();
    for (use_, port) in uses
        .iter()
        .flat_map(|(use_, ports)| ports.iter().map(move |port| (*use_, *port)))
    {
        if let Some(other) = seen.insert(port, use_) {
            return Err(StartError::PortTwice(port, other, use_));
        }
    }
    Ok(())
}

/// Takes the port of metrics.
fn metrics_port(
    options: &Options,
    addresses: &[IpAddr],
    ports: &mut Ports,
) -> Result<(), StartError> {
    let Some(port) = options.metrics_port else {
        return Ok(());
    };
    for address in addresses {
        let at = SocketAddr::new(*address, port);
        let bound = ports.take(at);
        bound.map_err(|error| StartError::Listen(format!("metrics port {at}"), error))?;
    }
    Ok(())
}

/// The ports that the node is to listen on, from when it has looked at them until its listeners are there.
/// These share theirs, with those of other cores and of a successor. Two nodes that start in the same moment
/// would share one just so, and each would serve a part of the other's clients and replicas.
enum Ports {
    /// They are another process's, which is followed: a look would take connections that are its.
    Beside,
    /// Nobody else's.
    Claimed(Vec<OwnedFd>),
}

impl Ports {
    fn take(&mut self, at: SocketAddr) -> std::io::Result<()> {
        if let Ports::Claimed(claims) = self {
            claims.push(claim(at)?);
        }
        Ok(())
    }
}

/// How often, and when again: 5 s in all.
const CLAIM_TRIES: u32 = 100;
const CLAIM_AGAIN: Duration = Duration::from_millis(50);

/// Claims an address. The listeners of a node that was killed live on until the kernel has taken its rings
/// apart, which takes a moment.
fn claim(at: SocketAddr) -> std::io::Result<OwnedFd> {
    let mut tries = 0;
    loop {
        match sys::claim(&at) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && tries < CLAIM_TRIES => {
                if tries == 0 {
                    log(&format!("{at} is in use; waiting for it"));
                }
                tries += 1;
                thread::sleep(CLAIM_AGAIN);
            }
            other => return other,
        }
    }
}

/// Prints the doctor's findings; true if nothing forbids to start.
pub fn print_doctor(doctor: &Doctor) -> bool {
    println!("kernel {}", doctor.kernel);
    match &doctor.chosen {
        Ok(choice) => {
            let features = &choice.features;
            println!("ring level: {:?}", choice.level);
            for refusal in &choice.refused {
                println!("  not {:?}: {:?}", refusal.level, refusal.reason);
            }
            let yes = |flag: bool| if flag { "yes" } else { "no" };
            println!("  submission entries        {}", features.sq_entries);
            println!("  completion entries        {}", features.cq_entries);
            println!(
                "  multishot accept          {}",
                yes(features.accept_multishot)
            );
            println!(
                "  multishot receive         {}",
                yes(features.recv_multishot)
            );
            println!("  zero-copy send            {}", yes(features.send_zc));
            println!("  wait with timeout         {}", yes(features.ext_arg));
            println!("  rename and remove files   {}", yes(features.names));
            println!("  reserve disk space        {}", yes(features.reserve));
            println!(
                "  registered ring           {}",
                yes(features.registered_descriptor)
            );
            println!("  no iowait accounting      {}", yes(features.no_iowait));
            println!(
                "  registered buffers        {}",
                yes(doctor.can_register_buffers)
            );
        }
        Err(error) => println!("ring: {error}"),
    }
    for finding in &doctor.findings {
        let mark = match finding.severity {
            Severity::Fine => "ok",
            Severity::Slower => "slower",
            Severity::Limiting => "limit",
            Severity::Fatal => "fatal",
        };
        println!("{mark:>6}  {}: {}", finding.subject, finding.found);
        if !finding.remedy.is_empty() {
            println!("        {}", finding.remedy);
        }
    }
    !doctor
        .findings
        .iter()
        .any(|finding| finding.severity == Severity::Fatal)
}
