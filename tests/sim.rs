//! Loss of power at any moment, in a simulated world.
//!
//! The shipped cores run on the in-memory twin of the ring, with virtual time and a disk that keeps, tears or
//! loses what no sync covered. Clients write, a seed decides who runs next and when the power goes, and the
//! node starts again from what the disk has. Then every acknowledged write must be there (as far as
//! `appendfsync` promises), each shard must be a prefix of its history, and units over several shards must be
//! there whole or not at all. One seed is one history.
//!
//! In a fourth of the histories the disk fails, too, and in a sixth `appendfsync` is switched.
//!
//! `RINGKEEP_SIM_SEEDS=100000 cargo test --release --test sim` runs more seeds, `RINGKEEP_SIM_FIRST` says
//! from which one on. With `RINGKEEP_SIM_FAULTS=0` no disk fails, with `RINGKEEP_SIM_FAULTS=1` all of
//! them do.

mod world;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    env, io,
    net::SocketAddr,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
};

use bytes::Bytes;
use ringkeep::{
    base::Rng,
    cmd::{Digest, Shard, Walker},
    journal::{
        FileName,
        meta::Meta,
        snapshot::{FOOTER_LEN, Summary},
    },
    mesh,
    recover::{self, Files, Filling, RecoverError, Survey, Unnamed, View},
    route::Routing,
    shard::{Core, Door, Fsync, Loaded, Message, Settings, Shared, Start},
    store::Budget,
};
use uring::{
    Chunk, Endpoint, Event, FileId, Lease, Nanos, OpenHow, Outgoing, Reactor, SocketId, TimerId,
    Wait, Wake,
    fake::{FakeReactor, FakeWaker, FakeWorld, Faults, Machine},
};

use world::{DIR, Disk, Reply, parse, request};

const NODE: Machine = Machine(1);
const CLIENTS: Machine = Machine(2);
const PORT: u16 = 7000;
const CORES: usize = 2;

/// Seeds of the unit stage.
const SEEDS: u64 = 1000;

/// Seeds that failed once, and what they showed.
const FAILED: [(u64, Trust); 9] = [
    // Of two switches of `appendfsync` at once the clients took the wrong one for the last: a mistake of this
    // test.
    (168, Trust::Drawn),
    // A core that had written its clean end got work from one that did not stop yet, and wrote over it.
    (49_728, Trust::Good),
    // EXEC whose shards came when the disk had failed refused command by command.
    (19, Trust::Bad),
    // A failed sync of the folder by one core lost what another one had named; the simulated disk told
    // nobody, unlike Linux.
    (287, Trust::Bad),
    (756, Trust::Bad),
    (1673, Trust::Bad),
    // A snapshot of a bundle had been replaced by one that was in another bundle.
    (1926, Trust::Bad),
    // A failed sync of the folder lost what another shard of the core had named, and whose sync then said
    // that all was well.
    (1781, Trust::Bad),
    (4442, Trust::Bad),
];

/// Seeds after which a long run says how far it is.
const PROGRESS: u64 = 1000;

/// What `everysec` may lose: from then on replies wait for the disk, which is noticed at a beat.
const WINDOW: Nanos = 1_900_000_000;

/// After this time every core has taken over a new setting.
const SETTLE: Nanos = 300_000_000;

const MS: Nanos = 1_000_000;

// ---- where the power went ----

/// What the node was doing when the power went.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Point {
    SegmentMade,
    Header,
    Roll,
    Block,
    BlockNotSynced,
    Sync,
    Chunk,
    Footer,
    SnapshotSync,
    Rename,
    DirectorySync,
    Removal,
    Bundle,
    TidyingUp,
    /// The power went before all snapshots of a bundle had their names.
    Unnamed,
    Starting,
    Stopped,
    CutAtRecovery,
    TornTail,
    Fault,
    /// Who read while the node wrote had something that was of use.
    ReadAhead,
}

const POINTS: [Point; 21] = [
    Point::SegmentMade,
    Point::Header,
    Point::Roll,
    Point::Block,
    Point::BlockNotSynced,
    Point::Sync,
    Point::Chunk,
    Point::Footer,
    Point::SnapshotSync,
    Point::Rename,
    Point::DirectorySync,
    Point::Removal,
    Point::Bundle,
    Point::TidyingUp,
    Point::Unnamed,
    Point::Starting,
    Point::Stopped,
    Point::CutAtRecovery,
    Point::TornTail,
    Point::Fault,
    Point::ReadAhead,
];

type Visits = BTreeMap<Point, u64>;

/// What one reactor has under way.
#[derive(Default)]
struct Sight {
    files: BTreeMap<(u32, u32), PathBuf>,
    flights: Vec<(u64, Point)>,
    /// Files with writes that no sync covers.
    not_synced: BTreeSet<PathBuf>,
    /// Shards whose first segment has a header.
    headed: BTreeSet<String>,
    faults: u64,
}

impl Sight {
    fn name(&self, file: FileId) -> String {
        let path = self.files.get(&(file.index, file.generation));
        let name = path.and_then(|path| path.file_name());
        name.unwrap_or_default().to_string_lossy().into_owned()
    }

    fn on_write(&mut self, file: FileId, block: &[u8], offset: u64, mark: u64) {
        let name = self.name(file);
        let point = if name.starts_with("bundle") {
            Point::Bundle
        } else if name.starts_with("snapshot") {
            let tail = &block[block.len().saturating_sub(FOOTER_LEN)..];
            match Summary::read(tail, offset + block.len() as u64) {
                Ok(_) => Point::Footer,
                Err(_) => Point::Chunk,
            }
        } else if offset > 0 {
            Point::Block
        } else if self
            .headed
            .insert(name.split('-').nth(1).unwrap_or_default().into())
        {
            Point::Header
        } else {
            Point::Roll
        };
        self.flights.push((mark, point));
    }

    fn on_event(&mut self, event: &Event) {
        let (mark, result) = match event {
            Event::Written { mark, result, .. } => (mark, result),
            Event::Synced { file, mark, result } => {
                if let Some(path) = self.files.get(&(file.index, file.generation)) {
                    self.not_synced.remove(path);
                }
                (mark, result)
            }
            Event::Done { mark, result } => (mark, result),
            _ => return,
        };
        self.faults += u64::from(result.is_err());
        if let Some(at) = self.flights.iter().position(|(other, _)| other == mark) {
            self.flights.remove(at);
        }
    }

    fn note(&self, visits: &mut Visits) {
        let mut points: BTreeSet<Point> = self.flights.iter().map(|(_, point)| *point).collect();
        if !self.not_synced.is_empty() {
            points.insert(Point::BlockNotSynced);
        }
        if self.faults > 0 {
            points.insert(Point::Fault);
        }
        for point in points {
            *visits.entry(point).or_default() += 1;
        }
    }
}

