#!/usr/bin/env python3
"""Nine nodes that share the slots: three ranges with three members each, and clients of two languages.

    fleet3x3.py --node BINARY [--rounds N] [--down-after MS]

First one node that has all slots alone answers beside a redis-server in cluster mode, and maps that cannot work are
refused. Then the nine: what each of them says of the others, and where it sends whom. redis-py's RedisCluster and
ioredis' Cluster write keys of all ranges; in a round the primary of each range is killed, all three at once, the
clients go on in every range, and the killed ones are started again. In the end every write that was answered is on its
primary and on both replicas (`--quorum-writes yes`), and all nodes have the same, true map. Run it with a Python that
has redis-py; without it, or without ioredis, that client is left out, which is said.
"""

import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import threading
import time

from wire import Closed, Count, Scratch, Server, free_base, peers_dir, wait_until

try:
    import redis
    from redis.backoff import ConstantBackoff
    from redis.retry import Retry
except ImportError:
    redis = None

count = Count()
RANGES = {"a": (0, 5460), "b": (5461, 10922), "c": (10923, 16383)}
# Writes that a client must have answered, in each range, before and after the primaries are killed.
ENOUGH = 30
PATIENCE_S = 60

# Both are asked, with every slot on one node.
BESIDE_REDIS = """
CLUSTER INFO
CLUSTER SLOTS
CLUSTER SHARDS
CLUSTER NODES
CLUSTER MYID
CLUSTER LINKS
CLUSTER KEYSLOT abc
CLUSTER KEYSLOT user:{42}:name
CLUSTER KEYSLOT
CLUSTER REPLICAS nosuch
CLUSTER SLAVES nosuch
CLUSTER REPLICAS @id
CLUSTER COUNT-FAILURE-REPORTS nosuch
CLUSTER COUNT-FAILURE-REPORTS @id
CLUSTER COUNTKEYSINSLOT 16384
CLUSTER COUNTKEYSINSLOT x
CLUSTER GETKEYSINSLOT 0 -1
CLUSTER GETKEYSINSLOT 7638 10
SET abc 1
CLUSTER COUNTKEYSINSLOT 7638
CLUSTER GETKEYSINSLOT 7638 10
MGET a b
MSET {x}a 1 {x}b 2
MGET {x}a {x}b
DEL a b
EVAL return(1) 2 a b
EVAL return(1) 1 {x}a
MULTI
SET a 1
SET b 1
EXEC
MULTI
MGET a b
EXEC
MULTI
SET {x}a 1
EXEC
WATCH a b
READONLY
READWRITE
ASKING
SELECT 1
SELECT 0
CLUSTER NOSUCH
SSUBSCRIBE
SPUBLISH a x
"""

IOREDIS = """
const Redis = require('ioredis');
const [nodes, prefix] = [JSON.parse(process.argv[1]), process.argv[2]];
const cluster = new Redis.Cluster(nodes, { clusterRetryStrategy: () => 50, retryDelayOnClusterDown: 50,
  retryDelayOnFailover: 50, redisOptions: { maxRetriesPerRequest: 1, connectTimeout: 1000 } });
let errors = 0, n = 0, ends = false;
cluster.on('error', () => {});
process.stdin.resume().on('end', () => { ends = true; });
async function write() {
  while (!ends) {
    const key = prefix + n++;
    try {
      if (await cluster.set(key, key) === 'OK') process.stdout.write(key + '\\n');
    } catch (error) { errors++; await new Promise((go) => setTimeout(go, 20)); }
  }
}
(async () => {
  await Promise.all([write(), write(), write()]);
  process.stdout.write('errors ' + errors + '\\n');
  cluster.disconnect();
})();
"""


def same(name, got, want):
    return count.check(name, got == want, "%r, expected %r" % (got, want))


def slot_of(key):
    crc = 0
    for byte in key.encode():
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc & 16383


def range_of(key):
    slot = slot_of(key)
    return next(name for name, (first, last) in RANGES.items() if first <= slot <= last)


