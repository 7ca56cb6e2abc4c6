#!/usr/bin/env python3
"""Members of an election, real processes, while everything around them goes wrong.

    elections.py --node BINARY [--short]
    elections.py --node BINARY --fleet NAME --rounds N [--seed S] [--down-after MS]
    elections.py --node BINARY --fleet NAME --idle MINUTES

A round takes something away and gives it back: the primary is killed, stopped in good order, paused for
longer than the others wait, cut off (both ways, or one), heard by nobody or hears nobody while its data flows
on; two members are cut apart; a replica is killed; two members are killed, or all are started anew; one that
has missed writes is left with as few others as make a majority; the primary takes writes that nobody else gets,
and comes back when another one leads without them. Meanwhile clients write, to whoever takes it,
and ask WAIT for a majority; a write that WAIT confirmed is called confirmed. One more client for each member
tries all the time whether that one accepts writes.

At the end of a round, with everything healed:

    one       there is one primary, everybody follows it, and it accepts writes
    in step   what is written then arrives everywhere; all hold as many keys, and ringkeeps the same digest
    kept      every confirmed write is on the primary and on all replicas
    alone     no two members accepted writes at the same time, and none two of the same epoch

In the fleet "quorum" nobody asks: it runs with `--quorum-writes yes`, so what was answered is confirmed. Before
its rounds two members of three are stopped, twice: then no write may be answered, nor what would show it, while
PING and INFO are; and whoever waits is told by a closed connection.

In a fleet of ringkeeps all four are asserted. "kept" has one exception: where a majority was killed at once,
only writes that WAITAOF confirmed must be there, as the journals are synced once a second.

In a fleet with kevys "one" and "in step" are asserted. "alone" and "kept" cannot be, and what was seen is
told instead, with who had confirmed the writes that were lost and who was the primary then:

- A kevy votes while it hears a primary, and a ringkeep primary whose lease rests on a kevy may accept writes
  for the rest of that lease after another one was elected.
- A kevy compares plain sums, of whatever history, so one that lacks confirmed writes can win. Its WAIT counts
  acknowledgements of older histories, and a link that breaks during the first sync behind a promotion leaves
  a kevy's replica empty. A kevy keeps accepting writes until it has heard nobody for 5 s.
- A 2.0.20 votes only: it has no data of the others, and nobody writes to it. If it is elected, the primary is
  taken from it by ending it for a while.

- A kevy that voted for who was not elected, or stood in vain, is in an epoch above the primary's. It goes on
  following, but once started anew it follows nobody until the next election, as no kevy follows into an epoch
  below its own. When nothing else is amiss for 20 s, the primary is ended for a while, which is told.

In the fleet "kevys", which is there to show what this test sees of members without a ringkeep, nothing is
asserted. It stands still for good, for one, when its primary is started anew within 5 s: the others wait for
the old primary, whose heartbeats they hear, and that one waits for somebody who has more than it.

The network: every member lives in a network namespace of its own and sees the others through a bridge,
clients come another way. A cut is a wrong hardware address for a neighbour: packets vanish, in one direction.
Where only the messages of elections are to vanish, a routing rule for the port of elections drops them.
Without root there are no namespaces; then everybody is on loopback, and the cuts are left out, which is said.
"""

import argparse
import collections
import ctypes
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time

from kevy_replica import shard_of
from wire import Broken, Closed, Count, Scratch, Server, free_base, kevy_binary, wait_until

SHARDS = 2
RINGKEEP = "ringkeep"
# What only votes: elections do not change whom it follows or what it accepts.
VOTERS = ("1.19.0", "2.0.20")
FLEETS = {
    "three": (RINGKEEP,) * 3,
    "five": (RINGKEEP,) * 5,
    "quorum": (RINGKEEP,) * 3,
    "with-7.0": (RINGKEEP, RINGKEEP, "7.0.0"),
    "with-5.4": (RINGKEEP, "5.4.0", "5.4.0"),
    "with-voter": (RINGKEEP, RINGKEEP, "2.0.20"),
    "kevys": ("7.0.0",) * 3,
}
# kevy's, in milliseconds; they cannot be changed there.
KEVY_DOWN_AFTER = 5000
# After so long it is looked whether it is kevys that keep a fleet from being whole.
KEVY_LEFT_AHEAD_S = 20
GONE = (OSError, Closed, Broken)


# ---------------------------------------------------------------------------------------------
# Places


class Network:
    """A namespace for each member: eth0 leads to the others, eth1 to the clients. This process gets one, too,
    so that no address is taken from the host."""

    can_cut = True

    def __init__(self, size):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x40000000) != 0:  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "unshare")
        self.names = ["ringkeep-%d-%d" % (os.getpid(), n) for n in range(size)]
        self.macs = ["02:00:00:00:00:%02x" % (n + 1) for n in range(size)]
        try:
            self.build()
        except BaseException:
            self.close()
            raise

    def build(self):
        ip = self.ip
        ip("link", "set", "lo", "up")
        ip("link", "add", "bridge0", "type", "bridge")
        ip("link", "set", "bridge0", "up")
        for n, name in enumerate(self.names):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
            ip("link", "add", "peer%d" % n, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "add", "client%d" % n, "type", "veth", "peer", "name", "eth1", "netns", name)
            ip("-n", name, "link", "set", "eth0", "address", self.macs[n])
            ip("-n", name, "address", "add", self.peer_host(n) + "/24", "dev", "eth0")
            ip("-n", name, "address", "add", self.client_host(n) + "/24", "dev", "eth1")
            ip("address", "add", "10.78.%d.1/24" % n, "dev", "client%d" % n)
            ip("link", "set", "peer%d" % n, "master", "bridge0")
            for port in ("peer%d" % n, "client%d" % n):
                ip("link", "set", port, "up")
            for port in ("eth0", "eth1"):
                ip("-n", name, "link", "set", port, "up")
        self.heal()

    def ip(self, *words):
        subprocess.run(("ip",) + words, check=True, capture_output=True)

    def close(self):
        for name in self.names:
            subprocess.run(("ip", "netns", "del", name), capture_output=True)

    def peer_host(self, n):
        return "10.77.0.%d" % (n + 1)

    def client_host(self, n):
        return "10.78.%d.2" % n

    def port(self, n):
        return 7000 + 10 * n

    def argv(self, n):
        """What starts a process there."""
        return ["ip", "netns", "exec", self.names[n]]

    def cut(self, a, b):
        """No packet from a reaches b."""
        self.neighbour(a, b, "02:00:00:00:ff:ff")

    def mute(self, a, b):
        """b hears no more of what a sends to its port of elections; the other way, and data, go on."""
        what = ("to", self.peer_host(b), "ipproto", "tcp", "dport", str(self.port(b) + 200))
        self.ip("-n", self.names[a], "rule", "add", *what, "blackhole")

    def heal(self):
        for a, name in enumerate(self.names):
            for b in range(len(self.names)):
                if a != b:
                    self.neighbour(a, b, self.macs[b])
            unmute = ("ip", "-n", name, "rule", "del", "type", "blackhole")
            while subprocess.run(unmute, capture_output=True).returncode == 0:
                pass

    def neighbour(self, a, b, mac):
        host = self.peer_host(b)
        how = ("lladdr", mac, "dev", "eth0", "nud", "permanent")
        self.ip("-n", self.names[a], "neigh", "replace", host, *how)


