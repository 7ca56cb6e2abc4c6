#!/usr/bin/env python3
"""Holds the node's replies beside redis-server's, byte for byte, in RESP2 and RESP3.

    compare.py --node BINARY                 starts redis-server and the node itself
    compare.py --a HOST:PORT --b HOST:PORT   a = redis-server, b = the node, both already running
                                             (both are emptied with FLUSHALL!)
    --only PREFIX     only groups (or commands, in capitals: --only ZADD) that start so; repeatable
    --proto 2|3       only this protocol
    --list            prints the groups

The table is cases.txt (its head explains the marks), plus three generated groups: every command with too
few arguments, and every command on a key of every type. KNOWN below names each difference that is meant,
with its reason; everything else that differs is a failure.
"""

import argparse
import fnmatch
import math
import os
import random
import re
import time

from wire import Broken, Closed, Conn, Count, Reply, Scratch, addr_of, encode, node_server, redis_server, show

HERE = os.path.dirname(os.path.abspath(__file__))

# ---------------------------------------------------------------------------------------------
# Deliberate differences. (group pattern, command-line regexp, protocol or 0, reason)
# A line listed here is still sent; when the replies happen to agree nothing is said.
KNOWN = [
    ("keys", r"^COMMAND GETKEYS FCALL", 0, "a function has all keys, declared or not"),
    ("*", r"^HELLO\b.*", 0, "the HELLO map names the server, its version and its mode"),
    ("*", r"^(QUIT)\b.*", 0, "Redis 7.2 and later stop counting QUIT as a special command"),
    (
        "*",
        r"^LPOS p c RANK -9223372036854775808",
        0,
        "Redis 7.2 and later refuse the rank that has no negative",
    ),
    ("stream-read", r"^XREAD STREAMS x y 0", 0, "Redis 7.2 and later name the command in the text"),
    ("*", r"^CONFIG GET nosuchthing", 3, "empty map or empty array: clients read both"),
    ("streams-more", r"^XREAD STREAMS y x 0", 0, "Redis 7.2 and later name the command in the text"),
    (
        "streams-more",
        r"^\? XINFO (STREAM y FULL|CONSUMERS)",
        0,
        "Redis 7.2 and later tell consumers' activity",
    ),
    (
        "object-more",
        r"^OBJECT ENCODING [ei]$",
        0,
        "the encoding of a string follows from its bytes, not from how it came to be",
    ),
    ("pubsub", r"^1<", 0, "messages for several patterns of one client come in no order"),
    ("wrongtype", r"^SSCAN", 0, "the members of a set come in no order"),
    ("conn", r"^DEBUG SLEEP", 0, "DEBUG is a matter of the server's own; redis-server has it switched off"),
]

# Replies without an order of their own.
UNORDERED = {"SMEMBERS", "KEYS", "HKEYS", "HVALS", "SUNION", "SINTER", "SDIFF", "HGETALL"}
PAIRED = {"HGETALL"}
# Scores: Redis 7.0 prints 17 significant digits, 7.2 and later the shortest digits that read back as
# the same double. Both are accepted, but nothing longer, and the value must be the same double.
SCORED = {
    "ZSCORE",
    "ZINCRBY",
    "ZADD",
    "ZRANGE",
    "ZREVRANGE",
    "ZRANGEBYSCORE",
    "ZREVRANGEBYSCORE",
    "ZPOPMIN",
    "ZPOPMAX",
    "BZPOPMIN",
    "BZPOPMAX",
    "ZSCAN",
    "ZMSCORE",
    "ZUNION",
    "ZINTER",
    "ZDIFF",
    "ZMPOP",
    "GEOPOS",
    "GEOSEARCH",
    "GEORADIUS",
    "GEORADIUS_RO",
    "GEORADIUSBYMEMBER",
    "GEORADIUSBYMEMBER_RO",
    "EXEC",
    "EVAL",
    "EVAL_RO",
    "RAW",
}


class Line:
    __slots__ = ("text", "mark", "n", "conn", "args", "expect", "raw", "act")

    def __init__(self, text):
        self.text, self.mark, self.n, self.conn = text, "", 0, 0
        self.args, self.expect, self.raw, self.act = [], None, None, "call"

    @property
    def verb(self):
        return (
            self.args[0].upper().decode("latin-1") if self.args else ("RAW" if self.raw is not None else "")
        )


_escape = {"n": b"\n", "r": b"\r", "t": b"\t", '"': b'"', "\\": b"\\", "'": b"'"}


def words(text):
    """Splits a line into words; double quotes know \\xNN, \\n, \\r, \\t, and ${N} repeats the letter x."""
    out, i, n = [], 0, len(text)
    while i < n:
        if text[i].isspace():
            i += 1
            continue
        word = b""
        if text[i] in "\"'":
            quote = text[i]
            i += 1
            while i < n and text[i] != quote:
                if quote == '"' and text[i] == "\\" and i + 1 < n:
                    c = text[i + 1]
                    if c == "x":
                        word += bytes([int(text[i + 2 : i + 4], 16)])
                        i += 4
                        continue
                    word += _escape.get(c, c.encode())
                    i += 2
                    continue
                word += text[i].encode()
                i += 1
            if i >= n:
                raise SystemExit("cases: unbalanced quotes in %r" % text)
            i += 1
        else:
            start = i
            while i < n and not text[i].isspace():
                i += 1
            word = re.sub(r"\$\{(\d+)\}", lambda m: "x" * int(m.group(1)), text[start:i]).encode()
        out.append(word)
    return out


def parse_line(text):
    line = Line(text)
    m = re.match(r"^(\d)(>>|>|<)\s*(.*)$", text)
    if m:
        line.conn = int(m.group(1))
        line.act = {">": "call", ">>": "send", "<": "read"}[m.group(2)]
        text = m.group(3)
        if line.act == "read":
            return line
    m = re.match(r"^!\s*(\d+)\s+(.*)$", text)
    if m:
        line.act, line.n, line.raw = "raw", int(m.group(1)), words(m.group(2))[0]
        return line
    m = re.match(r"^@sleep (\d+)$", text)
    if m:
        line.act, line.n = "sleep", int(m.group(1))
        return line
    m = re.match(r"^(~|\?|&|%\d+)\s+(.*)$", text)
    if m:
        line.mark, text = m.group(1)[0], m.group(2)
        line.n = int(m.group(1)[1:] or 0)
    if " => " in text:
        text, line.expect = text.split(" => ", 1)
    line.args = words(text)
    return line


def load_cases():
    groups, current = [], None
    with open(os.path.join(HERE, "cases.txt"), encoding="utf-8") as f:
        for text in f:
            text = text.rstrip("\n")
            if not text.strip() or text.startswith("#"):
                continue
            if text.startswith("@group "):
                parts = text.split()
                current = (parts[1], set(parts[2:]), [])
                groups.append(current)
            else:
                current[2].append(parse_line(text))
    groups.append(("arity", set(), arity_lines()))
    groups.append(("wrongtype", set(), wrongtype_lines()))
    groups.append(("keys", set(), key_lines()))
    return groups


