#!/usr/bin/env python3
"""Links between nodes in TLS: who has a certificate of the same authority is let in, and nobody on the way reads along.

    node_tls.py --node BINARY

Certificates are made by openssl. A proxy records what goes over a link, once without TLS, so that it is known that it
would find what it looks for.
"""

import argparse
import os
import select
import socket
import ssl
import subprocess
import threading
import time

from node_key import FAULTS, Fleet, Raw, in_step, key_file, led_by_all, replication, running, tell_logs, trouble_of
from tls import Pki
from wire import Count, Scratch, Server, encode, free_base, kevy_binary, node_server, wait_until

KEVY = "7.0.0"
PLAIN = "it speaks without TLS"
CLOSED = "closed instead of shaking hands in TLS"
NOT_OURS = "its certificate is not accepted"
NOT_THEIRS = "it does not accept our certificate"
NO_TLS = "it speaks TLS, and this node does not"
SECRET_KEY, SECRET_VALUE = "the-name-of-a-patient", "what-nobody-else-may-know"


class Nodes(Pki):
    """Certificates for nodes: of one authority, and of another one."""

    def __init__(self, folder):
        super().__init__(folder)
        for name in ("one", "two", "three"):
            self.issue(name, "ca", "extendedKeyUsage=serverAuth,clientAuth")
        self.issue("only-server", "ca", "extendedKeyUsage=serverAuth")
        self.issue("foreign", "other-ca", "extendedKeyUsage=serverAuth,clientAuth")
        with open(self["both.crt"], "w") as both:
            both.write("".join(open(self[ca + ".crt"]).read() for ca in ("ca", "other-ca")))

    def files(self, name, ca="ca"):
        return ["--tls-cert-file", self[name + ".crt"], "--tls-key-file", self[name + ".key"],
                "--tls-ca-cert-file", self[ca + ".crt"]]

    def words(self, name, ca="ca"):
        return ["--tls-replication", "yes", *self.files(name, ca)]


class Recorder:
    """Stands between a replica and its primary, at ports of its own, and notes every byte."""

    def __init__(self, primary, streams):
        self.base = free_base()
        self.bytes = bytearray()
        self.listeners = []
        for distance in (0, *(10000 + n for n in range(streams))):
            listener = socket.create_server(("127.0.0.1", self.base + distance))
            self.listeners.append(listener)
            threading.Thread(target=self.serve, args=(listener, primary.port + distance), daemon=True).start()

    def serve(self, listener, port):
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
            except OSError:
                return
            threading.Thread(target=self.carry, args=(near, far), daemon=True).start()

    def carry(self, near, far):
        with near, far:
            while True:
                for one in select.select([near, far], [], [])[0]:
                    try:
                        data = one.recv(65536)
                        self.bytes += data
                        (far if one is near else near).sendall(data)
                    except OSError:
                        return
                    if not data:
                        return

    def close(self):
        for listener in self.listeners:
            listener.close()

    def knows(self):
        words = (SECRET_KEY, SECRET_VALUE, "REPLICATE", "kevy-replica")
        return [word for word in words if word.encode() in self.bytes]


# ---- options


def options(args, pki, scratch, count):
    ca = ["--tls-ca-cert-file", pki["ca.crt"]]
    cert, key = ["--tls-cert-file", pki["one.crt"]], ["--tls-key-file", pki["one.key"]]
    no = ["--tls-cert-file", pki["none"]]
    for what, more, why in [
        ("a certificate", [*key, *ca], "No tls-cert-file configured!"),
        ("a key", [*cert, *ca], "No tls-key-file configured!"),
        ("an authority", [*cert, *key], "tls-ca-cert-file must be specified when tls-replication is enabled!"),
        ("an authority, for clients", [*cert, *key, "--tls-auth-clients", "no"], "tls-ca-cert-file must be"),
        ("a file", [*no, *key, *ca], "Failed to load certificate: " + pki["none"]),
        ("its own key", [*cert, "--tls-key-file", pki["two.key"], *ca], "one.crt with "),
    ]:
        argv = [args.node, "--port", str(free_base()), "--threads", "1", "--tls-replication", "yes", *more]
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        told = [line for line in ended.stderr.splitlines() if "TLS: " in line]
        is_told = ended.returncode != 0 and len(told) == 1 and why in told[0]
        count.check("no start without %s" % what, is_told, ended.stderr)
    argv = [args.node, "--tls-replication", "maybe"]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    count.check("the option is yes or no", ended.returncode != 0 and "tls-replication" in ended.stderr, ended.stderr)