class Loopback:
    """Everybody on one address, and no cuts."""

    can_cut = False

    def __init__(self, size):
        self.ports = [free_base(2) for _ in range(size)]

    def close(self):
        pass

    def peer_host(self, n):
        return "127.0.0.1"

    client_host = peer_host

    def port(self, n):
        return self.ports[n]

    def argv(self, n):
        return []

    def heal(self):
        pass


# ---------------------------------------------------------------------------------------------
# Members


class Process(Server):
    def stop(self, sig=signal.SIGTERM, limit=15.0):
        """The address is not one of this namespace, so whether it is free shows at the next start."""
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
            if sig != signal.SIGKILL:
                self.proc.send_signal(signal.SIGCONT)
            try:
                self.proc.wait(limit)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
                print("        %s did not end within %.0f s" % (self.name, limit), flush=True)
        if self in Server.running:
            Server.running.remove(self)


class Member:
    def __init__(self, at, kind, net):
        self.at, self.kind, self.id = at, kind, "abcdefgh"[at]
        self.port, self.host = net.port(at), net.peer_host(at)
        self.server = None
        # Times between which it was stopped by a signal.
        self.pauses = []

    @property
    def is_ringkeep(self):
        return self.kind == RINGKEEP

    @property
    def only_votes(self):
        return self.kind in VOTERS

    @property
    def token(self):
        """As the list of peers has it; a client port is enough for all that know one."""
        return "%s@%s:%d:%d" % (self.id, self.host, self.port + 200, self.port)

    def is_at(self, host, port):
        ports = [self.port, self.port + 200] + [self.port + 10000 + n for n in range(SHARDS)]
        return host == self.host and port in ports

    def conn(self, timeout=10.0):
        return self.server.conn(timeout)

    def alive(self):
        return self.server.alive()

    def pause(self):
        self.server.proc.send_signal(signal.SIGSTOP)
        is_stopped = lambda: process_state(self.server.proc.pid) == "T"
        wait_until("%s is stopped" % self.id, 5, is_stopped, every=0.001)
        self.pauses.append([time.monotonic(), float("inf")])

    def resume(self):
        self.pauses[-1][1] = time.monotonic()
        self.server.proc.send_signal(signal.SIGCONT)

    def not_before(self, sent):
        """When what was sent then may have been seen by the member."""
        for since, until in self.pauses:
            if since <= sent < until:
                return until
        return sent

    def info(self):
        with self.conn(3.0) as c:
            return c.info("replication")

    def view(self, members):
        """Whom it takes for the primary (None: nobody), in which epoch, and whether it follows it."""
        with self.conn(3.0) as c:
            role = c.ask("ROLE")
            info = c.info("replication")
        epoch = int(info.get("role_epoch", 0)) if self.is_ringkeep else None
        if role[0] == b"master":
            return self, epoch, True
        host, port = role[1].decode(), int(role[2])
        found = [m for m in members if m.is_at(host, port)]
        if self.is_ringkeep:
            # Who it follows and whom it takes for the primary.
            found = [m for m in found if m.id == info.get("elect_primary")]
        is_up = info.get("master_link_status") == "up" and info.get("master_sync_in_progress", "0") == "0"
        return (found[0] if found else None), epoch, is_up or self.only_votes

    def details(self):
        """What it tells of elections and of its streams."""
        told = ("node_role", "role_", "elect_", "master_", "slave_repl_offset")
        fields = self.info()
        with self.conn(3.0) as c:
            fields["tokens"] = c.call("REPL.TOKEN").plain()
        return "  ".join("%s=%s" % row for row in fields.items() if row[0].startswith(told + ("tokens",)))

    def epochs(self):
        """In which epoch each member is, as far as this ringkeep knows."""
        with self.conn(3.0) as c:
            rows = [dict(zip(row[::2], row[1::2])) for row in c.ask("ELECT", "STATUS")[-1]]
        return {row[b"id"].decode(): row[b"epoch"] for row in rows}

    def status(self):
        """What ELECT STATUS tells, one line for each member at its end."""
        if not self.is_ringkeep:
            return []
        with self.conn(3.0) as c:
            flat = c.ask("ELECT", "STATUS")
        text = lambda v: v.decode() if isinstance(v, bytes) else str(v)
        row = lambda flat: "  ".join("%s=%s" % (text(k), text(v)) for k, v in zip(flat[::2], flat[1::2]))
        *own, members = flat
        return [row(own[:-1])] + [row(member) for member in members]


def process_state(pid):
    with open("/proc/%d/stat" % pid, encoding="ascii") as f:
        return f.read().rpartition(")")[2].split()[0]


def kevy_config(member, directory, peers):
    return """[server]
port = %d
bind = "0.0.0.0"
threads = %d
data_dir = "%s"
[persistence]
aof = true
[replication]
role = "%s"
[cluster]
node_id = "%s"
peers = "%s"
""" % (
        member.port,
        SHARDS,
        directory,
        "standalone" if member.only_votes else "primary",
        member.id,
        peers,
    )


