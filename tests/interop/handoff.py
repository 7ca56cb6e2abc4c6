#!/usr/bin/env python3
"""A node that is replaced by another process while clients write, by the supervisor of the published library.

    handoff.py --node BINARY --supervisor BINARY [--supervisor BINARY..] [--short]
    handoff.py --node BINARY --supervisor BINARY --only passing --upgrades 20 --keys 1000000

With supervisors of several versions all runs with each of them, and they take turns; with --short the others
than the first only show upgrades and a few faults. Clients keep their connections: each request is answered once,
whatever the client is in the middle of. What was acknowledged is there afterwards, in every case: after upgrades in
a row, with other numbers of cores than listeners; after successors that end, hang, are another program or cannot
start; and after a supervisor that crashes at any step. A handoff that comes to nothing cuts no connection, unless the successor had begun to
change the data directory. How many requests were cut off by the upgrades, and the longest time between two
acknowledged writes, is printed.
"""

import argparse
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

from elections import process_state
from wire import Broken, Closed, Conn, Count, Scratch, encode, free_base, wait_until

CRASHES = (
    "s-after-o-hello",
    "s-after-spawn-successor",
    "s-after-n-hello",
    "s-after-prepare-sent",
    "s-after-drained-recv",
    "s-after-seal-request-sent",
    "s-after-seal-complete-recv",
    "s-after-begin-sent",
    "s-after-ready-recv",
    "s-after-commit-sent",
)
FEW_CRASHES = ("s-after-seal-complete-recv", "s-after-begin-sent", "s-after-ready-recv")


class Writer(threading.Thread):
    """Writes one key after the other and remembers which of them were acknowledged."""

    def __init__(self, addr, name):
        super().__init__(daemon=True)
        self.addr, self.name, self.ending = addr, name, False
        self.acked, self.cut, self.refused = [], 0, []
        self.at, self.gap = time.monotonic(), 0.0

    def run(self):
        number = 0
        while not self.ending:
            try:
                with Conn(self.addr, 15.0) as conn:
                    while not self.ending:
                        number += 1
                        reply = conn.call("SET", "%s:%d" % (self.name, number), number)
                        if reply.is_error:
                            self.refused.append(reply.value)
                            continue
                        now = time.monotonic()
                        self.gap, self.at = max(self.gap, now - self.at), now
                        self.acked.append(number)
                        time.sleep(0.001)
            except (OSError, Closed, Broken):
                self.cut += 1
                time.sleep(0.002)


class Load:
    """Writers, and a connection that must not be cut where nothing was handed over."""

    def __init__(self, addr):
        self.addr = addr
        self.writers = [Writer(addr, "w%d" % n) for n in range(4)]
        for writer in self.writers:
            writer.start()

    def cuts(self):
        return sum(writer.cut for writer in self.writers)

    def goes_on(self, limit=20.0):
        """All writers get something acknowledged that they send from now on."""
        before = [len(writer.acked) for writer in self.writers]
        moved = lambda: all(len(w.acked) > n + 2 for w, n in zip(self.writers, before))
        wait_until("writes are acknowledged", limit, moved)

    def end(self, count, what):
        for writer in self.writers:
            writer.ending = True
        for writer in self.writers:
            writer.join(20)

        def read():
            missing, total = 0, 0
            with Conn(self.addr, 20.0) as conn:
                for writer in self.writers:
                    keys = [("GET", "%s:%d" % (writer.name, n)) for n in writer.acked]
                    total += len(keys)
                    for n, reply in zip(writer.acked, conn.many(keys)):
                        missing += reply.value != b"%d" % n
            return missing, total

        # Who connects while the old process ends, at a listener that is its own, is cut off with it.
        missing, total = wait_until("what was written is read", 20, read)
        refused = [text for writer in self.writers for text in writer.refused]
        count.check(what + ": every acknowledged write is there", missing == 0 and total > 0,
                    "%d of %d are missing" % (missing, total))
        count.check(what + ": no write was refused", not refused, str(refused[:3]))
        gap = max(writer.gap for writer in self.writers)
        print("%s: %d writes, %d requests cut off, longest gap %.0f ms"
              % (what, total, self.cuts(), gap * 1000))


class Fleet:
    """A supervisor, its nodes, and where they live."""

    def __init__(self, args, scratch, name, listeners=1, program=None, descriptors=()):
        self.args, self.listeners = args, listeners
        self.program, self.descriptors = program or args.supervisor, descriptors
        self.dir = scratch.sub(name)
        self.control = os.path.join(self.dir, "control")
        self.port = free_base()
        self.addr = ("127.0.0.1", self.port)
        self.log = open(os.path.join(self.dir, "log"), "ab")
        self.pids, self.supervisor = [], None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.kill_supervisor()
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.log.close()
        if kind is not None:
            with open(self.log.name, errors="replace") as log:
                print(log.read()[-4000:])

    def supervise(self, crash_at=None):
        self.kill_supervisor()
        env = dict(os.environ)
        if crash_at:
            env["HANDOFF_CRASH_AT"] = crash_at
        argv = [self.program, self.control, str(self.port), str(self.listeners)]
        if self.descriptors:
            argv[2:] = ["fd"] + [str(fd) for fd in self.descriptors]
        self.supervisor = subprocess.Popen(
            argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            pass_fds=self.descriptors)

    def kill_supervisor(self):
        if self.supervisor:
            self.supervisor.kill()
            self.supervisor.wait()
            self.supervisor.stdin.close()
            self.supervisor.stdout.close()
            self.supervisor = None

    def say(self, *words, limit=40.0):
        """The supervisor's answer, in words; nothing if it has crashed."""
        self.supervisor.stdin.write((" ".join(words) + "\n").encode())
        self.supervisor.stdin.flush()
        line = b""
        end = time.monotonic() + limit
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.supervisor.stdout], [], [], 0.05)
            if ready:
                piece = os.read(self.supervisor.stdout.fileno(), 1)
                if not piece:
                    return []
                line += piece
            elif self.supervisor.poll() is not None:
                return []
            elif time.monotonic() > end:
                raise TimeoutError("the supervisor does not answer %s" % (words,))
        said = line.decode().split()
        self.pids += [int(said[-1])] if said[0] in ("started", "committed") else []
        return said

    def node(self, *more, threads=1):
        """A node's command line."""
        argv = [os.path.abspath(self.args.node), "--dir", os.path.join(self.dir, "data"), "--shards", "3"]
        argv += ["--threads", str(threads), "--no-pin", "--spin-us", "0", "--handoff-socket", self.control]
        return argv + list(more)

    def start(self, *more, threads=1):
        self.supervise()
        said = self.say("cold", *self.node(*more, threads=threads))
        wait_until("the node can be handed over", 20, lambda: self.pings() and os.path.exists(self.control))
        return said

    def pings(self):
        with Conn(self.addr, 5.0) as conn:
            return conn.call("PING").value == b"PONG"

    def upgrade(self, *argv, deadline=10000, grace=4000):
        return self.say("handoff", str(deadline), str(grace), *argv)

    def holder(self):
        """The process that has the data directory, by its own word."""

        def read():
            with open(os.path.join(self.dir, "data", "LOCK")) as lock:
                return int(lock.readline() or 0)

        # Empty for a moment while the next one writes itself in.
        return wait_until("a process that has the directory", 10, read, every=0.001)

    def logged(self, text):
        with open(self.log.name, errors="replace") as log:
            return log.read().count(text)


def is_alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def upgrades(args, scratch, count):
    """Upgrades in a row, with more and with fewer cores than listeners."""
    with Fleet(args, scratch, "rows", listeners=2) as fleet:
        fleet.start(threads=2)
        load = Load(fleet.addr)
        load.goes_on()
        for round, threads in enumerate((3, 1, 2) if args.short else (3, 1, 2, 2, 3, 1, 2, 1, 3, 2)):
            idle = [Conn(fleet.addr) for _ in range(50)]
            served = sum(conn.call("PING").value == b"PONG" for conn in idle)
            # It reads its replies only when the process that wrote them is gone.
            idle[0].send_raw(encode(["PING"]) * 500)
            said = fleet.upgrade(*fleet.node("--handoff-pass-connections", "no", threads=threads))
            count.check("upgrade %d to %d cores" % (round, threads), said[:1] == ["committed"], str(said))
            count.check("the old process ends well", fleet.say("reap") == ["ended", "0"])
            replies = [idle[0].read().value for _ in range(500)]
            count.check("what was answered arrives", served == 50 and set(replies) == {b"PONG"})
            ended = sum(ends(conn) for conn in idle)
            count.check("connections end without a reset", ended == 50, str(ended))
            load.goes_on()
            # Every listener is served: where a connection ends up is the kernel's choice.
            served = sum(fleet.pings() for _ in range(20))
            count.check("all connections are served", served == 20, str(served))
        refused = subprocess.run(fleet.node("--port", str(free_base())), capture_output=True, timeout=20)
        told = "another node runs on" in refused.stderr.decode()
        count.check("a second process is told who has the directory",
                    told and "process %d" % fleet.pids[-1] in refused.stderr.decode(), refused.stderr.decode())
        load.end(count, "upgrades")