# verb -> arguments of a well-formed call; {k} is the key under test
SAMPLES = """
GET {k}|SET {k} v|SETEX {k} 100 v|PSETEX {k} 100000 v|SETNX {k} v|GETSET {k} v|GETDEL {k}|GETEX {k}
MGET {k} other|MSET {k} v|APPEND {k} v|STRLEN {k}|GETRANGE {k} 0 -1|SETRANGE {k} 0 v|INCR {k}|DECR {k}
INCRBY {k} 5|DECRBY {k} 5|INCRBYFLOAT {k} 1.5|SETBIT {k} 3 1|GETBIT {k} 3|BITCOUNT {k}|BITPOS {k} 1
BITOP AND dst {k} other|BITOP NOT dst {k}
DEL {k}|UNLINK {k}|EXISTS {k}|TOUCH {k}|TYPE {k}|RENAME {k} dst|RENAMENX {k} dst|COPY {k} dst|EXPIRE {k} 100
PEXPIRE {k} 100000|EXPIREAT {k} 99999999999|PEXPIREAT {k} 99999999999999|TTL {k}|PTTL {k}|PERSIST {k}
LPUSH {k} v|RPUSH {k} v|LPOP {k}|RPOP {k}|LPOP {k} 2|RPOP {k} 2|LLEN {k}|LRANGE {k} 0 -1|LINDEX {k} 0
LSET {k} 0 v|LREM {k} 0 v|LTRIM {k} 0 0|LINSERT {k} BEFORE a b|LPOS {k} a|LMOVE {k} dst LEFT LEFT
LMOVE src {k} LEFT LEFT|RPOPLPUSH {k} dst|RPOPLPUSH src {k}|BLPOP {k} 0.01|BRPOP {k} 0.01
BRPOPLPUSH {k} dst 0.01|BRPOPLPUSH src {k} 0.01
HSET {k} f v|HMSET {k} f v|HSETNX {k} f v|HGET {k} f|HMGET {k} f g|HGETALL {k}|HDEL {k} f|HLEN {k}|HKEYS {k}
HVALS {k}|HEXISTS {k} f|HINCRBY {k} n 1|HINCRBYFLOAT {k} n 1.5|~ HRANDFIELD {k} 5|HSCAN {k} 0
SADD {k} m|SREM {k} m|SCARD {k}|SMEMBERS {k}|SISMEMBER {k} m|~ SPOP {k} 10|~ SRANDMEMBER {k} 10
SINTER {k} sother
SUNION {k} sother|SDIFF {k} sother|SDIFF sother {k}|SINTERSTORE dst {k} sother|SUNIONSTORE dst {k} sother
SDIFFSTORE dst {k} sother|SUNIONSTORE {k} sother sother|? SSCAN {k} 0
ZADD {k} 1 m|ZINCRBY {k} 1 m|ZREM {k} m|ZCARD {k}|ZSCORE {k} m|ZRANK {k} m|ZCOUNT {k} 0 10|ZRANGE {k} 0 -1
ZREVRANGE {k} 0 -1|ZRANGEBYSCORE {k} 0 10|ZREVRANGEBYSCORE {k} 10 0|ZREMRANGEBYRANK {k} 0 0
ZREMRANGEBYSCORE {k} 0 10|ZPOPMIN {k}|BZPOPMIN {k} 0.01|ZUNIONSTORE dst 2 {k} zother
ZINTERSTORE dst 2 {k} zother|ZDIFFSTORE dst 2 {k} zother|ZUNIONSTORE {k} 1 zother|ZINTERCARD 2 {k} zother
ZSCAN {k} 0
GEOADD {k} 13 38 m|GEOPOS {k} m|GEODIST {k} m n|GEOHASH {k} m|GEOSEARCH {k} FROMLONLAT 13 38 BYRADIUS 10 km
GEOSEARCHSTORE dst {k} FROMLONLAT 13 38 BYRADIUS 10 km|GEORADIUS {k} 13 38 10 km
GEORADIUSBYMEMBER {k} m 10 km|GEORADIUS_RO {k} 13 38 10 km|GEORADIUSBYMEMBER_RO {k} m 10 km
XADD {k} 9-9 f v|XLEN {k}|XRANGE {k} - +|XREVRANGE {k} + -|XDEL {k} 1-1|XTRIM {k} MAXLEN 0|XSETID {k} 99-99
XREAD STREAMS {k} 0|XGROUP CREATE {k} g 0|XGROUP CREATE {k} g 0 MKSTREAM|XREADGROUP GROUP g c STREAMS {k} >
XACK {k} g 1-1|XPENDING {k} g|XCLAIM {k} g c 0 1-1|XAUTOCLAIM {k} g c 0 0|XINFO STREAM {k}|XINFO GROUPS {k}
XGROUP CREATECONSUMER {k} g c|XGROUP DELCONSUMER {k} g c|XGROUP DESTROY {k} g|XGROUP SETID {k} g 0
XINFO CONSUMERS {k} g
MSETNX {k} v|LCS {k} other|SUBSTR {k} 0 -1|BITFIELD {k} GET u8 0|BITFIELD {k} SET u8 0 1|BITFIELD_RO {k} GET u8 0
EXPIRETIME {k}|PEXPIRETIME {k}|MOVE {k} 5|OBJECT REFCOUNT nokey{k}|LPUSHX {k} v|RPUSHX {k} v|HSTRLEN {k} f
LMPOP 1 {k} LEFT|LMPOP 2 none {k} LEFT COUNT 2|BLMPOP 0.01 1 {k} LEFT|BLMOVE {k} dst LEFT LEFT 0.01
BLMOVE src {k} LEFT LEFT 0.01|SINTERCARD 2 {k} sother|SMISMEMBER {k} m 1|SMOVE {k} dst m|SMOVE sother {k} m
ZDIFF 2 {k} zother WITHSCORES|ZINTER 2 {k} zother WITHSCORES|ZUNION 2 {k} zother WITHSCORES|ZLEXCOUNT {k} - +
ZMPOP 1 {k} MIN|BZMPOP 0.01 1 {k} MIN|ZMSCORE {k} m n|ZPOPMAX {k}|BZPOPMAX {k} 0.01|~ ZRANDMEMBER {k} 5
PFADD {k} a|PFCOUNT {k}|PFMERGE dst {k}|SORT {k} ALPHA|SORT_RO {k} ALPHA|? DUMP {k}|RESTORE {k} 0 bad
RESTORE-ASKING {k} 0 bad|FCALL nosuch 1 {k}|FCALL_RO nosuch 1 {k}
ZRANGEBYLEX {k} - +|ZREVRANGEBYLEX {k} + -|ZREMRANGEBYLEX {k} - +|ZRANGESTORE dst {k} 0 -1|ZREVRANK {k} m
"""
ALSO = """
PING ECHO SELECT DBSIZE FLUSHALL FLUSHDB KEYS RANDOMKEY SCAN TIME MULTI EXEC DISCARD WATCH UNWATCH PUBLISH
SUBSCRIBE PSUBSCRIBE EVAL EVALSHA EVAL_RO EVALSHA_RO SCRIPT WAIT CLIENT CONFIG MEMORY SLOWLOG DEBUG ROLE
REPLICAOF SLAVEOF COMMAND HELLO XGROUP XINFO XREAD XREADGROUP SWAPDB OBJECT PUBSUB CLUSTER LATENCY
FUNCTION PFDEBUG ACL SPUBLISH SSUBSCRIBE
""".split()
# A call with nothing but the verb is valid (or has side effects) for these.
NO_ARITY = {
    "ASKING",
    "MONITOR",
    "READONLY",
    "READWRITE",
    "SUNSUBSCRIBE",
    "PING",
    "DBSIZE",
    "FLUSHALL",
    "FLUSHDB",
    "RANDOMKEY",
    "TIME",
    "MULTI",
    "EXEC",
    "DISCARD",
    "UNWATCH",
    "ROLE",
    "COMMAND",
    "FAILOVER",
    "HELLO",
    "AUTH",
    "BGREWRITEAOF",
    "BGSAVE",
    "INFO",
    "LASTSAVE",
    "LOLWUT",
    "PFSELFTEST",
    "PUNSUBSCRIBE",
    "QUIT",
    "RESET",
    "SAVE",
    "SHUTDOWN",
    "UNSUBSCRIBE",
}
# What Redis 7.0 lacks: cases.txt says what is expected of these.
OWN = set("HEXPIRE HEXPIREAT HEXPIRETIME HPERSIST HPEXPIRE HPEXPIREAT HPEXPIRETIME HPTTL HTTL".split())
OWN |= {"HGETDEL", "HGETEX", "HSETEX", "WAITAOF"}
# Of kevy; see kevy_primary.py.
OWN |= {"REPL.TOKEN", "REPL.WAIT"}
# Ours; see replicas.py, elections.py and failover.py.
OWN |= {"ELECT", "REPL.DIGEST", "REPL.FAILOVER"}
# Sent by kevy primaries and refused from clients.
OWN |= {"XINTERNAL.CATALOG", "XINTERNAL.CONSUMERSEEN", "XINTERNAL.PENDING"}


