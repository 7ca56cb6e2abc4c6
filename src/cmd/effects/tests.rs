use super::*;
use crate::cmd::{all, testing::Desk};

/// Every command that may stand in a frame.
pub(super) const VOCABULARY: &[&str] = &[
    "APPEND",
    "BITFIELD",
    "DECR",
    "DECRBY",
    "DEL",
    "FLUSHALL",
    "FLUSHDB",
    "HDEL",
    "HINCRBY",
    "HPERSIST",
    "HPEXPIREAT",
    "HSET",
    "INCR",
    "INCRBY",
    "LINSERT",
    "LPOP",
    "LPUSH",
    "LREM",
    "LSET",
    "LTRIM",
    "PERSIST",
    "PEXPIREAT",
    "RPOP",
    "RPUSH",
    "SADD",
    "SELECT",
    "SET",
    "SETBIT",
    "SETRANGE",
    "SREM",
    "SWAPDB",
    "XACK",
    "XADD",
    "XCLAIM",
    "XDEL",
    "XGROUP",
    "XINTERNAL.CONSUMERSEEN",
    "XINTERNAL.PENDING",
    "XSETID",
    "XTRIM",
    "ZADD",
    "ZREM",
];

/// Runs each line; the frames that follow it have to be these, no more and no less.
fn check(lines: &[(&str, &[&str])]) {
    let mut desk = Desk::recording(1);
    let (mut want, mut found) = (Vec::new(), Vec::new());
    for (line, frames) in lines {
        let reply = desk.say(line);
        let told = desk.effects();
        // The reply tells why where they differ.
        let reply = if told == *frames {
            String::new()
        } else {
            reply
        };
        found.push(format!("{line}: {told:?} {reply}"));
        want.push(format!("{line}: {frames:?} "));
    }
    assert_eq!(found, want);
}

#[test]
fn every_command_that_writes_has_a_rule() {
    for (_, spec) in all() {
        let has_rule = !matches!(spec.effect, Rule::None);
        // What PFCOUNT remembers in the value is no change for clients.
        let wants = spec.is_write() || spec.name == "PFCOUNT";
        assert_eq!(has_rule, wants, "{}", spec.name);
        if matches!(spec.effect, Rule::Same | Rule::Newer | Rule::As(_)) {
            assert_eq!(spec.keys.info(), (1, 1, 1), "{}", spec.name);
        }
    }
    for (name, _) in rules::RULES {
        assert!(all().any(|(_, spec)| spec.name == *name), "{name}");
    }
}

#[test]
fn strings() {
    check(&[
        ("set k v", &["SET k v"]),
        ("SET k w NX", &[]),
        ("SET k w XX GET", &["SET k w"]),
        ("SET k v PX 1000", &["SET k v", "PEXPIREAT k 1000000001000"]),
        ("SET k w KEEPTTL", &["SET k w", "PEXPIREAT k 1000000001000"]),
        ("GETEX k", &[]),
        ("GETEX k PERSIST", &["PERSIST k"]),
        ("GETEX k PERSIST", &[]),
        ("GETEX k EX 5", &["PEXPIREAT k 1000000005000"]),
        ("APPEND k x", &["APPEND k x"]),
        ("SET number 12", &["SET number 12"]),
        ("APPEND number 3", &["SET number 123"]),
        ("SETRANGE k 1 y", &["SETRANGE k 1 y"]),
        ("GETSET k 1", &["SET k 1"]),
        ("INCR k", &["INCR k"]),
        ("DECRBY k 3", &["DECRBY k 3"]),
        ("EXPIRE k 7", &["PEXPIREAT k 1000000007000"]),
        (
            "INCRBYFLOAT k 0.5",
            &["SET k -0.5", "PEXPIREAT k 1000000007000"],
        ),
        ("INCR k", &[]),
        ("GETDEL k", &["DEL k"]),
        ("GETDEL k", &[]),
        ("SETEX k 3 v", &["SET k v", "PEXPIREAT k 1000000003000"]),
        ("PSETEX k 3 v", &["SET k v", "PEXPIREAT k 1000000000003"]),
        ("SETNX k v", &[]),
        ("SETNX n v", &["SET n v"]),
        ("MSET a 1 b 2", &["SET a 1", "SET b 2"]),
        ("MSETNX a 1 c 2", &[]),
        ("MSETNX c 1 d 2", &["SET c 1", "SET d 2"]),
        ("SET k v PXAT 5", &["DEL k"]),
        ("SETBIT bits 3 1", &["SETBIT bits 3 1"]),
        ("SETBIT bits 3 1", &[]),
        (
            "BITFIELD bits SET u8 8 7 GET u8 0",
            &["BITFIELD bits SET u8 8 7 GET u8 0"],
        ),
        ("BITFIELD bits GET u8 8", &[]),
        ("BITOP OR k a b", &["SET k 3"]),
        ("BITOP OR k none", &["DEL k"]),
    ]);
}

