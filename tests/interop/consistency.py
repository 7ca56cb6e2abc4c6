#!/usr/bin/env python3
"""Is what clients see possible if every command, transaction and script happened at one moment?

    consistency.py --node BINARY [--seconds 20] [--only bank|linear] [--seed S]

bank    Clients move money between accounts on different shards, by transactions that WATCH, by blind ones, by
        scripts, and coins between lists and sets. Readers add everything up in one MGET, EXEC or script: no sum
        may ever differ, and at the end every acknowledged transfer is in the books once.
linear  Clients read, write, count, compare and set a few hot keys, singly, in pipelines, in EXEC and in scripts,
        beside load that takes all shards away from their cores again and again. Every reply is recorded with the
        time before its request and the time behind it; then the history of each key is searched for an order
        that explains all replies (Wing and Gong's search as Lowe orders it).

Both run on nodes with several numbers of cores and shards; --seconds is for each test, shared by them.
"""

import argparse
import random
import threading
import time

from wire import Count, Scratch, encode, node_server

LAYOUTS = (
    ["--threads", "2"],
    ["--threads", "3"],
    ["--threads", "2", "--shards", "5"],
    ["--threads", "3", "--shards", "2"],
)


class Team:
    """Threads that work until the time is up or one of them fails."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds
        self.problems = []

    def going(self):
        return time.monotonic() < self.end and not self.problems

    def run(self, jobs):
        def guarded(job):
            try:
                job()
            except Exception as e:  # any of them ends the test, with its reason
                self.problems.append("%s: %s" % (type(e).__name__, e))

        threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return self.problems


# ---------------------------------------------------------------------------------------------
# The bank

ACCOUNTS = [b"account:%d" % n for n in range(12)]
START = 1000
COINS = 60
PILES = [b"pile:%d" % n for n in range(5)]
BAGS = [b"bag:%d" % n for n in range(5)]
MOVE = b"""
if tonumber(redis.call('GET', KEYS[1])) < tonumber(ARGV[1]) then return 0 end
redis.call('DECRBY', KEYS[1], ARGV[1])
redis.call('INCRBY', KEYS[2], ARGV[1])
redis.call('INCR', KEYS[3])
return 1
"""
SUM = b"local n = 0 for _, k in ipairs(KEYS) do n = n + redis.call('GET', k) end return n"
HEIGHT = b"local n = 0 for _, k in ipairs(KEYS) do n = n + redis.call('LLEN', k) end return n"


def transaction(c, commands):
    """MULTI, the commands and EXEC in one write; what EXEC says."""
    c.send_raw(b"".join(encode(w) for w in [(b"MULTI",), *commands, (b"EXEC",)]))
    replies = [c.read() for _ in range(len(commands) + 2)]
    for r in replies:
        if r.is_error:
            raise AssertionError("EXEC was refused: %r" % r.value)
    return replies[-1]


def bank(server, seconds, seed):
    c = server.conn()
    c.ask("FLUSHALL")
    c.ask("MSET", *[x for a in ACCOUNTS for x in (a, START)])
    for n in range(COINS):
        c.ask("RPUSH", PILES[n % len(PILES)], "coin%d" % n)
        c.ask("SADD", BAGS[n % len(BAGS)], "coin%d" % n)
    team = Team(seconds)
    tally = {"moved": 0, "again": 0, "read": 0}
    ledger = {}
    lock = threading.Lock()

    def book(**more):
        with lock:
            for k, n in more.items():
                tally[k] += n

    def watcher(me):
        r, c = random.Random(seed + me), server.conn()
        mine, again = 0, 0
        while team.going():
            a, b = r.sample(ACCOUNTS, 2)
            n = r.randrange(1, 30)
            c.ask("WATCH", a, b)
            x, y = (int(v) for v in c.ask("MGET", a, b))
            if x < n:
                c.ask("UNWATCH")
                continue
            # What was read is written: a lost update would show in the sum.
            got = transaction(c, [(b"SET", a, x - n), (b"SET", b, y + n), (b"INCR", b"ledger:%d" % me)])
            if got.value is None:
                again += 1
            else:
                mine += 1
        ledger[me] = mine
        book(moved=mine, again=again)

    def blind(me):
        r, c, mine = random.Random(seed + me), server.conn(), 0
        while team.going():
            a, b = r.sample(ACCOUNTS, 2)
            n = r.randrange(1, 30)
            transaction(c, [(b"DECRBY", a, n), (b"INCRBY", b, n), (b"INCR", b"ledger:%d" % me)])
            mine += 1
        ledger[me] = mine
        book(moved=mine)

    def scripted(me):
        r, c, mine = random.Random(seed + me), server.conn(), 0
        while team.going():
            a, b = r.sample(ACCOUNTS, 2)
            mine += c.ask("EVAL", MOVE, 3, a, b, b"ledger:%d" % me, r.randrange(1, 30))
        ledger[me] = mine
        book(moved=mine)

    def coins(me):
        r, c, mine = random.Random(seed + me), server.conn(), 0
        while team.going():
            a, b = r.sample(PILES, 2)
            c.ask("LMOVE", a, b, r.choice(("LEFT", "RIGHT")), r.choice(("LEFT", "RIGHT")))
            a, b = r.sample(BAGS, 2)
            c.ask("SMOVE", a, b, "coin%d" % r.randrange(COINS))
            mine += 2
        book(moved=mine)

    def reader(me):
        r, c, read = random.Random(seed + me), server.conn(), 0
        total, coins = START * len(ACCOUNTS), COINS
        while team.going():
            how = r.randrange(6)
            if how == 0:
                got, want = sum(int(v) for v in c.ask("MGET", *ACCOUNTS)), total
            elif how == 1:
                got = sum(int(v.value) for v in transaction(c, [(b"GET", a) for a in ACCOUNTS]).value)
                want = total
            elif how == 2:
                got, want = c.ask("EVAL", SUM, len(ACCOUNTS), *ACCOUNTS), total
            elif how == 3:
                got, want = sum(v.value for v in transaction(c, [(b"LLEN", p) for p in PILES]).value), coins
            elif how == 4:
                got, want = c.ask("EVAL", HEIGHT, len(PILES), *PILES), coins
            else:
                got, want = len(c.ask("SUNION", *BAGS)), coins
            if got != want:
                raise AssertionError("%d instead of %d, read in way %d" % (got, want, how))
            read += 1
        book(read=read)

    jobs = [lambda f=f, n=n: f(n) for n, f in enumerate(
        [watcher, watcher, watcher, blind, blind, scripted, scripted, coins, reader, reader, reader])]  # fmt: skip
    problems = team.run(jobs)
    if not problems:
        total = sum(int(v) for v in c.ask("MGET", *ACCOUNTS))
        if total != START * len(ACCOUNTS):
            problems.append("at the end there are %d" % total)
        for me, n in ledger.items():
            got = int(c.ask("GET", "ledger:%d" % me) or 0)
            if got != n:
                problems.append("client %d was told of %d transfers, the books have %d" % (me, n, got))
    return problems, "%(moved)d moves, %(again)d of them void and tried again, %(read)d sums" % tally


# ---------------------------------------------------------------------------------------------
# Linearizability

CAS = (
    b"if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) return 1 end return 0"
)


class Op:
    """One command on one key: what it asked, what it was told, and when."""

    __slots__ = ("name", "args", "got", "asked", "told")

    def __init__(self, name, args):
        self.name, self.args = name, args

    def after(self, state):
        """The state behind this command in that state, or None if the reply does not fit."""
        name, args, got = self.name, self.args, self.got
        if name == "GET":
            return (state,) if got == state else None
        if name == "SET":
            return (args,) if got == b"OK" else None
        if name == "GETSET":
            return (args,) if got == state else None
        if name == "INCR":
            now = b"%d" % (int(state or 0) + 1)
            return (now,) if got == int(now) else None
        if name == "CAS":
            did = state == args[0]
            return (args[1] if did else state,) if got == did else None
        did = state is None if name == "SETNX" else state is not None  # SETNX and DEL
        if got != did:
            return None
        return ((args if did else state) if name == "SETNX" else None,)

    def __repr__(self):
        return "%s %r -> %r" % (self.name, self.args, self.got)


def explain(ops, state=None):
    """None if some order of the operations explains all replies; else the operation that none explains.

    A configuration is a state and the operations under way that already took effect. When an operation's reply
    comes it must have taken effect: every configuration is continued by any order of those under way that ends
    with it. Those that cannot be continued are dropped, and one must be left."""
    events = sorted(
        [(op.asked, 0, n) for n, op in enumerate(ops)] + [(op.told, 1, n) for n, op in enumerate(ops)]
    )
    configurations = {(state, frozenset())}
    under_way = set()
    for _, told, n in events:
        if not told:
            under_way.add(n)
            continue
        left, seen, todo = set(), set(), list(configurations)
        while todo:
            state, done = todo.pop()
            if (state, done) in seen:
                continue
            seen.add((state, done))
            if n in done:
                left.add((state, done - {n}))
                continue
            for other in under_way - done:
                after = ops[other].after(state)
                if after is not None:
                    todo.append((after[0], done | {other}))
        if not left:
            return ops[n]
        configurations = left
        under_way.discard(n)
    return None


def checker_checks():
    """The search itself: histories of which the answer is known."""

    def op(name, args, got, asked, told):
        o = Op(name, args)
        o.got, o.asked, o.told = got, asked, told
        return o

    good = [
        [op("SET", b"1", b"OK", 0, 3), op("GET", None, None, 1, 2), op("GET", None, b"1", 4, 5)],
        [op("SET", b"1", b"OK", 0, 9), op("GET", None, b"1", 1, 2), op("SET", b"2", b"OK", 3, 4), op("GET", None, b"2", 5, 6)],
        [op("INCR", None, 2, 0, 9), op("INCR", None, 1, 1, 8), op("GET", None, b"2", 2, 10)],
        [op("CAS", (b"1", b"2"), 1, 0, 9), op("SET", b"1", b"OK", 1, 8), op("GET", None, b"2", 10, 11)],
    ]  # fmt: skip
    bad = [
        # A read from before what the same reader has seen.
        [op("SET", b"1", b"OK", 0, 9), op("GET", None, b"1", 1, 2), op("GET", None, None, 3, 4)],
        # A write that is told and not seen.
        [op("SET", b"1", b"OK", 0, 1), op("GET", None, None, 2, 3)],
        # One number twice.
        [op("INCR", None, 1, 0, 9), op("INCR", None, 1, 1, 8)],
        # Two that both were the first.
        [op("SETNX", b"1", 1, 0, 9), op("SETNX", b"2", 1, 1, 8)],
        [op("SET", b"1", b"OK", 0, 1), op("CAS", (b"1", b"2"), 1, 2, 8), op("CAS", (b"1", b"3"), 1, 2, 9)],
    ]
    return all(explain(h) is None for h in good) and all(explain(h) is not None for h in bad)


def request(op, key, how):
    """The command on the wire, and what of its reply is the operation's."""
    plain = {
        "GET": (b"GET", key),
        "SET": (b"SET", key, op.args),
        "GETSET": (b"GETSET", key, op.args),
        "INCR": (b"INCR", key),
        "SETNX": (b"SETNX", key, op.args),
        "DEL": (b"DEL", key),
    }
    if op.name == "CAS":
        return [(b"EVAL", CAS, 1, key, *op.args)], lambda replies: replies[0]
    if how == 0:
        return [(b"MULTI",), plain[op.name], (b"EXEC",)], lambda replies: replies[2].value[0]
    if how == 1:
        return [
            (b"EVAL", b"return redis.call(unpack(ARGV))", 1, key, *plain[op.name])
        ], lambda replies: replies[0]
    return [plain[op.name]], lambda replies: replies[0]


