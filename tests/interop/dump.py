#!/usr/bin/env python3
"""Dumped values between redis-server and the node: what one dumps the other restores, in every encoding.

    dump.py --node BINARY      starts redis-server and the node itself
    --damage N                 damaged payloads for the node, besides (default 3000)
    --seed S                   of the damage

Values are made by the same commands on both. Old encodings, which redis-server reads but does not write,
and those newer than it are put together here.
"""

import argparse
import random
import struct
import sys

from wire import Conn, Count, Scratch, node_server, redis_server

# ---- payloads by hand -----------------------------------------------------------------------


def make_table():
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0x95AC9329AC4BC9B5 if crc & 1 else crc >> 1
        table.append(crc)
    return table


TABLE = make_table()


def signed(body, version=10):
    body += struct.pack("<H", version)
    crc = 0
    for byte in body:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return body + struct.pack("<Q", crc)


def length(n):
    if n < 64:
        return bytes([n])
    if n < 16384:
        return struct.pack(">H", 0x4000 | n)
    if n < 2**32:
        return b"\x80" + struct.pack(">I", n)
    return b"\x81" + struct.pack(">Q", n)


def text(s):
    return length(len(s)) + s


def lzf_literal(s):
    """A compressed string that only has literal runs and one copy of its last byte."""
    packed = b""
    for at in range(0, len(s), 32):
        run = s[at : at + 32]
        packed += bytes([len(run) - 1]) + run
    packed += b"\x20\x00"  # three more of the byte before
    return b"\xc3" + length(len(packed)) + length(len(s) + 3) + packed


def ziplist(items):
    body, before, last = b"", 0, 10
    for item in items:
        last = 10 + len(body)
        head = bytes([before]) if before < 254 else b"\xfe" + struct.pack("<I", before)
        if isinstance(item, int):
            if 0 <= item <= 12:
                data = bytes([0xF1 + item])
            elif -128 <= item < 128:
                data = b"\xfe" + struct.pack("<b", item)
            elif -(2**15) <= item < 2**15:
                data = b"\xc0" + struct.pack("<h", item)
            elif -(2**23) <= item < 2**23:
                data = b"\xf0" + struct.pack("<i", item)[:3]
            elif -(2**31) <= item < 2**31:
                data = b"\xd0" + struct.pack("<i", item)
            else:
                data = b"\xe0" + struct.pack("<q", item)
        elif len(item) < 64:
            data = bytes([len(item)]) + item
        elif len(item) < 16384:
            data = struct.pack(">H", 0x4000 | len(item)) + item
        else:
            data = b"\x80" + struct.pack(">I", len(item)) + item
        body += head + data
        before = len(head + data)
    return struct.pack("<IIH", 11 + len(body), last, len(items)) + body + b"\xff"


def zipmap(pairs):
    def size(n):
        return bytes([n]) if n < 254 else b"\xfe" + struct.pack("<I", n)

    body = b"".join(size(len(f)) + f + size(len(v)) + b"\x02" + v + b"??" for f, v in pairs)
    return bytes([min(len(pairs), 254)]) + body + b"\xff"


def intset(width, members):
    code = {2: "h", 4: "i", 8: "q"}[width]
    return struct.pack("<II", width, len(members)) + struct.pack("<%d%s" % (len(members), code), *members)


def listpack(items):
    body = b""
    for item in items:
        if isinstance(item, int):
            data = bytes([item]) if 0 <= item < 128 else b"\xf4" + struct.pack("<q", item)
        elif len(item) < 64:
            data = bytes([0x80 | len(item)]) + item
        else:
            data = b"\xf0" + struct.pack("<I", len(item)) + item
        n = len(data)
        body += data + (bytes([n]) if n < 128 else bytes([n >> 7, 0x80 | (n & 0x7F)]))
    return struct.pack("<IH", 7 + len(body), len(items)) + body + b"\xff"