def write_map(path, ranges):
    with open(path, "w", encoding="ascii") as f:
        for slots, members in ranges:
            f.write('[[range]]\nslots = "%s"\nmembers = %s\n' % (slots, json.dumps(members)))
    return path


# ---------------------------------------------------------------------------------------------
# One node


def plain_of(reply, conn):
    """A reply with names, ports and offsets of its server made equal."""
    text = repr(reply.plain())
    text = re.sub(r"'?[0-9a-f]{40}", "ID", text.replace("\\r\\n", "\\n"))
    text = re.sub(r"127\.0\.0\.1:\d+@\d+", "HOST", text).replace(str(conn.addr[1]), "PORT")
    text = re.sub(r"(replication-offset', )\d+", r"\1N", text)
    # The epoch of a Redis that was alone from the beginning, which has nobody to hear it from.
    return re.sub(r"(- 0 0) \d+", r"\1 EPOCH", text)


def lines_of(reply):
    """CLUSTER INFO without its epochs: a Redis that was alone from the beginning has none."""
    lines = dict(line.split(":") for line in reply.value.decode().split("\r\n") if line)
    return {name: value for name, value in lines.items() if "epoch" not in name}


def beside_redis(scratch, binary):
    path = os.path.join(scratch.sub("alone"), "map.toml")
    port = free_base()
    write_map(path, [("0-16383", ["one@127.0.0.1:%d" % port])])
    # Keys of a slot lie on two cores, and pipelines wait for loans.
    ours = start(scratch, binary, "one", port, path, ["--shards", "4"], threads=2)
    theirs = redis_cluster(scratch)
    ours.start()
    with ours.conn() as a, theirs.conn() as b:
        ids = [c.ask("CLUSTER", "MYID").decode() for c in (a, b)]
        for line in BESIDE_REDIS.strip().splitlines():
            got, want = (c.call(*line.replace("@id", i).split()) for c, i in zip((a, b), ids))
            if line == "CLUSTER INFO":
                same("%s as redis-server" % line, lines_of(got), lines_of(want))
                continue
            if line == "CLUSTER LINKS":
                # Nobody else is there.
                same(line, (got.value, want.value), ([], []))
                continue
            same("%s as redis-server" % line, plain_of(got, a), plain_of(want, b))
        info = a.info("server")
        same("INFO says cluster", info["redis_mode"], "cluster")
        same("CONFIG says cluster", a.ask("CONFIG", "GET", "cluster-enabled"), [b"cluster-enabled", b"yes"])
    theirs.stop()
    ours.stop()


def redis_cluster(scratch):
    port = free_base()
    folder = scratch.sub("redis-cluster")
    exe = shutil.which("redis-server")
    if not exe:
        raise SystemExit("redis-server is not installed: run tests/peers.sh")
    words = "--port %d --bind 127.0.0.1 --appendonly no --cluster-enabled yes" % port
    argv = [exe] + words.split() + ["--cluster-announce-ip", "127.0.0.1", "--save", ""]
    server = Server("redis-cluster", argv, port, folder).start()
    with server.conn() as c:
        c.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until("redis-server serves all slots", 20, lambda: b"cluster_state:ok" in c.ask("CLUSTER", "INFO"))
    return server


def start(scratch, binary, name, port, path, more, threads=1):
    folder = scratch.sub(name)
    words = "--port %d --bind 127.0.0.1 --threads %d --no-pin --spin-us 0 --node-id %s" % (port, threads, name)
    argv = [os.path.abspath(binary)] + words.split() + ["--cluster-map", path, "--dir", folder] + more
    return Server(name, argv, port, folder)


def begin(node):
    try:
        node.start(limit=PATIENCE_S)
    except TimeoutError as error:
        raise SystemExit("FAILED  %s:\n%s" % (error, node.log_tail())) from None


