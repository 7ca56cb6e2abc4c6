#!/usr/bin/env python3
"""The node as the primary of real kevy replicas.

    kevy_primary.py --node BINARY [--short | --full] [--seconds N] [--seed S] [--only TEXT]

Replicas of every generation of the wire follow the node, some of them at once: a first sync of every data
type while writes go on, a seeded random load of every command that writes, links that are cut at random
bytes, restarts of either side, slow and stopped replicas, large frames, and peers that are no replicas.
In the end every key, type, value and deadline has to be equal, read through both client ports.

Checks called "wire N" show that a behaviour by which kevys lose or hide data is not the node's:

     1  writes above 256 KiB are never sent, nor is what comes behind them
     2  a move between lists of one shard sends, and logs, only that the element went
     4  what was acknowledged of an older history counts for WAIT
     5  without its primary a replica answers neither ROLE nor REPLICAOF NO ONE
     6  MSET, DEL of several keys, RENAME, FLUSHALL, BLPOP and STORE are not sent
     7  MSET and RENAME are gone after a restart, popped elements are back
     8  a fresh replica of a restarted primary gets later writes only
     9  a replica that is ahead of the primary waits and goes on in another history
    10  relative times, draws and made ids are sent as typed
    11  the first replica that connects hangs the primary for all clients
    12  XPENDING with too few arguments ends the server
    13  what is written after BGSAVE is not written to the log
    15  FLUSHALL ships a snapshot, twice
    16  a snapshot over a slow link starts over and over
    18  what EXEC did is spread over the stream, and replicas show half of it
    19  evicted and expired keys send nothing
    20  a replica whose first snapshot broke off is taken for caught up, and stays empty
    21  replicas of replicas get a snapshot and then nothing
    22  a move between lists of different shards puts the element where no client can read it
    24  a replica that was promoted goes on saying that it is one
    25  silent links stay for ever

Four are shown elsewhere under the same numbers: 3, a failover that trusts an old lag and loses what was acknowledged,
in failover.py; 14, a truncated image that is taken for a whole one, in kevy_replica.py; 17, a leader that gives way to
an id that nobody listed and goes on taking writes, in elections.py; 23, keys with hashtags that are not found, in imports.py.
"""

import argparse
import os
import random
import re
import select
import signal
import socket
import struct
import threading
import time

import kevy_replica
from compare import Maker, dump, dump_diff, quote
from kevy_replica import Proxy, kevy_server, marks, rss_mib, shard_of
from wire import (
    Closed,
    Conn,
    Count,
    Scratch,
    Server,
    encode,
    free_base,
    kevy_binary,
    node_server,
    show,
    wait_until,
)

VERSIONS = ("1.19.0", "2.0.20", "3.17.3", "5.4.0", "7.0.0")
OLD = ("1.19.0", "2.0.20", "3.17.3")  # their handshake names no generation
# What knows deadlines of hash fields.
FIELDS = ("3.17.3", "5.4.0", "7.0.0")
# What tells how far it is, so that WAIT can count it.
ACKS = ("3.17.3", "5.4.0", "7.0.0")


# ---------------------------------------------------------------------------------------------
# Followers


class Follower:
    """A replica behind a proxy of its own."""

    def __init__(self, s, node, version, shards, through=True, aof=False):
        # A 2.0.20 ends as a whole when a link of it is reset.
        self.proxy = Proxy(node.port, shards, gentle=version == "2.0.20") if through else None
        self.version, self.shards, self.node = version, shards, node
        base = (self.proxy.base if through else node.port) + 10000
        self.server = kevy_server(
            s.scratch, version, shards, "replica", extra='upstream = "127.0.0.1:%d"\n' % base, aof=aof
        )

    def conn(self, timeout=10.0):
        return self.server.conn(timeout)

    def cut(self, pause=0.0):
        self.proxy.open = False
        self.proxy.cut()
        time.sleep(pause)
        self.proxy.open = True

    def close(self):
        self.server.kill()
        if self.proxy:
            self.proxy.close()


def start_node(s, shards, threads=1, disk=False, args=(), port=None):
    """A node that keeps its data, or one that does not."""
    port = port or free_base(8)
    args = ["--shards", shards] + list(args)
    if not disk:
        args += ["--appendonly", "no"]
    return node_server(s.scratch, s.opts.node, port=port, threads=threads, args=args)


class Setup:
    def __init__(self, opts, scratch):
        self.opts, self.scratch = opts, scratch


def repl(node):
    with node.conn() as c:
        return c.info("replication")


def syncs(node):
    """Snapshots that were sent, and links that went on from where they were."""
    info = repl(node)
    return int(info["sync_full"]), int(info["sync_partial_ok"])


# ---------------------------------------------------------------------------------------------
# Load


class Load(Maker):
    """Random commands, most of them writes, all that the node knows."""

    KEYS = {"s": 60, "l": 30, "h": 30, "S": 30, "z": 30, "x": 12, "b": 10, "n": 20}

    def __init__(self, seed, flushes=True):
        super().__init__(seed)
        self.dumps = []
        self.history = []
        extra = [
            (10, self.more_strings),
            (10, self.more_lists),
            (10, self.fields),
            (6, self.more_sets),
            (12, self.more_zsets),
            (6, self.more_streams),
            (4, self.hyperloglogs),
            (4, self.more_geo),
            (6, self.elsewhere),
            (4, self.brief),
            (4, self.transaction),
            (3, self.more_scripts),
        ]
        if flushes:
            extra.append((0.06, self.flush))
        self.table += extra
        self.total = int(sum(w for w, _ in self.table) * 100)
        self.table = [(int(w * 100), f) for w, f in self.table]

    def next(self):
        # kevy cuts deadlines off at 584 years from now; nobody else does.
        return [kevy_replica.FAR.get(a, a) for a in self.make()]

    def more_strings(self):
        k, r = self.k("s"), self.r
        return self.pick(
            lambda: ["MSETNX"] + self.pairs(lambda: self.k("s"), self.val),
            lambda: ["BITFIELD", self.k("b"), "SET", "u8", "#%d" % r.randrange(9), r.randrange(256)],
            lambda: ["BITFIELD", self.k("b"), "OVERFLOW", "SAT", "INCRBY", "i5", r.randrange(40), self.i()],
            lambda: ["SETRANGE", k, r.randrange(0, 3000), self.val()],
            lambda: ["SETBIT", self.k("b"), r.randrange(0, 3000), r.choice("01")],
            lambda: ["SET", k, self.val(), r.choice(("GET", "KEEPTTL", "XX"))],
            lambda: ["SET", k, "w" * r.choice((5000, 70000))],
            lambda: ["APPEND", k, self.val()],
            lambda: ["GETEX", k, "PXAT", str(4102444800000 + r.randrange(10**9))],
            lambda: ["RESTORE", k, "0", self.pickled(), "REPLACE"],
        )

    def pickled(self):
        # A string value "ring" as DUMP gives it.
        return self.r.choice(self.dumps) if self.dumps else b"\x00\x04ring"

    def more_lists(self):
        k, r = self.k("l"), self.r
        side = lambda: r.choice(("LEFT", "RIGHT"))
        return self.pick(
            lambda: [r.choice(("LPUSHX", "RPUSHX")), k] + self.some(self.val),
            lambda: ["LMPOP", "2", k, self.k("l"), side(), "COUNT", r.randrange(1, 4)],
            lambda: [r.choice(("BLPOP", "BRPOP")), k, self.k("l"), "0.001"],
            lambda: ["BLMPOP", "0.001", "1", k, side()],
            lambda: ["BLMOVE", k, self.k("l"), side(), side(), "0.001"],
            lambda: ["BRPOPLPUSH", k, self.k("l"), "0.001"],
            lambda: ["SORT", k, "ALPHA", "STORE", self.k("l")],
            lambda: ["LINSERT", k, r.choice(("BEFORE", "AFTER")), r.choice("abcdefgh"), self.val()],
            lambda: ["LSET", k, r.choice(("0", "-1")), self.val()],
        )

    def fields(self):
        r = self.r
        k, f = "hf%d" % r.randrange(10), self.m()
        far = lambda: str(4102444800000 + r.randrange(10**9))
        return self.pick(
            lambda: ["HSET", k] + self.pairs(self.m, self.val, 1, 6),
            lambda: ["HDEL", k, f],
            lambda: ["HINCRBY", k, f, self.i()],
            lambda: ["HINCRBYFLOAT", k, f, "0.25"],
            lambda: ["HEXPIRE", k, self.ttl(), "FIELDS", "1", f],
            lambda: ["HPEXPIREAT", k, far(), "FIELDS", "2", f, self.m()],
            lambda: ["HPEXPIRE", k, str(r.randrange(50, 800)), "FIELDS", "1", f],
            lambda: ["HPEXPIREAT", k, "1", "FIELDS", "1", f],
            lambda: ["HPERSIST", k, "FIELDS", "1", f],
            lambda: ["HSETEX", k, "PXAT", far(), "FIELDS", "1", f, self.val()],
            lambda: ["HGETEX", k, r.choice(("PERSIST", "PERSIST")), "FIELDS", "1", f],
            lambda: ["HGETDEL", k, "FIELDS", "1", f],
            lambda: [r.choice(("RENAME", "COPY")), k, "hf%d" % r.randrange(10)],
        )

    def more_sets(self):
        k = self.k("S")
        return self.pick(
            lambda: ["SPOP", k, str(self.r.randrange(1, 4))],
            lambda: ["SPOP", k],
            lambda: ["SMOVE", k, self.k("S"), self.m()],
        )

    def more_zsets(self):
        k, r = self.k("z"), self.r
        return self.pick(
            lambda: ["ZPOPMAX", k] + r.choice(([], [str(r.randrange(1, 4))])),
            lambda: ["ZMPOP", "2", k, self.k("z"), r.choice(("MIN", "MAX")), "COUNT", r.randrange(1, 4)],
            lambda: [r.choice(("BZPOPMIN", "BZPOPMAX")), k, "0.001"],
            lambda: ["BZMPOP", "0.001", "1", k, r.choice(("MIN", "MAX"))],
            lambda: ["ZREMRANGEBYLEX", "y%d" % r.randrange(2), self.lexbound(), self.lexbound()],
            lambda: ["ZRANGESTORE", k, self.k("z"), self.bound(), self.bound(), "BYSCORE"],
            lambda: ["ZADD", k, repr(r.uniform(-1, 1) * 10 ** r.randrange(-12, 22)), self.m()],
            lambda: [
                "ZADD",
                k,
                r.choice(("inf", "-inf", "-0", "5e-324", "1.7976931348623157e308")),
                self.m(),
            ],
        )

    def more_streams(self):
        k = self.k("x")
        return self.pick(
            lambda: ["XADD", k, "*", "f", self.val()],
            lambda: ["XADD", k, "MAXLEN", "~", "5", "*", "f", self.val()],
            lambda: ["XGROUP", "CREATE", k, "g1", "0", "MKSTREAM", "ENTRIESREAD", str(self.r.randrange(5))],
        )

    def hyperloglogs(self):
        k = lambda: "hll%d" % self.r.randrange(4)
        return self.pick(
            lambda: ["PFADD", k()] + self.some(self.m),
            lambda: ["PFMERGE", k(), k()],
            lambda: ["PFCOUNT", k()],
        )

    def more_geo(self):
        k = "g%d" % self.r.randrange(2)
        return self.pick(
            lambda: ["GEOSEARCHSTORE", "g2", k, "FROMLONLAT", "0", "0", "BYRADIUS", "9000", "km"],
            lambda: ["GEORADIUS", k, "0", "0", "9000", "km", "STORE", "g3"],
            lambda: ["GEOADD", k, "XX", "CH", "%.6f" % self.r.uniform(-179, 179), "1", self.m()],
        )

    def elsewhere(self):
        """Other databases, which kevy does not have."""
        db = str(self.r.randrange(1, 4))
        k = self.any_key()
        p = self.r.random()
        if p < 0.03:
            return ["SWAPDB", "0", db] if self.r.random() < 0.3 else ["SWAPDB", "2", "3"]
        if p < 0.3:
            return ["MOVE", k, db]
        if p < 0.4:
            return ["COPY", k, k, "DB", db]
        self.queue += [self.strings(), self.lists(), self.zsets()]
        if p < 0.5:
            self.queue.append(["MOVE", k, "0"])
        if p < 0.52:
            self.queue.append(["FLUSHDB"])
        self.queue.append(["SELECT", "0"])
        return ["SELECT", db]

    def brief(self):
        return ["SET", "brief%d" % self.r.randrange(50), self.val(), "PX", str(self.r.randrange(50, 1500))]

    def transaction(self):
        self.queue += [self.pick(self.strings, self.lists, self.hashes, self.keys, self.zsets) for _ in "123"]
        self.queue.append(["EXEC"])
        return ["MULTI"]

    def more_scripts(self):
        return self.pick(
            lambda: [
                "EVAL",
                "local m = redis.call('SPOP', KEYS[1]) if m then redis.call('RPUSH', KEYS[2], m) end "
                "redis.call('SET', KEYS[3], redis.call('TIME')[2], 'EX', 5000) return m",
                "3",
                self.k("S"),
                self.k("l"),
                self.k("s"),
            ],
            lambda: ["EVAL", "for i = 1, 30 do redis.call('INCRBY', 'n' .. i, i) end", "0"],
            lambda: ["EVAL", "redis.call('SET', KEYS[1], 'half') error('no')", "1", self.k("s")],
        )

    def flush(self):
        return self.r.choice((["FLUSHALL"], ["FLUSHDB"], ["FLUSHALL", "ASYNC"]))