def stream(kind):
    """Two entries, one removed between them, a group with a consumer that has one pending."""
    entries = listpack(
        [2, 1, 1, b"f", 0]
        + [2, 0, 0, b"v", 4]
        + [3, 1, 0, b"gone", 4]
        + [0, 2, 5, 2, b"g", b"1", b"h", 77, 8]
    )
    key = struct.pack(">QQ", 1000, 1)
    body = length(1) + text(key) + text(entries)
    body += length(2) + length(1002) + length(6)
    if kind > 15:
        body += length(1000) + length(1) + length(1001) + length(1) + length(7)
    body += length(1) + text(b"group") + length(1000) + length(1)
    if kind > 15:
        body += length(3)
    body += length(1) + key + struct.pack("<Q", 1700000000000) + length(2)
    body += length(1) + text(b"joe") + struct.pack("<Q", 1700000000001)
    if kind > 19:
        body += struct.pack("<Q", 1700000000002)
    body += length(1) + key
    return bytes([kind]) + body


NUMBERS = [0, 12, 13, -1, -128, 300, -32768, 70000, -8388608, 2**31 - 1, -(2**31), 2**40, -(2**63)]
WORDS = [b"a", b"", b"x" * 63, b"y" * 64, b"z" * 300, b"w" * 17000]
MIXED = [item for pair in zip(WORDS, NUMBERS) for item in pair] + NUMBERS[len(WORDS) :]


def zset_texts(scores):
    out = b""
    for at, score in enumerate(scores):
        out += text(b"m%d" % at)
        out += {"inf": b"\xfe", "-inf": b"\xff"}.get(score) or bytes([len(score)]) + score.encode()
    return length(len(scores)) + out


# name, body, first version that redis-server needs
BY_HAND = [
    ("string-plain", b"\x00" + text(b"hello"), 5),
    ("string-int8", b"\x00\xc0\xfb", 5),
    ("string-int16", b"\x00\xc1\x2c\x01", 5),
    ("string-int32", b"\x00\xc2\x00\x00\x00\x80", 5),
    ("string-lzf", b"\x00" + lzf_literal(b"abc" * 30), 5),
    ("string-long-length", b"\x00\x81" + struct.pack(">Q", 5) + b"hello", 8),
    ("list-plain", b"\x01" + length(3) + text(b"a") + b"\xc0\x07" + text(b"b" * 100), 5),
    ("list-ziplist", b"\x0a" + text(ziplist(MIXED)), 5),
    ("list-quicklist", b"\x0e" + length(2) + text(ziplist(MIXED)) + text(ziplist([1, b"end"])), 7),
    ("list-quicklist2", b"\x12" + length(2) + b"\x01" + text(b"big") + b"\x02" + text(listpack(MIXED[:8])), 10),
    ("set-plain", b"\x02" + length(3) + text(b"a") + b"\xc0\x07" + text(b"b" * 100), 5),
    ("set-intset16", b"\x0b" + text(intset(2, [-5, 0, 300])), 5),
    ("set-intset32", b"\x0b" + text(intset(4, [-5, 0, 70000])), 5),
    ("set-intset64", b"\x0b" + text(intset(8, [-(2**40), 0, 2**50])), 5),
    ("set-listpack", b"\x14" + text(listpack([b"a", 1, b"b" * 70])), 11),
    ("zset-plain", b"\x03" + zset_texts(["1", "-2.5", "inf", "-inf", "1e+22", "0.1"]), 5),
    ("zset-2", b"\x05" + length(2) + text(b"a") + struct.pack("<d", 1.5) + text(b"b") + struct.pack("<d", -0.1), 8),
    ("zset-ziplist", b"\x0c" + text(ziplist([b"low", -3, b"mid", b"1.5", b"high", b"inf"])), 5),
    ("zset-listpack", b"\x11" + text(listpack([b"low", b"-inf", b"mid", b"1.5", b"high", 9])), 10),
    ("hash-plain", b"\x04" + length(2) + text(b"f") + text(b"v") + text(b"g") + b"\xc0\x05", 5),
    ("hash-zipmap", b"\x09" + text(zipmap([(b"f", b"v"), (b"long" * 80, b"value" * 90)])), 5),
    ("hash-ziplist", b"\x0d" + text(ziplist([b"f", 1, b"g", b"two", 3, b"x" * 300])), 5),
    ("hash-listpack", b"\x10" + text(listpack([b"f", 1, b"g", b"two", 3, b"x" * 70])), 10),
    ("stream-1", stream(15), 9),
    ("stream-2", stream(19), 10),
    ("stream-3", stream(21), 11),
]

