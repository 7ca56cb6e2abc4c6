#!/usr/bin/env python3
"""Links between nodes that share a key: who has it is let in, who has not changes nothing.

node_key.py --node BINARY

The handshake is written here a second time, after src/docs/wire.md, so a node that spoke another one would not pass.
"""

import argparse
import contextlib
import hashlib
import hmac
import os
import random
import select
import signal
import socket
import subprocess
import threading
import time

from wire import Closed, Conn, Count, Scratch, Server, encode, free_base, kevy_binary, node_server, wait_until

SECRET = "s3cret-of-the-fleet-%s" % os.urandom(8).hex()
OTHER = "another-one-%s" % os.urandom(8).hex()
DOWN_AFTER_MS = 3000
KEVY = "7.0.0"
WRONG = "its node key is another one"
FAULTS = (TimeoutError, Closed, RuntimeError, OSError)
PLAIN = "it speaks without a node key"


def key_file(scratch, name, secret, mode=0o600):
    path = os.path.join(scratch.path, name)
    with open(path, "w", encoding="utf-8") as f:
        f.write(secret + "\n")
    os.chmod(path, mode)
    return path


# ---- the handshake, once more


def proof(secret, side, purpose, dialer, listener, dialed_with, answered_with):
    mac = hmac.new(secret.encode(), digestmod=hashlib.sha256)
    for part in (b"ringkeep link 1", side, purpose, dialer, listener, dialed_with, answered_with):
        mac.update(len(part).to_bytes(8, "little") + part)
    return mac.hexdigest().encode()


