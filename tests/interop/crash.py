#!/usr/bin/env python3
"""Kills the node at random moments and looks at what it remembers.

Writers note every write that was acknowledged, and what each of their keys must hold after it. The node is
killed (SIGKILL) and started again; then every key must hold what it held after some write: with `always` the
last acknowledged one or the one that was on its way, with `everysec` and `no` one that is no older than the
window allows. Keys that are only ever written together, over several shards, must agree.

  crash.py --node target/release/ringkeep --rounds 200 --policy always,everysec,no
"""

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

WRITERS = 6
# A key's history is kept only as far back as a crash may reach.
KEEP = 4000
# What `everysec` may lose: a second, and a sync that was under way. A killed process loses less: what it has
# written is the kernel's. What it has not written yet waits for at most one write.
WINDOW = {"always": 0.0, "everysec": 2.0, "no": 2.0}


class Gone(Exception):
    """The node went away."""


class Client:
    """Speaks RESP2, one request at a time."""

    def __init__(self, port, timeout=20):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def send(self, *args):
        parts = [b"*%d\r\n" % len(args)]
        for arg in args:
            data = arg if isinstance(arg, bytes) else str(arg).encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
        try:
            self.sock.sendall(b"".join(parts))
        except OSError as error:
            raise Gone(str(error)) from error

    def line(self):
        while b"\r\n" not in self.buffer:
            self.fill()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def fill(self):
        try:
            data = self.sock.recv(65536)
        except OSError as error:
            raise Gone(str(error)) from error
        if not data:
            raise Gone("end of file")
        self.buffer += data

    def reply(self):
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            size = int(rest)
            if size < 0:
                return None
            while len(self.buffer) < size + 2:
                self.fill()
            data, self.buffer = self.buffer[:size], self.buffer[size + 2 :]
            return data
        if kind == b"*":
            size = int(rest)
            return None if size < 0 else [self.reply() for _ in range(size)]
        raise Gone(f"a strange reply: {line!r}")

    def do(self, *args):
        self.send(*args)
        return self.reply()

    def close(self):
        self.sock.close()


