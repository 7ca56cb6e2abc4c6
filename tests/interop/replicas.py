#!/usr/bin/env python3
"""Nodes that follow each other, three deep, while everything around them goes wrong.

    replicas.py --node BINARY [--seconds N] [--seed S]

A is written to. B follows A, C follows B, with other numbers of shards. Links are cut, nodes are stopped,
killed and started again, snapshots are made. In the end all three hold the same keys in all databases, and
full syncs happened only where nothing could be continued: once at the beginning.

Before that: WAITAOF counts who has a write on the disk, and nobody else.
"""

import argparse
import itertools
import os
import random
import re
import signal
import threading
import time

from compare import dump, dump_diff
from kevy_replica import Proxy
from wire import Closed, Conn, Count, Scratch, free_base, node_server, wait_until

DATABASES = (0, 3)


def info(server, name):
    with server.conn() as conn:
        text = conn.call("INFO", "replication").plain().decode()
    for line in text.split("\r\n"):
        if line.startswith(name + ":"):
            return int(line.split(":")[1])
    raise SystemExit("INFO has no %s" % name)


class Writer(threading.Thread):
    """Writes to a node, of every type, and starts anew when the node does."""

    def __init__(self, server, seed, pause):
        super().__init__(daemon=True)
        self.server, self.rng, self.pause = server, random.Random(seed), pause
        self.stop_it, self.count = False, 0

    def command(self):
        rng = self.rng
        key = lambda kind: "%s:%d" % (kind, rng.randrange(60))
        some = lambda: "v%d" % rng.randrange(40)
        kind = rng.randrange(16)
        if kind == 0:
            return ["SET", key("s"), some() * rng.randrange(1, 200)]
        if kind == 1:
            return ["INCR", key("n")]
        if kind == 2:
            return ["APPEND", key("s"), some()]
        if kind == 3:
            return ["RPUSH", key("l"), some(), some()]
        if kind == 4:
            return ["LPOP", key("l")]
        if kind == 5:
            return ["LMOVE", key("l"), key("l"), "LEFT", "RIGHT"]
        if kind == 6:
            return ["HSET", key("h"), some(), some(), some(), some()]
        if kind == 7:
            return ["HDEL", key("h"), some()]
        if kind == 8:
            return ["SADD", key("t"), some(), some()]
        if kind == 9:
            return ["SPOP", key("t")]
        if kind == 10:
            return ["ZADD", key("z"), str(rng.randrange(100)), some()]
        if kind == 11:
            return ["XADD", key("x"), "MAXLEN", "100", "*", "f", some()]
        if kind == 12:
            return ["DEL", key(rng.choice("snlhtzx")), key(rng.choice("snlhtzx"))]
        if kind == 13:
            return ["MSET", key("s"), some(), key("s"), some(), key("s"), some()]
        if kind == 14:
            return ["PEXPIRE", key(rng.choice("snlhtzx")), str(rng.randrange(1, 3000))]
        return ["RENAME", key("s"), key("s")]

    def run(self):
        while not self.stop_it:
            try:
                with self.server.conn(timeout=5) as conn:
                    while not self.stop_it:
                        if self.rng.randrange(20) == 0:
                            conn.call("SELECT", str(self.rng.choice(DATABASES)))
                        if self.rng.randrange(500) == 0:
                            conn.call("FUNCTION", "LOAD", "REPLACE", library(self.rng))
                        if self.rng.randrange(2000) == 0:
                            conn.call("FUNCTION", "FLUSH")
                        if self.rng.randrange(30000) == 0:
                            conn.call(self.rng.choice(("FLUSHALL", "FLUSHDB")))
                        conn.call(*self.command())
                        self.count += 1
                        if self.pause:
                            time.sleep(self.pause)
            except (OSError, Closed):
                time.sleep(0.02)


def library(rng):
    name = "lib%d" % rng.randrange(5)
    call = "redis.register_function('%s', function() return %d end)" % (name, rng.randrange(1000))
    return "#!lua name=%s\n%s" % (name, call)


def contents(server):
    found = {}
    for database in DATABASES:
        with server.conn(timeout=30) as conn:
            conn.call("SELECT", str(database))
            found[database] = dump(conn)
    return found


