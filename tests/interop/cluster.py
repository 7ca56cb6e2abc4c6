#!/usr/bin/env python3
"""Cluster mode with stock clients, and beside a real kevy.

    cluster.py --node BINARY [--kevy BINARY]

Starts the node with two cores and four shards in cluster mode. redis-py's RedisCluster (when the Python that
runs this has it), ioredis' Cluster (when node finds it) and redis-cli -c write and read through it; the
ports of the shards are spoken to directly too. With --kevy (default: kevy 7.0.0 of tests/peers.sh), both
servers' views and redirections are held side by side.
"""

import argparse
import os
import shutil
import subprocess

from wire import Conn, Count, Scratch, free_base, kevy_binary, node_server

try:
    import redis
except ImportError:
    redis = None

count = Count()
SHARDS = 4

# Asked of the client port and of each shard's port, of both servers.
BESIDE_KEVY = """
CLUSTER SLOTS
CLUSTER NODES
CLUSTER MYID
CLUSTER KEYSLOT abc
CLUSTER KEYSLOT user:{42}:name
CLUSTER KEYSLOT {}x
SET abc 1
GET abc
GET a
SET {a}1 x
MGET {a}1 {a}2
MGET a abc
DEL a b c
GET user:{42}:name
LPUSH {}x 1
EXISTS {}x
CLUSTER COUNTKEYSINSLOT 7638
"""

# By port behind the client port: what kevy answers in another way than Redis, which is followed here.
UNLIKE_KEVY = {
    (1, "MGET {a}1 {a}2"): "kevy serves keys of another shard if there are several",
    (1, "DEL a b c"): "kevy lets DEL span slots",
    (2, "DEL a b c"): "kevy lets DEL span slots",
    (2, "CLUSTER COUNTKEYSINSLOT 7638"): "kevy counts only on the slot's own port; every port here knows",
}

IOREDIS = """
const Redis = require('ioredis');
const [host, port] = process.argv[1].split(':');
const cluster = new Redis.Cluster([{ host, port: Number(port) }]);
(async () => {
  const wanted = {};
  for (let i = 0; i < 200; i++) { wanted['io:' + i] = String(i); await cluster.set('io:' + i, i); }
  for (const key in wanted) {
    const got = await cluster.get(key);
    if (got !== wanted[key]) throw new Error(key + ' is ' + got);
  }
  const nodes = cluster.nodes('master');
  let sum = 0;
  for (const node of nodes) sum += (await node.keys('io:*')).length;
  console.log(nodes.length + ' nodes, ' + sum + ' keys');
  cluster.disconnect();
})().catch((error) => { console.error(error); process.exit(1); });
"""


def same(name, got, want):
    count.check(name, got == want, "%r, expected %r" % (got, want))


def shard_of(conn, key):
    return conn.ask("CLUSTER", "KEYSLOT", key) * SHARDS >> 14