# ---- replicas


def follows(replica, primary):
    fields = replication(replica)
    return fields["role"] == "slave" and fields["master_link_status"] == "up"


def recorded(args, pki, scratch, count):
    """What somebody on the way can read."""
    for how, words in (("plain", lambda _: []), ("tls", pki.words)):
        primary = node_server(scratch, args.node, threads=2, args=words("one"), name="recorded-" + how)
        with primary.conn() as c:
            c.ask("SET", SECRET_KEY, SECRET_VALUE)
        recorder = Recorder(primary, 2)
        follow = ["--replicaof", "127.0.0.1:%d" % (recorder.base + 10000)]
        replica = node_server(scratch, args.node, args=[*words("two"), *follow], name="reader-" + how)
        wait_until("the replica has the data", 15, lambda: in_step(replica, SECRET_KEY, SECRET_VALUE.encode()))
        with primary.conn() as c:
            c.ask("SET", "later", SECRET_VALUE)
        wait_until("and what comes next", 15, lambda: in_step(replica, "later", SECRET_VALUE.encode()))
        known = recorder.knows()
        if how == "plain":
            count.check("without TLS the proxy reads everything", len(known) == 4, str(known))
        else:
            count.check("in TLS it reads nothing", known == [] and len(recorder.bytes) > 2000, str(known))
        replica.stop()
        recorder.close()
        primary.stop()


def pairs(args, pki, scratch, count):
    primary = node_server(scratch, args.node, threads=2, args=pki.words("one"), name="primary")
    follow = ["--replicaof", "127.0.0.1:%d" % primary.port]
    big = os.urandom(3 << 20)
    with primary.conn() as c:
        c.ask("SET", "a", "1")
        c.ask("SET", "big", big)
        c.many([["SET", "k:%d" % n, "x" * 100] for n in range(20_000)])
        shown = c.ask("CONFIG", "GET", "tls-replication")
        count.check("CONFIG GET has it", shown == [b"tls-replication", b"yes"], str(shown))
        count.check("CONFIG SET refuses it", c.call("CONFIG", "SET", "tls-replication", "no").is_error)
    replica = node_server(scratch, args.node, args=[*pki.words("two"), *follow], name="replica")
    wait_until("the replica has the data", 20, lambda: in_step(replica, "a", b"1") and follows(replica, primary))
    digests = lambda: [server.conn().ask("REPL.DIGEST")[:2] for server in (primary, replica)]
    with replica.conn() as c:
        count.check("a first sync in TLS", (c.ask("DBSIZE"), c.ask("GET", "big")) == (20_002, big))
    with primary.conn() as c:
        c.many([["APPEND", "k:%d" % (n % 1000), "y" * 50] for n in range(20_000)])
        c.ask("SET", "big", big[::-1])
        count.check("WAIT hears of it", c.ask("WAIT", 1, 10_000) == 1)
    wait_until("both hold the same", 15, lambda: (d := digests())[0] == d[1])
    count.ok("and what comes behind it")
    fields = replication(primary)
    is_calm = (fields["node_tls"], fields["node_tls_refused_links"], fields["node_tls_failed_links"]) == ("1", "0", "0")
    count.check("nothing has failed", is_calm, str(fields))

    replica.stop()
    with primary.conn() as c:
        c.ask("SET", "a", "2")
    replica.start()
    wait_until("the replica is back", 15, lambda: in_step(replica, "a", b"2"))
    wait_until("it goes on where it was", 15, lambda: primary.log_text().count("goes on at") == 2)
    count.check("with nothing sent again", primary.log_text().count("gets a snapshot") == 2, primary.log_tail())
    strangers(args, pki, scratch, count, primary, replica)
    raw_links(pki, count, primary)
    kevys(count, scratch, primary, replica)
    renewed(args, pki, scratch, count, primary, replica)
    replica.stop()
    primary.stop()