/// A reactor that is watched.
struct Spy {
    inner: FakeReactor,
    sight: Rc<RefCell<Sight>>,
}

impl Reactor for Spy {
    type Waker = FakeWaker;

    fn now(&self) -> Nanos {
        self.inner.now()
    }

    fn wall_clock_ms(&self) -> u64 {
        self.inner.wall_clock_ms()
    }

    fn boot_clock_ms(&self) -> u64 {
        self.inner.boot_clock_ms()
    }

    fn limit_silence(&mut self, socket: SocketId, ms: u32) {
        self.inner.limit_silence(socket, ms);
    }

    fn listen(&mut self, at: &Endpoint, backlog: u32) -> io::Result<SocketId> {
        self.inner.listen(at, backlog)
    }

    fn local_addr(&self, socket: SocketId) -> Option<SocketAddr> {
        self.inner.local_addr(socket)
    }

    fn connect(&mut self, to: &Endpoint) -> io::Result<SocketId> {
        self.inner.connect(to)
    }

    fn start_receiving(&mut self, socket: SocketId) {
        self.inner.start_receiving(socket);
    }

    fn stop_receiving(&mut self, socket: SocketId) {
        self.inner.stop_receiving(socket);
    }

    fn received(&self, lease: &Lease) -> &[u8] {
        self.inner.received(lease)
    }

    fn give_back(&mut self, lease: Lease) {
        self.inner.give_back(lease);
    }

    fn send(&mut self, socket: SocketId, outgoing: Outgoing) -> Result<(), Outgoing> {
        self.inner.send(socket, outgoing)
    }

    fn send_in_place(&mut self, socket: SocketId, pieces: Vec<Bytes>) -> Result<(), Vec<Bytes>> {
        self.inner.send_in_place(socket, pieces)
    }

    fn may_send_in_place(&self, socket: SocketId) -> bool {
        self.inner.may_send_in_place(socket)
    }

    fn finish_sending(&mut self, socket: SocketId) {
        self.inner.finish_sending(socket);
    }

    fn close(&mut self, socket: SocketId) {
        self.inner.close(socket);
    }

    fn open(&mut self, path: &Path, how: OpenHow) -> io::Result<FileId> {
        let file = self.inner.open(path, how)?;
        let place = (file.index, file.generation);
        self.sight.borrow_mut().files.insert(place, path.to_owned());
        Ok(file)
    }

    fn write(&mut self, file: FileId, block: Bytes, offset: u64, mark: u64) {
        let mut sight = self.sight.borrow_mut();
        sight.on_write(file, &block, offset, mark);
        if let Some(path) = sight.files.get(&(file.index, file.generation)).cloned() {
            sight.not_synced.insert(path);
        }
        self.inner.write(file, block, offset, mark);
    }

    fn write_durable(&mut self, file: FileId, block: Bytes, offset: u64, mark: u64) {
        self.sight.borrow_mut().on_write(file, &block, offset, mark);
        self.inner.write_durable(file, block, offset, mark);
    }

    fn sync(&mut self, file: FileId, mark: u64) {
        let mut sight = self.sight.borrow_mut();
        let name = sight.name(file);
        let point = match name.split('-').next() {
            Some("journal") => Point::Sync,
            Some("snapshot") => Point::SnapshotSync,
            _ => Point::DirectorySync,
        };
        sight.flights.push((mark, point));
        self.inner.sync(file, mark);
    }

    fn reserve(&mut self, file: FileId, len: u64, mark: u64) {
        let flight = (mark, Point::SegmentMade);
        self.sight.borrow_mut().flights.push(flight);
        self.inner.reserve(file, len, mark);
    }

    fn open_dir(&mut self, path: &Path) -> io::Result<FileId> {
        self.inner.open_dir(path)
    }

    fn rename(&mut self, from: &Path, to: &Path, mark: u64) {
        self.sight.borrow_mut().flights.push((mark, Point::Rename));
        self.inner.rename(from, to, mark);
    }

    fn remove(&mut self, path: &Path, mark: u64) {
        self.sight.borrow_mut().flights.push((mark, Point::Removal));
        self.inner.remove(path, mark);
    }

    fn close_file(&mut self, file: FileId) {
        self.inner.close_file(file);
    }

    fn make_arena(&mut self, count: u32, len: u32) -> io::Result<bool> {
        self.inner.make_arena(count, len)
    }

    fn take_chunk(&mut self) -> Option<Chunk> {
        self.inner.take_chunk()
    }

    fn set_timer(&mut self, at: Nanos, mark: u64) -> TimerId {
        self.inner.set_timer(at, mark)
    }

    fn cancel_timer(&mut self, timer: TimerId) {
        self.inner.cancel_timer(timer);
    }

    fn waker(&self) -> FakeWaker {
        self.inner.waker()
    }

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        self.inner.turn(wait, events)?;
        let mut sight = self.sight.borrow_mut();
        events.iter().for_each(|event| sight.on_event(event));
        Ok(())
    }
}

// ---- what clients know ----

#[derive(Clone, PartialEq, Eq, Debug)]
enum Value {
    None,
    Text(String),
    List(Vec<String>),
    Map(BTreeMap<String, String>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Plain,
    Counter,
    Log,
    List,
    Hash,
    Set,
    Sorted,
    /// With a deadline.
    Mortal,
    /// Several keys, over the shards, that are only ever written together.
    Group,
    /// A key that goes from one shard to another and back.
    Pair,
}

impl Kind {
    /// The request that shows a key.
    fn look(self, key: &str) -> Vec<u8> {
        match self {
            Kind::List => request(&["LRANGE", key, "0", "-1"]),
            Kind::Hash => request(&["HGETALL", key]),
            Kind::Set => request(&["SMEMBERS", key]),
            Kind::Sorted => request(&["ZRANGE", key, "0", "-1", "WITHSCORES"]),
            _ => request(&["GET", key]),
        }
    }

