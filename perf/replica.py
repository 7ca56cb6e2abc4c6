#!/usr/bin/env python3
"""How fast a replica of a kevy primary takes a full sync and catches up with the live stream.

    perf/replica.py [--keys 100000] [--frames 300000] [--rounds 3] [--peers DIR] [--node target/release/ringkeep]

The same kevy 7.0.0 primary (one shard, pinned to CPU 0) feeds a ringkeep replica and a kevy replica in turns,
each on CPU 1. Full sync: from the start of following until the replica has the last key. Live: the replica
process is stopped, frames are written, it goes on; from then until it has applied the last one. Reported are
medians of frames (or keys) per second and of the replica's CPU time for one, and the ratio to kevy's.
"""

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time


class Client:
    def __init__(self, port, timeout=30.0):
        end = time.monotonic() + timeout
        while True:
            try:
                self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        self.file = self.sock.makefile("rb")

    def send(self, *commands):
        out = bytearray()
        for args in commands:
            out += b"*%d\r\n" % len(args)
            for arg in args:
                arg = arg if isinstance(arg, bytes) else str(arg).encode()
                out += b"$%d\r\n%s\r\n" % (len(arg), arg)
        self.sock.sendall(out)

    def reply(self):
        line = self.file.readline().rstrip()
        kind, rest = line[:1], line[1:]
        if kind in b"+:":
            return rest
        if kind == b"-":
            raise SystemExit("error reply: %s" % rest.decode())
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        raise SystemExit("odd reply %r" % line)

    def call(self, *args):
        self.send(args)
        return self.reply()


def free_port():
    # Replication ports are 10000 above.
    with socket.socket() as probe:
        while True:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            if port < 50000:
                return port
            probe.close()
            return 20000 + port % 20000


def cpu_seconds(pid):
    ticks = 0
    for task in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/schedstat" % (pid, task)) as stat:
            ticks += int(stat.read().split()[0])
    return ticks / 1e9


def write_keys(client, first, count, prefix):
    value = b"v" * 64
    batch = 200
    for start in range(first, first + count, batch):
        names = range(start, min(start + batch, first + count))
        client.send(*[("SET", "%s%010d" % (prefix, name), value) for name in names])
        for _ in names:
            client.reply()


def wait_for(client, key, limit=300):
    end = time.monotonic() + limit
    while True:
        try:
            if client.call("GET", key) is not None:
                return
        except SystemExit:
            pass  # LOADING
        if time.monotonic() > end:
            raise SystemExit("the replica did not get %s in %d s" % (key, limit))
        time.sleep(0.002)


def measure(replica, primary_port, primary, keys, frames, scratch):
    port = free_port()
    folder = tempfile.mkdtemp(dir=scratch)
    command = replica(port, folder)
    process = subprocess.Popen(["taskset", "-c", "1"] + command, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, cwd=folder)
    try:
        client = Client(port)
        before, start = cpu_seconds(process.pid), time.monotonic()
        client.call("REPLICAOF", "127.0.0.1", primary_port + 10000)
        wait_for(client, "last")
        sync = time.monotonic() - start, cpu_seconds(process.pid) - before
        os.kill(process.pid, signal.SIGSTOP)
        mark = "live%d" % time.monotonic_ns()
        write_keys(primary, 0, frames, "l")
        primary.call("SET", mark, "1")
        before, start = cpu_seconds(process.pid), time.monotonic()
        os.kill(process.pid, signal.SIGCONT)
        wait_for(client, mark)
        live = time.monotonic() - start, cpu_seconds(process.pid) - before
        return sync, live
    finally:
        process.kill()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=100000)
    parser.add_argument("--frames", type=int, default=300000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default=os.environ.get(
        "RINGKEEP_PEERS", os.path.expanduser("~/.cache/ringkeep/peers")))
    parser.add_argument("--node", default="target/release/ringkeep")
    opts = parser.parse_args()
    kevy = os.path.join(opts.peers, "kevy-7.0.0/bin/kevy")
    node = os.path.abspath(opts.node)
    scratch = tempfile.mkdtemp()

    def config(folder, text):
        path = os.path.join(folder, "kevy.toml")
        with open(path, "w") as file:
            file.write(text)
        return path

    def kevy_replica(port, folder):
        path = config(folder, '[persistence]\naof = false\n[replication]\nrole = "replica"\n'
                              'upstream = "127.0.0.1:1"\n')
        return [kevy, "--config", path, "--port", str(port), "--threads", "1", "--dir", folder]

    def ringkeep(port, folder):
        return [node, "--port", str(port), "--threads", "1", "--no-pin", "--dir", folder]

    primary_port = free_port()
    path = config(scratch, '[persistence]\naof = false\n[replication]\nrole = "primary"\n'
                           'replication_buffer_size = 1073741824\n')
    primary_process = subprocess.Popen(
        ["taskset", "-c", "0", kevy, "--config", path, "--port", str(primary_port), "--threads", "1",
         "--dir", scratch], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        primary = Client(primary_port)
        write_keys(primary, 0, opts.keys, "k")
        primary.call("SET", "last", "1")
        rows = {"ringkeep": [], "kevy": []}
        for _ in range(opts.rounds):
            for name, replica in (("ringkeep", ringkeep), ("kevy", kevy_replica)):
                rows[name].append(measure(replica, primary_port, primary, opts.keys, opts.frames, scratch))
        print("%-10s %-10s %14s %16s" % ("", "replica", "per second", "CPU ns for one"))
        for at, what, count in ((0, "full sync", opts.keys), (1, "live", opts.frames)):
            figures = {}
            for name, results in rows.items():
                rate = count / statistics.median(result[at][0] for result in results)
                cost = statistics.median(result[at][1] for result in results) / count * 1e9
                figures[name] = (rate, cost)
                print("%-10s %-10s %14.0f %16.0f" % (what, name, rate, cost))
            (rate, cost), (kevy_rate, kevy_cost) = figures["ringkeep"], figures["kevy"]
            print("%-10s ringkeep / kevy: speed %.2f, CPU %.2f" % (what, rate / kevy_rate, cost / kevy_cost))
    finally:
        primary_process.kill()
        primary_process.wait()
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
