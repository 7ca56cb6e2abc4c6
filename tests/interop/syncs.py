#!/usr/bin/env python3
"""Shows that no thread of the node waits for a disk outside of its ring while it serves.

    syncs.py --node BINARY [--threads N] [--seconds S]

The node runs under strace, which sees every system call of every thread but none of what the ring does.
Between the first and the last reply of a load with snapshots, no call may sync a file, and none may write
to one, with any appendfsync. strace has to see the syncs of the start, else it would prove nothing. It must
be installed.
"""

import argparse
import os
import re
import shutil
import signal
import threading
import time

from wire import Count, Scratch, Server, free_base, wait_until

# Those that wait for a disk, and those that may when they name a file.
SYNCS = ["fsync", "fdatasync", "sync_file_range", "msync", "syncfs", "sync"]
WRITES = ["write", "writev", "pwrite64", "pwritev", "pwritev2", "fallocate", "ftruncate", "sendfile"]
POLICIES = ["always", "everysec", "no"]
# More than a segment of the journal, so that the node goes on to the next one.
BYTES = 80 << 20
VALUE = b"v" * 8000
LINE = re.compile(r"^(\d+)\s+(\d+\.\d+) (?:<\.\.\. )?(\w+)(.*)$")

count = Count()


def traced(scratch, binary, policy, threads):
    """A node under strace; its server and the file that the trace goes to."""
    port = free_base()
    directory = scratch.sub("data-" + policy)
    trace = os.path.join(scratch.path, "trace-" + policy)
    strace = [shutil.which("strace"), "-f", "--seccomp-bpf", "-qq", "-ttt", "-y"]
    strace += ["-e", "trace=" + ",".join(SYNCS + WRITES)]
    node = [os.path.abspath(binary), "--port", str(port), "--bind", "127.0.0.1", "--threads", str(threads)]
    node += ["--dir", directory, "--appendfsync", policy]
    argv = strace + ["-o", trace] + node
    return Server("node-" + policy, argv, port, scratch.path).start(), directory, trace


def write(server, number, until, written):
    """Pipelined writes until enough was written and the time is over."""
    with server.conn(30) as conn:
        sent = 0
        while time.monotonic() < until or sum(written) < BYTES:
            commands = [("SET", "key:%d:%d" % (number, i % 3000), VALUE) for i in range(sent, sent + 50)]
            commands += [("RPUSH", "list:%d" % number, str(sent)), ("GET", "key:%d:0" % number)]
            for reply in conn.many(commands):
                if reply.is_error:
                    raise RuntimeError(reply.value.decode())
            sent += 50
            written[number] = sent * len(VALUE)


def load(server, seconds):
    """Writers beside snapshots; how many of these there were."""
    until = time.monotonic() + seconds
    written = [0] * 4
    writers = [threading.Thread(target=write, args=(server, n, until, written)) for n in range(4)]
    for writer in writers:
        writer.start()
    snapshots = 0
    with server.conn(30) as conn:
        while any(writer.is_alive() for writer in writers):
            conn.ask("BGSAVE")
            wait_until(
                "the end of a snapshot", 60, lambda: conn.info("persistence")["rdb_bgsave_in_progress"] == "0"
            )
            snapshots += 1
        info = conn.info("persistence")
    for writer in writers:
        writer.join()
    return snapshots, info


def calls(trace, directory):
    """Time, name and arguments of each call that syncs, or writes to a file of the directory."""
    with open(trace, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            match = LINE.match(line)
            if not match:
                continue
            _, at, name, rest = match.groups()
            if name in SYNCS or (name in WRITES and directory in rest):
                yield float(at), name, rest.strip()


def check(scratch, binary, policy, threads, seconds):
    server, directory, trace = traced(scratch, binary, policy, threads)
    with server.conn(30) as conn:
        pid = int(conn.info("server")["process_id"])
    try:
        began = time.time()
        snapshots, info = load(server, seconds)
        ended = time.time()
    finally:
        # Strace would let it go on.
        os.kill(pid, signal.SIGTERM)
    server.proc.wait(30)
    seen = list(calls(trace, directory))
    before = [call for call in seen if call[0] < began]
    while_serving = [call for call in seen if began <= call[0] <= ended]
    syncs = int(info["journal_syncs"])
    count.check("%s: strace saw the syncs of the start" % policy, any(name in SYNCS for _, name, _ in before))
    count.check("%s: the load had snapshots (%d)" % (policy, snapshots), snapshots >= 2)
    good = info["rdb_last_bgsave_status"] == "ok" and info["aof_last_write_status"] == "ok"
    count.check("%s: all of them succeeded" % policy, good)
    count.check("%s: more than a segment was written" % policy, int(info["journal_bytes_written"]) >= BYTES)
    enough = policy == "no" or syncs >= seconds // 2
    count.check("%s: the journal was synced (%d times)" % (policy, syncs), enough)
    what = "; ".join("%s%s" % (name, rest) for _, name, rest in while_serving[:5])
    count.check("%s: no thread synced or wrote a file by itself" % policy, not while_serving, what)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--node", required=True)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--seconds", type=float, default=4)
    opts = ap.parse_args()
    if not shutil.which("strace"):
        raise SystemExit("strace is not installed: apt-get install strace")
    for policy in POLICIES:
        with Scratch() as scratch:
            check(scratch, opts.node, policy, opts.threads, opts.seconds)
    count.close()


if __name__ == "__main__":
    main()
