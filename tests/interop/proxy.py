#!/usr/bin/env python3
"""Three plain nodes behind twemproxy, which shares the keys out, and redis-py in front of it.

    proxy.py --node BINARY

Needs nutcracker (tests/peers.sh nutcracker) and a Python with redis-py.
"""

import argparse
import os
import shutil

import redis

from wire import Conn, Count, Scratch, Server, free_base, node_server, wait_until

count = Count()
KEYS = 300

POOL = """keys:
  listen: 127.0.0.1:%d
  redis: true
  hash: murmur
  distribution: ketama
  auto_eject_hosts: false
  timeout: 2000
  server_retry_timeout: 50
  servers:
"""


def same(name, got, want):
    return count.check(name, got == want, "%r, expected %r" % (got, want))


def proxy(scratch, nodes):
    exe = shutil.which("nutcracker")
    if not exe:
        raise SystemExit("nutcracker is not installed: run tests/peers.sh nutcracker")
    port, folder = free_base(1), scratch.sub("proxy")
    path = os.path.join(folder, "pool.yml")
    with open(path, "w", encoding="ascii") as f:
        f.write(POOL % port)
        for at, node in enumerate(nodes):
            f.write("    - 127.0.0.1:%d:1 node%d\n" % (node.port, at))
    argv = [exe, "-c", path, "-s", str(port + 1), "-a", "127.0.0.1", "-v", "4"]
    return Server("proxy", argv, port, folder).start()


def client(server):
    """One that sends nothing that the proxy does not pass: no HELLO, and no name of its library."""
    return redis.Redis(
        host="127.0.0.1", port=server.port, protocol=2, decode_responses=True, driver_info=None
    )


def work(r, nodes):
    """What the proxy passes, by kinds of values and of splitting."""
    keys = ["key:%d" % n for n in range(KEYS)]
    for key in keys:
        r.set(key, key)
    same("what was set is got", [r.get(key) for key in keys], keys)
    sizes = [node_size(node) for node in nodes]
    same("every key is on one node", sum(sizes), KEYS)
    count.check("each node has some", all(size > KEYS // 10 for size in sizes), sizes)
    same("MGET is split up and put together", r.mget(keys + ["none"]), keys + [None])
    same("MSET too", (r.mset({"m:%d" % n: n for n in range(50)}), r.get("m:7")), (True, "7"))
    same("and DEL", r.delete(*["m:%d" % n for n in range(50)]), 50)
    pipe = r.pipeline(transaction=False)
    for n in range(100):
        pipe.incrby("n:%d" % (n % 10), n)
    same("a pipeline keeps its order", pipe.execute()[-10:], [sum(range(n, 100, 10)) for n in range(10)])
    r.hset("h", mapping={"a": 1, "b": 2})
    same("a hash", r.hgetall("h"), {"a": "1", "b": "2"})
    same("a list", (r.rpush("l", *range(5)), r.lrange("l", 0, -1), r.lpop("l")), (5, list("01234"), "0"))
    same("a set", (r.sadd("s", "x", "y"), sorted(r.smembers("s"))), (2, ["x", "y"]))
    r.zadd("z", {"a": 1, "b": 2.5})
    same("a sorted set", r.zrange("z", 0, -1, withscores=True), [("a", 1.0), ("b", 2.5)])
    same("expiry", (r.set("e", 1, ex=100), r.ttl("e") in (99, 100), r.persist("e")), (True, True, True))
    same("a script on one key", r.eval("return redis.call('incr', KEYS[1])", 1, "e"), 2)
    large = "x" * 300_000
    same("a large value", (r.set("large", large), r.get("large") == large), (True, True))
    raw = bytes(range(256)).decode("latin1")
    same("every byte", (r.set(raw, raw), r.get(raw)), (True, raw))
    try:
        r.lpush("h", 1)
        count.fail("an error is passed on", "there was none")
    except redis.ResponseError as error:
        same("an error is passed on", str(error).split()[0], "WRONGTYPE")


def node_size(node):
    with node.conn() as c:
        return c.ask("DBSIZE")


def node_of(nodes, key):
    for node in nodes:
        with node.conn() as c:
            if c.ask("EXISTS", key):
                return node
    return None


def one_is_away(r, nodes):
    """A node that is started anew has its keys, and meanwhile nobody else takes them."""
    gone = node_of(nodes, "key:1")
    others = [node for node in nodes if node is not gone]
    gone.kill()
    try:
        r.set("key:1", "elsewhere")
        count.fail("a key of a node that is away is refused", "it was taken")
    except redis.RedisError as error:
        count.ok("a key of a node that is away is refused", str(error))
    there = next(key for key in ("key:%d" % n for n in range(KEYS)) if node_of(others, key))
    same("the others' are served", r.get(there), there)
    gone.start()
    wait_until("the proxy finds it again", 20, lambda: answer(r, "key:1") == "key:1", every=0.05)
    count.ok("it has its keys when it is back")


def answer(r, key):
    try:
        return r.get(key)
    except redis.RedisError:
        return None


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--node", required=True)
    opts = ap.parse_args()
    with Scratch() as scratch:
        more = ["--appendfsync", "always", "--no-pin", "--spin-us", "0"]
        nodes = [node_server(scratch, opts.node, args=more, name="node%d" % n) for n in range(3)]
        server = proxy(scratch, nodes)
        r = client(server)
        work(r, nodes)
        one_is_away(r, nodes)
        with Conn(server.addr) as c:
            # It was not us who closed: the proxy is still there for others.
            same("the proxy still runs", (server.alive(), c.call("PING").value), (True, b"PONG"))
        server.stop()
    count.close()


if __name__ == "__main__":
    main()
