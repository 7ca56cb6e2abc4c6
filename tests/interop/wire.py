"""What the interop tests share: a raw RESP connection, servers started on free ports, the counting
of checks. Standard library only, so that a fresh machine needs nothing but python3."""

import fcntl
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time


class Closed(Exception):
    """The other side closed, reset or stayed silent past the limit."""


class Broken(Exception):
    """Bytes that are not RESP."""


def encode(args):
    out = [b"*%d\r\n" % len(args)]
    for a in args:
        if isinstance(a, str):
            a = a.encode()
        elif not isinstance(a, bytes):
            a = str(a).encode()
        out.append(b"$%d\r\n%s\r\n" % (len(a), a))
    return b"".join(out)


class Reply:
    """One reply: `kind` is the RESP type byte, `value` what it holds, `raw` the bytes as they came."""

    __slots__ = ("kind", "value", "raw")

    def __init__(self, kind, value, raw):
        self.kind, self.value, self.raw = kind, value, raw

    def __repr__(self):
        return show(self)

    @property
    def is_error(self):
        return self.kind in ("-", "!")

    def plain(self):
        """Lists, dicts as lists of pairs, bytes, ints: for tests that look into a reply."""
        if self.kind in "*~>" and self.value is not None:
            return [v.plain() for v in self.value]
        if self.kind == "%":
            return [(k.plain(), v.plain()) for k, v in self.value]
        if self.kind == "-":
            return RuntimeError(self.value.decode("utf-8", "replace"))
        return self.value

    def flat(self):
        """Like plain, but a map comes as RESP2 would give it: one flat list."""
        if self.kind == "%":
            return [x for k, v in self.value for x in (k.flat(), v.flat())]
        if self.kind in "*~>" and self.value is not None:
            return [v.flat() for v in self.value]
        return self.plain()


def show(r, limit=300):
    def go(r):
        if r.kind in "*~>" and r.value is not None:
            return {"*": "[%s]", "~": "set{%s}", ">": "push[%s]"}[r.kind] % ", ".join(go(v) for v in r.value)
        if r.kind == "%":
            return "{%s}" % ", ".join(go(k) + ": " + go(v) for k, v in r.value)
        if r.value is None:
            return {"*": "nil-array", "$": "nil", "_": "null"}.get(r.kind, "nil")
        if r.kind == ":":
            return "(int %d)" % r.value
        if r.kind == "$":
            return '"%s"' % r.value.decode("utf-8", "backslashreplace")
        text = r.value.decode("utf-8", "backslashreplace") if isinstance(r.value, bytes) else str(r.value)
        return r.kind + text

    text = go(r)
    return text if len(text) <= limit else text[:limit] + "... (%d characters)" % len(text)