class Fleet:
    def __init__(self, scratch, opts, net, name, down_after):
        kinds = FLEETS[name]
        self.net, self.down_after = net, down_after / 1000
        # A reply says that a majority has it.
        self.quorum = name == "quorum"
        self.node = os.path.abspath(opts.node)
        self.members = [Member(n, kind, net) for n, kind in enumerate(kinds)]
        self.all_ringkeeps = all(m.is_ringkeep for m in self.members)
        self.has_ringkeeps = any(m.is_ringkeep for m in self.members)
        self.data = [m for m in self.members if not m.only_votes]
        # Besides the primary, so many make a majority.
        self.need = len(kinds) // 2
        peers = ",".join(m.token for m in self.members)
        for m in self.members:
            directory = scratch.sub("%s-%s" % (m.id, m.kind))
            if m.is_ringkeep:
                argv = [os.path.abspath(opts.node), "--port", m.port, "--bind", "0.0.0.0", "--threads", 1]
                argv += ["--shards", SHARDS, "--no-pin", "--spin-us", 0, "--dir", directory]
                argv += ["--node-id", m.id, "--peers", peers]
                if self.quorum:
                    argv += ["--quorum-writes", "yes"]
                if down_after != KEVY_DOWN_AFTER:
                    argv += ["--elect-down-after-ms", down_after]
            else:
                config = os.path.join(directory, "kevy.toml")
                with open(config, "w", encoding="utf-8") as f:
                    f.write(kevy_config(m, directory, peers))
                argv = [kevy_binary(m.kind), "--config", config]
            argv = net.argv(m.at) + [str(word) for word in argv]
            # What the io_uring of 1.19.0 does with replicas, and kevys with few locked pages.
            env = {} if m.is_ringkeep else {"KEVY_IO_URING": "0"}
            m.server = Process(m.id, argv, m.port, directory, env, host=net.client_host(m.at))

    def start(self):
        for m in self.members:
            m.server.start()

    def rolled_back(self, member):
        """The files of what a member has given up."""
        names = os.listdir(member.server.dir)
        return [os.path.join(member.server.dir, n) for n in names if n.startswith("rollback-") and n.endswith(".rkj")]

    def commands_in(self, path):
        said = subprocess.run([self.node, "rollback", path], check=True, capture_output=True).stdout
        found = []
        while said:
            head, _, said = said.partition(b"\r\n")
            words = []
            for _ in range(int(head[1:])):
                head, _, said = said.partition(b"\r\n")
                words.append(said[: int(head[1:])])
                said = said[int(head[1:]) + 2 :]
            found.append(words)
        return found

    def views(self):
        def view(m):
            try:
                return m.view(self.members)
            except (*GONE, RuntimeError) as e:
                return None, None, "%s: %s" % (type(e).__name__, e)

        return {m: view(m) for m in self.members}

    def primary(self):
        """The one that everybody takes for the primary and follows."""
        views = self.views()
        said = set(v[0] for v in views.values())
        if len(said) != 1 or None in said or not all(v[2] is True for v in views.values()):
            return None
        primary = said.pop()
        # Who stood in vain while a kevy leads follows it from the epoch that it has come to.
        epochs = set(v[1] for v in views.values() if v[1] is not None and primary.is_ringkeep)
        return primary if len(epochs) <= 1 else None

    def settle_limit(self):
        return 15 + (12 * self.down_after if self.all_ringkeeps else 60)

    def settled(self):
        """The primary, once there is one for everybody and it accepts writes."""

        began, helped = time.monotonic(), False

        def accepts():
            nonlocal helped
            primary = self.primary()
            if not primary and not helped and time.monotonic() > began + KEVY_LEFT_AHEAD_S:
                helped = self.elect_for_kevys()
            if primary and not primary.only_votes:
                with primary.conn(3.0) as c:
                    return primary if not c.call("SET", "settled", "1").is_error else None
            if primary:
                print("        %s, which only votes, was elected and is ended" % primary.id, flush=True)
                primary.server.kill()
                time.sleep(3 * self.down_after)
                primary.server.start()
            return None

        return wait_until("one primary", self.settle_limit(), accepts, every=0.03)

    def elect_for_kevys(self):
        """Is nothing amiss but that kevys are in an epoch above that of a primary which all others follow? No
        kevy follows into an epoch below its own, so they wait for the next election, which begins now."""
        views = self.views()
        out = [m for m in self.members if not m.is_ringkeep and views[m][0] is None and views[m][2] is False]
        rest = [m for m in self.members if m not in out]
        said = set(views[m][0] for m in rest)
        tellers = [m for m in rest if m.is_ringkeep]
        if not out or not tellers or len(said) != 1 or not all(views[m][2] is True for m in rest):
            return False
        primary, epochs = said.pop(), tellers[0].epochs()
        if primary is None or any(epochs[m.id] <= epochs[primary.id] for m in out):
            return False
        text = ", ".join("%s (kevy %s) in epoch %d" % (m.id, m.kind, epochs[m.id]) for m in out)
        text += " cannot follow %s in epoch %d, which is ended" % (primary.id, epochs[primary.id])
        print("        " + text, flush=True)
        primary.server.kill()
        time.sleep(3 * self.down_after)
        primary.server.start()
        return True

    def describe(self):
        lines = []
        for m, (primary, epoch, up) in self.views().items():
            said = (m.id, m.kind, primary and primary.id, epoch, up)
            lines.append("%s (%s) says: primary %s, epoch %s, %s" % said)
            try:
                lines.append("    " + m.details())
                lines += ["    " + line for line in m.status()]
            except (*GONE, RuntimeError):
                pass
        return lines


# ---------------------------------------------------------------------------------------------
# Clients


class Journal:
    """What clients saw."""

    def __init__(self):
        self.open = threading.Event()
        # (sent, answered, member): writes that were accepted.
        self.accepted = []
        # Key to (value, member, how it was confirmed): what must not get lost.
        self.confirmed = {}
        # Key to value: accepted, and neither confirmed nor known to be lost.
        self.unconfirmed = {}
        self.refused = self.unknown = 0


class Client(threading.Thread):
    def __init__(self, fleet, journal):
        super().__init__(daemon=True)
        self.fleet, self.journal = fleet, journal
        self.ended, self.idle = False, threading.Event()

    def run(self):
        while not self.ended:
            if not self.journal.open.is_set():
                self.idle.set()
                self.journal.open.wait(0.1)
                continue
            self.idle.clear()
            try:
                self.turn()
            except (*GONE, RuntimeError):
                self.lost()
                time.sleep(0.01)

    def lost(self):
        """The connection is of no use any more."""


