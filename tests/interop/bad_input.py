#!/usr/bin/env python3
"""Clients that misbehave: malformed requests, half requests, idle crowds, readers that never read.

    bad_input.py --node BINARY          (or --at HOST:PORT for a server that runs already)
    --idle N                            idle connections (default 10000, or what the limit allows)

Each must get the error text that redis-server gives, or a close, within a bound; and none may disturb a
well-behaved client, which writes and reads all the while and whose slowest reply is checked.
"""

import argparse
import os
import random
import resource
import socket
import threading
import time

from wire import Broken, Closed, Conn, Count, Scratch, addr_of, encode, node_server, show, wait_until


class Neighbour(threading.Thread):
    """The well-behaved client: every reply must be right, and none may take long."""

    def __init__(self, addr):
        super().__init__(daemon=True)
        self.addr, self.halt = addr, threading.Event()
        self.trouble, self.slowest, self.calls = [], 0.0, 0

    def run(self):
        n = 0
        try:
            with Conn(self.addr, 15.0) as c:
                while not self.halt.is_set():
                    n += 1
                    started = time.monotonic()
                    c.send_raw(encode(["SET", "neighbour", str(n)]) + encode(["GET", "neighbour"]))
                    a, b = c.read(), c.read()
                    self.slowest = max(self.slowest, time.monotonic() - started)
                    self.calls += 1
                    if a.raw != b"+OK\r\n" or b.value != str(n).encode():
                        self.trouble.append("%s %s instead of %d" % (show(a), show(b), n))
                    time.sleep(0.002)
        except (Closed, Broken, OSError) as e:
            self.trouble.append(str(e))

    def finish(self):
        self.halt.set()
        self.join(20)
        return self


def with_neighbour(count, addr, name, work, slowest=2.0):
    n = Neighbour(addr)
    n.start()
    try:
        wait_until("the neighbour's first reply", 10, lambda: n.calls or n.trouble, every=0.001)
        why = work()
    except (Closed, Broken, OSError, TimeoutError) as e:
        why = "%s: %s" % (type(e).__name__, e)
    n.finish()
    if n.trouble:
        why = "the neighbour was disturbed: %s" % n.trouble[:2]
    elif n.slowest > slowest:
        why = "the neighbour waited %.2f s" % n.slowest
    count.check(name, not why, why or "")