def wrong_maps(scratch, binary):
    folder = scratch.sub("wrong")
    path = os.path.join(folder, "map.toml")
    half = ("0-8191", ["a@127.0.0.1:7000"])
    cases = [
        ("with a gap", [half, ("8193-16383", ["b@127.0.0.1:7001"])], "no range has the slots 8192-8192"),
        ("with an overlap", [half, ("8191-16383", ["b@127.0.0.1:7001"])], "slot 8191 at line 5 is taken already"),
        ("with a name twice", [half, ("8192-16383", ["a@127.0.0.1:7001"])], "a at line 6 is listed already"),
        (
            "with an address twice",
            [half, ("8192-16383", ["b@127.0.0.1:7000"])],
            "127.0.0.1:7000 at line 6 is the address of another member",
        ),
        ("without this node", [("0-16383", ["b@127.0.0.1:7001"])], "it does not list a, this node"),
        (
            "with another port",
            [("0-16383", ["a@127.0.0.1:7001"])],
            "it has 7001 as the client port of a, this node, and it is 7000",
        ),
        (
            "with members that elect nobody",
            [("0-16383", ["a@127.0.0.1:7000", "b@127.0.0.1:7001"])],
            "the range of a has 2 members, which elect a primary: this node needs --peers",
        ),
    ]
    for name, ranges, wanted in cases:
        write_map(path, ranges)
        argv = [os.path.abspath(binary), "--port", "7000", "--node-id", "a", "--cluster-map", path]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        lines = (done.stdout + done.stderr).strip().splitlines()
        got = (done.returncode != 0, lines[-1:])
        same("a map %s is refused" % name, got, (True, ["ringkeep: cluster map %s: %s" % (path, wanted)]))


def with_passwords(scratch, binary):
    """Two nodes that want to know who asks: each sees whether the other one is there."""
    ports = {"x1": free_base(), "x2": free_base()}
    slots = dict(zip(ports, ("0-8191", "8192-16383")))
    path = os.path.join(scratch.sub("passwords"), "map.toml")
    write_map(path, [(slots[n], ["%s@127.0.0.1:%d" % (n, p)]) for n, p in ports.items()])
    users = os.path.join(scratch.sub("passwords"), "users.acl")
    with open(users, "w", encoding="ascii") as f:
        f.write("user default on nopass ~* &* -@all +ping +cluster\nuser peer on >secret -@all +info\n")
    more = ["--aclfile", users, "--masteruser", "peer", "--masterauth", "secret"]
    one, two = (start(scratch, binary, n, p, path, more).start() for n, p in ports.items())

    def seen():
        with one.conn() as c:
            rows = [line.split() for line in c.ask("CLUSTER", "NODES").decode().splitlines()]
        return [row[2] for row in rows]

    two.kill()
    wait_until("a node that is gone fails", 20, lambda: seen() == ["myself,master", "master,fail"])
    count.ok("a node that is gone fails")
    two.start()
    wait_until("it does not when it is back", 20, lambda: seen() == ["myself,master", "master"])
    count.ok("it does not when it is back, behind a password")
    one.stop()
    two.stop()


# ---------------------------------------------------------------------------------------------
# Nine


