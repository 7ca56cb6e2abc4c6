#!/usr/bin/env python3
"""One kevy.toml starts a real kevy of each generation and then the node, which are asked what they make of it.

configure.py --node BINARY [--only VERSION]

The node takes over the data of the kevy on the way: it refuses the directory of the kevy, the data are imported, and
the same file starts the node on what came of them.
"""

import argparse
import os
import socket
import subprocess

from wire import Conn, Count, Scratch, Server, free_base, kevy_binary, wait_until

VERSIONS = ["1.19.0", "2.0.20", "3.17.3", "5.4.0", "7.0.0"]
KEVY_ENV = {"KEVY_IO_URING": "0"}

# Section, key, value, the generation that has it first, and whether the node goes without it and says so.
KEYS = [
    ("server", "bind", '"127.0.0.1"', 1, False),
    ("server", "port", "{port}", 1, False),
    ("server", "threads", "2", 1, False),
    ("server", "data_dir", '"{data}"', 1, False),
    ("server", "accept_shards", "1", 2, True),
    ("server", "max_clients", "500", 2, False),
    ("server", "packed_rows", "true", 5, True),
    ("persistence", "aof", "true", 1, False),
    ("persistence", "appendfsync", '"always"', 1, False),
    ("persistence", "auto_aof_rewrite_percentage", "150", 1, True),
    ("persistence", "auto_aof_rewrite_min_size", '"32mb"', 1, True),
    ("persistence", "auto_aof_rewrite_bytes", '"1gb"', 5, True),
    ("persistence", "auto_aof_rewrite_interval_secs", "3600", 5, True),
    ("persistence", "replay_resync", "true", 5, True),
    ("memory", "maxmemory", '"256mb"', 1, False),
    ("memory", "maxmemory_policy", '"allkeys-lru"', 1, False),
    ("expiry", "hz", "20", 1, True),
    ("expiry", "sample", "30", 1, True),
    ("log", "level", '"warn"', 1, True),
    ("log", "output", '"stdout"', 1, True),
    ("notification", "notify_keyspace_events", '"KEg$"', 1, False),
    ("advanced", "spin_limit", "128", 1, True),
    ("advanced", "park_timeout_ms", "40", 1, True),
    ("advanced", "tick_check_every", "128", 1, True),
    ("advanced", "ring_capacity", "2048", 1, True),
    ("advanced", "recv_buffers", "512", 7, True),
    ("slowlog", "slower_than_micros", "5000", 1, False),
    ("slowlog", "max_len", "64", 1, False),
    ("replication", "role", '"primary"', 1, False),
    ("replication", "listen_port_base", "{replication}", 1, False),
    ("replication", "replication_buffer_size", '"32mb"', 1, False),
    ("replication", "reconnect_window_ms", "30000", 1, False),
    ("replication", "min_replicas_max_lag_ms", "5000", 3, False),
    ("replication", "replica_max_staleness_ms", "60000", 3, False),
    ("replication", "replica_read_only", "true", 3, False),
    ("cluster", "enabled", "false", 1, False),
    ("cluster", "port_base", "{cluster}", 1, False),
    ("cluster", "elect_port_base", "{elect}", 1, False),
    ("cluster", "scopes", '"f:=b|c"', 2, True),
    ("cluster", "announce_ip", '"127.0.0.1"', 7, False),
    ("lua", "time_limit_ms", "3000", 2, False),
    ("lua", "allow_dialects", '"5.1,5.4"', 2, True),
    ("metrics", "listen_port", "{metrics}", 2, False),
    ("audit", "log_path", '"{audit}"', 2, True),
    ("feed", "enabled", "true", 3, True),
    ("feed", "feed_buffer_size", '"8mb"', 3, True),
]

# What both answer, word for word.
SAME = "port bind io-threads dir appendonly save appendfsync maxmemory maxmemory-policy cluster-enabled".split()
# What only the node shows, of the file.
OURS = {
    "slowlog-log-slower-than": "5000",
    "slowlog-max-len": "64",
    "repl-backlog-size": str(32 << 20),
    "repl-backlog-ttl": "30",
    "busy-reply-threshold": "3000",
    "maxclients": "500",
    "min-replicas-max-lag": "5",
    "replica-max-staleness-ms": "60000",
}
OURS_SINCE = {
    "busy-reply-threshold": 2,
    "maxclients": 2,
    "min-replicas-max-lag": 3,
    "replica-max-staleness-ms": 3,
}
# What is wrong with a file: both refuse it.
WRONG = {
    "an unknown key": "[server]\nthread = 2\n",
    "an unknown section": "[sever]\nthreads = 2\n",
    "a key without a section": "port = 7000\n",
    "a port that is a text": '[server]\nport = "7000"\n',
    "a port that is none": "[server]\nport = 70000\n",
    "a name to listen on": '[server]\nbind = "localhost"\n',
    "a policy that is none": '[memory]\nmaxmemory_policy = "lru"\n',
    "a size without a unit that is one": '[memory]\nmaxmemory = "2 gib"\n',
    "a line without a value": "[server]\nport =\n",
    "a header that does not end": "[server\nport = 7000\n",
}