def strangers(args, pki, scratch, count, primary, replica):
    follow = ["--replicaof", "127.0.0.1:%d" % primary.port]
    for name, more, there, here in [
        ("plain", (), NO_TLS, PLAIN),
        ("foreign", pki.words("foreign", "other-ca"), NOT_OURS, NOT_THEIRS),
        # It would accept the primary.
        ("half", pki.words("foreign", "both"), NOT_THEIRS, NOT_OURS),
        ("server", pki.words("only-server"), NOT_THEIRS, NOT_OURS),
    ]:
        before = int(replication(primary)["node_tls_refused_links"])
        stranger = node_server(scratch, args.node, args=[*follow, *more], name=name)
        wait_until("%s is told why" % name, 15, lambda: there in trouble_of(stranger))
        count.check("%s: its log says why" % name, there in stranger.log_text(), stranger.log_tail())
        wait_until("it is counted", 15, lambda: int(replication(primary)["node_tls_refused_links"]) >= before + 3)
        # Who came as a client of the client port has its line there, of whom is only said what came.
        fields = replication(primary)
        count.check("%s: INFO says why" % name, here in fields["node_tls_last_failure"], str(fields))
        count.check("%s: the primary's log says why" % name, here in primary.log_text(), primary.log_tail())
        count.check("%s: it is no replica" % name, fields["connected_slaves"] == "1", str(fields))
        with stranger.conn() as c:
            count.check("%s: it has no data" % name, c.ask("DBSIZE") == 0)
        lines = primary.log_text().count("is refused: " + here)
        count.check("%s: it is logged once" % name, lines == 1 or name == "server", primary.log_tail())
        stranger.stop()

    plain = node_server(scratch, args.node, name="no-tls")
    with plain.conn() as c, replica.conn() as r:
        c.ask("SET", "b", "2")
        r.ask("REPLICAOF", "127.0.0.1", plain.port + 10000)
        wait_until("the replica says why", 15, lambda: PLAIN in trouble_of(replica))
        wait_until("so does the primary without TLS", 15, lambda: NO_TLS in plain.log_text())
        count.check("in TLS no primary without is followed", r.ask("EXISTS", "b") == 0)
        r.ask("REPLICAOF", "127.0.0.1", primary.port)
    plain.stop()
    with primary.conn() as c:
        c.ask("SET", "a", "3")
    wait_until("the replica is back", 15, lambda: in_step(replica, "a", b"3"))
    count.ok("it goes back to the one with TLS, at run time")


def raw_links(pki, count, primary):
    """What strangers may try at a replication port."""
    base = primary.port + 10000
    request = encode(["REPLICATE", "FROM", "0", "0", "ID", "kevy-replica-1#0"])
    with Raw(base) as raw:
        raw.say(request)
        answer = raw.rest()
        count.check("plain words are answered with an alert", answer[:1] == b"\x15" and len(answer) == 7, repr(answer))

    def shake(name, version=None):
        """The answer to a request; nothing if there is none."""
        context = pki.context(version, name)
        context.check_hostname = False
        try:
            with socket.create_connection(("127.0.0.1", base), timeout=10) as plain, context.wrap_socket(plain) as sock:
                sock.sendall(request)
                return sock.recv(100)
        except OSError:
            return b""

    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        count.check("with a certificate there is an answer", shake("three", version).startswith(b"+ACK "), str(version))
    count.check("without one there is none", shake(None) == b"")
    count.check("with a foreign one there is none", shake("stranger") == b"")
    count.check("with one for servers there is none", shake("only-server") == b"")
    silent = [Raw(base) for _ in range(70)]
    began = time.monotonic()
    try:
        # The oldest makes room for others.
        count.check("who is silent leaves for others", silent[0].rest() == b"")
        count.check("who is silent is closed", silent[-1].rest() == b"")
    finally:
        for raw in silent:
            raw.sock.close()
    count.check("and not before its time", time.monotonic() - began > 3)
    with socket.create_connection(("127.0.0.1", primary.port), timeout=10) as sock:
        sock.sendall(b"PING\r\n")
        count.check("clients of the plain port stay plain", sock.recv(100) == b"+PONG\r\n")
    count.check("who is late is told of", "has not shaken hands in TLS in time" in primary.log_text())