def direct(node):
    """The ports of the shards, spoken to byte by byte."""
    ports = [Conn(("127.0.0.1", node.port + 1 + shard)) for shard in range(SHARDS)]
    main = node.conn()
    keys = ["key:%d" % i for i in range(100)]
    owner = {key: shard_of(main, key) for key in keys}
    same("the keys are spread over all shards", set(owner.values()), set(range(SHARDS)))
    for key in keys:
        right, wrong = ports[owner[key]], ports[(owner[key] + 1) % SHARDS]
        slot = main.ask("CLUSTER", "KEYSLOT", key)
        moved = "MOVED %d 127.0.0.1:%d" % (slot, node.port + 1 + owner[key])
        if right.call("SET", key, key).value != b"OK" or wrong.call("GET", key).value != moved.encode():
            count.fail("%s goes to its shard" % key, repr(wrong.call("GET", key)))
            break
    else:
        count.ok("every key is taken by its shard's port and sent on by another's")
    same("the client port serves all", [main.ask("GET", key) for key in keys], [k.encode() for k in keys])
    sizes = [port.ask("DBSIZE") for port in ports]
    same("DBSIZE of the shards", sizes, [list(owner.values()).count(shard) for shard in range(SHARDS)])
    same("DBSIZE of the client port", main.ask("DBSIZE"), len(keys))
    for shard, port in enumerate(ports):
        mine = {key.encode() for key in keys if owner[key] == shard}
        same("KEYS of shard %d" % shard, set(port.ask("KEYS", "*")), mine)
        cursor, seen = b"0", []
        while True:
            cursor, part = port.ask("SCAN", cursor, "COUNT", "7")
            seen += part
            if cursor == b"0":
                break
        same("SCAN of shard %d" % shard, sorted(seen), sorted(mine))
        same("RANDOMKEY of shard %d" % shard, port.ask("RANDOMKEY") in mine, True)
        port.ask("MULTI")
        port.ask("DBSIZE")
        same("DBSIZE in a transaction of shard %d" % shard, port.ask("EXEC"), [len(mine)])
    slot = main.ask("CLUSTER", "KEYSLOT", "key:1")
    for conn in [main] + ports:
        same("COUNTKEYSINSLOT", conn.ask("CLUSTER", "COUNTKEYSINSLOT", slot), 1)
        same("GETKEYSINSLOT", conn.ask("CLUSTER", "GETKEYSINSLOT", slot, 10), [b"key:1"])
        same("GETKEYSINSLOT 0", conn.ask("CLUSTER", "GETKEYSINSLOT", slot, 0), [])
    here = ports[owner["key:1"]]
    cross = b"CROSSSLOT Keys in request don't hash to the same slot"
    same("two slots in one command", here.call("MGET", "key:1", "key:2").value, cross)
    same("two keys of one slot", here.ask("MSET", "{key:1}a", "1", "{key:1}b", "2"), b"OK")
    same("a script with its keys", here.ask("EVAL", "return redis.call('get', KEYS[1])", 1, "key:1"), b"key:1")
    other = ports[(owner["key:1"] + 1) % SHARDS]
    moved = b"MOVED %d 127.0.0.1:%d" % (slot, node.port + 1 + owner["key:1"])
    same("a script whose key is elsewhere", other.call("EVAL", "return 1", 1, "key:1").value, moved)
    other.ask("MULTI")
    same("a queued command whose key is elsewhere", other.call("GET", "key:1").value, moved)
    same("voids the transaction", other.call("EXEC").value.split()[0], b"EXECABORT")
    same("blocking where the key is", here.call("BLPOP", "{key:1}list", "0.05").value, None)
    same("FLUSHALL of one shard", here.ask("FLUSHALL"), b"OK")
    left = len(keys) - list(owner.values()).count(owner["key:1"])
    same("leaves the others", main.ask("DBSIZE"), left)
    for line, want in (
        ("READONLY", b"OK"),
        ("READWRITE", b"OK"),
        ("ASKING", b"OK"),
        ("SELECT 1", b"ERR SELECT is not allowed in cluster mode"),
        ("CLUSTER COUNTKEYSINSLOT 16384", b"ERR Invalid slot"),
        ("CLUSTER GETKEYSINSLOT 0 -1", b"ERR Invalid slot or number of keys"),
        ("CLUSTER REPLICAS nosuch", b"ERR Unknown node nosuch"),
        ("CLUSTER NOSUCH", b"ERR unknown subcommand 'NOSUCH'. Try CLUSTER HELP."),
        ("CLUSTER KEYSLOT", b"ERR wrong number of arguments for 'cluster|keyslot' command"),
    ):
        same(line, main.call(*line.split()).value, want)
    same("CLUSTER MEET is refused", main.call("CLUSTER", "MEET", "h", "1").is_error, True)
    same("CLUSTER REPLICAS", main.ask("CLUSTER", "REPLICAS", main.ask("CLUSTER", "MYID")), [])
    shards = [dict(zip(s[0::2], s[1::2])) for s in main.ask("CLUSTER", "SHARDS")]
    same("CLUSTER SHARDS", [s[b"slots"] for s in shards], [[0, 4095], [4096, 8191], [8192, 12287], [12288, 16383]])
    same("INFO says cluster", main.info("server")["redis_mode"], "cluster")
    main.ask("FLUSHALL")
    for conn in [main] + ports:
        conn.close()