    /// What its reply says.
    fn value(self, reply: &Reply) -> Result<Value, String> {
        let items = match reply {
            Reply::Nil => return Ok(Value::None),
            Reply::Text(text) => return Ok(Value::Text(text.clone())),
            Reply::Many(items) if items.is_empty() => return Ok(Value::None),
            Reply::Many(items) => items.iter().map(|item| match item {
                Reply::Text(text) => text.clone(),
                other => format!("{other:?}"),
            }),
            other => return Err(format!("a {self:?} answers {other:?}")),
        };
        let items: Vec<String> = items.collect();
        Ok(match self {
            Kind::List => Value::List(items),
            Kind::Set => Value::Map(
                items
                    .into_iter()
                    .map(|item| (item, String::new()))
                    .collect(),
            ),
            _ => {
                let pairs = items.chunks(2);
                Value::Map(
                    pairs
                        .map(|pair| (pair[0].clone(), pair[1].clone()))
                        .collect(),
                )
            }
        })
    }
}

/// What a cell held at some time.
#[derive(Clone, Debug)]
struct Version {
    state: Vec<Value>,
    deadline: Option<u64>,
    /// When the write was sent, in the order of all that clients did.
    sent: u64,
    /// When its reply was seen, in that order and on the clock.
    acked: Option<(u64, Nanos)>,
}

/// Keys that are written by one client, and always together.
struct Cell {
    kind: Kind,
    keys: Vec<String>,
    /// Of each key.
    shards: Vec<usize>,
    history: Vec<Version>,
    /// The oldest version that may be found.
    floor: usize,
}

impl Cell {
    fn new(kind: Kind, keys: Vec<String>, shards: usize) -> Cell {
        let homes = keys.iter();
        let homes = homes.map(|key| Routing::KevyHash.shard_of(key.as_bytes(), shards));
        Cell {
            kind,
            shards: homes.collect(),
            history: vec![Version {
                state: vec![Value::None; keys.len()],
                deadline: None,
                sent: 0,
                acked: Some((0, 0)),
            }],
            keys,
            floor: 0,
        }
    }

    fn newest(&self) -> &[Value] {
        &self.history.last().expect("there is a first one").state
    }

    /// The shards that a version changed.
    fn changed(&self, version: usize) -> BTreeSet<usize> {
        let Some(before) = version.checked_sub(1) else {
            return BTreeSet::new();
        };
        let (before, after) = (&self.history[before].state, &self.history[version].state);
        let shards = self.shards.iter().zip(before.iter().zip(after));
        let changed = shards.filter(|(_, (before, after))| before != after);
        changed.map(|(shard, _)| *shard).collect()
    }

    /// The versions that a state may be.
    fn versions_like(&self, state: &[Value], now_ms: u64) -> Vec<usize> {
        let is_gone = state.iter().all(|value| *value == Value::None);
        let like = |version: &Version| {
            version.state == state || (is_gone && version.deadline.is_some_and(|at| at <= now_ms))
        };
        let all = self.history.iter().enumerate();
        all.filter(|(_, version)| like(version))
            .map(|(at, _)| at)
            .collect()
    }

    /// A write: requests, and what the cell holds then.
    fn write(&self, rng: &mut Rng, n: u64, is_large: bool, now_ms: u64) -> Written {
        let key = &self.keys[0][..];
        let text = match rng.below(3) {
            0 if is_large && self.kind == Kind::Plain => format!("{n}{}", "x".repeat(150_000)),
            1 => format!("{n}{}", "-".repeat(rng.below(60) as usize)),
            _ => n.to_string(),
        };
        let one = |words: &[&str], value| Written {
            requests: vec![request(words)],
            state: vec![value],
            deadline: None,
        };
        let field = format!("f{}", rng.below(5));
        let now = &self.newest()[0];
        match (self.kind, now.clone()) {
            (Kind::Plain, Value::Text(_)) if rng.below(4) == 0 => one(&["DEL", key], Value::None),
            (Kind::Plain, _) => one(&["SET", key, &text], Value::Text(text.clone())),
            (Kind::Counter, now) => {
                let count = match now {
                    Value::Text(text) => text.parse::<u64>().expect("a counter"),
                    _ => 0,
                };
                one(&["INCR", key], Value::Text((count + 1).to_string()))
            }
            (Kind::Log, Value::Text(now)) if now.len() > 300 => one(&["DEL", key], Value::None),
            (Kind::Log, now) => {
                let now = match now {
                    Value::Text(now) => now,
                    _ => String::new(),
                };
                let more = format!("{n},");
                one(&["APPEND", key, &more], Value::Text(now + &more))
            }
            (Kind::List, Value::List(mut items)) => {
                if rng.below(2) == 0 && items.len() > 1 {
                    items.remove(0);
                    return one(&["LPOP", key], Value::List(items));
                }
                if items.len() > 8 {
                    return one(&["DEL", key], Value::None);
                }
                items.push(text.clone());
                one(&["RPUSH", key, &text], Value::List(items))
            }
            (Kind::List, _) => one(&["RPUSH", key, &text], Value::List(vec![text.clone()])),
            (kind @ (Kind::Hash | Kind::Set | Kind::Sorted), now) => {
                let mut map = match now {
                    Value::Map(map) => map,
                    _ => BTreeMap::new(),
                };
                let n = n.to_string();
                if map.len() > 1 && rng.below(4) == 0 && map.remove(&field).is_some() {
                    let verb = match kind {
                        Kind::Hash => "HDEL",
                        Kind::Set => "SREM",
                        _ => "ZREM",
                    };
                    return one(&[verb, key, &field], Value::Map(map));
                }
                match kind {
                    Kind::Hash => {
                        map.insert(field.clone(), n.clone());
                        one(&["HSET", key, &field, &n], Value::Map(map))
                    }
                    Kind::Sorted => {
                        map.insert(field.clone(), n.clone());
                        one(&["ZADD", key, &n, &field], Value::Map(map))
                    }
                    _ if map.len() > 6 => one(&["DEL", key], Value::None),
                    _ => {
                        map.insert(n.clone(), String::new());
                        one(&["SADD", key, &n], Value::Map(map))
                    }
                }
            }
            (Kind::Mortal, _) => {
                let deadline = now_ms + 1 + rng.below(400);
                let words = ["SET", key, &text, "PXAT", &deadline.to_string()];
                let mut written = one(&words, Value::Text(text.clone()));
                written.deadline = Some(deadline);
                written
            }
            (Kind::Group, now) => {
                let set = |key: &String| request(&["SET", key, &text]);
                let begin = request(&["MULTI"]);
                let (requests, value) = match rng.below(3) {
                    0 if now != Value::None => {
                        let keys = self.keys.iter().map(|key| &key[..]);
                        let words: Vec<&str> = ["DEL"].into_iter().chain(keys).collect();
                        (vec![request(&words)], Value::None)
                    }
                    1 => {
                        let pairs = self.keys.iter().flat_map(|key| [&key[..], &text[..]]);
                        let words: Vec<&str> = ["MSET"].into_iter().chain(pairs).collect();
                        (vec![request(&words)], Value::Text(text.clone()))
                    }
                    _ => {
                        let sets = self.keys.iter().map(set);
                        let all = [begin].into_iter().chain(sets);
                        let all = all.chain([request(&["EXEC"])]);
                        (all.collect(), Value::Text(text.clone()))
                    }
                };
                Written {
                    requests,
                    state: vec![value; self.keys.len()],
                    deadline: None,
                }
            }
            (Kind::Pair, _) => {
                let now = self.newest();
                let (from, to) = match now[0] {
                    Value::None => (1, 0),
                    _ => (0, 1),
                };
                let mut state = vec![Value::None; 2];
                let requests = if now[from] == Value::None {
                    state[0] = Value::Text(text.clone());
                    vec![request(&["SET", key, &text])]
                } else {
                    state[to] = now[from].clone();
                    vec![request(&["RENAME", &self.keys[from], &self.keys[to]])]
                };
                Written {
                    requests,
                    state,
                    deadline: None,
                }
            }
        }
    }
}

struct Written {
    requests: Vec<Vec<u8>>,
    state: Vec<Value>,
    deadline: Option<u64>,
}

/// What a client has asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ask {
    Write(usize),
    Look(usize),
    Save,
    Policy(Fsync),
    /// All keys of all cells.
    Audit,
}