def dump_of_libraries(server):
    with server.conn() as conn:
        return conn.call("FUNCTION", "DUMP").plain()


def digest(server):
    """What the node says of all its data, and the sum of what it says of each shard."""
    with server.conn(timeout=30) as conn:
        return conn.ask("REPL.DIGEST")


def all_equal(servers):
    """Differences between the first node and each other one, once all are still: by digest and by content."""
    digests = [digest(server)[:2] for server in servers]
    lines = ["digest: %r" % digests] * any(d != digests[0] for d in digests)
    return lines + all_same(servers)


def all_same(servers):
    """Differences of content between the first node and each other one."""
    first = contents(servers[0])
    libraries = dump_of_libraries(servers[0])
    lines = []
    for server in servers[1:]:
        theirs = dump_of_libraries(server)
        if libraries != theirs:
            lines.append("libraries: A %r, %s %r" % (libraries, server.name, theirs))
        other = contents(server)
        for database in DATABASES:
            # No key may have expired in between; deadlines are the same to the millisecond.
            diff = dump_diff(first[database], other[database], names=("A", server.name))
            lines += ["db%d %s" % (database, line) for line in diff]
    return lines


def ends(server):
    with server.conn() as conn:
        text = conn.call("INFO", "replication").plain().decode()
    fields = dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)
    return fields


def in_step(primary, replica):
    mine, theirs = ends(primary), ends(replica)
    if theirs.get("master_link_status") != "up" or theirs.get("slave_lag_frames") != "0":
        return False
    return theirs.get("slave_repl_offset") == mine["master_repl_offset"]


def chain(count, scratch, opts):
    rng = random.Random(opts.seed)
    shards = {"A": 2, "B": 2, "C": 3}
    nodes, proxies = {}, {}
    for name in "ABC":
        args = ["--shards", str(shards[name])]
        if name != "A":
            above = "A" if name == "B" else "B"
            proxies[name] = Proxy(nodes[above].port, shards[above])
            args += ["--replicaof", "127.0.0.1:%d" % (proxies[name].base + 10000)]
        nodes[name] = node_server(scratch, opts.node, args=args, name=name, port=free_base(8))
    everyone = [nodes[name] for name in "ABC"]
    writers = [Writer(nodes["A"], opts.seed + i, 0.0002) for i in range(2)]
    for writer in writers:
        writer.start()
    for above, below in (("A", "B"), ("B", "C")):
        wait_until("%s follows" % below, 30, lambda: ends(nodes[below]).get("master_link_status") == "up")
    full = {"A": info(nodes["A"], "sync_full"), "B": info(nodes["B"], "sync_full")}
    # C may have come to B before B had what A has.
    count.check("the first syncs are full ones", full["A"] == 2, repr(full))
    more = {"A": 0, "B": 0}
    happened = {}
    end = time.monotonic() + opts.seconds
    while time.monotonic() < end:
        time.sleep(rng.uniform(0.1, 1.0))
        cuts, stops = ("cut B", "cut C", "cut C"), ("stop A", "stop B", "stop C")
        event = rng.choice((*cuts, *stops, "kill A", "kill B", "kill C", "save"))
        happened[event] = happened.get(event, 0) + 1
        what, *name = event.split()
        if what == "cut":
            proxies[name[0]].cut()
        elif what == "save":
            with rng.choice(everyone).conn() as conn:
                conn.call("BGSAVE")
        else:
            node = nodes[name[0]]
            if name[0] in full:
                more[name[0]] += info(node, "sync_full") - full[name[0]]
                full[name[0]] = 0
            node.stop(signal.SIGTERM if what == "stop" else signal.SIGKILL)
            node.start()
    for writer in writers:
        writer.stop_it = True
    for writer in writers:
        writer.join()
    wrote = sum(writer.count for writer in writers)
    print("wrote %d, %s" % (wrote, happened), flush=True)
    for above, below in (("A", "B"), ("B", "C")):
        try:
            wait_until("%s in step" % below, 30, lambda: in_step(nodes[above], nodes[below]))
        except TimeoutError:
            print(ends(nodes[above]), ends(nodes[below]), sep="\n")
            raise
    time.sleep(3.5)
    lines = all_equal(everyone)
    count.check("all hold the same", not lines, "\n".join(lines[:10]))
    for name in full:
        more[name] += info(nodes[name], "sync_full") - full[name]
    # A request over several shards of which a kill left only parts ends a history: they are taken back. Who
    # has had them needs the shard anew, however often that begins: it is cut and killed meanwhile, too.
    log = nodes["A"].log_text()
    torn = log.count("are left out: other shards lack")
    asks = re.findall(r"#(\d+)\+ringkeep\S* at \S+ at (\d+) of (\d+) gets a snapshot: .* of (\d+)$", log, re.M)
    within = [ask for ask in asks if ask[2] == ask[3]]
    begun = len({(stream, history) for stream, _, _, history in asks}) - shards["A"]
    print("full syncs of B: %d more, %d torn" % (more["A"], torn))
    count.check("B never needs all of A again", not within and begun <= torn, "%r, %d of %d" % (within[:4], begun, torn))
    print("full syncs of C behind a B that was away: %d" % more["B"])
    count.check("C needs all of B seldom", more["B"] <= 2 + opts.seconds / 5, "%d times" % more["B"])
    for node in everyone:
        count.check("%s is alive" % node.name, node.alive(), node.log_tail())
        node.stop()


