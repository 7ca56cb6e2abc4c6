#!/usr/bin/env python3
"""Nodes that follow each other, three deep, while everything around them goes wrong.

    replicas.py --node BINARY [--seconds N] [--seed S]

A is written to. B follows A, C follows B, with other numbers of shards. Links are cut, nodes are stopped,
killed and started again, snapshots are made. In the end all three hold the same keys in all databases, and
full syncs happened only where nothing could be continued: once at the beginning.
"""

import argparse
import os
import random
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
    # A request over several shards of which a kill left only parts ends a history: they are taken back.
    torn = nodes["A"].log_text().count("are left out: other shards lack")
    count.check("B never needs all of A again", more["A"] <= 2 * torn, "%d more" % more["A"])
    print("full syncs of C behind a B that was away: %d" % more["B"])
    count.check("C needs all of B seldom", more["B"] <= 2 + opts.seconds / 5, "%d times" % more["B"])
    for node in everyone:
        count.check("%s is alive" % node.name, node.alive(), node.log_tail())
        node.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--node", required=True)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the logs and data")
    opts = parser.parse_args()
    opts.node = os.path.abspath(opts.node)
    count = Count()
    with Scratch(opts.keep) as scratch:
        chain(count, scratch, opts)
    count.close()


if __name__ == "__main__":
    main()
