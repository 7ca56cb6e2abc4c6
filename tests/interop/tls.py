#!/usr/bin/env python3
"""TLS at the node's client port: real clients, certificates of all kinds, and what is no TLS at all.

    tls.py --node BINARY            starts the node, and redis-server beside it

Certificates are made by openssl. redis-cli, redis-py, ioredis and openssl s_client speak with the node, and a client
of this file that cuts what it sends at any place.
"""

import argparse
import os
import signal
import socket
import ssl
import subprocess
import sys
import time

from wire import Closed, Conn, Count, Scratch, Server, encode, free_base, node_server, peers_dir, wait_until

count = Count(quiet=True)
TEN_MB = 10_000_000

REDIS_PY = """
import sys, threading, redis
how = dict(host="127.0.0.1", port=int(sys.argv[1]), ssl=True, ssl_ca_certs=sys.argv[2], decode_responses=True)
r = redis.Redis(**how)
assert r.ping()
pipe = r.pipeline(transaction=False)
for i in range(10000):
    pipe.set("py:%d" % i, i)
assert pipe.execute() == [True] * 10000
assert r.mget(["py:%d" % i for i in range(0, 10000, 1000)]) == [str(i) for i in range(0, 10000, 1000)]
big = "x" * 10_000_000
r.set("py:big", big)
assert r.get("py:big") == big
sub = r.pubsub(ignore_subscribe_messages=True)
sub.subscribe("py:c")
assert sub.get_message(timeout=5) is None
threading.Timer(0.05, lambda: (r.publish("py:c", "hello"), r.rpush("py:l", "x"))).start()
blocked = redis.Redis(**how)
assert blocked.blpop("py:l", timeout=20) == ("py:l", "x")
assert sub.get_message(timeout=20)["data"] == "hello"
try:
    redis.Redis(host="127.0.0.1", port=int(sys.argv[1]), ssl=True, ssl_ca_certs=sys.argv[3]).ping()
except redis.ConnectionError:
    print("fine")
"""

IOREDIS = """
const Redis = require("ioredis"), fs = require("fs");
const how = { port: +process.argv[1], host: "localhost", tls: { ca: fs.readFileSync(process.argv[2]) }, lazyConnect: true };
(async () => {
    const a = new Redis(how), b = new Redis(how);
    await a.connect(); await b.connect();
    const pipe = a.pipeline();
    for (let i = 0; i < 10000; i++) pipe.incr("io:n");
    const got = await pipe.exec();
    if (got[9999][1] !== 10000) throw new Error("pipeline");
    const big = Buffer.alloc(10_000_000, 7);
    await a.set("io:big", big);
    if (!(await a.getBuffer("io:big")).equals(big)) throw new Error("big");
    const waits = b.blpop("io:l", 20);
    await a.rpush("io:l", "x");
    if ((await waits)[1] !== "x") throw new Error("blpop");
    await b.subscribe("io:c");
    const heard = new Promise((done) => b.on("message", (_, text) => done(text)));
    await a.publish("io:c", "hello");
    if ((await heard) !== "hello") throw new Error("message");
    await a.quit(); await b.quit();
    console.log("fine");
})().catch((error) => { console.log(error); process.exit(1); });
"""