REFUSED = [
    ("unknown-kind", b"\x63" + text(b"x")),
    ("module", b"\x07" + length(1)),
    ("empty-list", b"\x01" + length(0)),
    ("empty-set", b"\x02" + length(0)),
    ("empty-hash", b"\x10" + text(listpack([]))),
    ("short-string", b"\x00" + length(100) + b"abc"),
    ("huge-length", b"\x00\x81" + struct.pack(">Q", 2**63) + b"abc"),
    ("huge-count", b"\x01\x81" + struct.pack(">Q", 2**62) + text(b"a")),
    ("lzf-lies", b"\x00\xc3" + length(2) + length(2**31) + b"\x00a"),
    ("twice-in-set", b"\x02" + length(2) + text(b"a") + text(b"a")),
    ("twice-in-hash", b"\x04" + length(2) + (text(b"a") + text(b"b")) * 2),
    ("nan", b"\x03" + length(1) + text(b"a") + b"\xfd"),
    ("odd-pairs", b"\x10" + text(listpack([b"a", b"b", b"c"]))),
    ("listpack-length", b"\x10" + text(listpack([b"a", b"b"])[:-1])),
    ("intset-width", b"\x0b" + text(struct.pack("<II", 3, 0))),
]

# ---- values by commands ---------------------------------------------------------------------


def rows(verb, key, items):
    return [[verb, key] + items[at : at + 200] for at in range(0, len(items), 200)]


def numbered(n, form):
    return [form % at for at in range(n)]