def generation(version):
    return int(version.split(".")[0])


def compose(version, places, changes=None):
    """A kevy.toml with all that a generation has."""
    text, last = "# a comment, which stays\n", None
    for section, key, value, since, _ in KEYS:
        if since > generation(version):
            continue
        if section != last:
            text += "\n[%s]\n" % section
            last = section
        value = (changes or {}).get((section, key), value)
        text += "%s = %s\n" % (key, value.format(**places))
    return text


def parameters(addr):
    with Conn(addr) as c:
        flat = c.ask("CONFIG", "GET", "*")
    texts = [t.decode() if isinstance(t, bytes) else t for t in flat]
    return dict(zip(texts[::2], texts[1::2]))


def is_open(port):
    with socket.socket() as s:
        s.settimeout(2)
        return s.connect_ex(("127.0.0.1", port)) == 0


def run(argv, **kw):
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False, **kw
    )


def started(name, argv, port, folder, env=None):
    return Server(name, argv, port, folder, env).start()


class Case:
    def __init__(self, count, scratch, node, version):
        self.count, self.node, self.version = count, os.path.abspath(node), version
        self.kevy = kevy_binary(version)
        self.folder = scratch.sub("kevy-" + version)
        self.port = free_base(4)
        self.data = os.path.join(self.folder, "data")
        os.makedirs(self.data)
        self.places = {
            "port": self.port,
            "data": self.data,
            "replication": self.port + 10004,
            "cluster": self.port + 1,
            "elect": self.port + 200,
            "metrics": free_base(),
            "audit": os.path.join(self.folder, "audit.log"),
        }
        self.file = os.path.join(self.folder, "kevy.toml")

    def check(self, name, good, why=""):
        self.count.check("%s: %s" % (self.version, name), good, why)

    def write(self, text):
        with open(self.file, "w", encoding="utf-8") as f:
            f.write(text)

    def go(self):
        self.write(compose(self.version, self.places))
        theirs = self.ask_kevy()
        self.take_over()
        self.ask_node(theirs)
        self.layers()
        self.cluster()
        self.member()
        self.mistakes()

    def ask_kevy(self):
        kevy = started("kevy", [self.kevy, "--config", self.file], self.port, self.folder, KEVY_ENV)
        got = parameters(kevy.addr)
        with kevy.conn() as c:
            for i in range(200):
                c.call("SET", "key:%d" % i, "value:%d" % i)
        for i in range(2):
            self.check("kevy listens for replicas, %d" % i, is_open(self.places["replication"] + i))
        kevy.stop()
        return got

    def take_over(self):
        refused = run([self.node, "--config", self.file], cwd=self.folder)
        self.check(
            "the data of the kevy are not passed over",
            refused.returncode == 1 and "holds data of a kevy" in refused.stderr,
            refused.stderr,
        )
        other = self.data + ".new"
        took = run([self.node, "import", "--kevy", self.data, "--dir", other, "--shards", "2"])
        self.check("its data are imported", took.returncode == 0, took.stderr)
        os.rename(self.data, self.data + ".kevy")
        os.rename(other, self.data)

    def ask_node(self, theirs):
        checked = run([self.node, "config", "check", self.file])
        self.check("the file is good", checked.returncode == 0 and "good" in checked.stdout, checked.stderr)
        node = started("node", [self.node, "--config", self.file], self.port, self.folder)
        wait_until("it is loaded", 10, lambda: not node.conn().call("DBSIZE").is_error)
        ours = parameters(node.addr)
        for name in SAME:
            self.check(
                "CONFIG GET %s" % name,
                name in theirs and theirs[name] == ours.get(name),
                "%r of kevy, %r of the node" % (theirs.get(name), ours.get(name)),
            )
        for name, want in OURS.items():
            if OURS_SINCE.get(name, 1) <= generation(self.version):
                self.check("CONFIG GET %s of the node" % name, ours.get(name) == want, repr(ours.get(name)))
        events = ours.get("notify-keyspace-events", "")
        self.check("the events are those of the file", set(events) == set("KEg$"), events)
        if "notify-keyspace-events" in theirs:
            self.check("and those of kevy", set(events) == set(theirs["notify-keyspace-events"]))
        for i in range(2):
            self.check("the node listens for replicas, %d" % i, is_open(self.places["replication"] + i))
        has_metrics = generation(self.version) >= 2
        self.check("the port of metrics", is_open(self.places["metrics"]) == has_metrics)
        with node.conn() as c:
            good = all(c.ask("GET", "key:%d" % i) == b"value:%d" % i for i in range(200))
        self.check("what was written to the kevy is there", good)
        log = node.log_text()
        for section, key, _, since, is_left_out in KEYS:
            if since <= generation(self.version):
                told = log.count("[%s] %s at line" % (section, key))
                self.check(
                    "[%s] %s %s" % (section, key, "is told of once" if is_left_out else "is taken"),
                    told == int(is_left_out),
                    "%d times" % told,
                )
        with node.conn() as c:
            c.call("CONFIG", "SET", "maxmemory", "300mb")
            done = c.call("CONFIG", "REWRITE")
        with open(self.file, encoding="utf-8") as f:
            text = f.read()
        want = compose(self.version, self.places, {("memory", "maxmemory"): str(300 << 20)})
        self.check("CONFIG REWRITE changes one line", not done.is_error and text == want, text)
        node.stop()
        self.kevy_reads_it(str(300 << 20))

    def kevy_reads_it(self, maxmemory):
        os.rename(self.data, self.data + ".node")
        os.rename(self.data + ".kevy", self.data)
        kevy = started("kevy", [self.kevy, "--config", self.file], self.port, self.folder, KEVY_ENV)
        got = parameters(kevy.addr).get("maxmemory")
        self.check("a kevy reads what the node wrote", got == maxmemory, repr(got))
        kevy.stop()

    def layers(self):
        """The file is found by itself, a variable goes before it, and an option before that."""
        folder = os.path.join(self.folder, "layers")
        os.makedirs(folder)
        p, q = free_base(2), free_base(2)
        with open(os.path.join(folder, "kevy.toml"), "w", encoding="utf-8") as f:
            f.write('[server]\nport = %d\nthreads = 1\ndata_dir = "%s"\n[persistence]\naof = false\n' % (p, folder))
        cases = [
            ("the file in the working directory", p, [], {}),
            ("KEVY_PORT", q, [], {"KEVY_PORT": str(q)}),
            ("--port", p, ["--port", str(p)], {"KEVY_PORT": str(q)}),
            ("KEVY_DIR's file", p, [], {"KEVY_DIR": folder}),
        ]
        for name, port, args, env in cases:
            for who, binary in (("kevy", self.kevy), ("node", self.node)):
                where = self.folder if env.get("KEVY_DIR") else folder
                server = Server("layers-" + who, [binary] + args, port, where, dict(KEVY_ENV, **env))
                server.start(limit=10)
                got = parameters(server.addr)
                good = got["port"] == str(port) and got["io-threads"] == "1" and got["appendonly"] == "no"
                self.check("%s counts for the %s" % (name, who), good, str(got))
                self.check(
                    "no port for replicas of a standalone %s" % who, not is_open(port + 10000), str(port)
                )
                server.stop()

    def cluster(self):
        folder = os.path.join(self.folder, "cluster")
        os.makedirs(folder)
        seen = {}
        for who, binary in (("kevy", self.kevy), ("node", self.node)):
            own = os.path.join(folder, who)
            os.makedirs(own)
            changes = {("cluster", "enabled"): "true", ("replication", "role"): '"standalone"'}
            path = os.path.join(folder, "kevy.toml")
            with open(path, "w", encoding="utf-8") as f:
                f.write(compose(self.version, dict(self.places, data=own), changes))
            server = started("cluster-" + who, [binary, "--config", path], self.port, own, KEVY_ENV)
            with server.conn() as c:
                slots = c.ask("CLUSTER", "SLOTS")
                seen[who] = sorted((s[0], s[1], s[2][0], s[2][1]) for s in slots)
            server.stop()
        self.check("the slots are at the same ports", seen["kevy"] == seen["node"], str(seen))

    def member(self):
        """A member of elections, with the list in every form that the generation has."""
        folder = os.path.join(self.folder, "member")
        p = self.port
        # Who is named by the port for elections alone has that of replicas 10000 above it.
        lists, replication = ['"a@127.0.0.1:{0}, b@127.0.0.1:{1},"'], p + 10200
        if generation(self.version) >= 3:
            replication = p + 10000
            lists = ['"a@127.0.0.1:{0}:{2},b@127.0.0.1:{1}:{3}"']
        if generation(self.version) >= 5:
            lists.append('["a@127.0.0.1:{0}:{2}", "b@127.0.0.1:{1}:{3}"]')
        for number, peers in enumerate(lists):
            for who, binary in (("kevy", self.kevy), ("node", self.node)):
                own = os.path.join(folder, "%s-%d" % (who, number))
                os.makedirs(own)
                path = os.path.join(own, "member.toml")
                places = dict(self.places, data=own, replication=replication)
                text = compose(self.version, places).split("[cluster]")[0]
                peers = peers.format(p + 200, p + 201, p, p + 1)
                text += '[cluster]\nnode_id = "a"\nelect_port_base = %d\npeers = %s\n' % (p + 200, peers)
                with open(path, "w", encoding="utf-8") as f:
                    f.write(text)
                server = started("member-" + who, [binary, "--config", path], p, own, KEVY_ENV)
                self.check("a %s takes part in elections, %d" % (who, number), is_open(p + 200))
                server.stop()

    def mistakes(self):
        path = os.path.join(self.folder, "wrong.toml")
        for name, text in WRONG.items():
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            for who, binary in (("kevy", self.kevy), ("node", self.node)):
                got = run([binary, "--config", path], cwd=self.folder, env=dict(os.environ, **KEVY_ENV))
                good = got.returncode != 0 and "line" in got.stderr
                self.check("%s is refused by the %s" % (name, who), good, got.stderr)


