#!/usr/bin/env python3
"""The node as a replica of real kevy primaries.

    kevy_replica.py --node BINARY [--short | --full] [--seconds N] [--seed S] [--only TEXT]

For each kevy version: fill a primary with every data type, let the node follow, write a seeded random
load, and compare every key, value and deadline through both client ports. Then cut links, restarts,
FLUSHALL, and primaries that misbehave. `--node-is-kevy VERSION` runs the same against a real kevy
replica (which is known to fail some of it, see EXPECTED_OF_KEVY).

What a primary itself keeps from its replicas is left out of its load; LEFT_OUT names each omission.
Frames above 256 KiB are never sent: they block every kevy stream for good.
"""

import argparse
import contextlib
import ast
import os
import random
import re
import select
import signal
import socket
import struct
import sys
import threading
import time

from compare import Maker, dump, dump_diff, quote
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

VERSIONS = ("1.19.0", "2.0.20", "5.4.0", "7.0.0")
W1, W3 = ("1.19.0", "2.0.20"), ("5.4.0", "7.0.0")

# What the load leaves out, per primary, and why. A filter gets (arguments, shards) and says "leave out".
MANY = (
    "MSET",
    "RENAME",
    "RENAMENX",
    "FLUSHALL",
    "FLUSHDB",
    "BLPOP",
    "BRPOP",
    "COPY",
    "BITOP",
    "SINTERSTORE",
    "SUNIONSTORE",
    "SDIFFSTORE",
    "ZUNIONSTORE",
    "ZINTERSTORE",
    "ZDIFFSTORE",
    "UNLINK",
)
LEFT_OUT = [
    (W1, lambda a, n: a[0] in MANY, "multi-key and cross-shard writes are missing from its stream"),
    (W1, lambda a, n: a[0] == "DEL" and len(a) > 2, "DEL of several keys is missing from its stream"),
    (W1, lambda a, n: a[0] == "SPOP", "the verb travels as typed and draws again on the replica"),
    (
        W1,
        lambda a, n: a[0] == "ZADD" and any(f in ("NX", "XX", "GT", "LT", "CH", "INCR") for f in a[2:4]),
        "it refuses ZADD's flags, yet puts the refused command on the stream",
    ),
    (
        VERSIONS,
        lambda a, n: a[0] in ("EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT") and len(a) > 3,
        "it refuses EXPIRE's flags, yet puts the refused command on the stream",
    ),
    (
        VERSIONS,
        lambda a, n: a[0] in ("INCRBYFLOAT", "HINCRBYFLOAT") and not a[1].startswith("flt"),
        "it counts in doubles where Redis has more digits, old ones refuse whole numbers, and the refused "
        "command is on the stream; only halves and quarters on keys of their own",
    ),
    (
        ("2.0.20",),
        lambda a, n: a[0] in ("APPEND", "GETDEL", "GETSET"),
        "it refuses them on whole numbers, yet puts the refused command on the stream",
    ),
    (
        W1,
        lambda a, n: a[0] == "XREADGROUP" and a[-1] != ">",
        "it does not count a second reading as a delivery",
    ),
    (
        VERSIONS,
        lambda a, n: a[0] in ("XREADGROUP", "XAUTOCLAIM")
        and a[-1] != "COUNT"
        and "0" in [y for x, y in zip(a, a[1:]) if x == "COUNT"],
        "COUNT 0 reads nothing there, everything elsewhere",
    ),
    (
        VERSIONS,
        lambda a, n: a[0] == "GETEX" and any(f in ("EXAT", "PXAT", "PERSIST") for f in a[2:]),
        "it refuses these options, yet puts the refused command on the stream",
    ),
    (
        W3,
        lambda a, n: "WEIGHTS" in a and any(w in ("0", "-1") for w in a[a.index("WEIGHTS") :]),
        "a weight that makes -0, which sorts before 0",
    ),
    (W3, lambda a, n: a[0] == "SETRANGE" and a[3] == "", "it pads even with an empty value"),
    (
        ("2.0.20",),
        lambda a, n: a[0] in ("LMOVE", "RPOPLPUSH") and n > 1,
        "between shards the target is stored where no client can read it",
    ),
    (
        W3,
        lambda a, n: a[0] in ("LMOVE", "RPOPLPUSH") and shard_of(a[1], n) == shard_of(a[2], n),
        "within one shard only the pop is on the stream",
    ),
    (
        ("5.4.0",),
        lambda a, n: a[0] in ("RENAME", "RENAMENX") and shard_of(a[1], n) != shard_of(a[2], n),
        "between shards the old value of the target is not deleted on the stream",
    ),
    (
        VERSIONS,
        lambda a, n: a[0] in ("ZADD", "ZINCRBY") and any(x.endswith("inf") or x == "-0" for x in a[2:]),
        "sums of infinities become NaN, and -0 sorts before 0, neither of them as in Redis",
    ),
    (
        VERSIONS,
        lambda a, n: a[0] == "SET" and any(f in ("GET", "KEEPTTL", "EXAT", "PXAT") for f in a[3:]),
        "it refuses these options, yet puts the refused command on the stream",
    ),
    (
        VERSIONS,
        lambda a, n: a[0] not in WRITES,
        "reads: not on the stream, and some of them hang or end a kevy (XRANGE with start above end, GEOHASH "
        "on another type)",
    ),
    (
        VERSIONS,
        lambda a, n: a[0] in ("ZADD", "ZINCRBY")
        and any("e-" in x or re.fullmatch(r"-?0\.\d{9,}", x) for x in a[2:]),
        "scores are written again with 17 decimals when a key is rebuilt: small ones lose digits",
    ),
]
WRITES = set(
    """
    SET SETEX PSETEX SETNX GETSET GETDEL GETEX APPEND SETRANGE MSET INCR DECR INCRBY DECRBY INCRBYFLOAT
    SETBIT BITOP LPUSH RPUSH LPOP RPOP LSET LREM LTRIM LINSERT LMOVE RPOPLPUSH BLPOP HSET HMSET HSETNX
    HDEL HINCRBY HINCRBYFLOAT HEXPIRE HPEXPIREAT HPERSIST SADD SREM SPOP SINTERSTORE SUNIONSTORE
    SDIFFSTORE ZADD ZINCRBY ZREM ZREMRANGEBYRANK ZREMRANGEBYSCORE ZPOPMIN ZUNIONSTORE ZINTERSTORE
    ZDIFFSTORE GEOADD XADD XDEL XTRIM XSETID XGROUP XREADGROUP XACK XCLAIM XAUTOCLAIM DEL UNLINK EXPIRE
    PEXPIRE EXPIREAT PEXPIREAT PERSIST RENAME RENAMENX COPY EVAL MULTI
    """.split()
)
FAR = {b"99999999999999": b"4102444899999", b"99999999999": b"4102444800"}
# Sent alone: BLPOP so that it is served at once or not at all; moves and renames between shards because kevy
# 7.0.0 forgets the reply of a move in a pipeline, and takes a renamed key out and puts it back around what
# follows in one.
ALONE = (b"BLPOP", b"LMOVE", b"RPOPLPUSH", b"RENAME", b"RENAMENX")

