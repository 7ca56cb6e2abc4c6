#!/usr/bin/env python3
"""Planned failover with real processes: ringkeeps among themselves, and to a real kevy.

    failover.py --node BINARY [--short] [--rounds N] [--seed S] [--only TEXT] [--keep]

Clients write in pipelines to whoever takes it while the part of the primary goes to and fro; every write that was
acknowledged must be there in the end, every reply be one that belongs to its request, and both nodes hold the
same. Targets are stopped and killed at random moments, primaries too; each node is started again with the command
line that it had at first. Errors are compared with those of a redis-server, text by text.
"""

import argparse
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time

from elections import Fleet, Loopback, process_state
from kevy_replica import Proxy, shard_of
from wire import (
    Broken,
    Closed,
    Conn,
    Count,
    Scratch,
    Server,
    free_base,
    kevy_binary,
    node_server,
    redis_server,
    wait_until,
)

READONLY = b"READONLY You can't write against a read only replica."


def role(node):
    with node.conn() as c:
        return c.info("replication")["role"]


def status(node):
    """FAILOVER STATUS, its lists as dictionaries."""
    with node.conn() as c:
        # Whoever takes in a copy of everything answers nothing else, like Redis.
        told = lambda: c.call("FAILOVER", "STATUS")
        reply = wait_until("no LOADING", 30, lambda: [reply for reply in [told()] if not is_loading(reply)])[0]
    flat = reply.flat()
    found = dict(zip(flat[::2], flat[1::2]))
    found[b"outcomes"] = [dict(zip(one[::2], one[1::2])) for one in found[b"outcomes"]]
    return found


def is_loading(reply):
    if reply.is_error:
        print("    FAILOVER STATUS says %r" % reply.value)
    return reply.is_error and reply.value.startswith(b"LOADING")


def ended_so_far(node):
    """How many failovers have ended there since its start."""
    return sum(int(status(node)[b"failovers_%s_total" % kind]) for kind in (b"clean", b"forced", b"aborted", b"reclaimed"))


def outcome(node, before):
    """The outcome that came behind so many others."""
    wait_until("an outcome", 30, lambda: ended_so_far(node) > before)
    return status(node)[b"outcomes"][-1]


def stand_still(node):
    """Stops a process. Its threads go on until the first of them has taken the signal in."""
    node.proc.send_signal(signal.SIGSTOP)
    wait_until("%s is stopped" % node.name, 10, lambda: process_state(node.proc.pid) == "T", every=0.001)


def digest(node):
    with node.conn() as c:
        return c.ask("REPL.DIGEST")[:2]


def in_step(primary, replicas):
    """Everybody has what the primary has."""
    with primary.conn(60) as c:
        c.ask("SET", "step", str(random.random()))
        wait_until("replicas in step", 60, lambda: c.ask("WAIT", str(replicas), "1000") >= replicas)


def pair(scratch, args=(), threads=2, names=("a", "b")):
    """Two nodes, the second one follows the first."""
    a = node_server(scratch, OPTS.node, threads=threads, args=("--dir", "data", *args), name=names[0])
    follow = ("--dir", "data", "--replicaof", "127.0.0.1:%d" % a.port, *args)
    b = node_server(scratch, OPTS.node, threads=threads, args=follow, name=names[1])
    in_step(a, 1)
    # The first snapshot of the new data is a new beginning of the replica's journal.
    with b.conn() as c:
        wait_until("the replica's own disk", 20, lambda: c.info("persistence").get("rdb_bgsave_in_progress") == "0")
    time.sleep(0.5)
    return a, b


def hand_over(old, new, *options):
    before = ended_so_far(old)
    with old.conn(30) as c:
        c.ask("FAILOVER", "TO", "127.0.0.1", str(new.port), *options)
    return outcome(old, before)


def same(nodes):
    """All hold the same, as soon as what is on its way has arrived."""
    try:
        return wait_until("the same everywhere", 20, lambda: len({str(digest(node)) for node in nodes}) == 1)
    except TimeoutError:
        print("    digests: %r" % [(node.name, digest(node)) for node in nodes])
        return False


class Load:
    """Clients that write to whoever takes it, each with a pipeline of its own keys."""

    def __init__(self, nodes, clients=10, depth=8):
        self.nodes, self.depth = nodes, depth
        self.acked, self.wrong, self.refused = {}, [], 0
        self.longest = 0.0
        self.over = False
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run, args=(n,), daemon=True) for n in range(clients)]
        for thread in self.threads:
            thread.start()

    def run(self, name):
        conns, at, number = {}, 0, 0
        while not self.over:
            todo = [("c%d:%d" % (name, number + i), str(number + i)) for i in range(self.depth)]
            number += self.depth
            while todo and not self.over:
                node = self.nodes[at % len(self.nodes)]
                began = time.monotonic()
                try:
                    c = conns.get(node) or conns.setdefault(node, node.conn(60))
                    said = c.many([("SET", k, v) for k, v in todo])
                except (Closed, Broken, OSError) as e:
                    conns.pop(node, None)
                    if not isinstance(e, OSError) and "closed" not in str(e) and "receive" not in str(e):
                        self.wrong.append(str(e))
                    at += 1
                    time.sleep(0.01)
                    continue
                self.longest = max(self.longest, time.monotonic() - began)
                again = []
                for (k, v), reply in zip(todo, said):
                    if reply.value == b"OK":
                        with self.lock:
                            self.acked[k] = v
                    elif reply.is_error and reply.value.startswith((b"READONLY", b"LOADING")):
                        self.refused += 1
                        again.append((k, v))
                    else:
                        self.wrong.append(repr(reply.value))
                if again:
                    at += 1
                todo = again

    def stop(self):
        self.over = True
        for thread in self.threads:
            thread.join(70)

    def missing(self, node):
        """Acknowledged writes that a node does not have."""
        with node.conn(60) as c:
            keys = list(self.acked)
            count = 0
            for at in range(0, len(keys), 500):
                part = keys[at : at + 500]
                values = c.ask("MGET", *part)
                count += sum(v != self.acked[k].encode() for k, v in zip(part, values))
            return count


# ---- scenarios ----