struct Asked {
    ask: Ask,
    replies: Vec<Reply>,
    count: usize,
    at: Nanos,
}

#[derive(Default)]
struct Client {
    socket: Option<SocketId>,
    is_connected: bool,
    is_sending: bool,
    received: Vec<u8>,
    asked: Option<Asked>,
    /// It does nothing before this.
    rests_until: Nanos,
    /// The cells that it writes.
    own: Range<usize>,
}

// ---- the world ----

/// What a seed decides about a whole history.
#[derive(Clone, Debug)]
struct Plan {
    policy: Fsync,
    shards: usize,
    segment_len: u64,
    /// Most time that passes between two turns.
    pace: Nanos,
    lives: u64,
    steps: u64,
    switches: bool,
    /// How the disk fails, if it does.
    failing: Faults,
    faults: Option<Faults>,
    is_large: bool,
    /// How long clients rest.
    rest: Nanos,
}

impl Plan {
    fn drawn(rng: &mut Rng) -> Plan {
        let policy = match rng.below(8) {
            0..5 => Fsync::Always,
            5..7 => Fsync::EverySecond,
            _ => Fsync::No,
        };
        let is_large = rng.below(20) == 0;
        let rate = [5_000, 20_000, 50_000][rng.below(3) as usize];
        let mut one_of = |rate: u32| if rng.below(2) == 0 { rate } else { 0 };
        let failing = Faults {
            sync_fails_per_million: one_of(rate),
            write_fails_per_million: one_of(rate),
            disk_full_per_million: one_of(rate),
            name_fails_per_million: one_of(rate),
            disk_stalls_per_million: one_of(rate),
            ..Faults::default()
        };
        Plan {
            policy,
            shards: 2 + rng.below(2) as usize,
            segment_len: [1024, 4096, 16_384][rng.below(3) as usize],
            pace: [20_000, 200_000, 2_000_000][rng.below(3) as usize],
            lives: 2 + rng.below(3),
            steps: if is_large { 6000 } else { 2000 },
            switches: rng.below(6) == 0,
            faults: (rng.below(4) == 0).then(|| failing.clone()),
            failing,
            is_large,
            rest: [0, MS, 50 * MS][rng.below(3) as usize],
        }
    }
}

/// A running node.
struct Node {
    cores: Vec<Core<Spy>>,
    sights: Vec<Rc<RefCell<Sight>>>,
    shared: Arc<Shared>,
}

struct Sim {
    world: FakeWorld,
    rng: Rng,
    plan: Plan,
    cells: Vec<Cell>,
    clients: Vec<Client>,
    /// The clients' ring, while there are any.
    ring: Option<FakeReactor>,
    /// Counts what clients do.
    sequence: u64,
    values: u64,
    /// The policy that clients were told, and since when it surely holds.
    policy: Fsync,
    holds_from: Nanos,
    /// The last crash after which something may be lost.
    crashed: Nanos,
    was_stopped: bool,
    idle: usize,
    visits: Visits,
    acked: u64,
    /// Who reads the disk while the node writes, as the successor in a handoff does, and when.
    ahead: Ahead,
    looks: Rng,
}

/// What was read of a directory in which a node writes.
#[derive(Default)]
struct Ahead {
    survey: Survey,
    fillings: Vec<Option<Filling>>,
}

type Outcome<T> = Result<T, String>;

impl Sim {
    fn seeded(seed: u64, disk: Trust) -> Sim {
        let mut rng = Rng::seeded(seed);
        let mut plan = Plan::drawn(&mut rng);
        match disk {
            Trust::Drawn => {}
            Trust::Good => plan.faults = None,
            Trust::Bad => plan.faults = Some(plan.failing.clone()),
        }
        let world = FakeWorld::seeded(seed);
        let (mut cells, mut clients) = (Vec::new(), Vec::new());
        let kinds = [
            Kind::Plain,
            Kind::Plain,
            Kind::Plain,
            Kind::Counter,
            Kind::Log,
            Kind::List,
            Kind::Hash,
            Kind::Set,
            Kind::Sorted,
            Kind::Mortal,
            Kind::Group,
            Kind::Group,
            Kind::Pair,
        ];
        for number in 0..3 {
            let first = cells.len();
            for (at, kind) in kinds.into_iter().enumerate() {
                let count = match kind {
                    Kind::Group => 4,
                    Kind::Pair => 2,
                    _ => 1,
                };
                let keys = (0..count).map(|part| format!("c{number}:{at}:{part}"));
                cells.push(Cell::new(kind, keys.collect(), plan.shards));
            }
            clients.push(Client {
                own: first..cells.len(),
                ..Client::default()
            });
        }
        Sim {
            policy: plan.policy,
            world,
            rng,
            plan,
            cells,
            clients,
            ring: None,
            sequence: 0,
            values: 0,
            holds_from: 0,
            crashed: 0,
            was_stopped: false,
            idle: 0,
            visits: Visits::new(),
            acked: 0,
            ahead: Ahead::default(),
            // Not of the same numbers: who reads changes nothing.
            looks: Rng::seeded(seed ^ 0x5eed),
        }
    }

    fn visit(&mut self, point: Point) {
        *self.visits.entry(point).or_default() += 1;
    }