# name, commands; KEY stands for the key. Those in SAME are dumped to the same bytes by both.
VALUES = [
    ("str-int", [["SET", "KEY", "12"]]),
    ("str-int-long", [["SET", "KEY", "9223372036854775807"]]),
    ("str-neg", [["SET", "KEY", "-70000"]]),
    ("str-short", [["SET", "KEY", "hello"]]),
    ("str-empty", [["SET", "KEY", ""]]),
    ("str-packed", [["SET", "KEY", "the same again, " * 400]]),
    ("str-noise", [["SET", "KEY", "".join(chr(33 + (at * at * 7) % 89) for at in range(300))]]),
    ("str-long", [["SET", "KEY", "".join("%d " % (at * at) for at in range(20000))]]),
    ("list-small", [["RPUSH", "KEY", "a", "1", "-1", "300", "x" * 70, "-5000", "70000", "1099511627776"]]),
    ("list-long", rows("RPUSH", "KEY", numbered(5000, "element-%d"))),
    ("list-large", [["RPUSH", "KEY", "a" * 9000, "b" * 20000, "c"]]),
    ("set-ints", [["SADD", "KEY", "1", "-5", "300", "100000"]]),
    ("set-wide", [["SADD", "KEY", "1", "99999999999"]]),
    ("set-small", [["SADD", "KEY", "a", "b", "c", "1"]]),
    ("set-large", rows("SADD", "KEY", numbered(1000, "member:%d"))),
    ("hash-small", [["HSET", "KEY", "f", "v", "n", "1", "long", "x" * 60]]),
    ("hash-large", rows("HSET", "KEY", numbered(2000, "field:%d"))),
    ("zset-small", [["ZADD", "KEY", "1", "a", "2.5", "b", "-inf", "c", "1e30", "d", "0.5", "e"]]),
    (
        "zset-large",
        rows("ZADD", "KEY", [x for at in range(1000) for x in ("%r" % (at / 7.0), "member:%d" % at)]),
    ),
    (
        "stream",
        [["XADD", "KEY", "%d-%d" % (at // 3 + 1, at % 3), "f", str(at), "g", "v" * (at % 90)] for at in range(400)]
        + [["XADD", "KEY", "900-1", "other", "1"], ["XDEL", "KEY", "3-1", "900-1"]],
    ),
    ("stream-empty", [["XADD", "KEY", "5-5", "f", "v"], ["XTRIM", "KEY", "MAXLEN", "0"]]),
    (
        "stream-groups",
        [["XADD", "KEY", "%d-0" % at, "f", str(at)] for at in range(1, 30)]
        + [
            ["XGROUP", "CREATE", "KEY", "g1", "0"],
            ["XGROUP", "CREATE", "KEY", "g2", "5-0", "ENTRIESREAD", "5"],
            ["XREADGROUP", "GROUP", "g1", "joe", "COUNT", "7", "STREAMS", "KEY", ">"],
            ["XREADGROUP", "GROUP", "g1", "ann", "COUNT", "3", "STREAMS", "KEY", ">"],
            ["XACK", "KEY", "g1", "2-0"],
            ["XGROUP", "CREATECONSUMER", "KEY", "g2", "idle"],
        ],
    ),
    ("hll", [["PFADD", "KEY"] + numbered(100, "e%d")]),
]
# Sets of strings and hash tables have no order; stream entries that were removed are gone here, and there
# are groups with times in them.
SAME = {name for name, _ in VALUES} - {
    "set-small",
    "set-large",
    "hash-large",
    "stream",
    "stream-groups",
}


def view(conn, key, times=False):
    """The whole value as it is read."""
    kind = conn.call("TYPE", key).value
    kind = kind.decode() if isinstance(kind, bytes) else kind

    def call(*args):
        return conn.call(*args).raw

    if kind == "string":
        return kind, call("GET", key)
    if kind == "list":
        return kind, call("LRANGE", key, "0", "-1")
    if kind == "set":
        return kind, sorted(m.raw for m in conn.call("SMEMBERS", key).value)
    if kind == "hash":
        flat = [m.raw for m in conn.call("HGETALL", key).value]
        return kind, sorted(zip(flat[::2], flat[1::2]))
    if kind == "zset":
        flat = [m.value for m in conn.call("ZRANGE", key, "0", "-1", "WITHSCORES").value]
        return kind, [(m, float(s)) for m, s in zip(flat[::2], flat[1::2])]
    if kind == "stream":
        groups = conn.call("XINFO", "GROUPS", key)
        names = [[v.value for v in g.value][1] for g in groups.value]
        out = [call("XRANGE", key, "-", "+"), groups.raw]
        for name in names:
            # Times are told as spans up to now, so that only who and which count.
            pending = conn.call("XPENDING", key, name, "-", "+", "1000").value
            out.append([[p.value[0].value, p.value[1].value, p.value[3].value] for p in pending])
            out.append([c.value[1].value for c in conn.call("XINFO", "CONSUMERS", key, name).value])
        info = conn.call("XINFO", "STREAM", key).value
        fields = {info[at].value: info[at + 1].raw for at in range(0, len(info), 2)}
        wanted = (b"length", b"last-generated-id", b"max-deleted-entry-id", b"entries-added", b"groups")
        return kind, out + [fields[name] for name in wanted]
    return kind, None


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--node", required=True)
    ap.add_argument("--damage", type=int, default=3000)
    ap.add_argument("--seed", type=int, default=1)
    opts = ap.parse_args()
    count = Count(quiet=True)
    with Scratch() as scratch:
        redis, node = redis_server(scratch), node_server(scratch, opts.node, threads=1)
        a, b = Conn(redis.addr), Conn(node.addr)
        payloads = commands(count, a, b) + by_hand(count, a, b)
        damaged(count, b, payloads, opts)
        if not node.alive():
            print("FAILED  the node ended:\n%s" % node.log_tail(30))
            sys.exit(1)
    count.close()


def commands(count, a, b):
    payloads = []
    for config in ("yes", "no"):
        a.call("CONFIG", "SET", "rdbcompression", config)
        for name, lines in VALUES:
            name, key = "%s/compression-%s" % (name, config), name
            for conn in (a, b):
                conn.call("DEL", key, key + ":2")
                for line in lines:
                    reply = conn.call(*[key if word == "KEY" else word for word in line])
                    if reply.is_error:
                        count.fail(name, "%s: %s" % (line[0], reply.value))
            of_a, of_b = a.call("DUMP", key).value, b.call("DUMP", key).value
            if config == "yes" and key in SAME:
                count.check(name + " same bytes", of_a == of_b, "\n  redis %r\n  node  %r" % (of_a[:300], of_b[:300]))
            for conn, whose, payload in ((a, "redis", of_b), (b, "node", of_a), (b, "itself", of_b)):
                reply = conn.call("RESTORE", key + ":2", "0", payload, "REPLACE")
                told = "%s: %s restores it" % (name, whose)
                if reply.is_error:
                    count.fail(told, reply.value)
                    continue
                want, got = view(conn, key), view(conn, key + ":2")
                count.check(told, want == got, "\n  want %.600r\n  got  %.600r" % (want, got))
                both = conn.call("OBJECT", "ENCODING", key).raw, conn.call("OBJECT", "ENCODING", key + ":2").raw
                count.check(told + " in the same encoding", both[0] == both[1], repr(both))
            payloads.append(of_a)
    return payloads


def by_hand(count, a, b):
    payloads = []
    for name, body, version in BY_HAND:
        payload = signed(body, version)
        payloads.append(payload)
        reply = b.call("RESTORE", name, "0", payload)
        if reply.is_error:
            count.fail(name, reply.value)
            continue
        if version < 11:
            reply = a.call("RESTORE", name, "0", payload)
            if reply.is_error:
                count.fail(name, "redis-server: %s" % reply.value)
                continue
            want, got = view(a, name), view(b, name)
            count.check(name, want == got, "\n  want %.600r\n  got  %.600r" % (want, got))
        else:
            # Nobody here to compare with: what the node makes of it, redis-server has to read.
            reply = a.call("RESTORE", name, "0", b.call("DUMP", name).value)
            want, got = (None, reply.value) if reply.is_error else (view(a, name), view(b, name))
            count.check(name, want == got, "\n  want %.600r\n  got  %.600r" % (want, got))
    for name, body in REFUSED:
        reply = b.call("RESTORE", "refused", "0", signed(body))
        count.check(name + " is refused", reply.value == b"ERR Bad data format", repr(reply.value))
    for name, payload in (
        ("empty", b""),
        ("short", b"\x00" * 9),
        ("sum", signed(b"\x00\x01a")[:-1] + b"?"),
        ("version", signed(b"\x00\x01a", 99)),
    ):
        replies = [conn.call("RESTORE", "refused", "0", payload).value for conn in (a, b)]
        count.check("payload: " + name, replies[0] == replies[1], repr(replies))
    # Deadlines of fields travel in a form of Redis 7.4.
    b.call("HSET", "fields", "f", "v", "g", "w")
    b.call("HPEXPIREAT", "fields", "4000000000000", "FIELDS", "1", "f")
    payloads.append(b.call("DUMP", "fields").value)
    b.call("RESTORE", "fields:2", "0", payloads[-1])
    got = b.call("HPEXPIRETIME", "fields:2", "FIELDS", "2", "f", "g").raw
    count.check("deadlines of fields", got == b"*2\r\n:4000000000000\r\n:-1\r\n", repr(got))
    pack = text(listpack([b"f", b"v", 4000000000000, b"g", b"w", 0]))
    b.call("RESTORE", "fields:3", "0", signed(b"\x19" + struct.pack("<Q", 4000000000000) + pack, 12))
    got = b.call("HPEXPIRETIME", "fields:3", "FIELDS", "2", "f", "g").raw
    count.check("deadlines of fields in a listpack", got == b"*2\r\n:4000000000000\r\n:-1\r\n", repr(got))
    return payloads


def damaged(count, b, payloads, opts):
    """Payloads with wrong bytes and a right sum: refused, or read to a value that can be read and dumped."""
    chance = random.Random(opts.seed)
    small = [p for p in payloads if len(p) < 3000]
    refused = 0
    for at in range(opts.damage):
        body = bytearray(chance.choice(small)[:-10])
        for _ in range(chance.choice((1, 1, 2, 5))):
            place = chance.randrange(len(body))
            how = chance.random()
            if how < 0.6:
                body[place] = chance.choice((0, 1, 0x7F, 0x80, 0x81, 0xC3, 0xFE, 0xFF, chance.randrange(256)))
            elif how < 0.8:
                del body[place : place + chance.randrange(1, 9)]
            else:
                body[place:place] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 9)))
            body = body or bytearray(b"\x00")
        reply = b.call("RESTORE", "damaged", "0", signed(bytes(body)), "REPLACE")
        if reply.is_error:
            refused += 1
            if reply.value != b"ERR Bad data format":
                count.fail("damaged payload %d of seed %d" % (at, opts.seed), repr(reply.value))
        else:
            view(b, "damaged")
            again = b.call("RESTORE", "damaged:2", "0", b.call("DUMP", "damaged").value, "REPLACE")
            if again.is_error:
                count.fail("damaged payload %d of seed %d dumped again" % (at, opts.seed), again.value)
            b.call("DEL", "damaged:2")
    count.check("%d damaged payloads, %d of them refused" % (opts.damage, refused), refused > opts.damage // 4)


if __name__ == "__main__":
    main()