def samples():
    return [s.strip() for row in SAMPLES.strip().splitlines() for s in row.split("|")]


def arity_lines():
    """Every verb with none of its arguments, then one more at a time while that is still too few."""
    out, seen = [], {}
    for s in samples():
        args = s.lstrip("~? ").replace("{k}", "nokey").split()
        seen.setdefault(args[0], args)
    for verb in ALSO:
        seen.setdefault(verb, [verb])
    for verb, args in seen.items():
        if verb not in NO_ARITY:
            out.append(parse_line(verb))
            out.append(parse_line(verb.lower()))
        for n in range(2, len(args)):
            out.append(parse_line(" ".join(args[:n])))
    for verb in (
        "DBSIZE",
        "RANDOMKEY",
        "TIME",
        "GET",
        "TTL",
        "TYPE",
        "LLEN",
        "HLEN",
        "SCARD",
        "ZCARD",
        "XLEN",
        "STRLEN",
        "INCR",
        "GETDEL",
        "PERSIST",
        "HGETALL",
        "SMEMBERS",
        "ECHO",
        "SELECT",
        "RENAME",
        "LINDEX",
        "HGET",
        "SISMEMBER",
        "ZSCORE",
        "SETEX",
        "GETSET",
        "LSET",
        "ROLE",
    ):
        out.append(parse_line(verb + " a b c d e"))
    return out


def key_lines():
    """Where each command has its keys."""
    return [parse_line("COMMAND GETKEYS " + s.lstrip("~? ").replace("{k}", "k")) for s in samples()]


FILL = [
    "SET {k} str",
    "RPUSH {k} a b c",
    "HSET {k} f v n 1",
    "SADD {k} m 1",
    "ZADD {k} 1 m 2 n",
    "XADD {k} 1-1 f v",
]


def wrongtype_lines():
    out = []
    for s in samples():
        for i, fill in enumerate(FILL):
            out.append(parse_line("FLUSHALL"))
            for setup in (
                fill.replace("{k}", "k%d" % i),
                "RPUSH src x",
                "SADD sother m z",
                "ZADD zother 5 m",
                "SET other o",
            ):
                out.append(parse_line(setup))
            for line in out[-6:]:
                line.mark = "="  # the setting, not a check: a failure still shows, a success is not counted
            out.append(parse_line(s.replace("{k}", "k%d" % i)))
            out.append(parse_line("TYPE k%d" % i))
            out.append(parse_line("TYPE dst"))
    return out


# ---------------------------------------------------------------------------------------------
# Equality


def shape(r):
    if r.kind in "*~>" and r.value is not None:
        return (r.kind, [shape(v) for v in r.value])
    if r.kind == "%":
        return (r.kind, len(r.value))
    if r.kind in ("-",):
        return (r.kind, r.value)
    return (r.kind, r.value is None)


def as_bag(r, paired):
    if r.kind == "%":
        return sorted(k.raw + v.raw for k, v in r.value)
    items = [v.raw for v in r.value]
    if paired:
        items = [b"".join(items[i : i + 2]) for i in range(0, len(items), 2)]
    return sorted(items)


def same_double(x, y):
    """Both texts are the same double; y in no more than the shortest digits with sign, point and exponent."""
    try:
        fx, fy = float(x), float(y)
    except ValueError:
        return False
    return fx == fy and not math.isnan(fx) and len(y) <= 24


def equal(a, b, scored):
    if a.raw == b.raw:
        return True
    if a.kind != b.kind:
        return False
    if a.kind in "*~>" and a.value is not None and b.value is not None:
        return len(a.value) == len(b.value) and all(equal(x, y, scored) for x, y in zip(a.value, b.value))
    if a.kind == "%" and a.value is not None and b.value is not None:
        return len(a.value) == len(b.value) and all(
            equal(x[0], y[0], scored) and equal(x[1], y[1], scored) for x, y in zip(a.value, b.value)
        )
    if scored and a.kind in "$," and a.value is not None and b.value is not None:
        return same_double(a.value, b.value)
    return False