class Fleet:
    def __init__(self, scratch, binary, down_after):
        self.nodes = {}
        ports = {name + str(n): free_base() for name in RANGES for n in (1, 2, 3)}
        members = {r: ["%s@127.0.0.1:%d" % (n, p) for n, p in ports.items() if n[0] == r] for r in RANGES}
        path = os.path.join(scratch.sub("fleet"), "map.toml")
        write_map(path, [("%d-%d" % slots, members[r]) for r, slots in RANGES.items()])
        for name, port in ports.items():
            peers = ["%s@127.0.0.1:%d:%d" % (n, p + 200, p) for n, p in ports.items() if n[0] == name[0]]
            more = ["--peers", ",".join(peers), "--quorum-writes", "yes"]
            more += ["--elect-down-after-ms", str(down_after)]
            self.nodes[name] = start(scratch, binary, name, port, path, more)

    def alive(self):
        return {name: node for name, node in self.nodes.items() if node.alive()}

    def named(self, port):
        return next(name for name, node in self.nodes.items() if node.port == port)

    def view(self, name):
        """What a node says of all: the primary of each range, and who fails."""
        with self.nodes[name].conn(3.0) as c:
            rows = [line.split() for line in c.ask("CLUSTER", "NODES").decode().splitlines()]
        primaries, failed = {}, set()
        for row in rows:
            who, flags = self.named(int(row[1].split("@")[1])), row[2].split(",")
            if "master" in flags:
                slots = row[8:]
                if who[0] in primaries or slots != ["%d-%d" % RANGES[who[0]]]:
                    raise RuntimeError("%s says %r" % (name, row))
                primaries[who[0]] = who
            if "fail" in flags:
                failed.add(who)
        return primaries, failed

    def agreed(self):
        """The primaries, once all nodes that run name the same ones, they run, and it is true; and that nobody
        fails but those that do not run."""
        views = [self.view(name) for name in self.alive()]
        if any(view != views[0] for view in views):
            return None
        primaries, failed = views[0]
        if failed != set(self.nodes) - set(self.alive()) or failed & set(primaries.values()):
            return None
        for name, node in self.alive().items():
            with node.conn(3.0) as c:
                role = c.ask("ROLE")[0]
                state = c.ask("CLUSTER", "INFO")
            is_primary = primaries.get(name[0]) == name
            if (role == b"master") != is_primary or b"cluster_state:ok\r\n" not in state:
                return None
        return primaries

    def views(self):
        found = {}
        for name in self.alive():
            try:
                found[name] = self.view(name)
            except (OSError, Closed, RuntimeError) as error:
                found[name] = error
        return "\n".join("        %s: %r" % row for row in found.items())

    def wait_for_one_map(self, what):
        try:
            primaries = wait_until(what, PATIENCE_S, self.agreed, every=0.05)
        except TimeoutError as error:
            raise SystemExit("FAILED  %s\n%s" % (error, self.views()))
        count.ok(what, ", ".join(primaries.values()))
        return primaries