class Model:
    """What one writer's keys hold. A state is whatever can be compared with `look`."""

    def __init__(self, name):
        self.name = name
        self.now = {}
        self.number = 0

    def key(self, what):
        return f"{self.name}:{what}"

    def write(self, rng):
        """Draws a write: the requests of it, and the keys that change, with their new states."""
        self.number += 1
        n = self.number
        pick = rng.randrange(16)
        key, now = self.key, self.now
        if pick == 0:
            value = f"{n}" * rng.randrange(1, 40)
            return [("SET", key("str"), value)], {key("str"): ("string", value, -1)}
        if pick == 1:
            count = int(now.get(key("ctr"), ("string", "0", -1))[1]) + n
            return [("INCRBY", key("ctr"), n)], {key("ctr"): ("string", str(count), -1)}
        if pick == 2:
            items = (now.get(key("list"), ("list", ()))[1] + (str(n),))[-100:]
            return (
                [("MULTI",), ("RPUSH", key("list"), n), ("LTRIM", key("list"), -100, -1), ("EXEC",)],
                {key("list"): ("list", items)},
            )
        if pick == 3:
            fields = dict(now.get(key("hash"), ("hash", {}))[1])
            fields[f"f{n % 40}"] = str(n)
            return [("HSET", key("hash"), f"f{n % 40}", n)], {key("hash"): ("hash", fields)}
        if pick == 4:
            members = set(now.get(key("set"), ("set", frozenset()))[1])
            member = str(n % 60)
            request = "SREM" if member in members else "SADD"
            members ^= {member}
            state = {key("set"): ("set", frozenset(members)) if members else None}
            return [(request, key("set"), member)], state
        if pick == 5:
            scores = dict(now.get(key("zset"), ("zset", {}))[1])
            scores[f"m{n % 40}"] = float(n) / 8
            return [("ZADD", key("zset"), n / 8, f"m{n % 40}")], {key("zset"): ("zset", scores)}
        if pick == 6:
            entries = (now.get(key("stream"), ("stream", ()))[1] + (f"{n}-1",))[-50:]
            return (
                [("XADD", key("stream"), "MAXLEN", "50", f"{n}-1", "n", n)],
                {key("stream"): ("stream", entries)},
            )
        if pick == 7:
            at = 4_000_000_000_000 + n
            return [("SET", key("ttl"), n, "PXAT", at)], {key("ttl"): ("string", str(n), at)}
        if pick in (8, 9):
            # Over several shards, whole or not at all.
            keys = [key(f"t{part}") for part in range(4)]
            states = {name: ("string", str(n), -1) for name in keys}
            requests = [("MULTI",)] + [("SET", name, n) for name in keys] + [("EXEC",)]
            return requests, states
        if pick == 10:
            keys = [key(f"m{part}") for part in range(4)]
            states = {name: ("string", str(n), -1) for name in keys}
            return [("MSET", *[word for name in keys for word in (name, n)])], states
        if pick == 11:
            keys = [key(f"e{part}") for part in range(3)]
            states = {name: ("string", str(n), -1) for name in keys}
            script = "for _, key in ipairs(KEYS) do redis.call('set', key, ARGV[1]) end return 1"
            return [("EVAL", script, 3, *keys, n)], states
        if pick == 12:
            # From one shard to another and back.
            here, there = key("r0"), key("r1")
            if there in now:
                here, there = there, here
            if here not in now:
                return [("SET", here, n)], {here: ("string", str(n), -1)}
            return [("RENAME", here, there)], {here: None, there: now[here]}
        if pick == 13:
            text = (now.get(key("app"), ("string", "", -1))[1] + f"{n},")
            if len(text) > 3000:
                return [("DEL", key("app"))], {key("app"): None}
            return [("APPEND", key("app"), f"{n},")], {key("app"): ("string", text, -1)}
        if pick == 14:
            bits = bytearray(now.get(key("bits"), ("bytes", b"", -1))[1])
            at = rng.randrange(4000)
            bits.extend(b"\0" * (at // 8 + 1 - len(bits)))
            bits[at // 8] |= 0x80 >> at % 8
            return [("SETBIT", key("bits"), at, 1)], {key("bits"): ("bytes", bytes(bits), -1)}
        here, there = key("list"), key("moved")
        items = now.get(here, ("list", ()))[1]
        if not items:
            return [("RPUSH", here, n)], {here: ("list", (str(n),))}
        moved = now.get(there) or ("list", ())
        if len(moved[1]) > 100:
            return [("DEL", there)], {there: None}
        return (
            [("LMOVE", here, there, "LEFT", "RIGHT")],
            {here: ("list", items[1:]) if len(items) > 1 else None, there: ("list", moved[1] + items[:1])},
        )


def look(client, key, kind):
    """The state of a key as the model writes it."""
    kind_now = client.do("TYPE", key).decode()
    if kind_now == "none":
        return None
    if kind_now == "string":
        value, at = client.do("GET", key), client.do("PEXPIRETIME", key)
        return ("bytes", value, at) if kind == "bytes" else ("string", value.decode(), at)
    if kind_now == "list":
        return ("list", tuple(item.decode() for item in client.do("LRANGE", key, 0, -1)))
    if kind_now == "hash":
        flat = [item.decode() for item in client.do("HGETALL", key)]
        return ("hash", dict(zip(flat[::2], flat[1::2])))
    if kind_now == "set":
        return ("set", frozenset(item.decode() for item in client.do("SMEMBERS", key)))
    if kind_now == "zset":
        flat = [item.decode() for item in client.do("ZRANGE", key, 0, -1, "WITHSCORES")]
        return ("zset", {member: float(score) for member, score in zip(flat[::2], flat[1::2])})
    if kind_now == "stream":
        return ("stream", tuple(entry[0].decode() for entry in client.do("XRANGE", key, "-", "+")))
    raise AssertionError(kind_now)


class Writer(threading.Thread):
    """Writes until the node goes; what it knows is in `history`."""

    def __init__(self, port, model, history, rng):
        super().__init__(daemon=True)
        self.port, self.model, self.history, self.rng = port, model, history, rng
        self.error = None
        self.acked = 0

    def run(self):
        try:
            client = Client(self.port)
            while True:
                requests, states = self.model.write(self.rng)
                entry = [states, None]
                for key, state in states.items():
                    self.history.setdefault(key, [(0.0, None)]).append([None, state, entry])
                for request in requests:
                    client.send(*request)
                for request in requests:
                    reply = client.reply()
                    if isinstance(reply, RuntimeError):
                        self.error = f"{request}: {reply}"
                        return
                entry[1] = time.monotonic()
                self.acked += 1
                for key, state in states.items():
                    self.history[key][-1][0] = entry[1]
                    if state is None:
                        self.model.now.pop(key, None)
                    else:
                        self.model.now[key] = state
                    if len(self.history[key]) > KEEP:
                        del self.history[key][: KEEP // 2]
        except Gone:
            pass


class Node:
    def __init__(self, args, policy, directory, port):
        self.args, self.policy, self.dir, self.port = args, policy, directory, port
        self.process = None

    def start(self):
        command = [self.args.node, "--port", str(self.port), "--dir", self.dir, "--threads", "2",
                   "--shards", "3", "--appendfsync", self.policy, "--no-pin", "--spin-us", "0"]
        log = open(os.path.join(self.dir, "log.txt"), "ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            if self.process.poll() is not None:
                tail = open(os.path.join(self.dir, "log.txt")).read()[-2000:]
                raise AssertionError(f"the node refused to start: {tail}")
            try:
                client = Client(self.port)
                if client.do("PING") == b"PONG" and not isinstance(client.do("DBSIZE"), RuntimeError):
                    client.close()
                    return
                client.close()
            except (OSError, Gone):
                pass
            if time.monotonic() > deadline:
                raise AssertionError("the node does not answer")
            time.sleep(0.01)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def check(node, history, killed, policy, failures):
    """Every key holds what it held after a write that is recent enough."""
    client = Client(node.port)
    found = {}
    for key, entries in history.items():
        kinds = [entry[1][0] for entry in entries if entry[1]]
        state = look(client, key, kinds[-1] if kinds else None)
        found[key] = state
        acked = [at for at, entry in enumerate(entries) if entry[0] is not None]
        newest = acked[-1] if acked else 0
        oldest = newest
        while policy != "always" and oldest > 0 and killed - entries[oldest][0] < WINDOW[policy]:
            oldest -= 1
        if not any(entry[1] == state for entry in entries[oldest:]):
            was = [at for at, entry in enumerate(entries) if entry[1] == state]
            failures.append(
                f"{key}: {str(state)[:200]} is not among the last {len(entries) - oldest} states; it was that "
                f"{len(entries) - 1 - was[-1] if was else '?'} writes ago; newest {str(entries[newest][1])[:200]}"
            )
    for name in {key.split(":")[0] for key in history}:
        for letter, count in (("t", 4), ("m", 4), ("e", 3)):
            group = [found.get(f"{name}:{letter}{part}") for part in range(count)]
            if any(state != group[0] for state in group):
                failures.append(f"{name}:{letter}*: torn: {group}")
        both = [found.get(f"{name}:r{part}") for part in range(2)]
        if all(both):
            failures.append(f"{name}:r*: the key is in two places: {both}")
    # What was found is where the writers go on from.
    for key, state in found.items():
        history[key] = [[killed, state, None]]
    client.close()
    return found


def rounds(args, policy, failures):
    directory = tempfile.mkdtemp(prefix="ringkeep-crash-", dir=args.tmp)
    seed = args.seed if args.seed is not None else random.randrange(1 << 32)
    rng = random.Random(f"{seed}-{policy}")
    node = Node(args, policy, directory, args.port)
    history, models, acked = {}, [Model(f"w{at}") for at in range(WRITERS)], 0
    restarts = 0.0
    try:
        node.start()
        for number in range(args.rounds):
            writers = [Writer(node.port, model, history, random.Random(rng.random())) for model in models]
            for writer in writers:
                writer.start()
            pause = rng.choice((0.02, 0.1, 0.3, 0.6)) * (0.5 + rng.random())
            begin = time.monotonic()
            if rng.randrange(3) == 0:
                time.sleep(pause / 2)
                client = Client(node.port)
                client.do(rng.choice(("BGSAVE", "BGREWRITEAOF")))
                client.close()
            time.sleep(max(0.0, pause - (time.monotonic() - begin)))
            killed = time.monotonic()
            node.kill()
            for writer in writers:
                writer.join(30)
                if writer.error:
                    failures.append(writer.error)
                acked += writer.acked
            begin = time.monotonic()
            node.start()
            restarts += time.monotonic() - begin
            found = check(node, history, killed, policy, failures)
            for model in models:
                own = {key: state for key, state in found.items() if key.startswith(model.name + ":")}
                model.now = {key: state for key, state in own.items() if state is not None}
            if failures:
                print(f"{policy}: seed {seed}, round {number}: {len(failures)} failures")
                for failure in failures[:10]:
                    print("  ", failure)
                return
        print(f"ok      {policy}: {args.rounds} kills, {acked} acknowledged writes, seed {seed}, "
              f"{restarts / args.rounds * 1000:.0f} ms per restart")
    finally:
        if node.process and node.process.poll() is None:
            node.process.kill()
            node.process.wait()
        if failures:
            print("kept:", directory)
        else:
            shutil.rmtree(directory)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node", default="target/release/ringkeep")
    parser.add_argument("--port", type=int, default=7461)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--policy", default="always,everysec,no")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--tmp", default=None, help="where the data directories are made")
    args = parser.parse_args()
    failures, passed = [], 0
    for policy in args.policy.split(","):
        rounds(args, policy, failures)
        if failures:
            break
        passed += args.rounds
    print(f"{passed} passed, {len(failures)} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