def judge(line, a, b):
    if line.mark == "?":
        return shape(a) == shape(b)
    if line.mark == "%" and a.kind == ":":
        return a.kind == b.kind == ":" and abs(a.value - b.value) <= line.n
    verb = line.verb
    if (
        (line.mark == "~" or verb in UNORDERED)
        and a.kind == b.kind
        and a.kind in "*~%"
        and a.value
        and b.value
    ):
        if as_bag(a, verb in PAIRED) == as_bag(b, verb in PAIRED):
            return True
    return equal(a, b, verb in SCORED)


# ---------------------------------------------------------------------------------------------
# The table


class Pair:
    """The two servers, each with its numbered connections."""

    def __init__(self, a, b, proto, restart=None):
        self.addrs, self.proto, self.restart = (a, b), proto, restart
        self.conns = ({}, {})

    def conn(self, side, n):
        c = self.conns[side].get(n)
        if c is None:
            c = Conn(self.addrs[side], timeout=8.0)
            if self.proto == 3:
                c.call("HELLO", "3")
            self.conns[side][n] = c
        return c

    def reset(self):
        for side in (0, 1):
            for c in self.conns[side].values():
                c.close()
            self.conns[side].clear()

    def fresh(self):
        self.reset()
        for side in (0, 1):
            try:
                r = self.conn(side, 0).call("FLUSHALL")
            except (OSError, Closed, Broken):
                if side == 0 or self.restart is None:
                    raise
                self.restart()
                self.reset()
                r = self.conn(side, 0).call("FLUSHALL")
            if r.is_error and side == 1 and self.restart is not None:
                self.restart()
                self.reset()
            elif r.is_error:
                raise SystemExit("FLUSHALL was refused by %s: %s" % ("ab"[side], show(r)))


class Gone(Exception):
    """A server did not answer; the rest of the group cannot be judged."""


def iterate(conn, args):
    """A whole SCAN iteration: the elements, sorted; None when a reply is not an iteration's."""
    cursor, out, rounds, pairs = b"0", [], 0, args[0].upper() in (b"HSCAN", b"ZSCAN")
    while True:
        r = conn.call(*[cursor if x == b"{}" else x for x in args])
        if r.kind != "*" or not r.value or len(r.value) != 2:
            return r
        items = r.value[1].value
        out += (
            [items[i].value + b" " + items[i + 1].value for i in range(0, len(items) - 1, 2)]
            if pairs
            else [i.value for i in items]
        )
        cursor = r.value[0].value
        rounds += 1
        if cursor == b"0" or rounds > 10000:
            return (
                sorted(set(out))
                if args[0].upper() != b"ZSCAN"
                else sorted({(m, float(score)) for m, _, score in (i.rpartition(b" ") for i in out)})
            )


def one_side(pair, side, line):
    c = pair.conn(side, line.conn)
    if line.act == "raw":
        c.send_raw(line.raw)
        if line.n == 0:
            try:
                extra = c.read()
            except Closed as e:
                return "closed" if "closed by" in str(e) or "reset" in str(e) else "open"
            return "more: " + show(extra)
        return [c.read() for _ in range(line.n)]
    if line.act == "read":
        return c.read()
    if line.mark == "&":
        return iterate(c, line.args)
    c.send(*line.args)
    return None if line.act == "send" else c.read()


def run_group(pair, name, flags, lines, count, tally, opts):
    pair.fresh()
    proto = pair.proto
    for line in lines:
        if line.act == "sleep":
            time.sleep(line.n / 1000.0)
            continue
        got = []
        where = "%s/resp%d: %s" % (name, proto, line.text)
        sides = (1,) if line.expect is not None else (0, 1)
        for side in sides:
            try:
                got.append(one_side(pair, side, line))
            except (Closed, Broken, OSError) as e:
                if side == 0:
                    raise SystemExit("%s: redis-server: %s" % (where, e)) from None
                count.fail(where, "no reply (%s); rest of the group skipped" % e)
                tally["gone"] += 1
                raise Gone() from None
        if line.act == "send":
            continue
        b = got[-1]
        unknown = getattr(b, "kind", "") == "-" and b.value.startswith(b"ERR unknown command")
        if unknown and "extra" in flags:
            count.skipped += 1
            continue
        known = next(
            (
                k
                for k in KNOWN
                if fnmatch.fnmatch(name, k[0]) and k[2] in (0, proto) and re.match(k[1], line.text)
            ),
            None,
        )
        if line.expect is not None:
            good = (show(b) if b.kind != "_" else "nil") == line.expect
            text = "expected %s" % line.expect
        elif isinstance(got[0], list) and got[0] and isinstance(got[0][0], Reply):
            good = len(got[0]) == len(b) and all(judge(line, x, y) for x, y in zip(got[0], b))
            text = "redis %s" % [show(x) for x in got[0]]
        elif isinstance(got[0], (str, list)) or isinstance(b, (str, list)):
            good = type(got[0]) is type(b) and got[0] == b
            text = "redis %s" % (got[0] if isinstance(got[0], (str, list)) else show(got[0]))
        else:
            good = judge(line, got[0], b)
            text = "redis %s" % show(got[0])
        if good:
            count.passed += line.mark != "="
        elif known:
            tally["known"][known[3]] = tally["known"].get(known[3], 0) + 1
        elif (
            unknown
            and line.expect is not None
            or unknown
            and not (getattr(got[0], "kind", "") == "-" and got[0].value.startswith(b"ERR unknown command"))
        ):
            count.failed += 1
            tally["unknown"][line.verb] = tally["unknown"].get(line.verb, 0) + 1
        else:
            mine = (
                b
                if isinstance(b, str)
                else [show(x) if isinstance(x, Reply) else x for x in b] if isinstance(b, list) else show(b)
            )
            count.fail(where, "%s\n%s node  %s" % (text, " " * 12, mine))
            if opts.verbose and not isinstance(b, (str, list)) and line.expect is None:
                print("            raw redis %r\n            raw node  %r" % (got[0].raw[:400], b.raw[:400]))


def run_table(pair_of, count, opts):
    tally = {"unknown": {}, "known": {}, "gone": 0}
    only = opts.only or []
    for proto in ([opts.proto] if opts.proto else [2, 3]):
        for name, flags, lines in load_cases():
            if ("resp2" in flags and proto == 3) or ("resp3" in flags and proto == 2):
                continue
            if only and not any(name.startswith(o) for o in only):
                verbs = tuple(o for o in only if o.isupper())
                if not verbs or not any(line.verb in verbs for line in lines):
                    continue
            pair = pair_of(proto)
            before = (count.passed, count.failed)
            try:
                run_group(pair, name, flags, lines, count, tally, opts)
            except Gone:
                pass
            finally:
                pair.reset()
            if not opts.quiet:
                print(
                    "%-18s resp%d  %4d passed %4d failed"
                    % (name, proto, count.passed - before[0], count.failed - before[1]),
                    flush=True,
                )
    for verb, n in sorted(tally["unknown"].items()):
        print("FAILED  the node does not know %s (%d lines)" % (verb, n))
    for reason, n in sorted(tally["known"].items()):
        print("meant to differ (%d lines): %s" % (n, reason))


