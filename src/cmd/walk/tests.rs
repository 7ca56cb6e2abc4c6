//! Walks with commands between their slices, held against what the shard is in the end.

use std::collections::BTreeMap;

use super::*;
use crate::{
    base::{Ms, Rng},
    cmd::{Ctx, Run, Shards, Table, run},
    image::{ImageReader, Record},
    resp::{Out, OwnedArgs, Proto},
    store::{Hash, Keyspace, Kind, List, Set, Stream, Zset},
};

const DATABASES: usize = 3;
const START: Ms = 1_000_000_000_000;

/// One shard and who runs commands on it.
struct Side {
    shards: Shards,
    table: Table,
    rng: Rng,
}

impl Side {
    fn new(seed: u64) -> Self {
        let mut shards = Shards::none_of(1);
        let mut shard = Shard::new(DATABASES, seed);
        for at in 0..DATABASES {
            shard.database(at).note_expired(true);
        }
        shards.put(0, Box::new(shard));
        Self {
            shards,
            table: Table::build(),
            rng: Rng::seeded(seed),
        }
    }

    /// Runs a command; true if it changed anything, be it only when a consumer was last seen.
    fn run(&mut self, db: usize, now: Ms, args: &OwnedArgs) -> bool {
        let args = args.as_args();
        let spec = self.table.find(args.at(0)).expect("a command");
        let Run::Store(function) = spec.run else {
            panic!("{} is no store command", spec.name)
        };
        assert!(spec.fits(args.len()), "{args:?}");
        let mut out = Out::new(Proto::Two);
        let mut ctx = Ctx {
            shards: &mut self.shards,
            db,
            out: &mut out,
            now,
            rng: &mut self.rng,
            dirty: 0,
            may_block: false,
            block: None,
            from_primary: false,
            arrived: None,
        };
        let may_see = spec.name.starts_with('X');
        run(&mut ctx, spec, function, args).is_ok() && (ctx.dirty > 0 || may_see)
    }

    fn database(&mut self, at: usize) -> &mut Keyspace {
        self.shards.shard(0).database(at)
    }

    /// Everything that is there, due or not.
    fn show(&mut self) -> BTreeMap<(usize, Vec<u8>), String> {
        let mut shown = BTreeMap::new();
        for db in 0..DATABASES {
            let keys = self.database(db);
            let (mut cursor, mut names) = (0, Vec::new());
            loop {
                cursor = keys.scan(cursor, 1000, 0, |key, _| names.push(key.to_vec()));
                if cursor == 0 {
                    break;
                }
            }
            assert_eq!(names.len(), keys.len());
            for name in names {
                let text = show(keys, &name);
                assert_eq!(shown.insert((db, name), text), None);
            }
        }
        shown
    }
}

fn show(keys: &mut Keyspace, key: &[u8]) -> String {
    let meta = keys.meta(key, 0).expect("the key is there");
    let value = match meta.kind {
        Kind::String => {
            let text = keys.string(key, 0).expect("a string").expect("there");
            format!("{:?}", text.as_bytes())
        }
        Kind::Hash => {
            let hash = keys.get::<Hash>(key, 0).expect("a hash").expect("there");
            let fields: BTreeMap<_, _> = hash
                .iter()
                .map(|(field, value)| (field, (value, hash.deadline(field))))
                .collect();
            format!("{fields:?}")
        }
        Kind::List => {
            let list = keys.get::<List>(key, 0).expect("a list").expect("there");
            let elements: Vec<_> = list
                .iter()
                .map(|element| element.as_bytes().to_vec())
                .collect();
            format!("{elements:?}")
        }
        Kind::Set => {
            let set = keys.get::<Set>(key, 0).expect("a set").expect("there");
            let mut members: Vec<_> = set.iter().map(|member| member.to_vec()).collect();
            members.sort();
            format!("{members:?}")
        }
        Kind::Zset => {
            let zset = keys
                .get::<Zset>(key, 0)
                .expect("a sorted set")
                .expect("there");
            format!("{:?}", zset.iter().collect::<Vec<_>>())
        }
        Kind::Stream => {
            let stream = keys
                .get::<Stream>(key, 0)
                .expect("a stream")
                .expect("there");
            let log = stream.log();
            let range = log.range(crate::store::StreamId::MIN, crate::store::StreamId::MAX);
            let entries: Vec<_> = range
                .map(|entry| (entry.id, entry.pairs().collect::<Vec<_>>()))
                .collect();
            let counters = (log.last_id(), log.max_deleted(), log.entries_added());
            let groups: Vec<_> = stream
                .groups()
                .map(|(name, group)| {
                    let consumers: Vec<_> = group
                        .consumers()
                        .map(|(_, consumer)| (consumer.name(), consumer.seen, consumer.active))
                        .collect();
                    let pending: Vec<_> = group
                        .pending_range(..)
                        .map(|(id, row)| {
                            let name = group.consumer(row.consumer).name();
                            (id, name, row.delivered, row.count)
                        })
                        .collect();
                    (name, group.last_id, group.entries_read, consumers, pending)
                })
                .collect();
            format!("{counters:?} {entries:?} {groups:?}")
        }
    };
    format!("{:?} {:?} {value}", meta.kind, meta.deadline)
}

