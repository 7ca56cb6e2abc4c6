#!/usr/bin/env python3
"""What replicas are sent, and how often it was copied: two network namespaces joined by a veth pair.

    zerocopy.py --node BINARY [--megabytes N] [--keep]

A primary in one namespace, a replica of its own kind and a kevy 7.0.0 replica in the other: a full sync of a
hundred megabytes, then writes of large values. In the end all three are equal, and INFO of the primary says
that snapshots left from registered memory, that no byte of a frame was copied between backlog and socket,
that sends in place were tried, and what the kernel reported of each. The same over loopback, where none may
be tried. Needs root for the namespaces; without them that part is skipped, and says so.
"""

import argparse
import contextlib
import ctypes
import hashlib
import os
import random
import subprocess

from kevy_replica import toml
from wire import Count, Scratch, Server, free_base, kevy_binary, node_server, wait_until

CLONE_NEWNET = 0x40000000
VERSION = "7.0.0"
SHARDS = 2
LARGE = 1 << 20


class Namespaces:
    """Two network namespaces that see each other at 10.254.77.1 and .2."""

    addresses = ("10.254.77.1", "10.254.77.2")

    def __init__(self):
        self.names = tuple("ringkeep-%d-%s" % (os.getpid(), side) for side in "ab")
        self.libc = ctypes.CDLL(None, use_errno=True)

    def ip(self, *words):
        subprocess.run(("ip",) + words, check=True, capture_output=True)

    def __enter__(self):
        a, b = self.names
        try:
            for name in self.names:
                self.ip("netns", "add", name)
            self.ip("-n", a, "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", b)
            for name, address in zip(self.names, self.addresses):
                self.ip("-n", name, "address", "add", address + "/24", "dev", "veth0")
                self.ip("-n", name, "link", "set", "lo", "up")
                self.ip("-n", name, "link", "set", "veth0", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(("ip", "netns", "del", name), capture_output=True)

    @contextlib.contextmanager
    def inside(self, side):
        """Sockets and processes that begin in here are in the namespace."""
        with open("/proc/thread-self/ns/net", "rb") as home, open(
            "/run/netns/" + self.names[side], "rb"
        ) as there:
            self.enter(there)
            try:
                yield
            finally:
                self.enter(home)

    def enter(self, file):
        if self.libc.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


class Loopback:
    """No namespaces: the same places on this host."""

    addresses = ("127.0.0.1", "127.0.0.1")

    @contextlib.contextmanager
    def inside(self, side):
        yield


def conn(net, side, server):
    with net.inside(side):
        return server.conn(60.0)


def start_node(net, side, scratch, binary, name, args):
    """One that listens at its side's address."""
    port = free_base()
    server = node_server(scratch, binary, port, SHARDS, args, name, start=False)
    server.argv[server.argv.index("--bind") + 1] = net.addresses[side]
    server.addr = (net.addresses[side], port)
    with net.inside(side):
        return server.start()


def start_kevy(net, side, scratch, upstream):
    port = free_base()
    directory = scratch.sub("kevy-%d" % port)
    config = os.path.join(directory, "kevy.toml")
    extra = 'upstream = "%s:%d"\n' % upstream
    with open(config, "w", encoding="utf-8") as f:
        f.write(toml(port, directory, SHARDS, "replica", extra))
    argv = [kevy_binary(VERSION), "--config", config]
    server = Server("kevy-%d" % port, argv, port, directory, {"KEVY_IO_URING": "0"})
    with net.inside(side):
        return server.start()


def fill(c, megabytes, rng):
    """Values of all lengths up to 256 KiB, most bytes in the long ones."""
    left, n = megabytes << 20, 0
    while left > 0:
        batch = []
        while left > 0 and sum(len(words[2]) for words in batch) < LARGE:
            value = rng.randbytes(rng.choice((10, 1000, 20_000, 200_000, 256 << 10)))
            batch.append(("SET", "key:%d" % n, value))
            left -= len(value)
            n += 1
        c.many(batch)
    return n


def digest(net, side, server):
    """Of every key and its value."""
    with conn(net, side, server) as c:
        keys = sorted(v.value for v in c.call("KEYS", "*").value)
        sums = hashlib.blake2b()
        for at in range(0, len(keys), 50):
            some = keys[at : at + 50]
            for key, value in zip(some, c.many([("GET", key) for key in some], 50)):
                sums.update(b"%d %s %s" % (len(key), key, hashlib.blake2b(value.value).digest()))
        return len(keys), sums.hexdigest()


def numbers(c):
    info = c.info("replication")
    return {name: int(value) for name, value in info.items() if name.startswith("repl_") and value.isdigit()}


def is_synced(net, side, server):
    with conn(net, side, server) as c:
        return c.info("replication").get("master_link_status") == "up"


def run(net, where, opts, count):
    rng = random.Random(opts.seed)
    with Scratch(opts.keep) as scratch:
        primary = start_node(net, 0, scratch, opts.node, "primary", ())
        c = conn(net, 0, primary)
        fill(c, opts.megabytes, rng)
        upstream = (net.addresses[0], primary.port + 10000)
        mine = start_node(net, 1, scratch, opts.node, "replica", ("--replicaof", "%s:%d" % upstream))
        replicas = [mine]
        if kevy_binary(VERSION):
            replicas.append(start_kevy(net, 1, scratch, upstream))
        else:
            count.skip("%s: a kevy %s replica" % (where, VERSION), "it is not there: run tests/peers.sh")
        links = SHARDS * len(replicas)
        synced = "a full sync of %d replicas" % len(replicas)
        wait_until(synced, 60, lambda: c.info("replication")["connected_slaves"] == str(len(replicas)))
        wait_until(synced, 60, lambda: "send_bulk" not in str(c.info("replication")), every=0.05)
        wait_until(synced, 60, lambda: is_synced(net, 1, mine), every=0.05)
        shipped = numbers(c)
        # Live: large values, and small ones between them.
        live = 0
        for round_ in range(30):
            values = [rng.randbytes(rng.choice((100, 50_000, 100_000, 250_000))) for _ in range(10)]
            live += sum(map(len, values))
            c.many([("SET", "live:%d:%d" % (round_ % 7, n), value) for n, value in enumerate(values)])
        acked = c.call("WAIT", len(replicas), 60_000).value
        count.check("%s: every replica acknowledges what was written" % where, acked == len(replicas), acked)
        want = digest(net, 0, primary)
        for replica in replicas:
            wait_until("equal", 30, lambda: digest(net, 1, replica) == want, every=0.2)
            count.ok("%s: %s has what the primary has" % (where, replica.name.split("-")[0]))
        told = ("repl_zc_confirmed", "repl_zc_copied")
        try:
            wait_until("reports", 10, lambda: numbers(c)["repl_zc_sends"] == sum(numbers(c)[n] for n in told))
        except TimeoutError:
            pass
        n = numbers(c)
        print("        %s: %s" % (where, "  ".join("%s=%d" % (k, v) for k, v in sorted(n.items()))))
        least = len(replicas) * (opts.megabytes << 20)
        count.check("%s: the snapshots were shipped" % where, shipped["repl_ship_bytes"] >= least, shipped)
        part = n["repl_ship_bytes_registered"] / max(n["repl_ship_bytes"], 1)
        count.check("%s: they left from registered memory" % where, part > 0.5, "%.3f of them" % part)
        print("        %s: %.1f %% of the snapshots lay in registered memory" % (where, 100 * part))
        frames = n["repl_frame_bytes_sent"]
        count.check("%s: the frames were sent" % where, frames >= live * len(replicas), (frames, live))
        count.check("%s: no byte of them was copied" % where, n["repl_frame_bytes_copied"] == 0, n)
        tried, fallbacks = n["repl_zc_sends"], n["repl_zc_fallbacks"]
        if where == "loopback":
            count.check("loopback: nothing is sent in place", tried == 0 and fallbacks == 0, n)
        else:
            count.check("veth: sends in place are tried", tried > 0, n)
            said = sum(n[name] for name in told)
            count.check("veth: the kernel reports on each of them", said == tried, n)
            is_back = n["repl_zc_copied"] == 0 or fallbacks > 0
            count.check("veth: a link of which it says copied goes back", is_back and fallbacks <= links, n)
        c.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--node", required=True)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true")
    opts = parser.parse_args()
    count = Count()
    run(Loopback(), "loopback", opts, count)
    try:
        net = Namespaces().__enter__()
    except (OSError, subprocess.CalledProcessError) as e:
        why = getattr(e, "stderr", b"").decode().strip() or str(e)
        count.skip("everything over veth", "no network namespaces here: %s" % why)
        count.close()
    try:
        run(net, "veth", opts, count)
    finally:
        net.__exit__()
    count.close()


if __name__ == "__main__":
    main()