def supervised(count, scratch, node):
    """The file is read at a start and at an upgrade, and one that went wrong meanwhile costs nothing."""
    node = os.path.abspath(node)
    folder, port = scratch.sub("supervised"), free_base(2)
    path, control = os.path.join(folder, "kevy.toml"), os.path.join(folder, "control")
    local = os.path.join(folder, "local.sock")

    def write(rest):
        with open(path, "w", encoding="utf-8") as f:
            f.write('[server]\nport = %d\nthreads = 1\ndata_dir = "data"\nunixsocket = "%s"\n%s' % (port, local, rest))

    write('[memory]\nmaxmemory = "64mb"\n')
    keeper = started("keeper", [node, "supervise", "--config", path, "--control", control], port, folder)
    with keeper.conn() as c:
        count.check("a supervised node has the file", parameters(keeper.addr)["maxmemory"] == str(64 << 20))
        c.call("SET", "a", "1")
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(5)
        s.connect(local)
        s.sendall(b"PING\r\n")
        count.check("the supervisor holds its Unix socket", s.recv(100) == b"+PONG\r\n")

    def upgrade():
        got = run([node, "upgrade", "--control", control, "--binary", node])
        # The supervisor looks now and then whether the node serves.
        return upgrade() if "does not serve yet" in got.stderr else got

    write("[memory]\nmaxmemroy = 1\n")
    got = upgrade()
    count.check("a file that went wrong stops the upgrade", got.returncode != 0, got.stdout + got.stderr)
    log = keeper.log_text()
    count.check("and the reason is in the log", "did you mean 'maxmemory'?" in log, log + got.stdout + got.stderr)
    with keeper.conn() as c:
        count.check("the old node goes on", c.ask("GET", "a") == b"1" and c.ask("SET", "b", "2") == b"OK")
    count.check("as it was", parameters(keeper.addr)["maxmemory"] == str(64 << 20))
    write('[memory]\nmaxmemory = "128mb"\n')
    got = upgrade()
    count.check("a file that is good does not", got.returncode == 0, got.stdout + got.stderr)
    count.check("and counts from then on", parameters(keeper.addr)["maxmemory"] == str(128 << 20))
    with keeper.conn() as c:
        count.check("nothing was lost", (c.ask("GET", "a"), c.ask("GET", "b")) == (b"1", b"2"))
    keeper.stop()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--node", required=True)
    ap.add_argument("--only")
    opts = ap.parse_args()
    count = Count(quiet=True)
    with Scratch() as scratch:
        for version in VERSIONS:
            if opts.only in (None, version):
                if kevy_binary(version):
                    Case(count, scratch, opts.node, version).go()
                else:
                    count.skip("kevy " + version, "it is not there: tests/peers.sh")
        supervised(count, scratch, opts.node)
    count.close()


if __name__ == "__main__":
    main()
