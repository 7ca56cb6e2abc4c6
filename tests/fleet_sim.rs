//! Fleets that elect their primary, in a simulated world.
//!
//! Whole nodes run on the in-memory twin of the ring, three of them: the shipped cores with elector, links,
//! journal and gate of writes, under virtual time. A seed decides who has a turn next, which machine loses
//! its power (and what its disk had not synced), which process stops for a while, who cannot reach whom, and
//! when somebody wants the part of the primary to be elsewhere (FAILOVER). Clients write to whoever accepts
//! it and ask with WAITAOF whether a majority has it. In every other seed they need not ask: a reply says so
//! (`quorum-writes yes`). In every other pair of seeds the nodes prove a key to each other (`node-key-file`).
//!
//! After every step at most one node has its gate open. When all has healed there is one primary, everybody
//! holds the same, and every write that a majority acknowledged is there.
//!
//! `RINGKEEP_FLEET_SEEDS=1000 cargo test --release --test fleet_sim` runs more seeds, `RINGKEEP_FLEET_FIRST`
//! says from which one on.

mod world;

use std::{
    collections::BTreeSet,
    env,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
};

use ringkeep::{
    base::Rng,
    elect::{self, Ballot, NodeId, Places, Timings, parse_peers},
    journal::{FileName, meta::Meta},
    mesh,
    proof::NodeKey,
    recover,
    route::Routing,
    shard::{
        BALLOT, Core, Door, Election, Fsync, Keyring, Loaded, Membership, Message, PLACES,
        Settings, Shared, Start,
    },
};
use uring::{
    Endpoint, Event, Outgoing, Reactor, SocketId, Wait, Wake,
    fake::{FakeReactor, FakeWorld, Machine},
};
use world::{DIR, Disk, Reply, parse, request};

/// Seeds of the unit stage.
const SEEDS: u64 = 40;

const NAMES: [&str; 3] = ["a", "b", "c"];
const CLIENTS: Machine = Machine(9);
const PORT: u16 = 6000;
const MS: u64 = 1_000_000;

type Outcome<T> = Result<T, String>;

struct Node {
    shared: Arc<Shared>,
    cores: Vec<Core<FakeReactor>>,
    /// It is stopped until then.
    stopped: u64,
}

/// A connection of the client, to one node.
#[derive(Default)]
struct Line {
    socket: Option<SocketId>,
    is_connected: bool,
    is_sending: bool,
    out: Vec<u8>,
    received: Vec<u8>,
    /// Writes whose replies are awaited, and since when.
    asked: Vec<u64>,
    since: u64,
    /// The first of them was accepted.
    is_accepted: bool,
}

struct Fleet {
    world: FakeWorld,
    rng: Rng,
    cores: usize,
    shards: usize,
    /// `quorum-writes`.
    quorum: bool,
    /// Links are opened with a key.
    has_key: bool,
    nodes: [Option<Node>; 3],
    /// When a machine without power has it again.
    back: [u64; 3],
    ring: FakeReactor,
    lines: [Line; 3],
    /// Whom the client takes for the primary.
    target: usize,
    writes: u64,
    /// It writes nothing more.
    is_quiet: bool,
    /// Those that a majority acknowledged.
    acked: BTreeSet<u64>,
    seen: Seen,
    /// Shown when something is wrong.
    trace: Vec<String>,
    /// What the nodes said of themselves last.
    told: [String; 3],
}

/// What happened.
#[derive(Default, Debug)]
struct Seen {
    crashes: u64,
    stops: u64,
    cuts: u64,
    one_way: u64,
    epochs: u64,
    accepted: u64,
    acked: u64,
    agreed: u64,
    unanswered: u64,
    fenced: u64,
    begun: u64,
    handed_over: u64,
}

fn machine(at: usize) -> Machine {
    Machine(at as u8 + 1)
}