/// What a file holds, in order.
enum Piece {
    Records {
        database: usize,
        records: usize,
        body: Vec<u8>,
    },
    Frame {
        database: usize,
        now: Ms,
        args: OwnedArgs,
    },
}

/// A shard under a walk, and the file that comes of it.
struct World {
    live: Side,
    walk: ShardWalk,
    file: Vec<Piece>,
    rng: Rng,
    now: Ms,
    next_id: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            live: Side::new(seed),
            walk: ShardWalk::new(DATABASES),
            file: Vec::new(),
            rng: Rng::seeded(seed),
            now: START,
            next_id: 1,
        }
    }

    fn say(&mut self, db: usize, line: &str) {
        let args = OwnedArgs::copy(line.split(' ').map(str::as_bytes));
        let has_changed = self.live.run(db, self.now, &args);
        for key in self.live.database(db).take_expired() {
            self.note(db, OwnedArgs::copy([&b"DEL"[..], &key]));
        }
        if has_changed {
            self.note(db, args);
        }
    }

    fn note(&mut self, database: usize, args: OwnedArgs) {
        let name = args.as_args().at(0).to_ascii_uppercase();
        let is_noted = match &name[..] {
            b"FLUSHDB" | b"FLUSHALL" => true,
            b"SWAPDB" => {
                let index = |at| crate::base::parse_i64(args.as_args().at(at)).expect("an index");
                self.walk.swapped(index(1) as usize, index(2) as usize);
                true
            }
            _ => {
                let key = match &name[..] {
                    b"XGROUP" => 2,
                    b"XREADGROUP" => 7,
                    _ => 1,
                };
                let shard = self.live.shards.shard(0);
                self.walk
                    .takes(shard, database, args.as_args().at(key), &name)
            }
        };
        if is_noted {
            let now = self.now;
            self.file.push(Piece::Frame {
                database,
                now,
                args,
            });
        }
    }

    fn slice(&mut self, budget: Budget) -> bool {
        let mut body = Vec::new();
        let shard = self.live.shards.shard(0);
        let slice = self.walk.next_slice(shard, budget, &mut body);
        assert!(slice.records <= budget.records.max(1) + 60, "{slice:?}");
        self.file.push(Piece::Records {
            database: slice.database,
            records: slice.records,
            body,
        });
        slice.is_last
    }

    /// One change that chance chooses. Keys of each kind are few, so that they are met often; strings are
    /// many, so that tables split and merge.
    fn change(&mut self, strings: u64) {
        let db = self.rng.below(DATABASES as u64) as usize;
        let (now, id) = (self.now, self.next_id);
        let rng = &mut self.rng;
        let mut pick = |below: u64| rng.below(below);
        let (key, other, value) = (pick(3), pick(400), pick(1000));
        let soon = now + 1 + pick(2000);
        let late = now + 1_000_000_000 + pick(1000);
        let string = pick(strings);
        let line = match pick(64) {
            0..10 => format!("SET s{string} {value}"),
            10 => format!("SET s{string} {}", "long".repeat(pick(1500) as usize)),
            11..15 => format!("DEL s{string}"),
            15 => format!("INCRBY s{string} 7"),
            16 => format!("APPEND s{string} {value}"),
            17 => format!("PEXPIREAT s{string} {soon}"),
            18 => format!(
                "PEXPIREAT {}{key} {late}",
                ["h", "l", "z", "x", "t"][pick(5) as usize]
            ),
            19 => format!(
                "PERSIST {}{key}",
                ["h", "l", "z", "x", "t"][pick(5) as usize]
            ),
            20..24 => format!("HSET h{key} f{other} {value} f{} {value}", other + 1),
            24 => format!("HDEL h{key} f{other} f{}", other + 1),
            25 => format!("HINCRBY h{key} f{other} 3"),
            26 => format!("HPEXPIREAT h{key} {late} FIELDS 1 f{other}"),
            27 => format!("HPERSIST h{key} FIELDS 1 f{other}"),
            28 => format!("LPUSH l{key} {value}"),
            29..31 => format!("RPUSH l{key} {value} {other}"),
            31 => format!("LPOP l{key}"),
            32 => format!("LSET l{key} 0 {value}"),
            33 => format!("LTRIM l{key} 1 -2"),
            34..37 => format!("SADD t{key} {other} m{value}"),
            37 => format!("SREM t{key} {other} m{value}"),
            38..41 => format!("ZADD z{key} {value} {other}"),
            41 => format!("ZADD z{key} -0.5 {other}"),
            42 => format!("ZREM z{key} {other}"),
            43 => format!(
                "ZREMRANGEBYRANK z{key} {}",
                ["-5 -3", "-2 -1", "0 -1"][pick(3) as usize]
            ),
            44..48 => format!("XADD x{key} {id}-1 field {value}"),
            48 => format!("XDEL x{key} {}-1", pick(id)),
            49 => format!("XTRIM x{key} MAXLEN 100"),
            50 => format!("XGROUP CREATE x{key} g{} {}-1 MKSTREAM", pick(2), pick(id)),
            51 => {
                let (claimed, huge) = (pick(id), [1, 1_u64 << 40][pick(2) as usize]);
                format!(
                    "XCLAIM x{key} g{} c{} 0 {claimed}-1 TIME {now} RETRYCOUNT {huge} FORCE JUSTID",
                    pick(2),
                    pick(3)
                )
            }
            52 => format!("XACK x{key} g{} {}-1", pick(2), pick(id)),
            53 => format!(
                "XGROUP SETID x{key} g{} {}-1 ENTRIESREAD {value}",
                pick(2),
                pick(id)
            ),
            54 => format!(
                "XREADGROUP GROUP g{} c{} COUNT 2 STREAMS x{key} >",
                pick(2),
                pick(3)
            ),
            55 => format!("DEL {}{key}", ["h", "l", "z", "x", "t"][pick(5) as usize]),
            // Another type under the name of a collection.
            56 => format!("SET {}{key} {value}", ["h", "t", "z"][pick(3) as usize]),
            57 => format!("SUNIONSTORE t{key} t{} t{}", (key + 1) % 3, (key + 2) % 3),
            58 if pick(10) == 0 => "FLUSHDB".to_string(),
            58 if pick(40) == 0 => "FLUSHALL".to_string(),
            59 if pick(2) == 0 => format!("SWAPDB {} {}", pick(3), pick(3)),
            60 => {
                let mut due = Vec::new();
                let keys = self.live.database(db);
                keys.expire_due(now, 3, |key| due.push(key.to_vec()));
                for key in due {
                    self.note(db, OwnedArgs::copy([&b"DEL"[..], &key]));
                }
                return;
            }
            _ => return,
        };
        self.next_id += 1;
        self.now += 1;
        // A destination of several keys is one frame per key in truth; here its sources must not count.
        if line.starts_with("SUNIONSTORE") {
            let before = self.live.run(db, self.now, &args_of(&line));
            for key in self.live.database(db).take_expired() {
                self.note(db, OwnedArgs::copy([&b"DEL"[..], &key]));
            }
            if before {
                let key = args_of(&line).as_args().at(1).to_vec();
                self.note(db, OwnedArgs::copy([&b"DEL"[..], &key]));
                let keys = self.live.database(db);
                if let Ok(Some(set)) = keys.get::<Set>(&key, now) {
                    let members: Vec<_> = set.iter().map(|member| member.to_vec()).collect();
                    for member in members {
                        self.note(db, OwnedArgs::copy([&b"SADD"[..], &key, &member]));
                    }
                }
            }
        } else {
            self.say(db, &line);
        }
    }

    fn fill(&mut self, strings: u64) {
        for at in 0..strings {
            let db = (at % 7 % DATABASES as u64) as usize;
            self.say(db, &format!("SET s{at} {at}"));
        }
        for db in 0..DATABASES {
            for key in 0..2 {
                for at in 0..150 + 400 * key {
                    self.say(db, &format!("HSET h{key} f{at} {at}"));
                    self.say(db, &format!("SADD t{key} m{at}"));
                    self.say(db, &format!("ZADD z{key} {} {at}", at * 37 % 100));
                    self.say(db, &format!("RPUSH l{key} {at}"));
                }
            }
        }
    }

    /// The file's keys, and how many records in it were parts of what others began.
    fn replay(&self, seed: u64) -> (Side, usize) {
        let mut side = Side::new(seed);
        let mut parts = 0;
        for piece in &self.file {
            match piece {
                Piece::Records {
                    database,
                    records,
                    body,
                } => {
                    let begun = side.database(*database).load(body).expect("a good body");
                    assert_eq!(begun, *records);
                    let mut reader = ImageReader::of_body(&body[..]);
                    while let Some(record) = reader.next().expect("a good body") {
                        if let Record::Hash { key, .. }
                        | Record::Set { key, .. }
                        | Record::SortedSet { key, .. } = record
                        {
                            parts += usize::from(key.is_resumed);
                        }
                    }
                }
                Piece::Frame {
                    database,
                    now,
                    args,
                } => {
                    side.run(*database, *now, args);
                    // Whatever was due was removed by a frame before.
                    let expired = side.database(*database).take_expired();
                    assert!(expired.is_empty() || args.as_args().at(0) == b"DEL");
                }
            }
        }
        (side, parts)
    }
}