    fn run(&mut self) -> Outcome<()> {
        for _ in 0..self.plan.lives {
            let Some(mut node) = self.boot()? else {
                continue;
            };
            if self.rng.below(5) == 0 {
                // The power does not last until anybody can look.
                for _ in 0..self.rng.below(60) {
                    self.step(&mut node)?;
                }
                self.visit(Point::Starting);
                self.crash(&node);
                continue;
            }
            self.audit(&mut node)?;
            if let Some(faults) = &self.plan.faults {
                self.world.set_faults(faults.clone());
            }
            self.was_stopped = false;
            self.connect(&node)?;
            self.ahead = Ahead::default();
            for _ in 0..self.rng.below(self.plan.steps) {
                self.step(&mut node)?;
                if self.looks.below(300) == 0 {
                    // Files may come and go meanwhile.
                    let _ = self.look_ahead(View::Live);
                }
            }
            if self.plan.faults.is_none() && self.rng.below(8) == 0 {
                self.stop(&mut node)?;
            }
            self.compare_ahead()?;
            self.crashed = self.world.now();
            self.crash(&node);
        }
        loop {
            if let Some(mut node) = self.boot()? {
                return self.audit(&mut node);
            }
        }
    }

    // ---- the node ----

    /// Starts the node, as `node::boot` does. None if the power went meanwhile.
    fn boot(&mut self) -> Outcome<Option<Node>> {
        self.world.set_faults(Faults::default());
        let meta = self.meta();
        let world = self.world.clone();
        let disk = Disk(&world, NODE);
        let names = disk.names().map_err(|error| error.to_string())?;
        let unfinished = names
            .into_iter()
            .filter(|name| FileName::is_unfinished(name));
        let unfinished: Vec<String> = unfinished.collect();
        let unnamed =
            recover::unnamed(&disk).map_err(|error| format!("it refuses to start: {error}"))?;
        if !self.name(&unnamed) {
            return Ok(None);
        }
        let is_named = |name: &String| {
            let mut named = unnamed.snapshots.iter();
            named.any(|named| named.unfinished() == *name)
        };
        let left = unfinished.into_iter().filter(|name| !is_named(name));
        if !self.tidy_up(left.collect()) {
            return Ok(None);
        }
        let plans = recover::survey(&disk, &meta)
            .map_err(|error| format!("it refuses to start: {error}"))?;
        for plan in &plans {
            for note in &plan.notes {
                if note.contains("other shards lack") {
                    self.visit(Point::CutAtRecovery);
                } else if note.contains("never confirmed") {
                    self.visit(Point::TornTail);
                }
            }
        }
        let unused = plans.iter().flat_map(|plan| plan.unused.iter());
        if !self.tidy_up(unused.map(FileName::to_string).collect()) {
            return Ok(None);
        }
        let settings = Settings {
            port: PORT,
            bind: NODE.ip().to_string(),
            unix: None,
            cores: CORES,
            shards: self.plan.shards,
            databases: 1,
            spin_us: 0,
            dir: Some(DIR.into()),
            announce: String::new(),
            slots: None,
            journals: true,
            replication_port: None,
            segment_len: self.plan.segment_len,
            clients_max: usize::MAX,
            takes_time: false,
        };
        let now_ms = world.now() / MS;
        let shared = Arc::new(Shared::new(settings, now_ms, String::new()));
        shared.tunables.write().expect("nobody panicked").fsync = self.plan.policy;
        shared.tunables_version.fetch_add(1, SeqCst);
        shared
            .durable
            .loading
            .shards
            .store(self.plan.shards, SeqCst);
        shared.loading.store(true, SeqCst);
        (self.policy, self.holds_from) = (self.plan.policy, world.now());
        for plan in plans {
            let place = self.place(plan.shard);
            let shard = recover::load(&disk, &plan, place, |_| ())
                .map_err(|error| format!("it cannot load: {error}"))?;
            shared.durable.loading.put(Loaded {
                shard,
                start: Start::after(plan, meta.routing, now_ms, false),
            });
        }
        let mut reactors = Vec::new();
        let mut sights = Vec::new();
        for _ in 0..CORES {
            let sight = Rc::<RefCell<Sight>>::default();
            sights.push(sight.clone());
            let inner = world.reactor(NODE);
            reactors.push(Spy { inner, sight });
        }
        let wakers = reactors.iter();
        let wakers = wakers.map(|reactor| Box::new(reactor.waker()) as Box<dyn Wake + Send + Sync>);
        let meshes = mesh::build::<Message>(wakers.collect());
        let mut cores = Vec::new();
        for (reactor, mesh) in reactors.into_iter().zip(meshes) {
            let mut core = Core::new(reactor, mesh, shared.clone(), cores.len() as u64)
                .map_err(|error| error.to_string())?;
            let at = Endpoint::Tcp(SocketAddr::new(NODE.ip(), PORT));
            core.listen(&at, Door::Plain)
                .map_err(|error| error.to_string())?;
            core.keep(DIR.into());
            core.begin();
            cores.push(core);
        }
        Ok(Some(Node {
            cores,
            sights,
            shared,
        }))
    }

    fn meta(&self) -> Meta {
        Meta {
            shard_count: self.plan.shards as u32,
            routing: 0,
        }
    }

    fn place(&self, shard: usize) -> recover::Place {
        recover::Place {
            shard,
            shards: self.plan.shards,
            databases: 1,
            routing: Routing::KevyHash,
            seed: shard as u64,
        }
    }

    /// Reads what has come since the last look, as far as it goes on from there: the plans, and of how many
    /// shards something was of use.
    fn look_ahead(&mut self, view: View) -> Result<(Vec<recover::Plan>, usize), RecoverError> {
        let world = self.world.clone();
        let disk = Disk(&world, NODE);
        let plans = self.ahead.survey.look(&disk, &self.meta(), view)?;
        if std::mem::take(&mut self.ahead.survey.is_other) {
            self.ahead.fillings.clear();
        }
        self.ahead.fillings.resize_with(plans.len(), || None);
        let mut useful = 0;
        for plan in &plans {
            let place = self.place(plan.shard);
            let known = self.ahead.fillings[plan.shard].take();
            let known = known.filter(|known| known.fits(plan));
            useful += usize::from(known.is_some());
            let mut filling = known.unwrap_or_else(|| Filling::new(place));
            filling.fill(&disk, plan, &mut |_| ())?;
            self.ahead.fillings[plan.shard] = Some(filling);
        }
        Ok((plans, useful))
    }

    /// The node writes no more. Whoever has read before has to know now what a start finds.
    fn compare_ahead(&mut self) -> Outcome<()> {
        let world = self.world.clone();
        let disk = Disk(&world, NODE);
        let Ok(fresh) = recover::survey(&disk, &self.meta()) else {
            // Snapshots that have no names yet, which a start would give them first.
            return Ok(());
        };
        let found = self.look_ahead(View::Still);
        let (plans, useful) =
            found.map_err(|error| format!("who has read ahead refuses: {error}"))?;
        if format!("{plans:?}") != format!("{fresh:?}") {
            return Err(format!(
                "who has read ahead has {plans:?}, a start {fresh:?}"
            ));
        }
        for plan in &fresh {
            let mut own = recover::load(&disk, plan, self.place(plan.shard), |_| ())
                .map_err(|error| format!("it cannot load: {error}"))?;
            let ahead = self.ahead.fillings[plan.shard].take();
            let mut ahead = ahead.expect("it was filled").finish();
            if sum(&mut own) != sum(&mut ahead) {
                return Err(format!(
                    "shard {}: who has read ahead has another",
                    plan.shard
                ));
            }
        }
        if useful > 0 {
            self.visit(Point::ReadAhead);
        }
        Ok(())
    }