def errors(scratch, count):
    """The same words as redis-server's."""

    def servers(kind, name):
        if kind == "redis":
            return redis_server(scratch)
        return node_server(scratch, OPTS.node, threads=1, name=name, args=("--shards", "1"))

    alone = [
        ("FAILOVER", "ABORT"),
        ("FAILOVER",),
        ("FAILOVER", "TIMEOUT", "0"),
        ("FAILOVER", "TIMEOUT", "-1"),
        ("FAILOVER", "TIMEOUT", "x"),
        ("FAILOVER", "TIMEOUT"),
        ("FAILOVER", "TO", "127.0.0.1", "x"),
        ("FAILOVER", "TO", "127.0.0.1"),
        ("FAILOVER", "FORCE"),
        ("FAILOVER", "ABORT", "TIMEOUT", "5"),
        ("FAILOVER", "TIMEOUT", "5", "ABORT"),
        ("FAILOVER", "TIMEOUT", "5", "TIMEOUT", "6"),
        ("FAILOVER", "NOW"),
        ("FAILOVER", "TO", "127.0.0.1", "1"),
    ]
    followed = [
        ("FAILOVER", "FORCE"),
        ("FAILOVER", "FORCE", "TIMEOUT", "5"),
        ("FAILOVER", "TO", "127.0.0.1", "1"),
        ("FAILOVER", "TO", "127.0.0.1", "1", "FORCE"),
        ("FAILOVER", "FORCE", "FORCE", "TIMEOUT", "5"),
    ]
    said = {}
    for kind in ("redis", "node"):
        here = said[kind] = []
        one, two = servers(kind, "one"), servers(kind, "two")
        with one.conn() as c, two.conn() as d:
            here += [(r, c.call(*r).value) for r in alone]
            d.ask("REPLICAOF", "127.0.0.1", str(one.port))
            wait_until("a replica", 30, lambda: "state=online" in c.info("replication").get("slave0", ""))
            wait_until("in step", 30, lambda: c.ask("WAIT", "1", "500") == 1)
            here += [(r, c.call(*r).value) for r in followed]
            here += [(r, d.call(*r).value) for r in (("FAILOVER",), ("FAILOVER", "ABORT"))]
            # The target stands still: the failover waits.
            stand_still(two)
            with one.conn() as e:
                e.send("SET", "k", "v")
                e.read()
            to = ("FAILOVER", "TO", "127.0.0.1", str(two.port), "TIMEOUT", "20000")
            here.append(("begin", c.call(*to).value))
            here.append(("twice", c.call("FAILOVER").value))
            here.append(("replicaof", c.call("REPLICAOF", "127.0.0.1", "1").value))
            here.append(("state", c.info("replication")["master_failover_state"]))
            here.append(("abort", c.call("FAILOVER", "ABORT").value))
            here.append(("after", c.info("replication")["master_failover_state"]))
            here.append(("write", c.call("SET", "k", "w").value))
            two.proc.send_signal(signal.SIGCONT)
        one.stop()
        two.stop()
    for (what, wanted), (_, got) in zip(said["redis"], said["node"]):
        count.check("as redis-server: %s" % " ".join(what) if isinstance(what, tuple) else "as redis-server: %s" % what,
                    wanted == got, "%r, redis-server says %r" % (got, wanted))