def where_keys_go(fleet, primaries):
    """Every node, byte by byte."""
    keys = {}
    for n in range(1000):
        keys.setdefault(range_of("key:%d" % n), "key:%d" % n)
    at = {r: "127.0.0.1:%d" % fleet.nodes[name].port for r, name in primaries.items()}
    for name, node in fleet.nodes.items():
        with node.conn() as c:
            for r, key in keys.items():
                got = c.call("SET", key, r)
                want = b"OK" if primaries[r] == name else b"MOVED %d %s" % (slot_of(key), at[r].encode())
                if got.value != want:
                    return count.fail("%s sends %s on" % (name, key), "%r, expected %r" % (got, want))
    count.ok("every node takes the keys of its range if it is the primary, and sends all others there")
    replica = next(name for name in fleet.nodes if name not in primaries.values())
    mine, other = keys[replica[0]], next(key for r, key in keys.items() if r != replica[0])
    to = {key: b"MOVED %d %s" % (slot_of(key), at[range_of(key)].encode()) for key in (mine, other)}
    with fleet.nodes[replica].conn() as c, fleet.nodes[primaries[replica[0]]].conn() as p:
        same("a replica sends readers on", c.call("GET", mine).value, to[mine])
        c.ask("READONLY")
        wait_until("the write is on the replica", 10, lambda: c.ask("GET", mine) == replica[0].encode())
        count.ok("behind READONLY it answers them")
        same("but writers not", c.call("SET", mine, "x").value, to[mine])
        same("nor who asks for another range's", c.call("GET", other).value, to[other])
        c.ask("MULTI")
        same("a queued read", c.call("GET", mine).value, b"QUEUED")
        same("is answered by EXEC", c.call("EXEC").plain(), [replica[0].encode()])
        c.ask("READWRITE")
        same("until READWRITE", c.call("GET", mine).value, to[mine])
        c.ask("READONLY")
        c.call("RESET")
        same("or RESET", c.call("GET", mine).value, to[mine])
        same("SPUBLISH goes to the primary", c.call("SPUBLISH", mine, "x").value, to[mine])
        same("SSUBSCRIBE too", c.call("SSUBSCRIBE", mine).value, to[mine])
        p.ask("MULTI")
        same("a queued command on another range's key", p.call("GET", other).value, to[other])
        same("voids the transaction", p.call("EXEC").value.split()[0], b"EXECABORT")
        tagged = ["{%s}%d" % (mine, n) for n in range(40)]
        same("keys of one slot", p.ask("MSET", *[x for key in tagged for x in (key, "v")]), b"OK")
        same("a pipeline", [r.value for r in p.many([("GET", key) for key in tagged])], [b"v"] * 40)
        replies = p.many([("GET", key) for key in [mine, other] * 20])
        moved = [r.value for r in replies[1::2]]
        same("a pipeline with another range's keys", moved, [to[other]] * 20)
        same("COUNTKEYSINSLOT", p.ask("CLUSTER", "COUNTKEYSINSLOT", slot_of(mine)), 41)
        same("of another range", p.ask("CLUSTER", "COUNTKEYSINSLOT", slot_of(other)), 0)
        lines = [line.split() for line in p.ask("CLUSTER", "REPLICAS", p.ask("CLUSTER", "MYID"))]
        of = {(line[2], line[3]) for line in lines}
        same("CLUSTER REPLICAS", (len(lines), of), (2, {(b"slave", p.ask("CLUSTER", "MYID"))}))
        got = p.call("CLUSTER", "REPLICAS", c.ask("CLUSTER", "MYID"))
        same("of a replica", got.value, b"ERR The specified node is not a master")
        slots = c.ask("CLUSTER", "SLOTS")
        want = [(*RANGES[r], fleet.nodes[primaries[r]].port, 5) for r in RANGES]
        same("CLUSTER SLOTS", [(s[0], s[1], s[2][1], len(s)) for s in slots], want)
        shards = [dict(zip(s[0::2], s[1::2])) for s in c.ask("CLUSTER", "SHARDS")]
        nodes = [[dict(zip(n[0::2], n[1::2])) for n in s[b"nodes"]] for s in shards]
        same("CLUSTER SHARDS", [s[b"slots"] for s in shards], [list(slots) for slots in RANGES.values()])
        roles = [collections.Counter((n[b"role"], n[b"health"]) for n in range_nodes) for range_nodes in nodes]
        same("its roles", roles, [{(b"master", b"online"): 1, (b"replica", b"online"): 2}] * 3)


def key_of(name):
    return next(key for key in ("key:%d" % n for n in range(1000)) if range_of(key) == name)


def handed_over(fleet, primaries):
    """A transaction that was queued for a primary that is one no more."""
    old, key = primaries["a"], key_of("a")
    with fleet.nodes[old].conn() as c, fleet.nodes[old].conn() as other:
        c.ask("MULTI")
        c.ask("SET", key, "late")
        other.ask("FAILOVER")
        wait_until("FAILOVER hands a range over", 20, lambda: other.ask("ROLE")[0] == b"slave")
        primaries = fleet.wait_for_one_map("all nine know who leads behind a FAILOVER")
        same("another one leads", primaries["a"] != old, True)
        moved = b"MOVED %d 127.0.0.1:%d" % (slot_of(key), fleet.nodes[primaries["a"]].port)
        same("EXEC sends on what was queued before", c.call("EXEC").value, moved)
        same("and the transaction is over", c.call("EXEC").value, b"ERR EXEC without MULTI")
    return primaries


