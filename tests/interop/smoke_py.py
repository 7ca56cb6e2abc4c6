#!/usr/bin/env python3
"""The smoke test through redis-py, in RESP2 and RESP3.     smoke_py.py HOST:PORT   (empties the server)"""

import sys
import threading

import redis

from wire import Count, addr_of, wait_until

count = Count()


def run(addr, proto):
    r = redis.Redis(host=addr[0], port=addr[1], protocol=proto, decode_responses=True, socket_timeout=10)
    tag = "resp%d " % proto

    def same(name, got, want):
        count.check(tag + name, got == want, "%r, expected %r" % (got, want))

    def refused(name, text, f):
        try:
            got = f()
        except redis.RedisError as e:
            count.check(tag + name, str(e).startswith(text), "error %r" % str(e))
        else:
            count.fail(tag + name, "no error but %r" % (got,))

    r.flushall()
    same("ping", r.ping(), True)
    same("set and get", (r.set("k", "v"), r.get("k")), (True, "v"))
    same("set nx on a present key", r.set("k", "w", nx=True), None)
    same("set with a time-out", (r.set("t", "v", ex=100), 98 < r.ttl("t") <= 100), (True, True))
    same("getset, getdel", (r.getset("k", "2"), r.getdel("k"), r.get("k")), ("v", "2", None))
    same("mset, mget", (r.mset({"a": 1, "b": 2}), r.mget("a", "none", "b")), (True, ["1", None, "2"]))
    same("counters", (r.incr("a"), r.decrby("a", 5), r.incrbyfloat("b", 0.5)), (2, -3, 2.5))
    same(
        "append, strlen, getrange",
        (r.append("s", "hello"), r.strlen("s"), r.getrange("s", 1, 3)),
        (5, 5, "ell"),
    )
    same("bitmap", (r.setbit("bm", 9, 1), r.getbit("bm", 9), r.bitcount("bm")), (0, 1, 1))
    same(
        "exists, type, del",
        (r.exists("a", "b", "none"), r.type("a"), r.delete("a", "b", "none")),
        (2, "string", 2),
    )
    big = "x" * 1_000_000
    same("a megabyte", (r.set("big", big), r.get("big") == big), (True, True))

    same("hash", (r.hset("h", mapping={"f": "v", "n": "1"}), r.hgetall("h")), (2, {"f": "v", "n": "1"}))
    same("hash counters", (r.hincrby("h", "n", 4), r.hincrbyfloat("h", "n", 0.5)), (5, 5.5))
    same(
        "hash rest",
        (r.hmget("h", "f", "none"), r.hexists("h", "f"), sorted(r.hkeys("h")), r.hdel("h", "f")),
        (["v", None], True, ["f", "n"], 1),
    )
    try:
        r.execute_command("HTTL", "none", "FIELDS", "1", "f")
    except redis.ResponseError as e:
        if "unknown command" not in str(e):
            raise
        count.skip(tag + "hash field time-outs", "this server has no HEXPIRE")
    else:
        r.hset("ht", mapping={"f": "v", "g": "w"})
        same(
            "hash field time-out",
            (r.hexpire("ht", 100, "f"), r.httl("ht", "f", "g", "none")),
            ([1], [100, -1, -2]),
        )
        same("hash field persist", (r.hpersist("ht", "f"), r.httl("ht", "f")), ([1], [-1]))
        r.hpexpire("ht", 20, "g")
        wait_until("field gone", 5, lambda: r.hget("ht", "g") is None)
        same("hash field is gone", r.hgetall("ht"), {"f": "v"})

    same(
        "list",
        (r.rpush("l", "a", "b", "c"), r.lpush("l", "z"), r.lrange("l", 0, -1)),
        (3, 4, ["z", "a", "b", "c"]),
    )
    same(
        "list edit",
        (r.lset("l", 0, "y"), r.lrem("l", 0, "b"), r.ltrim("l", 0, 1), r.lrange("l", 0, -1)),
        (True, 1, True, ["y", "a"]),
    )
    same(
        "list move",
        (r.lmove("l", "l2", "LEFT", "RIGHT"), r.rpoplpush("l", "l2"), r.lrange("l2", 0, -1), r.llen("l")),
        ("y", "a", ["a", "y"], 0),
    )
    same("list pop", (r.lpop("l2"), r.rpop("l2", 5), r.lpop("l2")), ("a", ["y"], None))
    same(
        "set",
        (r.sadd("s1", 1, 2, 3), r.sadd("s2", 3, 4), r.sinter("s1", "s2"), r.sunion("s1", "s2")),
        (3, 2, {"3"}, {"1", "2", "3", "4"}),
    )
    same(
        "set rest",
        (
            r.sdiffstore("s3", "s1", "s2"),
            r.smembers("s3"),
            r.srem("s3", 1),
            r.sismember("s3", 2),
            r.scard("s3"),
        ),
        (2, {"1", "2"}, 1, 1, 1),
    )
    pair = lambda rows: [tuple(x) for x in rows]
    same(
        "sorted set",
        (r.zadd("z", {"a": 1, "b": 2.5, "c": 3}), pair(r.zrange("z", 0, -1, withscores=True))),
        (3, [("a", 1.0), ("b", 2.5), ("c", 3.0)]),
    )
    same(
        "sorted set ranges",
        (
            r.zrangebyscore("z", "(1", "+inf"),
            r.zrevrange("z", 0, 0),
            r.zcount("z", 1, 2.5),
            r.zrank("z", "c"),
        ),
        (["b", "c"], ["c"], 2, 2),
    )
    same(
        "sorted set change",
        (r.zincrby("z", 10, "a"), r.zscore("z", "a"), r.zrem("z", "b"), pair(r.zpopmin("z", 1))),
        (11.0, 11.0, 1, [("c", 3.0)]),
    )
    same(
        "sorted set store",
        (r.zadd("z2", {"a": 5}), r.zunionstore("z3", ["z", "z2"]), r.zscore("z3", "a")),
        (1, 1, 16.0),
    )
    same(
        "geo",
        (
            r.geoadd("g", (13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania")),
            r.geodist("g", "Palermo", "Catania", "km"),
            r.geosearch("g", longitude=15, latitude=37, radius=200, unit="km", sort="ASC"),
        ),
        (2, 166.2742, ["Catania", "Palermo"]),
    )

    same(
        "stream",
        (
            r.xadd("x", {"f": "v"}, id="1-1"),
            r.xadd("x", {"f": "w"}, id="2-1"),
            r.xlen("x"),
            [i[0] for i in r.xrange("x")],
        ),
        ("1-1", "2-1", 2, ["1-1", "2-1"]),
    )
    r.xgroup_create("x", "grp", 0)
    got = r.xreadgroup("grp", "me", {"x": ">"}, count=1)
    got = list(got.items()) if isinstance(got, dict) else got
    ids = [i[0] for i in (got[0][1][0] if isinstance(got[0][1][0], list) else got[0][1])]
    same("stream group read", (got[0][0], ids), ("x", ["1-1"]))
    same(
        "stream pending",
        (r.xpending("x", "grp")["pending"], r.xpending_range("x", "grp", "-", "+", 10)[0]["consumer"]),
        (1, "me"),
    )
    same("stream claim", [i[0] for i in r.xclaim("x", "grp", "you", 0, ["1-1"])], ["1-1"])
    same(
        "stream ack, trim, info",
        (
            r.xack("x", "grp", "1-1"),
            r.xtrim("x", 1, approximate=False),
            r.xinfo_stream("x")["length"],
            r.xinfo_groups("x")[0]["name"],
        ),
        (1, 1, 1, "grp"),
    )

    r.set("e", "v", px=20)
    wait_until("key gone", 5, lambda: r.get("e") is None)
    same("key expiry", (r.exists("e"), r.ttl("e"), r.ttl("h")), (0, -2, -1))
    same(
        "expire, persist",
        (r.expire("h", 100), r.persist("h"), r.expireat("h", 99999999999), r.pttl("h") > 10**9),
        (True, True, True, True),
    )
    same("rename", (r.rename("h", "h9"), r.exists("h")), (True, 0))
    with r.pipeline(transaction=False) as p:
        for i in range(1000):
            p.set("scan:%d" % i, i)
        same("pipeline of 1000", all(p.execute()), True)
    same("scan", {k for k in r.scan_iter("scan:*", count=50)}, {"scan:%d" % i for i in range(1000)})
    r.hset("bigh", mapping={"f%d" % i: i for i in range(600)})
    r.sadd("bigs", *range(600))
    r.zadd("bigz", {"m%d" % i: i for i in range(600)})
    same("hscan", len(dict(r.hscan_iter("bigh"))), 600)
    same("sscan", len(set(r.sscan_iter("bigs"))), 600)
    same("zscan", len(dict(r.zscan_iter("bigz"))), 600)

    with r.pipeline() as p:
        same("multi and exec", p.set("m", 1).incr("m").lrange("none", 0, -1).execute(), [True, 2, []])
    with r.pipeline() as p:
        p.watch("m")
        r.set("m", "other")
        p.multi()
        p.set("m", "mine")
        try:
            p.execute()
            count.fail(tag + "watch", "the transaction went through")
        except redis.WatchError:
            same("watch", r.get("m"), "other")
    same(
        "script",
        (r.eval("return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}", 1, "ev", "x")),
        ["ev", "x", 1],
    )
    f = r.register_script("return redis.call('GET', KEYS[1])")
    same("script object", f(keys=["ev"]), "1")

    sub = r.pubsub(ignore_subscribe_messages=True)
    sub.subscribe("ch")
    sub.psubscribe("p*")
    wait_until(
        "both subscriptions", 5, lambda: (sub.get_message(timeout=0.05), r.publish("ch", "hi") == 1)[1]
    )
    wait_until("pattern", 5, lambda: r.publish("pat", "yo") == 1)
    seen = []

    def drain():
        m = sub.get_message(timeout=0.2)
        if m:
            seen.append((m["type"], m["channel"], m["data"]))
        return ("message", "ch", "hi") in seen and ("pmessage", "pat", "yo") in seen

    wait_until("messages", 5, drain)
    same("pub/sub", True, True)
    sub.close()

    got = []
    t = threading.Thread(
        target=lambda: got.append(
            redis.Redis(host=addr[0], port=addr[1], protocol=proto, decode_responses=True).blpop(
                ["q", "q2"], timeout=10
            )
        )
    )
    t.start()
    wait_until(
        "somebody waits", 5, lambda: (r.rpush("q2", "late"), not t.is_alive() or t.join(0.1) or got)[1]
    )
    t.join(5)
    same("blocking pop", tuple(got[0]) if got else None, ("q2", "late"))
    same("blocking pop without luck", r.blpop("nobody", timeout=0.05), None)

    refused("wrong type", "WRONGTYPE Operation against a key", lambda: r.lpush("s1", 1))
    refused("wrong arity", "wrong number of arguments for 'get' command", lambda: r.execute_command("GET"))
    refused("unknown command", "unknown command", lambda: r.execute_command("NOSUCH", "a"))
    refused(
        "not a number",
        "value is not an integer or out of range",
        lambda: r.execute_command("INCRBY", "ev", "abc"),
    )
    same("info", "redis_version" in r.info("server"), True)
    same("config get", isinstance(r.config_get("maxmemory"), dict), True)
    same("client name", (r.client_setname("smoke"), r.client_getname()), (True, "smoke"))
    same("dbsize", r.dbsize() > 1000, True)
    same("flush", (r.flushall(), r.dbsize()), (True, 0))
    r.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for proto in (2, 3):
        run(addr_of(sys.argv[1]), proto)
    count.close()