def to_and_fro(scratch, count):
    """The part of the primary goes back and forth under load."""
    a, b = pair(scratch)
    nodes = [a, b]
    with a.conn() as c, b.conn() as d:
        full = [int(x.info("replication")["sync_full"]) for x in (c, d)]
    load = Load(nodes)
    gaps, results = [], []
    for _ in range(OPTS.rounds):
        time.sleep(OPTS.rng.uniform(0.05, 0.4))
        old, new = nodes
        wait_until("a link", 30, lambda: "state=online" in info(old).get("slave0", ""))
        ended = hand_over(old, new)
        results.append((ended[b"result"], ended[b"reason"]))
        gaps.append(ended[b"frozen-ms"])
        if ended[b"result"] == b"clean":
            nodes.reverse()
    load.stop()
    in_step(nodes[0], 1)
    clean = [one for one, _ in results].count(b"clean")
    count.check("to and fro: all failovers are clean", clean == len(results), repr(results))
    missing = [load.missing(node) for node in nodes]
    count.check("to and fro: no acknowledged write is lost", missing == [0, 0], "%r missing" % missing)
    count.check("to and fro: no wrong reply", not load.wrong, repr(load.wrong[:3]))
    count.check("to and fro: both hold the same", same(nodes))
    with a.conn() as c, b.conn() as d:
        now = [int(x.info("replication")["sync_full"]) for x in (c, d)]
    count.check("to and fro: nobody needed all of the data", now == full, "%r, then %r" % (full, now))
    gaps.sort()
    print(
        "    %d failovers, %d writes acknowledged, without writes: median %d ms, most %d ms; %d refused"
        % (len(gaps), len(load.acked), gaps[len(gaps) // 2], gaps[-1], load.refused)
    )
    a.stop()
    b.stop()


def info(node):
    with node.conn() as c:
        return c.info("replication")


def third(scratch, count):
    """A third node that follows stays in step, without a copy of everything."""
    a, b = pair(scratch)
    follow = ("--dir", "data", "--replicaof", "127.0.0.1:%d" % a.port)
    c = node_server(scratch, OPTS.node, threads=2, args=follow, name="c")
    in_step(a, 2)
    time.sleep(1)
    load = Load([a, b], clients=4)
    nodes, gaps = [a, b], []
    full = [int(info(node)["sync_full"]) for node in (a, b)]
    for _ in range(max(2, OPTS.rounds // 5)):
        time.sleep(0.3)
        wait_until(
            "a link", 30, lambda: "port=%d,state=online" % nodes[1].port in " ".join(info(nodes[0]).values())
        )
        ended = hand_over(*nodes)
        gaps.append(ended[b"result"])
        if ended[b"result"] == b"clean":
            nodes.reverse()
    load.stop()
    count.check("third: all hold the same", same((a, b, c)))
    count.check("third: all failovers are clean", set(gaps) == {b"clean"}, repr(gaps))
    count.check("third: no acknowledged write is lost", load.missing(c) == 0, "%d missing" % load.missing(c))
    now = [int(info(node)["sync_full"]) for node in (a, b)]
    count.check("third: nobody needed all of the data", now == full, "%r, then %r" % (full, now))
    for node in (a, b, c):
        node.stop()


def held(scratch, count):
    """Writes are held back, reads are not; what was held back runs once, or is refused once."""
    for ends in ("aborted", "clean"):
        a, b = pair(scratch)
        blocked = a.conn(30)
        blocked.send("BLPOP", "nothing", "20")
        with a.conn(30) as c:
            c.ask("SET", "n", "1")
            c.ask("SET", "short", "x", "PX", "300")
            in_step(a, 1)
            before = ended_so_far(a)
            stand_still(b)
            with a.conn() as k:
                k.ask("INCR", "n")
            c.ask("FAILOVER", "TO", "127.0.0.1", str(b.port), "TIMEOUT", "1500" if ends == "aborted" else "20000")
            # The reply only says that it is begun.
            wait_until("writes are held", 10, lambda: status(a)[b"failover_phase"] == b"waiting")
            conns = [a.conn(30) for _ in range(4)]
            conns[0].send("INCR", "n")
            for words in (("MULTI",), ("INCR", "n"), ("EXEC",)):
                conns[1].send(*words)
            conns[2].send("EVAL", "return redis.call('INCR', KEYS[1])", "1", "n")
            conns[3].send("MSET", "x", "1", "y", "2", "z", "3")
            count.check("held, %s: reads go on" % ends, c.ask("GET", "n") == b"2")
            time.sleep(0.4)
            count.check("held, %s: a key whose time has come is not there" % ends, c.ask("GET", "short") is None)
            state = status(a)
            count.check("held, %s: STATUS says so" % ends, state[b"failover_phase"] == b"waiting", repr(state))
            # Nothing came back yet.
            for k in conns[:1] + conns[2:]:
                k.sock.settimeout(0.05)
                try:
                    early = k.sock.recv(1)
                except OSError:
                    early = None
                k.sock.settimeout(30)
                count.check("held, %s: a write is not answered" % ends, early is None, repr(early))
            if ends == "aborted":
                ended = outcome(a, before)
                took = ended[b"frozen-ms"]
                count.check("held: the time-out ends it", (ended[b"result"], ended[b"reason"]) == (b"aborted", b"catch-up"))
                count.check("held: when it was to", took >= 1500, "%r ms" % took)
            else:
                b.proc.send_signal(signal.SIGCONT)
                ended = outcome(a, before)
                count.check("held: it is clean", ended[b"result"] == b"clean", repr(ended))
            said = [conns[0].read(), [conns[1].read() for _ in range(3)][2], conns[2].read(), conns[3].read()]
            if ends == "aborted":
                good = [not reply.is_error for reply in said]
                count.check("held, aborted: all run", all(good), repr([r.raw for r in said]))
                count.check("held, aborted: once", c.ask("GET", "n") == b"5", repr(c.ask("GET", "n")))
                b.proc.send_signal(signal.SIGCONT)
            else:
                texts = [reply.value for reply in said]
                # What EXEC was to run is refused as a whole.
                count.check("held, clean: plain writes are refused", texts[0] == READONLY and texts[3] == READONLY, repr(texts))
                count.check("held, clean: the others too", said[1].is_error and said[2].is_error, repr(texts))
                with b.conn() as d:
                    count.check("held, clean: none has run", d.ask("GET", "n") == b"2", repr(d.ask("GET", "n")))
                reply = blocked.read()
                count.check(
                    "held, clean: who blocks is told",
                    reply.value.startswith(b"UNBLOCKED force unblock from blocking operation"),
                    repr(reply.value),
                )
            for k in conns:
                k.close()
        blocked.close()
        a.stop()
        b.stop()


def unseen(scratch, count):
    """Large writes are acknowledged, and the failover begins at once: a kevy believes a lag that may be a second
    old, and both nodes lose most of them (3 among the behaviours that kevy_primary.py lists as "wire N")."""
    a, b = pair(scratch)
    written(a, b.port, "wire 3: a ringkeep", count)
    with b.conn(60) as c:
        count.check("wire 3: a ringkeep has each large write", large_ones(c) == LARGE, "%d of %d" % (large_ones(c), LARGE))
    a.stop()
    b.stop()


# Writes of 20 kB that are acknowledged just before a failover.
LARGE = 3000


def written(node, target, name, count):
    """Writes them, has the target take over without waiting, and returns how that ended."""
    before = ended_so_far(node)
    value = "v" * 20000
    with node.conn(60) as c:
        said = c.many([("SET", "large%d" % n, value) for n in range(LARGE)])
        begun = c.call("FAILOVER", "TO", "127.0.0.1", str(target), "TIMEOUT", "20000")
    count.check("%s: all are acknowledged" % name, all(reply.value == b"OK" for reply in said))
    count.check("%s: begun" % name, begun.value == b"OK", repr(begun.value))
    ended = outcome(node, before)
    count.check("%s: clean" % name, ended[b"result"] == b"clean", repr(ended))


def large_ones(client):
    """How many of them it has, whole."""
    return sum(client.ask("STRLEN", "large%d" % n) == 20000 for n in range(LARGE))


def foreign(scratch, count):
    """Who is no replica of this primary is no target."""
    a, b = pair(scratch)
    c, d = pair(scratch, names=("c", "d"))
    with a.conn() as k:
        reply = k.call("FAILOVER", "TO", "127.0.0.1", str(d.port))
    count.check("foreign: refused", reply.value == b"ERR FAILOVER target HOST and PORT is not a replica.", repr(reply.value))
    count.check("foreign: nothing has changed", [role(n) for n in (a, b, c, d)] == ["master", "slave"] * 2)
    # A replica that is asked by a stranger, and granted what it is not ready for.
    with b.conn() as k:
        said = k.call("REPL.FAILOVER", "ASK", "00000000000000aa", "9", "0", "1", "1", "1", "1").value
        count.check("foreign: another history is refused", said == b"REFUSED it follows another history", repr(said))
        said = k.call("REPL.FAILOVER", "GRANT", "00000000000000aa", "9").value
        count.check("foreign: a grant without a question is refused", said == b"REFUSED it is over", repr(said))
        said = k.call("REPL.FAILOVER", "REVOKE", "00000000000000aa").value
        count.check("foreign: for good", said == b"REVOKED", repr(said))
    count.check("foreign: it is a replica still", role(b) == "slave")
    for node in (a, b, c, d):
        node.stop()


def rolled_back(node):
    """What a node has kept of what it gave up: shard, generation, first frame, the one behind the last, commands."""
    data, found = os.path.join(node.dir, "data"), []
    for name in sorted(os.listdir(data)):
        if name.startswith("rollback-"):
            path = os.path.join(data, name)
            numbers = [int(x) for x in name[len("rollback-") : -len(".rkj")].split("-")]
            found.append((*numbers, commands_in(path)))
            checked = subprocess.run([os.path.abspath(OPTS.node), "check", path], capture_output=True)
            if checked.returncode:
                raise RuntimeError("check: %r" % checked.stdout)
    return found


def commands_in(path):
    """The commands in a rollback file."""
    rest = subprocess.run([os.path.abspath(OPTS.node), "rollback", path], check=True, capture_output=True).stdout
    commands = []
    while rest:
        head, _, rest = rest.partition(b"\r\n")
        words = []
        for _ in range(int(head[1:])):
            head, _, rest = rest.partition(b"\r\n")
            words.append(rest[: int(head[1:])])
            rest = rest[int(head[1:]) + 2 :]
        commands.append(words)
    return commands


def on_disk(primary):
    """The replica's disk has everything: its journal has nothing to begin anew."""
    with primary.conn() as c:
        c.ask("SET", "step", str(random.random()))
        wait_until("the replica's disk", 30, lambda: c.ask("WAITAOF", "0", "1", "1000")[1] == 1)


def outcomes_on_disk(node):
    with open(os.path.join(node.dir, "data", "failover.log"), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def forced(scratch, count):
    """With FORCE a target that lacks writes takes over; what it lacks is told, and kept in files command by
    command. An empty target never takes over."""
    a, b = pair(scratch)
    wanted = sum(x[1] for x in ends(a))
    value = "v" * (256 << 10)
    before = ended_so_far(a)
    sets = [("big%d" % (n % 50), "%d:%s" % (n, value)) for n in range(400)]
    with a.conn(60) as c, a.conn() as d:
        for pair_of in sets:
            c.send("SET", *pair_of)
        wait_until("the first of them", 10, lambda: sum(x[1] for x in ends(a)) > wanted)
        d.ask("FAILOVER", "TO", "127.0.0.1", str(b.port), "FORCE", "TIMEOUT", "1", "DURABLE", "no")
        ended = outcome(a, before)
        said = [c.read() for _ in range(400)]
    good = all(reply.value in (b"OK", READONLY) for reply in said)
    count.check("forced: every write has an answer", good, repr([r.value[:60] for r in said if r.value not in (b"OK", READONLY)][:3]))
    lacks = ended[b"frontier"] - ended[b"reached"]
    fits = (ended[b"result"] == b"forced") == (lacks > 0) and ended[b"skipped"] == max(lacks, 0)
    count.check("forced: what is skipped is told", fits and ended[b"result"] in (b"clean", b"forced"), repr(ended))
    print("    %s, %d frames skipped" % (ended[b"result"].decode(), ended[b"skipped"]))
    count.check("forced: one primary", [role(a), role(b)] == ["slave", "master"])
    count.check("forced: both the same", same((a, b)))
    written = outcomes_on_disk(a)[-1]
    fits = (written["result"].encode(), written["skipped"]) == (ended[b"result"], ended[b"skipped"])
    count.check("forced: failover.log says the same", fits, repr(written))
    # The target may have gone on a little between its answer and its grant.
    kept = rolled_back(a)
    frames = sum(to - first for _, _, first, to, _ in kept)
    lost = int(info(a)["rollback_lost_frames_total"])
    fits = frames <= ended[b"skipped"] and lost == 0
    count.check("forced: what is skipped is in files", fits, "%d of %d, %d lost" % (frames, ended[b"skipped"], lost))
    told = [int(info(a)["rollback_" + name]) for name in ("files", "frames_total")]
    count.check("forced: INFO counts it", told == [len(kept), frames], "%r, %d, %d" % (told, len(kept), frames))
    taken = [pair_of for pair_of, reply in zip(sets, said) if reply.value == b"OK"]
    last = {}
    for shard in range(2):
        own = [[b"SET", k.encode(), v.encode()] for k, v in taken if shard_of(k, 2) == shard]
        files = [row for row in kept if row[0] == shard]
        inside = [words for row in files for words in row[-1] if words[0] != b"SELECT"]
        fits = len(files) <= 1 and inside == own[len(own) - len(inside) :]
        count.check("forced: shard %d: the last %d of %d commands" % (shard, len(inside), len(own)), fits)
        last.update((k, v) for _, k, v in own[: len(own) - len(inside)])
    with b.conn(60) as c:
        wrong = [k for k, v in last.items() if c.ask("GET", k) != v]
    count.check("forced: the new primary has all before them", not wrong, repr(wrong[:3]))
    # One that has just come, and has nothing yet.
    with b.conn(60) as c:
        for n in range(300):
            c.ask("SET", "more%d" % n, value)
        keys = c.ask("DBSIZE")
        follow = ("--dir", "data", "--replicaof", "127.0.0.1:%d" % b.port)
        e = node_server(scratch, OPTS.node, threads=2, args=follow, name="empty")
        said = set()
        deadline = time.monotonic() + 20
        while role(b) == "master" and time.monotonic() < deadline:
            reply = c.call("FAILOVER", "TO", "127.0.0.1", str(e.port), "TIMEOUT", "50")
            said.add(reply.value)
            time.sleep(0.01)
    with e.conn() as c:
        count.check("forced: an empty target waits for its data", c.ask("DBSIZE") == keys, "%r of %r" % (c.ask("DBSIZE"), keys))
    allowed = (b"OK", b"ERR FAILOVER target HOST and PORT is not a replica.", b"ERR FAILOVER already in progress.",
               b"ERR FAILOVER target replica is not online.", b"ERR FAILOVER is not valid when server is a replica.")
    count.check("forced: with these words", said <= set(allowed), repr(said))
    for node in (a, b, e):
        node.stop()


def given_up(scratch, count):
    """A node that was a primary follows another one: what that one lacks is kept in files, and in the right ones;
    where it lacks nothing there is none."""
    a, b = pair(scratch)
    on_disk(a)
    with b.conn() as d:
        d.ask("REPLICAOF", "NO", "ONE")
        sets = [("own%d" % n, "value %d" % n) for n in range(200)]
        for words in sets:
            d.ask("SET", *words)
        d.ask("SELECT", "3")
        d.ask("SET", "elsewhere", "x")
        wait_until("the replica's own disk", 20, lambda: d.ask("WAITAOF", "1", "0", "1000")[0] == 1)
    b.kill()
    b.start()
    with a.conn() as c, b.conn() as d:
        c.ask("SET", "meanwhile", "1")
        d.ask("REPLICAOF", "127.0.0.1", str(a.port))
    in_step(a, 1)
    count.check("given up: both the same", same((a, b)))
    kept = rolled_back(b)
    with a.conn() as c:
        digest_before = c.ask("REPL.DIGEST")[:2]
    inside = {shard: [words for row in kept if row[0] == shard for words in row[-1]] for shard in (0, 1)}
    for shard in (0, 1):
        own = [[b"SELECT", b"0"]] + [[b"SET", k.encode(), v.encode()] for k, v in sets if shard_of(k, 2) == shard]
        if shard_of("elsewhere", 2) == shard:
            own += [[b"SELECT", b"3"], [b"SET", b"elsewhere", b"x"]]
        count.check("given up: shard %d: every command" % shard, inside[shard] == own, repr(inside[shard][:4]))
    count.check("given up: INFO counts the files", info(b)["rollback_files"] == str(len(kept)) == "2")
    # As an operator would use it: what is in the files goes to the primary.
    with a.conn() as c:
        for commands in inside.values():
            for words in commands:
                c.ask(*words)
        c.ask("SELECT", "0")
        have = [c.ask("GET", k) == v.encode() for k, v in sets]
    count.check("given up: the commands can be run again", all(have))
    in_step(a, 1)
    with a.conn() as c:
        count.check("given up: and are all that was missing", c.ask("REPL.DIGEST")[:2] != digest_before and same((a, b)))
    # It has everything, so nothing is given up, also where it follows anew and after a restart.
    b.stop()
    b.start()
    in_step(a, 1)
    with b.conn() as d:
        d.ask("REPLICAOF", "NO", "ONE")
        d.ask("REPLICAOF", "127.0.0.1", str(a.port))
    in_step(a, 1)
    count.check("given up: nothing where nothing is missing", len(rolled_back(b)) == 2, repr([r[:4] for r in rolled_back(b)]))
    count.check("given up: the files outlive a restart", info(b)["rollback_files"] == "2")
    for node in (a, b):
        node.stop()


class LateProxy(Proxy):
    """The second stream is there a second after the first one."""

    def _pump(self, down, up, counted):
        if up.getpeername()[1] == self.target + 10001:
            time.sleep(1)
        super()._pump(down, up, counted)


def late(scratch, count):
    """One stream's data is there before another one is heard of: what is lacking of both is kept."""
    a, b = pair(scratch)
    on_disk(a)
    with b.conn() as d:
        old = [x[0] for x in ends(b)]
        d.ask("REPLICAOF", "NO", "ONE")
        wait_until("histories of its own", 10, lambda: own_histories(b, old))
        for n in range(100):
            d.ask("SET", "own%d" % n, "x")
        proxy = LateProxy(a.port, 2)
        d.ask("REPLICAOF", "127.0.0.1", str(proxy.base + 10000))
    in_step(a, 1)
    count.check("late: both the same", same((a, b)))
    own = sum(words[0] == b"SET" for row in rolled_back(b) for words in row[-1])
    count.check("late: everything is kept", own == 100, "%d of 100" % own)
    proxy.close()
    for node in (a, b):
        node.stop()


def refused(scratch, count):
    """A disk that takes no file: it is said, counted, and the node goes on."""
    a, b = pair(scratch)
    on_disk(a)
    with b.conn() as d:
        old = [x[0] for x in ends(b)]
        d.ask("REPLICAOF", "NO", "ONE")
        began = wait_until("histories of its own", 10, lambda: own_histories(b, old))
        for n in range(50):
            d.ask("SET", "own%d" % n, "x")
        # What is written beside the file cannot be: somebody has the name.
        for shard, (generation, first) in enumerate(began):
            name = "rollback-%d-%d-%d-%d.rkj.tmp" % (shard, generation, first, first)
            os.mkdir(os.path.join(b.dir, "data", name))
        d.ask("REPLICAOF", "127.0.0.1", str(a.port))
    wait_until("it to give up", 30, lambda: int(info(b)["rollback_lost_frames_total"]) >= 50)
    in_step(a, 1)
    count.check("refused: both the same in the end", same((a, b)))
    fields = info(b)
    count.check("refused: no file", rolled_back_names(b) == [], repr(rolled_back_names(b)))
    count.check("refused: it is counted", int(fields["rollback_lost_frames_total"]) >= 50, repr(fields))
    log = b.log_text()
    count.check("refused: it is said", "cannot be kept" in log and "LOST: about" in log, b.log_tail(20))
    for node in (a, b):
        node.stop()
    # Without a journal nothing is kept either.
    a, b = pair(scratch, args=("--appendonly", "no"), names=("c", "d"))
    with b.conn() as d:
        d.ask("REPLICAOF", "NO", "ONE")
        d.ask("REPL.TOKEN")
        for n in range(50):
            d.ask("SET", "own%d" % n, "x")
        d.ask("REPLICAOF", "127.0.0.1", str(a.port))
    in_step(a, 1)
    count.check("refused: without a journal it follows all the same", same((a, b)))
    count.check("refused: and has no files", rolled_back_names(b) == [])
    for node in (a, b):
        node.stop()


def unwritten(scratch, count):
    """A node is promoted whose journals still have no new beginning behind the full sync: what it does then is in
    no file, and each frame of it is counted."""
    a = node_server(scratch, OPTS.node, threads=2, args=("--dir", "data"), name="a")
    b = node_server(scratch, OPTS.node, threads=2, args=("--dir", "data"), name="b")
    # A new beginning needs snapshots; somebody has their names.
    names = [
        os.path.join(b.dir, "data", "snapshot-%d-%016x.rks.tmp" % (shard, seq)) for shard in range(2) for seq in range(99)
    ]
    with a.conn() as c, b.conn() as d:
        for n in range(20):
            c.ask("SET", "key%d" % n, "x")
        for name in names:
            os.mkdir(name)
        d.ask("REPLICAOF", "127.0.0.1", str(a.port))
        in_step(a, 1)
        old = [x[0] for x in ends(b)]
        d.ask("REPLICAOF", "NO", "ONE")
        wait_until("histories of its own", 10, lambda: own_histories(b, old))
        answers = [d.ask("SET", "own%d" % n, "x") for n in range(50)]
        count.check("unwritten: it takes writes", answers == [b"OK"] * 50, repr(answers[-1]))
        d.ask("REPLICAOF", "127.0.0.1", str(a.port))
        in_step(a, 1)
    # With each shard's first one goes a SELECT.
    lost = int(info(b)["rollback_lost_frames_total"])
    count.check("unwritten: what is lost is counted", 50 <= lost <= 52, "%d: %s" % (lost, b.log_tail(20)))
    count.check("unwritten: and said", "LOST" in b.log_text(), b.log_tail(20))
    count.check("unwritten: no file", rolled_back_names(b) == [], repr(rolled_back_names(b)))
    count.check("unwritten: both the same", same((a, b)))
    for name in names:
        os.rmdir(name)
    on_disk(a)
    b.kill()
    b.argv += ["--replicaof", "127.0.0.1:%d" % a.port]
    b.start()
    in_step(a, 1)
    count.check("unwritten: the new beginning comes once it can", same((a, b)))
    for node in (a, b):
        node.stop()


def own_histories(node, old):
    found = ends(node)
    return found if all(generation not in old for generation, _ in found) else None


def rolled_back_names(node):
    names = os.listdir(os.path.join(node.dir, "data"))
    return [name for name in names if name.startswith("rollback-") and name.endswith(".rkj")]


def ends(node):
    """Generation and next offset of each stream."""
    with node.conn() as c:
        flat = c.ask("REPL.TOKEN")
    return list(zip(flat[::2], flat[1::2]))


def restarts(scratch, count):
    """What a failover has said holds over restarts with the old command lines, until REPLICAOF says otherwise."""
    a, b = pair(scratch)
    with a.conn() as c:
        for n in range(1000):
            c.ask("SET", "k%d" % n, str(n))
    in_step(a, 1)
    ended = hand_over(a, b)
    count.check("restarts: clean", ended[b"result"] == b"clean", repr(ended))
    for kill in (False, True):
        for node in (a, b):
            if kill:
                node.kill()
            else:
                node.stop()
            node.start()
        wait_until("roles", 20, lambda: [role(a), role(b)] == ["slave", "master"])
        in_step(b, 1)
        count.check("restarts: roles stay, %s" % ("killed" if kill else "stopped"), same((a, b)))
    with a.conn() as c, b.conn() as d:
        c.ask("REPLICAOF", "NO", "ONE")
        d.ask("REPLICAOF", "127.0.0.1", str(a.port))
    in_step(a, 1)
    for node in (b, a):
        time.sleep(0.2)
        node.stop()
        node.start()
    wait_until("roles", 20, lambda: [role(a), role(b)] == ["master", "slave"])
    count.check("restarts: REPLICAOF is younger than the failover", True)
    a.stop()
    path = os.path.join(a.dir, "data", "failover.meta")
    with open(path, "r+b") as f:
        f.write(b"epoch 99")
    try:
        a.start(limit=5)
        text = "it serves"
    except SystemExit as e:
        text = str(e)
    count.check("restarts: a damaged record is no fresh start", "failover.meta: it is damaged" in text, text)
    b.stop()


def accidents(scratch, count):
    """Nodes are killed or stand still at any moment of a failover."""
    a, b = pair(scratch)
    nodes = [a, b]
    rng, results, confirmed = OPTS.rng, [], {}
    rounds = max(6, OPTS.rounds // 2)
    for number in range(rounds):
        old, new = nodes
        in_step(old, 1)
        with old.conn() as c:
            key = "r%d" % number
            c.ask("SET", key, "1")
            if c.ask("WAITAOF", "1", "1", "3000") == [1, 1]:
                confirmed[key] = b"1"
        before = ended_so_far(old)
        with old.conn() as c:
            c.ask("FAILOVER", "TO", "127.0.0.1", str(new.port), "TIMEOUT", "1000")
        time.sleep(rng.choice((0, 0.001, 0.003, 0.006, 0.01, 0.02)))
        victim = rng.choice(nodes)
        if rng.random() < 0.6:
            what = "kill"
            victim.kill()
            time.sleep(rng.uniform(0, 1.5))
            victim.start()
        else:
            what = "stop"
            stand_still(victim)
            time.sleep(rng.uniform(0.1, 2.5))
            victim.proc.send_signal(signal.SIGCONT)

        def settled():
            idle = all(status(node)[b"failover_phase"] == b"idle" for node in nodes)
            roles = [role(node) for node in nodes]
            idle &= all(status(node)[b"failover_phase"] == b"idle" for node in nodes)
            return roles if idle and sorted(roles) == ["master", "slave"] else None

        try:
            roles = wait_until("one primary", 30, settled)
        except TimeoutError:
            states = [(role(node), status(node)[b"failover_phase"]) for node in nodes]
            count.fail("accidents: round %d, %s of %s" % (number, what, victim.name), repr(states))
            print(old.log_tail(30), "\n---\n", new.log_tail(30))
            break
        if roles == ["slave", "master"]:
            nodes.reverse()
        results.append((what, victim is old, roles[0]))
    else:
        in_step(nodes[0], 1)
        for node in nodes:
            with node.conn() as c:
                lost = [key for key in confirmed if c.ask("GET", key) != b"1"]
            count.check("accidents: %s has every confirmed write" % node.name, not lost, repr(lost))
        count.check("accidents: %d rounds, one primary each, both the same" % rounds, same(nodes))
    a.stop()
    b.stop()


def astray(scratch, count):
    """A primary that ends while it is asked where its streams are: its client port, which closes without a byte
    and is open when it is counted, looks like a stream."""
    a, b = pair(scratch)
    with a.conn() as c:
        c.ask("SET", "key", "1")
    in_step(a, 1)
    with b.conn() as c:
        c.ask("REPLICAOF", "NO", "ONE")
    a.stop()
    dying = socket.socket()
    dying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    dying.bind(("127.0.0.1", a.port))
    dying.listen(8)
    dying.settimeout(20)
    with b.conn() as c:
        c.ask("REPLICAOF", "127.0.0.1", str(a.port))
    for _ in range(2):
        dying.accept()[0].close()
    dying.close()
    wait_until("it to be led astray", 20, lambda: "1 stream(s) from port %d" % a.port in b.log_text())
    a.start()
    try:
        in_step(a, 1)
        count.check("astray: it finds the streams of the primary in the end", same((a, b)))
    except TimeoutError as error:
        count.fail("astray: it finds the streams of the primary in the end", "%s\n%s" % (error, b.log_tail(12)))
    for node in (a, b):
        node.stop()


def kevys(scratch, count):
    """A kevy takes over, and ours follows it."""
    for version in ("7.0.0", "5.4.0"):
        binary = kevy_binary(version)
        if binary is None:
            count.fail("kevy %s" % version, "tests/peers.sh has not built it")
            continue
        name = "kevy %s" % version
        a = node_server(scratch, OPTS.node, threads=1, name="for-kevy", args=("--dir", "data", "--shards", "1"))
        port = free_base()
        folder = scratch.sub("kevy-%s" % version)
        with open(os.path.join(folder, "kevy.toml"), "w") as f:
            f.write(
                '[server]\nbind = "127.0.0.1"\nport = %d\nthreads = 1\ndata_dir = "%s"\n'
                '[replication]\nrole = "replica"\nupstream = "127.0.0.1:%d"\n' % (port, folder, a.port + 10000)
            )
        argv = [binary, "--config", os.path.join(folder, "kevy.toml")]
        k = Server("kevy", argv, port, folder).start()
        with a.conn(60) as c:
            for n in range(500):
                c.ask("SET", "k%d" % n, str(n))
            wait_until("%s in step" % name, 60, lambda: c.ask("WAIT", "1", "1000") == 1)
            fields = c.info("replication")
            target = dict(x.split("=", 1) for x in fields["slave0"].split(","))
            count.check("%s: it tells its port" % name, target["port"] == str(port), repr(target))
            written(a, port, "wire 3: %s" % name, count)
            count.check("%s: writes are refused here" % name, c.call("SET", "x", "1").value == READONLY)
            with k.conn() as d:
                d.ask("SET", "new", "1")
                have = [d.ask("GET", "k%d" % n) for n in range(500)]
                found = large_ones(d)
            count.check("%s: it has everything" % name, have == [b"%d" % n for n in range(500)])
            count.check("wire 3: %s has each large write" % name, found == LARGE, "%d of %d" % (found, LARGE))
            wait_until("ours follows %s" % name, 60, lambda: c.call("GET", "new").value == b"1")
            count.check("%s: ours follows" % name, c.ask("GET", "k499") == b"499")
        k.stop()
        a.stop()


def elected(scratch, count):
    """Members of elections: the part is handed over by votes, at once, and the epoch goes up by one."""
    fleet = Fleet(scratch, OPTS, Loopback(3), "three", 2000)
    fleet.start()
    primary = fleet.settled()
    nodes = [m.server for m in fleet.members]
    with primary.conn(60) as c:
        wait_until("all in step", 30, lambda: c.ask("WAIT", "2", "1000") == 2)
    for node in nodes:
        # As in a pair: the journals of those who got a copy begin anew.
        with node.conn() as c:
            wait_until("its own disk", 20, lambda: c.info("persistence").get("rdb_bgsave_in_progress") == "0")
    time.sleep(0.5)
    full = [int(info(node)["sync_full"]) for node in nodes]
    load = Load(nodes)
    gaps, bad, stood_still = [], [], 0
    for turn in range(max(20, OPTS.rounds)):
        time.sleep(OPTS.rng.uniform(0.05, 0.4))
        primary = fleet.settled()
        others = [m for m in fleet.members if m is not primary]
        OPTS.rng.shuffle(others)
        to, third = others
        online = "port=%d,state=online" % to.port
        wait_until("a link", 30, lambda: online in " ".join(primary.info().values()))
        epoch = int(primary.info()["role_epoch"])
        before = ended_so_far(primary.server)
        stops = {2: third, 4: to}.get(turn % 5)
        if stops:
            stood_still += 1
            stops.pause()
        with primary.conn(30) as c:
            place = ("NODE", to.id) if turn % 3 == 1 else ("127.0.0.1", str(to.port))
            named = ("TO", *place) if stops or turn % 3 else ()
            reply = c.call("FAILOVER", *named, "TIMEOUT", "300" if stops is to else "5000")
        if reply.value != b"OK":
            bad.append((turn, reply.value))
            stops and stops.resume()
            continue
        ended = outcome(primary.server, before)
        if stops:
            time.sleep(OPTS.rng.uniform(0, 0.5))
            stops.resume()
        found = (ended[b"result"], ended[b"reason"], ended[b"old-epoch"], ended[b"new-epoch"])
        if stops is to:
            wanted = (b"aborted", b"catch-up", epoch, epoch)
        else:
            wanted = (b"clean", b"", epoch, epoch + 1)
            gaps.append(ended[b"frozen-ms"])
        if found != wanted:
            bad.append((turn, found, wanted))
        now = wait_until("one primary", 30, fleet.primary)
        if {int(m.info()["role_epoch"]) for m in fleet.members} != {wanted[3]}:
            bad.append((turn, "epochs", [m.info()["role_epoch"] for m in fleet.members]))
        if (now is primary) != (stops is to) or (named and stops is not to and now is not to):
            bad.append((turn, "primary", now.id))
    load.stop()
    count.check("elected: each is clean, or aborted at its time-out", not bad, repr(bad[:5]))
    primary = fleet.settled()
    in_step(primary.server, 2)
    missing = [load.missing(node) for node in nodes]
    count.check("elected: no acknowledged write is lost", missing == [0, 0, 0], "%r missing" % missing)
    count.check("elected: no wrong reply", not load.wrong, repr(load.wrong[:3]))
    count.check("elected: all hold the same", same(nodes))
    now = [int(info(node)["sync_full"]) for node in nodes]
    count.check("elected: nobody needed all of the data", now == full, "%r, then %r" % (full, now))
    gaps.sort()
    print(
        "    %d handed over, %d with a member stopped, %d writes acknowledged, without writes: median %d ms, most %d ms"
        % (len(gaps), stood_still, len(load.acked), gaps[len(gaps) // 2], gaps[-1])
    )
    with others[0].conn() as c:
        reply = c.call("FAILOVER")
        is_replica = others[0] is not primary
        count.check(
            "elected: only the primary hands over",
            not is_replica or reply.value == b"ERR FAILOVER is not valid when server is a replica.",
            repr(reply.value),
        )
    with primary.conn() as c:
        reply = c.call("FAILOVER", "TO", "NODE", "nobody").value
        text = b"ERR FAILOVER target is no member of the elections."
        count.check("elected: a name that nobody has is refused", reply == text, repr(reply))
    # And an election works as ever.
    primary.server.kill()
    rest = [m for m in fleet.members if m is not primary]

    def leads():
        for m in rest:
            with m.conn(3.0) as c:
                if not c.call("SET", "after", "1").is_error:
                    return m

    heir = wait_until("somebody else", 30, leads)
    count.check("elected: a lost primary is replaced", load.missing(heir.server) == 0)
    primary.server.start()
    fleet.settled()
    for m in fleet.members:
        m.server.stop()


class Folder:
    """A part of the folder for the servers' data."""

    def __init__(self, scratch, name):
        self.scratch, self.name = scratch, name

    def sub(self, name):
        return self.scratch.sub(os.path.join(self.name, name))


def elected_with_kevy(scratch, count):
    """A kevy follows whoever is handed the part, and is handed nothing."""
    version = "7.0.0"
    if kevy_binary(version) is None:
        return count.fail("elected, kevy %s" % version, "tests/peers.sh has not built it")
    fleet = Fleet(Folder(scratch, "with-kevy"), OPTS, Loopback(3), "with-7.0", 5000)
    fleet.start()
    primary = fleet.settled()
    # Who was started may have promised something before, and does not stand for a while.
    time.sleep(6)
    while not primary.is_ringkeep:
        primary.server.kill()
        time.sleep(12)
        primary.server.start()
        primary = fleet.settled()
    kevy = fleet.members[2]
    with primary.conn(30) as c:
        ports = lambda: [port for port in (m.port for m in fleet.members) if "port=%d," % port in str(c.info("replication"))]
        wait_until("two replicas", 60, lambda: len(ports()) == 2)
        reply = c.call("FAILOVER", "TO", "127.0.0.1", str(kevy.port))
        text = b"ERR FAILOVER target is a kevy, which cannot be told to stand."
        count.check("elected, kevy: it is handed nothing", reply.value == text, repr(reply.value))
    ringkeeps = [m for m in fleet.members if m.is_ringkeep]
    # Each stream that a ringkeep is given as a whole.
    given = lambda: sum(
        bool(re.search(r"\+ringkeep\d+\".*gets a snapshot", line))
        for m in ringkeeps
        for line in m.server.log_text().splitlines()
    )
    given_before = given()
    for turn in range(4):
        primary = wait_until("one primary", 60, fleet.primary)
        to = [m for m in ringkeeps if m is not primary][0]
        epoch = int(primary.info()["role_epoch"])
        before = ended_so_far(primary.server)
        with primary.conn(30) as c:
            c.ask("SET", "turn", str(turn))
            wait_until("online", 30, lambda: "port=%d,state=online" % to.port in " ".join(primary.info().values()))
            reply = c.call("FAILOVER", "TIMEOUT", "5000")
            count.check("elected, kevy %d: begun" % turn, reply.value == b"OK", repr(reply.value))
        ended = outcome(primary.server, before)
        found = (ended[b"result"], ended[b"reason"], ended[b"new-epoch"])
        count.check("elected, kevy %d: clean" % turn, found == (b"clean", b"", epoch + 1), repr(found))
        now = wait_until("one primary", 60, fleet.primary)
        count.check("elected, kevy %d: the other ringkeep leads" % turn, now is to, now.id)
        fleet.settled()
        with now.conn() as c, kevy.conn() as k:
            c.ask("SET", "turn", "after %d" % turn)
            has = lambda: k.call("GET", "turn").value == b"after %d" % turn
            wait_until("the kevy has it", 30, has)
    # The old primary goes on behind the new one, though it had kevys to look after.
    count.check("elected, kevy: no ringkeep loads anew", given() == given_before, "%d times" % (given() - given_before))
    for m in fleet.members:
        m.server.stop()


SCENARIOS = (
    errors,
    to_and_fro,
    third,
    held,
    unseen,
    foreign,
    forced,
    given_up,
    late,
    refused,
    unwritten,
    restarts,
    accidents,
    astray,
    kevys,
    elected,
    elected_with_kevy,
)


def main():
    global OPTS
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--node", required=True)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", action="store_true")
    OPTS = parser.parse_args()
    OPTS.rounds = OPTS.rounds or (12 if OPTS.short else 50)
    OPTS.rng = random.Random(OPTS.seed)
    count = Count()
    with Scratch(OPTS.keep) as scratch:
        for scenario in SCENARIOS:
            if OPTS.only in scenario.__name__:
                try:
                    scenario(scratch, count)
                except (TimeoutError, Closed, Broken, OSError, RuntimeError) as e:
                    count.fail(scenario.__name__, "%s: %s" % (type(e).__name__, e))
                    for server in list(Server.running):
                        print("--- %s\n%s" % (server.name, server.log_tail(15)))
                for server in list(Server.running):
                    server.stop()
    return count.close()


if __name__ == "__main__":
    raise SystemExit(main())
