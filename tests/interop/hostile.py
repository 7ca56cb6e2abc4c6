#!/usr/bin/env python3
"""Clients and peers that mean harm, beside one that does not.

    hostile.py --node BINARY [--seconds N] [--connections N] [--down-after MS] [--only NAME,..]

Three members elect a primary. One client asks it for something 500 times a second, on a connection of its own
and at fixed times, whatever is answered when. Then one attack after the other, on every port: slow bytes,
crowds, promises, requests and pipelines without end, replies that nobody reads, frames with flipped bits,
connections that come and go, clients that block by the thousand, scripts that do not end. A node of its own
runs out of descriptors and out of memory.

Asserted of each attack: no request of the well-behaved client fails; no member changes its part or its epoch,
and no election is begun; nothing panics; memory, clients and descriptors return to their level; INFO tells what
was cut and why. How long the well-behaved client waited is told, calm beside attacked and without the times when
the machine stood still, and not asserted: a machine that others use, too, says little about that. Where there are two CPUs the primary has the first one,
and everybody else the second.

--seconds is about how long all attacks take together (20); --connections (1000) is the size of crowds. Members
wait for heartbeats as long as they do by default (5000); with less, on a machine without other work, lost ones show
sooner.
"""

import argparse
import collections
import itertools
import json
import multiprocessing
import os
import random
import resource
import select
import socket
import struct
import sys
import time

import elections
from stalls import Stalls, without
from wire import Broken, Closed, Conn, Count, Scratch, Server, encode, free_base, wait_until

RATE = 500
# The memory of a process is given back by its allocator, which keeps some.
RSS_SLACK = 96 << 20
USED_SLACK = 8 << 20
SETTLE_S = 20
GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden")
GONE = (OSError, Closed, Broken)


# ---------------------------------------------------------------------------------------------
# The well-behaved client, a process of its own