impl Fleet {
    fn seeded(seed: u64) -> Fleet {
        let world = FakeWorld::seeded(seed);
        let mut rng = Rng::seeded(seed);
        let (cores, shards) = (1 + rng.below(2) as usize, 1 + rng.below(2) as usize);
        Fleet {
            ring: world.reactor(CLIENTS),
            world,
            rng,
            cores,
            shards,
            quorum: seed % 2 == 1,
            has_key: seed % 4 >= 2,
            nodes: [None, None, None],
            back: [0; 3],
            lines: Default::default(),
            target: 0,
            writes: 0,
            is_quiet: false,
            acked: BTreeSet::new(),
            seen: Seen::default(),
            trace: Vec::new(),
            told: Default::default(),
        }
    }

    fn now(&self) -> u64 {
        self.world.now()
    }

    fn note(&mut self, what: &str) {
        self.trace.push(format!("{:>7} {what}", self.now() / MS));
    }

    /// Notes what has changed on the nodes.
    fn note_changes(&mut self) {
        for (at, name) in NAMES.iter().enumerate() {
            let told = self.nodes[at].as_ref().map(|node| {
                let election = node.shared.election.as_ref().expect("it is a member");
                let view = election.view.lock().expect("nobody panicked");
                let view = view.as_ref().map(|view| {
                    let (role, epoch, history) = (view.role, view.epoch.0, view.history.0);
                    let text = format!("{role:?} in {epoch}, primary {:?}", view.primary);
                    (format!("{text}, data of {history}"), view.offset)
                });
                view.unwrap_or(("starts".into(), 0))
            });
            let (told, offset) = told.unwrap_or(("down".into(), 0));
            if told != self.told[at] {
                self.note(&format!("{name}: {told} up to {offset}"));
                self.told[at] = told;
            }
        }
    }

    // ---- nodes ----