def without_majority(fleet, primaries):
    """A range without a majority serves nothing, the others go on."""
    left, key = primaries["c"], key_of("c")
    gone = [name for name in fleet.nodes if name[0] == "c" and name != left]
    for name in gone:
        fleet.nodes[name].kill()

    def answer(*words):
        # A write that came before the primary knew waits for a majority, until its connection is closed.
        with fleet.nodes[left].conn() as c:
            return c.call(*words).value

    with fleet.nodes[primaries["a"]].conn() as far:
        down = b"CLUSTERDOWN The cluster is down"
        wait_until("a primary without a majority", 20, lambda: answer("SET", key, "x") == down)
        same("a primary without a majority takes no writes, nor reads", answer("GET", key), down)
        unserved = b"CLUSTERDOWN Hash slot not served"
        wait_until("other ranges learn that", 20, lambda: far.call("GET", key).value == unserved)
        state = far.ask("CLUSTER", "INFO").split()
        wanted = {b"cluster_state:fail", b"cluster_slots_ok:10923", b"cluster_slots_fail:5461"}
        same("other ranges learn that", wanted - set(state), set())
        same("and serve their own slots", far.call("SET", key_of("a"), "y").value, b"OK")
    for name in gone:
        begin(fleet.nodes[name])
    return fleet.wait_for_one_map("with a majority again all nine have one map")


class Writer:
    """A client that writes, and what of that was answered."""

    def __init__(self, name):
        self.name, self.acked, self.errors = name, [], 0

    def per_range(self, since=0):
        return collections.Counter(range_of(key) for key in self.acked[since:])

    def has_gone_on(self, since=0):
        found = self.per_range(since)
        return all(found[r] >= ENOUGH for r in RANGES)


class PythonWriter(Writer):
    def __init__(self, fleet):
        super().__init__("redis-py")
        nodes = [redis.cluster.ClusterNode("127.0.0.1", node.port) for node in fleet.nodes.values()]
        self.cluster = redis.RedisCluster(
            startup_nodes=nodes, socket_timeout=2, socket_connect_timeout=1, retry=Retry(ConstantBackoff(0.05), 3)
        )
        self.ends = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        n = 0
        while not self.ends:
            key, n = "py:%d" % n, n + 1
            try:
                if self.cluster.set(key, key):
                    self.acked.append(key)
            except (redis.RedisError, redis.exceptions.RedisClusterException):
                self.errors += 1
                time.sleep(0.02)

    def end(self):
        self.stop()
        self.thread.join(30)
        self.cluster.close()

    def stop(self):
        self.ends = True