def behave(addr, path, halt):
    """Asks at fixed times; writes down when each request was due and how long its reply took."""
    try:
        # Otherwise it would wait for those who attack, too, which are on its CPU.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        print("        the well-behaved client shares its CPU with the others", flush=True)
    sock = socket.create_connection(addr, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    with open(path, "ab", buffering=0) as out:
        due, n, waits, got = time.monotonic(), 0, collections.deque(), b""
        row = lambda at, span: out.write(struct.pack("dd", at, span))
        while not halt.is_set():
            now = time.monotonic()
            while due <= now:
                n += 1
                text = b"%012d" % n
                sock.sendall(encode(["SET", "neighbour", text]) + encode(["GET", "neighbour"]))
                waits.append((due, b"+OK\r\n$12\r\n" + text + b"\r\n"))
                due += 1 / RATE
            ready, _, _ = select.select([sock], [], [], max(0, min(0.1, due - time.monotonic())))
            if ready:
                try:
                    part = sock.recv(1 << 16)
                except ConnectionError:
                    part = b""
                if not part:
                    return row(-1, 0)
                got += part
            while waits and len(got) >= len(waits[0][1]):
                at, want = waits.popleft()
                if got[: len(want)] != want:
                    print("        the well-behaved client got %r" % got[:200], flush=True)
                    return row(-2, 0)
                got = got[len(want) :]
                row(at, time.monotonic() - at)
            if waits and time.monotonic() - waits[0][0] > 30:
                return row(-3, 0)


class Steady:
    FAULTS = {-1.0: "its connection was closed", -2.0: "a reply was wrong", -3.0: "no reply within 30 s"}

    def __init__(self, addr, path):
        self.addr, self.path, self.halt = addr, path, multiprocessing.Event()
        open(path, "wb").close()
        self.proc = multiprocessing.Process(target=behave, args=(addr, path, self.halt), daemon=True)
        self.proc.start()

    def rows(self):
        with open(self.path, "rb") as f:
            data = f.read()
        return list(struct.iter_unpack("dd", data[: len(data) // 16 * 16]))

    def between(self, since, until, stalls=()):
        """How long the requests of a time took, but for when a CPU stood still."""
        found, stalls = [], sorted(stalls)
        first = 0
        for at, span in sorted(self.rows()):
            if since <= at < until:
                while first < len(stalls) and stalls[first][1] < at:
                    first += 1
                near = itertools.takewhile(lambda stall: stall[0] < at + span, stalls[first:])
                found.append(without(at, at + span, near))
        return sorted(found)

    def trouble(self):
        faults = [self.FAULTS[at] for at, _ in self.rows() if at in self.FAULTS]
        if not faults and not self.proc.is_alive() and not self.halt.is_set():
            faults = ["it ended with %s" % self.proc.exitcode]
        return faults

    def restart(self, addr):
        self.finish()
        self.__init__(addr, self.path)

    def finish(self):
        self.halt.set()
        self.proc.join(5)
        if self.proc.is_alive():
            self.proc.terminate()


def quantiles(spans):
    """The median, 99 and 99.9 of a hundred, in milliseconds."""
    if not spans:
        return (float("nan"),) * 3
    return tuple(1000 * spans[min(len(spans) - 1, int(len(spans) * part))] for part in (0.5, 0.99, 0.999))


# ---------------------------------------------------------------------------------------------
# What is attacked


class Level:
    """What a process holds, to compare with later."""

    def __init__(self, server):
        with open("/proc/%d/status" % server.proc.pid, encoding="ascii") as f:
            fields = dict(line.split(":", 1) for line in f if ":" in line)
        self.rss = int(fields["VmRSS"].split()[0]) << 10
        self.fds = len(os.listdir("/proc/%d/fd" % server.proc.pid))
        with server.conn(10) as c:
            # One string, so that the buffer of the reply before is not counted.
            self.used = int(c.info("memory")["used_memory"])
            self.clients = int(c.info("clients")["connected_clients"])
            self.stats = c.info("stats")

    def above(self, before):
        """What has not come back."""
        found = []
        if self.rss > before.rss + RSS_SLACK:
            found.append("RSS %d MiB, before %d" % (self.rss >> 20, before.rss >> 20))
        if self.used > before.used + USED_SLACK:
            found.append("used_memory %d MiB, before %d" % (self.used >> 20, before.used >> 20))
        if self.clients > before.clients:
            found.append("%d clients, before %d" % (self.clients, before.clients))
        if self.fds > before.fds + 6:
            found.append("%d descriptors, before %d" % (self.fds, before.fds))
        return found


def returned(server, before, limit=SETTLE_S):
    """Waits until a server is back at its level; what is not, at the end."""
    end = time.monotonic() + limit
    while True:
        try:
            found = Level(server).above(before)
        except GONE as e:
            found = ["it does not answer: %s" % e]
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.1)


CPUS = sorted(os.sched_getaffinity(0))


def cpus():
    return CPUS


def place(pid, on):
    """Has all threads of a process on these CPUs."""
    for tid in os.listdir("/proc/%d/task" % pid):
        os.sched_setaffinity(int(tid), on)


class Target:
    """The three members, and where the primary listens."""

    def __init__(self, scratch, opts):
        self.down_after = opts.down_after
        self.fleet = elections.Fleet(scratch, opts, elections.Loopback(3), "three", opts.down_after)
        for m in self.fleet.members:
            argv = m.server.argv
            argv[argv.index("--threads") + 1] = str(opts.threads)
            m.control = os.path.join(m.server.dir, "control")
            argv += ["--handoff-socket", m.control]
        self.fleet.start()
        self.find_primary()

    def find_primary(self):
        self.primary = self.fleet.settled()
        self.server = self.primary.server
        self.addr = self.server.addr
        for m in self.fleet.members if len(cpus()) > 1 else ():
            place(m.server.proc.pid, cpus()[:1] if m is self.primary else cpus()[1:])
        host, port = self.addr
        self.replication = [(host, port + 10000 + n) for n in range(elections.SHARDS)]
        self.election = (host, port + 200)
        self.control = self.primary.control
        self.ports = {"client": self.addr, "election": self.election}
        self.ports.update(("replication %d" % n, at) for n, at in enumerate(self.replication))

    def parts(self):
        """Part, epoch and primary of each member, and what each says of elections."""
        found = {}
        for m in self.fleet.members:
            info = m.info()
            found[m.id] = [info.get(k) for k in ("node_role", "role_epoch", "elect_primary")]
        return found

    def dial(self, at):
        if isinstance(at, str):
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(5)
            s.connect(at)
            return s
        return socket.create_connection(at, 5)

    def set(self, *pairs):
        with self.server.conn() as c:
            c.ask("CONFIG", "SET", *pairs)

    def info(self, section="stats"):
        with self.server.conn() as c:
            return c.info(section)


def flow(sock, data, until):
    """Sends as much as the other side takes; how much that was, and whether it closed."""
    sock.setblocking(False)
    sent, view = 0, memoryview(data)
    while time.monotonic() < until:
        try:
            # Where a send was cut short, the next one goes on there.
            sent += sock.send(view[sent % len(data) :])
        except BlockingIOError:
            select.select([], [sock], [], 0.05)
        except OSError:
            return sent, True
    return sent, False


def is_closed(sock, limit=2.0):
    """Does the other side close? What it says before that is taken in."""
    sock.settimeout(limit)
    end = time.monotonic() + limit
    try:
        while time.monotonic() < end:
            if not sock.recv(1 << 16):
                return True
    except socket.timeout:
        return False
    except OSError:
        return True
    return False


def close_all(socks):
    for s in socks:
        s.close()


def mutated(rng, data):
    """The same with one bit flipped, cut off, or with a piece twice."""
    data, p = bytearray(data), rng.random()
    at = rng.randrange(len(data))
    if p < 0.6:
        data[at] ^= 1 << rng.randrange(8)
    elif p < 0.8:
        del data[at:]
    else:
        data[at:at] = data[at : at + rng.randrange(1, 200)]
    return bytes(data)


# ---------------------------------------------------------------------------------------------
# The attacks: each gets the target and the time when it is to end, and says what is wrong


def slow_bytes(t, until):
    """A byte now and then on every port, of requests that never end."""
    request = encode(["SET", "slow", "x" * 1000])
    hello = {"client": request, "election": b"*5\r\n$2\r\nHB\r\n$1\r\n3\r\n$1\r\nz\r\n"}
    socks = []
    for name, at in t.ports.items():
        data = hello.get(name, encode(["REPLICATE", "FROM", "1", "0", "ID", "z" * 50]))
        socks += [(t.dial(at), data) for _ in range(40)]
    socks += [(t.dial(t.control), bytes.fromhex("0e000000")) for _ in range(10)]
    n = 0
    while time.monotonic() < until:
        for s, data in socks:
            try:
                s.send(data[n % len(data) :][:1] if n < len(data) else b"")
            except OSError:
                pass
        n += 1
        time.sleep(min(1, max(0.05, (until - time.monotonic()) / 10)))
    close_all(s for s, _ in socks)


def crowd(t, until):
    """Idle connections, as many as there may be."""
    socks = []
    for _ in range(t.connections):
        socks.append(t.dial(t.addr))
    for i in range(0, len(socks), 500):
        for s in socks[i : i + 500]:
            s.sendall(b"PING\r\n")
        for s in socks[i : i + 500]:
            got = s.recv(100)
            if got != b"+PONG\r\n":
                return "one of %d got %r" % (len(socks), got)
    wait_until("all are counted", 10, lambda: int(t.info("clients")["connected_clients"]) >= t.connections)
    time.sleep(max(0, until - time.monotonic()))
    close_all(socks)


def too_many(t, until):
    """More clients than maxclients: they are told so, and counted."""
    before = int(t.info()["rejected_connections"])
    present = int(t.info("clients")["connected_clients"])
    with t.server.conn() as c:
        most = c.ask("CONFIG", "GET", "maxclients")[1]
    t.set("maxclients", str(present + 20))
    try:
        socks, told = [], 0
        while time.monotonic() < until or not told:
            socks += [t.dial(t.addr) for _ in range(60)]
            for s in socks:
                s.settimeout(0.01)
                try:
                    told += s.recv(100) == b"-ERR max number of clients reached\r\n"
                except OSError:
                    pass
            close_all(socks)
            socks = []
    finally:
        # This one may have to wait for the others to be gone.
        wait_until("there is room", 10, lambda: t.set("maxclients", most) is None)
    wait_until("they are counted", 5, lambda: int(t.info()["rejected_connections"]) - before >= told)


def promises(t, until):
    """Headers that promise terabytes are not believed in advance."""
    before = Level(t.server)
    socks = []
    for data in (b"*1000000\r\n$536870912\r\n", b"*2147483647\r\n$3\r\nSET\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n"):
        for _ in range(20):
            s = t.dial(t.addr)
            s.sendall(data + b"x" * 1000)
            socks.append(s)
    time.sleep(max(0.3, until - time.monotonic()))
    grown = Level(t.server).rss - before.rss
    close_all(socks)
    # Each may have been given a first step of 1 MiB, which is memory only where it was written to.
    return None if grown < 64 << 20 else "60 promises made it grow by %d MiB" % (grown >> 20)


def endless_request(t, until):
    """Requests without end are cut at client-query-buffer-limit: one large argument, countless small ones, a
    transaction that is never run."""
    before = int(t.info()["client_query_buffer_limit_disconnections"])
    t.set("client-query-buffer-limit", "4mb")
    try:
        floods = (
            (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n", b"x" * (1 << 20)),
            (b"*2147483647\r\n", b"$1\r\nx\r\n" * 100000),
            (encode(["MULTI"]), encode(["SET", "k", "x" * 1000]) * 500),
        )
        for first, rest in floods:
            s = t.dial(t.addr)
            s.sendall(first)
            sent, closed = flow(s, rest, time.monotonic() + 15)
            s.close()
            if not closed:
                return "%r was taken in for %d bytes" % (first, sent)
            if sent > 64 << 20:
                return "%d bytes behind %r were taken in" % (sent, first)
    finally:
        t.set("client-query-buffer-limit", "1gb")
    time.sleep(max(0, until - time.monotonic()))
    counted = lambda: int(t.info()["client_query_buffer_limit_disconnections"]) - before
    wait_until("all three are counted", 5, lambda: counted() == 3)


def unread_replies(t, until):
    """Clients that ask for megabytes and read nothing: what they are owed stays bounded, and with a limit they
    are closed."""
    with t.server.conn() as c:
        c.ask("SET", "blob", "x" * 1000000)
        c.many([["RPUSH", "list"] + ["y" * 1000] * 1000] * 4)
    before, socks = Level(t.server), []
    try:
        for _ in range(10):
            s = t.dial(t.addr)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.settimeout(0.2)
            socks.append(s)
            try:
                s.sendall(encode(["GET", "blob"]) * 600)
            except OSError:
                pass
        time.sleep(max(0.3, until - time.monotonic()))
        with t.server.conn() as c:
            owed = int(c.info("memory")["mem_clients_normal"])
        grown = Level(t.server).rss - before.rss
        if grown > 200 << 20:
            return "10 clients made it grow by %d MiB" % (grown >> 20)
        close_all(socks)
        counted = "client_output_buffer_limit_disconnections"
        cut = int(t.info()[counted])
        t.set("client-output-buffer-limit", "normal 2mb 0 0")
        s = t.dial(t.addr)
        socks.append(s)
        s.sendall(encode(["LRANGE", "list", "0", "-1"]))
        if not is_closed(s, 10):
            return "a reply of 4 MB passes a limit of 2 MB"
        wait_until("it is counted", 5, lambda: int(t.info()[counted]) == cut + 1)
    finally:
        close_all(socks)
        t.set("client-output-buffer-limit", "normal 0 0 0")
        with t.server.conn() as c:
            c.ask("DEL", "blob", "list")
    return None if owed > 1 << 20 else "10 clients that read nothing are counted with %d bytes" % owed


def unread_messages(t, until):
    """Listeners, monitors and trackers that read nothing, one of them blocked: the limit of their class holds."""
    counted = "client_output_buffer_limit_disconnections"
    before, cut = Level(t.server), int(t.info()[counted])
    t.set("client-output-buffer-limit", "pubsub 2mb 0 0")
    ways = (
        encode(["SUBSCRIBE", "flood"]),
        encode(["MONITOR"]),
        encode(["HELLO", "3"]) + encode(["CLIENT", "TRACKING", "ON", "BCAST"]),
        encode(["HELLO", "3"]) + encode(["CLIENT", "TRACKING", "ON", "BCAST"]) + encode(["BLPOP", "never", "0"]),
    )
    socks = []
    try:
        for way in ways:
            for _ in range(3):
                s = socket.socket()
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                s.connect(t.addr)
                s.sendall(way)
                socks.append(s)
        text, n, end = "y" * 100000, 0, time.monotonic() + 60
        with t.server.conn(30) as c:
            while time.monotonic() < end and int(t.info()[counted]) - cut < len(socks):
                # Long names are what trackers are told.
                c.many([["PUBLISH", "flood", text]] * 10 + [["SET", "k%d%s" % (n + i, text), ""] for i in range(10)])
                c.many([["DEL", "k%d%s" % (n + i, text)] for i in range(10)])
                n += 10
        closed = int(t.info()[counted]) - cut
        grown = Level(t.server).rss - before.rss
    finally:
        close_all(socks)
        t.set("client-output-buffer-limit", "pubsub 32mb 8mb 60")
    time.sleep(max(0, until - time.monotonic()))
    if closed != len(socks):
        return "%d of %d were closed" % (closed, len(socks))
    return None if grown < 300 << 20 else "grew by %d MiB" % (grown >> 20)


def flood(addr, data, until, reads):
    s = socket.create_connection(addr, 5)
    s.setblocking(False)
    view = memoryview(data)
    at = 0
    while time.monotonic() < until:
        r, w, _ = select.select([s] if reads else [], [s], [], 0.1)
        try:
            if r and not s.recv(1 << 18):
                return
            if w:
                # Where a send was cut short, the next one goes on there.
                at = (at + s.send(view[at:])) % len(data)
        except BlockingIOError:
            pass
        except OSError:
            return


def floods(t, until, data, count, reads):
    if len(cpus()) > 1:
        os.sched_setaffinity(0, cpus()[1:])
    procs = [
        multiprocessing.Process(target=flood, args=(t.addr, data, until, reads), daemon=True) for _ in range(count)
    ]
    for p in procs:
        p.start()
    for p in procs:
        p.join(30)
        if p.is_alive():
            p.kill()


def endless_pipeline(t, until):
    """Clients that send requests without a pause and read the replies."""
    before = int(t.info()["client_turns_ended"])
    floods(t, until, encode(["SET", "pipe", "v"]) * 4000 + encode(["PING"]) * 4000, 3, True)
    wait_until("some had to wait for the next turn", 5, lambda: int(t.info()["client_turns_ended"]) > before)


def slow_pipeline(t, until):
    """The same with requests that take long each."""
    with t.server.conn() as c:
        c.many([["SADD", "members"] + ["m%d" % (1000 * n + i) for i in range(1000)] for n in range(20)])
    floods(t, until, encode(["SINTERCARD", "2", "members", "members"]) * 400, 3, True)
    with t.server.conn() as c:
        c.ask("DEL", "members")


def malformed_replication(t, until):
    """Handshakes and streams with flipped bits on the replication ports."""
    rng = random.Random(11)
    folder = os.path.join(GOLDEN, "kevy", "7.0.0")
    seeds = [encode(["REPLICATE", "FROM", "5", "100", "ID", "z"]), b"REPLICATE FROM 0 0 ID z\r\n"]
    for name in sorted(os.listdir(folder)):
        if name.endswith(".bin"):
            with open(os.path.join(folder, name), "rb") as f:
                seeds.append(f.read()[:20000])
    mangle(t, until, rng, t.replication, [s for s in seeds if s])


def malformed_election(t, until):
    """Messages with flipped bits on the port of elections. They name a member that there is not: a message that
    is well-formed and names one is believed, as members have no other way to know each other."""
    with open(os.path.join(GOLDEN, "elect", "messages.bin"), "rb") as f:
        seed = f.read()
    for name in b"abc":
        seed = seed.replace(b"\r\n$1\r\n%c\r\n" % name, b"\r\n$1\r\nz\r\n")
    cut = int(t.info("replication")["elect_connections_cut"])
    mangle(t, until, random.Random(12), [t.election], [seed, b"*9\r\n" * 50, b"\xff" * 20000])
    wait_until("some are cut", 5, lambda: int(t.info("replication")["elect_connections_cut"]) > cut)


def malformed_handoff(t, until):
    """Frames with flipped bits where supervisors connect."""
    with open(os.path.join(GOLDEN, "handoff", "frames.json"), "r", encoding="utf-8") as f:
        seeds = [bytes.fromhex(row["hex"]) for row in json.load(f) if row.get("hex")]
    mangle(t, until, random.Random(13), [t.control], seeds)


def mangle(t, until, rng, places, seeds):
    first = True
    while first or time.monotonic() < until:
        first = False
        socks = []
        for _ in range(12):
            try:
                s = t.dial(rng.choice(places))
            except OSError:
                continue
            data = b"".join(mutated(rng, rng.choice(seeds)) for _ in range(rng.randrange(1, 4)))
            if data:
                flow(s, data, time.monotonic() + 0.02 if len(data) > 100000 else time.monotonic() + 0.001)
            socks.append(s)
        time.sleep(0.02)
        close_all(socks)


def storm(t, until):
    """Connections to every port that come and go, half of them reset."""
    ports = list(t.ports.values()) + [t.control]
    n = 0
    while time.monotonic() < until:
        for at in ports:
            n += 1
            try:
                s = t.dial(at)
                if n % 2 and not isinstance(at, str):
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.close()
            except OSError:
                pass
    return None if n > 100 else "only %d connections" % n


def blocked(t, until):
    """Clients that block by the thousand, on one key and on many."""
    socks, count = [], t.connections
    for n in range(count):
        s = t.dial(t.addr)
        s.sendall(encode(["BLPOP", "one" if n % 2 else "key%d" % n, "0"]))
        socks.append(s)
    wait_until("all block", 20, lambda: int(t.info("clients")["blocked_clients"]) >= count)
    with t.server.conn() as c:
        c.ask("RPUSH", "one", *["x"] * (count // 2))
    wait_until("half are served", 20, lambda: int(t.info("clients")["blocked_clients"]) <= count - count // 2)
    time.sleep(max(0, until - time.monotonic()))
    close_all(socks)


def watchers(t, until):
    """Clients that make the node remember: keys that they watch, channels that they listen to."""
    s = [t.dial(t.addr) for _ in range(4)]
    for n, one in enumerate(s):
        words = ["WATCH", "SUBSCRIBE"][n % 2]
        names = ["%s-%d-%d" % (words, n, i) for i in range(20000)]
        one.sendall(encode([words] + names))
    time.sleep(max(0, until - time.monotonic()))
    close_all(s)


ATTACKS = [
    slow_bytes,
    crowd,
    too_many,
    promises,
    endless_request,
    unread_replies,
    unread_messages,
    endless_pipeline,
    slow_pipeline,
    malformed_replication,
    malformed_election,
    malformed_handoff,
    storm,
    blocked,
    watchers,
]


# ---------------------------------------------------------------------------------------------
# What is seen of it


class Table:
    ROW = "%-22s %8s %8s %8s  %8s %8s %8s  %6s %8s %7s %7s"

    def __init__(self):
        self.rows = []

    def add(self, name, calm, attacked, stood_still, before, after):
        ratio = attacked[2] / calm[2] if calm[2] else float("nan")
        times = ["%.2f" % ms for ms in calm + attacked]
        self.rows.append((name, *times, "%.1f" % ratio, "%.1f" % stood_still, before.rss >> 20, after.rss >> 20))

    def show(self):
        print("\nmilliseconds of the well-behaved client, calm and attacked, but for when the machine stood still (for that")
        print("part of the attack, in %); the ratio is of p99.9; RSS in MiB")
        print(self.ROW % ("attack", "p50", "p99", "p99.9", "p50", "p99", "p99.9", "ratio", "still %", "before", "after"))
        for row in self.rows:
            print(self.ROW % row)
        print(flush=True)


class Machine:
    """When its CPUs stood still, as far as that can be found out."""

    def __init__(self, scratch):
        # Where two CPUs stand still at a time the longer one counts.
        path = lambda cpu: os.path.join(scratch.path, "stalls-%d" % cpu)
        self.probes = [Stalls(cpu, path(cpu), "monotonic") for cpu in cpus()[:2]]

    def stalls(self):
        found = sorted(stall for probe in self.probes for stall in probe.so_far() or [])
        merged = []
        for since, until in found:
            if merged and since < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(until, merged[-1][1]))
            else:
                merged.append((since, until))
        return merged


def run_attack(count, t, steady, attack, span, calm, table, machine):
    name, problems = attack.__name__, []
    before, parts = Level(t.server), t.parts()
    began = time.monotonic()
    try:
        why = attack(t, began + span)
    except GONE + (RuntimeError, TimeoutError, ValueError, KeyError) as e:
        why = "%s: %s" % (type(e).__name__, e)
    ended = time.monotonic()
    problems += [why] if why else []
    for m in t.fleet.members:
        if not m.alive():
            problems.append("%s ended: %s" % (m.id, m.server.log_tail(5)))
        if "panicked" in m.server.log_text():
            problems.append("%s panicked: %s" % (m.id, m.server.log_tail(5)))
    try:
        problems += returned(t.server, before)
        now = t.parts()
        if now != parts:
            problems.append("parts were %s and are %s" % (parts, now))
            for m in t.fleet.members:
                lines = [line for line in m.server.log_text().splitlines() if "election" in line]
                problems.append("%s said: %s" % (m.id, lines[-4:]))
            t.find_primary()
        stalls = machine.stalls()
        lost = ended - began - without(began, ended, stalls)
        spans = steady.between(began, ended, stalls)
        table.add(name, calm, quantiles(spans), 100 * lost / (ended - began), before, Level(t.server))
    except GONE as e:
        problems.append("a member does not answer: %s" % e)
    problems += steady.trouble()
    count.check(name, not problems, "; ".join(problems))
    if steady.trouble() or steady.addr != t.addr:
        steady.restart(t.addr)


def unfinished(t):
    """Who begins to say something and never ends; they are looked at when everything else is over."""
    partial = {
        "replication": (t.replication[0], b"REPLICATE FROM"),
        "election": (t.election, b"*5\r\n$2\r\nHB\r\n"),
        "handoff": (t.control, b"\x0e\x00"),
    }
    socks = {}
    for name, (at, data) in partial.items():
        socks[name] = t.dial(at)
        socks[name].sendall(data)
    return socks, time.monotonic()


def check_unfinished(count, socks, since):
    for name, s in socks.items():
        left = max(1, since + 20 - time.monotonic())
        count.check("who never finishes is let go: %s" % name, is_closed(s, left))
        s.close()


def endless_scripts(count, t):
    """Scripts that never end, from clients of every core, for longer than members wait for heartbeats. Others are
    told BUSY meanwhile, so the well-behaved client is not there."""
    before, parts = Level(t.server), t.parts()
    t.set("busy-reply-threshold", "100")
    socks = [t.dial(t.addr) for _ in range(8)]
    for s in socks:
        s.sendall(encode(["EVAL", "while true do end", "0"]))
    end = time.monotonic() + 2 * t.down_after / 1000
    while time.monotonic() < end:
        time.sleep(0.2)
        moved = [m.id for m in t.fleet.members if m is not t.primary and m.info().get("role_epoch") != parts[m.id][1]]
        if moved:
            break
    killed, quiet, end = 0, 0, time.monotonic() + 30
    # A connection that the core gets which runs the script hears nothing, so it takes several.
    while time.monotonic() < end and quiet < 6:
        try:
            with t.server.conn(0.3) as c:
                said = c.call("SCRIPT", "KILL").raw
                killed += said == b"+OK\r\n"
                quiet = quiet + 1 if said.startswith(b"-NOTBUSY") else 0
        except GONE:
            quiet = 0
        time.sleep(0.02)
    close_all(socks)
    t.set("busy-reply-threshold", "5000")
    now, problems = t.parts(), returned(t.server, before)
    count.check("scripts without end depose nobody", now == parts, "parts were %s and are %s" % (parts, now))
    count.check("they are killed, and leave nothing", killed >= 1 and not problems, "%d killed; %s" % (killed, problems))


# ---------------------------------------------------------------------------------------------
# A node of its own, which runs out of things


def lone_node(scratch, opts, name, descriptors=None, args=()):
    port = free_base()
    directory = scratch.sub(name)
    argv = [os.path.abspath(opts.node), "--port", port, "--bind", "127.0.0.1", "--threads", 1, "--no-pin"]
    argv += ["--spin-us", 0, "--dir", directory] + list(args)
    if descriptors:
        argv[:0] = ["prlimit", "--nofile=%d:%d" % (descriptors, descriptors)]
    return Server(name, [str(word) for word in argv], port, directory).start()


def few_descriptors(count, scratch, opts):
    """Clients never take the last descriptors; where others take them, the node waits, says so once, and goes on."""
    node = lone_node(scratch, opts, "few", descriptors=220)
    before = Level(node)
    most = int(node.conn().info("clients")["maxclients"])
    socks = [socket.create_connection(node.addr, 5) for _ in range(260)]
    time.sleep(0.2)
    told = 0
    for s in socks:
        s.settimeout(0.02)
        try:
            told += b"max number of clients" in s.recv(100)
        except OSError:
            pass
    count.check(
        "descriptors are kept from clients",
        220 / 4 < most < 220 and told >= 260 - most,
        "maxclients %d, %d of 260 were told: %s" % (most, told, node.log_tail(3)),
    )
    close_all(socks)
    wait_until("they are gone", 10, lambda: Level(node).clients <= before.clients)
    with node.conn() as c:
        r = c.call("CONFIG", "SET", "maxclients", "100000")
    want = "The operating system is not able to handle the specified number of clients, try with %d" % most
    count.check("CONFIG SET maxclients knows that", want in r.value.decode(), r.value.decode())
    # Replicas have ports of their own. Who is refused has had a descriptor for a moment, too.
    wait_until("nothing is refused", 10, lambda: node.log_text().count("cannot") == node.log_text().count("again"))
    lines = node.log_text().count("cannot accept")
    with node.conn() as keeper:
        keeper.call("SET", "k", "v")
        socks = [socket.create_connection((node.addr[0], node.port + 10000), 5) for _ in range(250)]
        wait_until("descriptors run out", 10, lambda: node.log_text().count("cannot accept") > lines)
        before_cpu = cpu_seconds(node.proc.pid)
        time.sleep(1)
        spent = cpu_seconds(node.proc.pid) - before_cpu
        good = keeper.call("GET", "k").value == b"v" and keeper.call("SET", "k", "w").raw == b"+OK\r\n"
        lines = node.log_text().count("cannot accept") - lines
        close_all(socks)
        wait_until("it accepts again", 20, lambda: node.log_text().count("cannot") == node.log_text().count("again"))
        failures = int(keeper.info("stats")["connections_not_accepted"])
    count.check("without descriptors it serves on and does not spin", good and spent < 0.5, "%.2f s of CPU" % spent)
    count.check("it says so once, and counts", lines == 1 and failures > 0, "%d lines, %d counted" % (lines, failures))
    returned(node, before)
    with node.conn() as c:
        count.check("and takes clients in again", c.call("PING").raw == b"+PONG\r\n")
    node.stop()


def cpu_seconds(pid):
    with open("/proc/%d/stat" % pid, encoding="ascii") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def little_memory(count, scratch, opts):
    """What clients hold counts; with maxmemory-clients the largest of them go, and with maxmemory writes are
    refused, never the node ended."""
    node = lone_node(scratch, opts, "little")
    before = Level(node)
    with node.conn(30) as c:
        c.ask("CONFIG", "SET", "maxmemory", "40mb", "maxmemory-policy", "noeviction")
        refused = None
        for n in range(2000):
            r = c.call("SET", "key%d" % n, "x" * 100000)
            if r.is_error:
                refused = r.value
                break
        count.check("beyond maxmemory writes are refused", refused is not None and refused.startswith(b"OOM"), refused)
        count.check("and reads are not", c.call("GET", "key0").value == b"x" * 100000)
        c.ask("FLUSHALL")
        c.ask("CONFIG", "SET", "maxmemory", "0", "maxmemory-clients", "8mb")
        socks = []
        for _ in range(4):
            s = socket.create_connection(node.addr, 5)
            socks.append(s)
            try:
                s.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8000000\r\n" + b"x" * 6000000)
            except OSError:
                # It may be gone by now.
                pass
        evicted = wait_until("clients go", 20, lambda: int(c.info("stats")["evicted_clients"]))
        held = wait_until("little is held", 20, lambda: int(c.info("memory")["mem_clients_normal"]) <= 8 << 20)
        count.check("the largest clients go first", held and 1 <= evicted <= 4 and c.call("PING").raw == b"+PONG\r\n")
        close_all(socks)
    problems = returned(node, before)
    count.check("its memory returns", not problems, "; ".join(problems))
    node.stop()


def unknown_clients(count, scratch, opts):
    """Who has shown no password yet can send little."""
    node = lone_node(scratch, opts, "locked")
    with node.conn() as c:
        c.ask("CONFIG", "SET", "requirepass", "secret")
    for data, want in (
        (b"*11\r\n", b"-ERR Protocol error: unauthenticated multibulk length\r\n"),
        (b"*2\r\n$4\r\nAUTH\r\n$16385\r\n", b"-ERR Protocol error: unauthenticated bulk length\r\n"),
    ):
        with Conn(node.addr) as c:
            c.send_raw(data)
            got = c.read().raw
            count.check(want[21:-2].decode(), got == want and is_closed(c.sock), repr(got))
    with Conn(node.addr) as c:
        c.send_raw(encode(["AUTH", "secret"]) + encode(["SET", "k", "x" * 20000]) + encode(["DEL"] + ["k"] * 20))
        got = [c.read().raw for _ in range(3)]
        count.check("with the password, in one piece", got == [b"+OK\r\n", b"+OK\r\n", b":1\r\n"], repr(got))
    node.stop()


# ---------------------------------------------------------------------------------------------


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    ap.add_argument("--node", required=True)
    ap.add_argument("--seconds", type=float, default=20)
    ap.add_argument("--connections", type=int, default=1000)
    ap.add_argument("--down-after", type=int, default=elections.KEVY_DOWN_AFTER)
    ap.add_argument("--threads", type=int, default=2, help="cores of each member; with 1 the primary has a CPU to itself")
    ap.add_argument("--only")
    opts = ap.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Both ends of crowds are here and there, and some are needed for everything else.
    if opts.connections > hard - 1000:
        print("        the limit on open files allows %d connections, not %d" % (hard - 1000, opts.connections))
        opts.connections = hard - 1000
    only = opts.only.split(",") if opts.only else None
    count, table = Count(), Table()
    with Scratch() as scratch:
        t = Target(scratch, opts)
        t.connections = opts.connections
        if opts.connections > 9000:
            t.set("maxclients", str(opts.connections + 1000))
        machine = Machine(scratch)
        if len(cpus()) > 1:
            os.sched_setaffinity(0, cpus()[1:])
        socks, since = unfinished(t)
        steady = Steady(t.addr, os.path.join(scratch.path, "spans"))
        attacks = [a for a in ATTACKS if not only or a.__name__ in only]
        span = opts.seconds / max(1, len(attacks) + 2)
        time.sleep(0.3)
        began = time.monotonic()
        time.sleep(2 * span)
        calm = quantiles(steady.between(began, time.monotonic(), machine.stalls()))
        for attack in attacks:
            run_attack(count, t, steady, attack, span, calm, table, machine)
        check_unfinished(count, socks, since)
        steady.finish()
        count.check("the well-behaved client was served all the time", not steady.trouble(), steady.trouble())
        if not only or "endless_scripts" in only:
            endless_scripts(count, t)
        for name, work in (("descriptors", few_descriptors), ("memory", little_memory), ("password", unknown_clients)):
            if not only or name in only:
                work(count, scratch, opts)
        for server in list(Server.running):
            count.check("no panic in the log of %s" % server.name, "panicked" not in server.log_text())
    table.show()
    count.close()


if __name__ == "__main__":
    main()
