#!/usr/bin/env python3
"""Random commands of all types, sent to redis-server and to the node: replies and final data must be equal.

    differ.py --node BINARY                  starts both servers, replays the corpus, then makes up commands
    differ.py --a HOST:PORT --b HOST:PORT    a = redis-server, b = the node, both running (both are emptied!)
    --commands N | --seconds S               how much to make up (200 000 commands if nothing is said)
    --seed S                                 of the commands; printed, and part of every saved file
    --proto 2|3                              otherwise rounds alternate
    --replay FILE...                         only these files
    --only VERB                              only forms of this command (repeatable), in the same surroundings
    --out DIR                                where command lists that differ are saved, made as short as they get

grammar.txt says what is sent; a part of the commands is then damaged: words dropped, doubled, swapped, put in
lower case, or replaced by numbers and bytes that parsers get wrong. A round is some hundred commands on two
empty servers, sent in pipelines, over two connections, in four databases, partly in MULTI and in scripts; it
ends with a dump of every key. What may differ, and why, is said in NORMAL and KNOWN below, nowhere else.

corpus/*.txt are lists that once differed. Each is replayed first, in both protocols. A line is a command,
with `1>` in front on the second connection; `@sleep MS` waits. Quoting is that of cases.txt.
"""

import argparse
import glob
import math
import os
import random
import re
import time

from compare import quote, words
from wire import Broken, Closed, Conn, Count, Scratch, addr_of, encode, node_server, redis_server, show

HERE = os.path.dirname(os.path.abspath(__file__))
DATABASES = (0, 1, 2, 9)

# ---------------------------------------------------------------------------------------------
# What may differ

# verb -> how its replies are held side by side when their bytes differ.
NORMAL = {
    # Members of sets and fields of hashes come in no order.
    "bag": "SMEMBERS SUNION SINTER SDIFF HKEYS HVALS KEYS SPOP",
    "pairs": "HGETALL",
    # One whole iteration, because COUNT is larger than anything; what comes has no order.
    "scan": "SCAN SSCAN HSCAN ZSCAN",
    # Drawn by chance: only type and number.
    "chance": "SRANDMEMBER HRANDFIELD ZRANDMEMBER RANDOMKEY",
    # Time that passes between the two servers.
    "seconds": "TTL EXPIRETIME",
    "millis": "PTTL PEXPIRETIME",
    # Redis counts a key that is past its deadline until somebody touches it.
    "counted": "DBSIZE",
    # Idle times, sizes in memory and serialised forms are the server's own.
    "shape": "XINFO OBJECT MEMORY DUMP",
}
RULE = {verb: rule for rule, verbs in NORMAL.items() for verb in verbs.split()}
# How far apart two servers on a busy machine may be.
SLACK_MS = 3000

# Replies with scores: Redis 7.0 prints 17 significant digits, 7.2 and the node the shortest that read back as
# the same double. The node's must be the same double and in no more than 24 bytes.
SCORED = set(
    """ZSCORE ZINCRBY ZADD ZRANGE ZREVRANGE ZRANGEBYSCORE ZREVRANGEBYSCORE ZPOPMIN ZPOPMAX BZPOPMIN BZPOPMAX
    ZSCAN ZMSCORE ZUNION ZINTER ZDIFF ZMPOP BZMPOP GEOPOS GEOSEARCH GEORADIUS GEORADIUS_RO GEORADIUSBYMEMBER
    GEORADIUSBYMEMBER_RO""".split()
)


def text(x):
    try:
        return x.decode() is not None
    except UnicodeDecodeError:
        return False


def is_error(r, start=b""):
    return r.kind in "-!" and r.value.startswith(start)


# Differences that are meant: (reason, does it cover this command and these two replies?). They leave the data
# of both servers equal; what would not is kept out by `refused` below.
KNOWN = [
    (
        "Redis 7.2 and later refuse a rank or count that has no negative",
        lambda verb, args, a, b: verb in ("LREM", "LPOS") and is_error(b) and b"-9223372036854775808" in args,
    ),
    (
        "Redis 7.2 and later look at all arguments of BITCOUNT and BITPOS before the key",
        lambda verb, args, a, b: verb in ("BITCOUNT", "BITPOS") and is_error(b),
    ),
    (
        "the node shows no more than 128 bytes of an argument in an error text",
        lambda verb, args, a, b: is_error(a)
        and is_error(b)
        and len(a.value) > 128
        and a.value[:128] == b.value[:128]
        and len(b.value) < len(a.value),
    ),
    (
        "error texts are UTF-8 and whole: an argument in them may be neither in Redis",
        lambda verb, args, a, b: is_error(a)
        and is_error(b)
        and any(b"\0" in x or b"\xff" in x or not text(x) for x in args)
        and a.value[:4] == b.value[:4],
    ),
    (
        "Redis 7.2 and later name the command in the text about unbalanced streams",
        lambda verb, args, a, b: verb in ("XREAD", "XREADGROUP")
        and is_error(a)
        and is_error(b, b"ERR Unbalanced"),
    ),
]


# ---------------------------------------------------------------------------------------------
# Making commands

KEYS = {"s": 3, "n": 2, "b": 2, "p": 2, "l": 3, "h": 2, "S": 3, "z": 3, "y": 2, "g": 2, "x": 2}
ODD_KEYS = [b"", b"{s0}l", b"\xff\x00", b"a b", b"nokey", b"k" * 300]

# Words that parsers of numbers, options and bytes get wrong.
HOSTILE = [
    b"", b"-0", b"0", b"+1", b" 1", b"1 ", b"01", b"-00", b"1e5", b"1.0", b"0x10", b"nan", b"-nan", b"inf",
    b"-inf", b"+inf", b"infinity", b"1e400", b"-1e400", b"1e-400", b"4.9e-324", b"9223372036854775807",
    b"9223372036854775808", b"-9223372036854775807", b"-9223372036854775808", b"-9223372036854775809",
    b"18446744073709551615", b"18446744073709551616", b"99999999999999999999999", b"4294967296",
    b"-4294967297", b"9007199254740993", b"100000000000000000", b"\xff\xfe", b"\xc3\x28", b"a\x00b", b"\r\n",
    b"*", b"(", b"[", b"-", b"+", b"$", b">", b"=", b"~", b"(inf", b"(-inf", b"(nan", b"[\xff", b"#", b"#-1",
    b"#0", b"u64", b"i65", b"u0", b"COUNT", b"LIMIT", b"WITHSCORES", b"STORE", b"GET", b"BY", b"REPLACE",
    b"0.1", b"0.30000000000000004", b"3.0e0", b"1" * 40, b"x" * 300, b"-1", b"1-1-1", b"-1-1", b"1-",
    b"18446744073709551615-18446744073709551615", b"0-0", b"1-*",
]  # fmt: skip