# What redis-server answers; None = it closes without a word. (name, bytes, replies, then closed)
MALFORMED = [
    ("array length is a word", b"*abc\r\n", b"-ERR Protocol error: invalid multibulk length\r\n", True),
    (
        "array length above 2^31",
        b"*4000000000\r\n",
        b"-ERR Protocol error: invalid multibulk length\r\n",
        True,
    ),
    (
        "array length beyond 64 bits",
        b"*99999999999999999999\r\n",
        b"-ERR Protocol error: invalid multibulk length\r\n",
        True,
    ),
    (
        "no bulk where one must start",
        b"*1\r\nPING\r\n",
        b"-ERR Protocol error: expected '$', got 'P'\r\n",
        True,
    ),
    (
        "an integer instead of a bulk",
        b"*2\r\n$3\r\nGET\r\n:1\r\n",
        b"-ERR Protocol error: expected '$', got ':'\r\n",
        True,
    ),
    ("bulk length is a word", b"*1\r\n$abc\r\n", b"-ERR Protocol error: invalid bulk length\r\n", True),
    ("bulk length is negative", b"*1\r\n$-1\r\n", b"-ERR Protocol error: invalid bulk length\r\n", True),
    (
        "bulk above 512 MB",
        b"*2\r\n$3\r\nGET\r\n$536870913\r\n",
        b"-ERR Protocol error: invalid bulk length\r\n",
        True,
    ),
    (
        "bulk length beyond 64 bits",
        b"*1\r\n$99999999999999999999\r\n",
        b"-ERR Protocol error: invalid bulk length\r\n",
        True,
    ),
    (
        "array line without end",
        b"*" + b"1" * 70000,
        b"-ERR Protocol error: too big mbulk count string\r\n",
        True,
    ),
    (
        "bulk line without end",
        b"*1\r\n$" + b"1" * 70000,
        b"-ERR Protocol error: too big bulk count string\r\n",
        True,
    ),
    ("inline line without end", b"G" * 70000, b"-ERR Protocol error: too big inline request\r\n", True),
    ("unbalanced quotes", b'SET k "v\r\n', b"-ERR Protocol error: unbalanced quotes in request\r\n", True),
    (
        "good, then bad",
        b"*1\r\n$4\r\nPING\r\n*x\r\n",
        b"+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n",
        True,
    ),
    ("empty lines and empty arrays", b"\r\n\r\n*0\r\n*-1\r\nPING\r\n", b"+PONG\r\n", False),
    ("zero bytes", b"*1\r\n$4\r\nPING\r\n" * 3, b"+PONG\r\n" * 3, False),
    (
        "an unknown command with 1000 arguments",
        encode(["NOSUCH"] + ["x"] * 1000),
        b"-ERR unknown command 'NOSUCH'",
        False,
    ),
    ("a command name of 64 KiB", encode(["N" * 65536]), b"-ERR unknown command 'NNNN", False),
    ("a command name with line breaks", encode(["a\r\nb"]), b"-ERR unknown command 'a  b'", False),
    ("a command name of zero bytes", encode([""]), b"-ERR unknown command ''", False),
    ("binary rubbish", bytes(range(1, 256)) + b"\r\n", None, None),
    ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x07" * 500 + b"\r\n", None, None),
    ("an HTTP request", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", None, True),
    ("an HTTP header", b"Host: example.org\r\n\r\n", None, True),
]


def receive(sock, enough):
    """What comes until the connection ends, `enough` says so or nothing more comes; and whether it ended."""
    got = b""
    try:
        while not enough(got):
            part = sock.recv(65536)
            if not part:
                return got, True
            got += part
    except ConnectionResetError:
        return got, True
    except socket.timeout:
        pass
    return got, False


def exchange(addr, data, expected, closed):
    """None when the server answers as expected, else what was seen. `closed`: True the connection must
    end, False it must go on, None either."""
    with Conn(addr, 5.0) as c:
        try:
            c.sock.sendall(data)
        except OSError:
            pass
        if closed is None:
            c.sock.settimeout(0.5)
        got, ended = receive(
            c.sock, lambda got: not closed and expected is not None and len(got) >= len(expected)
        )
        # Where no text is expected, an error is as good as silence.
        if (
            expected is not None
            and not got.startswith(expected)
            or got
            and expected is None
            and not got.startswith(b"-ERR")
        ):
            return "got %r%s" % (got[:200], ", closed" if ended else "")
        if closed and not ended:
            return "the connection stayed open after %r" % got[:100]
        if closed is False:
            c.sock.sendall(b"PING\r\n")
            rest, _ = receive(c.sock, lambda rest: rest.endswith(b"+PONG\r\n"))
            if not rest.endswith(b"+PONG\r\n"):
                return "no PONG after a request that is only wrong in itself"
    return None


def slowly(addr):
    """A request in single bytes is a request like any other."""
    with Conn(addr, 5.0) as c:
        for byte in encode(["SET", "slow", "value"]):
            c.send_raw(bytes([byte]))
            time.sleep(0.001)
        r = c.read()
        return None if r.raw == b"+OK\r\n" else show(r)


def halves(addr):
    """Requests that stop half-way, on a thousand connections, some cut and some left open."""
    socks = []
    request = encode(["SET", "half", "x" * 1000])
    rng = random.Random(1)
    for i in range(1000):
        c = Conn(addr, 5.0)
        c.send_raw(request[: rng.randrange(1, len(request))])
        if i % 2:
            c.close()
        else:
            socks.append(c)
    time.sleep(0.5)
    with Conn(addr, 5.0) as c:
        r = c.call("EXISTS", "half")
    for s in socks:
        s.close()
    return None if r.value == 0 else "half a SET was carried out"


def half_open(addr):
    """The client shuts its writing side: what it asked before must still be answered."""
    with Conn(addr, 5.0) as c:
        c.send_raw(encode(["PING"]) + encode(["ECHO", "last"]))
        c.sock.shutdown(socket.SHUT_WR)
        a, b = c.read(), c.read()
        try:
            c.read()
        except Closed as e:
            if "closed" not in str(e):
                return "the connection stays open: %s" % e
    return None if (a.raw, b.value) == (b"+PONG\r\n", b"last") else "%s %s" % (show(a), show(b))


def resets(addr):
    """Connections reset in the middle of replies."""
    with Conn(addr, 5.0) as c:
        c.call("SET", "blob", "x" * 1000000)
    for _ in range(200):
        s = socket.create_connection(addr, 5)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        s.sendall(encode(["GET", "blob"]) * 3)
        s.close()
    return None


def many_bulks(addr):
    """A header that promises a million arguments of 512 MB each must not be believed in advance."""
    conns = []
    for _ in range(20):
        c = Conn(addr, 5.0)
        c.send_raw(b"*1000000\r\n$536870912\r\n" + b"x" * 1000)
        conns.append(c)
    time.sleep(0.5)
    for c in conns:
        c.close()
    return None


def never_reads(addr, server):
    """Asks for far more than it reads. The server may stop reading from it or close it, but what waits
    for it must stay bounded."""
    with Conn(addr, 5.0) as c:
        c.call("SET", "blob", "x" * 1000000)
    before = memory(server)
    s = socket.create_connection(addr, 5)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.settimeout(1.0)
    sent = 0
    try:
        for _ in range(600):
            s.sendall(encode(["GET", "blob"]))
            sent += 1
    except OSError:
        pass
    end = time.monotonic() + 5
    worst = 0
    while time.monotonic() < end:
        worst = max(worst, memory(server) - before)
        time.sleep(0.05)
    s.close()
    if server is None:
        return None
    if worst > 400:
        return "%d requests of 1 MB replies made it grow by %d MiB" % (sent, worst)
    wait_until("the memory is given back", 10, lambda: memory(server) - before < 300)
    return None


def never_reads_messages(addr, server):
    """A subscriber that never reads."""
    s = socket.create_connection(addr, 5)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.sendall(encode(["SUBSCRIBE", "flood"]))
    before = memory(server)
    text = "y" * 100000
    with Conn(addr, 10.0) as c:
        for _ in range(60):
            c.many([["PUBLISH", "flood", text]] * 20)
    grown = memory(server) - before
    s.close()
    return None if server is None or grown < 200 else "grew by %d MiB" % grown


def memory(server):
    if server is None or not server.alive():
        return 0
    with open("/proc/%d/status" % server.proc.pid, encoding="ascii") as f:
        for line in f:
            if line.startswith("VmRSS"):
                return int(line.split()[1]) // 1024
    return 0


def idle_crowd(addr, wanted, server):
    """Idle connections, then one request on each."""
    socks = []
    try:
        for _ in range(wanted):
            s = socket.socket()
            s.settimeout(10)
            s.connect(addr)
            socks.append(s)
        step = 500
        for i in range(0, len(socks), step):
            part = socks[i : i + step]
            for s in part:
                s.sendall(b"PING\r\n")
            for s in part:
                got = s.recv(100)
                if got != b"+PONG\r\n":
                    return "one of %d got %r" % (len(socks), got)
        used = memory(server)
        print("        %d idle connections, the server holds %d MiB" % (len(socks), used))
    finally:
        for s in socks:
            s.close()
    return None


def churn(addr):
    """Five thousand connections opened and closed one after the other."""
    for _ in range(5000):
        with Conn(addr, 5.0) as c:
            c.send_raw(b"PING\r\n")
            if c.read().raw != b"+PONG\r\n":
                return "no PONG"
    return None


def rubbish(addr, seconds=5.0):
    """Requests with flipped, cut and repeated bytes; whatever comes back, the server stays."""
    rng = random.Random(7)
    seeds = [
        encode(["SET", "k", "v"]),
        encode(["ZADD", "z", "1", "m"]),
        encode(["XADD", "x", "*", "f", "v"]),
        b"GET k\r\n",
        encode(["EVAL", "return 1", "0"]),
        encode(["HELLO", "3"]),
        encode(["MULTI"]) + encode(["EXEC"]),
    ]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = bytearray(b"".join(rng.choice(seeds) for _ in range(rng.randrange(1, 6))))
        for _ in range(rng.randrange(1, 8)):
            p = rng.random()
            at = rng.randrange(len(data)) if data else 0
            if p < 0.5 and data:
                data[at] = rng.randrange(256)
            elif p < 0.7 and data:
                del data[at : at + rng.randrange(1, 5)]
            else:
                data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 5)))
        s = socket.create_connection(addr, 5)
        s.settimeout(0.02)
        try:
            s.sendall(bytes(data))
            s.recv(4096)
        except OSError:
            pass
        s.close()
    return None


