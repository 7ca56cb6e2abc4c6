//! The smoke test through the `redis` crate, in RESP2 and RESP3: `smoke-rust HOST:PORT`.
//! Empties the server. Prints one line per check and the counts at the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::time::{Duration, Instant};

use redis::streams::{StreamPendingReply, StreamReadOptions, StreamReadReply};
use redis::{Commands, Connection, RedisResult, Value, geo};

#[derive(Default)]
struct Count {
    passed: u32,
    failed: u32,
    skipped: u32,
    tag: &'static str,
}

impl Count {
    fn same<T: PartialEq + Debug>(&mut self, name: &str, got: RedisResult<T>, want: T) {
        match got {
            Ok(got) if got == want => {
                self.passed += 1;
                println!("ok      {} {name}", self.tag);
            }
            other => {
                self.failed += 1;
                println!("FAILED  {} {name}: {other:?}, expected {want:?}", self.tag);
            }
        }
    }

    fn refused(&mut self, name: &str, text: &str, got: RedisResult<Value>) {
        let said = match got {
            Ok(value) => format!("no error but {value:?}"),
            Err(e) => e.to_string(),
        };
        if said.contains(text) {
            self.passed += 1;
            println!("ok      {} {name}", self.tag);
        } else {
            self.failed += 1;
            println!("FAILED  {} {name}: {said}, expected {text}", self.tag);
        }
    }
}