# ---------------------------------------------------------------------------------------------
# Random commands


class Maker:
    """Random commands over few keys, most of them valid. Deterministic for a seed."""

    KEYS = {"s": 4, "l": 3, "h": 3, "S": 4, "z": 3, "x": 2, "b": 2, "n": 2}

    def __init__(self, seed, valid=False):
        """`valid` leaves out what a server would refuse for its form (not for the key's type)."""
        self.r = random.Random(seed)
        self.valid = valid
        self.ids = 1
        self.queue = []
        self.table = [
            (w, f)
            for w, f in (
                (30, self.strings),
                (8, self.numbers),
                (8, self.bits),
                (20, self.lists),
                (20, self.hashes),
                (20, self.sets),
                (24, self.zsets),
                (14, self.streams),
                (14, self.keys),
                (4, self.geo),
                (2, self.scripts),
            )
        ]
        self.total = sum(w for w, _ in self.table)

    def k(self, kind):
        r = self.r
        if r.random() < 0.04:
            kind = r.choice("slhSzxbn")
        return "%s%d" % (kind, r.randrange(self.KEYS[kind]))

    def any_key(self):
        return self.k(self.r.choice("slhSzxbn"))

    def val(self):
        r = self.r
        p = r.random()
        if p < 0.35:
            return r.choice("abcdefgh")
        if p < 0.6:
            return str(r.randrange(-20, 130))
        if p < 0.65:
            return str(r.choice((2**63 - 1, -(2**63), 2**31, 2**32, 10**17, 255, 256, -128, -129)))
        if p < 0.7:
            return ""
        if p < 0.75:
            return "v" * r.choice((44, 45, 63, 64, 65, 200, 1000))
        if p < 0.8:
            return bytes(r.randrange(256) for _ in range(r.randrange(1, 9)))
        return "val%d" % r.randrange(40)

    def m(self):
        r = self.r
        p = r.random()
        if p < 0.5:
            return r.choice("abcdefghij")
        if p < 0.85:
            return str(r.randrange(0, 12))
        if p < 0.9:
            return "m" * r.choice((63, 64, 65, 70))
        return "mem%d" % r.randrange(200)

    def i(self):
        r = self.r
        if r.random() < 0.03 and not self.valid:
            return r.choice(("abc", "1.5", "", "99999999999999999999", "-9223372036854775807", "+1"))
        return str(r.randrange(-8, 9)) if r.random() < 0.9 else str(r.randrange(-200, 200))

    def score(self):
        r = self.r
        p = r.random()
        if p < 0.5:
            return str(r.randrange(-5, 12))
        if p < 0.8:
            return "%.2f" % r.uniform(-10, 10)
        if p < 0.86:
            return repr(r.uniform(-1, 1) * 10 ** r.randrange(-12, 22))
        if p < 0.92:
            return r.choice(("inf", "-inf", "+inf", "0", "-0", "1e10", "3.0"))
        if p < 0.94 and not self.valid:
            return r.choice(("nan", "abc", "", "1x"))
        return str(r.randrange(10**15, 10**18))

    def bound(self):
        s = self.score()
        return "(" + s if self.r.random() < 0.25 else s

    def lexbound(self):
        return self.r.choice(("-", "+", "[" + str(self.m()), "(" + str(self.m())))

    def ttl(self):
        # Never the same time-out twice: a GT or LT between equal ones would hang on a millisecond.
        return str(self.r.randrange(1000, 10**6))

    def sid(self):
        r = self.r
        return (
            "%d-%d" % (r.randrange(1, 40), r.randrange(0, 3))
            if r.random() < 0.9 or self.valid
            else r.choice(("-", "+", "0", "5", "abc", "0-0"))
        )

    def some(self, f, low=1, high=4):
        return [f() for _ in range(self.r.randint(low, high))]

    def pairs(self, f, g, low=1, high=3):
        return [x for _ in range(self.r.randint(low, high)) for x in (f(), g())]

    def make(self):
        if self.queue:
            return [str(a).encode() for a in self.queue.pop(0)]
        w = self.r.randrange(self.total)
        for weight, f in self.table:
            if w < weight:
                break
            w -= weight
        args = f()
        # Now and then one word too few or too many.
        p = self.r.random()
        if p < 0.01 and len(args) > 1 and not self.valid:
            args = args[:-1]
        elif p < 0.02 and not self.valid:
            args = args + [self.m()]  # readable: error texts repeat it
        args = [a if isinstance(a, bytes) else str(a).encode() for a in args]
        # A missing word must not make it a command with a random result.
        return [b"PING"] if args[0] == b"SPOP" and len(args) == 2 else args

    def pick(self, *options):
        return self.r.choice(options)()

    def strings(self):
        k, r = self.k("s"), self.r

        def set_():
            a = ["SET", k, self.val()]
            if self.valid:
                return a + r.choice(
                    ([], [], ["NX"], ["XX"], ["EX", self.ttl()], ["PX", self.ttl() + "000", "NX"])
                )
            for _ in range(r.choice((0, 0, 0, 1, 1, 2))):
                a += r.choice(
                    (
                        ["NX"],
                        ["XX"],
                        ["GET"],
                        ["KEEPTTL"],
                        ["EX", r.choice(("100", "0", "-1", "5000"))],
                        ["PX", self.ttl() + "00"],
                        ["EXAT", "99999999999"],
                        ["PXAT", "99999999999999"],
                    )
                )
            return a

        return self.pick(
            set_,
            set_,
            lambda: ["GET", k],
            lambda: ["GET", k],
            lambda: ["GETSET", k, self.val()],
            lambda: ["GETDEL", k],
            lambda: ["SETNX", k, self.val()],
            lambda: ["SETEX", k, self.ttl(), self.val()],
            lambda: ["PSETEX", k, self.ttl() + "00", self.val()],
            lambda: ["APPEND", k, self.val()],
            lambda: ["STRLEN", k],
            lambda: ["GETRANGE", k, self.i(), self.i()],
            lambda: ["SETRANGE", k, abs(int(r.randrange(0, 20))), self.val()],
            lambda: ["MSET"] + self.pairs(lambda: self.k("s"), self.val),
            lambda: ["MGET"] + self.some(self.any_key),
            lambda: ["GETEX", k]
            + r.choice(([], ["PERSIST"], ["EX", "1000"], ["PX", "500000"], ["EXAT", "99999999999"])),
        )

    def numbers(self):
        k = self.k("n")
        return self.pick(
            lambda: ["INCR", k],
            lambda: ["DECR", k],
            lambda: ["INCRBY", k, self.i()],
            lambda: ["DECRBY", k, self.i()],
            lambda: ["SET", k, self.i()],
            lambda: ["GET", k],
            lambda: ["INCRBYFLOAT", k, self.r.choice(("1.5", "0.25", "-3", "1e3", "10.5", "8"))],
        )

    def bits(self):
        k, r = self.k("b"), self.r
        return self.pick(
            lambda: ["SETBIT", k, r.randrange(0, 70), r.choice(("0", "1", "1", "1" if self.valid else "2"))],
            lambda: ["GETBIT", k, r.randrange(0, 80)],
            lambda: ["GET", k],
            lambda: ["BITCOUNT", k]
            + r.choice(([], [self.i(), self.i()], [self.i(), self.i(), r.choice(("BIT", "BYTE"))])),
            lambda: ["BITPOS", k, r.choice("01")]
            + r.choice(
                ([], [self.i()], [self.i(), self.i()], [self.i(), self.i(), r.choice(("BIT", "BYTE"))])
            ),
            lambda: ["BITOP", r.choice(("AND", "OR", "XOR")), self.k("b")]
            + self.some(lambda: self.k("b"), 1, 3),
            lambda: ["BITOP", "NOT", self.k("b"), self.k("b")],
        )

    def lists(self):
        k, r = self.k("l"), self.r
        side = lambda: r.choice(("LEFT", "RIGHT"))
        return self.pick(
            lambda: ["LPUSH", k] + self.some(self.val),
            lambda: ["RPUSH", k] + self.some(self.val),
            lambda: ["RPUSH", k] + self.some(self.val, 1, 8),
            lambda: ["LPOP", k],
            lambda: ["RPOP", k],
            lambda: ["LPOP", k, self.i()],
            lambda: ["RPOP", k, self.i()],
            lambda: ["LLEN", k],
            lambda: ["LRANGE", k, self.i(), self.i()],
            lambda: ["LRANGE", k, "0", "-1"],
            lambda: ["LINDEX", k, self.i()],
            lambda: ["LSET", k, self.i(), self.val()],
            lambda: ["LREM", k, self.i(), self.val()],
            lambda: ["LTRIM", k, self.i(), self.i()],
            lambda: ["LINSERT", k, r.choice(("BEFORE", "AFTER")), self.val(), self.val()],
            lambda: ["LPOS", k, self.val()]
            + r.choice(
                (
                    [],
                    ["RANK", self.i()],
                    ["COUNT", r.randrange(0, 4)],
                    ["RANK", "-1", "COUNT", "0"],
                    ["MAXLEN", r.randrange(0, 9)],
                )
            ),
            lambda: ["LMOVE", k, self.k("l"), side(), side()],
            lambda: ["RPOPLPUSH", k, self.k("l")],
        )

    def hashes(self):
        k, r = self.k("h"), self.r
        return self.pick(
            lambda: ["HSET", k] + self.pairs(self.m, self.val),
            lambda: ["HSET", k] + self.pairs(self.m, self.val, 1, 8),
            lambda: ["HMSET", k] + self.pairs(self.m, self.val),
            lambda: ["HSETNX", k, self.m(), self.val()],
            lambda: ["HGET", k, self.m()],
            lambda: ["HMGET", k] + self.some(self.m),
            lambda: ["HGETALL", k],
            lambda: ["HDEL", k] + self.some(self.m),
            lambda: ["HLEN", k],
            lambda: ["HKEYS", k],
            lambda: ["HVALS", k],
            lambda: ["HEXISTS", k, self.m()],
            lambda: ["HINCRBY", k, self.m(), self.i()],
            lambda: ["HINCRBYFLOAT", k, self.m(), r.choice(("1.5", "-0.25", "2", "4.5"))],
        )

    def sets(self):
        k, r = self.k("S"), self.r
        ks = lambda: self.some(lambda: self.k("S"), 1, 3)
        return self.pick(
            lambda: ["SADD", k] + self.some(self.m),
            lambda: ["SADD", k] + self.some(self.m, 1, 8),
            lambda: ["SREM", k] + self.some(self.m),
            lambda: ["SCARD", k],
            lambda: ["SMEMBERS", k],
            lambda: ["SISMEMBER", k, self.m()],
            lambda: ["SINTER"] + ks(),
            lambda: ["SUNION"] + ks(),
            lambda: ["SDIFF"] + ks(),
            lambda: ["SINTERSTORE", k] + ks(),
            lambda: ["SUNIONSTORE", k] + ks(),
            lambda: ["SDIFFSTORE", k] + ks(),
            lambda: ["SPOP", k, "100000"] if r.random() < 0.2 else ["SCARD", k],
        )

    def zsets(self):
        k, r = self.k("z"), self.r

        def zadd():
            a = ["ZADD", k]
            for _ in range(r.choice((0, 0, 1)) if self.valid else r.choice((0, 0, 1, 1, 2))):
                a.append(r.choice(("NX", "XX", "GT", "LT", "CH")))
            return a + self.pairs(self.score, self.m, 1, 5)

        def zrange():
            a = ["ZRANGE", k]
            p = r.random()
            if p < 0.4:
                a += [self.i(), self.i()]
            elif p < 0.8:
                a += [self.bound(), self.bound(), "BYSCORE"]
            else:
                # Ranges by member are only defined where all scores are equal: keys of their own.
                if r.random() < 0.4:
                    return ["ZADD", "y%d" % r.randrange(2)] + self.pairs(lambda: "0", self.m, 1, 5)
                a = ["ZRANGE", "y%d" % r.randrange(2), self.lexbound(), self.lexbound(), "BYLEX"]
            a += (
                r.choice(([], ["REV"]))
                + r.choice(([], [], ["LIMIT", self.i(), self.i()]))
                + r.choice(([], ["WITHSCORES"]))
            )
            return a

        def store():
            keys = self.some(lambda: self.k(r.choice("zzzS")), 1, 3)
            cmd = r.choice(("ZUNIONSTORE", "ZINTERSTORE", "ZDIFFSTORE"))
            a = [cmd, k, len(keys)] + keys
            if cmd != "ZDIFFSTORE":
                if r.random() < 0.4:
                    a += ["WEIGHTS"] + [r.choice(("1", "2", "-1", "0.5", "0")) for _ in keys]
                if r.random() < 0.4:
                    a += ["AGGREGATE", r.choice(("SUM", "MIN", "MAX"))]
            return a

        bys = (
            lambda: [self.bound(), self.bound()]
            + r.choice(([], ["WITHSCORES"]))
            + r.choice(([], ["LIMIT", self.i(), self.i()]))
        )
        return self.pick(
            zadd,
            zadd,
            zadd,
            zrange,
            zrange,
            store,
            lambda: ["ZADD", k] + r.choice(([], ["XX"], ["NX"], ["GT"])) + ["INCR", self.score(), self.m()],
            lambda: ["ZINCRBY", k, self.score(), self.m()],
            lambda: ["ZREM", k] + self.some(self.m),
            lambda: ["ZSCORE", k, self.m()],
            lambda: ["ZCARD", k],
            lambda: ["ZRANK", k, self.m()],
            lambda: ["ZCOUNT", k, self.bound(), self.bound()],
            lambda: ["ZRANGEBYSCORE", k] + bys(),
            lambda: ["ZREVRANGEBYSCORE", k] + bys(),
            lambda: ["ZREVRANGE", k, self.i(), self.i()] + r.choice(([], ["WITHSCORES"])),
            lambda: ["ZREMRANGEBYRANK", k, self.i(), self.i()],
            lambda: ["ZREMRANGEBYSCORE", k, self.bound(), self.bound()],
            lambda: ["ZPOPMIN", k] + r.choice(([], [self.i()])),
            lambda: ["ZRANGE", k, "0", "-1", "WITHSCORES"],
            lambda: ["ZINTERCARD", "2", self.k("z"), self.k("z")]
            + r.choice(([], ["LIMIT", r.randrange(0, 4)])),
        )

    def streams(self):
        k, r = self.k("x"), self.r
        g, c = lambda: r.choice(("g1", "g2")), lambda: r.choice(("c1", "c2"))

        def add():
            self.ids += r.choice((0, 1, 1, 1))
            trim = r.choice(
                (
                    [],
                    [],
                    [],
                    ["MAXLEN", r.randrange(0, 8)],
                    ["MINID", self.sid()],
                    ["MAXLEN", "=", r.randrange(0, 8)],
                    ["NOMKSTREAM"],
                )
            )
            return (
                ["XADD", k]
                + trim
                + ["%d-%d" % (self.ids, r.randrange(0, 3))]
                + self.pairs(self.m, self.val, 1, 2)
            )

        count = lambda: r.choice(([], ["COUNT", r.randrange(0, 4)]))

        # Since 7.2 a consumer is made even when there was nothing to read or claim: here all are there.
        def create(group):
            self.queue += [["XGROUP", "CREATECONSUMER", k, group, name] for name in ("c1", "c2")]
            return ["XGROUP", "CREATE", k, group, r.choice(("0", "$", self.sid()))] + r.choice(
                ([], ["MKSTREAM"])
            )

        def delete(group, name):
            self.queue.append(["XGROUP", "CREATECONSUMER", k, group, name])
            return ["XGROUP", "DELCONSUMER", k, group, name]

        return self.pick(
            add,
            add,
            add,
            add,
            lambda: ["XLEN", k],
            lambda: ["XRANGE", k, self.sid(), self.sid()] + count(),
            lambda: ["XRANGE", k, "-", "+"],
            lambda: ["XREVRANGE", k, self.sid(), self.sid()] + count(),
            lambda: ["XDEL", k] + self.some(self.sid, 1, 2),
            lambda: ["XTRIM", k, r.choice(("MAXLEN", "MINID")), r.randrange(0, 20)],
            lambda: ["XREAD"] + count() + ["STREAMS", k, self.sid()],
            lambda: create(g()),
            lambda: ["XGROUP", "SETID", k, g(), r.choice(("0", "$", self.sid()))],
            lambda: ["XGROUP", "DESTROY", k, g()] if r.random() < 0.3 else ["XLEN", k],
            lambda: ["XGROUP", "CREATECONSUMER", k, g(), c()],
            lambda: delete(g(), c()),
            lambda: ["XREADGROUP", "GROUP", g(), c()]
            + count()
            + r.choice(([], ["NOACK"]))
            + ["STREAMS", k, ">"],
            lambda: ["XREADGROUP", "GROUP", g(), c()] + count() + ["STREAMS", k, self.sid()],
            lambda: ["XACK", k, g()] + self.some(self.sid, 1, 3),
            lambda: ["XPENDING", k, g()],
            lambda: ["XCLAIM", k, g(), c(), "0"]
            + self.some(self.sid, 1, 2)
            + r.choice(([], ["JUSTID"], ["FORCE"], ["FORCE", "JUSTID"])),
            lambda: ["XAUTOCLAIM", k, g(), c(), "0", self.sid()] + count() + r.choice(([], ["JUSTID"])),
            lambda: ["XSETID", k, "%d-0" % r.randrange(1, 60)] if r.random() < 0.2 else ["XLEN", k],
            lambda: ["XINFO", "STREAM", k],
        )

    def keys(self):
        k, r = self.any_key(), self.r
        flags = lambda: r.choice(([], [], ["NX"], ["XX"], ["GT"], ["LT"], ["XX", "GT"]))
        return self.pick(
            lambda: ["DEL"] + self.some(self.any_key, 1, 3),
            lambda: ["UNLINK", k],
            lambda: ["EXISTS"] + self.some(self.any_key),
            lambda: ["TYPE", k],
            lambda: ["EXPIRE", k, self.ttl()] + flags(),
            lambda: ["PEXPIRE", k, self.ttl() + str(self.r.randrange(100, 1000))] + flags(),
            lambda: ["EXPIREAT", k, "99999999999"] + flags(),
            lambda: ["PEXPIREAT", k, r.choice(("99999999999999", "1"))] + flags(),
            lambda: (
                ["EXPIRE", k, r.choice(("0", "-1", "-5" if self.valid else "abc"))]
                if r.random() < 0.3
                else ["TTL", k]
            ),
            lambda: ["PERSIST", k],
            lambda: ["TTL", k],
            lambda: ["RENAME", k, self.any_key()],
            lambda: ["RENAMENX", k, self.any_key()],
            lambda: ["COPY", k, self.any_key()] + r.choice(([], ["REPLACE"])),
            lambda: ["DBSIZE"],
            lambda: ["TOUCH", k, self.any_key()],
            lambda: ["KEYS", r.choice(("*", "s*", "?0", "[lh]?", "*[0-1]"))],
        )

    def geo(self):
        r = self.r
        k = "g%d" % r.randrange(2)
        far = 0 if self.valid else 2
        lon, lat = lambda: "%.6f" % r.uniform(-179 - far, 179 + far), lambda: "%.6f" % r.uniform(
            -84 - far, 84 + far
        )
        return self.pick(
            lambda: ["GEOADD", k, lon(), lat(), self.m()],
            lambda: ["GEOADD", k, lon(), lat(), self.m()],
            lambda: ["GEOPOS", k, self.m()],
            lambda: ["GEOHASH", k] + self.some(self.m, 1, 2),
            lambda: ["GEODIST", k, self.m(), self.m(), r.choice(("m", "km", "mi", "ft"))],
        )

    def scripts(self):
        k = self.k("n")
        return self.pick(
            lambda: ["EVAL", "redis.call('INCR',KEYS[1]) return redis.call('GET',KEYS[1])", "1", k],
            lambda: ["EVAL", "return redis.call('GET',KEYS[1])", "1", self.any_key()],
            lambda: ["EVAL", "return {KEYS[1],ARGV[1],#ARGV}", "1", k, self.val()],
        )


