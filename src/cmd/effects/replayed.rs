//! Whatever commands did to some shards, their frames do to others.

use std::collections::{BTreeMap, BTreeSet};

use super::{Replay, tests::VOCABULARY};
use crate::{
    base::Rng,
    cmd::{Run, Shards, Table, all, cover, testing::Desk},
    resp::OwnedArgs,
    store::{
        EvictionPool, Hash, Keyspace, Kind, List, Policy, Sampling, Set, Stream, StreamId, Zset,
    },
};

const SHARDS: usize = 3;
const DATABASES: u64 = 4;
const COMMANDS: usize = 30_000;

/// Commands that mostly succeed. A word in braces stands for one of many.
const FORMS: &[&str] = &[
    "SET {str} {value}",
    "SET {any} {value} PX {soon}",
    "SET {str} {value} EX 1 NX",
    "SET {str} {value} XX KEEPTTL",
    "SET {str} {value} PXAT {number}",
    "SETEX {str} 1 {value}",
    "PSETEX {any} {soon} {value}",
    "GETEX {str} PX {soon}",
    "GETEX {str} PERSIST",
    "GETSET {str} {value}",
    "APPEND {str} {value}",
    "SETRANGE {str} {number} {value}",
    "INCRBY {str} {number}",
    "INCRBYFLOAT {str} {score}",
    "MSET {str} {value} {str} {value} {str} {value}",
    "MSETNX {str} {value} {any} {value}",
    "SETBIT {str} {number} 1",
    "BITFIELD {str} SET u8 #{number} 200 INCRBY i5 {number} 3",
    "BITOP XOR {str} {str} {str}",
    "PFADD {hll} {member} {member}",
    "PFADD {hll}",
    "PFMERGE {hll} {hll} {hll}",
    "PFCOUNT {hll}",
    "PFDEBUG TODENSE {hll}",
    "DEL {any}",
    "DEL {any} {any} {any}",
    "EXPIRE {any} 1",
    "PEXPIRE {any} {soon}",
    "PEXPIRE {any} {soon} GT",
    "PEXPIRE {any} -5",
    "PERSIST {any}",
    "RENAME {any} {any}",
    "RENAMENX {any} {any}",
    "COPY {any} {any} REPLACE",
    "COPY {any} {any} DB {db}",
    "MOVE {any} {db}",
    "HSET {hash} {field} {value} {field} {value}",
    "HMSET {hash} {field} {value}",
    "HSETNX {hash} {field} {value}",
    "HDEL {hash} {field} {field}",
    "HINCRBY {hash} {field} {number}",
    "HINCRBYFLOAT {hash} {field} {score}",
    "HPEXPIRE {hash} {soon} FIELDS 2 {field} {field}",
    "HPEXPIRE {hash} {soon} LT FIELDS 1 {field}",
    "HPEXPIRE {hash} 0 FIELDS 1 {field}",
    "HPERSIST {hash} FIELDS 2 {field} {field}",
    "HGETEX {hash} PX {soon} FIELDS 2 {field} {field}",
    "HGETEX {hash} PERSIST FIELDS 1 {field}",
    "HSETEX {hash} PX {soon} FIELDS 2 {field} {value} {field} {value}",
    "HSETEX {hash} KEEPTTL FIELDS 1 {field} {value}",
    "HSETEX {hash} PXAT 1 FIELDS 1 {field} {value}",
    "HGETDEL {hash} FIELDS 2 {field} {field}",
    "RPUSH {list} {value} {value} {value}",
    "LPUSH {list} {value}",
    "LPUSHX {list} {value}",
    "LPOP {list}",
    "RPOP {list} {number}",
    "LSET {list} {number} {value}",
    "LREM {list} {number} {value}",
    "LTRIM {list} 0 {number}",
    "LINSERT {list} AFTER {value} {value}",
    "LMOVE {list} {list} LEFT RIGHT",
    "LMOVE {list} {list} RIGHT LEFT",
    "RPOPLPUSH {list} {list}",
    "BLMOVE {list} {list} LEFT LEFT 0",
    "BRPOPLPUSH {list} {list} 0",
    "BLPOP {list} {list} 0",
    "BRPOP {list} {list} 0",
    "LMPOP 2 {list} {list} RIGHT COUNT {number}",
    "BLMPOP 0 2 {list} {list} LEFT",
    "SADD {set} {member} {member} {member}",
    "SREM {set} {member} {member}",
    "SPOP {set}",
    "SPOP {set} {number}",
    "SMOVE {set} {set} {member}",
    "SUNIONSTORE {set} {set} {set}",
    "SINTERSTORE {set} {set} {set}",
    "SDIFFSTORE {set} {set} {set}",
    "ZADD {zset} {score} {member} {score} {member}",
    "ZADD {zset} GT CH {score} {member} {score} {member}",
    "ZADD {zset} XX INCR {score} {member}",
    "ZINCRBY {zset} {score} {member}",
    "ZREM {zset} {member} {member}",
    "ZPOPMIN {zset}",
    "ZPOPMAX {zset} {number}",
    "BZPOPMIN {zset} {zset} 0",
    "BZPOPMAX {zset} {zset} 0",
    "ZMPOP 2 {zset} {zset} MIN COUNT {number}",
    "BZMPOP 0 2 {zset} {zset} MAX",
    "ZREMRANGEBYRANK {zset} 0 {number}",
    "ZREMRANGEBYSCORE {zset} {score} {score}",
    "ZREMRANGEBYLEX {zset} [{member} +",
    "ZRANGESTORE {zset} {zset} 0 {number}",
    "ZUNIONSTORE {zset} 2 {zset} {set} WEIGHTS 0.1 {number}",
    "ZINTERSTORE {zset} 2 {zset} {zset}",
    "ZDIFFSTORE {zset} 2 {zset} {zset}",
    "GEOADD {geo} {place} 37.5 {member} 13.{number} {place} {member}",
    "GEOADD {geo} NX {place} 1 {member}",
    "GEOSEARCHSTORE {zset} {geo} FROMLONLAT 15 37 BYRADIUS 900 km",
    "GEORADIUS {geo} 15 37 900 km STOREDIST {zset}",
    "SORT {list} ALPHA STORE {list}",
    "SORT {set} BY nosort STORE {list}",
    "XADD {stream} * {field} {value}",
    "XADD {stream} MAXLEN ~ {number} * {field} {value} {field} {value}",
    "XADD {stream} MAXLEN {number} * {field} {value}",
    "XADD {stream} NOMKSTREAM {now}-* {field} {value}",
    "XTRIM {stream} MINID {now}",
    "XTRIM {stream} MAXLEN {number}",
    "XADD stream0 * {field} {value}",
    "XDEL stream0 {id}",
    "XDEL stream0 {id} {id} {now}",
    "XSETID {stream} {now}-5",
    "XSETID {stream} {now}-5 ENTRIESADDED 900 MAXDELETEDID 5-5",
    "XGROUP CREATE {stream} {group} 0 MKSTREAM",
    "XGROUP CREATE {stream} {group} $ ENTRIESREAD {number}",
    "XGROUP SETID {stream} {group} 0",
    "XGROUP CREATECONSUMER {stream} {group} {consumer}",
    "XGROUP DELCONSUMER {stream} {group} {consumer}",
    "XGROUP DESTROY {stream} {group}",
    "XREADGROUP GROUP {group} {consumer} COUNT {number} STREAMS {stream} >",
    "XREADGROUP GROUP {group} {consumer} STREAMS {stream} {stream} > >",
    "XREADGROUP GROUP {group} {consumer} NOACK STREAMS {stream} >",
    "XREADGROUP GROUP {group} {consumer} STREAMS {stream} 0",
    "XREADGROUP GROUP {group} {consumer} COUNT {number} STREAMS stream0 >",
    "XACK stream0 {group} {id} {id}",
    "XCLAIM stream0 {group} {consumer} 0 {id} {id} FORCE TIME {number}",
    "XCLAIM stream0 {group} {consumer} {soon} {id} RETRYCOUNT {number} IDLE {soon}",
    "XCLAIM stream0 {group} {consumer} 0 {id} LASTID {now} JUSTID",
    "XAUTOCLAIM {stream} {group} {consumer} 0 0 COUNT {number}",
    "GET {any}",
    "HGETALL {hash}",
    "EXISTS {any} {any}",
];