class NodeWriter(Writer):
    def __init__(self, fleet, exe, modules):
        super().__init__("ioredis")
        nodes = [{"host": "127.0.0.1", "port": node.port} for node in fleet.nodes.values()]
        self.process = subprocess.Popen(
            [exe, "-e", IOREDIS, json.dumps(nodes), "io:"],
            env=dict(os.environ, NODE_PATH=modules), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for line in self.process.stdout:
            if line.startswith("errors "):
                self.errors = int(line.split()[1])
            else:
                self.acked.append(line.strip())

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            count.fail("ioredis comes to an end", "not within 30 s")
        self.stop()
        self.thread.join(10)

    def stop(self):
        self.process.kill()
        self.process.wait()


def writers(fleet):
    found = []
    if redis is None:
        count.skip("RedisCluster", "no redis-py: run tests/peers.sh python and use its Python")
    else:
        found.append(PythonWriter(fleet))
    exe = shutil.which("node")
    modules = os.path.join(peers_dir(), "node", "node_modules")
    if not exe or not os.path.isdir(os.path.join(modules, "ioredis")):
        count.skip("ioredis", "not there: run tests/peers.sh node")
    else:
        found.append(NodeWriter(fleet, exe, modules))
    return found


def goes_on(writer, what, since):
    try:
        wait_until(what, PATIENCE_S, lambda: writer.has_gone_on(since), every=0.05)
        count.ok("%s %s" % (writer.name, what), "%d writes" % (len(writer.acked) - since))
    except TimeoutError as error:
        count.fail("%s %s" % (writer.name, what), "%s: %r" % (error, writer.per_range(since)))


def one_round(fleet, clients):
    primaries = fleet.agreed() or fleet.wait_for_one_map("all nodes have one map")
    before = [len(writer.acked) for writer in clients]
    for writer, since in zip(clients, before):
        goes_on(writer, "writes in every range", since)
    for name in primaries.values():
        fleet.nodes[name].proc.kill()
    for name in primaries.values():
        fleet.nodes[name].kill()
    since = [len(writer.acked) for writer in clients]
    after = fleet.wait_for_one_map("the six that are left have one map with three new primaries")
    same("none of them is one of the old", set(after.values()) & set(primaries.values()), set())
    for writer, start_of in zip(clients, since):
        goes_on(writer, "goes on in every range", start_of)
    for name in primaries.values():
        begin(fleet.nodes[name])
    fleet.wait_for_one_map("with the killed ones back all nine have one map")


def all_is_kept(fleet, primaries, clients):
    keys = collections.defaultdict(list)
    for writer in clients:
        for key in writer.acked:
            keys[range_of(key)].append(key)
    for name, node in fleet.nodes.items():
        wanted = keys[name[0]]
        with node.conn() as c:
            c.ask("READONLY")

            def lost():
                replies = c.many([("GET", key) for key in wanted])
                return [key for key, reply in zip(wanted, replies) if reply.value != key.encode()]

            role = "primary" if primaries[name[0]] == name else "replica"
            what = "%s %s has all %d writes that were answered" % (role, name, len(wanted))
            try:
                if role == "replica":
                    # What was answered last may be on its way to one of them.
                    wait_until(what, 20, lambda: not lost(), every=0.1)
                same(what, lost()[:5], [])
            except TimeoutError as error:
                count.fail(what, "%s: %r" % (error, lost()[:5]))


def through_redis_cli(fleet):
    exe = shutil.which("redis-cli")
    if not exe:
        return count.skip("redis-cli", "not there: run tests/peers.sh redis")
    port = str(fleet.nodes["a1"].port)
    lines = "\n".join("SET cli:%d %d" % (i, i) for i in range(40)) + "\nGET cli:7\nGET cli:8\n"
    done = subprocess.run(
        [exe, "-p", port, "-c"], input=lines, capture_output=True, text=True, timeout=60, check=False
    )
    words = [line for line in done.stdout.splitlines() if not line.startswith("->")]
    same("redis-cli -c follows", words, ["OK"] * 40 + ["7", "8"])
    check = [exe, "--cluster", "check", "127.0.0.1:" + port]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)
    said = ("[OK] All nodes agree about slots configuration.", "[OK] All 16384 slots covered.")
    good = done.returncode == 0 and all(line in done.stdout for line in said)
    count.check("redis-cli --cluster check", good, done.stdout + done.stderr)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--node", required=True)
    ap.add_argument("--rounds", type=int, default=1)
    ap.add_argument("--down-after", type=int, default=1000)
    opts = ap.parse_args()
    with Scratch() as scratch:
        wrong_maps(scratch, opts.node)
        beside_redis(scratch, opts.node)
        with_passwords(scratch, opts.node)
        fleet = Fleet(scratch, opts.node, opts.down_after)
        for node in fleet.nodes.values():
            begin(node)
        primaries = fleet.wait_for_one_map("all nine have one map")
        where_keys_go(fleet, primaries)
        primaries = handed_over(fleet, primaries)
        without_majority(fleet, primaries)
        clients = writers(fleet)
        try:
            for _ in range(opts.rounds):
                one_round(fleet, clients)
            for writer in clients:
                writer.end()
        finally:
            for writer in clients:
                writer.stop()
        for writer in clients:
            print("        %s: %d writes answered, %d errors" % (writer.name, len(writer.acked), writer.errors))
        primaries = fleet.wait_for_one_map("in the end all nine have one map")
        all_is_kept(fleet, primaries, clients)
        through_redis_cli(fleet)
        count.check("all nine still run", len(fleet.alive()) == 9, sorted(fleet.alive()))
    count.close()


if __name__ == "__main__":
    main()