#[test]
fn keys() {
    check(&[
        ("SET a 1", &["SET a 1"]),
        ("SET b 2", &["SET b 2"]),
        ("DEL a none a b", &["DEL a", "DEL b"]),
        ("UNLINK a", &[]),
        ("SET a 1", &["SET a 1"]),
        ("PEXPIRE a 9", &["PEXPIREAT a 1000000000009"]),
        ("PERSIST a", &["PERSIST a"]),
        ("PERSIST a", &[]),
        ("EXPIREAT a 5", &["DEL a"]),
        ("PEXPIREAT a 5", &[]),
        ("RPUSH l 1 2", &["RPUSH l 1 2"]),
        ("EXPIRE l 9", &["PEXPIREAT l 1000000009000"]),
        (
            "RENAME l m",
            &["DEL l", "DEL m", "RPUSH m 1 2", "PEXPIREAT m 1000000009000"],
        ),
        ("RENAME m m", &[]),
        ("RENAME l m", &[]),
        ("SET a 1", &["SET a 1"]),
        ("RENAMENX a m", &[]),
        ("RENAMENX a b", &["DEL a", "SET b 1"]),
        ("COPY b m", &[]),
        ("COPY b m REPLACE", &["SET m 1"]),
        ("COPY b m DB 3", &["SELECT 3", "SET m 1"]),
        ("MOVE b 3", &["SELECT 0", "DEL b", "SELECT 3", "SET b 1"]),
        ("SWAPDB 0 3", &["SELECT 0", "SWAPDB 0 3"]),
        ("SWAPDB 0 0", &[]),
        ("SORT none STORE b", &["DEL b"]),
        ("RPUSH l 3 1 2", &["RPUSH l 3 1 2"]),
        ("SORT l", &[]),
        ("SORT l STORE s", &["DEL s", "RPUSH s 1 2 3"]),
        ("FLUSHDB ASYNC", &["FLUSHDB"]),
        ("FLUSHALL", &["FLUSHALL"]),
        ("DBSIZE", &[]),
    ]);
}

#[test]
fn values_that_are_made_elsewhere_are_said_whole() {
    let mut desk = Desk::recording(1);
    desk.say("ZADD z 0.1 a 1e300 b");
    let reply = desk.send(&[b"DUMP", b"z"]);
    let payload = &reply[reply
        .iter()
        .position(|byte| *byte == b'\n')
        .expect("a line")
        + 1..];
    let payload = &payload[..payload.len() - 2];
    desk.effects();
    desk.send(&[b"RESTORE", b"y", b"9", payload]);
    assert_eq!(
        desk.effects(),
        [
            "DEL y",
            "ZADD y 0.1 a 1e+300 b",
            "PEXPIREAT y 1000000000009"
        ]
    );
    desk.send(&[b"RESTORE", b"y", b"1", payload, b"ABSTTL", b"REPLACE"]);
    assert_eq!(desk.effects(), ["DEL y"]);
    desk.say("PFADD p a");
    let sketch = desk.effects();
    assert!(sketch.len() == 1 && sketch[0].starts_with("SET p HYLL"));
    desk.say("PFADD p a");
    assert_eq!(desk.effects(), [""; 0]);
    desk.say("PFCOUNT p");
    assert_eq!(desk.effects(), ["SETRANGE p 8 \u{1}\0\0\0\0\0\0\0"]);
    desk.say("PFCOUNT p");
    assert_eq!(desk.effects(), [""; 0]);
    desk.say("EXPIRE p 5");
    desk.effects();
    desk.say("PFMERGE p");
    assert_eq!(desk.effects()[1..], ["PEXPIREAT p 1000000005000"]);
}