    /// Starts a node, as `node::run` does.
    fn boot(&mut self, at: usize) -> Outcome<()> {
        let text = |error: &dyn std::fmt::Display| format!("{} does not start: {error}", NAMES[at]);
        // What two nodes begin in one millisecond has one name here: they share the process.
        self.world.advance(2 * MS);
        let world = self.world.clone();
        let here = machine(at);
        let disk = Disk(&world, here);
        let meta = Meta {
            shard_count: self.shards as u32,
            routing: 0,
        };
        let unnamed = recover::unnamed(&disk).map_err(|error| text(&error))?;
        for name in &unnamed.snapshots {
            let from = Path::new(DIR).join(name.unfinished());
            let bytes = world.read_file(here, &from).unwrap_or_default();
            world.write_file(here, &Path::new(DIR).join(name.to_string()), &bytes);
            world.remove_file(here, &from);
        }
        let bundles = unnamed.bundles.iter().map(FileName::to_string);
        let names = recover::Files::names(&disk).map_err(|error| text(&error))?;
        let unfinished = names.into_iter();
        let unfinished = unfinished.filter(|name| FileName::is_unfinished(name));
        for name in bundles.chain(unfinished) {
            world.remove_file(here, &Path::new(DIR).join(name));
        }
        let plans = recover::survey(&disk, &meta).map_err(|error| text(&error))?;
        for name in plans.iter().flat_map(|plan| plan.unused.iter()) {
            world.remove_file(here, &Path::new(DIR).join(name.to_string()));
        }
        let settings = Settings {
            port: PORT,
            bind: here.ip().to_string(),
            unix: None,
            cores: self.cores,
            shards: self.shards,
            databases: 1,
            spin_us: 0,
            dir: Some(DIR.into()),
            announce: String::new(),
            slots: None,
            journals: true,
            replication_port: Some(PORT + 10_000),
            segment_len: 1 << 18,
            clients_max: usize::MAX,
            takes_time: false,
        };
        let now_ms = world.now() / MS;
        let mut shared = Shared::new(settings, now_ms, String::new());
        shared.election = Some(Election::default());
        if self.has_key {
            let key = NodeKey::of_file(b"a secret of the fleet").map_err(|error| text(&error))?;
            shared.node_key = Some(Keyring::new(key, "key".into(), NAMES[at].into()));
        }
        let shared = Arc::new(shared);
        if let Ok(mut tunables) = shared.tunables.write() {
            (tunables.fsync, tunables.quorum_writes) = (Fsync::Always, self.quorum);
        }
        shared.tunables_version.fetch_add(1, SeqCst);
        let loading = &shared.durable.loading;
        loading.shards.store(self.shards, SeqCst);
        shared.loading.store(true, SeqCst);
        for plan in plans {
            let place = recover::Place {
                shard: plan.shard,
                shards: self.shards,
                databases: 1,
                routing: Routing::KevyHash,
                seed: plan.shard as u64,
            };
            let shard = recover::load(&disk, &plan, place, |_| ()).map_err(|error| text(&error))?;
            loading.put(Loaded {
                shard,
                start: Start::after(plan, meta.routing, now_ms, false),
            });
        }
        let reactors: Vec<_> = (0..self.cores).map(|_| world.reactor(here)).collect();
        let wakers = reactors.iter();
        let wakers = wakers.map(|reactor| Box::new(reactor.waker()) as Box<dyn Wake + Send + Sync>);
        let meshes = mesh::build::<Message>(wakers.collect());
        let mut cores = Vec::new();
        for (number, (reactor, mesh)) in reactors.into_iter().zip(meshes).enumerate() {
            let seed = self.rng.next_u64();
            let mut core =
                Core::new(reactor, mesh, shared.clone(), seed).map_err(|error| text(&error))?;
            let port = |port: u16| Endpoint::Tcp(SocketAddr::new(here.ip(), port));
            core.listen(&port(PORT), Door::Plain)
                .map_err(|error| text(&error))?;
            for (own, shard) in (number..self.shards).step_by(self.cores).enumerate() {
                let at = port(PORT + 10_000 + shard as u16);
                core.serve_replicas(&at, own)
                    .map_err(|error| text(&error))?;
            }
            core.keep(DIR.into());
            if number == 0 {
                let membership = self.membership(at)?;
                let ports = [port(PORT + 200)];
                core.take_part(membership, &ports)
                    .map_err(|error| text(&error))?;
                core.serve_failovers(Some(Path::new(DIR)))
                    .map_err(|error| text(&error))?;
            }
            core.begin();
            cores.push(core);
        }
        self.nodes[at] = Some(Node {
            shared,
            cores,
            stopped: 0,
        });
        Ok(())
    }

    fn membership(&mut self, at: usize) -> Outcome<Membership> {
        let file = |name: &str| {
            self.world
                .read_file(machine(at), &Path::new(DIR).join(name))
        };
        let ballot = file(BALLOT).map(|bytes| Ballot::read(&bytes)).transpose();
        let places = file(PLACES).map(|bytes| Places::read(&bytes)).transpose();
        let list = NAMES.iter().enumerate().map(|(at, name)| {
            let (ip, port) = (machine(at).ip(), PORT);
            format!("{name}@{ip}:{}:{port}", port + 200)
        });
        let list: Vec<_> = list.collect();
        Ok(Membership {
            settings: elect::Settings {
                id: NodeId::new(NAMES[at]).expect("a name"),
                peers: parse_peers(&list.join(",")).expect("a list"),
                address: String::new(),
                timings: Timings::within(600),
                check_source: true,
                seed: self.rng.next_u64(),
            },
            dir: DIR.into(),
            ballot: ballot
                .map_err(|fault| fault.to_string())?
                .unwrap_or_default(),
            places: places.map_err(|fault| fault.to_string())?,
            led: 0,
        })
    }

    fn crash(&mut self, at: usize) {
        self.count_unanswered(at);
        self.nodes[at] = None;
        self.world.crash(machine(at));
        self.lines[at] = Line::default();
        self.back[at] = self.now() + (200 + self.rng.below(4000)) * MS;
        self.seen.crashes += 1;
        self.note(&format!("{} loses its power", NAMES[at]));
    }