def linear(server, seconds, seed):
    keys = [b"hot:%d" % n for n in range(6)]
    server.conn().ask("FLUSHALL")
    team = Team(seconds)
    histories = {k: [] for k in keys}
    lock = threading.Lock()

    def client(me):
        r, c = random.Random(seed * 100 + me), server.conn()
        mine, serial, last = [], 0, {}
        while team.going():
            # One key at most once in a pipeline: two under way from one client would be more than it says.
            batch = []
            for key in r.sample(keys, r.choice((1, 1, 1, 2, 4))):
                serial += 1
                fresh = b"%d" % (me * 10**9 + serial * 1000)
                name = r.choice(
                    (
                        "GET",
                        "GET",
                        "GET",
                        "SET",
                        "SET",
                        "INCR",
                        "INCR",
                        "GETSET",
                        "CAS",
                        "CAS",
                        "SETNX",
                        "DEL",
                    )
                )
                args = {
                    "SET": fresh,
                    "GETSET": fresh,
                    "SETNX": fresh,
                    "CAS": (last.get(key, b"0"), fresh),
                }.get(name)
                op = Op(name, args)
                commands, pick = request(op, key, r.randrange(12))
                batch.append((key, op, commands, pick))
            asked = time.monotonic_ns()
            c.send_raw(b"".join(encode(w) for _, _, commands, _ in batch for w in commands))
            for key, op, commands, pick in batch:
                reply = pick([c.read() for _ in commands])
                op.asked, op.told = asked, time.monotonic_ns()
                if reply.is_error:
                    raise AssertionError("%s %s: %r" % (op.name, key, reply.value))
                op.got = reply.value
                mine.append((key, op))
                if op.name == "GET" and op.got is not None:
                    last[key] = op.got
                elif op.name in ("SET", "GETSET"):
                    last[key] = op.args
        with lock:
            for key, op in mine:
                histories[key].append(op)

    def load(me):
        """Takes every shard from its core, for others' sake."""
        r, c = random.Random(seed * 100 + me), server.conn()
        while team.going():
            n = r.randrange(1000)
            c.ask(
                "EVAL",
                "return redis.call('MSET', unpack(ARGV))",
                0,
                *[x for k in range(8) for x in ("o:%d" % k, n)],
            )
            c.ask("MSET", *[x for k in range(8) for x in ("o:%d" % k, n)])
            c.ask("DBSIZE")

    problems = team.run([lambda n=n: client(n) for n in range(8)] + [lambda: load(50)])
    total = 0
    for key, ops in histories.items():
        total += len(ops)
        culprit = explain(ops)
        if culprit is not None:
            near = [o for o in ops if o.asked <= culprit.told and o.told >= culprit.asked - 2_000_000]
            near.sort(key=lambda o: o.told)
            problems.append("%s: no order explains %r; around it: %s" % (key.decode(), culprit, near[-25:]))
    return problems, "%d operations on %d keys" % (total, len(keys))


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    ap.add_argument("--node", required=True)
    ap.add_argument("--seconds", type=float, default=20.0)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--only", choices=("bank", "linear"))
    opts = ap.parse_args()
    count = Count()
    count.check("the search tells good histories from bad ones", checker_checks())
    for layout in LAYOUTS:
        name = " ".join(layout)
        with Scratch() as scratch:
            args = layout[2:] + ["--no-pin"]
            server = node_server(scratch, opts.node, threads=int(layout[1]), args=args)
            for test in (bank, linear):
                if opts.only in (None, test.__name__):
                    problems, done = test(server, opts.seconds / len(LAYOUTS), opts.seed)
                    what = "%s, %s" % (test.__name__, name)
                    if not server.alive():
                        problems.append("the node ended:\n%s" % server.log_tail())
                    if problems:
                        count.fail(what, "; ".join(problems)[:4000])
                    else:
                        count.ok(what, done)
    count.close()


if __name__ == "__main__":
    main()