#[test]
fn hashes() {
    check(&[
        ("HSET h a 1 b 2", &["HSET h a 1 b 2"]),
        ("HMSET h a 1", &["HSET h a 1"]),
        ("HSETNX h a 1", &[]),
        ("HSETNX h c 3", &["HSET h c 3"]),
        ("HINCRBY h a 2", &["HINCRBY h a 2"]),
        (
            "HPEXPIRE h 9 FIELDS 2 a b",
            &["HPEXPIREAT h 1000000000009 FIELDS 2 a b"],
        ),
        ("HPEXPIRE h 5 NX FIELDS 1 a", &[]),
        (
            "HINCRBY h a -1",
            &["HSET h a 2", "HPEXPIREAT h 1000000000009 FIELDS 1 a"],
        ),
        (
            "HINCRBY h a 1",
            &["HSET h a 3", "HPEXPIREAT h 1000000000009 FIELDS 1 a"],
        ),
        ("HINCRBY h n 1", &["HINCRBY h n 1"]),
        ("HDEL h n", &["HDEL h n"]),
        (
            "HINCRBYFLOAT h a 0.5",
            &["HSET h a 3.5", "HPEXPIREAT h 1000000000009 FIELDS 1 a"],
        ),
        ("HINCRBYFLOAT h d 0.5", &["HSET h d 0.5"]),
        ("HPERSIST h FIELDS 1 a", &["HPERSIST h FIELDS 1 a"]),
        ("HPERSIST h FIELDS 1 a", &[]),
        ("HGETEX h FIELDS 1 a", &[]),
        (
            "HGETEX h PX 7 FIELDS 2 a x",
            &["HDEL h x", "HPEXPIREAT h 1000000000007 FIELDS 1 a"],
        ),
        ("HGETEX h PERSIST FIELDS 1 a", &["HPERSIST h FIELDS 1 a"]),
        ("HEXPIREAT h 5 FIELDS 1 a", &["HDEL h a"]),
        ("HGETDEL h FIELDS 1 d", &["HDEL h d"]),
        ("HGETDEL h FIELDS 1 d", &[]),
        (
            "HSETEX h KEEPTTL FIELDS 2 b 7 e 8",
            &["HSET h b 7 e 8", "HPEXPIREAT h 1000000000009 FIELDS 1 b"],
        ),
        ("HSETEX h FIELDS 1 b 7", &["HSET h b 7"]),
        ("HSETEX h FNX FIELDS 1 b 7", &[]),
        ("HSETEX h PXAT 1 FIELDS 1 b 7", &["HDEL h b"]),
        ("HDEL h none", &[]),
        ("HDEL h c none", &["HDEL h c none"]),
        ("HGETDEL h FIELDS 1 e", &["DEL h"]),
    ]);
}