def pump(conn, load, seconds, stop=None, pause=0.0):
    """Random commands for so long; how many."""
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end and not (stop and stop.is_set()):
        batch = [load.next() for _ in range(60)]
        replies = conn.many(batch)
        load.history += zip(batch, replies)
        n += len(batch)
        if pause:
            time.sleep(pause)
    # Not left in a transaction or in another database.
    conn.call("DISCARD")
    conn.call("SELECT", "0")
    return n


def serve_blocked(node, n=20):
    """Pops that wait until somebody pushes."""
    with node.conn() as a, node.conn() as b:
        for i in range(n):
            for wait, give in (
                (["BLPOP", "wait:l", "5"], ["RPUSH", "wait:l", "a", "b", "c%d" % i]),
                (["BLMOVE", "wait:l", "wait:m", "LEFT", "RIGHT", "5"], ["LPUSH", "wait:l", "d%d" % i]),
                (["BZPOPMIN", "wait:z", "5"], ["ZADD", "wait:z", "1", "a", "2", "b%d" % i]),
                (
                    ["XREADGROUP", "GROUP", "g", "me", "BLOCK", "5000", "STREAMS", "wait:x", ">"],
                    ["XADD", "wait:x", "*", "f", str(i)],
                ),
            ):
                if wait[0] == "XREADGROUP":
                    b.call("XGROUP", "CREATE", "wait:x", "g", "0", "MKSTREAM")
                a.send(*wait)
                b.ask(*give)
                r = a.read()
                if r.is_error:
                    raise RuntimeError("%s: %s" % (wait, show(r)))


def fill(conn, rows=150):
    kevy_replica.fill(conn, "7.0.0", rows)
    c = [
        ["XGROUP", "CREATE", "fill:stream:1", "empty", "$"],
        ["XGROUP", "CREATE", "fill:none", "g", "0", "MKSTREAM"],
        ["XADD", "fill:gone", "5-5", "f", "v"],
        ["XDEL", "fill:gone", "5-5"],
        ["PFADD", "fill:hll"] + ["m%d" % i for i in range(500)],
        ["SETBIT", "fill:bits", "100000", "1"],
        ["SET", "fill:large", "L" * 900_000],
        ["SELECT", "5"],
        ["SET", "other", "database"],
        ["SELECT", "0"],
    ]
    for args, r in zip(c, conn.many(c)):
        if r.is_error:
            raise RuntimeError("fill: %s: %s" % (args[:3], show(r)))


def grow(conn, count, prefix="huge"):
    """Collections far larger than what a snapshot takes at once."""
    step = 2000
    for i in range(0, count, step):
        n = range(i, min(i + step, count))
        conn.many(
            [
                ["HSET", prefix + ":hash"] + [x for j in n for x in ("f%d" % j, "v%d" % j)],
                ["SADD", prefix + ":set"] + ["m%d" % j for j in n],
                ["ZADD", prefix + ":zset"] + [x for j in n for x in (str(j), "m%d" % j)],
                ["RPUSH", prefix + ":list"] + ["e%d" % j for j in n],
            ]
        )
    conn.many(
        [
            ["HPEXPIREAT", prefix + ":hash", "4102444800000", "FIELDS", "2", "f%d" % j, "f%d" % (j + 7)]
            for j in range(0, count, 977)
        ]
    )


def stir(conn, count, r, prefix="huge"):
    """Changes of those, also such after which what a snapshot has of one cannot stay."""
    j = lambda: r.randrange(count)
    options = (
        lambda: ["HSET", prefix + ":hash", "f%d" % j(), "x%d" % j(), "new%d" % j(), "y"],
        lambda: ["HDEL", prefix + ":hash", "f%d" % j()],
        lambda: ["HPEXPIREAT", prefix + ":hash", str(4102444800000 + j()), "FIELDS", "1", "f%d" % j()],
        lambda: ["SADD", prefix + ":set", "new%d" % j()],
        lambda: ["SREM", prefix + ":set", "m%d" % j()],
        lambda: ["ZADD", prefix + ":zset", str(j()), "m%d" % j()],
        lambda: ["ZINCRBY", prefix + ":zset", "3", "m%d" % j()],
        lambda: ["ZREM", prefix + ":zset", "m%d" % j()],
        lambda: ["RPUSH", prefix + ":list", "t%d" % j()],
        lambda: ["LPOP", prefix + ":list"],
        lambda: ["LSET", prefix + ":list", "3", "s%d" % j()],
        lambda: ["SPOP", prefix + ":set"],
        lambda: ["ZREMRANGEBYRANK", prefix + ":zset", "0", "1"],
        lambda: ["PEXPIREAT", prefix + ":set", str(4102444800000 + j())],
    )
    conn.many([r.choice(options)() for _ in range(50)])
    if r.random() < 0.1:
        conn.call(
            r.choice(("RENAME", "COPY")), prefix + ":" + r.choice(("hash", "set", "zset")), prefix + "2"
        )
        conn.call("RENAME", prefix + "2", prefix + "3")


# ---------------------------------------------------------------------------------------------
# Equality


def field_deadlines(conn, state, is_node, version):
    """The deadlines of hash fields, in Unix seconds, -1 for none."""
    # The first that had HTTL answered in milliseconds.
    unit = 1000 if version == "3.17.3" and not is_node else 1
    asked, out = [], {}
    for k, (kind, v, _) in sorted(state.items()):
        if kind == "hash":
            fields = [f for f, _ in v]
            asked += [(k, fields[i : i + 500]) for i in range(0, len(fields), 500)]
    replies = conn.many([["HTTL", k, "FIELDS", len(fields)] + fields for k, fields in asked], 20)
    now = int(time.time())
    for (k, fields), r in zip(asked, replies):
        for f, ttl in zip(fields, r.plain() or []):
            out[(k, f)] = -1 if ttl < 0 else now + ttl // unit
    return out


def state_of(server, version):
    with server.conn(60.0) as c:
        d = dump(c, details=version == "7.0.0")
        fields = field_deadlines(c, d, not hasattr(server, "version"), version) if version in FIELDS else {}
    out = {}
    for k, (kind, v, due) in d.items():
        if k.startswith(b"brief"):
            continue
        if kind == "zset":
            # kevy has -0 before 0 where Redis goes by the members.
            v = sorted((score, member) for member, score in v)
        out[k] = (kind, v, due)
    return out, fields