const FAR: &[&str] = &["SWAPDB 0 {db}", "FLUSHDB", "FLUSHALL"];

/// The id of an entry of `stream0`, if it has any.
fn entry(desk: &mut Desk, rng: &mut Rng) -> String {
    let keys = desk.shards.of(desk.db, b"stream0");
    let Ok(Some(stream)) = keys.get::<Stream>(b"stream0", 0) else {
        return "5-5".into();
    };
    let len = stream.log().len().max(1);
    let mut entries = stream.log().range(StreamId::MIN, StreamId::MAX);
    let chosen = entries.nth(rng.below(len) as usize);
    chosen.map_or("5-5".into(), |entry| entry.id.to_string())
}

/// Fills in the words in braces.
fn filled(form: &str, desk: &mut Desk, rng: &mut Rng) -> OwnedArgs {
    let mut args = OwnedArgs::default();
    for word in form.split(' ') {
        let Some((head, (name, tail))) = word
            .split_once('{')
            .and_then(|(head, rest)| Some((head, rest.split_once('}')?)))
        else {
            args.push(word.as_bytes());
            continue;
        };
        let kinds = ["str", "hll", "hash", "list", "set", "zset", "geo", "stream"];
        let chosen = match name {
            "any" => {
                let kind = kinds[rng.below(8) as usize];
                format!("{kind}{}", rng.below(6))
            }
            "value" => match rng.below(12) {
                0 => "x".repeat(rng.below(300) as usize),
                1 => "10000".repeat(200),
                2 => "a\r\nb".into(),
                _ => rng.below(20).to_string(),
            },
            "member" => match rng.below(3) {
                0 => rng.below(12).to_string(),
                _ => format!("m{}", rng.below(40)),
            },
            "field" => format!("f{}", rng.below(12)),
            "group" => format!("g{}", rng.below(3)),
            "consumer" => format!("c{}", rng.below(4)),
            "number" => rng.below(9).to_string(),
            "db" => rng.below(DATABASES).to_string(),
            "soon" => (1 + rng.below(400)).to_string(),
            "place" => format!("{}.{}", rng.below(80), rng.below(1000)),
            "now" => (desk.now - rng.below(60)).to_string(),
            "score" => match rng.below(8) {
                0 => "0.1".into(),
                1 => "-1e-7".into(),
                2 => "3.0000000000000004".into(),
                3 => "1e300".into(),
                4 => "-0".into(),
                _ => rng.below(50).to_string(),
            },
            "id" => entry(desk, rng),
            // Now and then of another type.
            _ if rng.below(40) == 0 => format!("{}{}", kinds[rng.below(8) as usize], rng.below(6)),
            kind => format!("{kind}{}", rng.below(6)),
        };
        args.push(format!("{head}{chosen}{tail}").as_bytes());
    }
    args
}