class Conn:
    def __init__(self, addr, timeout=10.0):
        self.addr = addr
        self.sock = socket.create_connection(addr, timeout=timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.timeout = timeout
        self.buf = b""
        self.pos = 0

    def close(self):
        try:
            self.sock.close()
        except OSError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send_raw(self, data):
        try:
            self.sock.sendall(data)
        except OSError as e:
            raise Closed("send: %s" % e) from None

    def send(self, *args):
        self.send_raw(encode(args))

    def _more(self):
        if self.pos > 1 << 16:
            self.buf = self.buf[self.pos :]
            self.pos = 0
        try:
            data = self.sock.recv(1 << 16)
        except socket.timeout:
            raise Closed("no reply within %.1f s" % self.timeout) from None
        except OSError as e:
            raise Closed("receive: %s" % e) from None
        if not data:
            raise Closed("closed by the server")
        self.buf += data

    def _line(self):
        while True:
            end = self.buf.find(b"\r\n", self.pos)
            if end >= 0:
                line = self.buf[self.pos : end]
                self.pos = end + 2
                return line
            self._more()

    def _exact(self, n):
        while len(self.buf) - self.pos < n + 2:
            self._more()
        data = self.buf[self.pos : self.pos + n]
        if self.buf[self.pos + n : self.pos + n + 2] != b"\r\n":
            raise Broken("bulk of %d bytes does not end in CRLF" % n)
        self.pos += n + 2
        return data

    def read(self):
        line = self._line()
        if not line:
            raise Broken("empty line where a reply starts")
        kind, rest = chr(line[0]), line[1:]
        raw = line + b"\r\n"
        if kind in "+-,#(":
            return Reply(kind, rest, raw)
        if kind == "_":
            return Reply("_", None, raw)
        if kind not in ":$!=*~>%|":
            raise Broken("unknown reply type %r" % line[:40])
        try:
            n = int(rest)
        except ValueError:
            raise Broken("bad length or integer %r" % line[:40]) from None
        if kind == ":":
            return Reply(kind, n, raw)
        if n < 0:
            return Reply(kind, None, raw)
        if kind in "$!=":
            data = self._exact(n)
            return Reply(kind, data, raw + data + b"\r\n")
        parts = [raw]
        items = []
        for _ in range(n * 2 if kind in "%|" else n):
            r = self.read()
            items.append(r)
            parts.append(r.raw)
        if kind in "%|":
            items = list(zip(items[0::2], items[1::2]))
        return Reply(kind, items, b"".join(parts))

    def call(self, *args):
        self.send(*args)
        return self.read()

    def ask(self, *args):
        """The reply as plain values; an error reply is raised."""
        r = self.call(*args)
        if r.is_error:
            raise RuntimeError("%s: %s" % (" ".join(str(a) for a in args)[:100], r.value.decode()))
        return r.plain()

    def many(self, commands, window=200):
        """Pipelined; never more outstanding than a socket buffer is sure to hold."""
        out = []
        for i in range(0, len(commands), window):
            part = commands[i : i + window]
            self.send_raw(b"".join(encode(c) for c in part))
            out.extend(self.read() for _ in part)
        return out

    def info(self, section):
        r = self.call("INFO", section)
        fields = {}
        for line in (r.value or b"").decode("utf-8", "replace").splitlines():
            if ":" in line:
                k, v = line.split(":", 1)
                fields[k] = v.strip()
        return fields


def addr_of(text):
    host, _, port = text.rpartition(":")
    return (host or "127.0.0.1", int(port))


def wait_until(what, limit, check, every=0.01):
    """Waits for a state with a deadline; the tests never sleep for a fixed time and hope."""
    end = time.monotonic() + limit
    while True:
        try:
            got = check()
        except (OSError, Closed, Broken, RuntimeError):
            got = None
        if got:
            return got
        if time.monotonic() > end:
            raise TimeoutError("%s: not within %.1f s" % (what, limit))
        time.sleep(every)


_claimed = set()


def free_base(span=1):
    """A port p below 19000 so that p .. p+span and the derived ports p+200 (election) and p+10000+i
    (replication) are free. Below 19000 and not from the kernel's ephemeral range (32768 and up), so
    that no outgoing connection of the test can sit on a replication port."""
    rng = random.Random(os.getpid() * 7919 + int(time.time() * 1000))
    for _ in range(2000):
        p = rng.randrange(11000, 19000, 20)
        wanted = [p + i for i in range(span)] + [p + 200] + [p + 10000 + i for i in range(8)]
        # The election port of one block is the first port of another.
        if not _claimed.isdisjoint(wanted):
            continue
        socks = []
        try:
            for w in wanted:
                s = socket.socket()
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                socks.append(s)
                s.bind(("127.0.0.1", w))
        except OSError:
            continue
        finally:
            for s in socks:
                s.close()
        _claimed.update(wanted)
        return p
    raise RuntimeError("no free block of ports")


class Server:
    """A server process in a folder of its own, ended with the test."""

    running = []

    def __init__(self, name, argv, port, directory, env=None, host="127.0.0.1"):
        self.name, self.argv, self.port, self.dir = name, argv, port, directory
        self.addr = (host, port)
        self.env = dict(os.environ, **(env or {}))
        self.proc = None
        self.starts = 0

    def start(self, limit=30.0):
        self.starts += 1
        self.log_path = os.path.join(self.dir, "%s.log" % self.name)
        with open(self.log_path, "ab") as log:
            self.proc = subprocess.Popen(
                self.argv,
                cwd=self.dir,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        Server.running.append(self)

        def answers():
            if self.proc.poll() is not None:
                raise SystemExit(
                    "%s ended with status %s at start:\n%s"
                    % (self.name, self.proc.returncode, self.log_tail())
                )
            with Conn(self.addr, timeout=1.0) as c:
                return not c.call("PING").is_error

        wait_until("%s answers PING" % self.name, limit, answers, every=0.02)
        return self

    def alive(self):
        return self.proc is not None and self.proc.poll() is None

    def log_text(self):
        try:
            with open(self.log_path, "rb") as f:
                return f.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def log_tail(self, n=15):
        return "\n".join(self.log_text()[-20000:].splitlines()[-n:])

    def conn(self, timeout=10.0):
        return Conn(self.addr, timeout)

    def stop(self, sig=signal.SIGTERM, limit=10.0):
        if self.proc is None:
            return
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGCONT)
            self.proc.send_signal(sig)
            try:
                self.proc.wait(limit)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
        if self in Server.running:
            Server.running.remove(self)
        # The kernel takes an io_uring apart after its process is gone, and the listeners with it.
        end = time.monotonic() + 5
        while time.monotonic() < end:
            with socket.socket() as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    s.bind(self.addr)
                    return
                except OSError:
                    time.sleep(0.02)

    def kill(self):
        self.stop(signal.SIGKILL)


class Scratch:
    """A folder for the servers' data, gone at the end together with every server still running."""

    def __init__(self, keep=False):
        self.path = tempfile.mkdtemp(prefix="ringkeep-interop-")
        self.keep = keep

    def sub(self, name):
        p = os.path.join(self.path, name)
        os.makedirs(p, exist_ok=True)
        return p

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for s in list(Server.running):
            s.kill()
        if self.keep:
            print("kept: %s" % self.path)
        else:
            shutil.rmtree(self.path, ignore_errors=True)


def redis_server(scratch, port=None):
    port = port or free_base()
    exe = shutil.which("redis-server")
    if not exe:
        raise SystemExit("redis-server is not installed: run tests/peers.sh")
    argv = [
        exe,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--protected-mode",
        "no",
        "--loglevel",
        "warning",
    ]
    return Server("redis-%d" % port, argv, port, scratch.sub("redis-%d" % port)).start()


def node_server(scratch, binary, port=None, threads=1, args=(), name="node", env=None, start=True):
    """The node under test. A real kevy takes the same flags, so either can be given as the binary."""
    port = port or free_base()
    directory = scratch.sub("%s-%d" % (name, port))
    argv = [
        os.path.abspath(binary),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--threads",
        str(threads),
        "--dir",
        directory,
    ] + [str(a) for a in args]
    s = Server("%s-%d" % (name, port), argv, port, directory, env)
    return s.start() if start else s


def loopback_up():
    """Brings the loopback of a network namespace up that was just made."""
    with socket.socket() as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))


def peers_dir():
    return os.environ.get("RINGKEEP_PEERS") or os.path.expanduser("~/.cache/ringkeep/peers")


def kevy_binary(version):
    p = os.path.join(peers_dir(), "kevy-" + version, "bin", "kevy")
    return p if os.access(p, os.X_OK) else None


class Count:
    """One line per check, the counts at the end in the form that test runners read."""

    def __init__(self, quiet=False):
        self.passed = self.failed = self.skipped = 0
        self.quiet = quiet

    def ok(self, name, note=""):
        self.passed += 1
        if not self.quiet:
            print("ok      %s%s" % (name, "  (%s)" % note if note else ""), flush=True)

    def fail(self, name, why=""):
        self.failed += 1
        print("FAILED  %s%s" % (name, ": %s" % why if why else ""), flush=True)

    def skip(self, name, why):
        self.skipped += 1
        print("skipped %s: %s" % (name, why), flush=True)

    def check(self, name, good, why=""):
        if good:
            self.ok(name)
        else:
            self.fail(name, why)
        return good

    def close(self):
        tail = ", %d skipped" % self.skipped if self.skipped else ""
        print("%d passed, %d failed%s" % (self.passed, self.failed, tail), flush=True)
        sys.exit(1 if self.failed else 0)