    fn count_unanswered(&mut self, at: usize) {
        let node = self.nodes[at].as_ref();
        let election = node.and_then(|node| node.shared.election.as_ref());
        self.seen.unanswered += election.map_or(0, |election| election.unanswered.load(Relaxed));
    }

    /// Is the gate of writes open there?
    fn is_open(&self, at: usize) -> bool {
        self.nodes[at].as_ref().is_some_and(|node| {
            let election = node.shared.election.as_ref().expect("it is a member");
            let until = election.writes_until.load(SeqCst);
            !node.shared.following.load(SeqCst) && until > self.now() / MS
        })
    }

    // ---- time ----

    /// Everybody who has something to do does it, in some order.
    fn step(&mut self) -> Outcome<()> {
        let mut worked = self.turn_clients()?;
        for _ in 0..3 {
            let at = self.rng.below(3) as usize;
            let now = self.now();
            if self.nodes[at].is_none() && self.back[at] <= now {
                self.boot(at)?;
            }
            let Some(node) = &mut self.nodes[at] else {
                continue;
            };
            if node.stopped > now {
                continue;
            }
            for core in &mut node.cores {
                worked |= core
                    .turn(Wait::Look)
                    .map_err(|error| format!("{}: {error}", NAMES[at]))?;
            }
        }
        self.note_changes();
        let open: Vec<_> = (0..3).filter(|at| self.is_open(*at)).collect();
        if open.len() > 1 {
            return Err(format!("the gates of {open:?} are open at one time"));
        }
        match worked {
            true => self.world.advance(self.rng.below(200_000)),
            false => {
                let span = self.rng.below(3 * MS);
                self.world.advance(span);
            }
        }
        Ok(())
    }

    fn run_for(&mut self, ms: u64) -> Outcome<()> {
        let end = self.now() + ms * MS;
        while self.now() < end {
            self.step()?;
        }
        Ok(())
    }

    /// Something goes wrong, or is well again.
    fn disturb(&mut self) {
        let at = self.rng.below(3) as usize;
        let other = (at + 1 + self.rng.below(2) as usize) % 3;
        match self.rng.below(8) {
            0 | 1 if self.nodes[at].is_some() => self.crash(at),
            2 | 3 => {
                let until = self.now() + (100 + self.rng.below(3000)) * MS;
                self.note(&format!("{} stops until {}", NAMES[at], until / MS));
                if let Some(node) = &mut self.nodes[at] {
                    node.stopped = until;
                    self.seen.stops += 1;
                }
            }
            4 => {
                for other in (0..3).filter(|other| *other != at) {
                    self.world.cut(machine(at), machine(other));
                }
                self.seen.cuts += 1;
                self.note(&format!("{} is cut off", NAMES[at]));
            }
            5 => {
                self.world.cut_one_way(machine(at), machine(other));
                self.seen.one_way += 1;
                self.note(&format!("{} does not reach {}", NAMES[at], NAMES[other]));
            }
            6 => self.world.reset_between(machine(at), machine(other)),
            _ => {
                self.world.heal();
                self.note("all cuts heal");
            }
        }
    }

    fn run(&mut self) -> Outcome<()> {
        for at in 0..3 {
            self.boot(at)?;
        }
        for _ in 0..10 + self.rng.below(15) {
            let calm = 200 + self.rng.below(2500);
            self.run_for(calm)?;
            if self.rng.below(3) == 0 {
                self.hand_over()?;
            }
            self.disturb();
        }
        self.world.heal();
        for at in 0..3 {
            if let Some(node) = &mut self.nodes[at] {
                node.stopped = 0;
            }
            self.back[at] = self.back[at].min(self.now() + 500 * MS);
        }
        self.settle()
    }