def dump(conn, details=True):
    """Every key with its type, content and deadline (Unix ms, -1 for none), through ordinary commands.
    `details`: also the highest deleted stream id and how much each group has read, on which not every
    kevy agrees with Redis."""
    out = {}
    keys = sorted(v.value for v in conn.call("KEYS", "*").value or [])
    types = conn.many([("TYPE", k) for k in keys])
    read = {
        b"string": lambda k: ("GET", k),
        b"list": lambda k: ("LRANGE", k, "0", "-1"),
        b"hash": lambda k: ("HGETALL", k),
        b"set": lambda k: ("SMEMBERS", k),
        b"zset": lambda k: ("ZRANGE", k, "0", "-1", "WITHSCORES"),
        b"stream": lambda k: ("XRANGE", k, "-", "+"),
    }
    commands = [read.get(t.value, lambda k: ("TYPE", k))(k) for k, t in zip(keys, types)]
    bodies = conn.many(commands, 50)
    # Times are from then on, so a machine that stands still meanwhile makes them wrong.
    for _ in range(5):
        now = time.time() * 1000
        ttls = conn.many([("PTTL", k) for k in keys])
        if time.time() * 1000 - now < 25:
            break
    for k, t, body, ttl in zip(keys, types, bodies, ttls):
        kind = t.value.decode()
        v = body.flat()
        if kind == "hash" and isinstance(v, list):
            v = sorted(zip(v[0::2], v[1::2]))
        elif kind == "set" and isinstance(v, list):
            v = sorted(v)
        elif kind == "zset" and isinstance(v, list):
            if v and isinstance(v[0], list):
                v = [x for row in v for x in row]
            v = [(v[i], float(v[i + 1])) for i in range(0, len(v), 2)]
        elif kind == "stream":
            v = [v, stream_state(conn, k, details)]
        out[k] = (kind, v, ttl.value if ttl.value < 0 else int(now) + ttl.value)
    return out