WRITES = 200
REFUSED = (
    # As a Valkey 9 and, as far as it knows them, a Redis 7.0 answer.
    (("x", "0", "0"), "ERR value is not an integer or out of range"),
    (("2", "0", "0"), "ERR value is out of range, value must between 0 and 1"),
    (("-1", "0", "0"), "ERR value is out of range, value must between 0 and 1"),
    (("0", "x", "0"), "ERR value is out of range, must be positive"),
    (("0", "-1", "0"), "ERR value is out of range, must be positive"),
    (("0", "0", "x"), "ERR timeout is not an integer or out of range"),
    (("0", "0", "-1"), "ERR timeout is negative"),
    (("0", "0", "9223372036854775807"), "ERR timeout is out of range"),
    (("0", "0"), "ERR wrong number of arguments for 'waitaof' command"),
)
NO_JOURNAL = "ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled."
ON_REPLICA = (
    "ERR WAITAOF cannot be used with replica instances. Please also note that writes to replicas are just "
    "local and are not propagated."
)


def disks(count, scratch, opts):
    """WAITAOF, with each policy at the primary and at replicas of which one keeps nothing."""

    def fsync(server, policy):
        with server.conn() as conn:
            conn.ask("CONFIG", "SET", "appendfsync", policy)
        if policy == "no":
            # What replies waited for under the policy before is still synced.
            time.sleep(1)

    def start(name, args, shards=2):
        args = ["--shards", str(shards)] + args
        return node_server(scratch, opts.node, args=args, name=name, port=free_base(8), threads=2)

    a = start("A", [])
    following = ["--replicaof", "127.0.0.1:%d" % (a.port + 10000)]
    b, other = start("B", following, 3), start("N", following + ["--appendonly", "no"])
    for server in (b, other):
        wait_until("%s follows" % server.name, 30, lambda: in_step(a, server))
    with a.conn(timeout=30) as conn:

        def wait(local, replicas, timeout):
            return conn.ask("WAITAOF", str(local), str(replicas), str(timeout))

        def write():
            conn.many([["SET", "k%d" % n, os.urandom(8).hex()] for n in range(WRITES)])
            # Over all shards at once.
            conn.ask("MSET", *[word for n in range(20) for word in ("m%d" % n, "v")])

        for words, text in REFUSED:
            said = conn.call("WAITAOF", *words).plain()
            count.check("WAITAOF %s is refused" % " ".join(words), str(said) == text, repr(said))
        said = wait(0, 0, 0)
        count.check("WAITAOF that wants nothing", said[0] in (0, 1) and said[1] in (0, 1), repr(said))
        for policy in ("everysec", "always"):
            fsync(a, policy)
            fsync(b, policy)
            write()
            said = wait(1, 1, 10000)
            count.check("%s: durable here and at one replica" % policy, said == [1, 1], repr(said))
            durable = ends(a)
            rows = [durable["slave0"], durable["slave1"]]
            end = "durable=" + durable["master_repl_offset"]
            count.check("%s: INFO shows it" % policy, sum(end in row for row in rows) == 1, repr(rows))
            write()
            said = wait(0, 2, 1500)
            good = said == [1, 1]
            count.check("%s: who keeps nothing does not count" % policy, good, repr(said))
        # In one answer where nothing may wait.
        conn.ask("MULTI")
        conn.call("SET", "k", "multi")
        conn.call("WAITAOF", "1", "5", "0")
        said = conn.ask("EXEC")
        count.check("in EXEC nothing waits", said[1] in ([0, 0], [0, 1]), repr(said))
        b.proc.send_signal(signal.SIGSTOP)
        write()
        said = wait(1, 1, 1000)
        count.check("a replica that is stopped has nothing on the disk", said == [1, 0], repr(said))
        b.proc.send_signal(signal.SIGCONT)
        said = wait(1, 1, 10000)
        count.check("it has when it goes on", said == [1, 1], repr(said))
        fsync(b, "no")
        write()
        said = wait(1, 1, 1500)
        count.check("a replica that never syncs", said == [1, 0], repr(said))
        fsync(b, "everysec")
        fsync(a, "no")
        write()
        said = wait(1, 1, 1500)
        count.check("a primary that never syncs", said[0] == 0, repr(said))
        said = wait(0, 1, 10000)
        count.check("its replica may be further", said[1] == 1, repr(said))
        fsync(a, "always")
        # What was counted is there after a crash of the replica, and after it loaded everything anew.
        conn.ask("SET", "counted", "there")
        said = wait(1, 1, 10000)
        count.check("durable before a crash", said == [1, 1], repr(said))
        b.kill()
        b.start()
        with b.conn() as reader:
            value = wait_until("B answers", 10, lambda: reader.ask("GET", "counted"))
            count.check("what was counted is there behind it", value == b"there", repr(value))
            # Another history: all is loaded anew, and durable once the journal has a new beginning.
            reader.ask("REPLICAOF", "NO", "ONE")
            reader.ask("SET", "own", "1")
            reader.ask("REPLICAOF", "127.0.0.1", str(a.port + 10000))
        said = wait_until("it counts again", 30, lambda: wait(1, 1, 1000) == [1, 1])
        b.kill()
        b.argv = [word for word in b.argv if word not in following]
        b.start()
        with b.conn() as reader:
            keys = wait_until("B answers", 10, lambda: reader.ask("DBSIZE"))
            count.check("what was loaded and counted is there, too", keys == conn.ask("DBSIZE"), repr(keys))
    with other.conn() as conn:
        said = conn.call("WAITAOF", "1", "0", "0").plain()
        count.check("WAITAOF on a replica is refused", str(said) == ON_REPLICA, repr(said))
    with other.conn() as conn:
        conn.ask("REPLICAOF", "NO", "ONE")
        said = conn.call("WAITAOF", "1", "0", "0").plain()
        count.check("WAITAOF 1 without a journal is refused", str(said) == NO_JOURNAL, repr(said))
    for server in (a, b, other):
        count.check("%s is alive" % server.name, server.alive(), server.log_tail())
        server.stop()