class Writer(Client):
    """Writes keys of its own to whoever takes them."""

    def __init__(self, fleet, journal, name, seed, on_disk):
        super().__init__(fleet, journal)
        self.key, self.rng, self.on_disk = name, random.Random(seed), on_disk
        self.conn, self.member, self.count = None, None, 0

    def lost(self):
        if self.conn:
            self.conn.close()
        self.conn = None

    def turn(self):
        if not self.conn:
            # The next one in line.
            line = self.fleet.data
            at = line.index(self.member) + 1 if self.member else self.rng.randrange(len(line))
            self.member = line[at % len(line)]
            self.conn = self.member.conn(2.5)
        batch = []
        for _ in range(self.rng.randrange(1, 30 if self.on_disk else 6)):
            self.count += 1
            batch.append(("%s:%d" % (self.key, self.count), "%s=%d" % (self.member.id, self.count)))
        sent = time.monotonic()
        for key, value in batch:
            self.conn.send("SET", key, value)
        taken = []
        try:
            for pair in batch:
                reply = self.conn.read()
                if not reply.is_error:
                    self.journal.accepted.append((sent, time.monotonic(), self.member))
                    taken.append(pair)
                    if self.fleet.quorum and not self.on_disk:
                        self.journal.confirmed[pair[0]] = (pair[1], self.member, "WAIT")
        except GONE:
            self.journal.unknown += len(batch) - len(taken)
            if not self.fleet.quorum or self.on_disk:
                self.journal.unconfirmed.update(taken)
            raise
        if not taken:
            self.journal.refused += 1
            self.lost()
            time.sleep(0.01)
            return
        if self.fleet.quorum and not self.on_disk:
            time.sleep(0.005)
            return
        self.journal.unconfirmed.update(taken)
        need = str(self.fleet.need)
        if self.on_disk:
            words = ("WAITAOF", "1", need, "2000")
            here, there = self.conn.ask(*words)
        else:
            words = ("WAIT", need, "1000")
            here, there = 1, self.conn.ask(*words)
        if here == 1 and there >= self.fleet.need:
            for key, value in taken:
                del self.journal.unconfirmed[key]
                self.journal.confirmed[key] = (value, self.member, words[0])
        time.sleep(0.02)


Reign = collections.namedtuple("Reign", "member epoch first last count")


class Prober(Client):
    """Tries all the time whether one member accepts writes."""

    def __init__(self, fleet, journal, member):
        super().__init__(fleet, journal)
        self.member, self.conn, self.count = member, None, 0
        # Of accepted writes in a row, of one epoch: [epoch, end of the first, start of the last, count].
        self.reigns = []
        self.is_open = False

    def lost(self):
        if self.conn:
            self.conn.close()
        self.conn = None
        # A ringkeep names the epoch; of a kevy it is not known what it was meanwhile.
        self.is_open = self.is_open and self.member.is_ringkeep

    def turn(self):
        if not self.conn:
            # A process that is paused answers later, and when it accepted then is what matters.
            self.conn = self.member.conn(60.0)
        self.count += 1
        sent = time.monotonic()
        self.conn.send("SET", "probe:" + self.member.id, self.count)
        self.conn.send("INFO", "replication")
        reply = self.conn.read()
        answered = time.monotonic()
        lines = self.conn.read().value.decode().split("\r\n")
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        if reply.is_error:
            self.is_open = False
        else:
            sent = self.member.not_before(sent)
            self.journal.accepted.append((sent, answered, self.member))
            if fields["role"] != "master":
                # It was the last one, and the epoch is a later one.
                self.is_open = False
                return
            epoch = fields.get("role_epoch")
            if self.is_open and self.reigns[-1][0] == epoch:
                self.reigns[-1][2:] = [sent, self.reigns[-1][3] + 1]
            else:
                self.reigns.append([epoch, answered, sent, 1])
            self.is_open = True
        time.sleep(0.01)


def conflicts(probers, accepted, only):
    """Where two members must both have accepted writes between two moments."""
    reigns = []
    for p in probers:
        if only(p.member):
            reigns += [Reign(p.member, *reign) for reign in p.reigns]
    found = []
    for n, one in enumerate(reigns):
        for other in reigns[n + 1 :]:
            if one.member is other.member:
                continue
            since, until = max(one.first, other.first), min(one.last, other.last)
            who = "%s of epoch %s and %s of epoch %s"
            who %= (one.member.id, one.epoch, other.member.id, other.epoch)
            if since < until:
                found.append("%s both accepted writes for %.3f s" % (who, until - since))
            elif one.epoch is not None and one.epoch == other.epoch:
                found.append("%s both accepted writes" % who)
    for reign in reigns:
        for sent, answered, member in accepted:
            if member is not reign.member and only(member) and reign.first < sent and answered < reign.last:
                who = (member.id, reign.member.id, reign.epoch)
                found.append("%s accepted a write while %s led epoch %s" % who)
                break
    return found


# ---------------------------------------------------------------------------------------------
# Rounds