def ends(conn):
    """Does the connection end as the other side ends it in order?"""
    try:
        return conn.sock.recv(1) == b""
    except OSError:
        return False
    finally:
        conn.close()


def aborts(args, scratch, count):
    """Successors that are of no use. The node goes on with the connections that it has."""
    itself = [sys.executable, os.path.abspath(__file__), "--be"]
    with Fleet(args, scratch, "aborts") as fleet:
        fleet.start(threads=2)
        load = Load(fleet.addr)
        load.goes_on()
        busy = Busy(fleet.addr, 20)
        bad = [
            ("ends at once", ["/bin/false"]),
            ("is another program", ["/bin/cat", "/dev/null"]),
            ("ends when it is known", itself + ["known"]),
            ("ends when it should begin", itself + ["begun"]),
            ("wants the data otherwise", fleet.node("--shards", "4")),
        ]
        greets = itself + ["greets", "--control", fleet.control]
        bad.append(("ends when it has asked for the connections", greets))
        slow = [("hangs when it should begin", itself + ["hung"])]
        if not args.short:
            slow.append(("says nothing", ["/bin/sleep", "60"]))
        with Conn(fleet.addr, 20.0) as conn:
            conn.ask("SET", "kept", "1")
            for what, argv in bad + slow:
                deadline = 1000 if (what, argv) in slow else 10000
                said = fleet.upgrade(*argv, deadline=deadline)
                count.check("a successor that " + what, said[:1] in (["aborted"], ["failed"]), str(said))
                load.goes_on()
                count.check("the connection of before is served", conn.ask("INCR", "kept") > 1)
            count.check("no connection was cut", load.cuts() == 0, str(load.cuts()))
            busy.goes_on()
            busy.end(fleet.addr, count, "aborts")
            fields = conn.info("handoff")
            # Of those that had said hello.
            told = (fields.get("handoff_rolled_back_total"), fields.get("handoff_generation"))
            count.check("INFO tells of all that came to nothing", told == ("5", "1"), str(fields))
        # It fails behind the point where it has the directory: what it may have written counts.
        with socket.create_server(("127.0.0.1", fleet.port + 9)) as taken:
            said = fleet.upgrade(*fleet.node("--replication-port", str(taken.getsockname()[1])))
        count.check("a successor that has changed something", said[:1] == ["aborted"], str(said))
        load.goes_on()
        said = fleet.upgrade(*fleet.node())
        count.check("the next one is taken", said[:1] == ["committed"], str(said))
        load.goes_on()
        load.end(count, "aborts")


def crashes(args, scratch, count):
    """Supervisors that crash: one process serves afterwards, and can be handed over."""
    for at in FEW_CRASHES if args.short else CRASHES:
        crash(args, scratch, count, at, [])


def slow_crashes(args, scratch, count):
    """The same with successors that need 4 s from the moment on at which they have the directory."""
    for at in () if args.short else CRASHES:
        crash(args, scratch, count, at, slow(scratch, 4000))
    with Fleet(args, scratch, "killed") as fleet:
        fleet.start(threads=2)
        load = Load(fleet.addr)
        load.goes_on()
        first = fleet.holder()
        upgrade = threading.Thread(target=lambda: fleet.upgrade(*slow(scratch, 4000), *fleet.node()))
        upgrade.start()
        wait_until("the new process has the directory", 20, lambda: fleet.holder() != first)
        fleet.pids.append(fleet.holder())
        fleet.supervisor.kill()
        upgrade.join()
        load.goes_on()
        wait_until("the old process ends", 10, lambda: not is_alive(first))
        count.check("it serves without its supervisor", fleet.holder() == fleet.pids[-1] != first)
        fleet.supervise()
        said = wait_until("the next one is taken", 20, lambda: committed(fleet))
        count.check("the next handoff is taken", bool(said))
        load.goes_on()
        load.end(count, "killed while it loads")


def crash(args, scratch, count, at, before):
    name = at + ("-slow" if before else "")
    with Fleet(args, scratch, name) as fleet:
        fleet.start(threads=2)
        load = Load(fleet.addr)
        load.goes_on()
        # Its listeners are gone with it, so that another one has to have some.
        fleet.supervise(crash_at=at)
        said = fleet.upgrade(*before, *fleet.node())
        count.check("%s: it crashed" % name, said == [], str(said))
        load.goes_on()
        first = fleet.pids[0]
        fleet.pids.append(fleet.holder())
        alone = lambda: fleet.holder() == first or not is_alive(first)
        wait_until("%s: the old process has ended, or serves" % name, 10, alone)
        fleet.supervise()
        said = wait_until("the next one is taken", 20, lambda: committed(fleet))
        count.check("%s: the next handoff is taken" % name, bool(said))
        load.goes_on()
        load.end(count, name)


def committed(fleet):
    said = fleet.upgrade(*fleet.node())
    return said if said[:1] == ["committed"] else None