    /// Gives snapshots of a bundle their names, as a start does; false if the power went meanwhile.
    fn name(&mut self, unnamed: &Unnamed) -> bool {
        if !unnamed.snapshots.is_empty() {
            self.visit(Point::Unnamed);
        }
        for name in &unnamed.snapshots {
            if self.loses_power() {
                return false;
            }
            let from = Path::new(DIR).join(name.unfinished());
            let to = Path::new(DIR).join(name.to_string());
            self.on_disk(|ring| ring.rename(&from, &to, 0));
        }
        if !unnamed.bundles.is_empty() {
            self.on_disk(|ring| {
                let folder = ring.open_dir(Path::new(DIR)).expect("it is there");
                ring.sync(folder, 0);
            });
        }
        let bundles = unnamed.bundles.iter();
        self.tidy_up(bundles.map(FileName::to_string).collect())
    }

    /// Removes files, as a start does; false if the power went meanwhile.
    fn tidy_up(&mut self, names: Vec<String>) -> bool {
        for name in names {
            if self.loses_power() {
                return false;
            }
            self.on_disk(|ring| ring.remove(&Path::new(DIR).join(name), 0));
        }
        true
    }

    /// Does the power go while a start tidies up?
    fn loses_power(&mut self) -> bool {
        let goes = self.rng.below(40) == 0;
        if goes {
            self.visit(Point::TidyingUp);
            self.world.crash(NODE);
        }
        goes
    }

    /// Does one thing with the disk and waits for its end.
    fn on_disk(&mut self, ask: impl FnOnce(&mut FakeReactor)) {
        let mut ring = self.world.reactor(NODE);
        ask(&mut ring);
        let mut events = Vec::new();
        while events.is_empty() && ring.turn(Wait::Event, &mut events).is_ok() {}
    }

    fn crash(&mut self, node: &Node) {
        for sight in &node.sights {
            sight.borrow().note(&mut self.visits);
        }
        self.world.crash(NODE);
        self.ring = None;
        for client in &mut self.clients {
            let own = client.own.clone();
            *client = Client {
                own,
                ..Client::default()
            };
        }
    }

    /// Stops the node in order.
    fn stop(&mut self, node: &mut Node) -> Outcome<()> {
        node.shared.stop.store(true, SeqCst);
        let mut is_done = [false; CORES];
        for _ in 0..100_000 {
            if is_done.iter().all(|done| *done) {
                self.visit(Point::Stopped);
                self.was_stopped = true;
                return Ok(());
            }
            let at = self.rng.below(CORES as u64) as usize;
            is_done[at] = is_done[at] || node.cores[at].is_done();
            if !is_done[at] {
                let worked = self.turn(node, at)?;
                self.idle = if worked { 0 } else { self.idle + 1 };
            }
            self.pass_time();
        }
        Err("it does not stop".into())
    }

    fn turn(&mut self, node: &mut Node, at: usize) -> Outcome<bool> {
        let turned = node.cores[at].turn(Wait::Look);
        turned.map_err(|error| format!("core {at}: {error}"))
    }

    fn pass_time(&mut self) {
        let span = self.rng.below(self.plan.pace);
        self.world.advance(span);
        if self.idle > 4 * CORES {
            self.idle = 0;
            self.world.step();
        }
    }

    /// Somebody has a turn.
    fn step(&mut self, node: &mut Node) -> Outcome<()> {
        let at = self.rng.below(CORES as u64 + 1) as usize;
        let worked = match at {
            CORES => self.turn_clients()?,
            at => self.turn(node, at)?,
        };
        self.idle = if worked { 0 } else { self.idle + 1 };
        self.pass_time();
        Ok(())
    }

    // ---- clients ----

    fn connect(&mut self, node: &Node) -> Outcome<()> {
        if node.shared.loading.load(SeqCst) {
            return Err("it is still loading".into());
        }
        let ring = self.ring.get_or_insert_with(|| self.world.reactor(CLIENTS));
        for client in &mut self.clients {
            let at = Endpoint::Tcp(SocketAddr::new(NODE.ip(), PORT));
            let socket = ring.connect(&at).map_err(|error| error.to_string())?;
            client.socket = Some(socket);
        }
        Ok(())
    }

    /// True if anything happened.
    fn turn_clients(&mut self) -> Outcome<bool> {
        let Some(mut ring) = self.ring.take() else {
            return Ok(false);
        };
        let mut events = Vec::new();
        let turned = ring.turn(Wait::Look, &mut events);
        turned.map_err(|error| error.to_string())?;
        let mut worked = !events.is_empty();
        for event in events {
            self.on_event(event, &mut ring)?;
        }
        for at in 0..self.clients.len() {
            worked |= self.answered(at)?;
            worked |= self.ask(at, &mut ring);
        }
        self.ring = Some(ring);
        Ok(worked)
    }

    fn on_event(&mut self, event: Event, ring: &mut FakeReactor) -> Outcome<()> {
        let mut clients = self.clients.iter_mut();
        let mut client = |socket| clients.find(|client| client.socket == Some(socket));
        match event {
            Event::Connected { socket, result } => {
                result.map_err(|errno| format!("connecting: errno {errno}"))?;
                ring.start_receiving(socket);
                if let Some(client) = client(socket) {
                    client.is_connected = true;
                }
            }
            Event::Received { socket, lease } => {
                if let Some(client) = client(socket) {
                    client.received.extend_from_slice(ring.received(&lease));
                }
                ring.give_back(lease);
            }
            Event::Sent { socket, .. } => {
                if let Some(client) = client(socket) {
                    client.is_sending = false;
                }
            }
            Event::ReceiveEnded { end, .. } => return Err(format!("it hung up: {end:?}")),
            _ => {}
        }
        Ok(())
    }

    /// Takes replies; true if there were any.
    fn answered(&mut self, at: usize) -> Outcome<bool> {
        let client = &mut self.clients[at];
        let mut worked = false;
        while let Some((reply, len)) = parse(&client.received) {
            client.received.drain(..len);
            let asked = client.asked.as_mut();
            asked
                .ok_or_else(|| format!("nobody asked for {reply:?}"))?
                .replies
                .push(reply);
            worked = true;
        }
        if let Some(asked) = client
            .asked
            .take_if(|asked| asked.replies.len() == asked.count)
        {
            let now = self.world.now();
            client.rests_until = now + self.rng.below(self.plan.rest + 1);
            self.sequence += 1;
            self.take(asked, at)?;
        }
        Ok(worked)
    }