class Loss:
    """One thing that is taken away, and given back by `heal`."""

    def __init__(self, name, rng, fleet, primary):
        self.name, self.rng, self.fleet, self.primary = name, rng, fleet, primary
        self.others = [m for m in fleet.members if m is not primary]
        self.what = name
        # A majority lost what was not on the disk.
        self.is_large = False
        self.takes_primary = False
        # What it has found out itself.
        self.problems = []

    def away(self, least=1.3, most=3.0):
        time.sleep(self.rng.uniform(least, most) * self.fleet.down_after)

    def run(self):
        getattr(self, self.name.replace(" ", "_"))()

    def kill_primary(self):
        self.takes_primary = True
        self.primary.server.kill()
        self.away(0.1, 2.5)
        self.primary.server.start()

    def stop_primary(self):
        self.takes_primary = True
        self.primary.server.stop()
        self.away(0.1, 2.5)
        self.primary.server.start()

    def pause_primary(self):
        self.takes_primary = True
        self.primary.pause()
        self.away()
        self.primary.resume()

    def pause_briefly(self):
        """About as long as the others wait."""
        self.takes_primary = True
        self.primary.pause()
        self.away(0.7, 1.2)
        self.primary.resume()

    def tail(self):
        """The primary takes writes that nobody else gets, and comes back when there is another one, which lacks
        them: it keeps them in files."""
        self.takes_primary = self.is_large = True
        for m in self.others:
            m.server.kill()
        taken = []
        try:
            with self.primary.conn(3.0) as c:
                for n in range(40):
                    key = "tail:%d:%d" % (self.rng.randrange(1 << 40), n)
                    if c.call("SET", key, str(n)).is_error:
                        break
                    taken.append([b"SET", key.encode(), b"%d" % n])
        except GONE:
            pass
        # It reaches the journal, and the gate is shut.
        time.sleep(0.2)
        self.primary.server.kill()
        for m in self.others:
            m.server.start()

        def others_settled():
            said = [m.view(self.fleet.members) for m in self.others]
            return len(set(v[0] for v in said)) == 1 and said[0][0] in self.others and all(v[2] for v in said)

        def is_settled():
            try:
                return others_settled()
            except GONE:
                return False

        wait_until("one primary without %s" % self.primary.id, self.fleet.settle_limit(), is_settled, every=0.03)
        before = set(self.fleet.rolled_back(self.primary))
        self.primary.server.start()
        self.fleet.settled()
        new = set(self.fleet.rolled_back(self.primary)) - before
        inside = [words for path in sorted(new) for words in self.fleet.commands_in(path)]
        self.what += ", %d writes that nobody else had, %d commands in %d files" % (len(taken), len(inside), len(new))
        ours = {tuple(words) for words in taken}
        missing = ours - {tuple(words) for words in inside}
        there = [m.id for m in self.fleet.data if any(values(m, [words[1] for words in taken]).values())]
        if missing:
            self.problems.append("%d of %d such writes are in no file" % (len(missing), len(taken)))
        if there:
            self.problems.append("they are on %s" % " ".join(there))
        for shard in range(SHARDS):
            order = [words for words in taken if shard_of(words[1], SHARDS) == shard]
            if [words for words in inside if tuple(words) in ours and words in order] != order:
                self.problems.append("those of shard %d are in another order" % shard)

    def cut_off(self):
        self.takes_primary = True
        for m in self.others:
            self.fleet.net.cut(self.primary.at, m.at)
            self.fleet.net.cut(m.at, self.primary.at)
        self.away()

    def cut_out(self):
        self.takes_primary = True
        for m in self.others:
            self.fleet.net.cut(self.primary.at, m.at)
        self.away()

    def cut_in(self):
        self.takes_primary = True
        for m in self.others:
            self.fleet.net.cut(m.at, self.primary.at)
        self.away()

    def unheard(self):
        self.takes_primary = True
        for m in self.others:
            self.fleet.net.mute(self.primary.at, m.at)
        self.away()

    def deaf(self):
        self.takes_primary = True
        for m in self.others:
            self.fleet.net.mute(m.at, self.primary.at)
        self.away()

    def deaf_replica(self):
        m = self.rng.choice(self.others)
        self.what += " " + m.id
        self.fleet.net.mute(self.primary.at, m.at)
        self.away()

    def cut_apart(self):
        a, b = self.rng.sample(self.fleet.members, 2)
        self.what += " %s %s" % (a.id, b.id)
        self.fleet.net.cut(a.at, b.at)
        if self.rng.randrange(2):
            self.what += " one way"
        else:
            self.fleet.net.cut(b.at, a.at)
        self.away()

    def stale_member(self):
        """One misses what is written meanwhile; then it and as many of the others as make a majority are all
        that is left for a while. Those others must know what they have, and not let it win."""
        self.takes_primary = True
        stale = self.rng.choice(self.others)
        rest = [m for m in self.fleet.members if m is not stale]
        for m in rest:
            self.fleet.net.cut(stale.at, m.at)
            self.fleet.net.cut(m.at, stale.at)
        self.away()
        self.is_large = self.rng.randrange(2) == 0
        for m in rest:
            m.server.stop(signal.SIGKILL if self.is_large else signal.SIGTERM)
        self.fleet.net.heal()
        self.rng.shuffle(rest)
        some = rest[: self.fleet.need]
        self.what += " %s, left with %s" % (stale.id, " ".join(m.id for m in some))
        for m in some:
            m.server.start()
        self.away(2.5, 4.0)
        for m in rest[self.fleet.need :]:
            m.server.start()

    def kill_replica(self):
        m = self.rng.choice(self.others)
        self.what += " " + m.id
        m.server.kill()
        self.away(0.1, 2.0)
        m.server.start()

    def kill_two(self):
        """The primary and another; they come back in any order."""
        self.is_large = len(self.fleet.members) <= 4
        self.takes_primary = True
        gone = [self.primary, self.rng.choice(self.others)]
        self.what += " with " + gone[1].id
        for m in gone:
            m.server.kill()
        self.rng.shuffle(gone)
        for m in gone:
            self.away(0.1, 1.5)
            m.server.start()

    def restart_all(self):
        self.takes_primary = True
        gone = list(self.fleet.members)
        is_kill = self.rng.randrange(2) == 0
        self.is_large = is_kill
        self.what += ", killed" if is_kill else ", in good order"
        self.rng.shuffle(gone)
        for m in gone:
            m.server.stop(signal.SIGKILL if is_kill else signal.SIGTERM)
        self.rng.shuffle(gone)
        for m in gone:
            m.server.start()
            time.sleep(self.rng.uniform(0, 0.3) * self.fleet.down_after)


ALWAYS = (
    "kill primary",
    "stop primary",
    "pause primary",
    "pause briefly",
    "kill replica",
    "kill two",
    "restart all",
)
# Only where all are ringkeeps: a kevy does not tell where its history began.
RINGKEEPS = ("tail",)
CUTS = ("cut off", "cut out", "cut in", "unheard", "deaf", "deaf replica", "cut apart", "stale member")