CALLS = [
    b"return redis.call(unpack(ARGV))",
    b"return redis.call(unpack(ARGV))",
    b"return redis.pcall(unpack(ARGV))",
    b"redis.setresp(3) return redis.call(unpack(ARGV))",
]
# The reply of the command is not the script's.
AROUND = [
    b"redis.call(unpack(ARGV)) return redis.call('EXISTS', 's0', 'l0', 'h0', 'z0')",
    b"local r = redis.pcall(unpack(ARGV)) if type(r) == 'table' and r.err then return {err = r.err} end return type(r)",
    b"redis.call(unpack(ARGV)) error({err = 'MINE after'})",
    b"local r = redis.call(unpack(ARGV)) return {type(r), #ARGV}",
]
SCRIPTS = [
    b"return {1, 2.9, 'x', {ok = 'fine'}, false, true, {3, {4}}, nil, 5}",
    b"return redis.error_reply(ARGV[1])",
    b"return redis.status_reply(ARGV[1])",
    b"return {err = 'MINE ' .. ARGV[1]}",
    b"return {ok = ARGV[1]}",
    b"return {KEYS, ARGV, #KEYS, #ARGV}",
    b"return tostring(tonumber(ARGV[1]))",
    b"return tonumber(ARGV[1])",
    b"return redis.sha1hex(ARGV[1])",
    b"return cjson.encode({ARGV[1], tonumber(ARGV[1]) or cjson.null})",
    b"return cjson.decode('[' .. #ARGV[1] .. ', \"x\", null, [], {\"a\": 1.5}, true]')",
    b"return cmsgpack.unpack(cmsgpack.pack(ARGV))",
    b"return cmsgpack.pack(ARGV[1], 1, -1, 1.5, true, {1})",
    b"return bit.tohex(#ARGV[1] * 77)",
    b"return bit.band(#ARGV[1] - 9, 255)",
    b"return string.format('%s|%q|%d', ARGV[1], ARGV[1], 3)",
    b"return string.format('%.17g', tonumber(ARGV[1]) or 0)",
    b"return string.rep(ARGV[1], 3)",
    b"error(ARGV[1])",
    b"error({err = 'MINE ' .. ARGV[1]})",
    b"redis.setresp(3) return {map = {a = 1}}",
    b"redis.setresp(3) return {double = tonumber(ARGV[1]) or 1}",
    b"return {map = {a = 1}}",
    b"return {set = {a = true}}",
    b"redis.setresp(4)",
    b"return redis.call()",
    b"return redis.call('NOSUCH')",
    b"return redis.call('GET')",
    b"return redis.pcall('GET', KEYS[1], 'x')",
    b"return redis.call('SELECT', '1')",
    b"redis.call('SELECT', '1') return redis.call('SET', KEYS[1], ARGV[1])",
    b"return redis.call('MULTI')",
    b"return redis.call({})",
    b"return nosuchvariable",
    b"x = 1",
    b"return pcall(function() x = 1 end)",
    b"syntax error here",
    b"return redis.REDIS_VERSION_NUM > 0",
    b"return type(redis.log)",
    b"return #redis.call('LRANGE', KEYS[1], 0, -1)",
    b"for i = 1, 5 do redis.call('INCR', KEYS[1]) end return redis.call('GET', KEYS[1])",
    b"redis.call('SET', KEYS[1], ARGV[1]) redis.call('INCRBY', KEYS[1], 'x')",
    b"#!lua\nreturn 1",
    b"#!lua flags=no-writes\nreturn redis.call('SET', KEYS[1], '1')",
    b"#!lua name=x\nreturn 1",
    b"#!python\nreturn 1",
    b"",
    b"return",
    b"return {nil, 1}",
    b"return 9007199254740993",
    b"return -0.0",
    b"return 1e300",
    b"return 0/0",
]


class Form:
    """One line of the grammar, as a tree of ("word", w), ("token", t), ("one", [...]), ("may", [...]), ("many", x)."""

    def __init__(self, text, weight):
        self.weight = weight
        self.parts = re.findall(r"[\[\]()|]|\+(?=\s|$|\]|\)|\|)|\{\w+\}|[^\s\[\]()|{}]+", text)
        self.at = 0
        self.tree = self.sequence()
        if self.at != len(self.parts):
            raise SystemExit("grammar: cannot read %r" % text)
        self.verb = self.tree[0][1]

    def sequence(self):
        out = []
        while self.at < len(self.parts) and self.parts[self.at] not in ("]", ")", "|"):
            p = self.parts[self.at]
            self.at += 1
            if p in ("[", "("):
                options = [self.sequence()]
                while self.parts[self.at] == "|":
                    self.at += 1
                    options.append(self.sequence())
                self.at += 1
                out.append(("may" if p == "[" else "one", options))
            elif p == "+" and out and out[-1][0] != "word":
                out[-1] = ("many", out[-1])
            elif p.startswith("{"):
                out.append(("token", p[1:-1]))
            else:
                out.append(("word", p.encode()))
        return out


def grammar(known=None, only=None):
    """The forms whose command is in `known`."""
    forms = []
    with open(os.path.join(HERE, "grammar.txt"), encoding="utf-8") as f:
        for line in f:
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            m = re.match(r"(\d+) (.*)", line)
            form = Form(m.group(2), int(m.group(1))) if m else Form(line, 4)
            if known is not None and form.verb.decode() not in known and form.verb != b"NOSUCHCOMMAND":
                continue
            if only and form.verb.decode() not in only:
                # What makes keys stays, so that the others find some.
                if form.weight < 6:
                    continue
            forms.append(form)
            if only and form.verb.decode() in only:
                form.weight *= 20
    return forms