fn args_of(line: &str) -> OwnedArgs {
    OwnedArgs::copy(line.split(' ').map(str::as_bytes))
}

#[test]
fn slices_and_noted_frames_are_the_shard_as_it_is_in_the_end() {
    let mut parts = 0;
    for seed in 0..40 {
        let mut world = World::new(seed);
        let strings = [30, 1500, 6000][seed as usize % 3];
        world.fill(strings);
        let budget = Budget {
            records: 1 + world.rng.below(30) as usize,
            bytes: 1 + world.rng.below(6000) as usize,
        };
        let busy = world.rng.below(40);
        let mut slices = 0;
        while !world.slice(budget) {
            slices += 1;
            if slices > 4000 {
                continue;
            }
            for _ in 0..world.rng.below(busy + 1) {
                world.change(strings);
            }
            // Crowds that come and go, for splits and merges.
            let (crowd, first) = (world.rng.below(60), world.rng.below(4) * 500);
            for at in first..first + 500 {
                match crowd {
                    0 => world.say(0, &format!("SET crowd{at} x")),
                    1 => world.say(0, &format!("DEL crowd{at}")),
                    2 => world.say(0, &format!("DEL s{at}")),
                    _ => break,
                }
            }
        }
        for _ in 0..50 {
            world.change(strings);
        }
        let (mut copy, more) = world.replay(seed % 2);
        parts += more;
        let (wanted, got) = (world.live.show(), copy.show());
        for (key, text) in &wanted {
            assert_eq!(got.get(key), Some(text), "seed {seed}: {key:?}");
        }
        assert_eq!(wanted.len(), got.len(), "seed {seed}");
    }
    assert!(parts > 100, "{parts}");
}

/// A walk that nothing disturbs.
#[test]
fn a_slice_stays_within_its_budget_but_for_one_record() {
    let mut world = World::new(1);
    world.fill(2000);
    let budget = Budget {
        records: 10,
        bytes: 1000,
    };
    while !world.slice(budget) {}
    let lists: usize = 5000;
    for piece in &world.file {
        let Piece::Records { body, .. } = piece else {
            panic!("nothing was changed")
        };
        let mut reader = ImageReader::of_body(&body[..]);
        let mut has_list = false;
        while let Some(record) = reader.next().expect("a good body") {
            has_list |= matches!(record, Record::List { .. });
        }
        let max = budget.bytes + if has_list { lists } else { 500 };
        assert!(body.len() < max, "{}", body.len());
    }
    let (mut copy, _) = world.replay(9);
    assert!(world.live.show() == copy.show());
}