    /// Does every reply to what was asked at this time promise durability?
    fn is_always(&self, asked: Nanos) -> bool {
        self.policy == Fsync::Always && self.holds_from <= asked
    }

    /// Does a client wait for the reply to a switch of the policy?
    fn is_switching(&self) -> bool {
        let mut asked = self
            .clients
            .iter()
            .filter_map(|client| client.asked.as_ref());
        asked.any(|asked| matches!(asked.ask, Ask::Policy(_)))
    }

    fn take(&mut self, asked: Asked, at: usize) -> Outcome<()> {
        let now = self.world.now();
        let last = asked.replies.last().expect("there is one");
        let promises = self.is_always(asked.at);
        match asked.ask {
            Ask::Write(cell) => {
                let cell = &mut self.cells[cell];
                if let Reply::Error(text) = last {
                    if ["MISCONF", "EXECABORT", "LOADING"]
                        .iter()
                        .any(|word| text.starts_with(word))
                    {
                        cell.history.pop();
                        self.clients[at].rests_until = now + 50 * MS;
                        return Ok(());
                    }
                    return Err(format!("{:?}: {text}", cell.kind));
                }
                if let Reply::Many(items) = last
                    && items.iter().any(|item| matches!(item, Reply::Error(_)))
                {
                    return Err(format!("{:?}: half done: {items:?}", cell.keys));
                }
                let newest = cell.history.len() - 1;
                let version = &mut cell.history[newest];
                if let (Kind::Counter, Reply::Int(is), Value::Text(should)) =
                    (cell.kind, last, &version.state[0])
                    && is.to_string() != *should
                {
                    return Err(format!(
                        "{}: it counts {is} instead of {should}",
                        cell.keys[0]
                    ));
                }
                version.acked = Some((self.sequence, now));
                self.acked += 1;
                if promises {
                    cell.floor = newest;
                }
            }
            Ask::Look(cell) => {
                let cell = &mut self.cells[cell];
                let seen = cell.kind.value(last)?;
                let like = cell
                    .history
                    .iter()
                    .position(|version| version.state[0] == seen);
                let Some(version) = like else {
                    return Err(format!("{}: nobody wrote {seen:?}", cell.keys[0]));
                };
                if promises {
                    cell.floor = cell.floor.max(version);
                }
            }
            Ask::Policy(policy) => {
                if *last != Reply::Text("OK".into()) {
                    return Err(format!("CONFIG SET: {last:?}"));
                }
                (self.policy, self.holds_from) = (policy, now + SETTLE);
            }
            Ask::Save => {}
            Ask::Audit => self.compare(&asked.replies)?,
        }
        Ok(())
    }

    /// Has a client that has nothing to do ask something.
    fn ask(&mut self, at: usize, ring: &mut FakeReactor) -> bool {
        let now = self.world.now();
        let client = &self.clients[at];
        let is_free = client.is_connected && !client.is_sending && client.asked.is_none();
        let is_free = is_free && !client.own.is_empty();
        let Some(socket) = client
            .socket
            .filter(|_| is_free && client.rests_until <= now)
        else {
            return false;
        };
        let own = client.own.clone();
        let (ask, requests) = match self.rng.below(40) {
            0 => (Ask::Save, vec![request(&["BGSAVE"])]),
            // One at a time: of two, nobody knows which was the last.
            1 if self.plan.switches && !self.is_switching() => {
                let policies = [Fsync::Always, Fsync::EverySecond, Fsync::No];
                let policy = policies[self.rng.below(3) as usize];
                // From here on nothing is sure.
                self.holds_from = Nanos::MAX;
                let words = ["CONFIG", "SET", "appendfsync", policy.name()];
                (Ask::Policy(policy), vec![request(&words)])
            }
            2..10 => {
                let cell = self.rng.below(self.cells.len() as u64) as usize;
                let (kind, key) = (self.cells[cell].kind, &self.cells[cell].keys[0]);
                if kind == Kind::Mortal {
                    return false;
                }
                (Ask::Look(cell), vec![kind.look(key)])
            }
            _ => {
                let cell = own.start + self.rng.below(own.len() as u64) as usize;
                self.values += 1;
                self.sequence += 1;
                let (n, is_large) = (self.values, self.plan.is_large);
                let written = self.cells[cell].write(&mut self.rng, n, is_large, now / MS);
                self.cells[cell].history.push(Version {
                    state: written.state,
                    deadline: written.deadline,
                    sent: self.sequence,
                    acked: None,
                });
                (Ask::Write(cell), written.requests)
            }
        };
        self.send(at, ask, &requests, socket, ring);
        true
    }

    fn send(
        &mut self,
        at: usize,
        ask: Ask,
        requests: &[Vec<u8>],
        socket: SocketId,
        ring: &mut FakeReactor,
    ) {
        let client = &mut self.clients[at];
        client.asked = Some(Asked {
            ask,
            replies: Vec::new(),
            count: requests.len(),
            at: self.world.now(),
        });
        let block = Outgoing::Block(requests.concat());
        client.is_sending = ring.send(socket, block).is_ok();
    }

    // ---- what must be there ----

    /// Looks at every key, once the node has loaded.
    fn audit(&mut self, node: &mut Node) -> Outcome<()> {
        for _ in 0..100_000 {
            if !node.shared.loading.load(SeqCst) {
                break;
            }
            self.step(node)?;
        }
        let ring = self.ring.get_or_insert_with(|| self.world.reactor(CLIENTS));
        let at = Endpoint::Tcp(SocketAddr::new(NODE.ip(), PORT));
        let socket = ring.connect(&at).map_err(|error| error.to_string())?;
        self.clients.push(Client {
            socket: Some(socket),
            ..Client::default()
        });
        let auditor = self.clients.len() - 1;
        let mut is_asked = false;
        for _ in 0..100_000 {
            self.step(node)?;
            let client = &self.clients[auditor];
            if is_asked && client.asked.is_none() {
                if let Some(mut ring) = self.ring.take() {
                    ring.close(socket);
                    self.ring = Some(ring);
                }
                self.clients.pop();
                return Ok(());
            }
            if client.is_connected
                && !is_asked
                && let Some(mut ring) = self.ring.take()
            {
                is_asked = true;
                let all = self.cells.iter();
                let looks = all.flat_map(|cell| cell.keys.iter().map(|key| cell.kind.look(key)));
                let looks: Vec<_> = looks.collect();
                self.send(auditor, Ask::Audit, &looks, socket, &mut ring);
                self.ring = Some(ring);
            }
        }
        Err("it does not answer".into())
    }