class Raw:
    """A connection of bytes."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.sent = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def say(self, data):
        self.sent += data
        try:
            self.sock.sendall(data)
        except OSError:
            pass  # What it answered, and that it closed, is read next.

    def line(self):
        got = b""
        while not got.endswith(b"\n"):
            byte = self.sock.recv(1)
            if not byte:
                return got
            got += byte
        return got

    def rest(self):
        """Everything up to the end that the node makes."""
        got = b""
        try:
            while True:
                data = self.sock.recv(4096)
                if not data:
                    return got
                got += data
        except ConnectionError:
            return got

    def hello(self, purpose, name, nonce):
        self.say(b"+RINGKEY1 %s %s %s\r\n" % (purpose, name, nonce.hex().encode()))

    def open(self, secret, purpose, name=b"tester"):
        """The whole handshake; the last line that the listener says."""
        nonce = os.urandom(32)
        self.hello(purpose, name, nonce)
        words = self.line().split()
        if len(words) != 3 or words[0] != b"+RINGKEY1":
            return b" ".join(words)
        listener, answered_with = words[1], bytes.fromhex(words[2].decode())
        talk = (purpose, name, listener, nonce, answered_with)
        self.say(b"+PROOF " + proof(secret, b"dialer", *talk) + b"\r\n")
        said = self.line()
        if said.startswith(b"+PROOF "):
            assert said == b"+PROOF " + proof(secret, b"listener", *talk) + b"\r\n", "its proof is none"
        return said


# ---- options


def options(args, scratch, count):
    keys = {
        "short": (key_file(scratch, "short", "15-bytes-of-it!"), "16 to 1024 bytes, this one 15"),
        "long": (key_file(scratch, "long", "x" * 1025), "16 to 1024 bytes"),
        "open": (key_file(scratch, "open", SECRET, 0o640), "others may read or change it (mode 0640)"),
        "none": (os.path.join(scratch.path, "none"), "No such file"),
        "folder": (scratch.sub("folder"), "it is no file"),
    }
    for name, (path, why) in keys.items():
        argv = [args.node, "--port", str(free_base()), "--threads", "1", "--node-key-file", path]
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        is_told = ended.returncode != 0 and why in ended.stderr and SECRET not in ended.stderr
        count.check("no start with a key file that is %s" % name, is_told, ended.stderr)


def lacks_secret(server, pid=None):
    """Nothing that the node shows has the secret."""
    with server.conn() as c:
        shown = [c.call("CONFIG", "GET", "*").raw, c.call("INFO", "everything").raw]
    with open("/proc/%d/cmdline" % (pid or server.proc.pid), "rb") as f:
        shown.append(f.read())
    with open("/proc/%d/environ" % (pid or server.proc.pid), "rb") as f:
        shown.append(f.read())
    shown.append(server.log_text().encode())
    return all(SECRET.encode() not in text for text in shown)


# ---- replicas


def replication(server):
    with server.conn() as c:
        return c.info("replication")


def trouble_of(replica):
    return replication(replica).get("master_link_last_error", "")


def in_step(replica, key, value):
    with replica.conn() as c:
        return c.ask("GET", key) == value


def pairs(args, scratch, count):
    key, other = key_file(scratch, "key", SECRET), key_file(scratch, "other", OTHER)
    login = ("--requirepass", "pass")
    primary = node_server(scratch, args.node, threads=2, args=("--node-key-file", key), name="primary")
    base = primary.port + 10000
    follow = ("--replicaof", "127.0.0.1:%d" % primary.port)
    with primary.conn() as c:
        c.ask("SET", "a", "1")
        shown = c.ask("CONFIG", "GET", "node-key-file")
        count.check("CONFIG GET has the path", shown == [b"node-key-file", key.encode()], str(shown))
        count.check("CONFIG SET refuses it", c.call("CONFIG", "SET", "node-key-file", other).is_error)

    replica = node_server(scratch, args.node, args=(*follow, "--node-key-file", key), name="replica")
    wait_until("the replica has the data", 15, lambda: in_step(replica, "a", b"1"))
    count.ok("a replica with the key follows")
    count.check("questions of who follows are no failures", replication(primary)["node_key_refused_links"] == "0")
    count.check("the secret is shown nowhere", lacks_secret(primary) and lacks_secret(replica))
    raw_streams(primary, replica, base, count)

    for name, more, there, here in [
        ("other", ("--node-key-file", other), "the node key is another one there", WRONG),
        ("plain", (), "wants a node key, and this node has none", PLAIN),
    ]:
        stranger = node_server(scratch, args.node, args=(*follow, *more), name=name)
        said = lambda: there in trouble_of(stranger)
        wait_until("%s is told why" % name, 15, said)
        count.check("%s: its log says why" % name, there in stranger.log_text(), stranger.log_tail())
        count.check("%s: the primary's log says why" % name, here in primary.log_text(), primary.log_tail())
        fields = replication(primary)
        count.check("%s: INFO says why" % name, here in fields["node_key_last_refusal"], str(fields))
        count.check("%s: it is no replica" % name, fields["connected_slaves"] == "1", str(fields))
        with stranger.conn() as c:
            count.check("%s: it has no data" % name, c.ask("DBSIZE") == 0)
        refusals = primary.log_text().count(here)
        again = int(replication(primary)["node_key_refused_links"]) + 3
        wait_until("it goes on asking", 15, lambda: int(replication(primary)["node_key_refused_links"]) >= again)
        count.check("%s: it is logged once" % name, primary.log_text().count(here) == refusals)
        stranger.stop()

    plain = node_server(scratch, args.node, name="no-key")
    with plain.conn() as c:
        c.ask("SET", "b", "2")
        with replica.conn() as r:
            r.ask("REPLICAOF", "127.0.0.1", plain.port)
        closed = "closed instead of proving a node key"
        wait_until("the replica says why", 15, lambda: closed in trouble_of(replica))
        wait_until("so does the primary without a key", 5, lambda: "this node has none" in plain.log_text())
    with replica.conn() as c:
        count.check("with a key no primary without one is followed", c.ask("EXISTS", "b") == 0)
        c.ask("REPLICAOF", "127.0.0.1", primary.port)
    plain.stop()
    with primary.conn() as c:
        c.ask("SET", "a", "3")
    wait_until("the replica is back", 15, lambda: in_step(replica, "a", b"3"))
    count.ok("it goes back to the one with the key")
    kevys(args, scratch, count, primary, replica)
    replica.stop()
    primary.stop()

    # The port is there although clients need a password.
    primary = node_server(scratch, args.node, args=(*login, "--node-key-file", key), name="locked", start=False)
    opened = primary.argv[:]
    primary.argv = [word for word in opened if word not in ("--node-key-file", key)]
    start_locked(primary)
    with socket.socket() as s:
        is_shut = s.connect_ex(("127.0.0.1", primary.port + 10000)) != 0
    count.check("without a key --requirepass shuts the replication port", is_shut)
    primary.stop()
    primary.argv = opened
    start_locked(primary)
    with Raw(primary.port + 10000) as raw:
        count.check("with one it is open", raw.open(SECRET, b"stream:0").startswith(b"+PROOF "))
    primary.stop()


def start_locked(server):
    """A server that answers nothing without a password."""
    server.log_path = os.path.join(server.dir, server.name + ".log")
    with open(server.log_path, "ab") as log:
        server.proc = subprocess.Popen(server.argv, cwd=server.dir, stdout=log, stderr=log)
    Server.running.append(server)

    def answers():
        with Conn(server.addr) as c:
            return c.call("PING").is_error

    wait_until("it answers", 15, answers)


def raw_streams(primary, replica, base, count):
    """What strangers may try at a replication port."""
    request = encode(["REPLICATE", "FROM", "0", "0", "ID", "kevy-replica-1#0"])
    with Raw(base) as raw:
        count.check("a link is opened with the key", raw.open(SECRET, b"stream:0").startswith(b"+PROOF "))
        raw.say(request)
        count.check("and answered", raw.line().startswith(b"+ACK "))
        session = raw.sent
    with Raw(base) as raw:
        raw.say(request)
        answer = raw.rest()
        count.check("a request without a key is refused", answer.startswith(b"-NOKEY "), str(answer))
    with Raw(base) as raw:
        raw.say(session)
        count.check("a session at once is refused", b"PROOF" not in raw.rest())
    with Raw(base) as raw:
        lines = session.split(b"\r\n")
        raw.say(lines[0] + b"\r\n")
        raw.line()
        raw.say(lines[1] + b"\r\n" + request)
        count.check("what follows too soon is refused", b"PROOF" not in raw.rest())
    with Raw(base) as raw:
        raw.say(lines[0] + b"\r\n")
        raw.line()
        raw.say(lines[1] + b"\r\n")
        answer = raw.rest()
        count.check("a replayed session is refused", answer.startswith(b"-WRONGKEY "), str(answer))
    with Raw(base + 1) as raw:
        count.check("a proof for another stream is refused", raw.open(SECRET, b"stream:0") == b"")
    with Raw(base) as raw:
        nonce = os.urandom(32)
        raw.hello(b"stream:0", b"tester", nonce)
        answered_with = raw.line().split()[2]
        raw.say(b"+PROOF " + answered_with + b"\r\n")
        answer = raw.rest()
        count.check("what it said itself is no proof", answer.startswith(b"-WRONGKEY "), str(answer))
    rng = random.Random(7)
    for n in range(40):
        with Raw(base) as raw:
            start = (b"", b"+RINGKEY1 ", lines[0] + b"\r\n", lines[0] + b"\r\n+PROOF ")[n % 4]
            raw.say(start + rng.randbytes(rng.randrange(1, 400)) + b"\n" * 3)
            answer = raw.rest()
            if b"ACK" in answer or b"PROOF" in answer:
                count.fail("garbage is refused", repr(answer))
    count.ok("garbage is refused", "40 connections")
    # One that is slow, and many that say nothing, while a replica comes back.
    with Raw(base) as slow:
        idle = [Raw(base) for _ in range(100)]
        primary_links(primary)
        with replica.conn() as c:
            c.ask("REPLICAOF", "NO", "ONE")
            c.ask("REPLICAOF", "127.0.0.1", primary.port)
        wait_until("the replica is back among them", 15, lambda: replication(replica)["master_link_status"] == "up")
        count.ok("connections that prove nothing keep nobody out")
        for raw in idle:
            raw.sock.close()
        for byte in lines[0] + b"\r\n":
            slow.say(bytes([byte]))
            if select.select([slow.sock], [], [], 0.08)[0]:
                break
        answer = slow.rest()
        count.check("a slow handshake is ended", answer == b"", str(answer))


def primary_links(primary):
    """The primary still answers clients."""
    with primary.conn() as c:
        c.ask("PING")


def fake_listener(args, scratch, count):
    """A primary that has no key, and tries with what the replica says itself."""
    key = key_file(scratch, "key", SECRET)
    port = free_base()
    heard = []
    listener = socket.create_server(("127.0.0.1", port + 10000))
    listener.settimeout(20)

    def serve():
        while len(heard) < 2:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.settimeout(5)
            with sock:
                got = b""
                try:
                    while b"\n" not in got:
                        data = sock.recv(4096)
                        if not data:
                            break
                        got += data
                    if not got.startswith(b"+RINGKEY1 "):
                        continue
                    sock.sendall(b"+RINGKEY1 impostor " + got.split()[3] + b"\r\n")
                    answer = sock.recv(4096)
                    sock.sendall(answer)
                    rest = b""
                    while data := sock.recv(4096):
                        rest += data
                    heard.append((answer, rest))
                except OSError as e:
                    heard.append((b"", str(e).encode()))

    thread = threading.Thread(target=serve)
    thread.start()
    follow = ("--replicaof", "127.0.0.1:%d" % (port + 10000), "--node-key-file", key)
    replica = node_server(scratch, args.node, args=follow, name="fooled")
    thread.join(25)
    listener.close()
    is_safe = heard and all(answer.startswith(b"+PROOF ") and rest == b"" for answer, rest in heard)
    count.check("a replica's own proof proves nothing to it", is_safe, str(heard))
    count.check("and it says so", WRONG in replica.log_text(), replica.log_tail())
    replica.stop()


def kevys(args, scratch, count, primary, replica):
    """A kevy knows no key: it is neither fed nor followed."""
    binary = kevy_binary(KEVY)
    if not binary:
        return count.skip("kevys", "kevy %s is not there: run tests/peers.sh" % KEVY)
    port = free_base()
    folder = scratch.sub("kevy-replica")
    text = '[server]\nport = %d\nthreads = 2\ndata_dir = "%s"\n[replication]\nrole = "replica"\nupstream = "127.0.0.1:%d"\n'
    config = os.path.join(folder, "kevy.toml")
    with open(config, "w", encoding="utf-8") as f:
        f.write(text % (port, folder, primary.port + 10000))
    before = int(replication(primary)["node_key_refused_links"])
    kevy = Server("kevy-replica", [binary, "--config", config], port, folder, {"KEVY_IO_URING": "0"}).start()
    wait_until("it is refused", 15, lambda: int(replication(primary)["node_key_refused_links"]) >= before + 4)
    fields = replication(primary)
    count.check("a kevy is refused with its reason", PLAIN in fields["node_key_last_refusal"], str(fields))
    with kevy.conn() as c:
        count.check("and gets nothing", c.ask("DBSIZE") == 0)
        c.ask("REPLICAOF", "NO", "ONE")
        c.ask("SET", "of-kevy", "1")
    kevy.stop()
    with open(config, "w", encoding="utf-8") as f:
        f.write(text.replace('"replica"', '"primary"').replace('upstream = "127.0.0.1:%d"\n', "") % (port, folder))
    kevy = Server("kevy-primary", [binary, "--config", config], port, folder, {"KEVY_IO_URING": "0"}).start()
    with replica.conn() as c:
        c.ask("REPLICAOF", "127.0.0.1", port)
        closed = "closed instead of proving a node key"
        wait_until("it is not followed", 15, lambda: closed in trouble_of(replica))
        count.check("a kevy is not followed", c.ask("EXISTS", "of-kevy") == 0)
        c.ask("REPLICAOF", "127.0.0.1", primary.port)
    kevy.stop()
    wait_until("the replica is back", 15, lambda: replication(replica)["master_link_status"] == "up")


# ---- members


class Fleet:
    """Three members, each under a supervisor of its own."""

    more = ()

    def __init__(self, args, scratch):
        self.args, self.scratch = args, scratch
        self.key = key_file(scratch, "key", SECRET)
        self.ports = {name: free_base(2) for name in "abc"}
        self.peers = ",".join("%s@127.0.0.1:%d:%d" % (n, p + 200, p) for n, p in self.ports.items())
        self.members = {name: self.member(name, self.key) for name in "abc"}

    def member(self, name, key, folder=None, is_kept=True):
        port = self.ports[name]
        folder = self.scratch.sub(folder or "member-" + name)
        words = ["--port", port, "--threads", 1, "--shards", 2, "--no-pin", "--spin-us", 0]
        words += ["--dir", os.path.join(folder, "data"), "--node-id", name, "--peers", self.peers]
        words += ["--elect-down-after-ms", DOWN_AFTER_MS]
        words += ["--node-key-file", key] if key else []
        words += self.more
        how = [os.path.abspath(self.args.node)]
        if is_kept:
            how += ["supervise", "--control", os.path.join(folder, "control")]
        argv = how + [str(word) for word in words]
        return Server(os.path.basename(folder), argv, port, folder)

    def views(self):
        found = {}
        for name, server in self.members.items():
            if server.alive():
                fields = replication(server)
                is_whole = fields["role"] == "master" or fields.get("master_link_status") == "up"
                found[name] = (fields.get("elect_primary"), int(fields["role_epoch"]), is_whole)
        return found

    def agreed(self):
        """The primary and its epoch, once everybody says so and follows."""
        views = self.views()
        said = {(primary, epoch) for primary, epoch, _ in views.values()}
        is_one = len(said) == 1 and all(whole for *_, whole in views.values())
        primary, epoch = said.pop() if is_one else ("", 0)
        return (primary, epoch) if primary else None

    def wait(self, what):
        return wait_until(what, 30, self.agreed)

    def holder(self, name):
        with open(os.path.join(self.members[name].dir, "data", "LOCK"), encoding="ascii") as f:
            return int(f.readline())

    def moved_from(self, old):
        """The primary and its epoch, once it is another one; a failover may have to be asked for again."""
        view = self.agreed()
        if not view or view[0] != old:
            return view
        with self.members[old].conn() as c:
            c.call("FAILOVER")
        return None

    def write(self, primary, key, value):
        with self.members[primary].conn() as c:
            c.ask("SET", key, value)
            return c.ask("WAIT", 1, 5000)

    def trouble(self, at, of):
        with self.members[at].conn() as c:
            rows = [dict(zip(row[::2], row[1::2])) for row in c.ask("ELECT", "STATUS")[-1]]
        return next(row[b"trouble"].decode() for row in rows if row[b"id"] == of.encode())

    def stop(self):
        for server in self.members.values():
            # In order, so that the supervisor takes its node along.
            server.stop()


def hammer(port, secret):
    """What a stranger may say at a port of elections; nobody may be moved by it."""
    offer = encode(["OFFER", "900", "b", "99999999"]) + encode(["ANNOUNCE", "901", "b", "127.0.0.1:1"])
    offer += encode(["HB", "902", "b", "primary", "99999999"])
    answers = []
    for how in range(6):
        with Raw(port) as raw:
            if how == 0:
                raw.say(offer)
            elif how == 1:
                raw.hello(b"elections", b"b", os.urandom(32))
                raw.say(offer)
            elif how == 2:
                raw.open(OTHER, b"elections", b"b")
                raw.say(offer)
            elif how == 3:
                # With the key, and the name of nobody.
                raw.open(secret, b"elections", b"nobody")
                raw.say(offer)
            elif how == 4:
                # With the key, for another port.
                raw.open(secret, b"stream:0", b"b")
                raw.say(offer)
            else:
                # With the key, as one member, and then in the name of another.
                raw.open(secret, b"elections", b"c")
                raw.say(offer)
            answers.append(raw.rest())
    return answers


def members(args, scratch, count):
    with running(Fleet(args, scratch)) as fleet:
        elected(args, scratch, count, fleet)


@contextlib.contextmanager
def running(fleet):
    try:
        for server in fleet.members.values():
            server.start()
        yield fleet
    except FAULTS:
        tell_logs()
        raise
    finally:
        fleet.stop()


def elected(args, scratch, count, fleet):
    primary, epoch = fleet.wait("three members with the key elect")
    count.ok("three members with the key elect a primary")
    count.check("and it is followed", fleet.write(primary, "k", "1") >= 1)
    for server in fleet.members.values():
        wait_until("all have it", 10, lambda server=server: in_step(server, "k", b"1"))
    count.check("nobody is in trouble", all(fleet.trouble(primary, of) == "" for of in "abc"))

    # What strangers say at the port of elections.
    sent = [hammer(fleet.ports[name] + 200, SECRET) for name in fleet.members]
    count.check("who has no key is told so", all(said[0].startswith(b"-NOKEY ") for said in sent), str(sent))
    # The name of who listens comes before the proof of who dials.
    is_silent = all(b"PROOF" not in answer and b"HB" not in answer for said in sent for answer in said)
    count.check("nobody is answered anything else", is_silent, str(sent))
    count.check("nothing came of it", fleet.wait("all as before") == (primary, epoch), str(fleet.views()))

    # A third member with another key, without one, and a kevy.
    out = next(name for name in "abc" if name != primary)
    right = fleet.members[out]
    right.stop()
    del fleet.members[out]
    strangers = [("another-key", key_file(scratch, "other", OTHER)), ("without-key", None)]
    for name, key in strangers:
        stranger = fleet.member(out, key, folder="stranger-" + name, is_kept=False).start()
        before = int(replication(fleet.members[primary])["node_key_refused_links"])
        is_heard = lambda before=before: (
            int(replication(fleet.members[primary])["node_key_refused_links"]) >= before + 3
        )
        wait_until("it hammers", 15, is_heard)
        why = {"another-key": "another one there", "without-key": "closed instead"}[name]
        wait_until("ELECT STATUS says why", 15, lambda why=why: why in fleet.trouble(primary, out))
        # As long as it takes to be elected.
        told = replication(stranger)
        count.check("%s: it follows nobody" % name, told["elect_primary"] == "", str(told))
        count.check("%s: it is heard by nobody" % name, fleet.wait("as before") == (primary, epoch))
        with stranger.conn() as c:
            count.check("%s: it has nothing" % name, c.ask("DBSIZE") == 0)
            count.check("%s: it takes no write" % name, c.call("SET", "x", "1").is_error)
        count.check("%s: it is told why" % name, "node key" in stranger.log_text(), stranger.log_tail())
        stranger.stop()
    a_kevy_among(count, scratch, fleet, out, (primary, epoch))

    fleet.members[out] = right.start(limit=90)
    count.check("the right one is let in again", fleet.wait("three again") == (primary, epoch), str(fleet.views()))
    led_by_all(args, count, fleet, primary, epoch)
    shown = [lacks_secret(server, fleet.holder(name)) for name, server in fleet.members.items()]
    count.check("the secret is shown nowhere", all(shown))


def led_by_all(args, count, fleet, primary, epoch):
    """Over to another one as planned, to another process of its, and to another one because it is lost."""
    fleet.write(primary, "k", "2")
    moved = wait_until("its part is handed over", 30, lambda: fleet.moved_from(primary), every=0.2)
    count.check("a planned failover", moved[1] > epoch, str(moved))
    primary, epoch = moved
    count.check("writes go on", fleet.write(primary, "k", "3") >= 1)
    primary, epoch = upgraded(args, count, fleet, primary, epoch)
    with fleet.members[primary].conn() as c:
        count.check("with its data", c.ask("GET", "k") == b"3")
    count.check("writes go on behind the handoff", fleet.write(primary, "k", "4") >= 1)
    holder = fleet.holder(primary)
    lost = fleet.members.pop(primary)
    lost.proc.kill()
    os.kill(holder, signal.SIGKILL)
    lost.stop()
    after = wait_until("another one is elected", 30, lambda: (v := fleet.agreed()) and v[0] != primary and v)
    count.check("the others elect another one", after[1] > epoch, str(after))
    for server in fleet.members.values():
        wait_until("what was confirmed is there", 10, lambda server=server: in_step(server, "k", b"4"))
    count.ok("with every confirmed write")
    fleet.members[primary] = lost.start(limit=90)
    count.check("the lost one follows", fleet.wait("three again") == after, str(fleet.views()))


def upgraded(args, count, fleet, primary, epoch):
    """The primary is handed over to another process, which reads the key itself. Who is the primary then."""
    server, before = fleet.members[primary], fleet.holder(primary)
    control = os.path.join(server.dir, "control")
    node = os.path.abspath(args.node)
    argv = [node, "upgrade", "--binary", node, "--control", control]
    began = time.monotonic()
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    took_ms = (time.monotonic() - began) * 1000
    is_other = ended.returncode == 0 and fleet.holder(primary) != before
    count.check("the primary is handed over", is_other, ended.stdout + ended.stderr)
    now = fleet.wait("all follow one again")
    if took_ms < DOWN_AFTER_MS:
        count.check("and stays the primary", now == (primary, epoch), "%s %s, now %s" % (primary, epoch, now))
    elif now != (primary, epoch):
        count.skip("and stays the primary", "it took %d ms, and others were elected meanwhile" % took_ms)
    return now


def a_kevy_among(count, scratch, fleet, out, before):
    binary = kevy_binary(KEVY)
    if not binary:
        return count.skip("a kevy as a member", "kevy %s is not there: run tests/peers.sh" % KEVY)
    folder = scratch.sub("kevy-member")
    config = os.path.join(folder, "kevy.toml")
    with open(config, "w", encoding="utf-8") as f:
        f.write(
            '[server]\nport = %d\nthreads = 2\ndata_dir = "%s"\n[replication]\nrole = "primary"\n'
            '[cluster]\nnode_id = "%s"\npeers = "%s"\n' % (fleet.ports[out], folder, out, fleet.peers)
        )
    primary = fleet.members[before[0]]
    refused = int(replication(primary)["node_key_refused_links"])
    kevy = Server("kevy-member", [binary, "--config", config], fleet.ports[out], folder, {"KEVY_IO_URING": "0"})
    kevy.start()
    wait_until("it is refused", 15, lambda: int(replication(primary)["node_key_refused_links"]) >= refused + 3)
    fields = replication(primary)
    told = "elections: 127.0.0.1 is refused: " + PLAIN
    count.check("a kevy as a member is refused", fields["node_key_last_refusal"] == told, str(fields))
    count.check("the log says why", told in primary.log_text(), primary.log_tail())
    count.check("a kevy changes nothing", fleet.wait("as before") == before, str(fleet.views()))
    kevy.stop()


def tell_logs():
    for server in Server.running:
        print("---- %s\n%s" % (server.name, server.log_tail(40)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node", required=True)
    args = parser.parse_args()
    args.node = os.path.abspath(args.node)
    count = Count()
    with Scratch() as scratch:
        for part in (options, pairs, fake_listener, members):
            try:
                part(args, scratch, count)
            except FAULTS as e:
                count.fail(part.__name__, "%s: %s" % (type(e).__name__, e))
    count.close()


if __name__ == "__main__":
    main()