    /// The part of the primary is to be elsewhere; something may go wrong meanwhile.
    fn hand_over(&mut self) -> Outcome<()> {
        let Some(leader) = (0..3).find(|at| self.is_open(*at)) else {
            return Ok(());
        };
        let reply = self.ask(leader, &["FAILOVER", "TIMEOUT", "400"])?;
        self.note(&format!("FAILOVER on {}: {reply:?}", NAMES[leader]));
        if reply != Some(Reply::Text("OK".into())) {
            return Ok(());
        }
        self.seen.begun += 1;
        if self.rng.below(3) == 0 {
            let soon = self.rng.below(30);
            self.run_for(soon)?;
            self.disturb();
        }
        // Less than it takes to miss a primary.
        let end = self.now() + 500 * MS;
        while self.now() < end {
            self.step()?;
            if (0..3).any(|at| at != leader && self.is_open(at)) {
                self.seen.handed_over += 1;
                break;
            }
        }
        Ok(())
    }

    /// All is well: now there is a primary, and everybody has what it has.
    fn settle(&mut self) -> Outcome<()> {
        let end = self.now() + 30_000 * MS;
        loop {
            self.run_for(500)?;
            self.is_quiet = (0..3).any(|at| self.is_open(at));
            let Some(leader) = (0..3).find(|at| self.is_open(*at)) else {
                if self.now() > end {
                    return Err(format!("nobody leads: {:?}", self.views()));
                }
                continue;
            };
            let digests: Vec<_> = (0..3).map(|at| self.ask(at, &["REPL.DIGEST"])).collect();
            let contents = digests.iter().map(|reply| match reply {
                Ok(Some(Reply::Many(items))) => items.get(..2).map(<[Reply]>::to_vec),
                _ => None,
            });
            let contents: Vec<_> = contents.collect();
            if contents[0].is_some() && contents.iter().all(|content| *content == contents[0]) {
                return self.audit(leader);
            }
            if self.now() > end {
                return Err(format!("not equal: {digests:?}, {:?}", self.views()));
            }
        }
    }

    fn audit(&mut self, leader: usize) -> Outcome<()> {
        for write in self.acked.clone() {
            let key = format!("k{write}");
            let reply = self.ask(leader, &["GET", &key])?;
            if reply != Some(Reply::Text(write.to_string())) {
                return Err(format!(
                    "write {write} was acknowledged by a majority and is {reply:?} on {}",
                    NAMES[leader]
                ));
            }
        }
        let views = self.nodes.iter().flatten().filter_map(|node| {
            let election = node.shared.election.as_ref()?;
            Some(election.view.lock().ok()?.as_ref()?.epoch.0)
        });
        self.seen.epochs = views.max().unwrap_or(0);
        (0..3).for_each(|at| self.count_unanswered(at));
        Ok(())
    }

    fn views(&self) -> Vec<String> {
        let nodes = self.nodes.iter().zip(NAMES);
        let views = nodes.map(|(node, name)| {
            let Some(node) = node else {
                return format!("{name} is down");
            };
            let election = node.shared.election.as_ref().expect("it is a member");
            let view = election.view.lock().expect("nobody panicked").clone();
            let view = view.map(|view| {
                let (role, epoch, history) = (view.role, view.epoch, view.history);
                let (primary, offset) = (view.primary, view.offset);
                format!("{role:?} {epoch:?} of {primary:?}, data of {history:?} up to {offset}")
            });
            let follows = node.shared.follow.lock().expect("nobody panicked").clone();
            let links = follows.map(|follows| (follows.host, follows.links));
            format!("{name}: {view:?} {links:?}")
        });
        views.collect()
    }

    // ---- the client ----

    /// Asks one node something and waits for the answer.
    fn ask(&mut self, at: usize, words: &[&str]) -> Outcome<Option<Reply>> {
        let ring = &mut self.world.reactor(CLIENTS);
        let to = Endpoint::Tcp(SocketAddr::new(machine(at).ip(), PORT));
        let socket = ring.connect(&to).map_err(|error| error.to_string())?;
        let mut received = Vec::new();
        let end = self.now() + 3000 * MS;
        while self.now() < end {
            let mut events = Vec::new();
            ring.turn(Wait::Look, &mut events)
                .map_err(|error| error.to_string())?;
            for event in events {
                match event {
                    Event::Connected { result: Ok(()), .. } => {
                        ring.start_receiving(socket);
                        let _ = ring.send(socket, Outgoing::Block(request(words)));
                    }
                    Event::Received { lease, .. } => {
                        received.extend_from_slice(ring.received(&lease));
                        ring.give_back(lease);
                    }
                    _ => {}
                }
            }
            if let Some((reply, _)) = parse_whole(&received) {
                return Ok(Some(reply));
            }
            self.step()?;
        }
        Ok(None)
    }