#[test]
fn lists() {
    check(&[
        ("LPUSHX l a", &[]),
        ("LPUSH l a b", &["LPUSH l a b"]),
        ("RPUSHX l c", &["RPUSH l c"]),
        ("LSET l 0 x", &["LSET l 0 x"]),
        ("LSET l 9 x", &[]),
        ("LINSERT l BEFORE a y", &["LINSERT l BEFORE a y"]),
        ("LINSERT l BEFORE none y", &[]),
        ("LREM l 0 y", &["LREM l 0 y"]),
        ("LREM l 0 y", &[]),
        ("LMOVE l m LEFT RIGHT", &["LPOP l", "RPUSH m x"]),
        ("LMOVE l l LEFT RIGHT", &["LPOP l", "RPUSH l a"]),
        ("RPOPLPUSH l m", &["RPOP l", "LPUSH m a"]),
        ("BLMOVE m l RIGHT LEFT 0", &["RPOP m", "LPUSH l x"]),
        ("BRPOPLPUSH l m 0", &["RPOP l", "LPUSH m c"]),
        ("LRANGE m 0 -1", &[]),
        ("BLPOP none m 0", &["LPOP m"]),
        ("BRPOP none m 0", &["RPOP m"]),
        ("BLPOP none m 0", &[]),
        ("RPUSH m 1 2 3 4 5", &["RPUSH m 1 2 3 4 5"]),
        ("LMPOP 2 none m LEFT COUNT 2", &["LPOP m 2"]),
        ("BLMPOP 0 2 none m RIGHT", &["RPOP m"]),
        ("LTRIM m 0 9", &[]),
        ("LTRIM m 0 0", &["LTRIM m 0 0"]),
        ("RPOP m 5", &["RPOP m 5"]),
        ("RPOP m", &[]),
        ("LPOP l 0", &[]),
    ]);
}

#[test]
fn sets() {
    check(&[
        ("SADD s a b", &["SADD s a b"]),
        ("SADD s a", &[]),
        ("SREM s none", &[]),
        ("SMOVE s t a", &["SREM s a", "SADD t a"]),
        ("SMOVE s t a", &[]),
        ("SPOP s 0", &[]),
        ("SPOP s", &["DEL s"]),
        ("SPOP s", &[]),
        ("SPOP t 5", &["DEL t"]),
        ("SADD s a a", &["SADD s a a"]),
        ("SADD t a b", &["SADD t a b"]),
        ("SINTERSTORE d s t", &["DEL d", "SADD d a"]),
        ("SUNIONSTORE d s", &["DEL d", "SADD d a"]),
        ("SDIFFSTORE d s t", &["DEL d"]),
        ("SDIFFSTORE d s t", &[]),
    ]);
    let mut desk = Desk::recording(1);
    desk.say("SADD s a b c");
    desk.effects();
    let popped = desk
        .say("SPOP s 2")
        .split(' ')
        .skip(2)
        .step_by(2)
        .collect::<Vec<_>>()
        .join(" ");
    assert_eq!(desk.effects(), [format!("SREM s {popped}")]);
}

#[test]
fn sorted_sets() {
    check(&[
        ("ZADD z 1 a 2 b", &["ZADD z 1 a 2 b"]),
        ("ZADD z 1 a", &[]),
        ("ZADD z GT CH 5 a 0 b", &["ZADD z 5 a 2 b"]),
        ("ZADD z XX 5 none", &[]),
        ("ZADD z INCR 0.1 a", &["ZADD z 5.1 a"]),
        ("ZINCRBY z 0.1 a", &["ZADD z 5.199999999999999 a"]),
        ("ZADD z INCR NX 1 a", &[]),
        ("ZREM z none", &[]),
        ("ZREM z b", &["ZREM z b"]),
        (
            "ZADD z inf c 1e3 d -1 e 7 f",
            &["ZADD z inf c 1e3 d -1 e 7 f"],
        ),
        ("ZPOPMIN z", &["ZREM z e"]),
        ("ZPOPMAX z 2", &["ZREM z c d"]),
        ("ZADD z 1 g 2 h 3 i 4 j", &["ZADD z 1 g 2 h 3 i 4 j"]),
        ("ZREMRANGEBYRANK z 0 0", &["ZREM z g"]),
        ("ZREMRANGEBYSCORE z 2 3", &["ZREM z h i"]),
        ("ZREMRANGEBYLEX z [x [y", &[]),
        ("ZMPOP 2 none z MIN", &["ZREM z j"]),
        ("BZPOPMIN none z 0", &["ZREM z a"]),
        ("ZRANGESTORE d z 0 -1", &["DEL d", "ZADD d 7 f"]),
        ("ZUNIONSTORE d 2 z d", &["DEL d", "ZADD d 14 f"]),
        ("ZINTERSTORE d 2 z d", &["DEL d", "ZADD d 21 f"]),
        ("ZDIFFSTORE d 2 z d", &["DEL d"]),
        ("BZMPOP 0 2 none z MAX", &["DEL z"]),
        ("BZPOPMAX none z 0", &[]),
        (
            "GEOADD g 13.361389 38.115556 m",
            &["ZADD g 3479099956230698 m"],
        ),
        ("GEOADD g XX 1 1 none", &[]),
        (
            "GEOADD g NX CH 1 1 m 15 37 n",
            &["ZADD g 3479099956230698 m 3476504601741708 n"],
        ),
        (
            "GEOSEARCHSTORE d g FROMMEMBER m BYRADIUS 1 km",
            &["DEL d", "ZADD d 3479099956230698 m"],
        ),
        ("GEORADIUSBYMEMBER g m 1 km", &[]),
        (
            "GEORADIUSBYMEMBER g m 1 km STORE d",
            &["DEL d", "ZADD d 3479099956230698 m"],
        ),
        ("GEORADIUS g 100 10 1 km STORE d", &["DEL d"]),
    ]);
}