def differences(node, follower, tolerance_ms):
    da, fa = state_of(node, follower.version)
    db, fb = state_of(follower.server, follower.version)
    out = dump_diff(da, db, tolerance_ms, ("node", "kevy"))
    for k in fa:
        if k[0] in da and k[0] in db and da[k[0]][:2] == db[k[0]][:2]:
            a, b = fa[k], fb.get(k, -1)
            if (a < 0) != (b < 0) or abs(a - b) > tolerance_ms / 1000 + 2:
                out.append("field %r: deadline node %d, kevy %d" % (k, a, b))
    return out, len(da)


def compare(count, name, node, follower, load=None, limit=30.0, tolerance_ms=1500):
    """Equal, at once or once the last fields and keys have run out."""
    try:
        marks(node, follower.server, limit, "the replica has every write")
    except TimeoutError as e:
        count.fail(
            name,
            "%s; %s; node's log:\n%s\nkevy's log:\n%s"
            % (e, repl(node), node.log_tail(6), follower.server.log_tail(6)),
        )
        return False
    end = time.monotonic() + 4
    while True:
        diff, keys = differences(node, follower, tolerance_ms)
        if not diff or time.monotonic() > end:
            break
        time.sleep(0.2)
    if diff:
        count.fail(name, "%d of %d keys differ:\n    %s" % (len(diff), keys, "\n    ".join(diff[:8])))
        kevy_replica.tell(load, diff)
        return False
    count.ok(name, "%d keys" % keys)
    return True


def stream_offsets(node):
    return int(repl(node)["master_repl_offset"])


# ---------------------------------------------------------------------------------------------
# Scenarios


def follow(count, s, versions, shards, threads, disk, seconds, seed):
    """Replicas of all these versions at once."""
    name = "%s x%d%s" % (" ".join(versions), shards, ", journal" if disk else "")
    node = start_node(s, shards, threads, disk)
    r = random.Random(seed)
    with node.conn(60.0) as c:
        fill(c)
        grow(c, 6_000)
    # Writes go on while the snapshots are made.
    load, stop = Load(seed, flushes=False), threading.Event()

    def write():
        with node.conn(60.0) as c:
            while not stop.is_set():
                pump(c, load, 0.01)
                stir(c, 6_000, r)

    writer = threading.Thread(target=write)
    writer.start()
    followers = [Follower(s, node, v, shards) for v in versions]
    time.sleep(0.5)
    stop.set()
    writer.join()
    for f in followers:
        compare(count, "%s: first sync of %s under writes" % (name, f.version), node, f, load)
    load = Load(seed + 1)
    with node.conn(60.0) as c:
        n = pump(c, load, seconds)
        serve_blocked(node)
    for f in followers:
        compare(
            count, "%s: %s after %d random commands (seed %d)" % (name, f.version, n, seed), node, f, load
        )
    for f in followers:
        cuts(count, s, name, node, f, seed)
    if disk:
        for how, sig in (("stopped", signal.SIGTERM), ("killed", signal.SIGKILL)):
            with node.conn(60.0) as c:
                pump(c, Load(seed + sig), 0.3)
            if sig == signal.SIGKILL:
                time.sleep(1.3)  # what is not on disk yet may be lost
            node.stop(sig)
            node.start()
            load = Load(seed + sig + 1)
            with node.conn(60.0) as c:
                pump(c, load, 0.3)
            for f in followers:
                compare(count, "%s: the node %s and started, %s" % (name, how, f.version), node, f, load)
    for f in followers:
        f.server.stop(r.choice((signal.SIGTERM, signal.SIGKILL)))
    load = Load(seed + 2)
    with node.conn(60.0) as c:
        pump(c, load, 0.3)
    for f in followers:
        f.server.start()
        compare(count, "%s: %s restarted" % (name, f.version), node, f, load)
        f.close()
    node.kill()


def cuts(count, s, name, node, f, seed):
    """Links that end at random bytes go on where they were."""
    r = random.Random(seed)
    load, stop = Load(seed + 3, flushes=False), threading.Event()
    load.table = [(w, m) for w, m in load.table if m != load.elsewhere]
    load.total = sum(w for w, _ in load.table)
    before = syncs(node)
    cut = 0
    with node.conn(60.0) as c:
        writer = threading.Thread(target=pump, args=(c, load, 20, stop, 0.003))
        writer.start()
        for _ in range(4):
            f.proxy.budget = r.randrange(1, 60_000)
            try:
                wait_until("bytes", 5, lambda: f.proxy.budget is None)
                cut += 1
            except TimeoutError:
                f.proxy.budget = None
        f.cut(0.2)
        stop.set()
        writer.join()
    if compare(count, "%s: %s, %d links cut" % (name, f.version, cut + 1), node, f, load):
        after = syncs(node)
        count.check(
            "%s: %s goes on after each cut, no snapshot" % (name, f.version),
            after[0] == before[0] and after[1] - before[1] >= cut,
            "sync_full and sync_partial_ok %s, then %s" % (before, after),
        )


def huge(count, s, version, seed, elements):
    """Collections of so many elements that change while a snapshot is made, over a link that is not fast."""
    name = "%s: collections of %d elements that change during the snapshot" % (version, elements)
    node = start_node(s, 1)
    with node.conn(60.0) as c:
        grow(c, elements)
    stop, r = threading.Event(), random.Random(seed)

    def write():
        with node.conn(60.0) as c:
            while not stop.is_set():
                stir(c, elements, r)

    writer = threading.Thread(target=write)
    writer.start()
    f = Follower(s, node, version, 1)
    try:
        wait_until("a snapshot", 30, lambda: f.conn().call("EXISTS", "huge:list").value == 1)
    finally:
        stop.set()
        writer.join()
    marks(node, f.server, 60, "the replica has every write")
    differ = []
    for key in ("hash", "set", "zset", "list", "2", "3"):
        key = "huge:" + key if len(key) > 1 else "huge" + key
        a, b = elements_of(node, key), elements_of(f.server, key)
        if a != b:
            differ.append("%s: %d and %d elements" % (key, len(a), len(b)))
    count.check(name, not differ, "; ".join(differ))
    f.close()
    node.kill()


def elements_of(server, key):
    """The elements of a collection whose elements hold no line ends, quickly."""
    read = {
        "hash": ("HGETALL", key),
        "set": ("SMEMBERS", key),
        "zset": ("ZRANGE", key, "0", "-1", "WITHSCORES"),
        "list": ("LRANGE", key, "0", "-1"),
    }
    with server.conn(60.0) as c:
        kind = c.call("TYPE", key).value.decode()
        if kind not in read:
            return [kind]
        c.send(*read[kind])
        data, want = b"", None
        while want is None or data.count(b"\r\n") < want:
            data += c.sock.recv(1 << 20)
            if want is None and b"\r\n" in data:
                want = 1 + 2 * int(data[1 : data.index(b"\r\n")])
        rows = data.split(b"\r\n")[2::2]
    if kind == "hash":
        return sorted(zip(rows[0::2], rows[1::2]))
    if kind == "zset":
        return sorted((float(score), member) for member, score in zip(rows[0::2], rows[1::2]))
    return rows if kind == "list" else sorted(rows)


def frames(count, s, version):
    """Writes whose frames are large: the node sends them, whatever kevy as a primary does with such."""
    node = start_node(s, 2)
    f = Follower(s, node, version, 2)
    marks(node, f.server, 20, "a first sync")
    before = syncs(node)
    with node.conn(60.0) as c:
        for size in (300_000, 1 << 20, 20 << 20):
            name = "wire 1: %s takes a frame of %d bytes, and what comes behind it" % (version, size)
            c.ask("SET", "big:%d" % size, b"%d" % (size % 10) * size)
            c.ask("RPUSH", "list:%d" % size, "a", b"%d" % (size % 10) * size, "b")
            try:
                marks(node, f.server, 60, "what comes behind it")
                with f.conn(60.0) as k:
                    got = k.call("GET", "big:%d" % size).value
                    row = k.call("LINDEX", "list:%d" % size, "1").value
                good = got == row == b"%d" % (size % 10) * size
                count.check(
                    name,
                    good and syncs(node) == before,
                    "value equal: %s, syncs %s then %s" % (good, before, syncs(node)),
                )
            except TimeoutError as e:
                count.fail(name, "%s; %s; kevy's log:\n%s" % (e, repl(node), f.server.log_tail(5)))
    f.close()
    node.kill()


def evictions(count, s, versions):
    """Keys that the node evicts leave its replicas, too, as do those whose time has come."""
    node = start_node(s, 2)
    followers = [Follower(s, node, v, 2, through=False) for v in versions]
    with node.conn(60.0) as c:
        c.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
        used = int(c.info("memory")["used_memory"])
        c.ask("CONFIG", "SET", "maxmemory", str(used + (4 << 20)))
        for i in range(60):
            c.many([["SET", "evict:%d" % (i * 100 + j), "x" * 2000] for j in range(100)])
        c.ask("CONFIG", "SET", "maxmemory", "0")
        gone = int(c.info("stats")["evicted_keys"])
        c.many([["SET", "due:%d" % i, "v", "PX", str(50 + i)] for i in range(300)])
        c.many([["HSET", "due:hash:%d" % i, "f", "v", "g", "w"] for i in range(20)])
        c.many([["HPEXPIRE", "due:hash:%d" % i, "60", "FIELDS", "1", "f"] for i in range(20)])
        time.sleep(0.6)
    for f in followers:
        name = "wire 19: %d evicted and 320 expired keys and fields are gone on %s" % (gone, f.version)
        if compare(count, name, node, f):
            with f.conn() as k:
                left = k.call("HGETALL", "due:hash:3").flat()
                count.check(
                    name + ", also where fields have no time", left == [b"g", b"w"] and gone > 0, str(left)
                )
        f.close()
    node.kill()