def family(count, scratch, opts, journal):
    """A with replicas B and C, and D behind B: one history, whoever is asked, and whoever is the primary."""
    said = "with journals" if journal else "without journals"
    rng = random.Random(opts.seed)
    kept = [] if journal else ["--appendonly", "no"]

    def start(name, above=None):
        args = ["--shards", "2"] + kept
        if above:
            args += ["--replicaof", "127.0.0.1:%d" % (above + 10000)]
        name += "-kept" if journal else "-plain"
        return node_server(scratch, opts.node, args=args, name=name, port=free_base(8), threads=2)

    def load(server, rounds):
        with server.conn(timeout=30) as conn:
            for n in range(rounds):
                conn.ask("SELECT", str(rng.choice(DATABASES)))
                key = lambda: "k%d" % rng.randrange(300)
                conn.ask("SET", key(), "v%d" % n)
                conn.ask("MSET", key(), "a%d" % n, key(), "b%d" % n, key(), "c%d" % n)
                conn.ask("MULTI")
                conn.call("HSET", "h" + key(), "f", str(n))
                conn.call("DEL", key(), key())
                conn.call("SPOP", "s" + key())
                conn.call("SADD", "s" + key(), "m%d" % n, "n%d" % n)
                conn.ask("EXEC")
                conn.ask("PEXPIRE", key(), str(rng.randrange(1, 2000)))
                if n % 100 == 50:
                    conn.ask("FUNCTION", "LOAD", "REPLACE", library(rng))
                if n % 150 == 149:
                    conn.ask("FLUSHDB")

    def syncs(server):
        return (info(server, "sync_full"), info(server, "sync_partial_ok"))

    def generations(server):
        with server.conn(timeout=30) as conn:
            return [row[1] for row in conn.ask("REPL.DIGEST")[2]]

    def same(what, servers):
        for above, below in zip(servers, servers[1:]):
            wait_until("%s: %s in step" % (what, below.name), 30, lambda: in_step_of(below))
        time.sleep(2.2)
        lines = all_equal(servers)
        count.check("%s: %s: all hold the same" % (said, what), not lines, "\n".join(lines[:10]))

    def in_step_of(replica):
        found = ends(replica)
        return found.get("master_link_status") == "up" and found.get("slave_lag_frames") == "0"

    def goes_on(what, primary, act):
        full, part = syncs(primary)
        act()
        wait_until(what, 30, lambda: syncs(primary)[1] >= part + 2 or syncs(primary)[0] > full)
        count.check("%s: %s: no full sync" % (said, what), syncs(primary)[0] == full, repr(syncs(primary)))

    def follow(server, primary):
        with server.conn() as conn:
            port = str(primary.port + 10000) if primary else "ONE"
            conn.ask("REPLICAOF", "127.0.0.1" if primary else "NO", port)

    a = start("A")
    load(a, 200)
    proxy = Proxy(a.port, 2)
    b, c = start("B", proxy.base), start("C", a.port)
    for server in (b, c):
        wait_until("%s follows" % server.name, 30, lambda: in_step(a, server))
    load(a, 200)
    d = start("D", b.port)
    wait_until("D follows", 30, lambda: in_step_of(d))
    load(a, 200)
    same("a chain", (a, b, c, d))
    found = [generations(server) for server in (a, b, c, d)]
    count.check("%s: one history" % said, all(names == found[0] for names in found), repr(found))
    # D goes on from B's sister, from A, and again from B.
    for primary, name in ((c, "C"), (a, "A"), (b, "B")):
        if not journal and primary is c:
            # Nobody followed it, so it has kept nothing.
            continue
        goes_on("D goes on from " + name, primary, lambda: follow(d, primary))
        load(a, 50)
        same("D behind " + name, (a, b, c, d))
    if journal:
        for sig in (signal.SIGTERM, signal.SIGKILL):
            b.stop(sig)
            load(a, 100)
            goes_on("B is back", a, b.start)
            same("B is back", (a, b, c, d))
    # C gets what B does not, and B becomes the primary.
    proxy.open = False
    proxy.cut()
    load(a, 5)
    wait_until("C has it", 10, lambda: in_step(a, c))
    a.kill()
    follow(b, None)
    full = syncs(b)[0]
    load(b, 20)
    follow(c, b)
    same("a new primary", (b, c, d))
    count.check("%s: only C gets a full sync" % said, 1 <= syncs(b)[0] - full <= 2, repr((full, syncs(b))))
    # B is lost, too, and C is the primary: D lacks nothing that it has.
    follow(d, c)
    load(b, 20)
    same("D behind C", (b, c, d))
    b.kill()
    follow(c, None)
    goes_on("D goes on behind a new primary", c, lambda: load(c, 50))
    same("C alone", (c, d))
    count.check("%s: a history of its own" % said, generations(c) != found[0], repr(found))
    if journal:
        # B comes back as it was, and A with what nobody has seen but C.
        for server in (a, b):
            server.argv = server.argv[:-2] if "--replicaof" in server.argv else server.argv
            server.argv += ["--replicaof", "127.0.0.1:%d" % (c.port + 10000)]
        goes_on("B comes back as a replica", c, b.start)
        a.start()
        same("all are back", (c, a, b, d))
        a.stop()
    for server in (b, c, d):
        if server.alive():
            server.stop()