#[test]
fn streams() {
    check(&[
        ("XADD x NOMKSTREAM * f v", &[]),
        ("XADD x * f v", &["XADD x 1000000000000-0 f v"]),
        (
            "XADD x 1000000000000-* f v",
            &["XADD x 1000000000000-1 f v"],
        ),
        (
            "XADD x MAXLEN 9 2000000000000-1 f v",
            &["XADD x 2000000000000-1 f v"],
        ),
        (
            "XADD x MAXLEN 2 2000000000000-2 f v",
            &[
                "XADD x 2000000000000-2 f v",
                "XTRIM x MINID 2000000000000-1",
            ],
        ),
        ("XADD x 1-1 f v", &[]),
        ("XTRIM x MAXLEN ~ 1", &[]),
        ("XTRIM x MAXLEN 1", &["XTRIM x MINID 2000000000000-2"]),
        ("XDEL x 1-1", &[]),
        ("XDEL x 2000000000000-2", &["XDEL x 2000000000000-2"]),
        ("XSETID x 2000000000000-9", &["XSETID x 2000000000000-9"]),
        (
            "XADD x 2000000000001-0 f v",
            &["XADD x 2000000000001-0 f v"],
        ),
        (
            "XADD x 2000000000002-0 f v",
            &["XADD x 2000000000002-0 f v"],
        ),
        (
            "XADD x 2000000000003-0 f v",
            &["XADD x 2000000000003-0 f v"],
        ),
        ("XGROUP CREATE x g 0", &["XGROUP CREATE x g 0"]),
        ("XGROUP CREATE x g 0", &[]),
        (
            "XGROUP CREATECONSUMER x g ann",
            &[
                "XGROUP CREATECONSUMER x g ann",
                "XINTERNAL.CONSUMERSEEN x g ann 1000000000000",
            ],
        ),
        (
            "XREADGROUP GROUP g bob COUNT 2 STREAMS x >",
            &[
                "XGROUP SETID x g 2000000000002-0 ENTRIESREAD 6",
                "XGROUP CREATECONSUMER x g bob",
                "XCLAIM x g bob 0 2000000000001-0 2000000000002-0 TIME 1000000000000 RETRYCOUNT 1 FORCE \
                 JUSTID",
                "XINTERNAL.CONSUMERSEEN x g bob 1000000000000 1000000000000",
            ],
        ),
        ("XREADGROUP GROUP g ann STREAMS x 0", &[]),
        (
            "XREADGROUP GROUP g ann NOACK STREAMS x >",
            &[
                "XGROUP SETID x g 2000000000003-0 ENTRIESREAD 7",
                "XINTERNAL.CONSUMERSEEN x g ann 1000000000000",
            ],
        ),
        ("XDEL x 2000000000001-0", &["XDEL x 2000000000001-0"]),
        (
            "XCLAIM x g ann 0 2000000000001-0 2000000000002-0 TIME 5",
            &[
                "XACK x g 2000000000001-0",
                "XCLAIM x g ann 0 2000000000002-0 TIME 5 RETRYCOUNT 2 FORCE JUSTID",
                "XINTERNAL.CONSUMERSEEN x g ann 1000000000000 1000000000000",
            ],
        ),
        ("XCLAIM x g ann 0 9-9", &[]),
        (
            "XAUTOCLAIM x g bob 0 0",
            &[
                "XCLAIM x g bob 0 2000000000002-0 TIME 1000000000000 RETRYCOUNT 3 FORCE JUSTID",
                "XINTERNAL.CONSUMERSEEN x g bob 1000000000000 1000000000000",
            ],
        ),
        (
            "COPY x y",
            &[
                "DEL y",
                "XADD y 2000000000002-0 f v",
                "XADD y 2000000000003-0 f v",
                "XSETID y 2000000000003-0 ENTRIESADDED 7 MAXDELETEDID 2000000000001-0",
                "XGROUP CREATE y g 2000000000003-0 ENTRIESREAD 7",
                "XGROUP CREATECONSUMER y g ann",
                "XINTERNAL.CONSUMERSEEN y g ann 1000000000000 1000000000000",
                "XGROUP CREATECONSUMER y g bob",
                "XCLAIM y g bob 0 2000000000002-0 TIME 1000000000000 RETRYCOUNT 3 FORCE JUSTID",
                "XINTERNAL.CONSUMERSEEN y g bob 1000000000000 1000000000000",
            ],
        ),
        ("XACK x g 2000000000002-0", &["XACK x g 2000000000002-0"]),
        ("XACK x g 2000000000002-0", &[]),
        ("XGROUP SETID x g $", &["XGROUP SETID x g $"]),
        (
            "XGROUP DELCONSUMER x g bob",
            &["XGROUP DELCONSUMER x g bob"],
        ),
        ("XGROUP DESTROY x g", &["XGROUP DESTROY x g"]),
        ("XGROUP DESTROY x g", &[]),
        ("XTRIM x MAXLEN 0", &["XTRIM x MAXLEN 0"]),
        (
            "RENAME x e",
            &[
                "DEL x",
                "DEL e",
                "XGROUP CREATE e new 0-0 MKSTREAM",
                "XGROUP DESTROY e new",
                "XSETID e 2000000000003-0 ENTRIESADDED 7 MAXDELETEDID 2000000000001-0",
            ],
        ),
    ]);
}