def pause(server):
    """Stops a process; its threads go on for a moment after the signal."""
    server.proc.send_signal(signal.SIGSTOP)

    def states():
        tasks = "/proc/%d/task" % server.proc.pid
        for task in os.listdir(tasks):
            with open(os.path.join(tasks, task, "stat"), encoding="latin-1") as f:
                yield f.read().rsplit(")", 1)[1].split()[0]

    wait_until("it stands still", 5, lambda: set(states()) == {"T"})


def told(node):
    """INFO's lines of the replicas."""
    info = repl(node)
    rows = [v for k, v in info.items() if re.fullmatch(r"slave\d+", k)]
    return info, [dict(x.split("=") for x in row.split(",")) for row in rows]


def waits(count, s, version):
    """WAIT counts who has everything; ROLE and INFO tell who is there."""
    name = "wire 4: %s" % version
    node = start_node(s, 2, 2)
    f = Follower(s, node, version, 2)
    marks(node, f.server, 20, "a first sync")
    with node.conn(60.0) as c:
        c.ask("SET", "k", "v")
        n = c.ask("WAIT", "1", "3000")
        count.check("%s: WAIT 1 counts a replica that has the write" % name, n == 1, repr(n))
        started = time.monotonic()
        n = c.ask("WAIT", "2", "300")
        count.check(
            "%s: WAIT 2 ends with 1 after its time" % name,
            n == 1 and 0.25 < time.monotonic() - started,
            repr(n),
        )
        info, rows = told(node)
        if version != "3.17.3":
            # The oldest do not tell their port.
            count.check(
                "%s: INFO tells of one replica by its client port" % name,
                info["connected_slaves"] == "1"
                and rows[0]["port"] == str(f.server.port)
                and rows[0]["state"] == "online",
                str(info),
            )
            role = c.ask("ROLE")
            row = [[b"127.0.0.1", b"%d" % f.server.port, b"%d" % int(rows[0]["offset"])]]
            count.check(
                "%s: ROLE tells the same" % name,
                role[0] == b"master" and role[2][0][:2] == row[0][:2] and len(role[2]) == 1,
                repr(role),
            )
            count.check(
                "%s: the replica is as far as the node" % name,
                int(rows[0]["offset"]) == int(info["master_repl_offset"]),
                str(info),
            )
        pause(f.server)
        c.ask("SET", "k", "w")
        started = time.monotonic()
        n = c.ask("WAIT", "1", "400")
        took = time.monotonic() - started
        count.check(
            "%s: WAIT 1 is 0 in time while the replica is stopped" % name,
            n == 0 and took < 5,
            "%r after %.1f s" % (n, took),
        )
        # A new history: what was acknowledged of the old one says nothing of it.
        c.ask("FLUSHALL")
        c.ask("SET", "k", "x")
        n = c.ask("WAIT", "1", "400")
        count.check("%s: nor behind FLUSHALL" % name, n == 0, repr(n))
        f.server.proc.send_signal(signal.SIGCONT)
        n = c.ask("WAIT", "1", "10000")
        count.check("%s: and 1 again when it goes on" % name, n == 1, repr(n))
        compare(count, "%s: the replica is equal in the end" % name, node, f)
        node.kill()
        node.start()
    with node.conn(60.0) as c:
        pause(f.server)
        c.ask("SET", "k", "y")
        n = c.ask("WAIT", "1", "400")
        count.check("%s: nor of a history before a restart" % name, n == 0, repr(n))
        f.server.proc.send_signal(signal.SIGCONT)
    f.close()
    node.kill()


def went_alone(count, s):
    """A replica that was written to by itself is no copy any more, however little that was."""
    node = start_node(s, 2, 1, disk=True)
    above = "127.0.0.1:%d" % (node.port + 10000)
    for shards in (2, 3):
        replica = start_node(s, shards, 1, disk=True, args=["--replicaof", above])
        following = replica.argv
        plain = [word for word in following if word not in ("--replicaof", above)]
        with node.conn() as c:
            for n in range(50):
                c.ask("SET", "k:%d" % n, "%d" % n)
        for what, told in (("told at run time", True), ("from its start on", False)):
            name = "went alone, %d shards, %s" % (shards, what)
            marks(node, replica, 20, name)
            # Of a copy that is not on the disk yet nothing could be continued.
            wait_until("it is saved", 10, lambda: replica.conn().call("SAVE").plain() == b"OK")
            replica.stop()
            replica.argv = plain
            replica.start()
            wait_until("it is loaded", 10, lambda: replica.conn().call("SET", "alone", "1").plain() == b"OK")
            with replica.conn() as c:
                count.check("%s: it is a primary" % name, c.ask("SET", "alone", "2") == b"OK")
                if told:
                    c.ask("REPLICAOF", "127.0.0.1", str(node.port + 10000))
            replica.argv = following
            if not told:
                replica.stop()
                replica.start()
            marks(node, replica, 20, name)
            with replica.conn() as c:
                left = c.ask("GET", "alone")
                count.check("%s: it is a copy again" % name, left is None, repr(left))
                count.check("%s: with all keys" % name, c.ask("DBSIZE") == node.conn().ask("DBSIZE"))
        replica.kill()
    node.kill()


def tokens(count, s, version):
    """What a token of the primary names is on a replica once REPL.WAIT has said so: whoever of the two is a
    kevy, or none."""
    pairs = []
    node = start_node(s, 2, 2, disk=True)
    kevy = Follower(s, node, version, 2, through=False)
    pairs.append(("node and %s" % version, node, kevy.server))
    other = start_node(s, 3, 2, args=["--replicaof", "127.0.0.1:%d" % (node.port + 10000)])
    pairs.append(("node and node", node, other))
    primary = kevy_server(s.scratch, version, 2)
    third = start_node(s, 2, 1, args=["--replicaof", "127.0.0.1:%d" % (primary.port + 10000)])
    if version != "3.17.3":
        # Its generation is in no handshake: nobody who follows it can tell its tokens from older ones.
        pairs.append(("%s and node" % version, primary, third))
    for name, above, below in pairs:
        name = "tokens, %s" % name
        marks(above, below, 20, name)
        if version == "3.17.3" and below is kevy.server:
            with above.conn() as writer, below.conn() as reader:
                ours = lambda c: c.ask("REPL.TOKEN")[::2]
                wait_until("it has heard our generations", 20, lambda: ours(reader) == ours(writer))
        with above.conn() as writer, below.conn() as reader:
            stale = 0
            for n in range(200):
                writer.ask("SET", "read:%d" % n, "%d" % n)
                token = writer.ask("REPL.TOKEN")
                said = reader.ask("REPL.WAIT", *token, "TIMEOUT", "5000")
                stale += said != b"OK" or reader.ask("GET", "read:%d" % n) != b"%d" % n
            count.check("%s: nothing stale is read behind REPL.WAIT" % name, stale == 0, "%d times" % stale)
            count.check("%s: the replica has a token, too" % name, len(reader.ask("REPL.TOKEN")) == 4)
            said = writer.ask("REPL.WAIT", "1", "2", "3", "4")
            count.check("%s: a primary never waits" % name, said == b"OK", repr(said))
            ahead = [part + n % 2 * 1000 for n, part in enumerate(token)]
            foreign = [part + 1 - n % 2 for n, part in enumerate(token)]
            where = b"MISDIRECTED writer is 127.0.0.1:%d" % (above.port + 10000)
            for what, words in (
                ("in vain", [*ahead, "TIMEOUT", "200"]),
                ("for another history", foreign),
            ):
                said = reader.call("REPL.WAIT", *words).value
                count.check("%s: a wait %s names the primary" % (name, what), said == where, repr(said))
            for words in (token[:2], [], token[:3], ["x", "1", "2", "3"], [*token, "TIMEOUT", "x"]):
                said = reader.call("REPL.WAIT", *words).value
                good = said.startswith(b"ERR REPL.WAIT")
                count.check("%s: %d words are refused" % (name, len(words)), good, repr(said))
    kevy.close()
    for server in (node, other, primary, third):
        server.kill()