def ships(count, scratch, opts):
    """A snapshot whose connection is cut goes on over the next one, while the primary is written to."""
    big = 20000
    a = node_server(scratch, opts.node, args=["--shards", "2"], name="ships-a", port=free_base(8), threads=1)
    with a.conn(timeout=60) as conn:
        for start in range(0, 4000, 500):
            conn.many([("SET", "large%d" % n, "%d:" % n + "x" * big) for n in range(start, start + 500)])
    proxy = Proxy(a.port, 2)
    args = ["--shards", "2", "--replicaof", "127.0.0.1:%d" % (proxy.base + 10000)]
    over = threading.Event()

    def write():
        with a.conn(timeout=60) as conn:
            for n in itertools.count():
                if over.is_set():
                    return
                conn.ask("SET", "large%d" % (n % 4000), "again %d" % n)
                conn.ask("LPUSH", "list", str(n))
                time.sleep(0.002)

    def counts():
        found = ends(a)
        return {name: int(found[name]) for name in ("sync_full", "sync_full_resumed", "repl_ship_bytes")}

    writer = threading.Thread(target=write)
    writer.start()
    proxy.budget = 6 << 20
    b = node_server(scratch, opts.node, args=args, name="ships-b", port=free_base(8), threads=1)
    for n in range(6):
        wait_until("cut %d" % (n + 1), 30, lambda: proxy.budget is None)
        proxy.budget = (n + 1) << 20
    wait_until("the last cut", 30, lambda: proxy.budget is None)
    wait_until("B follows", 60, lambda: ends(b).get("master_link_status") == "up")
    over.set()
    writer.join()
    wait_until("B is in step", 60, lambda: in_step(a, b))
    lines = all_equal((a, b))
    count.check("a snapshot over cut links: both hold the same", not lines, "\n".join(lines[:10]))
    found = counts()
    count.check("a snapshot over cut links: none but the first two", found["sync_full"] == 2, repr(found))
    count.check("a snapshot over cut links: it went on", found["sync_full_resumed"] >= 5, repr(found))
    sent = found["repl_ship_bytes"] / (4000 * big)
    count.check("a snapshot over cut links: nothing is composed twice", sent < 1.1, "%.2f" % sent)
    print("    %r, %.2f of the data composed" % (found, sent))
    b.kill()
    # Who stays away for long, or meets another data set, gets a new one.
    for what, act in (
        ("who stays away for long", lambda: time.sleep(13)),
        ("who comes back behind a FLUSHALL", lambda: a.conn().call("FLUSHALL")),
    ):
        with a.conn(timeout=60) as conn:
            conn.many([("SET", "large%d" % n, "%d:" % n + "x" * big) for n in range(2000)])
        before = counts()
        proxy.budget = 6 << 20
        b = node_server(scratch, opts.node, args=args, name="ships-" + what[-4:], port=free_base(8), threads=1)
        wait_until("a cut", 30, lambda: proxy.budget is None)
        proxy.open = False
        proxy.cut()
        act()
        proxy.open = True
        wait_until("B follows", 60, lambda: ends(b).get("master_link_status") == "up" and in_step(a, b))
        lines = all_equal((a, b))
        count.check("%s holds the same" % what, not lines, "\n".join(lines[:10]))
        now = counts()
        count.check("%s gets a new snapshot" % what, now["sync_full"] > before["sync_full"] + 2, repr((before, now)))
        b.kill()
    proxy.close()
    a.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--node", required=True)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--family", action="store_true", help="only the first stage")
    parser.add_argument("--ships", action="store_true", help="only snapshots over links that are cut")
    parser.add_argument("--keep", action="store_true", help="keep the logs and data")
    opts = parser.parse_args()
    opts.node = os.path.abspath(opts.node)
    count = Count()
    with Scratch(opts.keep) as scratch:
        if not opts.ships:
            family(count, scratch, opts, True)
            family(count, scratch, opts, False)
        if opts.ships:
            ships(count, scratch, opts)
        elif not opts.family:
            ships(count, scratch, opts)
            disks(count, scratch, opts)
            chain(count, scratch, opts)
    count.close()


if __name__ == "__main__":
    main()