def pairs_of(flat):
    return dict(zip(flat[0::2], flat[1::2])) if isinstance(flat, list) else {}


def stream_state(conn, key, details):
    """Last id, counters, groups with consumers and pending entries; no times."""
    info = pairs_of(conn.call("XINFO", "STREAM", key).flat())
    fields = ("last-generated-id", "entries-added", "length") + (("max-deleted-entry-id",) if details else ())
    out = [(f, info.get(f.encode())) for f in fields]
    groups = conn.call("XINFO", "GROUPS", key).flat()
    groups = [pairs_of(g) for g in groups] if isinstance(groups, list) else []
    for g in sorted(groups, key=lambda g: g.get(b"name") or b""):
        name = g.get(b"name")
        rows = conn.call("XPENDING", key, name, "-", "+", "1000").flat()
        rows = [[r[0], r[1], r[3]] for r in rows] if isinstance(rows, list) else rows
        consumers = conn.call("XINFO", "CONSUMERS", key, name).flat()
        names = (
            sorted((pairs_of(c).get(b"name"), pairs_of(c).get(b"pending")) for c in consumers)
            if isinstance(consumers, list)
            else consumers
        )
        out.append((name, g.get(b"last-delivered-id"), g.get(b"entries-read") if details else 0, rows, names))
    return out