def kevys(count, scratch, primary, replica):
    """A kevy is neither fed nor followed."""
    binary = kevy_binary(KEVY)
    if not binary:
        return count.skip("kevys", "kevy %s is not there: run tests/peers.sh" % KEVY)
    port, folder = free_base(), scratch.sub("kevy")
    text = '[server]\nport = %d\nthreads = 2\ndata_dir = "%s"\n[replication]\nrole = "%s"\n%s'
    config = os.path.join(folder, "kevy.toml")

    def begin(role, more=""):
        with open(config, "w", encoding="utf-8") as f:
            f.write(text % (port, folder, role, more))
        return Server("kevy-" + role, [binary, "--config", config], port, folder, {"KEVY_IO_URING": "0"}).start()

    before = int(replication(primary)["node_tls_refused_links"])
    kevy = begin("replica", 'upstream = "127.0.0.1:%d"\n' % (primary.port + 10000))
    wait_until("it is refused", 15, lambda: int(replication(primary)["node_tls_refused_links"]) >= before + 4)
    fields = replication(primary)
    count.check("a kevy is refused with its reason", PLAIN in fields["node_tls_last_failure"], str(fields))
    with kevy.conn() as c:
        count.check("and gets nothing", c.ask("DBSIZE") == 0)
    kevy.stop()
    kevy = begin("primary")
    with kevy.conn() as c, replica.conn() as r:
        c.ask("SET", "of-kevy", "1")
        r.ask("REPLICAOF", "127.0.0.1", port + 10000)
        wait_until("it is not followed", 15, lambda: "TLS" in trouble_of(replica))
        count.check("a kevy is not followed", r.ask("EXISTS", "of-kevy") == 0)
        r.ask("REPLICAOF", "127.0.0.1", primary.port)
    kevy.stop()
    wait_until("the replica is back", 15, lambda: follows(replica, primary))


def renewed(args, pki, scratch, count, primary, replica):
    """Other files at run time: links that are there stay, the next ones are made with them."""
    with primary.conn() as c:
        answer = c.call("CONFIG", "SET", "tls-cert-file", pki["none"])
        count.check("files that do not fit change nothing", answer.is_error, str(answer))
        c.ask("CONFIG", "SET", "tls-cert-file", pki["foreign.crt"], "tls-key-file", pki["foreign.key"],
              "tls-ca-cert-file", pki["both.crt"])
        c.ask("SET", "a", "4")
    wait_until("the old link goes on", 15, lambda: in_step(replica, "a", b"4"))
    follow = ["--replicaof", "127.0.0.1:%d" % primary.port]
    other = node_server(scratch, args.node, args=[*pki.words("foreign", "other-ca"), *follow], name="renewed")
    wait_until("a new one is made with the new files", 15, lambda: in_step(other, "a", b"4"))
    count.ok("new files are for new links")
    replica.stop()
    replica.start()
    wait_until("the old files do for no new link", 15, lambda: NOT_OURS in trouble_of(replica))
    with replica.conn() as c:
        c.ask("CONFIG", "SET", "tls-ca-cert-file", pki["both.crt"])
    with primary.conn() as c:
        c.ask("SET", "a", "5")
    wait_until("with the new authority it is back", 15, lambda: in_step(replica, "a", b"5"))
    count.ok("and who dials uses its new files, too")
    other.stop()