def stale(count, s, version):
    """A replica whose data is older than it may be refuses to be read, in kevy's words, and can be promoted."""
    bound = ["--replica-max-staleness-ms", "1500"]
    kevy = kevy_server(s.scratch, version, 2)
    theirs = kevy_server(
        s.scratch,
        version,
        2,
        "replica",
        extra='upstream = "127.0.0.1:%d"\nreplica_max_staleness_ms = 1500\n' % (kevy.port + 10000),
    )
    node = start_node(s, 2, 2)
    ours = {}
    for name, primary in (("of a kevy", kevy), ("of a node", node)):
        above = "127.0.0.1:%d" % (primary.port + 10000)
        ours[name] = start_node(s, 2, 2, args=["--replicaof", above, *bound])
        with primary.conn() as c:
            c.ask("SET", "k", "v")
        read = lambda: ours[name].conn().call("GET", "k").plain() == b"v"
        wait_until("it is read %s" % name, 20, read)
    pause(kevy)
    pause(node)
    text = wait_until("a kevy says it", 10, lambda: theirs.conn().call("GET", "k").is_error)
    text = theirs.conn().call("GET", "k").value
    for name, replica in ours.items():
        name = "wire 5: a replica %s" % name
        said = lambda: replica.conn().call("GET", "k")
        wait_until("reads are refused", 10, lambda: said().is_error)
        count.check("%s refuses in kevy's words" % name, said().value == text, show(said()))
        with replica.conn() as c:
            for words in (
                "ROLE",
                "INFO replication",
                "PING",
                "CONFIG GET port",
                "HELLO 2",
                "COMMAND COUNT",
                "REPL.TOKEN",
                "CLIENT ID",
                "SELECT 0",
                "SUBSCRIBE c",
                "UNSUBSCRIBE c",
            ):
                reply = c.call(*words.split())
                count.check("%s answers %s" % (name, words), not reply.is_error, show(reply))
            for words in ("EXISTS k", "DBSIZE", "SCAN 0", "MGET k l"):
                reply = c.call(*words.split())
                count.check("%s refuses %s" % (name, words), reply.value == text, show(reply))
            reply = c.call("EVAL_RO", "return 1", "0")
            count.check("%s refuses scripts" % name, reply.value == text, show(reply))
            reply = c.call("SET", "k", "w")
            count.check("%s refuses writes as ever" % name, reply.value.startswith(b"READONLY"), show(reply))
            c.ask("MULTI")
            c.ask("GET", "k")
            reply = c.ask("EXEC")
            count.check("%s refuses in EXEC" % name, str(reply[0]).encode() == text, repr(reply))
            c.ask("CONFIG", "SET", "replica-max-staleness-ms", "0")
            count.check("%s is read without a bound" % name, c.ask("GET", "k") == b"v")
            c.ask("CONFIG", "SET", "replica-serve-stale-data", "no")
            wait_until("the link is down", 10, lambda: c.call("GET", "k").is_error)
            reply = c.call("GET", "k")
            good = reply.value.startswith(b"MASTERDOWN Link with MASTER is down")
            count.check("%s refuses with replica-serve-stale-data no" % name, good, show(reply))
            c.ask("CONFIG", "SET", "replica-serve-stale-data", "yes", "replica-max-staleness-ms", "1500")
    for server in (kevy, node):
        server.proc.send_signal(signal.SIGCONT)
    for name, replica in ours.items():
        name = "wire 5: a replica %s" % name
        wait_until("it is read again", 10, lambda: replica.conn().call("GET", "k").plain() == b"v")
        count.ok("%s is read again when its primary goes on" % name)
    kevy.kill()
    node.kill()
    for name, replica in ours.items():
        name = "wire 5: a replica %s" % name
        wait_until("it is stale", 10, lambda: replica.conn().call("GET", "k").value == text)
        with replica.conn() as c:
            said = c.ask("REPLICAOF", "NO", "ONE")
            count.check("%s that is stale is promoted" % name, said == b"OK" and c.ask("GET", "k") == b"v")
        replica.kill()
    theirs.kill()


NO_REPLICAS = "NOREPLICAS Not enough good replicas to write."


def guarded(count, s, version):
    """With min-replicas-to-write nothing is written that only this node has."""
    name = "guarded by %s" % version
    node = start_node(s, 2, 2, args=["--min-replicas-to-write", "1"])

    def said(*words):
        with node.conn() as c:
            return c.call(*words).plain()

    def refused():
        return NO_REPLICAS in repr(said("SET", "k", "v"))

    wait_until("writes are refused without a replica", 10, refused)
    for words in (
        ("EVAL", "return redis.call('SET', 'k', 'v')", "1", "k"),
        ("EVAL", "#!lua\nreturn redis.call('SET', 'k', 'v')", "1", "k"),
        ("FUNCTION", "FLUSH"),
        ("FLUSHALL",),
    ):
        reply = said(*words)
        count.check("%s: alone %s is refused" % (name, words[0]), NO_REPLICAS in repr(reply), repr(reply))
    count.check("%s: and reads are served" % name, said("GET", "k") is None, repr(said("GET", "k")))
    f = Follower(s, node, version, 2)
    wait_until("writes are taken with one", 20, lambda: said("SET", "k", "v") == b"OK")
    good = repl(node).get("min_slaves_good_slaves")
    count.check("%s: INFO counts it" % name, good == "1", repr(good))
    said("CONFIG", "SET", "min-replicas-max-lag", "2")
    pause(f.server)
    wait_until("writes are refused when it is silent", 15, refused)
    f.server.proc.send_signal(signal.SIGCONT)
    wait_until("writes are taken when it goes on", 15, lambda: said("SET", "k", "w") == b"OK")
    compare(count, "%s: the replica is equal in the end" % name, node, f)
    f.close()
    wait_until("writes are refused when it has gone", 15, refused)
    said("CONFIG", "SET", "min-replicas-to-write", "0")
    wait_until("writes are taken when none is wanted", 5, lambda: said("SET", "k", "x") == b"OK")
    node.kill()


def slow(count, s, version, seed):
    """A replica that stops under load costs nobody else anything, and starts over when it is too far
    behind."""
    name = "%s stopped under load" % version
    node = start_node(s, 2, 2)
    with node.conn() as c:
        c.ask("CONFIG", "SET", "repl-backlog-size", "1mb")
    f = Follower(s, node, version, 2, through=False)
    marks(node, f.server, 20, "a first sync")
    before = syncs(node)
    pause(f.server)
    memory = rss_mib(node)
    longest = 0.0
    with node.conn(60.0) as c:
        for i in range(300):
            started = time.monotonic()
            c.many(
                [["SET", "slow:%d" % (j % 500), os.urandom(1500).hex()] for j in range(i * 40, i * 40 + 40)]
            )
            longest = max(longest, time.monotonic() - started)
    grown = rss_mib(node) - memory
    count.check("%s: clients wait for nothing" % name, longest < 5, "%.1f s" % longest)
    count.check(
        "%s: of 36 MiB that it missed less than half is kept" % name, grown < 30, "%.0f MiB more" % grown
    )
    f.server.proc.send_signal(signal.SIGCONT)
    if compare(count, "%s: it comes back and is equal" % name, node, f, limit=60):
        after = syncs(node)
        count.check("%s: by a snapshot" % name, after[0] > before[0], "%s then %s" % (before, after))
    f.close()
    node.kill()


def stopped_in_snapshot(count, s, version):
    """A replica that stops while its snapshot comes: what happens meanwhile is not kept without end."""
    name = "%s stopped in its snapshot" % version
    node = start_node(s, 1)
    with node.conn(60.0) as c:
        c.ask("CONFIG", "SET", "repl-backlog-size", "1mb")
        c.many([["SET", "wide:%d" % i, os.urandom(30000).hex()] for i in range(1000)], 8)
    stuck = handshake(node, 0)
    other = None
    try:
        memory = rss_mib(node)
        with node.conn(60.0) as c:
            for i in range(20):
                c.many([["SET", "wide:%d" % j, os.urandom(30000).hex()] for j in range(100)], 8)
        grown = rss_mib(node) - memory
        count.check(
            "%s: 120 MiB of writes meanwhile cost less than half" % name, grown < 60, "%.0f MiB" % grown
        )
        other = Follower(s, node, version, 1, through=False)
        compare(count, "%s: another one gets its own" % name, node, other, limit=60)
    finally:
        stuck.close()
    if other:
        other.close()
    node.kill()


# ---------------------------------------------------------------------------------------------
# Peers that are no replicas


def link_to(node, stream=0):
    s = socket.create_connection(("127.0.0.1", node.port + 10000 + stream), timeout=10)
    return s


def request(generation, offset, name="kevy-replica-1#0"):
    words = ["REPLICATE", "FROM"] + ([] if generation is None else [generation]) + [offset, "ID", name]
    return encode(words)


def handshake(node, stream=0, generation=0, offset=0, name="kevy-replica-1#0"):
    s = link_to(node, stream)
    s.sendall(request(generation, offset, name))
    return s


def is_closed(s, limit=15.0):
    """Does the other side close, however much it sends before?"""
    s.settimeout(limit)
    end = time.monotonic() + limit
    try:
        while time.monotonic() < end:
            if not s.recv(1 << 16):
                return True
    except socket.timeout:
        return False
    except OSError:
        return True
    return False