def order(rng, rounds, can_cut, only, name):
    """Every kind of loss before one comes again."""
    ours = RINGKEEPS if set(FLEETS[name]) == {RINGKEEP} else ()
    kinds, out = ALWAYS + ours + (CUTS if can_cut else ()), []
    kinds = [kind for kind in kinds if not only or only in kind]
    if name == "quorum":
        # Nobody is told of writes that a majority does not have.
        kinds = [kind for kind in kinds if kind != "tail"]
    while len(out) < rounds:
        out += rng.sample(kinds, len(kinds))
    return out[:rounds]


class Run:
    def __init__(self, count, name, fleet, seed, node):
        self.count, self.name, self.fleet, self.node = count, name, fleet, node
        self.rng = random.Random(seed)
        self.journal = Journal()
        self.probers = [Prober(fleet, self.journal, m) for m in fleet.data]
        # Who confirms what is on disks must be a ringkeep, and so must be a majority of those who have it.
        on_disk = [fleet.all_ringkeeps and n == 0 for n in range(3)]
        self.writers = [Writer(fleet, self.journal, "w%d" % n, seed + n, on_disk[n]) for n in range(3)]
        self.clients = self.probers + self.writers
        self.to_first = {}
        self.gaps = {}
        self.lost = collections.Counter()
        self.dropped = self.confirmed = 0
        self.overlaps = []
        # How long the logs of the members were before this round.
        self.logged = {}

    def go(self):
        self.fleet.start()
        began = time.monotonic()
        primary = self.fleet.settled()
        took = time.monotonic() - began
        told = (self.name, primary.id, took)
        print("        %s: %s is the first primary, %.2f s after the start" % told, flush=True)
        for client in self.clients:
            client.start()
        return primary

    def end(self):
        for client in self.clients:
            client.ended = True
        self.journal.open.set()
        for client in self.clients:
            client.join(5)

    def hold(self):
        """Lets the clients finish what they do."""
        self.journal.open.clear()
        # A client that was waiting when this began may be in a turn all the same.
        for client in self.clients:
            client.idle.clear()
        for client in self.clients:
            client.idle.wait(70)

    def rounds(self, losses):
        primary = self.go()
        if self.fleet.all_ringkeeps:
            primary = self.stranger(primary)
        if self.fleet.quorum:
            for turn in range(2):
                primary = self.alone_with_writes(turn, primary)
        for n, name in enumerate(losses):
            primary = self.round(n + 1, name, primary)
        self.summary()

    def alone_with_writes(self, turn, primary):
        """The two others stand still: nothing that is written now may be answered or shown."""
        others = [m for m in self.fleet.members if m is not primary]
        self.hold()
        writers = [primary.conn(30.0) for _ in range(8)]
        with primary.conn(5.0) as c:
            c.ask("SET", "before", turn)
        for m in others:
            m.pause()
        told, hangs, closed = [], [], 0
        requests = {
            0: [("SET", "alone:%d", turn)],
            1: [("MULTI",), ("INCR", "alone:%d"), ("EXEC",)],
            2: [("EVAL", "return redis.call('SET', KEYS[1], 'script')", "1", "alone:%d")],
            3: [("SET", "alone:%d", turn), ("GET", "before")],
            4: [("MSET", "alone:%d", turn, "alone:%d:2", turn, "alone:%d:3", turn)],
            # It is blocked when the next one pushes.
            5: [("BLPOP", "alone:list", "0")],
            6: [("RPUSH", "alone:list", "1")],
            7: [("GET", "alone:0")],
        }
        began = time.monotonic()
        for n, c in enumerate(writers):
            for words in requests[n]:
                c.send(*[w % n if isinstance(w, str) and "%d" in w else w for w in words])
            time.sleep(0.02)
        with primary.conn(5.0) as c:
            c.ask("PING")
            was_leader = c.info("replication")["node_role"] == "leader"
        took = time.monotonic() - began
        for n, c in enumerate(writers):
            try:
                replies = []
                while len(replies) < len(requests[n]):
                    replies.append(c.read())
            except Closed as e:
                closed += 1
                if "no reply" in str(e):
                    hangs.append((n, str(e)))
            told += [(n, r) for r in replies if not r.is_error and r.value not in (b"OK", b"QUEUED")]
            told += [(n, r) for r in replies if r.value == b"OK" and requests[n][0][0] != "MULTI"]
            c.close()
        unanswered = int(primary.info()["quorum_unanswered_total"])
        for m in others:
            m.resume()
        label = "%s: two of three stand still, %d" % (self.name, turn + 1)
        found = [] if not told else ["told without a majority: %r" % told]
        found += [] if not hangs else ["waits for good: %r" % hangs]
        found += [] if was_leader and took < self.fleet.down_after else ["PING and INFO took %.2f s" % took]
        found += [] if closed >= 6 and unanswered >= 6 else ["%d closed, %d counted" % (closed, unanswered)]
        self.count.check(label, not found, "; ".join(found))
        return self.fleet.settled()

    def stranger(self, primary):
        """A primary whose id is in no list is announced to everybody. A kevy 7.0.0 that leads gives way to it and
        goes on taking writes: 17 among the behaviours that `kevy_primary.py` lists as "wire N"."""
        before = self.fleet.views()
        epoch = before[primary][1] + 7
        for m in self.fleet.members:
            self.announce("stranger", epoch, m)
        takers = []
        for m in self.fleet.members:
            with m.conn(3.0) as c:
                if not c.call("SET", "stranger", "1").is_error:
                    takers.append(m)
        label = "%s: wire 17: an announced primary that is in no list makes nobody give way" % self.name
        self.count.check(label, self.fleet.views() == before, "%r after %r" % (self.fleet.views(), before))
        label = "%s: wire 17: and one member takes writes" % self.name
        self.count.check(label, takers == [primary], repr([m.id for m in takers]))
        # The same words in the name of a member are believed.
        other = self.fleet.members[primary.at - 1]
        self.announce(other.id, epoch, primary)
        wait_until("a later epoch", 10, lambda: primary.view(self.fleet.members)[1] >= epoch)
        return self.fleet.settled()

    def announce(self, name, epoch, to):
        """Tells a member of a primary."""
        said = [("HB", str(epoch), name, "primary", "1000000"), ("ANNOUNCE", str(epoch), name, "10.77.0.99:7000")]
        requests = [b"".join([b"*%d\r\n" % len(m)] + [b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in m]) for m in said]
        speak = "import socket as s; c = s.create_connection((%r, %d), 5); c.sendall(%r); c.settimeout(1); c.recv(99)"
        speak %= (to.host, to.port + 200, b"".join(requests))
        # From the address of a member: connections from elsewhere are closed unread.
        source = self.fleet.members[to.at - 1]
        subprocess.run(self.fleet.net.argv(source.at) + [sys.executable, "-c", speak], capture_output=True)

    def round(self, n, name, before):
        fleet, journal = self.fleet, self.journal
        loss = Loss(name, self.rng, fleet, before)
        mark, known = len(journal.accepted), len(journal.confirmed)
        self.logged = {m: len(m.server.log_text()) for m in fleet.members}
        journal.open.set()
        time.sleep(self.rng.uniform(0.2, 0.6))
        began = time.monotonic()
        problems, primary, fresh = [], None, 0
        try:
            loss.run()
        finally:
            fleet.net.heal()
        healed = time.monotonic()
        try:
            primary = fleet.settled()
            settled = time.monotonic() - healed
            # Somebody writes for a while.
            time.sleep(0.2)
            self.hold()
            fresh = len(journal.confirmed) - known
            differences, primary = self.all_in_step(primary)
            problems += loss.problems + differences + self.kept(loss, primary)
        except (TimeoutError, RuntimeError, *GONE) as e:
            problems += ["%s: %s" % (type(e).__name__, e)] + fleet.describe()
            primary = None
        self.hold()
        accepted = journal.accepted[mark:]
        problems += self.alone(accepted)
        problems += ["%s has ended: %s" % (m.id, m.server.log_tail()) for m in fleet.members if not m.alive()]
        label = "%s %d, %s" % (self.name, n, loss.what)
        note = "%d confirmed" % fresh
        if primary:
            note = "%s to %s, %s, settled after %.2f s" % (before.id, primary.id, note, settled)
            note += self.times(loss, began, before, primary, accepted)
        if not problems:
            self.count.ok(label, note)
        elif self.fleet.has_ringkeeps:
            self.count.fail(label, "\n        ".join([note] + problems[:40]))
            self.show_logs()
        else:
            print("seen    %s: %s" % (label, "\n        ".join([note] + problems[:40])), flush=True)
        return primary or self.anew()

    def anew(self):
        """Out of a state that would not end."""
        for m in self.fleet.members:
            m.server.kill()
        for m in self.fleet.members:
            m.server.start()
        primary = self.fleet.settled()
        print("        %s: all were started anew, %s is the primary" % (self.name, primary.id), flush=True)
        return primary

    def show_logs(self):
        """What the members have logged in this round."""
        for m in self.fleet.members:
            print("        --- log of %s (%s)" % (m.id, m.kind))
            lines = m.server.log_text()[self.logged.get(m, 0) :].splitlines()[-200:]
            print("\n".join("        " + line for line in lines), flush=True)

    def times(self, loss, began, before, primary, accepted):
        """How long it took until another one accepted a write, and the longest time in which nobody did."""
        note = ""
        firsts = [answered for sent, answered, m in accepted if sent >= began and m is not before]
        if loss.takes_primary and firsts:
            took = min(firsts) - began
            self.to_first.setdefault(loss.name, []).append(took)
            note += ", another one accepted after %.2f s" % took
        ends = sorted(answered for _, answered, _ in accepted if answered >= began - 0.2)
        if ends:
            gap = max((b - a for a, b in zip(ends, ends[1:])), default=0)
            self.gaps.setdefault(loss.name, []).append(gap)
            note += ", none for %.2f s" % gap
        return note

    def all_in_step(self, primary):
        """In step, also behind what a member that was away makes of its return: who stood in vain may cause
        one more election."""
        for last in (False, False, False, True):
            try:
                return self.in_step(primary), primary
            except (TimeoutError, RuntimeError, *GONE) as e:
                if last:
                    raise
                print("        once more: %s" % e, flush=True)
                primary = self.fleet.settled()

    def in_step(self, primary):
        """Waits until what is written now is everywhere, and compares."""
        fleet = self.fleet
        marks, shards = [], set()
        while len(shards) < SHARDS or len(marks) < 4:
            marks.append("mark:%d" % self.rng.randrange(1 << 40))
            shards.add(shard_of(marks[-1], SHARDS))
        with primary.conn() as c:
            for key in marks:
                c.ask("SET", key, "1")
            size = c.ask("DBSIZE")
            digest = c.ask("REPL.DIGEST")[:2] if primary.is_ringkeep else None
        problems = []
        for m in fleet.data:
            if m is primary:
                continue

            def has_all():
                with m.conn(3.0) as c:
                    return all(c.ask("GET", key) == b"1" for key in marks)

            wait_until("%s has what was written to %s" % (m.id, primary.id), 20, has_all, every=0.03)
            with m.conn() as c:
                theirs = c.ask("DBSIZE")
                if theirs != size:
                    problems.append("%s has %d keys, %s %d" % (primary.id, size, m.id, theirs))
                if m.is_ringkeep and digest is not None and c.ask("REPL.DIGEST")[:2] != digest:
                    problems.append("the digests of %s and %s differ" % (primary.id, m.id))
        return problems

    def kept(self, loss, primary):
        """Looks for every confirmed write on everybody; what is lost is not looked for again."""
        journal, problems = self.journal, []
        self.confirmed = max(self.confirmed, len(journal.confirmed))
        wanted = dict(journal.confirmed)
        for m in [primary] + [m for m in self.fleet.data if m is not primary]:
            found = values(m, list(wanted))
            missing = [key for key, row in wanted.items() if found[key] != row[0].encode()]
            for how in ("WAIT", "WAITAOF"):
                gone = [key for key in missing if wanted[key][2] == how]
                if not gone:
                    continue
                owners = dict(collections.Counter(wanted[key][1].id for key in gone))
                text = "%d writes that %s confirmed are missing on %s: %s; confirmed by %s"
                text %= (len(gone), how, m.id, ", ".join(gone[:3]), owners)
                if self.fleet.all_ringkeeps and not (loss.is_large and how == "WAIT"):
                    problems.append(text)
                elif m is primary:
                    print("        " + text, flush=True)
            for key in missing:
                if journal.confirmed.pop(key, None):
                    self.lost["%s, %s to %s" % (loss.name, wanted[key][1].kind, primary.kind)] += 1
        self.dropped += sum(value is None for value in values(primary, list(journal.unconfirmed)).values())
        journal.unconfirmed.clear()
        return problems

    def alone(self, accepted):
        """Two members that accepted writes at the same time; and forgets what it has seen."""
        found = conflicts(self.probers, accepted, lambda m: m.is_ringkeep)
        among = conflicts(self.probers, accepted, lambda m: True)
        for prober in self.probers:
            prober.reigns.clear()
            prober.is_open = False
        if self.fleet.all_ringkeeps:
            return found
        self.overlaps += among
        for text in among:
            print("        " + text, flush=True)
        return []

    def summary(self):
        def row(samples):
            samples = sorted(samples)
            return "median %.2f s, most %.2f s of %d" % (
                statistics.median(samples),
                samples[-1],
                len(samples),
            )

        for what, table in (("until another accepts", self.to_first), ("longest without writes", self.gaps)):
            for name, samples in sorted(table.items()):
                print("        %s: %s, %s: %s" % (self.name, what, name, row(samples)))
        total = len(self.journal.accepted)
        print("        %s: %d writes accepted, %d confirmed" % (self.name, total, self.confirmed))
        print("        %s: %d that nobody confirmed are gone" % (self.name, self.dropped))
        for what, number in sorted(self.lost.items()):
            print("        %s: %d confirmed writes lost: %s" % (self.name, number, what))
        if not self.fleet.all_ringkeeps:
            print(
                "        %s: two members accepted writes at once %d times" % (self.name, len(self.overlaps))
            )

    def idle(self, minutes):
        """Nothing happens, so nothing may change, while a generator has the primary as busy as it can be."""
        first = self.go()
        self.journal.open.set()
        generator = os.path.join(os.path.dirname(os.path.abspath(self.node)), "ringkeep-perf")
        host = self.fleet.net.client_host(first.at)
        load = [generator, "run", "--host", host, "--port", str(first.port), "--conns", "50", "--pipeline", "16"]
        load += ["--mix", "get:set=50:50", "--duration", "%ds" % (60 * minutes)]
        load = subprocess.Popen(load, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        views, changes, looks = self.fleet.views(), [], 0
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            time.sleep(0.1)
            now, looks = self.fleet.views(), looks + 1
            for m in self.fleet.members:
                if now[m][:2] != views[m][:2]:
                    changes.append("%s: %s after %s" % (m.id, now[m], views[m]))
            views = now
        said = load.communicate(timeout=60)[0]
        self.hold()
        problems = changes[:10] + self.in_step(first)
        if load.returncode != 0:
            problems.append("the load ended with %d: %s" % (load.returncode, said[-300:]))
        lost = Loss("idle", self.rng, self.fleet, first)
        problems += self.kept(lost, first) + self.alone(self.journal.accepted)
        note = "%d looks, %d role changes, %d writes" % (looks, len(changes), len(self.journal.accepted))
        label = "%s: nothing changes in %g minutes under load" % (self.name, minutes)
        if self.count.check(label, not problems, "\n        ".join(problems)):
            print("        " + note, flush=True)
            print("        " + said.strip().replace("\n", "\n        "), flush=True)
        else:
            self.show_logs()


def values(member, keys):
    """What it has of these."""
    found = {}
    with member.conn(30.0) as c:
        for at in range(0, len(keys), 5000):
            part = keys[at : at + 5000]
            replies = c.many([["GET", key] for key in part])
            found.update((key, reply.value) for key, reply in zip(part, replies))
    return found


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    ap.add_argument("--node", required=True, help="the node's binary")
    ap.add_argument("--short", action="store_true", help="as in CI (default without --fleet)")
    ap.add_argument("--fleet", action="append", choices=sorted(FLEETS))
    ap.add_argument("--rounds", type=int, default=14)
    ap.add_argument("--seed", type=int)
    ap.add_argument("--down-after", type=int, help="ms, of fleets of ringkeeps (default 600)", default=600)
    ap.add_argument("--idle", type=float, metavar="MINUTES", help="take nothing away, and count role changes")
    ap.add_argument("--only", help="only losses with this in their name")
    ap.add_argument("--loopback", action="store_true", help="no namespaces, and so no cuts")
    ap.add_argument("--keep", action="store_true", help="keep the members' folders")
    opts = ap.parse_args()
    # Who ends this from outside leaves no process and no namespace behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    seed = opts.seed if opts.seed is not None else random.SystemRandom().randrange(1 << 31)
    print("seed %d" % seed, flush=True)
    count = Count()
    if opts.short or not opts.fleet:
        plan = [("three", 16), ("quorum", 8), ("with-7.0", 2)]
    else:
        plan = [(name, opts.rounds) for name in opts.fleet]
    largest = max(len(FLEETS[name]) for name, _ in plan)
    net = Loopback(largest)
    if not opts.loopback:
        try:
            net = Network(largest)
        except (OSError, subprocess.CalledProcessError) as e:
            why = getattr(e, "stderr", b"").decode().strip() or str(e)
            count.skip("cuts", "no network namespaces here: %s" % why)
    try:
        for name, rounds in plan:
            kinds = FLEETS[name]
            absent = [kind for kind in kinds if kind != RINGKEEP and not kevy_binary(kind)]
            if absent:
                count.skip(name, "kevy %s is not built: run tests/peers.sh kevy-%s" % (absent[0], absent[0]))
                continue
            down_after = opts.down_after if set(kinds) == {RINGKEEP} else KEVY_DOWN_AFTER
            with Scratch(opts.keep) as scratch:
                run = Run(count, name, Fleet(scratch, opts, net, name, down_after), seed, opts.node)
                began = time.monotonic()
                try:
                    if opts.idle:
                        run.idle(opts.idle)
                    else:
                        run.rounds(order(random.Random(seed), rounds, net.can_cut, opts.only, name))
                except (*GONE, RuntimeError, TimeoutError) as e:
                    lines = ["%s: %s" % (type(e).__name__, e)] + run.fleet.describe()
                    count.fail(name, "\n        ".join(lines))
                    run.show_logs()
                finally:
                    run.end()
                print("        %s: %.1f s" % (name, time.monotonic() - began), flush=True)
    finally:
        net.close()
    count.close()


if __name__ == "__main__":
    main()