class Pki:
    """Two authorities, and certificates of both."""

    def __init__(self, folder):
        self.dir = folder
        for ca in ("ca", "other-ca"):
            self.openssl("req", "-x509", *self.new_key(ca), "-out", self[ca + ".crt"], "-days", "30", "-subj", "/CN=" + ca)
        self.issue("server", "ca", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        self.issue("renewed", "ca", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        self.issue("rsa", "ca", "subjectAltName=DNS:localhost,IP:127.0.0.1", kind="rsa:2048")
        self.issue("client", "ca", "extendedKeyUsage=clientAuth")
        self.issue("stranger", "other-ca", "extendedKeyUsage=clientAuth")

    def __getitem__(self, name):
        return os.path.join(self.dir, name)

    def openssl(self, *argv):
        subprocess.run(["openssl", *argv], check=True, capture_output=True, timeout=60)

    def new_key(self, name, kind="ec"):
        curve = ["-pkeyopt", "ec_paramgen_curve:P-256"] if kind == "ec" else []
        return ["-newkey", kind, *curve, "-nodes", "-keyout", self[name + ".key"]]

    def issue(self, name, ca, extension, kind="ec"):
        with open(self["ext"], "w") as ext:
            ext.write(extension + "\n")
        self.openssl("req", *self.new_key(name, kind), "-out", self["csr"], "-subj", "/CN=" + name)
        self.openssl("x509", "-req", "-in", self["csr"], "-CA", self[ca + ".crt"], "-CAkey", self[ca + ".key"],
                     "-CAcreateserial", "-out", self[name + ".crt"], "-days", "30", "-extfile", self["ext"])

    def context(self, version=None, cert=None, ca="ca"):
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.load_verify_locations(self[ca + ".crt"])
        if version:
            made.minimum_version = made.maximum_version = version
        if cert:
            made.load_cert_chain(self[cert + ".crt"], self[cert + ".key"])
        return made


class TlsConn(Conn):
    """A connection in TLS. An end without close_notify is an error of its own."""

    def __init__(self, addr, context, timeout=30.0):
        super().__init__(addr, timeout)
        plain = self.sock
        try:
            self.sock = context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)
        except OSError:
            plain.close()
            raise


class Cutter:
    """A client that says itself when its bytes leave, and in what pieces."""

    def __init__(self, addr, context):
        self.sock = socket.create_connection(addr, timeout=30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.inbox, self.outbox = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.inbox, self.outbox, server_hostname="localhost")

    def flush(self, step=1 << 20):
        data = self.outbox.read()
        for at in range(0, len(data), step):
            self.sock.sendall(data[at : at + step])

    def again(self, do, step=1 << 20):
        """Does it, with what it needs from the other side."""
        while True:
            try:
                return do()
            except ssl.SSLWantReadError:
                self.flush(step)
                data = self.sock.recv(1 << 16)
                self.inbox.write(data) if data else self.inbox.write_eof()
            finally:
                self.flush(step)

    def shake_hands(self, step=1 << 20):
        self.again(self.tls.do_handshake, step)
        return self

    def read(self, size):
        got = bytearray()
        while len(got) < size:
            got += self.again(lambda: self.tls.read(1 << 16)) or b"?" * size
        return bytes(got)

    def close(self):
        self.sock.close()


def node_with_tls(args, scratch, pki, *more, cert="server", threads=2, name="node"):
    """A node, and the address of its TLS port."""
    port = free_base(2)
    files = ["--tls-cert-file", pki[cert + ".crt"], "--tls-key-file", pki[cert + ".key"]]
    server = node_server(scratch, args.node, port, threads, ["--tls-port", port + 1, "--no-pin", *files, *more], name)
    return server, ("127.0.0.1", port + 1)


def refused(addr, context):
    """Is a client with this context kept out? In TLS 1.3 it learns that when it first reads."""
    try:
        with TlsConn(addr, context) as conn:
            conn.ask("PING")
        return False
    except (OSError, Closed):
        return True


def versions(pki, addr):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with TlsConn(addr, pki.context(version)) as conn:
            got = conn.sock.version()
            count.check("version", got == version.name.replace("v1_", "v1."), got)
            count.check("%s: a value" % got, conn.ask("SET", "k", "v") == b"OK" and conn.ask("GET", "k") == b"v")
            big = os.urandom(TEN_MB)
            count.check("%s: 10 MB there" % got, conn.ask("SET", "big", big) == b"OK")
            count.check("%s: 10 MB back" % got, conn.ask("GET", "big") == big)
            asked = [("INCR", "n:" + got)] * 10_000
            replies = conn.many(asked, window=10_000)
            count.check("%s: 10 000 requests" % got, [r.value for r in replies] == list(range(1, 10_001)))
            sets = conn.many([("SET", "p:%d" % i, "x" * (i % 3000)) for i in range(2000)], window=2000)
            count.check("%s: values of all sizes" % got, all(r.value == b"OK" for r in sets))
            gets = conn.many([("GET", "p:%d" % i) for i in range(2000)], window=2000)
            count.check("%s: and back" % got, all(r.value == b"x" * (i % 3000) for i, r in enumerate(gets)))
    for cipher in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"):
        context = pki.context(ssl.TLSVersion.TLSv1_2)
        context.set_ciphers(cipher)
        with TlsConn(addr, context) as conn:
            count.check(cipher, conn.ask("PING") == b"PONG" and conn.sock.cipher()[0] == cipher)
    old = pki.context(ssl.TLSVersion.TLSv1_1)
    old.set_ciphers("ALL:@SECLEVEL=0")
    count.check("TLS 1.1 is refused", refused(addr, old))
    count.check("a client that trusts another authority stays away", refused(addr, pki.context(ca="other-ca")))


def resumption(pki, addr):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = pki.context(version)
        with TlsConn(addr, context) as conn:
            conn.ask("PING")
            session = conn.sock.session
        with socket.create_connection(addr, timeout=30) as plain:
            with context.wrap_socket(plain, server_hostname="localhost", session=session) as again:
                again.sendall(encode(("PING",)))
                good = again.recv(100) == b"+PONG\r\n" and again.session_reused
                count.check("a session is resumed in %s" % again.version(), good)


def cuts(pki, addr):
    """Records and requests may be cut and joined anywhere."""
    one = Cutter(addr, pki.context()).shake_hands(step=1)
    for i in range(3):
        one.tls.write(encode(("SET", "cut:%d" % i, "v" * 40)))
    one.flush(step=1)
    count.check("byte by byte", one.read(15) == b"+OK\r\n" * 3)
    request = encode(("GET", "cut:1"))
    for byte in request:
        one.tls.write(bytes([byte]))
    one.flush()
    count.check("a record for each byte, in one packet", one.read(47) == b"$40\r\n" + b"v" * 40 + b"\r\n")
    for i in range(500):
        one.tls.write(encode(("ECHO", "%03d" % i)))
    one.flush()
    want = b"".join(b"$3\r\n%03d\r\n" % i for i in range(500))
    count.check("500 records in one packet", one.read(len(want)) == want)
    # What follows the request that waits has been deciphered with it.
    one.tls.write(encode(("BLPOP", "cut:l", "20")) + encode(("ECHO", "behind")))
    one.flush()
    with TlsConn(addr, pki.context()) as other:
        wait_until("it waits", 10, lambda: other.info("clients")["blocked_clients"] == "1")
        other.ask("RPUSH", "cut:l", "x")
    want = b"*2\r\n$5\r\ncut:l\r\n$1\r\nx\r\n$6\r\nbehind\r\n"
    count.check("what is behind a request that waits is run", one.read(len(want)) == want)
    one.close()


def ends(pki, addr):
    """Both sides may end, in words or without."""
    with TlsConn(addr, pki.context()) as conn:
        count.check("QUIT", conn.ask("QUIT") == b"OK")
        # An end without close_notify would be an error of the library.
        count.check("it ends with close_notify", conn.sock.recv(100) == b"")
    for name in ("close_notify", "the end of TCP"):
        half = Cutter(addr, pki.context()).shake_hands()
        for i in range(300):
            half.tls.write(encode(("ECHO", "%03d" % i)))
        if name == "close_notify":
            try:
                half.tls.unwrap()
            except ssl.SSLWantReadError:
                pass
        half.flush()
        if name == "the end of TCP":
            half.sock.shutdown(socket.SHUT_WR)
        want = b"".join(b"$3\r\n%03d\r\n" % i for i in range(300))
        got = b""
        while True:
            data = half.sock.recv(1 << 16)
            if not data:
                break
            half.inbox.write(data)
        half.inbox.write_eof()
        try:
            while len(got) < len(want):
                got += half.tls.read(1 << 16)
        except ssl.SSLError:
            pass
        count.check("behind %s there are replies" % name, got == want, str(len(got)))
        half.close()


def together(pki, addr, plain):
    """What one client does to another one."""
    context = pki.context()
    with TlsConn(addr, context) as a, TlsConn(addr, context) as b, Conn(plain) as c:
        b.ask("SUBSCRIBE", "t:c")
        count.check("published in plain, heard in TLS", c.ask("PUBLISH", "t:c", "m") == 1 and b.read().plain()[2] == b"m")
        text = b"y" * 3_000_000
        a.ask("PUBLISH", "t:c", text)
        count.check("a large message", b.read().plain()[2] == text)
        a.send("BLPOP", "t:l", 20)
        wait_until("it waits", 10, lambda: c.info("clients")["blocked_clients"] == "1")
        c.ask("RPUSH", "t:l", "x")
        count.check("BLPOP", a.read().plain() == [b"t:l", b"x"])
        a.ask("CLIENT", "SETNAME", "secure")
        lines = c.ask("CLIENT", "LIST").decode().splitlines()
        mine = [line for line in lines if " name=secure " in line]
        at = "%s:%d" % a.sock.getsockname()
        good = len(mine) == 1 and " addr=%s " % at in mine[0] and " laddr=%s:%d " % addr in mine[0]
        count.check("CLIENT LIST", good, "\n".join(lines))
        info = a.ask("CLIENT", "INFO").decode()
        count.check("CLIENT INFO", " name=secure " in info, info)
        a.ask("HELLO", "3")
        a.ask("CLIENT", "TRACKING", "ON")
        a.ask("GET", "t:tracked")
        c.ask("SET", "t:tracked", "1")
        count.check("news of tracking", a.read().plain() == [b"invalidate", [b"t:tracked"]])
        with TlsConn(addr, context) as monitor:
            monitor.ask("MONITOR")
            c.ask("ECHO", "seen")
            count.check("MONITOR", b'"ECHO" "seen"' in monitor.read().value)
        done = a.many([("MULTI",), ("INCR", "t:n"), ("EXEC",)])[-1]
        count.check("MULTI", done.plain() == [1], done)
        count.check("CLIENT KILL", c.ask("CLIENT", "KILL", at) == b"OK")
        try:
            a.ask("PING")
            count.fail("it is closed")
        except Closed:
            count.ok("it is closed")


def slow_reader(pki, addr):
    """Output limits count what is owed: a listener that does not read is closed, others are served."""
    slow = Cutter(addr, pki.context()).shake_hands()
    slow.tls.write(encode(("SUBSCRIBE", "s:c")))
    slow.flush()
    slow.read(len(b"*3\r\n$9\r\nsubscribe\r\n$3\r\ns:c\r\n:1\r\n"))
    text = b"z" * 1_000_000
    with TlsConn(addr, pki.context()) as conn:
        heard = 0
        while heard < 500 and conn.ask("PUBLISH", "s:c", text):
            heard += 1
        count.check("a listener that does not read is closed", 32 < heard < 500, str(heard))
        count.check("and gone", b" sub=1 " not in conn.ask("CLIENT", "LIST"))
    slow.close()
    lazy = Cutter(addr, pki.context()).shake_hands()
    with TlsConn(addr, pki.context()) as conn:
        conn.ask("SET", "s:big", text)
        lazy.tls.write(encode(("GET", "s:big")) * 20 + encode(("ECHO", "end")))
        lazy.flush()
        count.check("others are served beside a client that reads late", conn.ask("PING") == b"PONG")
    want = (b"$1000000\r\n" + text + b"\r\n") * 20 + b"$3\r\nend\r\n"
    count.check("which gets all of it", lazy.read(len(want)) == want)
    lazy.close()


def real_clients(pki, addr):
    port, ca = str(addr[1]), pki["ca.crt"]
    cli = ["redis-cli", "--tls", "--cacert", ca, "-h", "localhost", "-p", port]

    def ran(name, argv, want, text=None, env=None):
        done = subprocess.run(argv, input=text, capture_output=True, timeout=120, env=env)
        count.check(name, want in done.stdout, (done.stdout + done.stderr)[-600:].decode("utf-8", "replace"))

    ran("redis-cli", cli + ["ping"], b"PONG")
    ran("redis-cli with TLS 1.2", cli + ["--tls-ciphers", "ECDHE-ECDSA-AES256-GCM-SHA384", "ping"], b"PONG")
    requests = b"".join(encode(("SET", "cli:%d" % i, i)) for i in range(10_000))
    ran("redis-cli --pipe", cli + ["--pipe"], b"errors: 0, replies: 10000", requests)
    ran("redis-cli --bigkeys", cli + ["--bigkeys"], b"Biggest string found")
    python = os.path.join(peers_dir(), "venv", "bin", "python")
    ran("redis-py", [python, "-c", REDIS_PY, port, ca, pki["other-ca.crt"]], b"fine")
    env = dict(os.environ, NODE_PATH=os.path.join(peers_dir(), "node", "node_modules"))
    ran("ioredis", ["node", "-e", IOREDIS, port, ca], b"fine", env=env)
    for version in ("-tls1_2", "-tls1_3"):
        client = ["openssl", "s_client", "-quiet", "-verify_return_error", version, "-CAfile", ca, "-connect", "localhost:" + port]
        ran("openssl s_client " + version, client, b"$5\r\nhello\r\n", b"ECHO hello\r\nQUIT\r\n")


def client_certificates(args, scratch, pki):
    node, addr = node_with_tls(args, scratch, pki, "--tls-ca-cert-file", pki["ca.crt"], cert="rsa", name="asks")
    with node.conn() as admin:
        count.check("an authority asks for certificates", admin.ask("CONFIG", "GET", "tls-auth-clients") == [b"tls-auth-clients", b"yes"])
        # Whoever shows none, a stranger's, the right one.
        for auth, want in (("yes", "--+"), ("optional", "+-+"), ("no", "+++"), ("yes", "--+")):
            count.check("it is said at run time", admin.ask("CONFIG", "SET", "tls-auth-clients", auth) == b"OK")
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                for cert, good in zip((None, "stranger", "client"), want):
                    kept_out = refused(addr, pki.context(version, cert))
                    count.check("%s, %s, %s" % (auth, version.name, cert), kept_out == (good == "-"))
        cli = ["redis-cli", "--tls", "--cacert", pki["ca.crt"], "-h", "localhost", "-p", str(addr[1])]
        cli += ["--cert", pki["client.crt"], "--key", pki["client.key"], "ping"]
        done = subprocess.run(cli, capture_output=True, timeout=60)
        count.check("redis-cli with a certificate", done.stdout == b"PONG\n", str(done))
        admin.ask("CONFIG", "SET", "tls-ca-cert-file", pki["other-ca.crt"])
        good = refused(addr, pki.context(cert="client")) and not refused(addr, pki.context(cert="stranger"))
        count.check("another authority", good)
    node.stop()


def subject(pki, addr):
    with TlsConn(addr, pki.context()) as conn:
        return dict(part[0] for part in conn.sock.getpeercert()["subject"])["commonName"]


def renewal(pki, node, addr):
    with node.conn() as admin, TlsConn(addr, pki.context()) as old:
        count.check("the first certificate", subject(pki, addr) == "server")
        pair = ["tls-cert-file", pki["renewed.crt"], "tls-key-file", pki["renewed.key"]]
        count.check("another one", admin.ask("CONFIG", "SET", *pair) == b"OK" and subject(pki, addr) == "renewed")
        count.check("who is there stays", old.ask("PING") == b"PONG")
        wrong = [
            ["tls-cert-file", pki["server.crt"]],
            ["tls-key-file", pki["server.key"]],
            ["tls-cert-file", pki["nosuch"]],
            ["tls-key-file", pki["server.crt"]],
            ["tls-cert-file", pki["server.key"]],
            ["tls-cert-file", ""],
            ["tls-auth-clients", "yes"],
            ["maxclients", "77", "tls-cert-file", pki["server.crt"], "tls-key-file", pki["nosuch"]],
        ]
        for pairs in wrong:
            reply = admin.call("CONFIG", "SET", *pairs)
            text = b"ERR CONFIG SET failed (possibly related to argument '%s') - Unable to update TLS configuration. Check server logs."
            name = next(name for name in pairs if name.startswith("tls-"))
            count.check("refused: %s" % pairs, reply.value == text % name.encode(), reply)
        count.check("nothing has changed", subject(pki, addr) == "renewed")
        count.check("not even beside it", admin.ask("CONFIG", "GET", "maxclients")[1] == b"10000")
        count.check("nor by name", admin.ask("CONFIG", "GET", "tls-cert-file")[1] == pki["renewed.crt"].encode())
        count.check("the log tells", "TLS: Failed to load private key: " in node.log_text(), node.log_tail())
        with open(pki["renewed.key"]) as key:
            secret = key.read().splitlines()[1]
        told = node.log_text() + str(admin.call("INFO", "everything").value) + str(admin.call("CONFIG", "GET", "*"))
        count.check("and nothing of the key", secret not in told)
        # The same names with something else in the files.
        for kind in ("crt", "key"):
            os.replace(pki["server." + kind], pki["renewed." + kind])
        count.check("nobody looks by himself", subject(pki, addr) == "renewed")
        admin.ask("CONFIG", "SET", "tls-cert-file", pki["renewed.crt"])
        count.check("files are read again", subject(pki, addr) == "server")
        count.check("the port stays", admin.call("CONFIG", "SET", "tls-port", "1").is_error)


def outcome(sock):
    """All that comes, and whether it ends."""
    got = b""
    try:
        while True:
            piece = sock.recv(1 << 16)
            got += piece
            if not piece:
                return got, True
    except socket.timeout:
        return got, False
    except OSError:
        return got, True


def hostile(pki, node, addr):
    """What is no TLS ends its own connection and nothing else."""
    context = pki.context()
    hello = Cutter(addr, context)
    try:
        hello.tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    hello_bytes = hello.outbox.read()
    # They stay half open until the node ends them.
    begun = time.monotonic()
    half = [socket.create_connection(addr, timeout=30) for _ in range(200)]
    for i, sock in enumerate(half):
        sock.sendall(hello_bytes[: i % len(hello_bytes)])
    with TlsConn(addr, context) as good:
        count.check("a client beside 200 that do not shake hands", good.many([("PING",)] * 1000)[-1].value == b"PONG")
        strange = [
            ("plain RESP", encode(("PING",)) * 3),
            ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
            ("zeros", bytes(5000)),
            ("noise", os.urandom(200_000)),
            ("an alert", b"\x15\x03\x01\x00\x02\x02\x28"),
            ("text before the handshake", b"\x17\x03\x03\x00\x20" + bytes(32)),
            ("a hello of nothing", b"\x16\x03\x01\x00\x04\x01\x00\x00\x00"),
            ("a hello that is too long", b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(0x4000 - 4)),
            ("a record that is too long", b"\x16\x03\x01\xff\xff" + bytes(0xFFFF)),
            ("a hello in pieces of one byte", b"".join(b"\x16\x03\x01\x00\x01" + bytes([b]) for b in hello_bytes[5:])),
            # A library that is asked in the wrong way panics here, and the node with it.
            ("two hellos", hello_bytes + hello_bytes),
            ("a hello and half a message", hello_bytes + b"\x16\x03\x03\x00\x06\x0b\x00\x10\x00\x00\x00"),
        ]
        socks = [socket.create_connection(addr, timeout=30) for _ in strange]
        for sock, (_, data) in zip(socks, strange):
            try:
                sock.sendall(data)
            except OSError:
                # It is closed already.
                pass
        for sock, (name, _) in zip(socks, strange):
            got, ended = outcome(sock)
            count.check("%s is ended" % name, ended and b"PONG" not in got, got[:100])
            count.check("and nobody else", good.ask("ECHO", name) == name.encode())
            sock.close()
        for at in (5, 20, -1):
            broken = Cutter(addr, context).shake_hands()
            broken.tls.write(encode(("SET", "broken", "x")))
            data = bytearray(broken.outbox.read())
            data[at] ^= 1
            broken.sock.sendall(data)
            count.check("a record that was changed ends its connection", outcome(broken.sock)[1])
            count.check("and is not run", good.ask("EXISTS", "broken") == 0)
            broken.close()
        with node.conn() as plain:
            wait_until("all of them are ended", 30, lambda: int(plain.info("clients")["connected_clients"]) <= 4)
        taken = time.monotonic() - begun
        count.check("half open connections are ended, not at once", taken > 9, "%.1f s" % taken)
        count.check("and nobody else", good.ask("PING") == b"PONG")
    for sock in half + [hello.sock]:
        sock.close()
    log = node.log_text()
    count.check("the log tells", "TLS: no handshake in time, closed" in log and "TLS: received corrupt" in log, node.log_tail())
    with node.conn() as admin, TlsConn(addr, context) as inside:
        admin.ask("CONFIG", "SET", "maxclients", "2")
        count.check("maxclients counts all", refused(addr, context) and inside.ask("PING") == b"PONG")
        admin.ask("CONFIG", "SET", "maxclients", "10000")
    count.check("and they come in again", not refused(addr, context))


def resident(pid):
    with open("/proc/%d/statm" % pid) as statm:
        return int(statm.read().split()[1]) * 4096


def leaks(args, scratch, pki):
    """Connections that come and go leave nothing behind."""
    node, addr = node_with_tls(args, scratch, pki, name="leaks")
    context = pki.context()

    def come_and_go(times):
        for _ in range(times):
            with TlsConn(addr, context) as conn:
                conn.ask("PING")

    come_and_go(args.connections // 4)
    before = resident(node.proc.pid)
    come_and_go(args.connections)
    grown = resident(node.proc.pid) - before
    count.check("memory returns behind %d connections" % args.connections, grown < 4 << 20, "%d bytes more" % grown)
    before = resident(node.proc.pid)
    many = [TlsConn(addr, context) for _ in range(200)]
    for conn in many:
        conn.ask("PING")
    held = (resident(node.proc.pid) - before) // len(many)
    count.check("an idle connection holds little", held < 64 << 10, "%d bytes" % held)
    print("an idle connection holds %d bytes" % held)
    for conn in many:
        conn.close()
    with node.conn() as admin:
        wait_until("all are gone", 10, lambda: admin.info("clients")["connected_clients"] == "1")
    node.stop()


def redis_beside(scratch, pki):
    """What redis-server says of the same, where it is the same."""
    port = free_base(2)
    directory = scratch.sub("redis")
    argv = ["redis-server", "--port", str(port), "--tls-port", str(port + 1), "--save", "", "--loglevel", "warning"]
    argv += ["--tls-cert-file", pki["server.crt"], "--tls-key-file", pki["server.key"], "--tls-auth-clients", "no"]
    return Server("redis", argv, port, directory).start(), ("127.0.0.1", port + 1)


def compared(args, scratch, pki):
    redis, redis_addr = redis_beside(scratch, pki)
    node, node_addr = node_with_tls(args, scratch, pki, name="compared")
    requests = [
        ("CONFIG", "GET", "tls-cert-file"),
        ("CONFIG", "GET", "tls-key-file"),
        ("CONFIG", "GET", "tls-ca-cert-file"),
        ("CONFIG", "GET", "tls-auth-clients"),
        ("CONFIG", "SET", "tls-cert-file", pki["nosuch"]),
        ("CONFIG", "SET", "tls-key-file", pki["ca.key"]),
        ("CONFIG", "SET", "tls-auth-clients", "maybe"),
        ("CONFIG", "SET", "TLS-Auth-Clients", "no"),
        ("CONFIG", "SET", "tls-cert-file", pki["server.crt"], "tls-key-file", pki["nosuch"]),
        ("CONFIG", "SET", "tls-key-file", pki["nosuch"], "tls-cert-file", pki["server.crt"]),
        ("CONFIG", "SET", "tls-cert-file", pki["server.crt"], "tls-cert-file", pki["server.crt"]),
        ("CONFIG", "SET", "tls-ca-cert-file", pki["nosuch"], "tls-auth-clients", "yes"),
        ("CONFIG", "SET", "tls-ca-cert-file", pki["ca.crt"], "tls-auth-clients", "yes"),
        ("CONFIG", "GET", "tls-auth-clients"),
        ("CONFIG", "SET", "tls-ca-cert-file", ""),
        ("CONFIG", "SET", "tls-auth-clients", "no", "tls-ca-cert-file", ""),
        ("SET", "k", "v"),
        ("GET", "k"),
        ("NOSUCH",),
    ]
    with TlsConn(redis_addr, pki.context()) as theirs, TlsConn(node_addr, pki.context()) as ours:
        for request in requests:
            want, got = theirs.call(*request), ours.call(*request)
            count.check("as redis-server: %s" % (request,), got.raw == want.raw, "%s, not %s" % (got, want))
    redis.stop()
    node.stop()


def starts(args, scratch, pki):
    """What keeps a node from starting."""
    port = free_base(2)

    def told(*more):
        argv = [os.path.abspath(args.node), "--no-config", "--port", str(port), *more]
        done = subprocess.run(argv, capture_output=True, timeout=60, cwd=scratch.path)
        return done.returncode, done.stderr.decode()

    cert, key = ["--tls-cert-file", pki["server.crt"]], ["--tls-key-file", pki["server.key"]]
    tls = ["--tls-port", str(port + 1)]
    for more, want in [
        (tls, "No tls-cert-file configured!"),
        (tls + cert, "No tls-key-file configured!"),
        (tls + cert + ["--tls-key-file", pki["client.key"]], "KeyMismatch"),
        (tls + key + ["--tls-cert-file", pki["nosuch"]], "Failed to load certificate: "),
        (tls + cert + key + ["--tls-auth-clients", "yes"], "tls-ca-cert-file must be specified"),
        (tls + cert + key + ["--tls-auth-clients", "maybe"], "must be one of the following: no, yes, optional"),
        (["--tls-port", str(port)] + cert + key, "plain and TLS clients need a port each"),
    ]:
        rc, text = told(*more)
        count.check("no start: %s" % want, rc != 0 and want in text, text)
    path = os.path.join(scratch.sub("file"), "ringkeep.toml")
    with open(path, "w") as file:
        file.write('[server]\nport = %d\n[tls]\nport = %d\n' % (port, port + 1))
        file.write('cert_file = "%s"\nkey_file = "%s"\nauth_clients = "no"\n' % (pki["server.crt"], pki["server.key"]))
    argv = [os.path.abspath(args.node), "--config", path, "--threads", "1"]
    node = Server("file", argv, port, os.path.dirname(path)).start()
    count.check("settings from a file", subject(pki, ("127.0.0.1", port + 1)) == "server")
    with TlsConn(("127.0.0.1", port + 1), pki.context()) as conn:
        conn.send("SHUTDOWN", "NOSAVE")
        node.proc.wait(20)
    count.check("SHUTDOWN in TLS", node.proc.returncode == 0, node.log_tail())


def handoff(args, scratch, pki):
    """Behind an upgrade a plain client is still there, one in TLS was told the end and comes again."""
    port = free_base(2)
    folder = scratch.sub("upgraded")
    addr = ("127.0.0.1", port + 1)
    node = os.path.abspath(args.node)
    argv = [node, "supervise", "--control", "control", "--no-config", "--port", str(port), "--dir", "data"]
    argv += ["--threads", "2", "--no-pin", "--tls-port", str(port + 1)]
    argv += ["--tls-cert-file", pki["server.crt"], "--tls-key-file", pki["server.key"]]
    service = Server("service", argv, port, folder).start()
    context = pki.context()
    with service.conn(60.0) as plain, TlsConn(addr, context, 60.0) as secure:
        first = plain.info("server")["process_id"]
        secure.ask("SET", "k", "v")
        secure.many([("INCR", "n")] * 100)

        def upgrade():
            ask = [node, "upgrade", "--binary", node, "--control", "control"]
            done = subprocess.run(ask, capture_output=True, timeout=120, cwd=folder)
            return done.returncode == 0

        # The supervisor may not yet know that its node serves.
        count.check("an upgrade", wait_until("an upgrade", 60, upgrade, every=0.2))
        count.check("the plain client is still there", plain.info("server")["process_id"] != first)
        count.check("the other one was told the end", secure.sock.recv(100) == b"")
        with TlsConn(addr, context, 60.0) as again:
            count.check("and comes again", again.ask("GET", "n") == b"100")
    service.stop(signal.SIGTERM, 20)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--node", required=True)
    parser.add_argument("--connections", type=int, default=2000, help="how many come and go")
    args = parser.parse_args()
    with Scratch() as scratch:
        pki = Pki(scratch.sub("pki"))
        node, addr = node_with_tls(args, scratch, pki)
        versions(pki, addr)
        resumption(pki, addr)
        cuts(pki, addr)
        ends(pki, addr)
        together(pki, addr, node.addr)
        slow_reader(pki, addr)
        real_clients(pki, addr)
        leaks(args, scratch, pki)
        hostile(pki, node, addr)
        client_certificates(args, scratch, pki)
        compared(args, scratch, pki)
        handoff(args, scratch, pki)
        starts(args, scratch, pki)
        renewal(pki, node, addr)
        node.stop()
    count.close()


if __name__ == "__main__":
    sys.exit(main())