#[test]
fn what_goes_by_itself_is_said_before_what_noticed_it() {
    let mut desk = Desk::recording(1);
    desk.say("SET a 1 PX 10");
    desk.say("SET b 1 PX 10");
    desk.say("HSET h f 1 g 2");
    desk.say("HPEXPIRE h 10 FIELDS 1 f");
    desk.effects();
    desk.now += 10;
    desk.say("GET b");
    assert_eq!(desk.effects(), [""; 0]);
    desk.say("INCR a");
    assert_eq!(desk.effects(), ["DEL b", "DEL a", "INCR a"]);
    desk.say("HINCRBY h f 5");
    assert_eq!(desk.effects(), ["HDEL h f", "HINCRBY h f 5"]);
    desk.say("PEXPIRE a 10");
    desk.say("HPEXPIRE h 10 FIELDS 2 f g");
    desk.effects();
    desk.now += 10;
    let now = desk.now;
    desk.shards.keyspace(0, 0).expire_due(now, 10, |_| {});
    desk.shards.record_gone(0);
    let mut gone = desk.effects();
    gone.sort_unstable();
    assert_eq!(gone, ["DEL a", "DEL h"]);
}

#[test]
fn frames_are_bounded() {
    let mut desk = Desk::recording(1);
    let long = "v".repeat(1000);
    for at in 0..300 {
        desk.say(&format!("RPUSH l {at}"));
        desk.say(&format!("HSET h field{at} {long}"));
        desk.say(&format!("HPEXPIRE h 99 FIELDS 1 field{at}"));
    }
    desk.effects();
    desk.say("RENAME l m");
    desk.say("RENAME h i");
    let words = |frame: &String| frame.split(' ').count();
    let effects = desk.effects();
    let lens: Vec<usize> = effects.iter().map(words).collect();
    // DEL l, DEL m; elements; DEL h, DEL i; pairs, of which 66 fill a frame; fields.
    assert_eq!(
        lens,
        [
            2, 2, 130, 130, 46, 2, 2, 134, 134, 134, 134, 74, 133, 133, 49
        ]
    );
}