def slow(scratch, ms):
    """What stands before a node's command line to make its start take longer."""
    library = os.path.join(scratch.path, "slow.so")
    if not os.path.exists(library):
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "slow.c")
        subprocess.run(["cc", "-O1", "-Wall", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return [shutil.which("env"), "LD_PRELOAD=" + library, "SLOW_MS=%d" % ms]


def turns(args, scratch, count):
    """Supervisors of all versions take turns over the same listeners."""
    with socket.create_server(("127.0.0.1", free_base()), backlog=1024) as listener:
        given = {"descriptors": (listener.fileno(),)}
        fleets = [Fleet(args, scratch, "turns", program=program, **given) for program in args.supervisors]
        for fleet in fleets:
            fleet.addr = listener.getsockname()
        with fleets[0] as first, fleets[-1]:
            first.start(threads=2)
            fleets[-1].supervise()
            load = Load(first.addr)
            load.goes_on()
            counts = []
            for round in range(4 if args.short else 10):
                fleet = fleets[(round + 1) % len(fleets)]
                said = fleet.upgrade(*fleet.node(threads=2))
                count.check("turn %d" % round, said[:1] == ["committed"], str(said))
                load.goes_on()
                pids = [int(said[-1])] + [fleet.supervisor.pid for fleet in fleets]
                counts.append([len(os.listdir("/proc/%d/fd" % pid)) for pid in pids])
            rises = [max(at) - min(at) for at in zip(*counts[1:])]
            # Of a node a client more or less may be there at the moment.
            count.check("no descriptor is left open", rises[0] <= 4 and not any(rises[1:]), str(counts))
            load.end(count, "turns")


def busy(addr, seconds):
    """A connection on which a script runs for so long."""
    script = "local till = os.clock() + ARGV[1] while os.clock() < till do end return 'done'"
    conn = Conn(addr, 30.0)
    conn.send("EVAL", script, "0", str(seconds))
    return conn


def while_busy(addr, seconds, begun, upgrade):
    """What comes of an upgrade that begins while a script runs, and the script's answer. Where the script is on the
    core that supervisors speak to, they are only heard behind it: then nothing is under way, or they are gone."""
    while True:
        before = begun()
        with busy(addr, seconds) as conn:
            said = upgrade()
            if said[0] not in ("committed", 0) and begun() > before:
                return said, conn.read().value


def failures(args, scratch, count):
    """The node cannot come to an end in time, cannot seal, or dies on the way."""
    with Fleet(args, scratch, "failures") as fleet:
        always = ("--appendfsync", "always")
        fleet.start(*always, threads=2)
        load = Load(fleet.addr)
        load.goes_on()
        blocked = os.path.join(fleet.dir, "data", "handoff.seal.new")
        os.mkdir(blocked)
        said = fleet.upgrade(*fleet.node(*always))
        count.check("a seal that fails", said[:1] == ["aborted"] and "seal" in said, str(said))
        load.goes_on()
        count.check("no connection was cut", load.cuts() == 0, str(load.cuts()))
        os.rmdir(blocked)
        upgrade = lambda: fleet.upgrade(*fleet.node(*always, threads=2), grace=500)
        said, answer = while_busy(fleet.addr, 2.5, lambda: fleet.logged("handoff: prepares"), upgrade)
        count.check("a drain that takes too long", said[:1] == ["failed"], str(said))
        count.check("what was under way ends", answer == b"done")
        with Conn(fleet.addr, 20.0) as conn:
            said = conn.call("INFO", "handoff").value
            # The supervisor may have gone away before the node could look at its clock.
            told = b"did not end in time" in said or b"the supervisor is gone" in said
            count.check("INFO has the reason", told, said.decode())
        load.goes_on()

        # It dies while something is under way. See `while_busy`: sometimes nothing is.
        said = ["committed"]
        while said[:1] == ["committed"]:
            before, old = fleet.logged("handoff: prepares"), fleet.pids[-1]
            conn = busy(fleet.addr, 3)
            killer = threading.Thread(target=lambda: (
                wait_until("it prepares", 10, lambda: fleet.logged("handoff: prepares") > before),
                os.kill(old, signal.SIGABRT)))
            killer.start()
            said = fleet.upgrade(*fleet.node(*always, threads=2))
            killer.join()
            conn.close()
        count.check("a node that dies while it drains", said[:1] == ["failed"], str(said))
        count.check("the directory is free", fleet.say("cold", *fleet.node(*always))[0] == "started")
        load.goes_on()

        # It dies behind the seal.
        with lead(fleet.control) as control:
            os.kill(fleet.pids[-1], signal.SIGABRT)
            count.check("a node that dies behind the seal", control.recv(1) == b"")
        count.check("the directory is free again", fleet.say("cold", *fleet.node(*always))[0] == "started")
        load.goes_on()
        said = wait_until("the next one is taken", 20, lambda: committed(fleet))
        count.check("the next handoff is taken", bool(said))
        load.goes_on()
        load.end(count, "failures")


def lead(path):
    """A supervisor's line to a node that has sealed for it."""
    control = socket.socket(socket.AF_UNIX)
    control.settimeout(20)
    control.connect(path)
    name = bytes(range(16))
    hear(control)
    control.sendall(frame(b"\x01\x01\x10" + name))
    # 5 s for all.
    control.sendall(frame(b"\x02\x10" + name + b"\x01\x88\x27\x88\x27"))
    while hear(control)[0] != 3:
        pass
    control.sendall(frame(b"\x04\x10" + name))
    while hear(control)[0] != 6:
        pass
    return control


def late_ones(args, scratch, count):
    """Successors that are ready at about the moment at which the supervisor gives up: somebody serves, and can
    be handed over."""
    with Fleet(args, scratch, "late") as fleet:
        always = ("--appendfsync", "always")
        fleet.start(*always, threads=2)
        load = Load(fleet.addr)
        load.goes_on()
        for ms in (1950,) if args.short else (1800, 1900, 1950, 2000, 2050, 2400):
            said = fleet.upgrade(*slow(scratch, ms), *fleet.node(*always), deadline=1000, grace=500)
            count.check("one that is ready after %d ms" % ms, said[:1] in (["committed"], ["aborted"]), str(said))
            load.goes_on()
            wait_until("the path leads to who serves", 10, lambda: says_hello(fleet.control) == fleet.holder())
        said = fleet.upgrade(*fleet.node(*always))
        count.check("the next handoff is taken", said[:1] == ["committed"], str(said))
        load.goes_on()
        load.end(count, "late ones")


def says_hello(path):
    """The process that answers supervisors."""
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(20)
        control.connect(path)
        hello, pid, shift = hear(control)[2:], 0, 0
        for byte in hello:
            pid |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return pid


def replicas(args, scratch, count):
    """A primary and its replica are both handed over; neither needs all the data again."""
    with Fleet(args, scratch, "primary") as primary, Fleet(args, scratch, "replica") as replica:
        primary.start("--replication-port", str(primary.port + 10000), threads=2)
        follow = ("--replicaof", "127.0.0.1:%d" % primary.port, "--replication-port", "0")
        replica.start(*follow, threads=2)
        with Conn(primary.addr) as conn:
            conn.ask("SET", "first", "1")
        load = Load(primary.addr)
        load.goes_on()
        wait_until("the replica has something", 20, lambda: has(replica.addr, "first", b"1"))
        for round in range(2):
            said = primary.upgrade(*primary.node("--replication-port", str(primary.port + 10000), threads=2))
            count.check("the primary is handed over", said[:1] == ["committed"], str(said))
            with Conn(primary.addr) as conn:
                conn.ask("SET", "round", "p%d" % round)
            wait_until("the replica follows the new one", 20, lambda: has(replica.addr, "round", b"p%d" % round))
            said = replica.upgrade(*replica.node(*follow, threads=2))
            count.check("the replica is handed over", said[:1] == ["committed"], str(said))
            with Conn(primary.addr) as conn:
                conn.ask("SET", "round", "r%d" % round)
                fields = conn.info("replication")
            wait_until("the new replica follows", 20, lambda: has(replica.addr, "round", b"r%d" % round))
            shipped = fields.get("sync_full")
            count.check("nobody got all the data again", shipped == "0", str(fields))
        load.end(count, "replicas")


def roles(args, scratch, count):
    """Whom REPLICAOF said to follow, nobody included, the next process follows, too, unless it is given somebody else;
    no write is taken in between by who should take none, and none that was taken is lost."""
    with contextlib.ExitStack() as stack:
        one, other, node = [stack.enter_context(Fleet(args, scratch, name)) for name in ("one", "other", "turned")]
        for fleet in (one, other):
            fleet.start("--replication-port", str(fleet.port + 10000))
            with Conn(fleet.addr) as conn:
                conn.ask("SET", "whose", str(fleet.port))
        node.start("--replication-port", "0")
        client = stack.enter_context(Conn(node.addr, 20.0))
        client.ask("SET", "whose", "own")

        def is_copy_of(fleet):
            reply = client.call("SET", "x", "1").value
            return reply.startswith(b"READONLY") and has(node.addr, "whose", b"%d" % fleet.port)

        def upgraded(what, *more):
            said = node.upgrade(*node.node("--replication-port", "0", *more), deadline=20000)
            count.check("upgrade %s" % what, said[:1] == ["committed"], str(said))

        def copies():
            with Conn(one.addr) as conn:
                return conn.info("replication")["sync_full"]

        client.ask("REPLICAOF", "127.0.0.1", str(one.port))
        wait_until("it follows", 20, lambda: is_copy_of(one))
        before = copies()
        for round in ("behind REPLICAOF", "behind that one"):
            upgraded(round)
            count.check("%s: it takes no writes" % round, client.call("SET", "x", "1").value.startswith(b"READONLY"))
            with Conn(one.addr) as conn:
                conn.ask("SET", "round", round)
            wait_until("it follows on", 20, lambda: has(node.addr, "round", round.encode()))
            count.check("%s: it goes on where it was" % round, copies() == before, copies())
        upgraded("with another primary", "--replicaof", "127.0.0.1:%d" % other.port)
        wait_until("it follows the other", 20, lambda: is_copy_of(other))
        client.ask("REPLICAOF", "NO", "ONE")
        client.ask("SET", "mine", "1")
        upgraded("behind NO ONE", "--replicaof", "127.0.0.1:%d" % other.port)
        count.check("it is a primary, and has what it took",
                    client.ask("ROLE")[0] == b"master" and client.ask("GET", "mine") == b"1"
                    and client.call("SET", "x", "1").value == b"OK")


class Incrementer(threading.Thread):
    """Counts up on one connection that is never made anew, and asks that another member has it."""

    def __init__(self, addr):
        super().__init__(daemon=True)
        self.addr, self.ending, self.acked, self.wrong, self.gap = addr, False, 0, [], 0.0

    def run(self):
        try:
            with Conn(self.addr, 20.0) as conn:
                at = time.monotonic()
                while not self.ending:
                    value = conn.call("INCR", "counted").value
                    now = time.monotonic()
                    self.gap, at = max(self.gap, now - at), now
                    if value != self.acked + 1:
                        return self.wrong.append(value)
                    self.acked = value
                    time.sleep(0.001)
        except (OSError, Closed, Broken) as why:
            self.wrong.append(repr(why))


def members(args, scratch, count):
    """Members of elections are handed over, the primary and the others: nobody is elected, the epoch stays, and who
    follows goes on from where it was. A client of the primary notices a pause."""
    with contextlib.ExitStack() as stack:
        fleets = [stack.enter_context(Fleet(args, scratch, name)) for name in ("a", "b", "c")]
        peers = ",".join("%s@127.0.0.1:%d:%d" % (name, fleet.port + 200, fleet.port)
                         for name, fleet in zip("abc", fleets))

        def argv(fleet):
            name = "abc"[fleets.index(fleet)]
            return fleet.node("--replication-port", str(fleet.port + 10000), "--node-id", name, "--peers", peers,
                              "--elect-down-after-ms", "1500", threads=2)

        def status(fleet):
            with Conn(fleet.addr, 20.0) as conn:
                flat = conn.ask("ELECT", "STATUS")
            return dict(zip([key.decode() for key in flat[:-1:2]], flat[1:-1:2]))

        def info(fleet):
            with Conn(fleet.addr, 20.0) as conn:
                return conn.info("replication")

        def leading():
            return [fleet for fleet in fleets if status(fleet)["role"] == b"leader" and info(fleet)["role"] == "master"]

        def in_step(leader):
            with Conn(leader.addr, 20.0) as conn:
                conn.ask("INCR", "stepped")
                return conn.ask("WAIT", "2", "1000") == 2

        for fleet in fleets:
            fleet.supervise()
            fleet.say("cold", *argv(fleet))
        leader = wait_until("a primary", 30, leading)[0]
        wait_until("writes", 20, lambda: in_step(leader))
        for fleet in fleets:
            wait_until("the path of %s" % fleet.dir, 20, lambda: os.path.exists(fleet.control))
        epoch = status(leader)["epoch"]
        of_leader = Incrementer(leader.addr)
        of_leader.start()
        for round in range(2 if args.short else 6):
            for fleet in [leader] + [other for other in fleets if other is not leader]:
                what = "the primary" if fleet is leader else "another member"
                full = {other: int(info(other).get("sync_full", 0)) for other in fleets}
                led = {other: leads(other) for other in fleets}
                said = fleet.upgrade(*argv(fleet))
                count.check("%s is handed over" % what, said[:1] == ["committed"], str(said))
                wait_until("all are in step", 20, lambda: in_step(leader))
                now = {other: status(other) for other in fleets}
                count.check("%s: the epoch stays" % what, {view["epoch"] for view in now.values()} == {epoch},
                            str([view["epoch"] for view in now.values()]))
                count.check("%s: the primary stays" % what, leading() == [leader])
                grown = {other.dir: leads(other) - led[other] for other in fleets}
                count.check("%s: nobody was elected" % what, not any(grown.values()), str(grown))
                # A process that has just started counts from 0.
                before = 0 if fleet is leader else full[leader]
                shipped = int(info(leader)["sync_full"]) - before
                count.check("%s: nobody got all the data again" % what, shipped == 0, str(shipped))
        of_leader.ending = True
        of_leader.join(20)
        count.check("the client of the primary saw each number once", not of_leader.wrong and of_leader.acked > 100,
                    "%s after %d" % (of_leader.wrong, of_leader.acked))
        with Conn(leader.addr) as conn:
            kept = int(conn.ask("GET", "counted"))
        count.check("what was acknowledged is there", kept == of_leader.acked, "%d of %d" % (kept, of_leader.acked))
        print("members: %d numbers, longest gap %.0f ms" % (of_leader.acked, of_leader.gap * 1000))


def leads(fleet):
    """How often the processes of a member said that they were elected."""
    return fleet.logged("candidate to leader")


def failovers(args, scratch, count):
    """A failover and a handoff of the same node meet: within a failover no handoff begins, and a failover that is
    asked for within a handoff is begun by the next process."""
    with Fleet(args, scratch, "one") as one, Fleet(args, scratch, "two") as two:
        port = lambda fleet: ("--replication-port", str(fleet.port + 10000))
        one.start(*port(one), threads=2)
        two.start("--replicaof", "127.0.0.1:%d" % one.port, *port(two), threads=2)
        with Conn(one.addr) as conn:
            conn.ask("SET", "first", "1")
            wait_until("the replica is in step", 20, lambda: conn.ask("WAIT", "1", "1000") == 1)
        load = Load(one.addr)
        load.goes_on()
        to = ("FAILOVER", "TO", "127.0.0.1", str(two.port), "TIMEOUT")
        role = lambda fleet: Conn(fleet.addr, 20.0).info("replication")["role"]
        # The target stands still, so that the failover waits until its time is up.
        os.kill(two.pids[-1], signal.SIGSTOP)
        # Its threads go on until the first of them has taken the signal in.
        wait_until("the target is stopped", 10, lambda: process_state(two.pids[-1]) == "T", every=0.001)
        with Conn(one.addr) as conn:
            conn.ask(*to, "1000")
        said = one.upgrade(*one.node(*port(one), threads=2))
        count.check("within a failover no handoff begins", said[0] == "failed", str(said))

        def results():
            with open(os.path.join(one.dir, "data", "failover.log")) as log:
                return [json.loads(line)["result"] for line in log]

        ended = wait_until("the failover's end", 10, results)
        os.kill(two.pids[-1], signal.SIGCONT)
        count.check("the failover ends as it would", ended == ["aborted"] and role(one) == "master", str(ended))
        load.goes_on()
        load.end(count, "failovers")
        # What is asked within a handoff the next process answers. Its replica may not be back yet.
        with Conn(one.addr) as conn:
            conn.ask("WAIT", "1", "1000")
            ending = []

            prepared = one.logged("handoff: prepares")

            def ask():
                wait_until("the handoff", 20, lambda: one.logged("handoff: prepares") > prepared, every=0.001)
                while not ending:
                    reply = conn.call(*to, "5000")
                    if reply.value == b"OK":
                        return ending.append("OK")
                    if b"replica" not in reply.value:
                        return ending.append(reply.value)
                    time.sleep(0.001)

            asking = threading.Thread(target=ask)
            with busy(one.addr, 0.5):
                asking.start()
                said = one.upgrade(*one.node(*port(one), threads=2))
            asking.join(20)
        count.check("a failover is asked for within a handoff", said[:1] == ["committed"] and ending == ["OK"],
                    "%r %r" % (said, ending))
        moved = lambda: (role(one), role(two)) == ("slave", "master")
        count.check("and the part moves", wait_until("the other one leads", 20, moved))
        with Conn(two.addr) as conn:
            count.check("with the data", conn.ask("GET", "first") == b"1")
            wait_until("both in step", 20, lambda: conn.ask("WAIT", "1", "1000") == 1)


def has(addr, key, value):
    with Conn(addr) as conn:
        return conn.call("GET", key).value == value


def stops(args, scratch, count):
    """A supervisor that stands still after the seal is not waited for for ever; and it is not believed later."""
    with Fleet(args, scratch, "stops") as fleet:
        fleet.start(threads=2)
        with Conn(fleet.addr, 20.0) as conn, socket.socket(socket.AF_UNIX) as control:
            conn.ask("SET", "kept", "1")
            control.settimeout(20)
            control.connect(fleet.control)
            mode = os.stat(fleet.control).st_mode & 0o777
            count.check("only we may lead", mode == 0o600, oct(mode))
            name = bytes(range(16))
            said = [hear(control)[0]]
            # 200 ms for all.
            control.sendall(frame(b"\x01\x01\x10" + name))
            control.sendall(frame(b"\x02\x10" + name + b"\x01\xc8\x01\x64"))
            said.append(hear(control)[0])
            control.sendall(frame(b"\x04\x10" + name))
            said.append(hear(control)[0])
            count.check("it hears that all is sealed", said == [0, 3, 6], str(said))
            conn.send("INCR", "kept")
            began = time.monotonic()
            count.check("what waited is answered when the time is up", conn.read().value == 2)
            took = time.monotonic() - began
            count.check("which is six seconds later", 5 < took < 9, "%.1f s" % took)
            try:
                control.sendall(frame(b"\x0a\x10" + name))
                rest = control.recv(100)
            except OSError:
                rest = b""
            count.check("a late commit is not heard", rest == b"" and conn.ask("INCR", "kept") == 3)


class Busy(threading.Thread):
    """Connections that each count with INCR, so many at a time: a reply that is missing, refused or of a
    request that was done twice shows at once. Notes how long each batch took."""

    def __init__(self, addr, conns, batch=16, every=0.01):
        super().__init__(daemon=True)
        self.batch, self.every, self.ending = batch, every, False
        self.faults, self.took = [], []
        self.conns = [Counter(addr, "busy:%d" % n, batch) for n in range(conns)]
        self.longest = 0.0
        self.start()

    def run(self):
        poll = select.epoll()
        by_fd = {conn.sock.fileno(): conn for conn in self.conns}
        for fd in by_fd:
            poll.register(fd, select.EPOLLIN)
        waiting = 0
        while not self.ending or waiting:
            now = time.monotonic()
            for conn in self.conns:
                if not self.ending and not conn.missing and conn.ended is None and now >= conn.next:
                    conn.ask(now)
                    conn.next = now + self.every
            for fd, _ in poll.poll(0.002):
                conn = by_fd[fd]
                took = conn.hear()
                if took is not None:
                    self.took.append(took)
                    self.longest = max(self.longest, took)
                if conn.ended is not None:
                    self.faults.append(conn.ended)
                    poll.unregister(fd)
            waiting = sum(conn.missing > 0 and conn.ended is None for conn in self.conns)

    def longest_since(self):
        longest, self.longest = self.longest, 0.0
        return longest

    def goes_on(self, limit=20.0):
        """All of them are answered what they ask from now on."""
        before = [conn.done for conn in self.conns]
        moved = lambda: all(c.done > n + 2 * self.batch for c, n in zip(self.conns, before)) or self.faults
        wait_until("all are answered", limit, moved)

    def end(self, addr, count, what):
        self.ending = True
        self.join(30)
        total = sum(conn.done for conn in self.conns)
        count.check("%s: %d connections, %d requests, each answered once and rightly"
                    % (what, len(self.conns), total), not self.faults and not self.is_alive(), str(self.faults[:3]))
        with Conn(addr, 20.0) as conn:
            kept = [int(conn.ask("GET", c.key)) for c in self.conns]
        count.check(what + ": what was answered was done, once", kept == [c.done for c in self.conns])


class Counter:
    def __init__(self, addr, key, batch):
        self.sock = socket.create_connection(addr, timeout=20)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.key, self.text = key, encode(["INCR", key]) * batch
        self.batch, self.done, self.missing, self.rest = batch, 0, 0, b""
        self.asked = self.next = 0.0
        self.ended = None

    def ask(self, now):
        self.asked, self.missing = now, self.batch
        try:
            self.sock.sendall(self.text)
        except OSError as error:
            self.ended = "%s: %s" % (self.key, error)

    def hear(self):
        """How long a batch took, if it is whole."""
        try:
            got = self.sock.recv(1 << 16)
        except OSError as error:
            got, self.ended = b"", "%s: %s" % (self.key, error)
        if not got:
            self.ended = self.ended or "%s: closed" % self.key
            return None
        *replies, self.rest = (self.rest + got).split(b"\r\n")
        for reply in replies:
            if reply != b":%d" % (self.done + 1):
                self.ended = "%s: %r behind %d" % (self.key, reply, self.done)
                return None
            self.done, self.missing = self.done + 1, self.missing - 1
        return None if self.missing else time.monotonic() - self.asked


class Listeners(threading.Thread):
    """Subscribers, and one client that tells them numbers without pause: each hears every one, in order."""

    def __init__(self, addr, conns):
        super().__init__(daemon=True)
        self.ending, self.told, self.faults = False, 0, []
        self.conns = [Conn(addr, 20.0) for _ in range(conns)]
        for at, conn in enumerate(self.conns):
            word, name = (("SUBSCRIBE", "told"), ("PSUBSCRIBE", "to?d"))[at % 2]
            conn.ask(word, name)
        self.teller = Conn(addr, 20.0)
        self.start()

    def run(self):
        try:
            while not self.ending:
                heard = self.teller.ask("PUBLISH", "told", self.told + 1)
                if heard != len(self.conns):
                    self.faults.append("number %d was heard by %d" % (self.told + 1, heard))
                self.told += 1
                time.sleep(0.002)
        except (OSError, Closed, Broken, RuntimeError) as error:
            self.faults.append("PUBLISH: %s" % error)

    def end(self, count, what):
        self.ending = True
        self.join(30)
        for at, conn in enumerate(self.conns):
            try:
                for number in range(1, self.told + 1):
                    heard = conn.read().plain()[-1]
                    if heard != b"%d" % number:
                        self.faults.append("listener %d: %r for %d" % (at, heard, number))
                        break
            except (OSError, Closed, Broken) as error:
                self.faults.append("listener %d: %s" % (at, error))
        count.check("%s: %d listeners hear each of %d messages" % (what, len(self.conns), self.told),
                    not self.faults and self.told > 10, str(self.faults[:3]))


def passing(args, scratch, count):
    """Connections go along: busy ones, idle ones, those that listen, wait, or are in the middle of something."""
    with Fleet(args, scratch, "passing", listeners=2) as fleet:
        fleet.start(threads=2)
        with Conn(fleet.addr, 60.0) as conn:
            for first in range(0, args.keys, 1000):
                pairs = ("key:%d" % n if half == 0 else "value:%040d" % n
                         for n in range(first, first + 1000) for half in range(2))
                conn.ask("MSET", *pairs)
        idle = [Conn(fleet.addr, 20.0) for _ in range(500)]
        for at, conn in enumerate(idle):
            conn.ask("CLIENT", "SETNAME", "idle-%d" % at)
        busy, listeners = Busy(fleet.addr, 50), Listeners(fleet.addr, 50)
        busy.goes_on()
        steady, pauses = busy.longest_since(), []
        for round in range(args.upgrades):
            with Middle(fleet.addr) as middle:
                said = fleet.upgrade(*fleet.node(threads=(1, 3, 2)[round % 3]), deadline=60000)
                count.check("upgrade %d with connections" % round, said[:1] == ["committed"], str(said))
                busy.goes_on()
                pauses.append(busy.longest_since())
                middle.check(count)
            count.check("the old process ends well", fleet.say("reap") == ["ended", "0"])
            served = sum(is_served(conn, "idle-%d" % at) for at, conn in enumerate(idle))
            count.check("idle connections are served", served == len(idle), str(served))
        with Conn(fleet.addr, 20.0) as conn:
            told = conn.info("handoff")
        taken, tail = int(told["handoff_clients_taken"]), int(told["handoff_tail_bytes"])
        ahead = (told["handoff_preloaded_shards"], told["handoff_preloaded_bytes"])
        print("passing: of the last upgrade %s shards and %s bytes were read ahead, %d bytes were left" % (*ahead, tail))
        count.check("INFO tells how many came along", taken >= 600, str(taken))
        listeners.end(count, "passing")
        busy.end(fleet.addr, count, "passing")
        took = sorted(busy.took)
        print("passing: %d keys, %d upgrades: longest pause %.0f ms, median of each upgrade's %.0f ms; of %d batches "
              "p99 %.1f ms, p99.9 %.1f ms; longest before %.0f ms"
              % (args.keys, args.upgrades, max(pauses) * 1000, sorted(pauses)[len(pauses) // 2] * 1000, len(took),
                 took[int(len(took) * 0.99)] * 1000, took[int(len(took) * 0.999)] * 1000, steady * 1000))


def is_served(conn, name):
    try:
        return conn.ask("CLIENT", "GETNAME") == name.encode()
    except (OSError, Closed, Broken, RuntimeError):
        return False


def settings(args, scratch, count):
    """What CONFIG SET and ACL changed and nobody saved goes on, also over several upgrades, but for that for which the
    next process is given something else."""
    with Fleet(args, scratch, "settings") as fleet:
        fleet.start("--timeout", "77")
        hers, admin = Conn(fleet.addr, 20.0), Conn(fleet.addr, 20.0)
        admin.ask("SET", "key", "value")
        admin.ask("ACL", "SETUSER", "alice", "on", ">sesame-2", "~k*", "+get", "+acl|whoami")
        admin.ask("CONFIG", "SET", "maxmemory", "123456789", "maxmemory-policy", "allkeys-lru", "timeout", "99")
        admin.ask("CONFIG", "SET", "requirepass", "sesame-1")
        hers.ask("AUTH", "alice", "sesame-2")

        def is_kept(what, timeout):
            count.check("%s: users are known, and keep their connections" % what,
                        hers.ask("ACL", "WHOAMI") == b"alice" and hers.ask("GET", "key") == b"value"
                        and hers.call("SET", "key", "1").value.startswith(b"NOPERM"))
            got = [admin.ask("CONFIG", "GET", name)[1] for name in ("maxmemory", "maxmemory-policy", "timeout")]
            count.check("%s: settings go on" % what, got == [b"123456789", b"allkeys-lru", timeout], str(got))
            with Conn(fleet.addr, 5.0) as new:
                shut = new.call("GET", "key").value.startswith(b"NOAUTH")
                wrong = new.call("AUTH", "alice", "his").value.startswith(b"WRONGPASS")
                opened = new.call("AUTH", "sesame-1").value == b"OK" and new.call("GET", "key").value == b"value"
            count.check("%s: so do passwords" % what, shut and wrong and opened)

        for round, timeout, given in ((1, b"99", ("--timeout", "77")), (2, b"99", ("--timeout", "77")),
                                      (3, b"55", ("--timeout", "55"))):
            said = fleet.upgrade(*fleet.node(*given), deadline=20000)
            count.check("upgrade %d with settings" % round, said[:1] == ["committed"], str(said))
            is_kept("upgrade %d" % round, timeout)
        with open(fleet.log.name, errors="replace") as log:
            text = log.read()
        count.check("no secret is in the log", "ready on" in text and "sesame" not in text)


def preloads(args, scratch, count):
    """The new process reads ahead while the old one serves: what is left for the pause is little, whatever was written
    or removed meanwhile."""
    keys = 5000 if args.short else 50000
    with Fleet(args, scratch, "preloads", listeners=2) as fleet:
        fleet.start(threads=2)
        with Conn(fleet.addr, 60.0) as conn:
            first = conn.info("handoff")
            count.check("the first process has read nothing ahead", first["handoff_preloaded_shards"] == "0", str(first))
            for at in range(0, keys, 100):
                conn.ask("MSET", *(word for n in range(at, at + 100) for word in ("key:%d" % n, "value:%0100d" % n)))
            conn.ask("SET", "mortal", "1", "PX", "1")
        load = Load(fleet.addr)
        load.goes_on()
        for round, threads in enumerate((3, 1, 2)):
            if round == 1:
                with Conn(fleet.addr, 60.0) as conn:
                    conn.ask("SAVE")
            said = fleet.upgrade(*fleet.node(threads=threads))
            count.check("upgrade %d with writers" % round, said[:1] == ["committed"], str(said))
            load.goes_on()
            with Conn(fleet.addr, 60.0) as conn:
                told = conn.info("handoff")
            ahead, tail = int(told["handoff_preloaded_bytes"]), int(told["handoff_tail_bytes"])
            good = told["handoff_preloaded_shards"] == "3" and ahead > keys * 100 and tail < ahead // 4
            count.check("all was read ahead but the end", good, str(told))
        # Files come and go, and are begun anew, while they are read.
        ending = threading.Event()

        def stir():
            while not ending.is_set():
                try:
                    with Conn(fleet.addr, 60.0) as conn:
                        while not ending.is_set():
                            conn.call("BGSAVE")
                            conn.call("MSET", *(word for n in range(100) for word in ("stir:%d" % n, "x" * 1000)))
                except (OSError, Closed, Broken):
                    pass

        stirrer = threading.Thread(target=stir)
        stirrer.start()
        for round in range(2 if args.short else 6):
            said = fleet.upgrade(*fleet.node(threads=2))
            count.check("upgrade %d while snapshots are made" % round, said[:1] == ["committed"], str(said))
            load.goes_on()
        ending.set()
        stirrer.join(60)
        with Conn(fleet.addr, 60.0) as conn:
            found = conn.many([("GET", "key:%d" % n) for n in range(keys)])
            right = sum(reply.value == b"value:%0100d" % n for n, reply in enumerate(found))
            count.check("all keys are there", right == keys and conn.ask("EXISTS", "mortal") == 0, str(right))
        load.end(count, "preloads")


class Middle:
    """Connections in the middle of something."""

    def __init__(self, addr):
        self.addr, self.all = addr, []
        self.began = time.monotonic()
        self.queued, self.watching, self.half, self.third = (self.conn() for _ in range(4))
        self.blocked, self.short, self.stream, self.silent = (self.conn() for _ in range(4))
        self.shards, self.monitor, self.tracking, self.large = (self.conn() for _ in range(4))
        with Conn(addr, 20.0) as conn:
            conn.ask("DEL", "middle:n", "middle:list", "middle:none", "middle:stream", "middle:half")
            conn.ask("XADD", "middle:stream", "1-1", "is", "old")
        self.queued.ask("SELECT", "5")
        self.queued.ask("DEL", "middle:n")
        self.queued.ask("MULTI")
        self.queued.ask("INCRBY", "middle:n", "7")
        self.watching.ask("WATCH", "middle:n")
        self.watching.ask("MULTI")
        self.watching.ask("INCR", "middle:n")
        self.third.ask("HELLO", "3")
        self.id = self.third.ask("CLIENT", "ID")
        self.half.send_raw(encode(["SET", "middle:half", "whole"])[:-9])
        self.value = encode(["SET", "middle:large", os.urandom(3 << 20)])
        self.large.send_raw(self.value[:2 << 20])
        # Behind what waits, a request that is to run next.
        self.blocked.send_raw(encode(["BLPOP", "middle:list", "0"]) + encode(["PING"]))
        self.short.send("BLPOP", "middle:none", "1.5")
        self.stream.send("XREAD", "BLOCK", "0", "STREAMS", "middle:stream", "$")
        self.silent.send("CLIENT", "REPLY", "OFF")
        self.shards.ask("SSUBSCRIBE", "middle:channel")
        self.monitor.ask("MONITOR")
        self.tracking.ask("HELLO", "3")
        self.tracking.ask("CLIENT", "TRACKING", "ON")
        with Conn(addr, 20.0) as conn:
            wait_until("three are blocked", 20, lambda: conn.info("clients")["blocked_clients"] == "3")

    def conn(self):
        self.all.append(Conn(self.addr, 20.0))
        return self.all[-1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for conn in self.all:
            conn.close()

    def check(self, count):
        with Conn(self.addr, 20.0) as conn:
            count.check("a transaction is run in its database", self.queued.ask("EXEC") == [7]
                        and self.queued.ask("GET", "middle:n") == b"7")
            void = self.watching.ask("EXEC")
            count.check("one that watches is void", void is None and conn.ask("GET", "middle:n") is None, str(void))
            self.half.send_raw(encode(["SET", "middle:half", "whole"])[-9:])
            count.check("a request goes on where it was cut", self.half.read().value == b"OK"
                        and self.half.ask("GET", "middle:half") == b"whole")
            self.large.send_raw(self.value[2 << 20:])
            count.check("so does a large one", self.large.read().value == b"OK"
                        and encode(["SET", "middle:large", conn.ask("GET", "middle:large")]) == self.value)
            told = self.third.call("HGETALL", "middle:nothing")
            count.check("the protocol and the number stay", told.kind == "%" and self.third.ask("CLIENT", "ID") == self.id)
            conn.ask("RPUSH", "middle:list", "one", "two")
            got = self.blocked.read().plain()
            count.check("who waits for a list gets it", got == [b"middle:list", b"one"]
                        and self.blocked.read().value == b"PONG" and conn.ask("LLEN", "middle:list") == 1, str(got))
            conn.ask("XADD", "middle:stream", "2-1", "is", "new")
            got = self.stream.read().plain()
            count.check("who waits for a stream gets what is new", b"new" in str(got).encode()
                        and b"old" not in str(got).encode(), str(got))
            got = self.short.read().value
            took = time.monotonic() - self.began
            count.check("a time-out goes on", got is None and took > 1.4, "%r after %.1f s" % (got, took))
            heard = conn.ask("SPUBLISH", "middle:channel", "text")
            count.check("shard channels are heard", heard == 1 and self.shards.read().plain()[-1] == b"text")
            self.silent.send("PING")
            self.silent.send("CLIENT", "REPLY", "ON")
            count.check("who wants no replies gets none", self.silent.read().value == b"OK")
            gone = [ends(self.drained(other)) for other in (self.monitor, self.tracking)]
            count.check("who cannot go along is told the end", gone == [True, True], str(gone))
            got = conn.ask("PING")
            count.check("a new connection is served", got == b"PONG")

    def drained(self, conn):
        """What it was sent before."""
        while not conn.sock.settimeout(5) and conn.sock.recv(1 << 16, socket.MSG_PEEK):
            conn.sock.recv(1 << 16)
        return conn


class Own:
    """Our own supervisor, its node, and where they live."""

    def __init__(self, args, scratch, name, deadline=20000):
        self.args, self.deadline = args, deadline
        self.dir = scratch.sub(name)
        self.control = os.path.join(self.dir, "control")
        self.port = free_base()
        self.addr = ("127.0.0.1", self.port)
        # A path of its own, under which another program can be put.
        self.binary = self.program("ringkeep")
        self.process, self.pids = None, set()
        self.log = open(os.path.join(self.dir, "log"), "ab")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if os.environ.get("SHOW_LOG"): sys.stderr.write(open(self.log.name, errors="replace").read()[-6000:])
        self.kill()
        for pid in self.pids | self.holders():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.log.close()
        if kind is not None:
            print(self.log_text()[-4000:])

    def log_text(self):
        with open(self.log.name, errors="replace") as log:
            return log.read()

    def holders(self):
        try:
            with open(os.path.join(self.dir, "data", "LOCK")) as lock:
                return {int(lock.readline())}
        except (OSError, ValueError):
            return set()

    def program(self, name):
        """A copy of the node."""
        path = os.path.join(self.dir, name)
        shutil.copy(self.args.node, path + ".new")
        os.replace(path + ".new", path)
        return path

    def script(self, name, *argv):
        """A program that is another one: the supervisor's arguments are left out, or stand where "$@" is."""
        path = os.path.join(self.dir, name)
        with open(path, "w") as script:
            script.write("#!/bin/sh\nexec %s\n" % " ".join(argv))
        os.chmod(path, 0o755)
        return path

    def argv(self, *more):
        argv = [self.binary, "supervise", "--control", self.control, "--deadline-ms", str(self.deadline)]
        argv += ["--port", str(self.port), "--dir", os.path.join(self.dir, "data"), "--shards", "3"]
        return argv + ["--threads", "2", "--no-pin", "--spin-us", "0", "--appendfsync", "always"] + list(more)

    def start(self, *more, argv=None, **how):
        self.process = subprocess.Popen(
            argv or self.argv(*more), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, **how)
        wait_until("the supervisor has a node that serves", 20, self.is_found)
        return self.node()

    def is_found(self):
        """Somebody serves, and the supervisor knows it."""
        with open(self.control + ".state") as state, socket.socket(socket.AF_UNIX) as line:
            line.connect(self.control)
            return "node %d " % self.node() in state.read()

    def node(self):
        """The process that serves."""
        with Conn(self.addr, 20.0) as conn:
            pid = int(conn.info("server")["process_id"])
        self.pids.add(pid)
        return pid

    def upgrade(self, binary):
        argv = [self.binary, "upgrade", "--binary", binary, "--control", self.control]
        asked = subprocess.run(argv, capture_output=True, timeout=60)
        return asked.returncode, asked.stdout.decode() + asked.stderr.decode()

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


def own_upgrades(args, scratch, count):
    """Our own supervisor: upgrades on request and by SIGHUP, and programs that are of no use."""
    itself = [sys.executable, os.path.abspath(__file__), "--be"]
    with Own(args, scratch, "own", deadline=4000) as own:
        first = own.start()
        count.check("only we may ask", os.stat(own.control).st_mode & 0o777 == 0o600)
        second = subprocess.run(own.argv(), capture_output=True, timeout=20)
        told = second.returncode == 1 and b"another supervisor answers" in second.stderr
        count.check("a second supervisor is refused", told, str(second))
        if os.geteuid() == 0:
            count.check("another user is turned away", is_turned_away(scratch, own))
        load = Load(own.addr)
        load.goes_on()
        bad = [
            ("ends at once", "/bin/false", "before it said hello"),
            ("is not there", "/nonexistent", "No such file"),
            ("is no program", os.path.join(own.dir, "log"), "cannot be started"),
            ("ends when it is known", own.script("known", *itself, "known"), "before it was"),
            ("ends when it should begin", own.script("begun", *itself, "begun"), "before it was ready"),
            ("is ready and does not serve", own.script("lies", *itself, "ready"), "does not serve"),
        ]
        if not args.short:
            bad += [
                ("hangs when it should begin", own.script("hung", *itself, "hung"), "not ready in time"),
                ("says nothing", own.script("sleep", "/bin/sleep", "60"), "no hello in time"),
            ]
        for what, binary, why in bad:
            code, said = own.upgrade(binary)
            good = code == 1 and why in said and said.endswith("the old process serves on\n")
            count.check("a program that " + what, good, said)
            load.goes_on()
        blocked = os.path.join(own.dir, "data", "handoff.seal.new")
        os.mkdir(blocked)
        code, said = own.upgrade(own.binary)
        os.rmdir(blocked)
        count.check("a node that cannot seal", code == 1 and "seal failed" in said, said)
        load.goes_on()
        count.check("no connection was cut", load.cuts() == 0 and own.node() == first, str(load.cuts()))
        begun = lambda: own.log_text().count("handoff: prepares")
        (code, said), answer = while_busy(own.addr, 3.5, begun, lambda: own.upgrade(own.binary))
        good = code == 1 and "what is under way" in said and answer == b"done"
        count.check("a node that has to end first what it does", good, said)
        first = own.node()
        code, said = own.upgrade(own.program("other"))
        good = code == 0 and "the new process loads the data" in said and "done: process %d serves" % own.node() in said
        count.check("an upgrade", good and not is_alive(first), said)
        load.goes_on()
        if not args.short:
            late = own.script("late", *slow(scratch, 7000), own.binary, '"$@"')
            code, said = own.upgrade(late)
            count.check("one that has the directory and is late", code == 1 and "not ready in time" in said, said)
            load.goes_on()
        # What is now at the path of the node, which is no more that of the supervisor.
        before = own.node()
        own.program("other")
        own.process.send_signal(signal.SIGHUP)
        wait_until("another process serves", 20, lambda: own.node() != before)
        exe = os.readlink("/proc/%d/exe" % own.node())
        count.check("SIGHUP brings the program that is at its path", exe.endswith("/other"), exe)
        load.goes_on()
        load.end(count, "own upgrades")
        waited = "without having heard of the clients" in own.log_text()
        count.check("each new process has the clients of the one before", not waited)
        own.process.send_signal(signal.SIGTERM)
        count.check("it stops with its node", own.process.wait(20) == 0 and not is_alive(max(own.pids)))
        left = [name for name in os.listdir(own.dir) if name.startswith("control")]
        count.check("and leaves nothing", not left, str(left))


def is_turned_away(scratch, own):
    """Another user asks for an upgrade, with the door left open."""
    for folder in (scratch.path, own.dir):
        os.chmod(folder, 0o755)
    os.chmod(own.control, 0o666)
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(10)
                line.connect(own.control)
                line.sendall(b"upgrade /bin/false\n")
                os._exit(len(line.recv(100)))
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)
        except BaseException:
            os._exit(77)
    return os.waitpid(pid, 0)[1] == 0


def own_crashes(args, scratch, count):
    """Our own supervisor is killed, or its node is."""
    with Own(args, scratch, "own-crashes") as own:
        first = own.start()
        load = Load(own.addr)
        load.goes_on()
        own.kill()
        load.goes_on()
        count.check("the node does not need it", own.start() == first)
        load.goes_on()
        count.check("no connection was cut", load.cuts() == 0, str(load.cuts()))
        code, said = own.upgrade(own.binary)
        count.check("the next supervisor has the listeners", code == 0, said)
        load.goes_on()

        # While the new process has the directory, and while it has not.
        for what, ms in (("loads", 3000),):
            before = own.node()
            late = own.script("late", *slow(scratch, ms), own.binary, '"$@"')
            asked = subprocess.Popen([own.binary, "upgrade", "--binary", late, "--control", own.control],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            wait_until("the new process has the directory", 20, lambda: own.holders() != {before})
            own.kill()
            count.check("who asked is told", asked.wait(20) == 1 and b"went away" in asked.stderr.read())
            after = own.start()
            count.check("one that %s serves in the end" % what, after != before and own.holders() == {after})
            wait_until("the old process ends", 10, lambda: not is_alive(before))
            load.goes_on()
            said = wait_until("the next upgrade", 20, lambda: taken(own, own.binary))
            count.check("the next upgrade is taken", bool(said))
            load.goes_on()

        before = own.node()
        os.kill(before, signal.SIGKILL)
        wait_until("the node is started again", 20, lambda: own.node() != before)
        load.goes_on()
        # One that cannot start is tried again and again, at longer and longer distances.
        os.replace(own.script("broken", "/bin/false"), own.binary)
        os.kill(own.node(), signal.SIGKILL)
        tries = lambda: own.log_text().count("ended with status 1")
        wait_until("it is tried again", 20, lambda: tries() >= 3)
        own.program("ringkeep")
        wait_until("it starts when it can", 20, own.node)
        load.goes_on()
        count.check("it is not tried all the time", tries() <= 8, str(tries()))
        # Both at once: nobody is found, the files of both are left.
        last = own.node()
        own.kill()
        os.kill(last, signal.SIGKILL)
        count.check("both are started again", own.start() != last)
        load.goes_on()
        load.end(count, "own crashes")
        with Conn(own.addr) as conn:
            conn.send("SHUTDOWN")
        count.check("a node that is told to end is not started again", own.process.wait(20) == 0)
    with Own(args, scratch, "own-bad") as own:
        bad = subprocess.run(own.argv("--replication-port", str(own.port)), capture_output=True, timeout=20)
        told = b"ended with status 1 before it served" in bad.stderr
        count.check("a node that cannot start is not tried for ever", bad.returncode == 1 and told, str(bad))


def taken(own, binary):
    code, said = own.upgrade(binary)
    return said if code == 0 else None


def own_manager(args, scratch, count):
    """What a service manager does: sockets that it opened, and to be told how the service is."""
    with Own(args, scratch, "own-manager") as own, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notes, \
            socket.create_server(own.addr, backlog=1024) as listener:
        path = os.path.join(own.dir, "notes")
        notes.bind(path)
        notes.settimeout(20)
        told = lambda: notes.recv(4096).decode().splitlines()
        # Who is started by systemd finds its own number in LISTEN_PID.
        script = 'exec 3<&%d; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=ringkeep.socket exec "$@"' % listener.fileno()
        argv = ["/bin/sh", "-c", script, "sh"] + own.argv("--unixsocket", os.path.join(own.dir, "unused"))
        first = own.start(argv=argv, pass_fds=[listener.fileno()], env=dict(os.environ, NOTIFY_SOCKET=path))
        count.check("it is told that the node serves", told() == ["READY=1", "STATUS=process %d serves" % first])
        with open("/proc/%d/environ" % first) as environ:
            names = {entry.split("=")[0] for entry in environ.read().split("\0")}
        count.check("what is the supervisor's is not the node's", not names & {"NOTIFY_SOCKET", "LISTEN_PID"})
        unused = os.path.exists(os.path.join(own.dir, "unused"))
        count.check("the manager's sockets are the only ones", not unused)
        own.process.send_signal(signal.SIGHUP)
        lines = told()
        good = lines[0] == "RELOADING=1" and int(lines[1].partition("MONOTONIC_USEC=")[2]) > 0
        count.check("it is told of a reload", good, str(lines))
        lines = told()
        count.check("and of its end", lines == ["READY=1", "STATUS=process %d serves" % own.node()], str(lines))
        # The manager starts it again with the same sockets.
        own.kill()
        again = own.start(argv=argv, pass_fds=[listener.fileno()], env=dict(os.environ, NOTIFY_SOCKET=path))
        count.check("the next one finds the node", told()[0] == "READY=1" and again == own.node() != first)
        own.process.send_signal(signal.SIGTERM)
        count.check("it is told of the stop", told()[0] == "STOPPING=1" and own.process.wait(20) == 0)


def exchanges(args, scratch, count):
    """Our supervisor goes on where the library's was, and the other way round."""
    with Fleet(args, scratch, "exchange") as fleet, Own(args, scratch, "exchange") as own:
        own.port, own.addr = fleet.port, fleet.addr
        handoff = ["--handoff-socket", fleet.control]
        own.control += "-own"
        fleet.start(threads=2)
        load = Load(fleet.addr)
        load.goes_on()
        fleet.kill_supervisor()
        count.check("ours finds the node of the library's", own.start(*handoff) == fleet.pids[0])
        code, said = own.upgrade(own.binary)
        count.check("and replaces it", code == 0, said)
        load.goes_on()
        own.kill()
        before = own.node()
        fleet.supervise()
        said = wait_until("the library's replaces ours", 20, lambda: committed(fleet))
        count.check("the library's replaces the node of ours", bool(said))
        wait_until("the old process ends", 10, lambda: not is_alive(before))
        load.goes_on()
        load.end(count, "exchanges")


def frame(payload):
    return struct.pack("<IH", len(payload) + 2, 1) + payload


def hear(control):
    """The payload of the next frame."""
    def exactly(count):
        got = b""
        while len(got) < count:
            piece = control.recv(count - len(got))
            if not piece:
                raise SystemExit(0)
            got += piece
        return got

    length, _ = struct.unpack("<IH", exactly(6))
    return exactly(length - 2)


def be(what, path):
    """A successor that comes to nothing."""
    control = socket.socket(fileno=int(os.environ["HANDOFF_SOCK_FD"]))
    pid, varint = os.getpid(), b""
    while pid > 0x7F:
        varint, pid = varint + bytes([pid & 0x7F | 0x80]), pid >> 7
    control.sendall(frame(b"\x00\x01" + varint + bytes([pid]) + b"\x00\x01\x01\x00"))
    name = hear(control)[3:]
    if what == "known":
        return
    hear(control)
    if what == "ready":
        control.sendall(frame(b"\x09\x10" + name + b"\x00\x01\x00"))
    if what in ("hung", "ready"):
        time.sleep(60)
    if what == "greets":
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(path + ".pass")
            line.sendall(b"rkpass\0\x01" + name)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--node")
    parser.add_argument("--supervisor", action="append", dest="supervisors", help="may be repeated")
    parser.add_argument("--short", action="store_true", help="the cases that say most, within 120 seconds")
    parser.add_argument("--only", help="one of the parts, by the name of its function")
    parser.add_argument("--upgrades", type=int, default=3, help="in a row, of passing")
    parser.add_argument("--keys", type=int, default=1000, help="of passing")
    parser.add_argument("--be", help="used by itself")
    parser.add_argument("--control", help="used by itself")
    args = parser.parse_args()
    if args.be:
        return be(args.be, args.control)
    args.supervisors = [os.path.abspath(program) for program in args.supervisors]
    count = Count()
    parts = (upgrades, passing, settings, preloads, aborts, crashes, slow_crashes, failures, late_ones, replicas, roles,
             members, failovers)
    parts += () if args.short else (stops,)
    for args.supervisor in args.supervisors:
        if args.supervisor != args.supervisors[0] and args.short:
            parts = (failures,)
        print("with %s" % os.path.basename(args.supervisor))
        with Scratch() as scratch:
            for part in parts:
                if args.only in (None, part.__name__):
                    part(args, scratch, count)
    if args.only in (None, "turns"):
        with Scratch() as scratch:
            turns(args, scratch, count)
    print("with our own supervisor")
    args.supervisor = args.supervisors[0]
    for part in (own_upgrades, own_crashes, own_manager, exchanges):
        if args.only in (None, part.__name__):
            with Scratch() as scratch:
                part(args, scratch, count)
    count.close()


if __name__ == "__main__":
    main()