def first_difference(a, b, path=""):
    """Where two dumped contents part, and what stands there."""
    if type(a) is type(b) and isinstance(a, (list, tuple)):
        for i, (x, y) in enumerate(zip(a, b)):
            if x != y:
                return first_difference(x, y, "%s[%d]" % (path, i))
        if len(a) != len(b):
            i = min(len(a), len(b))
            return "%s: %d and %d elements, next %.120r" % (
                path,
                len(a),
                len(b),
                (a + b)[i] if len(a) > len(b) else b[i],
            )
    return "%s: %.160r and %.160r" % (path, a, b)


def dump_diff(da, db, tolerance_ms=100, names=("redis", "node ")):
    """What differs between two dumps; deadlines may differ by the tolerance."""
    out = []
    for k in sorted(set(da) | set(db)):
        a, b = da.get(k), db.get(k)
        if a is None or b is None:
            out.append("%r: %s %.600r, %s %.600r" % (k, names[0], a, names[1], b))
        elif a[:2] != b[:2]:
            what = first_difference(a[1], b[1]) if a[0] == b[0] else "%s and %s" % (a[0], b[0])
            out.append("%r (%s): %s and %s differ at %s" % (k, a[0], names[0], names[1].strip(), what))
        elif (a[2] < 0 or b[2] < 0) and a[2] != b[2] or abs(a[2] - b[2]) > tolerance_ms:
            out.append("%r: deadline %s %d, %s %d" % (k, names[0], a[2], names[1], b[2]))
    return out


def quote(args):
    def q(a):
        t = "".join(
            chr(b) if 33 <= b < 127 and b not in b"\"\\'" else (" " if b == 32 else "\\x%02x" % b) for b in a
        )
        if len(a) > 40 and len(set(a)) == 1 and a[:1] == b"x":
            return "${%d}" % len(a)
        return '"%s"' % t if (not a or "\\" in t or " " in t) else t

    return " ".join(q(a) for a in args)


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    ap.add_argument("--a", help="redis-server's HOST:PORT")
    ap.add_argument("--b", help="the node's HOST:PORT")
    ap.add_argument("--node", help="the node's binary")
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--node-args", default="", help="more arguments for the node, blank-separated")
    ap.add_argument("--only", action="append")
    ap.add_argument("--proto", type=int, choices=(2, 3))
    ap.add_argument("--list", action="store_true")
    ap.add_argument("-q", "--quiet", action="store_true")
    ap.add_argument("-v", "--verbose", action="store_true")
    opts = ap.parse_args()
    if opts.list:
        for name, flags, lines in load_cases():
            print("%-20s %4d lines %s" % (name, len(lines), " ".join(sorted(flags))))
        return
    count = Count(quiet=True)
    with Scratch() as scratch:
        restart = None
        if opts.node:
            a = redis_server(scratch).addr
            server = node_server(scratch, opts.node, threads=opts.threads, args=opts.node_args.split())
            b = server.addr

            def restart():
                if not server.alive():
                    print("the node is started again; its last lines:\n%s" % server.log_tail(), flush=True)
                server.kill()
                server.start()

        elif opts.a and opts.b:
            a, b = addr_of(opts.a), addr_of(opts.b)
        else:
            ap.error("give --node BINARY, or --a and --b")
        run_table(lambda proto: Pair(a, b, proto, restart), count, opts)
    count.close()


if __name__ == "__main__":
    main()