def both(args, pki, scratch, count):
    """The key of the nodes is proven within TLS, and clients' TLS is another thing."""
    key = ["--node-key-file", key_file(scratch, "key", "a secret of all nodes")]
    tls_port = free_base()
    more = [*key, "--tls-port", tls_port, "--tls-auth-clients", "no", "--requirepass", "pass"]
    login = ["--masterauth", "pass"]
    primary = node_server(scratch, args.node, args=[*pki.words("one"), *more], name="both", start=False)
    start_locked(primary)
    for name, port in (("client", primary.port), ("tls", tls_port), ("base", primary.port + 10000)):
        follow = ["--replicaof", "127.0.0.1:%d" % port, *login, *key]
        replica = node_server(scratch, args.node, args=[*pki.words("two"), *follow], name="both-" + name)
        wait_until("it follows", 15, lambda: follows(replica, primary))
        count.ok("with a key, a password and TLS, by the %s port" % name)
        replica.stop()
    follow = ["--replicaof", "127.0.0.1:%d" % primary.port, *login]
    replica = node_server(scratch, args.node, args=[*pki.words("two"), *follow], name="no-key")
    wait_until("TLS alone does not do", 15, lambda: "wants a node key" in trouble_of(replica))
    count.ok("a certificate does not replace the key")
    replica.stop()
    primary.stop()


def start_locked(server):
    with open(os.path.join(server.dir, server.name + ".log"), "ab") as log:
        server.log_path = log.name
        server.proc = subprocess.Popen(server.argv, cwd=server.dir, stdout=log, stderr=log)
    Server.running.append(server)
    wait_until("it answers", 15, lambda: Raw(server.port).sock.close() is None)


def upstream(args, pki, scratch, count):
    """A Redis is followed at its TLS port."""
    port = free_base(2)
    folder = scratch.sub("redis")
    argv = ["redis-server", "--port", port, "--tls-port", port + 1, "--bind", "127.0.0.1", "--save", "", *pki.files("one")]
    redis = Server("redis", [str(word) for word in argv], port, folder).start()
    with redis.conn() as c:
        c.ask("SET", "a", "1")
    follow = ["--replicaof", "127.0.0.1:%d" % (port + 1)]
    replica = node_server(scratch, args.node, args=[*pki.words("two"), *follow], name="of-redis")
    wait_until("the replica has the data", 15, lambda: in_step(replica, "a", b"1"))
    with redis.conn() as c:
        c.ask("SET", "a", "2")
    wait_until("and what comes next", 15, lambda: in_step(replica, "a", b"2"))
    count.ok("a Redis is followed in TLS")
    with replica.conn() as c:
        c.ask("REPLICAOF", "127.0.0.1", port)
    whys = ("it has not shaken hands in TLS in time", CLOSED, PLAIN)
    wait_until("its plain port is not followed", 20, lambda: any(why in trouble_of(replica) for why in whys))
    count.ok("its plain port is not followed, and it is said why")
    replica.stop()
    redis.stop()


# ---- members


class TlsFleet(Fleet):
    def __init__(self, args, scratch, pki):
        self.pki = pki
        super().__init__(args, scratch)

    def member(self, name, key, folder=None, is_kept=True):
        files = {"a": "one", "b": "two", "c": "three"}[name]
        self.more = self.pki.words(files) if key else ()
        return super().member(name, None, folder, is_kept)


def members(args, pki, scratch, count):
    with running(TlsFleet(args, scratch, pki)) as fleet:
        elected(args, scratch, count, fleet)


def elected(args, scratch, count, fleet):
    primary, epoch = fleet.wait("three members with certificates elect")
    count.ok("three members with certificates elect a primary")
    count.check("and it is followed", fleet.write(primary, "k", "1") >= 1)
    count.check("nobody is in trouble", all(fleet.trouble(primary, of) == "" for of in "abc"))
    # What strangers say at the ports of elections.
    offer = encode(["OFFER", "900", "b", "99999999"]) + encode(["HB", "902", "b", "primary", "99999999"])
    for name in fleet.members:
        with Raw(fleet.ports[name] + 200) as raw:
            raw.say(offer)
            answer = raw.rest()
            count.check("an offer without TLS is no offer", answer[:1] == b"\x15", repr(answer))
    count.check("nothing came of it", fleet.wait("all as before") == (primary, epoch), str(fleet.views()))

    out = next(name for name in "abc" if name != primary)
    right = fleet.members.pop(out)
    right.stop()
    stranger = fleet.member(out, None, folder="stranger", is_kept=False).start()
    wait_until("ELECT STATUS says why", 15, lambda: PLAIN in fleet.trouble(primary, out))
    wait_until("so does the other one's", 15, lambda: NO_TLS in stranger.log_text())
    told = replication(stranger)
    count.check("who has no TLS follows nobody", told["elect_primary"] == "", str(told))
    count.check("and changes nothing", fleet.wait("as before") == (primary, epoch))
    stranger.stop()
    fleet.members[out] = right.start(limit=90)
    count.check("the right one is let in again", fleet.wait("three again") == (primary, epoch), str(fleet.views()))
    led_by_all(args, count, fleet, primary, epoch)