    fn hang_up(&mut self, at: usize) {
        if let Some(socket) = self.lines[at].socket {
            self.ring.close(socket);
        }
        self.lines[at] = Line::default();
        if self.target == at {
            self.target = (at + 1) % 3;
        }
    }

    fn turn_clients(&mut self) -> Outcome<bool> {
        let mut events = Vec::new();
        self.ring
            .turn(Wait::Look, &mut events)
            .map_err(|error| error.to_string())?;
        let mut worked = !events.is_empty();
        for event in events {
            self.on_event(event);
        }
        let now = self.now();
        let at = self.target;
        let line = &mut self.lines[at];
        if line.socket.is_none() {
            let to = Endpoint::Tcp(SocketAddr::new(machine(at).ip(), PORT));
            line.socket = self.ring.connect(&to).ok();
            line.since = now;
        } else if line.is_connected && line.asked.is_empty() {
            // Not too many: each of them is looked at in the end.
            if now >= line.since + 5 * MS && !self.is_quiet {
                self.writes += 1;
                line.asked.push(self.writes);
                line.since = now;
                let (key, value) = (format!("k{}", self.writes), self.writes.to_string());
                line.out.extend(request(&["SET", &key, &value]));
                if !self.quorum {
                    line.out.extend(request(&["WAITAOF", "1", "1", "400"]));
                }
                worked = true;
            }
        } else if now > line.since + 1500 * MS {
            self.hang_up(at);
            return Ok(true);
        }
        let line = &mut self.lines[at];
        if let Some(socket) = line.socket
            && line.is_connected
            && !line.is_sending
            && !line.out.is_empty()
        {
            let out = std::mem::take(&mut line.out);
            line.is_sending = self.ring.send(socket, Outgoing::Block(out)).is_ok();
        }
        worked |= self.take_replies(at);
        Ok(worked)
    }

    fn on_event(&mut self, event: Event) {
        let socket = match &event {
            Event::Connected { socket, .. }
            | Event::Received { socket, .. }
            | Event::Sent { socket, .. }
            | Event::ReceiveEnded { socket, .. } => *socket,
            _ => return,
        };
        let at = (0..3).find(|at| self.lines[*at].socket == Some(socket));
        match (event, at) {
            (Event::Connected { result: Ok(()), .. }, Some(at)) => {
                self.lines[at].is_connected = true;
                self.ring.start_receiving(socket);
            }
            (Event::Received { lease, .. }, at) => {
                if let Some(at) = at {
                    let bytes = self.ring.received(&lease);
                    self.lines[at].received.extend_from_slice(bytes);
                }
                self.ring.give_back(lease);
            }
            (Event::Sent { result: Ok(()), .. }, Some(at)) => self.lines[at].is_sending = false,
            (_, Some(at)) => self.hang_up(at),
            (_, None) => {}
        }
    }