/// Waits for a state with a deadline.
fn until(what: &str, mut check: impl FnMut() -> RedisResult<bool>) -> RedisResult<()> {
    let end = Instant::now() + Duration::from_secs(5);
    while !check()? {
        if Instant::now() > end {
            return Err(redis::RedisError::from((
                redis::ErrorKind::Client,
                "not within 5 s",
                what.to_string(),
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn strings(v: &[&str]) -> Vec<String> {
    v.iter().map(|s| s.to_string()).collect()
}

fn data(n: &mut Count, c: &mut Connection) -> RedisResult<()> {
    n.same("flush", c.flushall(), "OK".to_string());
    n.same("ping", redis::cmd("PING").query(c), "PONG".to_string());
    let () = c.set("k", "v")?;
    n.same("get", c.get("k"), "v".to_string());
    n.same("set nx", c.set_nx("k", "w"), false);
    n.same(
        "set with a time-out",
        c.set_ex("t", "v", 100),
        "OK".to_string(),
    );
    n.same("mset", c.mset(&[("a", 1), ("b", 2)]), "OK".to_string());
    n.same(
        "mget",
        c.mget(&["a", "none", "b"]),
        vec![Some(1), None, Some(2)],
    );
    n.same("incr", c.incr("a", 41), 42);
    n.same("float", c.incr("b", 0.5), 2.5);
    n.same("append", c.append("s", "hello"), 5);
    n.same("getrange", c.getrange("s", 1, 3), "ell".to_string());
    n.same("bitmap", c.setbit("bm", 9, true), false);
    n.same("bitcount", c.bitcount("bm"), 1);
    n.same("exists", c.exists("a"), true);
    n.same("del", c.del(&["a", "b", "none"]), 2);

    n.same(
        "hset",
        c.hset_multiple("h", &[("f", "v"), ("n", "1")]),
        "OK".to_string(),
    );
    let want = BTreeMap::from([
        ("f".to_string(), "v".to_string()),
        ("n".to_string(), "1".to_string()),
    ]);
    n.same("hgetall", c.hgetall("h"), want);
    n.same("hincr", c.hincr("h", "n", 4), 5);
    n.same("hdel", c.hdel("h", "f"), 1);
    let known: RedisResult<Value> = redis::cmd("HTTL")
        .arg(&["none", "FIELDS", "1", "f"])
        .query(c);
    match known {
        Err(e) if e.to_string().contains("unknown command") => {
            n.skipped += 1;
            println!(
                "skipped {} hash field time-outs: this server has no HEXPIRE",
                n.tag
            );
        }
        _ => {
            n.same(
                "hexpire",
                redis::cmd("HEXPIRE")
                    .arg(&["h", "100", "FIELDS", "1", "n"])
                    .query(c),
                vec![1],
            );
            n.same(
                "httl",
                redis::cmd("HTTL")
                    .arg(&["h", "FIELDS", "2", "n", "x"])
                    .query(c),
                vec![100, -2],
            );
            n.same(
                "hpersist",
                redis::cmd("HPERSIST")
                    .arg(&["h", "FIELDS", "1", "n"])
                    .query(c),
                vec![1],
            );
        }
    }

    n.same("rpush", c.rpush("l", &["a", "b", "c"]), 3);
    n.same("lrange", c.lrange("l", 0, -1), strings(&["a", "b", "c"]));
    n.same(
        "lmove",
        c.lmove("l", "l2", redis::Direction::Left, redis::Direction::Right),
        "a".to_string(),
    );
    n.same("lpop", c.lpop("l", None), "b".to_string());
    n.same("sadd", c.sadd("s1", &[1, 2, 3]), 3);
    n.same("smembers", c.smembers("s1"), BTreeSet::from([1, 2, 3]));
    let _: i32 = c.sadd("s2", &[3, 4])?;
    n.same("sinter", c.sinter(&["s1", "s2"]), vec![3]);
    n.same("sunionstore", c.sunionstore("s3", &["s1", "s2"]), 4);
    n.same(
        "zadd",
        c.zadd_multiple("z", &[(1.0, "a"), (2.5, "b"), (3.0, "c")]),
        3,
    );
    n.same("zrange", c.zrange("z", 0, -1), strings(&["a", "b", "c"]));
    n.same("zscore", c.zscore("z", "b"), 2.5);
    n.same(
        "zrangebyscore",
        c.zrangebyscore("z", "(1", "+inf"),
        strings(&["b", "c"]),
    );
    n.same("zincr", c.zincr("z", "a", 10), 11.0);
    n.same("zrank", c.zrank("z", "a"), Some(2));
    let palermo = (geo::Coord::lon_lat(13.361389, 38.115556), "Palermo");
    let catania = (geo::Coord::lon_lat(15.087269, 37.502669), "Catania");
    n.same("geoadd", c.geo_add("g", &[palermo, catania]), 2);
    n.same(
        "geodist",
        c.geo_dist("g", "Palermo", "Catania", geo::Unit::Kilometers),
        166.2742,
    );

    n.same("xadd", c.xadd("x", "1-1", &[("f", "v")]), "1-1".to_string());
    n.same("xgroup", c.xgroup_create("x", "grp", "0"), "OK".to_string());
    let options = StreamReadOptions::default().group("grp", "me").count(5);
    let read: RedisResult<StreamReadReply> = c.xread_options(&["x"], &[">"], &options);
    n.same(
        "xreadgroup",
        read.map(|r| r.keys.first().map_or(0, |k| k.ids.len())),
        1,
    );
    let pending: RedisResult<StreamPendingReply> = c.xpending("x", "grp");
    n.same("xpending", pending.map(|p| p.count()), 1);
    n.same("xack", c.xack("x", "grp", &["1-1"]), 1);
    n.same("xlen", c.xlen("x"), 1);
    Ok(())
}

fn behaviour(n: &mut Count, c: &mut Connection, other: &mut Connection) -> RedisResult<()> {
    let _: String = c.pset_ex("e", "v", 20)?;
    until("expiry", || Ok(c.get::<_, Option<String>>("e")?.is_none()))?;
    n.same("expired", c.ttl("e"), -2);
    n.same("expire", c.expire("k", 100), 1);
    n.same("persist", c.persist("k"), 1);
    n.same("rename", c.rename("k", "k2"), "OK".to_string());
    let mut pipe = redis::pipe();
    for i in 0..1000 {
        pipe.set(format!("scan:{i}"), i).ignore();
    }
    let _: () = pipe.query(c)?;
    let keys: BTreeSet<String> = c
        .scan_match::<_, String>("scan:*")?
        .collect::<RedisResult<_>>()?;
    n.same("pipeline of 1000 and scan", Ok(keys.len()), 1000);
    let fields: Vec<(String, i64)> = (0..600).map(|i| (format!("f{i}"), i)).collect();
    let _: String = c.hset_multiple("bigh", &fields)?;
    let got: HashMap<String, i64> = c
        .hscan::<_, (String, i64)>("bigh")?
        .collect::<RedisResult<_>>()?;
    n.same("hscan", Ok(got.len()), 600);
    n.same(
        "multi",
        redis::pipe().atomic().set("m", 1).incr("m", 1).query(c),
        ("OK".to_string(), 2),
    );
    let _: String = redis::cmd("WATCH").arg("m").query(c)?;
    let _: String = other.set("m", "other")?;
    let done: RedisResult<Option<(String,)>> = redis::pipe().atomic().set("m", "mine").query(c);
    n.same("watch", done, None);
    let script = redis::Script::new("return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}");
    n.same(
        "script",
        script.key("ev").arg("x").invoke(c),
        ("ev".to_string(), "x".to_string(), 1),
    );
    n.same(
        "script again",
        script.key("ev").arg("y").invoke(c),
        ("ev".to_string(), "y".to_string(), 2),
    );

    other.send_packed_command(&redis::cmd("BLPOP").arg(&["q", "5"]).get_packed_command())?;
    until("the pop is waiting", || {
        Ok(redis::cmd("PING").query::<String>(c)? == "PONG")
    })?;
    let _: i32 = c.rpush("q", "late")?;
    n.same(
        "blocking pop",
        redis::from_redis_value(other.recv_response()?).map_err(Into::into),
        strings(&["q", "late"]),
    );
    n.same(
        "blocking pop without luck",
        c.blpop("nobody", 0.05),
        None::<Vec<String>>,
    );

    n.refused("wrong type", "WRONGTYPE", c.lpush("s1", 1));
    n.refused(
        "wrong arity",
        "wrong number of arguments for 'get' command",
        redis::cmd("GET").query(c),
    );
    n.refused(
        "unknown command",
        "unknown command",
        redis::cmd("NOSUCH").arg("a").query(c),
    );
    Ok(())
}

fn pubsub(n: &mut Count, sub: &mut Connection, c: &mut Connection) -> RedisResult<()> {
    let mut sub = sub.as_pubsub();
    sub.set_read_timeout(Some(Duration::from_secs(5)))?;
    sub.subscribe("ch")?;
    sub.psubscribe("p*")?;
    n.same("publish", c.publish("ch", "hi"), 1);
    n.same("publish to a pattern", c.publish("pat", "yo"), 1);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let m = sub.get_message()?;
        seen.push((m.get_channel_name().to_string(), m.get_payload::<String>()?));
    }
    n.same(
        "messages",
        Ok(seen),
        vec![
            ("ch".into(), "hi".to_string()),
            ("pat".into(), "yo".to_string()),
        ],
    );
    Ok(())
}

fn run(n: &mut Count, url: &str) -> RedisResult<()> {
    let client = redis::Client::open(url)?;
    let mut c = client.get_connection_with_timeout(Duration::from_secs(5))?;
    let mut other = client.get_connection_with_timeout(Duration::from_secs(5))?;
    data(n, &mut c)?;
    behaviour(n, &mut c, &mut other)?;
    let mut sub = client.get_connection_with_timeout(Duration::from_secs(5))?;
    pubsub(n, &mut sub, &mut c)?;
    n.same("flush at the end", c.flushall(), "OK".to_string());
    Ok(())
}

fn main() {
    let Some(at) = std::env::args().nth(1) else {
        println!("usage: smoke-rust HOST:PORT");
        std::process::exit(2);
    };
    let mut n = Count::default();
    for (tag, tail) in [("resp2", ""), ("resp3", "?protocol=resp3")] {
        n.tag = tag;
        if let Err(e) = run(&mut n, &format!("redis://{at}/{tail}")) {
            n.failed += 1;
            println!("FAILED  {tag}: {e}");
        }
    }
    let tail = if n.skipped > 0 {
        format!(", {} skipped", n.skipped)
    } else {
        String::new()
    };
    println!("{} passed, {} failed{tail}", n.passed, n.failed);
    std::process::exit(i32::from(n.failed > 0));
}