def bounds(addr):
    """Arguments at the edges: each gets an error or an answer, at once."""
    for args in (
        ["SETRANGE", "k", "536870911", "xx"],
        ["SETBIT", "k", "4294967296", "1"],
        ["GETRANGE", "k", "-9223372036854775808", "9223372036854775807"],
        ["LRANGE", "l", "-9223372036854775808", "9223372036854775807"],
        ["SRANDMEMBER", "s", "-9223372036854775807"],
        ["SRANDMEMBER", "none", "9223372036854775807"],
        ["LPOP", "l", "9223372036854775807"],
        ["SPOP", "s", "9223372036854775807"],
        ["HRANDFIELD", "h", "-9223372036854775808", "WITHVALUES"],
        ["ZRANGE", "z", "-9223372036854775808", "9223372036854775807"],
        ["SCAN", "18446744073709551615"],
        ["SCAN", "0", "COUNT", "9223372036854775807"],
        ["XADD", "x", "18446744073709551615-18446744073709551615", "f", "v"],
        ["XADD", "x", "*", "f", "v"],
        ["XRANGE", "x", "18446744073709551615-18446744073709551615", "-"],
        ["XPENDING"],
        ["XPENDING", "x"],
        ["EXPIRE", "k", "9223372036854775807"],
        ["PEXPIREAT", "k", "-9223372036854775808"],
        ["BITPOS", "k", "1", "9223372036854775807", "-9223372036854775808"],
        ["BLPOP", "none", "1e308"],
        ["BLPOP", "none", "-1"],
        ["EVAL", "while true do end", "abc"],
        ["EVAL", "return " * 50000, "0"],
        ["EVAL", "return {{{{{{{{{{}}}}}}}}}}", "0"],
        ["CONFIG", "SET"],
        ["CLIENT", "KILL"],
        ["WAIT", "9223372036854775807", "1"],
        ["SELECT", "2147483648"],
        ["KEYS", "[" * 1000],
        ["KEYS", "*a" * 200 + "b"],
        ["PSUBSCRIBE"],
    ):
        with Conn(addr, 5.0) as c:
            if args[:2] == ["BLPOP", "none"] and args[2] == "1e308":
                c.send(*args)
                continue
            c.call(*args)
    with Conn(addr, 5.0) as c:
        return None if c.call("PING").raw == b"+PONG\r\n" else "no PONG"


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    ap.add_argument("--node")
    ap.add_argument("--at")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--idle", type=int, default=10000)
    opts = ap.parse_args()
    if not opts.node and not opts.at:
        ap.error("give --node BINARY or --at HOST:PORT")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * opts.idle + 2000), hard))
    except (ValueError, OSError):
        pass
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    idle = min(opts.idle, soft - 500)
    count = Count()
    with Scratch() as scratch:
        server = None
        if opts.at:
            addr = addr_of(opts.at)
        else:
            server = node_server(scratch, opts.node, threads=opts.threads)
            addr = server.addr
        for name, data, expected, closed in MALFORMED:
            with_neighbour(count, addr, name, lambda: exchange(addr, data, expected, closed))
        for name, f in (
            ("a request in single bytes", slowly),
            ("half requests", halves),
            ("half-open connection", half_open),
            ("reset in the middle of replies", resets),
            ("promises of terabytes", many_bulks),
            ("edge arguments", bounds),
            ("mutated requests", rubbish),
            ("connection churn", churn),
        ):
            with_neighbour(count, addr, name, lambda f=f: f(addr))
        with_neighbour(
            count, addr, "a client that never reads its replies", lambda: never_reads(addr, server)
        )
        with_neighbour(
            count, addr, "a subscriber that never reads", lambda: never_reads_messages(addr, server)
        )
        if idle < opts.idle:
            print("        the limit on open files allows %d idle connections, not %d" % (idle, opts.idle))
        with_neighbour(count, addr, "%d idle connections" % idle, lambda: idle_crowd(addr, idle, server))
        if server is not None:
            count.check("the server is still the same process", server.alive(), server.log_tail())
            log = server.log_tail(4000)
            count.check("no panic in its log", "panicked" not in log, log[-1500:])
    count.close()


if __name__ == "__main__":
    main()