def integer(word):
    return int(word) if re.fullmatch(rb"-?\d{1,30}", word) else None


class Maker:
    """Steps of a round. Deterministic for a seed."""

    def __init__(self, seed, forms, payloads):
        self.r = random.Random(seed)
        self.forms = forms
        self.ends, total = [], 0
        for form in forms:
            total += form.weight
            self.ends.append(total)
        self.payloads = payloads
        self.queue = []
        self.inside = self.watching = False
        self.serial = 1
        self.verbs = {form.verb for form in forms}

    # Tokens

    def key(self, kind):
        r, p = self.r, self.r.random()
        if (p < 0.05 or kind == "k") and kind != "y":
            if p < 0.01:
                return r.choice(ODD_KEYS)
            kind = r.choice("snbplhSzgx")
        elif kind == "zS":
            kind = r.choice("zzS")
        return b"%s%d" % (kind.encode(), r.randrange(KEYS[kind]))

    def token(self, t):
        """The word or words for a token, and whether it is a key."""
        if t in KEYS or t in ("k", "zS"):
            return self.key(t)
        return getattr(self, "t_" + t)()

    def t_v(self):
        r, p = self.r, self.r.random()
        if p < 0.4:
            return r.choice((b"a", b"b", b"c", b"d", b"e"))
        if p < 0.65:
            return b"%d" % r.randrange(-20, 130)
        if p < 0.72:
            return b"%d" % r.choice(
                (2**63 - 1, -(2**63), 2**31, 2**32, 10**17, 255, 256, -128, -129, 2**53 + 1)
            )
        if p < 0.76:
            return b""
        if p < 0.81:
            return b"v" * r.choice((44, 45, 63, 64, 65, 200, 1000))
        if p < 0.87:
            return r.randbytes(r.randrange(1, 9))
        return b"val%d" % r.randrange(40)

    def t_m(self):
        r, p = self.r, self.r.random()
        if p < 0.5:
            return r.choice((b"a", b"b", b"c", b"d", b"e", b"f", b"g"))
        if p < 0.8:
            return b"%d" % r.randrange(0, 12)
        if p < 0.85:
            return b"m" * r.choice((63, 64, 65, 70))
        if p < 0.9:
            return r.choice((b"", b"\xff", b"\x00", b"-5", b"01", b"1.5", b"12345678901234567890"))
        return b"mem%d" % r.randrange(200)

    t_f = t_m

    def t_i(self):
        r, p = self.r, self.r.random()
        if p < 0.9:
            return b"%d" % r.randrange(-6, 9)
        return b"%d" % r.randrange(-200, 200)

    def t_cnt(self):
        return b"%d" % self.r.randrange(1, 9)

    def t_int(self):
        r, p = self.r, self.r.random()
        if p < 0.7:
            return b"%d" % r.randrange(-100, 100)
        return b"%d" % r.choice((2**63 - 1, -(2**63), 2**62, -(2**62), 10**17, 2**53, 2**53 + 1, 0))

    def t_off(self):
        return b"%d" % (self.r.randrange(0, 40) if self.r.random() < 0.9 else self.r.randrange(0, 300))

    def t_bit(self):
        return self.r.choice((b"0", b"1"))

    def t_fl(self):
        r, p = self.r, self.r.random()
        if p < 0.5:
            return r.choice((b"1.5", b"0.25", b"-3", b"1e3", b"10.5", b"8", b"0.1", b"-0.1", b"3.0", b"-0"))
        if p < 0.9:
            return b"%.*f" % (r.randrange(0, 15), r.uniform(-1000, 1000))
        return repr(r.uniform(-1, 1) * 10 ** r.randrange(-12, 18)).encode()

    def t_sc(self):
        r, p = self.r, self.r.random()
        if p < 0.55:
            return b"%d" % r.randrange(-5, 12)
        if p < 0.8:
            return b"%.2f" % r.uniform(-10, 10)
        if p < 0.88:
            return repr(r.uniform(-1, 1) * 10 ** r.randrange(-12, 22)).encode()
        if p < 0.95:
            return r.choice((b"inf", b"-inf", b"+inf", b"0", b"-0", b"1e10", b"3.0", b".5", b"5."))
        return b"%d" % r.randrange(10**15, 10**18)

    def t_sb(self):
        return (b"(" if self.r.random() < 0.25 else b"") + self.t_sc()

    def t_lb(self):
        return self.r.choice((b"-", b"+", b"[" + self.t_m(), b"(" + self.t_m()))

    # Deadlines lie in the past or far away, and no two of them are equal: what GT and LT say must not hang on
    # a millisecond.
    def t_sec(self):
        return (
            self.r.choice((b"0", b"-1")) if self.r.random() < 0.06 else b"%d" % self.r.randrange(1000, 10**6)
        )

    def t_ms(self):
        return (
            self.r.choice((b"0", b"-1", b"-100000"))
            if self.r.random() < 0.06
            else b"%d" % self.r.randrange(10**6, 10**9)
        )

    def t_at(self):
        return self.r.choice(
            (b"1", b"0", b"-1", b"1000000000", b"4102444800", b"99999999999", b"253402300800")
        )

    def t_atms(self):
        return self.r.choice(
            (b"1", b"1000", b"-1", b"4102444800123", b"99999999999999", b"4611686018427387904")
        )

    def t_rttl(self):
        return self.r.choice((b"0", b"0", b"0", b"1000000", b"4102444800123", b"-1"))

    def t_db(self):
        return (
            b"%d" % self.r.choice(DATABASES)
            if self.r.random() < 0.97
            else self.r.choice((b"16", b"-1", b"x"))
        )

    def t_pat(self):
        return self.r.choice(
            (
                b"*",
                b"s*",
                b"?0",
                b"[lh]?",
                b"*[0-1]",
                b"[^a-c]*",
                b"\\*",
                b"[a-",
                b"*\xff*",
                b"",
                b"a",
                b"**?",
                b"m*",
            )
        )

    def t_type(self):
        return self.r.choice((b"string", b"list", b"hash", b"set", b"zset", b"stream", b"nosuch", b"HASH"))

    def t_to(self):
        return b"0.01"

    def t_blk(self):
        return b"1"

    def t_bft(self):
        return b"%s%d" % (self.r.choice((b"u", b"i")), self.r.randrange(1, 65))

    def t_bfo(self):
        return (b"#" if self.r.random() < 0.3 else b"") + b"%d" % self.r.randrange(0, 40)

    def t_bfop(self):
        r = self.r
        return r.choice(
            (
                lambda: [b"GET", self.t_bft(), self.t_bfo()],
                lambda: [b"SET", self.t_bft(), self.t_bfo(), self.t_int()],
                lambda: [b"INCRBY", self.t_bft(), self.t_bfo(), self.t_int()],
                lambda: [b"OVERFLOW", r.choice((b"WRAP", b"SAT", b"FAIL"))],
            )
        )()

    def t_lon(self):
        return b"%.6f" % self.r.uniform(-180.5, 180.5)

    def t_lat(self):
        return b"%.6f" % self.r.uniform(-85.5, 85.5)

    def t_dist(self):
        return self.r.choice((b"100", b"1000", b"5000.5", b"0", b"20000", b"1"))

    def t_unit(self):
        return self.r.choice((b"m", b"km", b"km", b"KM", b"mi", b"ft"))

    def t_newid(self):
        self.serial += self.r.choice((0, 1, 1, 1))
        return self.r.choice((b"%d-%d", b"%d-%d", b"%d-%d", b"%d-*")).replace(b"%d-*", b"%d-*%.0d") % (
            self.serial,
            self.r.randrange(0, 3),
        )

    def t_id(self):
        r, p = self.r, self.r.random()
        if p < 0.9:
            return b"%d-%d" % (r.randrange(1, self.serial + 5), r.randrange(0, 3))
        return r.choice(
            (b"0", b"5", b"0-0", b"0-1", b"-", b"+", b"$", b"18446744073709551615-18446744073709551615")
        )

    def t_rid(self):
        return self.r.choice((b"-", b"+", b"")) + self.t_id() if self.r.random() < 0.02 else (
            self.r.choice((b"-", b"+")) if self.r.random() < 0.3 else
            (b"(" if self.r.random() < 0.2 else b"") + self.t_id()
        )  # fmt: skip

    def t_grp(self):
        return self.r.choice((b"g1", b"g2"))

    def t_cons(self):
        return self.r.choice((b"c1", b"c2"))

    def t_sha(self):
        return self.r.choice((b"f" * 40, b"xyz", b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db"))

    def t_scriptbad(self):
        return self.r.choice((b"return 1", b"return +", b"return redis.call('GET', KEYS[1])"))

    def t_fn(self):
        return self.r.choice((b"nosuch", b"f"))

    def t_sortpat(self):
        return self.r.choice((b"n*", b"h*->a", b"nosort", b"*", b"s0", b"*->", b"h0->*"))

    def t_sortget(self):
        return self.r.choice((b"#", b"s*", b"h*->a", b"*", b"nokey*"))

    def t_dumped(self):
        return self.r.choice(self.payloads) if self.payloads else b"bad"

    # Commands

    def expand(self, tree, words, keys):
        r = self.r
        for kind, x in tree:
            if kind == "word":
                words.append(x)
            elif kind == "token":
                got = self.token(x)
                if isinstance(got, list):
                    words.extend(got)
                else:
                    if x in KEYS or x in ("k", "zS"):
                        keys.append(got)
                    words.append(got)
            elif kind == "one":
                self.expand(r.choice(x), words, keys)
            elif kind == "may":
                p = r.random()
                if p < 0.35:
                    self.expand(r.choice(x), words, keys)
                    if p < 0.01:
                        self.expand(r.choice(x), words, keys)
            else:
                for _ in range(r.randint(1, 4)):
                    self.expand([x], words, keys)

    def command(self, inside=False):
        """A command and its keys; `inside` of MULTI or a script."""
        r = self.r
        whole = OF_PARTS if inside else ()
        while True:
            at = r.random() * self.ends[-1]
            low, high = 0, len(self.ends) - 1
            while low < high:
                mid = (low + high) // 2
                if self.ends[mid] > at:
                    high = mid
                else:
                    low = mid + 1
            tree = self.forms[low].tree
            # Options come in any order.
            tail = len(tree)
            while tail > 0 and tree[tail - 1][0] == "may":
                tail -= 1
            if len(tree) - tail > 1 and r.random() < 0.2:
                options = tree[tail:]
                r.shuffle(options)
                tree = tree[:tail] + options
            words, keys = [], []
            self.expand(tree, words, keys)
            if r.random() < 0.1:
                if words[0] in whole:
                    continue
                words = self.damage(words)
            if not refused(words):
                return words, keys

    def damage(self, w):
        r, w = self.r, list(w)
        p = r.randrange(10)
        at = r.randrange(1, len(w)) if len(w) > 1 else 0
        if p == 0 and len(w) > 1:
            w.pop()
        elif p == 1 and at:
            w.pop(at)
        elif p == 2:
            w.append(r.choice(HOSTILE) if r.random() < 0.5 else self.t_m())
        elif p == 3 and at:
            w.insert(at, w[at])
        elif p == 4 and at > 1:
            w[at - 1], w[at] = w[at], w[at - 1]
        elif p == 5:
            w = [x.lower() for x in w]
        elif p == 6 and at:
            w[at] = self.key("k")
        elif at:
            w[at] = r.choice(HOSTILE)
        return w

    def step(self):
        """The next step: (connection, words), or ("sleep", ms)."""
        if self.queue:
            return self.queue.pop(0)
        r, p = self.r, self.r.random()
        if p < 0.004:
            self.transaction()
        elif p < 0.0045:
            self.passing()
        elif p < 0.03:
            self.script()
        else:
            conn = 1 if p > 0.998 else 0
            self.push(conn)
        return self.queue.pop(0)

    def push(self, conn):
        while True:
            w, keys = self.command(self.inside)
            if not (self.watching and w[0].upper() in EVERY_KEY):
                break
        self.queue.append((conn, w))
        self.consumers(conn, w)
        return w, keys

    def consumers(self, conn, w):
        """Redis 7.2 makes a consumer even when there was nothing to read or claim: here all are there."""
        verb, sub = w[0].upper(), w[1].upper() if len(w) > 1 else b""
        if verb == b"XGROUP" and sub in (b"CREATE", b"DELCONSUMER") and len(w) > 3:
            for name in (b"c1", b"c2"):
                self.queue.append((conn, [b"XGROUP", b"CREATECONSUMER", w[2], w[3], name]))

    def transaction(self):
        r = self.r
        self.watching = r.random() < 0.5
        if self.watching:
            keys = [self.key("k") for _ in range(r.randint(1, 3))]
            self.queue.append((0, [b"WATCH"] + keys))
            p = r.random()
            if p < 0.3:
                self.queue.append((1, r.choice(([b"SET", keys[0], b"new"], [b"DEL", keys[-1]]))))
            elif p < 0.5:
                self.push(r.randrange(2))
        self.queue.append((0, [b"MULTI"]))
        self.inside = True
        for _ in range(r.randint(0, 8)):
            if r.random() < 0.03:
                self.queue.append(
                    (0, r.choice(([b"MULTI"], [b"WATCH", b"s0"], [b"EXEC", b"x"], [b"SUBSCRIBE"])))
                )
            elif r.random() < 0.1:
                self.script()
            else:
                self.push(0)
        self.queue.append((0, [b"DISCARD" if r.random() < 0.08 else b"EXEC"]))
        self.inside = self.watching = False

    def script(self):
        r = self.r
        if r.random() < 0.4:
            keys, args = [self.key("k")], [self.t_v() if r.random() < 0.5 else r.choice(HOSTILE)]
            body = r.choice(SCRIPTS)
        else:
            while True:
                args, keys = self.command(True)
                if args[0].upper() not in BLOCKS and not (self.watching and args[0].upper() in EVERY_KEY):
                    break
            body = r.choice(CALLS) if r.random() < 0.8 else r.choice(AROUND)
            keys = [k for k in keys if k in args]
        verb = b"EVAL" if r.random() < 0.9 else b"EVAL_RO"
        self.queue.append((0, [verb, body, b"%d" % len(keys)] + keys + args))
        self.consumers(0, args)

    def passing(self):
        """A key whose deadline passes while nothing happens; Redis counts it until it is touched."""
        w, keys = self.command()
        key = keys[0] if keys else b"s0"
        self.queue += [(0, [b"PEXPIRE", key, b"2"]), ("sleep", 12)]
        self.push(0)
        if self.queue[-1][1][0].upper() in (b"DBSIZE", b"RANDOMKEY", b"SWAPDB", b"EVAL", b"SELECT", b"MOVE"):
            self.queue.pop()
        self.queue.append((0, [b"EXISTS", key]))


# The node looks at the subcommand when the command runs, Redis when it is queued: inside MULTI only one of them
# gives up the whole transaction. Scripts tell the same apart in their texts.
# XREAD in a script: there BLOCK is refused before anything else is looked at.
OF_PARTS = {b"XREAD", b"XREADGROUP", b"OBJECT", b"XGROUP", b"XINFO", b"SCRIPT", b"PUBSUB", b"MEMORY"}
# To the node these change every watched key, to Redis only those that were or are there.
EVERY_KEY = {b"FLUSHDB", b"SWAPDB", b"FLUSHALL"}
EXPIRING = {b"EXPIRE": 60, b"SETEX": 60, b"PEXPIRE": 60000, b"PSETEX": 60000, b"RESTORE": 60000}
# Redis 7.2 and later let scripts call these, and then they do not wait: scripts leave them out.
BLOCKS_LAST = {b"BLPOP", b"BRPOP", b"BLMOVE", b"BRPOPLPUSH", b"BZPOPMIN", b"BZPOPMAX"}
BLOCKS = BLOCKS_LAST | {b"BLMPOP", b"BZMPOP"}


def refused(w):
    """Is the outcome up to chance, or would it take the servers too long or too much memory?"""
    verb = w[0].upper()
    numbers = [integer(x) for x in w]
    if verb == b"SPOP":
        return len(w) == 2 or len(w) == 3 and numbers[2] is not None and 0 < numbers[2] < 10000
    if verb in (b"SRANDMEMBER", b"HRANDFIELD", b"ZRANDMEMBER"):
        return any(n is not None and n < -300 for n in numbers)
    if b"LEX" in verb or b"BYLEX" in [x.upper() for x in w]:
        # Ranges by member are only defined where all scores are equal.
        return len(w) > 2 and not (w[1][:1] == b"y" and (verb != b"ZRANGESTORE" or w[2][:1] == b"y"))
    if verb in (b"SORT", b"SORT_RO"):
        # A pattern without a star sorts by nothing, and texts by which to sort may be equal or missing: what is
        # equal comes in any order.
        alpha = b"ALPHA" in [x.upper() for x in w]
        return any(x.upper() == b"BY" and (alpha or b"*" not in y) for x, y in zip(w, w[1:]))
    if verb in (b"ZRANK", b"ZREVRANK"):
        return len(w) > 3  # Redis 7.2 and later know one more word
    if verb == b"ZADD" and len(w) > 2 and w[1][:1] == b"y":
        return any(x != b"0" for x in w[2::2])
    # Scores that are no places on earth have no hash: what GEOADD made and what not is kept apart.
    if verb[:3] == b"GEO":
        return any(re.fullmatch(rb"z\d", x) for x in w[1:])
    if verb[:1] == b"Z" or verb in (b"RENAME", b"RENAMENX", b"COPY", b"MOVE"):
        if any(re.fullmatch(rb"g\d", x) for x in w[1:3]) and (verb[:1] == b"Z" or w[1][:1] in (b"z", b"y")):
            return True
    if verb == b"WAIT":
        return w[1:2] != [b"0"]
    if verb == b"XADD":
        return b"*" in w[2:]
    if verb == b"BITFIELD" and b"SAT" in [x.upper() for x in w] and any(n and n < -(2**62) for n in numbers):
        return True  # Redis takes some of these for too large, because a sum of its own overflows
    if verb in (b"SETRANGE", b"SETBIT", b"BITFIELD"):
        return any(n is not None and 10**4 < abs(n) < 2**32 for n in numbers)
    if verb in EXPIRING and len(w) > 2 and numbers[2] is not None:
        return 0 < numbers[2] <= EXPIRING[verb]
    if verb in (b"SET", b"GETEX"):
        for a, n in zip(w[2:], numbers[3:]):
            if (
                n is not None
                and n > 0
                and (a.upper() == b"EX" and n <= 60 or a.upper() == b"PX" and n <= 60000)
            ):
                return True
    if verb in BLOCKS:
        word = w[-1] if verb in BLOCKS_LAST else w[1] if len(w) > 1 else b""
        if word == b"0.01":
            return False
        if word == b"-1e400":
            return True  # negative to a long double, no number to a double
        try:
            return float(word) >= 0 or math.isnan(float(word))
        except ValueError:
            return bool(re.match(rb"\s*[+-]?0x", word, re.I))
    if verb in (b"XREAD", b"XREADGROUP"):
        for at, x in enumerate(w[:-1]):
            if x.upper() == b"BLOCK" and w[at + 1] != b"1" and integer(w[at + 1]) is not None:
                return True
    return False


# ---------------------------------------------------------------------------------------------
# Holding replies side by side


def same_double(x, y):
    try:
        fx, fy = float(x), float(y)
    except ValueError:
        return False
    return (fx == fy or math.isnan(fx) and math.isnan(fy)) and len(y) <= 24


def equal(a, b, scored):
    if a.raw == b.raw:
        return True
    if a.kind != b.kind or (a.value is None) != (b.value is None):
        return False
    if a.kind in "*~>":
        return len(a.value) == len(b.value) and all(equal(x, y, scored) for x, y in zip(a.value, b.value))
    if a.kind == "%":
        return len(a.value) == len(b.value) and all(
            equal(x, y, scored) for p, q in zip(a.value, b.value) for x, y in zip(p, q)
        )
    return (a.kind == "," or scored and a.kind == "$") and same_double(a.value, b.value)


def shape(r):
    if r.kind in "*~>" and r.value is not None:
        return (r.kind, [shape(v) for v in r.value])
    if r.kind == "%":
        return (r.kind, len(r.value))
    if r.kind == "-":
        return (r.kind, r.value)
    return (r.kind, r.value is None)


def bag(r, paired):
    if r.kind == "%":
        return sorted(k.raw + v.raw for k, v in r.value)
    items = [v.raw for v in r.value]
    if paired:
        items = [b"".join(items[i : i + 2]) for i in range(0, len(items), 2)]
    return sorted(items)


def scored_pairs(r):
    flat = [v.value for v in r.value]
    return sorted((flat[i], float(flat[i + 1])) for i in range(0, len(flat) - 1, 2))


class Judge:
    """Follows one connection: which commands wait in MULTI decides how EXEC's reply is read."""

    def __init__(self, known):
        self.queue = None
        self.known = known

    def agree(self, args, a, b):
        verb = args[0].upper()
        if verb == b"MULTI" and b.raw == b"+OK\r\n":
            self.queue = []
        elif self.queue is not None and b.raw == b"+QUEUED\r\n":
            self.queue.append(args)
        elif verb in (b"EXEC", b"DISCARD", b"RESET") and len(args) == 1:
            waiting, self.queue = self.queue or [], None
            if verb == b"EXEC" and a.raw != b.raw and a.kind == b.kind == "*" and a.value and b.value:
                return len(a.value) == len(b.value) == len(waiting) and all(
                    self.one(w, x, y) for w, x, y in zip(waiting, a.value, b.value)
                )
        return self.one(args, a, b)

    def one(self, args, a, b):
        if a.raw == b.raw:
            return True
        if args[0].upper() in (b"EVAL", b"EVAL_RO") and len(args) > 3 and args[1] in CALLS:
            inner = args[3 + (integer(args[2]) or 0) :]
            if inner:
                return self.one(inner, a, b)
        verb = args[0].upper().decode("latin-1")
        if self.normal(verb, args, a, b):
            return True
        for reason, covers in KNOWN:
            if covers(verb, args, a, b):
                self.known[reason] = self.known.get(reason, 0) + 1
                return True
        return False

    def normal(self, verb, args, a, b):
        rule = RULE.get(verb)
        many = a.kind == b.kind and a.kind in "*~%" and bool(a.value) and bool(b.value)
        if rule in ("bag", "pairs") and many:
            return bag(a, rule == "pairs") == bag(b, rule == "pairs")
        if rule == "scan" and many and len(a.value) == len(b.value) == 2:
            if args[1 if verb == "SCAN" else 2] != b"0":
                return True  # no server has ever given that cursor
            if a.value[0].value != b"0" or b.value[0].value != b"0":
                return a.value[0].kind == b.value[0].kind  # a part only; the dump at the end sees the whole
            if a.value[1].kind != b.value[1].kind:
                return False
            if verb == "ZSCAN":
                return scored_pairs(a.value[1]) == scored_pairs(b.value[1])
            return bag(a.value[1], verb == "HSCAN") == bag(b.value[1], verb == "HSCAN")
        if rule in ("chance", "shape"):
            return shape(a) == shape(b)
        if rule == "counted" and a.kind == b.kind == ":":
            return a.value >= b.value >= 0
        if rule in ("seconds", "millis") and a.kind == b.kind == ":":
            slack = SLACK_MS if rule == "millis" else SLACK_MS // 1000
            return a.value > 0 and b.value > 0 and abs(a.value - b.value) <= slack
        if verb == "XPENDING" and a.kind == b.kind == "*" and a.value and len(args) > 3:
            return len(a.value) == len(b.value) and all(
                x.kind == y.kind == "*"
                and len(x.value) == len(y.value) == 4
                and all(x.value[i].raw == y.value[i].raw for i in (0, 1, 3))
                for x, y in zip(a.value, b.value)
            )
        return equal(a, b, verb in SCORED or verb == "EVAL" and b"double" in args[1])


# ---------------------------------------------------------------------------------------------
# Running


class RedisGone(Exception):
    """redis-server itself did not answer."""


class Difference:
    """Where two servers parted: the place in the steps, what stood there, and a name for the kind."""

    def __init__(self, at, kind, text):
        self.at, self.kind, self.text = at, kind, text


class Rig:
    """The two servers with two connections each."""

    def __init__(self, addrs):
        self.addrs = addrs
        self.known = {}

    def open(self, proto):
        self.conns = [[Conn(a, timeout=20.0) for _ in range(2)] for a in self.addrs]
        for side in self.conns:
            for c in side:
                if proto == 3:
                    c.call("HELLO", "3")
            side[0].call("FLUSHALL")
            side[0].call("SCRIPT", "FLUSH")
        self.judges = [Judge(self.known), Judge(self.known)]

    def close(self):
        for side in self.conns:
            for c in side:
                c.close()

    def run(self, steps, proto, dump=True):
        """The first difference, or None. Raises Gone when the node does not answer."""
        self.open(proto)
        try:
            at = 0
            while at < len(steps):
                conn = steps[at][0]
                if conn == "sleep":
                    time.sleep(steps[at][1] / 1000.0)
                    at += 1
                    continue
                end = at
                while end < len(steps) and end - at < 100 and steps[end][0] == conn:
                    end += 1
                found = self.block(steps, at, end)
                if found:
                    return found
                at = end
            if dump:
                return self.digest(len(steps))
            return None
        finally:
            self.close()

    def block(self, steps, start, end):
        conn = steps[start][0]
        payload = b"".join(encode(w) for _, w in steps[start:end])
        a, b = self.conns[0][conn], self.conns[1][conn]
        a.send_raw(payload)
        b.send_raw(payload)
        judge = self.judges[conn]
        for at in range(start, end):
            try:
                x = a.read()
            except (Closed, Broken) as e:
                raise RedisGone("%s: %s" % (line_of(steps[at]), e)) from None
            try:
                y = b.read()
            except (Closed, Broken) as e:
                return Difference(at, "gone", "the node: %s" % e)
            w = steps[at][1]
            if not judge.agree(w, x, y):
                kind = "%s %s %s" % (w[0].upper().decode("latin-1"), sort_of(x), sort_of(y))
                return Difference(at, kind, "redis %s\nnode  %s" % (show(x), show(y)))
        return None

    def digest(self, at):
        """All data of all databases, read through ordinary commands."""
        judge = Judge(self.known)
        sides = [side[1] for side in self.conns]
        for side in sides:
            for w in (b"DISCARD",), (b"UNWATCH",):
                side.call(*w)
        for db in DATABASES:
            names = []
            for side in sides:
                side.call("SELECT", str(db))
                names.append(sorted(r.value for r in side.call("KEYS", "*").value))
            if names[0] != names[1]:
                return Difference(at, "keys", "database %d: redis has %.300r, the node %.300r" % (db, *names))
            if not names[0]:
                continue
            for commands in self.readers(sides[0], names[0]):
                replies = [side.many(commands) for side in sides]
                for w, x, y in zip(commands, *replies):
                    w = [p if isinstance(p, bytes) else p.encode() for p in w]
                    if not judge.one(w, x, y):
                        kind = "data " + w[0].decode()
                        text = "database %d, %s:\nredis %s\nnode  %s" % (db, quote(w), show(x), show(y))
                        return Difference(at, kind, text)
        return None

    def readers(self, conn, names):
        yield [("TYPE", k) for k in names]
        kinds = [r.value for r in conn.many([("TYPE", k) for k in names])]
        read = {
            b"string": lambda k: [("GET", k)],
            b"list": lambda k: [("LRANGE", k, "0", "-1"), ("LLEN", k)],
            b"hash": lambda k: [("HGETALL", k), ("HLEN", k)],
            b"set": lambda k: [("SMEMBERS", k), ("SCARD", k)],
            b"zset": lambda k: [
                ("ZRANGE", k, "0", "-1", "WITHSCORES"),
                ("ZREVRANGE", k, "0", "-1"),
                ("ZCARD", k),
            ],
            b"stream": lambda k: [("XRANGE", k, "-", "+"), ("XLEN", k), ("XINFO", "GROUPS", k)]
            + [("XPENDING", k, g) for g in ("g1", "g2")]
            + [("XPENDING", k, g, "-", "+", "100") for g in ("g1", "g2")],
        }
        yield [w for k, t in zip(names, kinds) for w in read[t](k)] + [("PTTL", k) for k in names]


def sort_of(r):
    return r.kind + (r.value[:40].decode("latin-1") if r.kind == "-" else "")


def shrink(rig, steps, proto, found, limit):
    """Fewer steps that still end in a difference of the same kind."""
    data = found.at >= len(steps)
    steps = steps[: found.at + 1]
    end = time.monotonic() + limit

    def fails(part):
        try:
            got = rig.run(part, proto, data)
        except (Closed, Broken, OSError):
            return None
        return part[: got.at + 1] if got and got.kind == found.kind else None

    size = max(1, len(steps) // 2)
    while size and time.monotonic() < end:
        at, changed = 0, False
        while at < len(steps) and time.monotonic() < end:
            smaller = fails(steps[:at] + steps[at + size :])
            if smaller is not None and len(smaller) < len(steps):
                steps, changed = smaller, True
            else:
                at += size
        size = size // 2 if size > 1 else (1 if changed else 0)
    # Then words within the commands that are left.
    for at in range(len(steps)):
        conn, w = steps[at]
        i = 1
        while conn != "sleep" and i < len(w) and time.monotonic() < end:
            part = steps[:at] + [(conn, w[:i] + w[i + 1 :])] + steps[at + 1 :]
            if (
                not refused(part[at][1])
                and (smaller := fails(part)) is not None
                and len(smaller) == len(steps)
            ):
                steps, w = smaller, smaller[at][1]
            else:
                i += 1
    return steps


def last_words(rig, steps, proto):
    """The steps up to the one that the node does not answer, sent one at a time."""
    rig.open(proto)
    try:
        for at, (conn, w) in enumerate(steps):
            if conn == "sleep":
                time.sleep(w / 1000.0)
                continue
            try:
                for side in rig.conns:
                    side[conn].send(*w)
                    side[conn].read()
            except (Closed, Broken, OSError):
                return steps[: at + 1]
    finally:
        rig.close()
    return None


def line_of(step):
    if step[0] == "sleep":
        return "@sleep %d" % step[1]
    return ("1> " if step[0] else "") + quote(step[1])


def load(path):
    steps = []
    with open(path, encoding="utf-8") as f:
        for text in f.read().splitlines():
            if not text.strip() or text.startswith("#"):
                continue
            if text.startswith("@sleep "):
                steps.append(("sleep", int(text.split()[1])))
            elif text.startswith("1> "):
                steps.append((1, words(text[3:])))
            else:
                steps.append((0, words(text)))
    return steps


def listed(addr):
    with Conn(addr) as c:
        return {r.value.decode().upper() for r in c.call("COMMAND", "LIST").value}


def dumped(addr):
    """Serialised values of every type, made by redis-server."""
    with Conn(addr) as c:
        for w in (
            "SET s0 hello", "SET s1 12345", "RPUSH l0 a b 3", "HSET h0 f v", "SADD S0 1 2 3", "SADD S1 a b",
            "ZADD z0 1 a 2.5 b", "XADD x0 1-1 f v",
        ):  # fmt: skip
            c.call(*w.split())
        out = [c.call("DUMP", k).value for k in "s0 s1 l0 h0 S0 S1 z0 x0".split()]
        c.call("FLUSHALL")
    return out + [out[0][:-1], out[0][:-1] + b"x", b""]


def run_files(rig, paths, commands, protos, count):
    for path in paths:
        steps = load(path)
        lacking = {w[0].upper().decode("latin-1") for c, w in steps if c != "sleep"} - commands
        name = os.path.basename(path)
        if lacking - {"NOSUCHCOMMAND"}:
            count.skip(name, "the node has no %s" % ", ".join(sorted(lacking)))
            continue
        for proto in protos:
            found = rig.run(steps, proto)
            if found is None:
                count.ok("%s resp%d" % (name, proto))
            else:
                at = line_of(steps[found.at]) if found.at < len(steps) else "data at the end"
                count.fail("%s resp%d" % (name, proto), "%s\n%s" % (at, found.text))


def run_random(rig, forms, payloads, opts, protos, count, restart):
    seed = opts.seed if opts.seed is not None else random.SystemRandom().randrange(1 << 32)
    print("seed %d" % seed, flush=True)
    started = time.monotonic()
    end = started + opts.seconds if opts.seconds else None
    total, number, kinds = 0, 0, set()
    while (time.monotonic() < end if end else total < opts.commands) and len(kinds) < opts.max_failures:
        number += 1
        proto = protos[number % len(protos)]
        maker = Maker(seed * 1000003 + number, forms, payloads)
        steps = [maker.step() for _ in range(opts.round)] + maker.queue
        try:
            found = rig.run(steps, proto)
        except RedisGone as e:
            print("redis-server is gone at or before %s" % e, flush=True)
            restart()
            continue
        except (Closed, Broken, OSError) as e:
            found = Difference(len(steps), "gone", str(e))
        total += len(steps) if found is None else min(found.at, len(steps))
        if found is None:
            count.passed += 1
            continue
        if found.kind == "gone":
            restart()
            steps = last_words(rig, steps, proto) or steps
            restart()
        if found.kind in kinds:
            continue
        kinds.add(found.kind)
        small = steps if found.kind == "gone" else shrink(rig, steps, proto, found, opts.shrink)
        try:
            found = rig.run(small, proto) or found
        except (Closed, Broken, OSError):
            restart()
        path = os.path.join(opts.out, "differ-%d-%d-resp%d.txt" % (seed, number, proto))
        with open(path, "w", encoding="utf-8") as f:
            f.write("".join(line_of(s) + "\n" for s in small))
        shown = "".join("    %s\n" % line_of(s) for s in small[-40:])
        count.fail("%s (seed %d round %d resp%d, saved %s)" % (found.kind, seed, number, proto, path),
                   "\n%s%s" % (shown, found.text))  # fmt: skip
    spent = time.monotonic() - started
    print("%d commands in %d rounds, %.0f s, seed %d" % (total, number, spent, seed), flush=True)


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    ap.add_argument("--a", help="redis-server's HOST:PORT")
    ap.add_argument("--b", help="the node's HOST:PORT")
    ap.add_argument("--node", help="the node's binary")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--node-args", default="", help="more arguments for the node, blank-separated")
    ap.add_argument("--proto", type=int, choices=(2, 3))
    ap.add_argument("--commands", type=int, default=200_000)
    ap.add_argument("--seconds", type=float)
    ap.add_argument("--seed", type=int)
    ap.add_argument("--round", type=int, default=800, help="commands on one pair of emptied servers")
    ap.add_argument("--shrink", type=float, default=15.0, help="seconds to make one list shorter")
    ap.add_argument("--max-failures", type=int, default=15)
    ap.add_argument("--only", action="append")
    ap.add_argument("--replay", nargs="+")
    ap.add_argument("--out", default=".")
    opts = ap.parse_args()
    protos = [opts.proto] if opts.proto else [2, 3]
    count = Count(quiet=True)
    with Scratch() as scratch:
        redis = server = None
        if opts.node:
            redis = redis_server(scratch)
            a = redis.addr
            server = node_server(scratch, opts.node, threads=opts.threads, args=opts.node_args.split())
            b = server.addr
        elif opts.a and opts.b:
            a, b = addr_of(opts.a), addr_of(opts.b)
        else:
            ap.error("give --node BINARY, or --a and --b")

        def restart():
            if server is None:
                raise SystemExit("the node does not answer")
            if not server.alive():
                print(
                    "the node ended and is started again; its last lines:\n%s" % server.log_tail(), flush=True
                )
            for s in (server, redis):
                s.kill()
                s.start()

        rig = Rig((a, b))
        commands = listed(b) & listed(a)
        paths = opts.replay or sorted(glob.glob(os.path.join(HERE, "corpus", "*.txt")))
        run_files(rig, paths, commands, protos, count)
        if not opts.replay:
            forms = grammar(commands, opts.only)
            left_out = sorted({f.verb.decode() for f in grammar()} - {f.verb.decode() for f in forms})
            if left_out:
                print("not sent, because the node has not got them: %s" % " ".join(left_out))
            run_random(rig, forms, dumped(a), opts, protos, count, restart)
        for reason, n in sorted(rig.known.items()):
            print("meant to differ (%d times): %s" % (n, reason))
    count.close()


if __name__ == "__main__":
    main()