EXPECTED_OF_KEVY = """Of a kevy replica these fail and are known: surviving a truncated image and hostile
lengths, a link that stays silent, a persisted position; INFO's offset is a maximum over shards."""

MASK = (1 << 64) - 1
S0, S1, K = 0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0


def kevy_hash(key):
    """kevy's hash of the bytes (after the hashtag rule)."""

    def fold(x, y):
        p = x * y
        return (p & MASK) ^ (p >> 64)

    a, b, n = S0, S1, len(key)
    le = lambda part: int.from_bytes(part, "little")
    if n > 16:
        at = 0
        while at + 16 <= n - 1:
            t = fold(a ^ le(key[at : at + 8]), K ^ le(key[at + 8 : at + 16]))
            a, b, at = b, t, at + 16
        a, b = a ^ le(key[-16:-8]), b ^ le(key[-8:])
    elif n >= 8:
        a, b = a ^ le(key[:8]), b ^ le(key[-8:])
    elif n >= 4:
        a, b = a ^ le(key[:4]), b ^ le(key[-4:])
    elif n:
        a, b = a ^ key[0], b ^ (key[-1] * 256 | key[n // 2])
    h = fold(a, b) ^ n
    h ^= h >> 33
    h = h * 0xFF51AFD7ED558CCD & MASK
    h ^= h >> 33
    h = h * 0xC4CEB9FE1A85EC53 & MASK
    return h ^ h >> 33


def shard_of(key, n):
    key = key.encode() if isinstance(key, str) else key
    return kevy_hash(key) % n if n > 1 else 0


# ---------------------------------------------------------------------------------------------
# Processes


def toml(port, directory, shards, role, extra="", aof=False, backlog=None):
    return """[server]
port = %d
bind = "127.0.0.1"
threads = %d
data_dir = "%s"
[persistence]
aof = %s
[replication]
role = "%s"
%s%s""" % (
        port,
        shards,
        directory,
        "true" if aof else "false",
        role,
        "replication_buffer_size = %d\n" % backlog if backlog else "",
        extra,
    )


def kevy_server(scratch, version, shards, role="primary", port=None, extra="", aof=False, backlog=None):
    port = port or free_base()
    directory = scratch.sub("kevy-%s-%d" % (version, port))
    config = os.path.join(directory, "kevy.toml")
    with open(config, "w", encoding="utf-8") as f:
        f.write(toml(port, directory, shards, role, extra, aof, backlog))
    # 1.19.0 hangs with its io_uring reactor as soon as a replica connects.
    env = {"KEVY_IO_URING": "0"}
    s = Server(
        "kevy-%s-%d" % (version, port), [kevy_binary(version), "--config", config], port, directory, env
    )
    s.version, s.shards = version, shards
    return s.start()


class Setup:
    """How the node under test is started."""

    def __init__(self, opts, scratch):
        self.opts, self.scratch = opts, scratch

    def node(self, upstream_client_port, shards, threads, primary_shards):
        base = upstream_client_port + 10000
        if self.opts.node_is_kevy:
            return kevy_server(
                self.scratch,
                self.opts.node_is_kevy,
                primary_shards,
                "replica",
                extra='upstream = "127.0.0.1:%d"\n' % base,
            )
        return node_server(
            self.scratch,
            self.opts.node,
            threads=threads,
            args=["--shards", shards, "--replicaof", "127.0.0.1:%d" % base],
        )


def hang_up(s):
    try:
        s.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    s.close()


def fade(s):
    """Ends a connection to a primary without a reset: a 2.0.20 primary ends as a whole on one."""
    try:
        s.shutdown(socket.SHUT_WR)
        s.settimeout(2)
        while s.recv(1 << 16):
            pass
    except OSError:
        pass
    s.close()


class Proxy:
    """Forwards the primary's client port and replication ports, and can cut: now, or after so many bytes
    have gone to the replica. While closed it accepts and hangs up at once."""

    def __init__(self, target_port, streams, gentle=False):
        # Whether the primary sees an end instead of a reset; it then sends more that is lost.
        self.gentle = gentle
        self.base = free_base(1)
        self.target, self.open = target_port, True
        self.budget = None
        # So many of the next large chunks get a wrong bit.
        self.flips = 0
        self.passed = 0
        self.connects = 0
        self.pairs = []
        self.lock = threading.Lock()
        self.listeners = []
        for local, remote in [(self.base, target_port)] + [
            (self.base + 10000 + i, target_port + 10000 + i) for i in range(streams)
        ]:
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", local))
            s.listen(64)
            self.listeners.append(s)
            threading.Thread(target=self._accept, args=(s, remote, local != self.base), daemon=True).start()

    def _accept(self, listener, remote, counted):
        while True:
            try:
                down, _ = listener.accept()
            except OSError:
                return
            self.connects += counted
            if not self.open:
                down.close()
                continue
            try:
                up = socket.create_connection(("127.0.0.1", remote), timeout=5)
            except OSError:
                down.close()
                continue
            with self.lock:
                self.pairs.append((down, up))
            threading.Thread(target=self._pump, args=(down, up, counted), daemon=True).start()

    def _pump(self, down, up, counted):
        try:
            while True:
                ready, _, _ = select.select([down, up], [], [], 60)
                for s in ready:
                    data = s.recv(1 << 16)
                    if not data:
                        return
                    if s is up and counted:
                        with self.lock:
                            self.passed += len(data)
                            if self.flips and len(data) > 20_000:
                                self.flips -= 1
                                middle = len(data) // 2
                                data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
                            if self.budget is not None:
                                self.budget -= len(data)
                                if self.budget <= 0:
                                    self.budget = None
                                    return
                    (up if s is down else down).sendall(data)
        except (OSError, ValueError):
            pass
        finally:
            hang_up(down)
            fade(up) if self.gentle else hang_up(up)

    def cut(self):
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for s in pair[:1] if self.gentle else pair:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self):
        for s in self.listeners:
            s.close()
        self.cut()


# ---------------------------------------------------------------------------------------------
# Load


class Load(Maker):
    """Random writes that this primary replicates as it applies them."""

    KEYS = {"s": 60, "l": 30, "h": 30, "S": 30, "z": 30, "x": 12, "b": 10, "n": 20}

    def __init__(self, seed, version, shards):
        super().__init__(seed, valid=True)
        self.version, self.shards = version, shards
        self.left_out = {}
        self.history = []
        extra = [(3, self.floats), (3, self.absolute), (2, self.brief), (2, self.transaction)]
        if version in W3:
            extra += [(8, self.fields), (2, self.pops)]
        if version == "7.0.0":
            extra += [(2, self.served)]
        self.table += extra
        self.total += sum(w for w, _ in extra)

    def next(self):
        while True:
            args = self.make()
            text = [a.decode("latin-1") for a in args]
            reason = next(
                (
                    why
                    for versions, leave, why in LEFT_OUT
                    if self.version in versions and leave(text, self.shards)
                ),
                None,
            )
            if reason is None:
                # kevy cuts deadlines off at 584 years from now; nobody else does.
                return [FAR.get(a, a) for a in args]
            self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def absolute(self):
        k = "abs%d" % self.r.randrange(20)
        return self.pick(
            lambda: ["SET", k, self.val()],
            lambda: ["PEXPIREAT", k, str(4102444800000 + self.r.randrange(10**9))],
        )

    def floats(self):
        # Never a whole number, see LEFT_OUT.
        by = self.r.choice(("1", "2", "-1", "8.5", "-8.5", "0.125", "-0.125", "3e2"))
        if self.version in W3 and self.r.random() < 0.5:
            if self.r.random() < 0.5:
                return ["HINCRBY", "flt:ints", "f%d" % self.r.randrange(4), str(self.r.randrange(-9, 9))]
            return ["HINCRBYFLOAT", "flt:hash", "f%d" % self.r.randrange(4), by]
        return ["INCRBYFLOAT", "flt%d" % self.r.randrange(4), by]

    def brief(self):
        return ["SET", "brief%d" % self.r.randrange(50), self.val(), "PX", str(self.r.randrange(50, 1500))]

    def transaction(self):
        # The caller sends MULTI and EXEC around it.
        return ["MULTI"]

    def fields(self):
        # On keys of their own: when a hash is renamed, some versions forget the fields' deadlines.
        k, f = "hf%d" % self.r.randrange(10), self.m()
        return self.pick(
            lambda: ["HSET", k] + self.pairs(self.m, self.val),
            lambda: ["HDEL", k, f],
            lambda: ["HSET", k] + self.pairs(self.m, self.val, 1, 6),
            lambda: ["HEXPIRE", k, self.ttl(), "FIELDS", "1", f],
            lambda: ["HPEXPIREAT", k, str(4102444800000 + self.r.randrange(10**9)), "FIELDS", "1", f],
            lambda: ["HPEXPIREAT", k, "1", "FIELDS", "1", f],
            lambda: ["HPERSIST", k, "FIELDS", "1", f],
            # It takes the field's deadline away, also where it holds no number.
            lambda: ["HINCRBY", k, f, self.r.choice(("1", "9223372036854775807", "none"))],
        )

    def pops(self):
        return self.pick(
            lambda: ["SPOP", self.k("S"), str(self.r.randrange(1, 4))], lambda: ["SPOP", self.k("S")]
        )

    def served(self):
        return self.pick(
            lambda: ["XADD", self.k("x"), "*", "f", self.val()], lambda: ["BLPOP", self.k("l"), "0.001"]
        )

    def batch(self, n):
        out = []
        while len(out) < n:
            a = self.next()
            if a == [b"MULTI"]:
                inner = [self.next() for _ in range(self.r.randrange(1, 6))]
                inner = [i for i in inner if i[0] not in ALONE + (b"MULTI", b"XREADGROUP")]
                out += [[b"MULTI"]] + inner + [[b"EXEC"]]
            else:
                out.append(a)
        return out


def fill(conn, version, rows=150):
    """Every data type, each in several sizes, with and without a deadline; only what travels as frames."""
    c = []
    for i in range(rows):
        c.append(["SET", "fill:str:%d" % i, "v" * (i % 70)])
        if i % 3 == 0:
            c.append(["PEXPIREAT", "fill:str:%d" % i, str(4102444800000 + i * 1000)])
        c.append(["RPUSH", "fill:list:%d" % (i % 12)] + ["e%d" % j for j in range(i % 9 + 1)])
        c.append(["HSET", "fill:hash:%d" % (i % 12), "f%d" % i, "v%d" % i, "n", str(i)])
        c.append(["SADD", "fill:set:%d" % (i % 12), "m%d" % i, str(i)])
        c.append(["ZADD", "fill:zset:%d" % (i % 12), str(i / 4), "m%d" % i, "-inf", "low", "inf", "high"])
        c.append(["XADD", "fill:stream:%d" % (i % 5), "%d-1" % (i + 1), "f", "v%d" % i])
    c += [
        ["SET", "fill:big", "b" * 100000],
        ["SET", "fill:int", "-9223372036854775808"],
        ["SET", b"fill:bin:\x00\xff\r\n", b"\x00\x01\xfe\xff\r\n"],
        ["SET", "fill:empty", ""],
        ["GEOADD", "fill:geo", "13.361389", "38.115556", "Palermo", "15.087269", "37.502669", "Catania"],
        ["RPUSH", "fill:longlist"] + ["item-%d" % i for i in range(2000)],
        ["SADD", "fill:longset"] + ["member-%d" % i for i in range(2000)],
        ["ZADD", "fill:longzset"] + [x for i in range(2000) for x in (repr(i * 1.1), "member-%d" % i)],
        ["HSET", "fill:longhash"] + [x for i in range(2000) for x in ("field-%d" % i, "value-%d" % i)],
        ["XGROUP", "CREATE", "fill:stream:0", "g", "0"],
        ["XREADGROUP", "GROUP", "g", "alice", "COUNT", "5", "STREAMS", "fill:stream:0", ">"],
        ["XREADGROUP", "GROUP", "g", "bob", "COUNT", "3", "STREAMS", "fill:stream:0", ">"],
        ["XACK", "fill:stream:0", "g", "1-1"],
        ["XDEL", "fill:stream:1", "2-1"],
        ["EXPIRE", "fill:hash:1", "100000"],
        ["PEXPIRE", "fill:zset:1", "100000000"],
    ]
    c += [["SET", "flt%d" % i, "0.0625"] for i in range(4)]
    if version in W3:
        c += [["HSET", "flt:hash"] + [x for i in range(4) for x in ("f%d" % i, "0.0625")]]
        c += [
            ["HPEXPIREAT", "fill:hash:0", "4102444800000", "FIELDS", "2", "f0", "n"],
            ["HEXPIRE", "fill:longhash", "100000", "FIELDS", "1", "field-7"],
        ]
    for args, r in zip(c, conn.many(c)):
        if r.is_error:
            raise RuntimeError("fill: %s: %s" % (quote([str(a).encode() for a in args])[:200], show(r)))


def wide(conn, mega):
    """So many MiB in values of 60 KiB, to make snapshots take a while."""
    conn.many([["SET", "wide:%d" % i, os.urandom(30000).hex()] for i in range(mega * 17)], 8)


def pump(conn, load, seconds, stop=None):
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end and not (stop and stop.is_set()):
        batch = load.batch(40)
        while batch:
            cut = next((i for i, a in enumerate(batch) if a[0] in ALONE), len(batch))
            replies = conn.many(batch[:cut])
            if cut < len(batch):
                replies.append(conn.call(*batch[cut]))
            load.history += zip(batch, replies)
            n += cut + 1
            batch = batch[cut + 1 :]
    return n


# ---------------------------------------------------------------------------------------------
# Equality


def marks(primary, node, limit, what):
    """Writes a key into every stream behind everything else, and waits until the node has them all."""
    nonce = "%08x" % random.SystemRandom().randrange(1 << 32)
    keys = ["mark:%s:%d" % (nonce, i) for i in range(64)]
    with primary.conn() as c:
        c.many([["SET", k, nonce] for k in keys])

    def there():
        with node.conn(5.0) as c:
            r = c.many([["GET", k] for k in keys])
            return all(x.value == nonce.encode() for x in r)

    wait_until(what, limit, there, every=0.03)


def field_deadlines(conn, state):
    """The deadlines of hash fields, where the server has them."""
    if conn.call("HTTL", "none", "FIELDS", "1", "f").is_error:
        return {}
    out = {}
    rows = [(k, f) for k, (kind, v, _) in sorted(state.items()) if kind == "hash" for f, _ in v]
    for (k, f), r in zip(rows, conn.many([("HTTL", k, "FIELDS", "1", f) for k, f in rows])):
        t = r.value[0].value if r.value else None
        out[(k, f)] = -1 if t is None or t < 0 else int(time.time()) + t
    return out


def state_of(server, version):
    with server.conn(30.0) as c:
        d = dump(c, details=version == "7.0.0")
        fields = field_deadlines(c, d) if version in W3 else {}
    return {k: v for k, v in d.items() if not k.startswith(b"brief")}, fields


def differences(primary, node, version, tolerance_ms):
    da, fa = state_of(primary, version)
    db, fb = state_of(node, version)
    out = dump_diff(da, db, tolerance_ms, ("kevy", "node"))
    out += [
        "%r: deadline kevy %d, node %d" % (k, da[k][2], db[k][2])
        for k in da
        if k.startswith((b"abs", b"fill:str")) and k in db and abs(da[k][2] - db[k][2]) > 150
    ]
    for k in fa:
        if k[0] in da and k[0] in db and da[k[0]][:2] == db[k[0]][:2]:
            a, b = fa[k], fb.get(k, -1)
            if (a < 0) != (b < 0) or abs(a - b) > tolerance_ms / 1000 + 1:
                out.append("field %r: deadline kevy %d, node %d" % (k, a, b))
    return out, len(da)


def tell(load, diff, keys=3, lines=int(os.environ.get("RINGKEEP_TELL", "15"))):
    """The last commands on the keys that differ, with the primary's replies."""
    for text in diff[:keys] if load else []:
        key = ast.literal_eval(re.match(r"(?:field \()?(b'[^']*')", text).group(1))
        field = re.match(r"field \(b'[^']*', (b'[^']*')", text)
        field = ast.literal_eval(field.group(1)) if field else None
        touched = [
            (a, r)
            for a, r in load.history
            if key in a[1:]
            and (
                field is None
                or field in a[2:]
                or a[0] in (b"DEL", b"UNLINK", b"RENAME", b"RENAMENX", b"COPY", b"EXPIRE")
            )
        ]
        print("    the last of %d commands on %r:" % (len(touched), key))
        for a, r in touched[-lines:]:
            print("        %.150s -> %s" % (quote(a), show(r, 60)))


def compare(count, name, primary, node, tolerance_ms=2500, limit=20.0, load=None):
    """Equal at once, or equal a little later (brief keys still running out); else what differs."""
    version = primary.version
    try:
        started = time.monotonic()
        marks(primary, node, limit, "the node has every write of the primary")
        # A relative time-out starts when the frame is applied: later by as much as the node was behind.
        tolerance_ms += 1000 * (time.monotonic() - started)
    except TimeoutError as e:
        count.fail(name, "%s; node log:\n%s" % (e, node.log_tail(6)))
        return False
    end = time.monotonic() + 3
    while True:
        diff, keys = differences(primary, node, version, tolerance_ms)
        if not diff or time.monotonic() > end:
            break
        time.sleep(0.1)
    if diff:
        count.fail(name, "%d of %d keys differ:\n    %s" % (len(diff), keys, "\n    ".join(diff[:8])))
        tell(load, diff)
        return False
    count.ok(name, "%d keys" % keys)
    return True


def offsets_equal(count, name, primary, node):
    def equal():
        with primary.conn() as p, node.conn() as n:
            a, b = p.info("replication"), n.info("replication")
            return a.get("master_repl_offset") == b.get("slave_repl_offset")

    try:
        wait_until(name, 5, equal)
        count.ok(name)
    except TimeoutError:
        with primary.conn() as p, node.conn() as n:
            count.fail(
                name,
                "primary %s, node %s"
                % (
                    p.info("replication").get("master_repl_offset"),
                    n.info("replication").get("slave_repl_offset"),
                ),
            )


def surface(count, name, node, upstream_port, kevy):
    """What a client of a replica sees."""
    with node.conn() as c:
        info = c.info("replication")
        count.check(name + ": INFO says slave", info.get("role") == "slave", str(info))
        count.check(
            name + ": INFO names the primary", info.get("master_port") == str(upstream_port), str(info)
        )
        try:
            wait_until("link up", 5, lambda: c.info("replication").get("master_link_status") == "up")
            count.ok(name + ": INFO says the link is up")
        except TimeoutError:
            count.fail(name + ": INFO says the link is up", str(c.info("replication")))
        role = c.call("ROLE").plain()
        count.check(
            name + ": ROLE", isinstance(role, list) and role[0] == b"slave" and len(role) == 5, repr(role)
        )
        if kevy in W1:
            return  # these take writes on a replica
        for args in (
            ("SET", "k", "v"),
            ("DEL", "k"),
            ("LPUSH", "k", "v"),
            ("FLUSHALL",),
            ("EVAL", "return redis.call('SET','k','v')", "1", "k"),
        ):
            r = c.call(*args)
            good = r.is_error and b"READONLY" in r.value
            if args[0] != "EVAL":
                good = r.raw == b"-READONLY You can't write against a read only replica.\r\n"
            count.check("%s: %s is refused" % (name, args[0]), good, show(r))
        r = c.call("GET", "fill:int")
        count.check(name + ": reads work", r.value == b"-9223372036854775808", show(r))
        c.call("MULTI")
        c.call("SET", "k", "v")
        r = c.call("EXEC")
        count.check(
            name + ": a write in MULTI is refused",
            r.is_error or r.value and r.value[0].is_error or not kevy and b"READONLY" in r.raw,
            show(r),
        )


# ---------------------------------------------------------------------------------------------
# Scenarios


def follow(count, s, version, shards, node_shards, threads, seconds, seed, backlog=None):
    name = "%s x%d -> %d shards, %d threads%s" % (
        version,
        shards,
        node_shards,
        threads,
        ", by snapshot" if backlog else "",
    )
    primary = kevy_server(s.scratch, version, shards, backlog=backlog)
    with primary.conn() as c:
        fill(c, version)
    node = s.node(primary.port, node_shards, threads, shards)
    # An idle 1.19.0 sends a late joiner nothing when its backlog is empty; here it is not empty.
    if compare(count, name + ": first sync", primary, node):
        surface(count, name, node, primary.port + 10000, s.opts.node_is_kevy) if seed % 2 == 0 else None
        load = Load(seed, version, shards)
        with primary.conn(30.0) as c:
            n = pump(c, load, seconds)
        compare(count, "%s: after %d random writes (seed %d)" % (name, n, seed), primary, node, load=load)
        if version in W3 and not s.opts.node_is_kevy:
            offsets_equal(count, name + ": INFO's offsets", primary, node)
        for why, k in sorted(load.left_out.items()):
            print("        left out %d: %s" % (k, why))
    node.kill()
    primary.kill()


def cuts(count, s, version, shards, seed):
    name = "%s x%d: link cut" % (version, shards)
    primary = kevy_server(s.scratch, version, shards)
    # A reset of a link makes a 2.0.20 primary end as a whole.
    gentle = version == "2.0.20"
    proxy = Proxy(primary.port, shards, gentle=gentle)
    with primary.conn() as c:
        fill(c, version)
    node = s.node(proxy.base, 2, 1, shards)
    compare(count, name + ": first sync", primary, node)
    load, stop = Load(seed, version, shards), threading.Event()
    with primary.conn(30.0) as c:
        writer = threading.Thread(target=pump, args=(c, load, 20, stop))
        writer.start()
        for _ in range(4):
            time.sleep(0.3)
            proxy.open = False
            proxy.cut()
            time.sleep(0.2)
            proxy.open = True
        stop.set()
        writer.join()
    # A relative time-out set during an outage starts when the frame arrives: later by the outage.
    compare(count, name + " four times under load, resumed", primary, node, tolerance_ms=4000, load=load)
    with primary.conn() as c:
        wide(c, 2)
    compare(count, name + ": 2 MiB more", primary, node, tolerance_ms=4000)
    before, proxy.open = proxy.passed, False
    proxy.cut()
    with primary.conn() as c:
        c.many([["SET", "resumed:%d" % i, "x"] for i in range(100)])
    proxy.open = True
    compare(count, name + ", 100 writes meanwhile", primary, node, tolerance_ms=4000)
    resumed = name + ": the backlog was enough, no snapshot came"
    if gentle:
        count.skip(resumed, "it keeps no frame that it has sent, whether it arrived or not")
    else:
        count.check(resumed, proxy.passed - before < 500_000, "%d bytes" % (proxy.passed - before))
    node.kill()
    proxy.close()
    primary.kill()


def cut_in_snapshot(count, s, version, shards, seed):
    name = "%s x%d: cut in the snapshot" % (version, shards)
    if version == "1.19.0":
        count.skip(name, "with its backlog empty it sends a newcomer nothing at all")
        return
    primary = kevy_server(s.scratch, version, shards, backlog=1 << 16)
    with primary.conn() as c:
        fill(c, version)
        wide(c, 6)
    proxy = Proxy(primary.port, shards, gentle=True)
    node_port = None
    try:
        for part in (1000, 300000, 2000000):
            proxy.budget = part
            if node_port is None:
                node = s.node(proxy.base, 3, 2, shards)
                node_port = node.port
            else:
                proxy.cut()
            wait_until("cut after %d bytes" % part, 15, lambda: proxy.budget is None)
        with primary.conn() as c:
            c.call("SET", "after", "the cuts")
        compare(count, name + " three times, then whole", primary, node, limit=40)
    except TimeoutError as e:
        count.fail(name, str(e))
    if node_port:
        node.kill()
    proxy.close()
    primary.kill()


def restarts(count, s, version, shards, seed):
    """A clean stop keeps the generation and the offset, a kill draws a new generation."""
    name = "%s x%d: primary" % (version, shards)
    primary = kevy_server(s.scratch, version, shards, aof=True)
    with primary.conn() as c:
        fill(c, version)
    node = s.node(primary.port, 2, 1, shards)
    compare(count, name + " first sync", primary, node)
    for how, sig in (("stopped and started", signal.SIGTERM), ("killed and started", signal.SIGKILL)):
        with primary.conn() as c:
            pump(c, Load(seed + sig, version, shards), 0.5)
        time.sleep(
            1.2 if sig == signal.SIGKILL else 0
        )  # everysec: what was not synced is lost, on purpose too
        primary.stop(sig)
        with node.conn() as c:
            r = c.call("GET", "fill:int")
            count.check(
                "%s %s: reads go on meanwhile" % (name, how), r.value == b"-9223372036854775808", show(r)
            )
        primary.start()
        compare(count, "%s %s" % (name, how), primary, node, tolerance_ms=8000, limit=30)
        load = Load(seed + sig + 1, version, shards)
        with primary.conn() as c:
            pump(c, load, 0.5)
        compare(count, "%s %s, then written" % (name, how), primary, node, tolerance_ms=8000, load=load)
    node.kill()
    primary.kill()


def flushed(count, s, version, shards, seed):
    name = "%s x%d: FLUSHALL" % (version, shards)
    primary = kevy_server(s.scratch, version, shards)
    with primary.conn() as c:
        fill(c, version)
    node = s.node(primary.port, 3, 2, shards)
    compare(count, name + ": first sync", primary, node)
    with primary.conn() as c:
        c.ask("FLUSHALL")
    try:
        wait_until("empty", 10, lambda: node.conn().ask("DBSIZE") == 0)
        count.ok(name + " empties the node")
    except TimeoutError:
        count.fail(name + " empties the node", "DBSIZE %s" % node.conn().ask("DBSIZE"))
    with primary.conn() as c:
        fill(c, version, 30)
        pump(c, Load(seed, version, shards), 0.5)
    compare(count, name + ", then written", primary, node)
    node.kill()
    primary.kill()


def node_restart(count, s, version, shards, seed):
    """The node comes back with its data and its positions; it must end equal whatever it kept."""
    name = "%s x%d: node" % (version, shards)
    primary = kevy_server(s.scratch, version, shards)
    with primary.conn() as c:
        fill(c, version)
    node = s.node(primary.port, 2, 1, shards)
    compare(count, name + " first sync", primary, node)
    for how, sig in (("stopped", signal.SIGTERM), ("killed", signal.SIGKILL)):
        node.stop(sig)
        with primary.conn() as c:
            pump(c, Load(seed + sig, version, shards), 0.5)
        node.start()
        compare(count, "%s %s and started" % (name, how), primary, node, tolerance_ms=8000)
    node.kill()
    primary.kill()


# ---------------------------------------------------------------------------------------------
# Primaries that misbehave


def image(pairs, version=4):
    out = b"KEVYSNAP" + bytes([version])
    for k, v in pairs:
        out += b"\x01\x00" + struct.pack("<I", len(k)) + k + struct.pack("<I", len(v)) + v
    return out + b"\x00"


def frame(offset, *args):
    return b"*2\r\n:%d\r\n" % offset + encode(args)


def snapshot(body, end):
    out = b"+SNAPSHOT\r\n"
    for i in range(0, len(body), 65536):
        part = body[i : i + 65536]
        out += b"$%d\r\n%s\r\n" % (len(part), part)
    return out + b"+SNAPSHOT_END %d\r\n" % end


class FakePrimary:
    """One stream of generation 3 of the wire. `bad` serves the links until `good` is set."""

    GENERATION = 1234567

    def __init__(self, bad):
        self.port = free_base()
        self.bad, self.good = bad, threading.Event()
        self.links = self.good_links = self.acked = 0
        self.handshakes = []
        self.next = 6
        self.socks = []
        self.listeners = []
        for port, serve in ((self.port, self._client), (self.port + 10000, self._link)):
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
            s.listen(16)
            self.listeners.append(s)
            threading.Thread(target=self._accept, args=(s, serve), daemon=True).start()

    def _accept(self, listener, serve):
        while True:
            try:
                c, _ = listener.accept()
            except OSError:
                return
            self.socks.append(c)
            threading.Thread(target=self._guard, args=(serve, c), daemon=True).start()

    def _guard(self, serve, c):
        try:
            serve(c)
        except (OSError, Closed, IndexError, ValueError):
            pass
        finally:
            c.close()

    def _client(self, c):
        """The client port, as far as a replica may ask it for the shard count and the version."""
        reader = Conn.__new__(Conn)
        reader.sock, reader.buf, reader.pos, reader.timeout = c, b"", 0, 60.0
        while True:
            args = [a.upper() for a in reader.read().plain()]
            if args[:2] == [b"CONFIG", b"GET"]:
                c.sendall(encode(["io-threads", "1"]))
            elif args[0] == b"INFO":
                text = (
                    b"# Server\r\nredis_version:7.4.0\r\nkevy_version:7.0.0\r\n"
                    b"# Replication\r\nrole:master\r\n"
                    b"repl_port_base:%d\r\n" % (self.port + 10000)
                )
                c.sendall(b"$%d\r\n%s\r\n" % (len(text), text))
            elif args[0] == b"PING":
                c.sendall(b"+PONG\r\n")
            else:
                c.sendall(b"-ERR unknown command\r\n")

    def _link(self, c):
        reader = Conn.__new__(Conn)
        reader.sock, reader.buf, reader.pos, reader.timeout = c, b"", 0, 60.0
        args = reader.read().plain()
        if len(args) != 6:
            return
        generation, offset = int(args[2]), int(args[3])
        self.links += 1
        self.handshakes.append((generation, offset))
        c.settimeout(60)
        if not self.good.is_set():
            self.bad(self, c, generation, offset)
            return
        self.good_links += 1
        self.serve(c, generation, offset)

    def serve(self, c, generation, offset, rows=((b"good", b"1"), (b"other", b"x" * 1000))):
        g = self.GENERATION
        c.sendall(b"+ACK %d %d\r\n" % (g, offset))
        if (generation, offset) != (g, self.next):
            c.sendall(snapshot(image(rows), self.next))
        self.stay(c)

    def stay(self, c):
        """Pings until the replica goes or the listener is closed."""
        while True:
            c.sendall(b"+PING %d %d\r\n" % (self.GENERATION, self.next))
            ready, _, _ = select.select([c], [], [], 0.5)
            if ready:
                data = c.recv(65536)
                if not data:
                    return
                if b"REPLCONF ACK" in data:
                    self.acked += 1

    def close(self):
        for s in self.listeners + self.socks:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()


def rss_mib(server):
    with open("/proc/%d/status" % server.proc.pid, encoding="ascii") as f:
        for line in f:
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    return 0


G = FakePrimary.GENERATION
HOSTILE = {
    "wire 14, truncated image": lambda p, c, g, o: (
        c.sendall(
            b"+ACK %d %d\r\n" % (G, o) + snapshot(image([(b"half", b"1"), (b"lost", b"y" * 500)])[:-300], 6)
        ),
        p.stay(c),
    ),
    "image without its end": lambda p, c, g, o: (
        c.sendall(b"+ACK %d %d\r\n" % (G, o) + snapshot(image([(b"half", b"1")])[:-1], 6)),
        p.stay(c),
    ),
    "image with another magic": lambda p, c, g, o: (
        c.sendall(b"+ACK %d %d\r\n" % (G, o) + snapshot(b"REDIS0011" + image([(b"half", b"1")])[9:], 6)),
        p.stay(c),
    ),
    "image of version 99": lambda p, c, g, o: (
        c.sendall(b"+ACK %d %d\r\n" % (G, o) + snapshot(image([(b"half", b"1")], 99), 6)),
        p.stay(c),
    ),
    "image with a count of 2^32-1": lambda p, c, g, o: (
        c.sendall(
            b"+ACK %d %d\r\n" % (G, o)
            + snapshot(b"KEVYSNAP\x04\x03\x00\x04\x00\x00\x00half\xff\xff\xff\xff", 6)
        ),
        p.stay(c),
    ),
    "image with a length of 2^32-1": lambda p, c, g, o: (
        c.sendall(b"+ACK %d %d\r\n" % (G, o) + snapshot(b"KEVYSNAP\x04\x01\x00\xff\xff\xff\xff", 6)),
        p.stay(c),
    ),
    "snapshot cut short by the end of the link": lambda p, c, g, o: (
        c.sendall(
            b"+ACK %d %d\r\n" % (G, o)
            + snapshot(image([(b"half", b"1"), (b"lost", b"y" * 90000)]), 6)[:70000]
        )
    ),
    "frame inside a snapshot": lambda p, c, g, o: (
        c.sendall(b"+ACK %d %d\r\n+SNAPSHOT\r\n" % (G, o) + frame(0, "SET", "half", "1")),
        p.stay(c),
    ),
    "chunk outside a snapshot": lambda p, c, g, o: (
        c.sendall(b"+ACK %d %d\r\n$4\r\nhalf\r\n" % (G, o)),
        p.stay(c),
    ),
    "chunk above 65536": lambda p, c, g, o: (
        c.sendall(b"+ACK %d %d\r\n+SNAPSHOT\r\n$536870912\r\n" % (G, o) + b"x" * 100000),
        p.stay(c),
    ),
    "line without end": lambda p, c, g, o: (c.sendall(b"+ACK " + b"9" * 100000), time.sleep(8)),
    "another protocol": lambda p, c, g, o: c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "ACK of nonsense": lambda p, c, g, o: (c.sendall(b"+ACK -1 abc\r\n"), time.sleep(8)),
    "frame with a gap in the offset": lambda p, c, g, o: (
        c.sendall(
            b"+ACK %d %d\r\n" % (G, o) + snapshot(image([(b"good", b"0")]), 5) + frame(7, "SET", "half", "1")
        ),
        p.stay(c),
    ),
    "frame seen before": lambda p, c, g, o: (
        c.sendall(
            b"+ACK %d %d\r\n" % (G, o) + snapshot(image([(b"good", b"0")]), 5) + frame(3, "SET", "half", "1")
        ),
        p.stay(c),
    ),
    "frame with an argument of 512 MB": lambda p, c, g, o: (
        c.sendall(
            b"+ACK %d %d\r\n" % (G, o)
            + snapshot(image([(b"good", b"0")]), 5)
            + b"*2\r\n:5\r\n*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$536870912\r\n"
            + b"x" * 1000
        ),
        time.sleep(8),
    ),
    "frame of a billion arguments": lambda p, c, g, o: (
        c.sendall(
            b"+ACK %d %d\r\n" % (G, o)
            + snapshot(image([(b"good", b"0")]), 5)
            + b"*2\r\n:5\r\n*1000000000\r\n"
        ),
        time.sleep(8),
    ),
    "silence before the ACK": lambda p, c, g, o: time.sleep(30),
    "silence after the ACK": lambda p, c, g, o: (c.sendall(b"+ACK %d %d\r\n" % (G, o)), time.sleep(30)),
    "silence inside the snapshot": lambda p, c, g, o: (
        c.sendall(b"+ACK %d %d\r\n+SNAPSHOT\r\n$10\r\nKEV" % (G, o)),
        time.sleep(30),
    ),
}


def hostile(count, s, name, bad):
    """The node leaves such a link, keeps serving, shows nothing of the bad data, bounds its memory, and
    takes the data of the primary as soon as that behaves."""
    fake = FakePrimary(bad)
    node = s.node(fake.port, 2, 1, 1)
    title = "bad primary, %s" % name
    try:
        wait_until("a first link", 10, lambda: fake.links >= 1)
        before = rss_mib(node)
        fake_links = fake.links
        limit = 25 if "silence" in name or "MB" in name or "billion" in name or "line" in name else 10
        left = True
        try:
            wait_until("the node leaves the link and dials again", limit, lambda: fake.links > fake_links)
        except TimeoutError:
            left = False
        with node.conn(3.0) as c:
            r = c.call("GET", "half")
            alive = c.call("PING").value == b"PONG"
        clean = r.value is None or r.is_error
        grown = rss_mib(node) - before
        fake.good.set()
        # The link that was dialed then is as silent, and left as late.
        if not left or "silence" in name:
            for x in fake.socks:
                with contextlib.suppress(OSError):
                    x.shutdown(socket.SHUT_RDWR)
        got = None
        try:
            got = wait_until("the good data", 15, lambda: node.conn(3.0).call("GET", "good").value == b"1")
        except TimeoutError:
            pass
        count.check(
            title,
            alive and clean and left and grown < 100 and got,
            "alive %s, left the link %s, bad data hidden %s, grown %.0f MiB, recovers %s; last lines:\n%s"
            % (alive, left, clean, grown, bool(got), node.log_tail(5)),
        )
    except (TimeoutError, OSError, Closed) as e:
        count.fail(title, "%s; last lines:\n%s" % (e, node.log_tail(5)))
    finally:
        fake.close()
        node.kill()


def unknown_verb(count, s):
    """A verb that nobody knows is skipped: the offset goes on and the link stays."""

    def serve(p, c, g, o):
        p.next = 8
        c.sendall(
            b"+ACK %d %d\r\n" % (G, o)
            + snapshot(image([(b"good", b"1")]), 5)
            + frame(5, "FROBNICATE", "a", "b")
            + frame(6, "XINTERNAL.CATALOG", "1", "0", "", "", "")
            + frame(7, "SET", "after", "yes")
        )
        p.stay(c)

    fake = FakePrimary(serve)
    node = s.node(fake.port, 2, 1, 1)
    try:
        wait_until("the frame behind it", 10, lambda: node.conn(3.0).call("GET", "after").value == b"yes")
        links = fake.links
        time.sleep(1.5)
        count.check(
            "unknown verbs are skipped and the link stays", fake.links == links == 1, "%d links" % fake.links
        )
        count.check("the node acknowledges", fake.acked > 0, "no REPLCONF ACK seen")
    except TimeoutError as e:
        count.fail("unknown verbs are skipped", "%s; %s" % (e, node.log_tail(5)))
    finally:
        fake.close()
        node.kill()


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    ap.add_argument("--node", help="the node's binary")
    ap.add_argument(
        "--node-is-kevy", metavar="VERSION", choices=VERSIONS, help="take a real kevy replica instead"
    )
    ap.add_argument("--short", action="store_true", help="one run per version, as in CI (default)")
    ap.add_argument("--full", action="store_true", help="every version with 1-3 shards on 1-4 shards")
    ap.add_argument("--seconds", type=float, default=2.0, help="of random writes per run")
    ap.add_argument("--seed", type=int)
    ap.add_argument("--versions", default=",".join(VERSIONS))
    ap.add_argument("--only", help="only scenarios whose name contains this")
    ap.add_argument("--keep", action="store_true", help="keep the servers' folders")
    opts = ap.parse_args()
    if not opts.node and not opts.node_is_kevy:
        ap.error("give --node BINARY (or --node-is-kevy VERSION)")
    seed = opts.seed if opts.seed is not None else random.SystemRandom().randrange(1 << 31)
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
        runs = []
        for i, v in enumerate(versions):
            if opts.full:
                for shards in (1, 2, 3):
                    for node_shards in (1, 2, 3, 4):
                        runs.append(("follow", v, shards, node_shards, 1 + (shards + node_shards) % 2, None))
                    runs.append(("follow", v, shards, 3, 2, 1 << 16))
            else:
                runs.append(("follow", v, 2, 3, 2, None))
                runs.append(("follow", v, 1 + 2 * (i % 2), 1 + i % 2, 1, 1 << 16))
        jobs = []
        for n, (_, v, shards, node_shards, threads, backlog) in enumerate(runs):
            jobs.append(
                (
                    "follow %s x%d" % (v, shards),
                    lambda v=v, a=shards, b=node_shards, t=threads, k=backlog, n=n: follow(
                        count, s, v, a, b, t, opts.seconds, seed + n, k
                    ),
                )
            )
        for v in versions:
            for shards in ((1, 2, 3) if opts.full else (2,)):
                jobs.append(("cuts %s" % v, lambda v=v, a=shards: cuts(count, s, v, a, seed)))
                jobs.append(
                    ("cut in snapshot %s" % v, lambda v=v, a=shards: cut_in_snapshot(count, s, v, a, seed))
                )
                jobs.append(("node restart %s" % v, lambda v=v, a=shards: node_restart(count, s, v, a, seed)))
                if v in W3:
                    jobs.append(("restarts %s" % v, lambda v=v, a=shards: restarts(count, s, v, a, seed)))
                    jobs.append(("flushall %s" % v, lambda v=v, a=shards: flushed(count, s, v, a, seed)))
        jobs.append(("unknown verb", lambda: unknown_verb(count, s)))
        for name, bad in HOSTILE.items():
            jobs.append(("bad primary, " + name, lambda name=name, bad=bad: hostile(count, s, name, bad)))
        for name, job in jobs:
            if opts.only and opts.only not in name:
                continue
            started = time.monotonic()
            try:
                job()
            except (OSError, Closed, RuntimeError, TimeoutError) as e:
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