    /// Compares what is there with what must be, and goes on from it.
    fn compare(&mut self, replies: &[Reply]) -> Outcome<()> {
        let now_ms = self.world.now() / MS;
        let mut replies = replies.iter();
        let mut found = Vec::new();
        for cell in &self.cells {
            let mut state = Vec::new();
            for _ in &cell.keys {
                let reply = replies.next().ok_or("a reply is missing")?;
                state.push(cell.kind.value(reply)?);
            }
            let like = cell.versions_like(&state, now_ms);
            found.push((state, like));
        }
        let is_timely = self.plan.policy == Fsync::EverySecond
            && !self.plan.switches
            && self.plan.faults.is_none();
        let window = self.crashed.saturating_sub(WINDOW);
        // The newest write that each shard surely has.
        let mut newest = vec![0; self.plan.shards];
        for (cell, (state, like)) in self.cells.iter().zip(&found) {
            let acked = cell
                .history
                .iter()
                .rposition(|version| match version.acked {
                    Some((_, at)) => self.was_stopped || (is_timely && at < window),
                    None => false,
                });
            let floor = acked.unwrap_or(0).max(cell.floor);
            let count = cell.history.len();
            match (like.first(), like.last()) {
                (Some(first), Some(last)) if *last >= floor => {
                    for shard in cell.changed(*first) {
                        newest[shard] = newest[shard].max(cell.history[*first].sent);
                    }
                }
                _ => {
                    return Err(format!(
                        "{:?} {:?}: {state:.200?} is none of the versions from {floor} on, but {like:?} of \
                         {count}; \
                         version {floor}: {:.200?}",
                        cell.kind, cell.keys, cell.history[floor],
                    ));
                }
            }
        }
        for (cell, (_, like)) in self.cells.iter().zip(&found) {
            let last = like.last().copied().unwrap_or(0);
            for (at, lost) in cell.history.iter().enumerate().skip(last + 1) {
                let Some((acked, _)) = lost.acked else {
                    continue;
                };
                let shards = cell.changed(at);
                if let Some(shard) = shards.iter().find(|shard| acked < newest[**shard]) {
                    return Err(format!(
                        "{:?}: {:.200?} is lost, but a later write of shard {shard} is there",
                        cell.keys, lost.state
                    ));
                }
            }
        }
        // What is there was read from the disk.
        for (cell, (state, like)) in self.cells.iter_mut().zip(found) {
            let deadline = like.last().and_then(|last| cell.history[*last].deadline);
            let is_gone = state.iter().all(|value| *value == Value::None);
            cell.floor = 0;
            cell.history = vec![Version {
                state,
                deadline: deadline.filter(|_| !is_gone),
                sent: 0,
                acked: Some((0, 0)),
            }];
        }
        Ok(())
    }
}

/// What a history comes to, so that two can be compared.
/// All keys of a shard.
fn sum(shard: &mut Shard) -> u128 {
    let mut digest = Digest::default();
    shard.begin_walk(Walker::Digest);
    loop {
        let budget = Budget {
            records: 1000,
            bytes: 1 << 20,
        };
        let mut body = Vec::new();
        let slice = shard.walk_on(Walker::Digest, budget, &mut body);
        digest.add(slice.database, &body);
        if slice.is_last {
            return digest.sum;
        }
    }
}

fn digest(sim: &Sim) -> (Nanos, u64, u64, Vec<(PathBuf, Vec<u8>)>) {
    let files = sim.world.files(NODE).into_iter();
    let files = files.map(|path| {
        let bytes = sim.world.read_file(NODE, &path).unwrap_or_default();
        (path, bytes)
    });
    (sim.world.now(), sim.sequence, sim.acked, files.collect())
}

fn run(seed: u64, disk: Trust) -> Outcome<Sim> {
    let mut sim = Sim::seeded(seed, disk);
    let outcome = catch_unwind(AssertUnwindSafe(|| sim.run()));
    let failed = |what: String| format!("seed {seed}: {what}\n    {:?}", sim.plan);
    match outcome {
        Ok(Ok(())) => Ok(sim),
        Ok(Err(what)) => Err(failed(what)),
        Err(_) => Err(failed("a panic".into())),
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

/// Does the disk only forget, or does it fail, too?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// A fourth of them fail.
    Drawn,
    Good,
    Bad,
}

#[test]
fn power_may_go_at_any_moment() {
    let disk = match number("RINGKEEP_SIM_FAULTS") {
        None => Trust::Drawn,
        Some(0) => Trust::Good,
        Some(_) => Trust::Bad,
    };
    let first = number("RINGKEEP_SIM_FIRST").unwrap_or(0);
    let count = number("RINGKEEP_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let seen = Mutex::new((Visits::new(), Vec::new(), 0));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Relaxed);
                    let (seed, disk) = match FAILED.get(at as usize) {
                        Some(failed) => *failed,
                        None if at < FAILED.len() as u64 + count => {
                            (first + at - FAILED.len() as u64, disk)
                        }
                        None => return,
                    };
                    let outcome = run(seed, disk);
                    let mut seen = seen.lock().expect("nobody panicked");
                    if count > PROGRESS && at > 0 && at.is_multiple_of(PROGRESS) {
                        let (failed, acked) = (seen.1.len(), seen.2);
                        eprintln!("{at} seeds, {failed} failed, {acked} acknowledged writes");
                    }
                    match outcome {
                        Ok(sim) => {
                            for (point, count) in sim.visits {
                                *seen.0.entry(point).or_default() += count;
                            }
                            seen.2 += sim.acked;
                        }
                        Err(what) => seen.1.push(what),
                    }
                }
            });
        }
    });
    let (visits, failures, acked) = seen.into_inner().expect("nobody panicked");
    println!("{count} seeds, {acked} acknowledged writes, crashes at {visits:?}");
    assert!(
        failures.is_empty(),
        "{} of {count} seeds failed:\n{}",
        failures.len(),
        failures[..failures.len().min(20)].join("\n")
    );
    if count >= SEEDS && disk == Trust::Drawn {
        let missed: Vec<_> = POINTS
            .iter()
            .filter(|point| !visits.contains_key(point))
            .collect();
        assert!(missed.is_empty(), "no crash came at {missed:?}");
    }
}

#[test]
fn one_seed_is_one_history() {
    for seed in 0..8 {
        let [one, two] = [(); 2].map(|()| run(seed, Trust::Drawn).map(|sim| digest(&sim)));
        assert_eq!(one, two, "seed {seed}");
    }
}
