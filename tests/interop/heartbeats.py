#!/usr/bin/env python3
"""How regular a primary's heartbeats are while its only core is full of requests, and that nobody is elected meanwhile.

    heartbeats.py --node PATH [--perf PATH] [--seconds 60] [--down-after 5000]

Two ringkeeps of one core each elect a primary; the third member is a socket of this program, which answers nothing.
The primary's core is pinned to CPU 0. Everything else has the other CPUs: `ringkeep-perf run`, which keeps 50
connections with 16 requests each going, the other ringkeep, which follows, and this program. Arrivals are told apart by
the time the kernel took the packet in. Where the load generator was not built the load is redis-benchmark's.

What is asserted: heartbeats came, the epoch is the same in the end, and no request failed. The gaps are told:
they are the machine's as much as the node's, so nothing is asserted of them. Where this program may have real-time
threads, one on each of the two CPUs wakes up every 5 ms and finds out when the machine stood still: gaps are told again
without that time. Whoever looks for false elections on a machine that is shared sees there what no node could have
done anything about.
"""

import argparse
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time

from stalls import Stalls, without
from wire import Count, Scratch, Server, free_base, wait_until

SCM_TIMESTAMPNS = SO_TIMESTAMPNS = 35
HEARTBEAT = re.compile(rb"\*\d+\r\n\$2\r\n(?:hb|HB)\r\n", re.IGNORECASE)


class Listener(threading.Thread):
    """The member that only listens: when each heartbeat of each connection arrived."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.socket = socket.create_server(("127.0.0.1", port))
        self.arrivals = {}

    def run(self):
        while True:
            conn, peer = self.socket.accept()
            conn.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            threading.Thread(target=self.listen, args=(conn, peer[1]), daemon=True).start()

    def listen(self, conn, name):
        rest = b""
        while True:
            data, notes, _, _ = conn.recvmsg(65536, 256)
            if not data:
                return
            at = time.time()
            for level, kind, value in notes:
                if level == socket.SOL_SOCKET and kind == SCM_TIMESTAMPNS:
                    seconds, nanoseconds = struct.unpack("qq", value[:16])
                    at = seconds + nanoseconds / 1e9
            rest += data
            self.arrivals.setdefault(name, []).extend(at for _ in HEARTBEAT.finditer(rest))
            end = rest.rfind(b"*")
            # What follows the last star may be the beginning of one that is not whole.
            rest = rest[end:] if end >= 0 and not HEARTBEAT.match(rest[end:]) else b""


def share(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part))]


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--node", required=True)
    args.add_argument("--perf", default="target/release/ringkeep-perf")
    args.add_argument("--seconds", type=int, default=60)
    args.add_argument("--down-after", type=int, default=5000)
    args = args.parse_args()
    args.node = os.path.abspath(args.node)
    others = ",".join(str(n) for n in range(1, max(2, os.cpu_count() or 2)))
    count = Count()
    with Scratch() as scratch:
        base = free_base(3)
        ports = [base, base + 1, base + 2]
        peers = ",".join("%s@127.0.0.1:%d:%d" % (name, port + 200, port) for name, port in zip("abc", ports))
        listener = Listener(ports[2] + 200)
        listener.start()

        def member(at, cpu):
            argv = [args.node, "--port", str(ports[at]), "--threads", "1", "--cpu-list", cpu, "--spin-us", "0",
                    "--dir", scratch.sub("ab"[at]), "--node-id", "ab"[at], "--peers", peers,
                    "--elect-down-after-ms", str(args.down_after)]
            server = Server("ab"[at], argv, ports[at], scratch.sub("ab"[at]))
            server.start()
            return server

        nodes = [member(0, "0"), member(1, others.split(",")[0])]

        def state(node):
            with node.conn(3.0) as c:
                return c.info("replication")

        leads = lambda node: state(node).get("role") == "master"
        wait_until("a primary", 30, lambda: any(leads(node) for node in nodes))
        follows = lambda node: state(node).get("master_link_status") == "up"
        wait_until("a replica", 30, lambda: any(follows(node) for node in nodes))
        # The first CPU is to be the primary's alone.
        if leads(nodes[1]):
            with nodes[1].conn() as c:
                c.ask("FAILOVER", "TO", "NODE", "a")
        wait_until("a is the primary", 30, lambda: leads(nodes[0]) and follows(nodes[1]))
        epoch = state(nodes[0])["role_epoch"]

        for name, seconds in (("at rest", max(5, args.seconds // 10)), ("under load", args.seconds)):
            listener.arrivals.clear()
            cpus = {"primary": "0", "replica": others.split(",")[0]}
            probes = {whose: Stalls(cpu, os.path.join(scratch.path, "stalls-" + whose)) for whose, cpu in cpus.items()}
            done = load(args, ports[0], others, seconds) if name == "under load" else time.sleep(seconds)
            if done is not None:
                count.check("no request failed", done.returncode == 0, done.stdout.decode()[-500:])
                print("        " + "\n        ".join(done.stdout.decode().strip().splitlines()[-12:]))
            stalls = {whose: probe.end() for whose, probe in probes.items()}
            # Two lines come in, the replica's too: the primary's is told by whose process it is.
            for line, at in sorted(listener.arrivals.items()):
                gaps = [(b - a) * 1000 for a, b in zip(at, at[1:])]
                if not gaps:
                    continue
                whose = "primary" if is_of(nodes[0], line) else "replica"
                print("        %s, %s: %d heartbeats, gaps in ms: %s" % (name, whose, len(at), told(gaps)))
                if stalls[whose]:
                    longest = max(b - a for a, b in stalls[whose])
                    own = [without(a, b, stalls[whose]) * 1000 for a, b in zip(at, at[1:])]
                    print("            its CPU stood still %d times, for up to %.0f ms; without that: %s"
                          % (len(stalls[whose]), longest * 1000, told(own)))
            came = any(is_of(nodes[0], line) and len(at) > 10 for line, at in listener.arrivals.items())
            count.check("heartbeats came, " + name, came)
        now = state(nodes[0])
        same = now.get("role") == "master" and now.get("role_epoch") == epoch
        count.check("nobody was elected", same, "epoch %s, was %s" % (now.get("role_epoch"), epoch))
        for node in nodes:
            node.stop()
    count.close()


def told(gaps):
    parts = tuple(share(gaps, part) for part in (0.5, 0.99, 0.999))
    return "median %.1f, 99 %% %.1f, 99.9 %% %.1f, longest %.1f" % (parts + (max(gaps),))


def is_of(server, port):
    """Whether the process has the socket with this local port."""
    wanted = "0100007F:%04X" % port
    with open("/proc/net/tcp", encoding="ascii") as f:
        inodes = {row.split()[9] for row in f.readlines()[1:] if row.split()[1] == wanted}
    folder = "/proc/%d/fd" % server.proc.pid
    for name in os.listdir(folder):
        try:
            if os.readlink(os.path.join(folder, name)).strip("socket:[]") in inodes:
                return True
        except OSError:
            continue
    return False


def load(args, port, cpus, seconds):
    if os.path.exists(args.perf):
        argv = [args.perf, "run", "--port", str(port), "--conns", "50", "--pipeline", "16", "--mix", "get:set=50:50",
                "--cpu", cpus, "--duration", "%ds" % seconds]
    else:
        argv = ["taskset", "-c", cpus, "redis-benchmark", "-p", str(port), "-c", "50", "-P", "16", "-t", "set", "-q",
                "-n", str(500_000 * seconds)]
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds * 20 + 60, check=False)


if __name__ == "__main__":
    sys.exit(main())