def failover(args, pki, scratch, count):
    """A planned failover of two nodes without elections: the primary dials the replica's client port."""
    primary = node_server(scratch, args.node, args=pki.words("one"), name="old")
    follow = ["--replicaof", "127.0.0.1:%d" % primary.port]
    replica = node_server(scratch, args.node, args=[*pki.words("two"), *follow], name="new")
    wait_until("it follows", 15, lambda: replication(primary)["connected_slaves"] == "1" and follows(replica, primary))
    with primary.conn() as c:
        c.ask("SET", "a", "1")
        c.ask("FAILOVER", "TO", "127.0.0.1", replica.port)
    wait_until("they change places", 30, lambda: replication(replica)["role"] == "master" and follows(primary, replica))
    with replica.conn() as c:
        c.ask("SET", "a", "2")
    wait_until("the old one follows", 15, lambda: in_step(primary, "a", b"2"))
    count.ok("a planned failover of two nodes in TLS")
    replica.stop()
    primary.stop()


def ranges(args, pki, scratch, count):
    """Nodes of different ranges ask each other at their client ports."""
    ports = {"x1": free_base(), "x2": free_base()}
    path = os.path.join(scratch.sub("ranges"), "map.toml")
    with open(path, "w", encoding="ascii") as f:
        for slots, (name, port) in zip(("0-8191", "8192-16383"), ports.items()):
            f.write('[[range]]\nslots = "%s"\nmembers = ["%s@127.0.0.1:%d"]\n' % (slots, name, port))

    def node(name, more):
        words = ["--node-id", name, "--cluster-map", path, *more]
        return node_server(scratch, args.node, ports[name], args=words, name=name)

    one, two = node("x1", pki.words("one")), node("x2", pki.words("two"))

    def is_ok():
        with one.conn() as c:
            return b"cluster_state:ok\r\n" in c.ask("CLUSTER", "INFO")

    def seen():
        with one.conn() as c:
            return [line.split()[2] for line in c.ask("CLUSTER", "NODES").decode().splitlines()]

    wait_until("each sees the other", 20, lambda: is_ok() and seen() == ["myself,master", "master"])
    two.stop()
    wait_until("a node that is gone fails", 20, lambda: seen() == ["myself,master", "master,fail"])
    two = node("x2", pki.words("foreign", "other-ca"))
    wait_until("one with another certificate is none", 20, lambda: NOT_OURS in one.log_text())
    count.check("and stays away", seen() == ["myself,master", "master,fail"], str(seen()))
    two.stop()
    two = node("x2", pki.words("two"))
    wait_until("the right one is back", 20, lambda: seen() == ["myself,master", "master"])
    count.ok("nodes of several ranges ask each other in TLS")
    one.stop()
    two.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node", required=True)
    parser.add_argument("--only", help="one part by its name")
    args = parser.parse_args()
    args.node = os.path.abspath(args.node)
    count = Count()
    with Scratch() as scratch:
        pki = Nodes(scratch.sub("pki"))
        for part in (options, recorded, pairs, both, upstream, failover, ranges, members):
            if args.only not in (None, part.__name__):
                continue
            try:
                part(args, pki, scratch, count)
            except FAULTS as e:
                count.fail(part.__name__, "%s: %s" % (type(e).__name__, e))
                if part is not members:
                    tell_logs()
    count.close()


if __name__ == "__main__":
    main()