    fn take_replies(&mut self, at: usize) -> bool {
        let mut worked = false;
        while let Some((reply, len)) = parse_whole(&self.lines[at].received) {
            worked = true;
            let line = &mut self.lines[at];
            line.received.drain(..len);
            let Some(write) = line.asked.first().copied() else {
                break;
            };
            match (line.is_accepted, reply) {
                (false, Reply::Text(_)) if self.quorum => {
                    line.asked = Vec::new();
                    self.acked.insert(write);
                    self.seen.accepted += 1;
                    self.seen.agreed += 1;
                }
                (false, Reply::Text(_)) => {
                    line.is_accepted = true;
                    self.seen.accepted += 1;
                }
                (true, Reply::Many(counts)) => {
                    (line.is_accepted, line.asked) = (false, Vec::new());
                    if counts[0] == Reply::Int(1) && counts[1] != Reply::Int(0) {
                        self.acked.insert(write);
                        self.seen.acked += 1;
                        if write.is_multiple_of(100) || env::var_os("RINGKEEP_FLEET_ACKS").is_some()
                        {
                            self.note(&format!(
                                "write {write} is on {counts:?} from {}",
                                NAMES[at]
                            ));
                        }
                    }
                }
                (is_accepted, reply) => {
                    if reply == Reply::Error("NOREPLICAS primary lost quorum; writes fenced".into())
                    {
                        self.seen.fenced += 1;
                    }
                    let is_last = is_accepted || matches!(reply, Reply::Many(_));
                    if is_last || matches!(reply, Reply::Error(_)) {
                        // It is no primary, or none any more.
                        self.hang_up(at);
                        return true;
                    }
                }
            }
        }
        worked
    }
}

/// The first reply, if all of it is there.
fn parse_whole(bytes: &[u8]) -> Option<(Reply, usize)> {
    (!bytes.is_empty()).then(|| parse(bytes)).flatten()
}

fn run(seed: u64) -> Outcome<Seen> {
    let mut fleet = Fleet::seeded(seed);
    let outcome = catch_unwind(AssertUnwindSafe(|| fleet.run()));
    let (cores, shards) = (fleet.cores, fleet.shards);
    let trace = fleet.trace.join("\n");
    let failed =
        |what: String| format!("seed {seed} ({cores} cores, {shards} shards):\n{trace}\n{what}");
    match outcome {
        Ok(Ok(())) => Ok(fleet.seen),
        Ok(Err(what)) => Err(failed(what)),
        Err(_) => Err(failed("a panic".into())),
    }
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn a_fleet_has_one_primary_and_loses_nothing_that_a_majority_has() {
    let first = number("RINGKEEP_FLEET_FIRST").unwrap_or(0);
    let count = number("RINGKEEP_FLEET_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let outcomes = thread::scope(|scope| {
        let workers = (0..thread::available_parallelism().map_or(1, usize::from)).map(|_| {
            scope.spawn(|| {
                let mut outcomes = Vec::new();
                loop {
                    let at = next.fetch_add(1, Relaxed);
                    if at >= count {
                        return outcomes;
                    }
                    outcomes.push(run(first + at));
                }
            })
        });
        let workers: Vec<_> = workers.collect();
        let outcomes = workers.into_iter().flat_map(|worker| worker.join());
        outcomes.flatten().collect::<Vec<_>>()
    });
    let failures: Vec<_> = outcomes
        .iter()
        .filter_map(|seen| seen.as_ref().err())
        .collect();
    let sum = |of: fn(&Seen) -> u64| outcomes.iter().flatten().map(of).sum::<u64>();
    let sums = [
        ("power losses", sum(|seen| seen.crashes)),
        ("stops", sum(|seen| seen.stops)),
        ("cuts", sum(|seen| seen.cuts)),
        ("one-way cuts", sum(|seen| seen.one_way)),
        ("epochs", sum(|seen| seen.epochs)),
        ("accepted writes", sum(|seen| seen.accepted)),
        ("writes of a majority", sum(|seen| seen.acked)),
        ("writes answered for a majority", sum(|seen| seen.agreed)),
        ("connections left unanswered", sum(|seen| seen.unanswered)),
        ("fenced writes", sum(|seen| seen.fenced)),
        ("failovers", sum(|seen| seen.begun)),
        ("parts handed over", sum(|seen| seen.handed_over)),
    ];
    println!("{count} seeds: {sums:?}");
    let shown: Vec<_> = failures.iter().take(3).map(|text| text.as_str()).collect();
    let failed = failures.len();
    assert!(
        failed == 0,
        "{failed} of {count} failed:\n{}",
        shown.join("\n")
    );
    if count >= SEEDS {
        for (what, sum) in sums {
            assert!(sum > 0, "no {what}");
        }
    }
}