/// A command that may make sense or not.
fn any_command(desk: &mut Desk, rng: &mut Rng) -> OwnedArgs {
    match rng.below(2000) {
        0 => filled(FAR[rng.below(FAR.len() as u64) as usize], desk, rng),
        1..300 => {
            let specs: Vec<_> = all()
                .map(|(_, spec)| spec)
                .filter(|spec| matches!(spec.run, Run::Store(_)))
                .filter(|spec| !spec.name.starts_with("FLUSH"))
                .filter(|spec| spec.name != "PFSELFTEST")
                .collect();
            let spec = specs[rng.below(specs.len() as u64) as usize];
            OwnedArgs::copy(cover::arguments(spec, rng).iter().map(|arg| arg.as_bytes()))
        }
        _ => filled(FORMS[rng.below(FORMS.len() as u64) as usize], desk, rng),
    }
}

/// All that clients can see of shards, but for how long ago keys were used and consumers asked in vain.
fn digest(shards: &mut Shards) -> BTreeMap<(usize, Vec<u8>), String> {
    let mut digest = BTreeMap::new();
    for at in 0..SHARDS {
        for (db, keys) in shards.shard(at).databases() {
            let mut names = Vec::new();
            // Nothing is due at time 0.
            keys.scan(0, usize::MAX, 0, |key, _| names.push(key.to_vec()));
            for name in names {
                let shown = show(keys, &name);
                assert_eq!(digest.insert((db, name), shown), None);
            }
        }
    }
    digest
}