def through_redis_py(node):
    if redis is None:
        return count.skip("RedisCluster", "no redis-py: run tests/peers.sh python and use its Python")
    for proto in (2, 3):
        r = redis.RedisCluster(host="127.0.0.1", port=node.port, protocol=proto, decode_responses=True)
        tag = "redis-py resp%d: " % proto
        same(tag + "primaries", sorted(n.port for n in r.get_primaries()), [node.port + 1 + i for i in range(SHARDS)])
        for i in range(200):
            r.set("py:%d" % i, i)
        same(tag + "get", [r.get("py:%d" % i) for i in range(200)], [str(i) for i in range(200)])
        same(tag + "mget over slots", r.mget_nonatomic(["py:1", "py:2", "none"]), ["1", "2", None])
        same(tag + "dbsize adds up", r.dbsize(target_nodes="primaries"), 200)
        same(tag + "keys", len(r.keys("py:*", target_nodes="primaries")), 200)
        same(tag + "scan_iter", sorted(r.scan_iter("py:*", count=13)), sorted("py:%d" % i for i in range(200)))
        pipe = r.pipeline()
        for i in range(50):
            pipe.incr("n:%d" % i)
        same(tag + "pipeline", pipe.execute(), [1] * 50)
        slot = r.keyslot("py:7")
        same(tag + "countkeysinslot", r.cluster_countkeysinslot(slot), 1)
        same(tag + "eval", r.eval("return redis.call('get', KEYS[1])", 1, "py:7"), "7")
        r.flushall()
        same(tag + "flushall", r.dbsize(target_nodes="primaries"), 0)
        r.close()


def through_ioredis(node):
    exe = shutil.which("node")
    env = dict(os.environ)
    peers = os.environ.get("RINGKEEP_PEERS") or os.path.expanduser("~/.cache/ringkeep/peers")
    env.setdefault("NODE_PATH", os.path.join(peers, "node", "node_modules"))
    if not exe or not os.path.isdir(os.path.join(env["NODE_PATH"], "ioredis")):
        return count.skip("ioredis", "not there: run tests/peers.sh node")
    done = subprocess.run(
        [exe, "-e", IOREDIS, "127.0.0.1:%d" % node.port],
        env=env, capture_output=True, text=True, timeout=60, check=False,
    )
    same("ioredis Cluster", (done.returncode, done.stdout.strip()), (0, "%d nodes, 200 keys" % SHARDS))
    if done.returncode:
        print(done.stderr)


def through_redis_cli(node):
    exe = shutil.which("redis-cli")
    if not exe:
        return count.skip("redis-cli", "not there: run tests/peers.sh redis")
    base = [exe, "-p", str(node.port + 1), "-c"]
    lines = "\n".join("SET cli:%d %d" % (i, i) for i in range(40)) + "\nGET cli:7\nGET cli:8\n"
    done = subprocess.run(base, input=lines, capture_output=True, text=True, timeout=60, check=False)
    words = [line for line in done.stdout.splitlines() if not line.startswith("->")]
    same("redis-cli -c follows", words, ["OK"] * 40 + ["7", "8"])
    check = [exe, "--cluster", "check", "127.0.0.1:%d" % (node.port + 1)]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)
    good = done.returncode == 0 and "[OK] All 16384 slots covered." in done.stdout
    count.check("redis-cli --cluster check", good, done.stdout + done.stderr)


def beside_kevy(scratch, binary, kevy):
    if not kevy:
        return count.skip("beside kevy", "no kevy 7.0.0: run tests/peers.sh kevy-7.0.0")
    ours = node_server(scratch, binary, port=free_base(8), threads=2, args=["--cluster"], name="ours")
    theirs = node_server(scratch, kevy, port=free_base(8), threads=2, args=["--cluster"], name="kevy")

    def moved_home(reply, port):
        """Both servers' ports as if the client port were 0; kevy ends lines as if they were replies."""
        text = repr(reply).replace("\\r\\n", "\\n").replace("\r\n", "\n")
        for offset in (1, 2):
            text = text.replace(str(port + offset), "+%d" % offset)
        return text

    for offset in range(3):
        with Conn(("127.0.0.1", ours.port + offset)) as a, Conn(("127.0.0.1", theirs.port + offset)) as b:
            for line in BESIDE_KEVY.strip().splitlines():
                if (offset, line) in UNLIKE_KEVY:
                    continue
                got, want = (
                    moved_home(c.call(*line.split()), s.port) for c, s in ((a, ours), (b, theirs))
                )
                same("port +%d: %s as kevy" % (offset, line), got, want)
    ours.stop()
    theirs.stop()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--node", required=True)
    ap.add_argument("--kevy", default=kevy_binary("7.0.0"))
    opts = ap.parse_args()
    with Scratch() as scratch:
        args = ["--cluster", "--shards", str(SHARDS)]
        node = node_server(scratch, opts.node, port=free_base(8), threads=2, args=args)
        direct(node)
        through_redis_py(node)
        through_ioredis(node)
        through_redis_cli(node)
        count.check("the node still runs", node.alive(), node.log_tail())
        beside_kevy(scratch, opts.node, opts.kevy)
    count.close()


if __name__ == "__main__":
    main()