#[test]
fn a_unit_is_what_lies_between_two_ends_on_however_many_shards() {
    let mut desk = Desk::recording(3);
    let keys: Vec<String> = (0..40).map(|number| format!("k{number}")).collect();
    let of = |desk: &Desk, shard: usize| {
        let is_there = |key: &&String| desk.shards.shard_of(key.as_bytes()) == shard;
        keys.iter()
            .find(is_there)
            .expect("keys lie everywhere")
            .clone()
    };
    let [a, b, c] = [0, 1, 2].map(|shard| of(&desk, shard));
    assert_eq!(desk.shards.end_unit(), []);
    desk.say(&format!("SET {b} 1"));
    assert!(desk.shards.unit_is_open());
    assert_eq!(desk.shards.end_unit(), [(1, 1)]);
    assert!(!desk.shards.unit_is_open());
    desk.say(&format!("MSET {c} 1 {a} 1"));
    desk.say(&format!("INCR {c}"));
    assert_eq!(desk.shards.end_unit(), [(0, 1), (2, 2)]);
    desk.say("FLUSHALL");
    assert_eq!(desk.shards.end_unit(), [(0, 2), (1, 2), (2, 3)]);
    let units = |desk: &mut Desk, shard| desk.units(shard).iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(units(&mut desk, 0), [1, 1]);
    assert_eq!(units(&mut desk, 1), [1, 1]);
    assert_eq!(units(&mut desk, 2), [2, 1]);
}

#[test]
#[should_panic(expected = "in the middle of a unit")]
fn a_shard_does_not_leave_in_the_middle_of_a_unit() {
    let mut desk = Desk::recording(1);
    desk.say("SET k v");
    desk.shards.take(0);
}

#[test]
fn frames_that_do_not_belong_here_are_refused() {
    let mut desk = Desk::with_shards(3);
    let mut replay = Replay::default();
    let mut apply = |desk: &mut Desk, shard: usize, db: &mut usize, line: &str| {
        let args = OwnedArgs::copy(line.split(' ').map(str::as_bytes));
        replay.apply(&mut desk.shards, shard, db, args.as_args())
    };
    let home = desk.shards.shard_of(b"k");
    let (other, mut db) = ((home + 1) % 3, 0);
    for line in ["GET k", "NONE k", "SET k", "PING", "XINTERNAL.NONE k"] {
        assert!(
            matches!(
                apply(&mut desk, home, &mut db, line),
                Err(Unplayable::Unknown)
            ),
            "{line}"
        );
    }
    for line in ["SET k v", "SORT k BY w_* STORE k"] {
        assert!(
            matches!(
                apply(&mut desk, other, &mut db, line),
                Err(Unplayable::Misplaced)
            ),
            "{line}"
        );
    }
    assert!(matches!(
        apply(&mut desk, home, &mut db, "SELECT 99"),
        Err(Unplayable::Failed(_))
    ));
    assert!(matches!(
        apply(&mut desk, home, &mut 99, "SET k v"),
        Err(Unplayable::Misplaced)
    ));
    assert!(apply(&mut desk, home, &mut db, "SET k v").is_ok());
    assert!(matches!(
        apply(&mut desk, home, &mut db, "LPUSH k v"),
        Err(Unplayable::Failed(_))
    ));
    assert!(apply(&mut desk, other, &mut db, "FLUSHALL").is_ok());
    assert_eq!(desk.say("GET k"), "$1 v");
    assert!(apply(&mut desk, home, &mut db, "SELECT 2").is_ok());
    assert!(apply(&mut desk, home, &mut db, "SET k w").is_ok());
    assert_eq!(db, 2);
    assert_eq!(desk.say("GET k"), "$1 v");
    assert!(apply(&mut desk, home, &mut db, "SWAPDB 0 2").is_ok());
    assert_eq!(desk.say("GET k"), "$1 w");
}