fn show(keys: &mut Keyspace, key: &[u8]) -> String {
    let meta = keys.meta(key, 0).expect("it was just seen");
    let value = match meta.kind {
        Kind::String => {
            let text = keys.string(key, 0).expect("its type").expect("its value");
            text.as_bytes().escape_ascii().to_string()
        }
        Kind::Hash => {
            let hash = keys
                .get::<Hash>(key, 0)
                .expect("its type")
                .expect("its value");
            let mut fields: Vec<_> = hash
                .iter()
                .map(|(field, value)| (field, value, hash.deadline(field)))
                .collect();
            fields.sort_unstable();
            format!("{fields:?}")
        }
        Kind::List => {
            let list = keys
                .get::<List>(key, 0)
                .expect("its type")
                .expect("its value");
            let elements: Vec<_> = list
                .iter()
                .map(|element| element.as_bytes().to_vec())
                .collect();
            format!("{elements:?}")
        }
        Kind::Set => {
            let set = keys
                .get::<Set>(key, 0)
                .expect("its type")
                .expect("its value");
            let mut members: Vec<_> = set.iter().map(|member| member.to_vec()).collect();
            members.sort_unstable();
            format!("{members:?}")
        }
        Kind::Zset => {
            let zset = keys
                .get::<Zset>(key, 0)
                .expect("its type")
                .expect("its value");
            let members: Vec<_> = zset
                .iter()
                .map(|(member, score)| (member, score.to_bits()))
                .collect();
            format!("{members:?}")
        }
        Kind::Stream => {
            let stream = keys
                .get::<Stream>(key, 0)
                .expect("its type")
                .expect("its value");
            show_stream(stream)
        }
    };
    format!("{:?} {:?} {value}", meta.kind, meta.deadline)
}

fn show_stream(stream: &Stream) -> String {
    let log = stream.log();
    let mut shown = format!(
        "{} {} {}",
        log.last_id(),
        log.max_deleted(),
        log.entries_added()
    );
    for entry in log.range(StreamId::MIN, StreamId::MAX) {
        let pairs: Vec<_> = entry.pairs().collect();
        shown.push_str(&format!("\n{} {pairs:?}", entry.id));
    }
    for (name, group) in stream.groups() {
        shown.push_str(&format!(
            "\n{name:?} {} {:?}",
            group.last_id, group.entries_read
        ));
        for (number, consumer) in group.consumers() {
            shown.push_str(&format!("\n  {:?} {:?}", consumer.name(), consumer.active));
            for id in group.pending_of(number, ..) {
                let row = group.pending(id).map(|row| (row.delivered, row.count));
                shown.push_str(&format!("\n    {id} {row:?}"));
            }
        }
    }
    shown
}

/// The other shards, which know the first ones' frames alone.
struct Twin {
    shards: Shards,
    replay: Replay,
    databases: [usize; SHARDS],
    /// The commands that came.
    seen: BTreeSet<&'static str>,
    /// Frames until one is lost.
    until_lost: usize,
}

impl Twin {
    fn new(until_lost: usize) -> Self {
        Self {
            shards: Desk::with_shards(SHARDS as u32).shards,
            replay: Replay::default(),
            databases: [0; SHARDS],
            seen: BTreeSet::new(),
            until_lost,
        }
    }