def hostile(count, s):
    """Peers on the replication ports that are no replicas: nothing happens to the node."""
    node = start_node(s, 2, 2)
    with node.conn(60.0) as c:
        fill(c, 20)
        c.many([["SET", "wide:%d" % i, os.urandom(30000).hex()] for i in range(300)], 8)
    f = Follower(s, node, "7.0.0", 2, through=False) if kevy_binary("7.0.0") else None
    if f:
        marks(node, f.server, 20, "a first sync")
    before = rss_mib(node)
    r = random.Random(7)
    refused = {
        "garbage": os.urandom(3000),
        "a command of clients": b"*1\r\n$4\r\nPING\r\n",
        "Redis's handshake": b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n",
        "too few words": encode(["REPLICATE", "FROM", "0"]),
        "too many words": encode(["REPLICATE", "FROM", "0", "0", "ID", "x", "y"]),
        "a negative offset": request(0, "-1"),
        "an offset beyond 64 bits": request(0, 1 << 64),
        "an id without end": request(0, 0, "x" * 5000),
        "an id that is no text": request(0, 0, b"\xff\xfe"),
        "a long header": b"*" + b"9" * 5000,
        "a line without end": b"REPLICATE " * 1000,
        "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    }
    for what, bytes_ in refused.items():
        with link_to(node) as link:
            try:
                link.sendall(bytes_)
            except OSError:
                pass
            count.check("hostile replica: %s is answered by an end" % what, is_closed(link, 5), "still open")
    half = [link_to(node, i % 2) for i in range(300)]
    for i, link in enumerate(half):
        try:
            link.sendall(request(0, 0)[: i % 60])
        except OSError:
            pass
    with node.conn(5.0) as c:
        count.check("300 half handshakes: clients are served", c.ask("SET", "during", "it") == b"OK")
    closed = 0
    wait_until("room for others", 40, lambda: is_closed(half[50], 1))
    for link in half:
        closed += is_closed(link, 5)
        link.close()
    count.check("300 half handshakes: all are closed in the end", closed == 300, "%d" % closed)
    # These never read.
    deaf = []
    for i in range(120):
        link = handshake(
            node, i % 2, None if i % 3 == 0 else 0, r.randrange(1 << 62) if i % 5 else (1 << 64) - 1
        )
        deaf.append(link)
    with node.conn(60.0) as c:
        for i in range(40):
            c.many([["SET", "wide:%d" % (j % 50), os.urandom(30000).hex()] for j in range(50)], 8)
        count.check("120 links that never read: clients are served", c.ask("SET", "during", "it") == b"OK")
    grown = rss_mib(node) - before
    count.check("120 links that never read: memory stays bounded", grown < 350, "%.0f MiB more" % grown)
    for link in deaf:
        link.close()
    # One that says it has what it cannot have.
    with handshake(node, 0) as liar, node.conn(60.0) as c:
        liar.settimeout(10)
        seen = b""
        while b"+SNAPSHOT_END" not in seen[-200_000:] or b"+PING" not in seen[seen.rfind(b"+SNAPSHOT_END") :]:
            got = liar.recv(1 << 20)
            if not got:
                break
            seen += got
        liar.sendall(b"REPLCONF ACK 999999999999999999\r\nnonsense\r\nREPLCONF ACK x\r\n")
        c.ask("SET", "k", "v")
        n = c.ask("WAIT", "2", "300")
        count.check(
            "wire 4: who says to have more than was sent is not believed", n <= (1 if f else 0), repr(n)
        )
        liar.sendall(b"nonsense without an end " * 8000)
        count.check("hostile replica: nonsense without end ends its link", is_closed(liar, 10), "still open")
    if f:
        compare(count, "hostile replicas: a real one beside them is equal", node, f, limit=60)
        f.close()
    count.check("hostile replicas: the node is alive", node.alive() and node.conn().ask("PING") == b"PONG")
    node.kill()


# ---------------------------------------------------------------------------------------------
# Behaviours of kevy that lose or hide data


class Tap:
    """A link that shows the frames of a stream."""

    def __init__(self, node, stream=0, generation=0, offset=0):
        self.conn = Conn(("127.0.0.1", node.port + 10000 + stream), 20.0)
        self.conn.send_raw(request(generation, offset))
        self.ack = self.conn.read().value
        self.lines = []

    def snapshot(self):
        """Past the next snapshot; the frames that came before it."""
        before = []
        while True:
            r = self.conn.read()
            if r.kind == "*":
                before.append(r.plain()[1])
            elif r.kind == "+" and r.value.startswith(b"SNAPSHOT_END"):
                return before

    def until(self, marker):
        """Frames up to the SET of this key."""
        out = []
        while not out or out[-1][:2] != [b"SET", marker]:
            r = self.conn.read()
            # The node's own notes are no commands.
            if r.kind == "*" and not r.plain()[1][0].startswith(b"RINGKEEP."):
                out.append(r.plain()[1])
        return out[:-1]


def tap(count, s):
    """What stands in a stream."""
    node = start_node(s, 1)
    link = Tap(node)
    link.snapshot()
    c = node.conn(20.0)

    def frames(*commands):
        for args in commands:
            c.call(*args)
        c.call("SET", "marker", "")
        return link.until(b"marker")

    def texts(rows):
        return [b" ".join(row).decode("latin-1") for row in rows]

    got = texts(frames(["SET", "t", "v", "EX", "100"], ["EXPIRE", "t", "50"], ["GETEX", "t", "PX", "7000"]))
    good = [bool(re.fullmatch(p, x)) for p, x in zip([r"SET t v"] + [r"PEXPIREAT t \d{13}"] * 3, got)]
    count.check("wire 10: times are absolute", len(got) == 4 and all(good), str(got))
    got = texts(frames(["SADD", "S", "a", "b", "c"], ["EVAL", "return redis.call('SPOP', 'S')", "0"]))
    count.check(
        "wire 10: what a script drew is told, not the script",
        len(got) == 2 and re.fullmatch("SREM S [abc]", got[1]),
        str(got),
    )
    got = texts(frames(["XADD", "x", "*", "f", "v"]))
    count.check(
        "wire 10: ids are concrete", len(got) == 1 and re.fullmatch(r"XADD x \d+-\d+ f v", got[0]), str(got)
    )
    got = texts(
        frames(["SET", "no", "v", "XX"], ["LPUSH", "S", "x"], ["EXPIRE", "none", "5"], ["DEL", "none"])
    )
    count.check("wire 10: what failed or changed nothing is no frame", got == [], str(got))
    frames(["PSETEX", "k", "20", "v"])
    time.sleep(0.5)
    got = texts(frames())
    count.check("wire 19: a key that expires is a DEL frame", got == ["DEL k"], str(got))
    # Others write meanwhile.
    stop = threading.Event()

    def noise():
        with node.conn(20.0) as other:
            while not stop.is_set():
                other.many([["SET", "noise", "x"]] * 10)
                time.sleep(0.002)

    writer = threading.Thread(target=noise)
    writer.start()
    together = []
    for _ in range(20):
        c.send("MULTI")
        for i in range(5):
            c.send("RPUSH", "in", str(i))
        c.send("EXEC")
        for _ in range(7):
            c.read()
        rows = texts(frames())
        at = rows.index("RPUSH in 0")
        together.append(rows[at : at + 5] == ["RPUSH in %d" % i for i in range(5)])
    stop.set()
    writer.join()
    frames()
    count.check("wire 18: what EXEC did stands together in the stream", all(together), str(together))
    before = syncs(node)
    got = texts(frames(["FLUSHALL"], ["SET", "after", "1"]))
    count.check(
        "wire 15: FLUSHALL is a frame and ships no snapshot",
        got == ["FLUSHALL", "SET after 1"] and syncs(node) == before,
        "%s, syncs %s then %s" % (got, before, syncs(node)),
    )
    # Positions that are none of this history.
    c.ask("WAIT", "0", "0")  # INFO tells what it was when somebody asked last
    generation, next_ = int(link.ack.split()[1]), stream_offsets(node)
    for what, at in (("ahead", next_ + 20), ("far ahead", next_ + (1 << 40)), ("at 0", 0)):
        with Conn(("127.0.0.1", node.port + 10000), 10.0) as old:
            old.send_raw(request(None, at))
            seen = [old.read() for _ in range(3)]
            count.check(
                "wire 9: a replica %s that names no generation gets everything" % what,
                seen[0].value == b"ACK %d" % at
                and seen[1].plain() == [at, [b"FLUSHALL"]]
                and seen[2].value == b"SNAPSHOT",
                str(seen),
            )
        new = Tap(node, 0, generation, at)
        count.check("wire 9: so does one %s that names it" % what, new.conn.read().value == b"SNAPSHOT")
        new.conn.close()
    # One that stops between the removal of its keys and its snapshot has nothing.
    with Conn(("127.0.0.1", node.port + 10000), 10.0) as old:
        old.send_raw(request(None, next_ - 3))
        first = old.read().value
    with Conn(("127.0.0.1", node.port + 10000), 10.0) as old:
        old.send_raw(request(None, next_))
        old.read()
        count.check(
            "a replica of this history goes on", old.sock is not None and first == b"ACK %d" % (next_ - 3)
        )
    for args in (["XPENDING"], ["XPENDING", "x"], ["XPENDING", "x", "g", "-"]):
        r = c.call(*args)
        count.check(
            "wire 12: %s is an error and no end" % " ".join(args), r.is_error and node.alive(), show(r)
        )
    c.close()
    node.kill()


def many_keys(count, s, version):
    """Commands on several keys and moves of elements."""
    node = start_node(s, 2, 2, disk=True, args=["--appendfsync", "everysec"])
    f = Follower(s, node, version, 2)
    # Keys of both shards.
    keys = ["m%d" % i for i in range(40)]
    a = [k for k in keys if shard_of(k, 2) == 0]
    b = [k for k in keys if shard_of(k, 2) == 1]
    with node.conn(30.0) as c:
        c.ask("MSET", *[x for k in keys for x in (k, "v")])
        c.ask("DEL", a[0], b[0], a[1], b[1])
        c.ask("RENAME", a[2], b[2])
        c.ask("RENAME", a[3], a[4])
        c.ask("COPY", b[4], a[5], "REPLACE")
        c.ask("RPUSH", "src", "1", "2", "3", "4", "5")
        dst = next("dst%d" % i for i in range(99) if shard_of("dst%d" % i, 2) == shard_of("src", 2))
        far = next("far%d" % i for i in range(99) if shard_of("far%d" % i, 2) != shard_of("src", 2))
        c.ask("LMOVE", "src", dst, "LEFT", "RIGHT")
        c.ask("RPOPLPUSH", "src", dst)
        c.ask("LMOVE", "src", far, "LEFT", "RIGHT")
        c.ask("BLPOP", "src", "1")
        c.ask("SADD", a[0], "x", "y")
        c.ask("SUNIONSTORE", b[0], a[0], "none")
        c.ask("ZADD", a[1], "1", "x")
        c.ask("ZUNIONSTORE", b[1], "1", a[1])
    compare(count, "wire 6, 2, 22: MSET, DEL, RENAME, COPY, LMOVE, BLPOP, STORE reach %s" % version, node, f)
    with f.conn() as k:
        got = [k.call("LRANGE", key, "0", "-1").flat() for key in ("src", dst, far)]
    count.check(
        "wire 2, 22: an element that was moved is at its target on %s" % version,
        got == [[b"4"], [b"5", b"1"], [b"2"]],
        str(got),
    )
    before, _ = state_of(node, version)
    with node.conn() as c:
        r = c.call("BGSAVE")
        c.ask("SET", "after", "save")
        before[b"after"] = ("string", b"save", -1)
    time.sleep(1.6)
    node.kill()
    node.start()
    after, _ = state_of(node, version)
    diff = dump_diff(before, after, 1500, ("before", "after"))
    count.check(
        "wire 2, 7, 13: all of that is there after a crash, what followed BGSAVE too",
        not diff,
        "; ".join(diff[:5]),
    )
    compare(count, "wire 4, 15: %s is equal after the crash" % version, node, f)
    f.close()
    # Nothing is written from here on.
    fresh = Follower(s, node, version, 2)
    try:
        wait_until("the data", 15, lambda: fresh.conn().call("GET", b[2]).value == b"v")
        count.ok("wire 8: a fresh %s of a node that was restarted gets its data, without a write" % version)
    except TimeoutError as e:
        count.fail("wire 8: a fresh %s of a restarted node gets its data" % version, str(e))
    fresh.close()
    node.kill()


def first_sync_cut(count, s, version):
    """A link that ends within the first snapshot of a node that crashed before."""
    node = start_node(s, 1, disk=True)
    with node.conn(30.0) as c:
        fill(c, 30)
        c.many([["SET", "wide:%d" % i, os.urandom(30000).hex()] for i in range(50)], 8)
    time.sleep(1.3)
    node.kill()
    node.start()
    f = Follower(s, node, version, 1)
    for part in (50, 200_000, 1_500_000):
        f.proxy.budget = part
        f.proxy.cut()
        try:
            wait_until("cut", 10, lambda: f.proxy.budget is None)
        except TimeoutError:
            f.proxy.budget = None
    compare(
        count,
        "wire 20: %s whose first snapshot broke off three times after a crash is equal" % version,
        node,
        f,
    )
    f.close()
    node.kill()


def chained(count, s, first, last):
    """Replicas of a replica get what happens later, too."""
    primary = kevy_server(s.scratch, first, 1)
    with primary.conn() as c:
        c.ask("SET", "early", "1")
    node = start_node(s, 1, args=["--replicaof", "127.0.0.1:%d" % (primary.port + 10000)])
    second = start_node(s, 1, args=["--replicaof", "127.0.0.1:%d" % (node.port + 10000)])
    f = Follower(s, second, last, 1, through=False)
    try:
        for i in range(3):
            with primary.conn() as c:
                c.ask("SET", "later", str(i))
            want = b"%d" % i
            wait_until("write %d" % i, 15, lambda: f.conn().call("GET", "later").value == want)
        count.ok("wire 21: kevy %s, node, node, kevy %s: writes reach the end of the chain" % (first, last))
    except TimeoutError as e:
        count.fail("wire 21: writes reach the end of a chain", "%s; %s" % (e, second.log_tail(5)))
    # The primary ends for good.
    primary.kill()
    time.sleep(0.5)
    with node.conn() as c:
        role = c.ask("ROLE")
        count.check("wire 5: ROLE answers while the primary is gone", role[0] == b"slave", repr(role))
        count.check("wire 5: REPLICAOF NO ONE promotes without it", c.ask("REPLICAOF", "NO", "ONE") == b"OK")
        role = c.ask("ROLE")
        count.check("wire 24: ROLE says master then", role[0] == b"master", repr(role))
        c.ask("SET", "later", "promoted")
    try:
        wait_until("the write", 15, lambda: f.conn().call("GET", "later").value == b"promoted")
        count.ok("wire 24: and who follows it goes on")
    except TimeoutError as e:
        count.fail("wire 24: who follows it goes on", "%s; %s" % (e, second.log_tail(5)))
    f.close()
    second.kill()
    node.kill()


def first_replica(count, s, versions):
    """Clients of a node are served while its first replicas come, whatever these do."""
    node = start_node(s, 2, 2)
    with node.conn(30.0) as c:
        # Enough for a snapshot that fills every buffer on its way.
        c.many([["SET", "wide:%d" % i, os.urandom(30000).hex()] for i in range(1000)], 8)

    def served(what):
        try:
            for _ in range(20):
                with node.conn(5.0) as c:
                    c.ask("MSET", *[word for n in range(8) for word in ("first:%d" % n, what)])
                    c.ask("KEYS", "first:*")
                time.sleep(0.01)
            count.ok("wire 11: clients are served while %s" % what)
        except (Closed, RuntimeError) as e:
            count.fail("wire 11: clients are served while %s" % what, str(e))

    links = [link_to(node, shard) for shard in range(2)]
    served("a replica connects and says nothing")
    for link in links:
        link.sendall(request(0, 0)[:20])
    served("half of its handshake is there")
    for link in links:
        link.sendall(request(0, 0)[20:])
    served("it reads nothing of its snapshot")
    followers = [Follower(s, node, v, 2, through=False) for v in versions]
    served("kevys of every version come")
    for f in followers:
        compare(count, "wire 11: %s is equal" % f.version, node, f, limit=60)
        f.close()
    for link in links:
        link.close()
    served("all have left")
    node.kill()


def damaged(count, s):
    """A bit that is wrong on its way to a node is seen: nothing of it is applied, and the link goes on."""
    node = start_node(s, 1, disk=True)
    proxy = Proxy(node.port, 1)
    replica = start_node(s, 1, args=["--replicaof", "127.0.0.1:%d" % (proxy.base + 10000)])
    marks(node, replica, 20, "a first sync")
    full = syncs(node)[0]
    with node.conn(30.0) as c:
        for round in range(5):
            proxy.flips = 1
            c.many([["SET", "wide:%d" % n, os.urandom(15000).hex()] for n in range(100)], 8)
            marks(node, replica, 20, "what came behind it")
    seen = replica.log_text().count("frames were damaged on the way")
    count.check("damaged frames are noticed", seen > 0 and proxy.flips == 0, replica.log_tail(5))
    diff = dump_diff(dump(node.conn()), dump(replica.conn()))
    count.check("and none of them is applied", not diff, str(diff[:2])[:300])
    count.check("without a snapshot", syncs(node)[0] == full, "%d" % (syncs(node)[0] - full))
    for server in (replica, node):
        server.kill()
    proxy.close()


class Together(threading.Thread):
    """Writes the same number to all keys of a group in one unit, higher and higher, and moves elements between
    two lists."""

    TAGGED = ["{tag}%d" % n for n in range(5)]
    SPREAD = ["spread:%d" % n for n in range(12)]
    SET = ["set:%d" % n for n in range(12)]
    LISTS = ["list:%d" % n for n in range(4)]
    ELEMENTS = 20

    def __init__(self, node, seed):
        super().__init__(daemon=True)
        self.node, self.rng, self.stop_it, self.count = node, random.Random(seed), False, 0

    def exec(self, conn, commands):
        # In pieces, so that other requests come in between.
        conn.send("MULTI")
        for command in commands:
            conn.send(*command)
        conn.send("EXEC")
        for _ in range(len(commands) + 2):
            last = conn.read()
        if last.is_error:
            raise RuntimeError(show(last))

    def run(self):
        with self.node.conn(30.0) as c:
            c.ask("RPUSH", self.LISTS[0], *range(self.ELEMENTS))
            while not self.stop_it:
                self.count += 1
                n = self.count
                self.exec(c, [["SET", k, n] for k in self.TAGGED])
                self.exec(c, [["SET", k, n] for k in self.SPREAD])
                c.ask("MSET", *[word for k in self.SET for word in (k, n)])
                noise = range(self.rng.randrange(9))
                c.many([["SET", "noise:%d" % self.rng.randrange(99), n] for _ in noise])
                for _ in range(3):
                    c.ask("LMOVE", *self.rng.sample(self.LISTS, 2), "LEFT", "RIGHT")
                body = "for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[1]) end"
                c.ask("EVAL", body, len(self.SPREAD), *self.SPREAD, n)


def halves(c):
    """What a reader sees of Together's units that is not whole."""
    found = []
    for group in (Together.TAGGED, Together.SPREAD, Together.SET):
        seen = c.ask("MGET", *group)
        if len(set(seen)) > 1:
            found.append("MGET %s" % seen)
        # One after the other, a later one is never older.
        seen = [int(c.ask("GET", k) or 0) for k in group]
        if seen != sorted(seen):
            found.append("GET %s" % seen)
    c.ask("MULTI")
    for k in Together.LISTS:
        c.ask("LLEN", k)
    seen = c.ask("EXEC")
    if sum(seen) != Together.ELEMENTS:
        found.append("LLEN %s" % seen)
    return found


def together(count, s, seconds, seed):
    """Readers of nodes that follow a node see what one request or EXEC did whole or not at all: while links
    are cut, after a promotion, and after a crash."""
    node = start_node(s, 2, 2, disk=True)
    writer = Together(node, seed)
    writer.start()
    rng = random.Random(seed)
    replicas = {}
    for name, shards, threads in (("as the primary", 2, 2), ("with 3 shards", 3, 2), ("on one core", 2, 1)):
        proxy = Proxy(node.port, 2)
        args = ["--replicaof", "127.0.0.1:%d" % (proxy.base + 10000)]
        replicas[name] = start_node(s, shards, threads, disk=True, args=args), proxy
    for replica, _ in replicas.values():
        has = lambda: int(replica.conn().ask("GET", "{tag}0")) > 0
        wait_until("it follows", 30, lambda: repl(replica).get("master_link_status") == "up" and has())
    full = syncs(node)[0]
    seen, reads = {name: [] for name in replicas}, 0
    end = time.monotonic() + seconds
    conns = {name: replica.conn() for name, (replica, _) in replicas.items()}
    while time.monotonic() < end:
        for name, c in conns.items():
            seen[name] += halves(c)
            reads += 1
        if rng.randrange(8) == 0:
            proxy = rng.choice(list(replicas.values()))[1]
            # Somewhere in the middle.
            proxy.budget = rng.randrange(1, 20_000)
    more = syncs(node)[0] - full
    note = "%d reads of each, %d units" % (reads // len(replicas), writer.count)
    for name, found in seen.items():
        good = not found and more == 0
        what = "wire 18: a replica %s never shows half of a unit (%s)" % (name, note)
        count.check(what, good, "%d full syncs, %d times, %s" % (more, len(found), found[:2]))
    for name, (replica, proxy) in replicas.items():
        c = conns[name]
        proxy.budget = rng.randrange(1, 5000)
        c.ask("REPLICAOF", "NO", "ONE")
        first = c.ask("MGET", *Together.SPREAD)
        found = halves(c)
        time.sleep(0.2)
        good = not found and c.ask("MGET", *Together.SPREAD) == first
        count.check("wire 18: nor is half of one left when it is promoted, %s" % name, good, str(found))
        c.ask("REPLICAOF", "127.0.0.1", str(proxy.base + 10000))
    for name, (replica, proxy) in replicas.items():
        proxy.budget = None
        caught = lambda: int(repl(replica).get("slave_lag_frames", 99)) < 50 and replica.conn().ask("GET", "{tag}0")
        wait_until("it follows again", 30, caught)
        time.sleep(rng.uniform(0.1, 0.5))
        replica.kill()
        proxy.open = False
        proxy.cut()
        replica.start()
        with replica.conn() as c:
            wait_until("it has loaded", 10, lambda: c.ask("GET", "{tag}0"))
            found = halves(c)
        count.check("wire 18: nor after a crash, %s" % name, not found, str(found))
    writer.stop_it = True
    writer.join()
    for replica, proxy in replicas.values():
        proxy.open = True
    for name, (replica, proxy) in replicas.items():
        same = lambda: dump(node.conn()) == dump(replica.conn())
        try:
            wait_until("it is equal", 20, same, every=0.3)
            count.ok("wire 18: in the end it is equal, %s" % name)
        except TimeoutError:
            diff = dump_diff(dump(node.conn()), dump(replica.conn()))
            count.fail("wire 18: in the end it is equal, %s" % name, "; ".join(diff[:3]))
        replica.kill()
        proxy.close()
    node.kill()


class ApartProxy(Proxy):
    """Has a replica ask for its first stream late, and holds back what comes behind the snapshot of the second:
    the two snapshots are of different moments, and the earlier one stays alone for a while."""

    def _pump(self, down, up, counted):
        stream = up.getpeername()[1] - self.target - 10000
        try:
            if stream == 0:
                time.sleep(0.5)
            if stream == 1:
                held_from, held_until = time.monotonic() + 0.3, time.monotonic() + 2.5
                while time.monotonic() < held_from:
                    for side in select.select([down, up], [], [], 0.05)[0]:
                        data = side.recv(1 << 16)
                        if not data:
                            return
                        (up if side is down else down).sendall(data)
                time.sleep(max(0, held_until - time.monotonic()))
        except OSError:
            return
        super()._pump(down, up, counted)


def apart(count, s, seed):
    """Snapshots of two streams that are of different moments are half of units until what lies between them has
    come: nobody may read that, and a crash may not start with it."""
    node = start_node(s, 2, 2, disk=True)
    writer = Together(node, seed)
    writer.start()
    for shards in (3, 2):
        proxy = ApartProxy(node.port, 2)
        replica = start_node(s, shards, 2, disk=True)
        what = "wire 18: snapshots of different moments, %d shards: " % shards
        with replica.conn() as c:
            c.ask("REPLICAOF", "127.0.0.1", str(proxy.base + 10000))
            end, found, reads = time.monotonic() + 2.2, [], 0
            while time.monotonic() < end:
                found += halves_if_loaded(c) or []
                reads += 1
            count.check(what + "no reader sees half of a unit", not found, "%d reads, %s" % (reads, found[:2]))
        replica.kill()
        proxy.open = False
        proxy.cut()
        replica.start()
        with replica.conn() as c:
            found = halves_if_loaded(c) or []
        count.check(what + "nor does a crash leave one", not found, str(found[:2]))
        proxy.open = True
        with replica.conn() as c:
            c.ask("REPLICAOF", "127.0.0.1", str(proxy.base + 10000))
            is_up = lambda: repl(replica).get("master_link_status") == "up"
            try:
                wait_until("it follows", 30, lambda: is_up() and c.ask("GET", "{tag}0"))
                count.ok(what + "in the end it follows")
            except TimeoutError as error:
                count.fail(what + "in the end it follows", str(error))
            found = halves_if_loaded(c)
            count.check(what + "and is whole", found == [], str(found))
        replica.kill()
        proxy.close()
    writer.stop_it = True
    writer.join()
    node.kill()


def halves_if_loaded(c):
    """The same of a node that may be loading, which is `None`, or have nothing yet, which is whole."""
    try:
        return [half for half in halves(c) if half != "LLEN [0, 0, 0, 0]"]
    except RuntimeError as error:
        if "LOADING" in str(error):
            return None
        raise


class SlowProxy(Proxy):
    """About 2 MB/s."""

    def _pump(self, down, up, counted):
        try:
            up.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
            threading.Thread(target=self._back, args=(down, up), daemon=True).start()
            while True:
                data = up.recv(1 << 14)
                if not data:
                    return
                down.sendall(data)
                time.sleep(0.008)
        except OSError:
            pass
        finally:
            kevy_replica.hang_up(down)
            kevy_replica.hang_up(up)

    def _back(self, down, up):
        try:
            while data := down.recv(1 << 14):
                up.sendall(data)
        except OSError:
            pass


def slow_link(count, s, version):
    """A snapshot over a slow link, with less kept for who comes back than is written meanwhile, ends all the
    same."""
    name = "wire 16: %s gets its snapshot over a slow link at the first try" % version
    node = start_node(s, 1)
    with node.conn(30.0) as c:
        c.ask("CONFIG", "SET", "repl-backlog-size", "2mb")
        c.many([["SET", "wide:%d" % i, os.urandom(30000).hex()] for i in range(100)], 8)
    proxy = SlowProxy(node.port, 1)
    f = Follower(s, node, version, 1, through=False)
    f.server.kill()
    f.server = kevy_server(
        s.scratch, version, 1, "replica", extra='upstream = "127.0.0.1:%d"\n' % (proxy.base + 10000)
    )
    before = syncs(node)[0]
    stop = threading.Event()

    def write():
        with node.conn(30.0) as c:
            while not stop.is_set():
                c.many([["SET", "slow:%d" % i, os.urandom(500).hex()] for i in range(20)])
                time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(4)
    stop.set()
    writer.join()
    if compare(count, name, node, f, limit=40):
        after = syncs(node)[0]
        count.check(
            name + ": one snapshot", after - before <= 1, "%d; %s" % (after - before, node.log_tail(8))
        )
    f.close()
    proxy.close()
    node.kill()


def silent(count, s):
    """Who neither takes nor says anything for a minute is given up."""
    node = start_node(s, 1)
    f = Follower(s, node, "7.0.0", 1, through=False)
    marks(node, f.server, 20, "a first sync")
    pause(f.server)
    try:
        wait_until("its link is closed", 90, lambda: told(node)[0]["connected_slaves"] == "0", every=1)
        count.ok("wire 25: a replica that is silent for a minute is given up")
    except TimeoutError as e:
        count.fail("wire 25: a silent replica is given up", str(e))
    f.server.proc.send_signal(signal.SIGCONT)
    compare(count, "wire 25: and comes back", node, f)
    f.close()
    node.kill()


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    ap.add_argument("--node", required=True, help="the node's binary")
    ap.add_argument("--short", action="store_true", help="as in CI (default)")
    ap.add_argument(
        "--full",
        action="store_true",
        help="every version alone, with 1 and 2 shards, with and without a journal",
    )
    ap.add_argument("--seconds", type=float, help="of random writes per run")
    ap.add_argument("--seed", type=int)
    ap.add_argument("--versions", default=",".join(VERSIONS))
    ap.add_argument("--only", help="only scenarios whose name contains this")
    ap.add_argument("--keep", action="store_true", help="keep the servers' folders")
    opts = ap.parse_args()
    seed = opts.seed if opts.seed is not None else random.SystemRandom().randrange(1 << 31)
    seconds = opts.seconds or (5.0 if opts.full else 1.5)
    print("seed %d" % seed, flush=True)
    count = Count()
    versions = []
    for v in opts.versions.split(","):
        if kevy_binary(v):
            versions.append(v)
        else:
            count.skip("kevy %s" % v, "not built: run tests/peers.sh kevy-%s" % v)
    with Scratch(opts.keep) as scratch:
        s = Setup(opts, scratch)
        jobs = []
        new = [v for v in versions if v not in OLD]
        add = lambda name, f, *args: jobs.append((name, lambda: f(count, s, *args)))
        add("follow all", follow, versions, 2, 2, True, seconds, seed)
        if opts.full:
            for n, v in enumerate(versions):
                for shards in (1, 2):
                    for disk in (False, True):
                        at = seed + 100 * n + 10 * shards + disk
                        add("follow %s" % v, follow, [v], shards, 2 if disk else 1, disk, seconds, at)
        else:
            add("follow one shard", follow, versions[::4], 1, 1, False, seconds, seed + 1)
        for v in versions if opts.full else versions[-1:]:
            add("huge %s" % v, huge, v, seed, 100_000 if opts.full else 20_000)
        for v in versions:
            add("frames %s" % v, frames, v)
        add("evictions", evictions, versions)
        add("tap", tap)
        for v in versions if opts.full else versions[1:2] + versions[-1:]:
            add("many keys %s" % v, many_keys, v)
            add("first sync cut %s" % v, first_sync_cut, v)
        for v in [v for v in versions if v in ACKS] if opts.full else versions[-1:]:
            add("waits %s" % v, waits, v)
            add("guarded %s" % v, guarded, v)
            add("tokens %s" % v, tokens, v)
            add("stale %s" % v, stale, v)
            add("slow %s" % v, slow, v, seed)
        if len(new) >= 2:
            add("chained", chained, new[-1], new[0])
        if versions:
            add("slow link", slow_link, versions[-1])
        if opts.full and "7.0.0" in versions:
            add("stopped in a snapshot", stopped_in_snapshot, "7.0.0")
            add("silent", silent)
        add("went alone", went_alone)
        add("first replica", first_replica, versions)
        add("damaged", damaged)
        add("together", together, seconds * 4, seed)
        add("apart", apart, seed)
        add("hostile", hostile)
        for name, job in jobs:
            if opts.only and opts.only not in name:
                continue
            started = time.monotonic()
            try:
                job()
            except (OSError, Closed, RuntimeError, TimeoutError, ValueError) as e:
                count.fail(name, "%s: %s" % (type(e).__name__, e))
            except SystemExit as e:
                count.fail(name, str(e))
            finally:
                for server in list(Server.running):
                    server.kill()
            print("        %s: %.1f s" % (name, time.monotonic() - started), flush=True)
    count.close()


if __name__ == "__main__":
    main()