    fn follow(&mut self, desk: &mut Desk, table: &Table) -> Result<(), String> {
        for at in 0..SHARDS {
            for frame in desk.units(at).into_iter().flatten() {
                let args = frame.as_args();
                let spec = table.find(args.at(0)).expect("a known command");
                self.seen.insert(spec.name);
                self.until_lost = self.until_lost.wrapping_sub(1);
                if self.until_lost == 0 {
                    continue;
                }
                let db = &mut self.databases[at];
                self.replay
                    .apply(&mut self.shards, at, db, args)
                    .map_err(|why| format!("{why:?}: {}", shown(&frame)))?;
            }
        }
        Ok(())
    }
}

/// Keys go without a command: those that are due, or by chance.
fn background(desk: &mut Desk, rng: &mut Rng) {
    let now = desk.now;
    for at in 0..SHARDS {
        for (_, keys) in desk.shards.shard(at).databases() {
            keys.expire_due(now, 1 + rng.below(20) as usize, |_| {});
            let (policy, mut pool) = (Policy::AllKeysRandom, EvictionPool::default());
            let sampling = Sampling {
                policy,
                count: 1,
                place: 0,
            };
            if rng.below(4) == 0 {
                keys.sample(sampling, &mut pool, rng, now);
                if let Some(candidate) = pool.pop() {
                    keys.evict(candidate, policy, now, |_| {});
                }
            }
        }
        desk.shards.record_gone(at);
        desk.shards.end_unit();
    }
}

/// Runs as many commands; the twin, or where it differs.
fn run(seed: u64, commands: usize, until_lost: usize) -> Result<Twin, String> {
    let table = Table::build();
    let mut rng = Rng::seeded(seed);
    let (mut desk, mut twin) = (Desk::recording(SHARDS as u32), Twin::new(until_lost));
    let mut recent = Vec::new();
    for number in 0..commands {
        if rng.below(4) == 0 {
            desk.now += rng.below(100);
        }
        if rng.below(10) == 0 {
            desk.db = rng.below(DATABASES) as usize;
        }
        desk.from_primary = rng.below(12) == 0;
        let args = any_command(&mut desk, &mut rng);
        let words: Vec<&[u8]> = args.as_args().iter().collect();
        desk.send(&words);
        recent.push(format!("{} {}: {}", desk.db, desk.now, shown(&args)));
        if rng.below(3) > 0 {
            desk.shards.end_unit();
        }
        if rng.below(50) == 0 {
            desk.shards.end_unit();
            background(&mut desk, &mut rng);
        }
        if rng.below(40) == 0 || number + 1 == commands {
            for at in 0..SHARDS {
                desk.shards.record_gone(at);
            }
            desk.shards.end_unit();
            let here = || format!("seed {seed}, command {number}, after {recent:#?}");
            twin.follow(&mut desk, &table)
                .map_err(|why| format!("{}: {why}", here()))?;
            let (want, found) = (digest(&mut desk.shards), digest(&mut twin.shards));
            let mut keys = want.keys().chain(found.keys());
            if let Some(key) = keys.find(|key| want.get(key) != found.get(key)) {
                let (want, found) = (want.get(key), found.get(key));
                return Err(format!("{}: {key:?} {want:#?} {found:#?}", here()));
            }
            recent.clear();
        }
    }
    Ok(twin)
}

fn shown(args: &OwnedArgs) -> String {
    let words = args
        .as_args()
        .iter()
        .map(|word| word.escape_ascii().to_string());
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn frames_do_what_the_commands_did() {
    let mut seen = BTreeSet::new();
    for seed in 1..=6 {
        let twin = run(seed, COMMANDS, 0).unwrap_or_else(|why| panic!("{why}"));
        seen.extend(twin.seen);
    }
    // All of the vocabulary was spoken, and nothing else.
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), VOCABULARY);
}

#[test]
fn a_lost_frame_shows() {
    let lost = 1..=8;
    let noticed = lost.filter(|lost| run(9, 2000, 97 * lost).is_err()).count();
    // A command that does nothing the second time, or a key that went at once, may hide one.
    assert!(noticed >= 4, "{noticed}");
}
