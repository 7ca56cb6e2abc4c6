#!/usr/bin/env python3
"""Holds the node's choice of keys to evict beside redis-server's: hit ratios of one zipfian load at one limit.

    evict_quality.py --node BINARY [--batches N] [--keys N] [--threads N] [--policy P] [--short]

Both servers are limited to what a fifth of the keys takes in each of them, so that both hold about as many
keys and only the choice differs. Then both get the same requests at the same time: a GET, and a SET where
that found nothing. The load moves to other keys half way, which shows whether old favourites are let go. A
policy passes if in the mean of RUNS the node's hits are at most TOLERANCE percent points fewer than
redis-server's.
"""

import argparse
import random

from wire import Count, Scratch, node_server, redis_server

POLICIES = ["allkeys-lru", "allkeys-lfu", "volatile-lru", "volatile-lfu"]
# Two runs of one server differ by about half of this.
TOLERANCE = 1.5
RUNS = 3
BATCH = 250
VALUE = b"v" * 100


def load(keys, seed):
    """Endless key numbers, zipfian with exponent 0.9; the favourites are others after `move`."""
    rng = random.Random(seed)
    weights, total = [], 0.0
    for rank in range(1, keys + 1):
        total += rank**-0.9
        weights.append(total)
    names = list(range(keys))
    rng.shuffle(names)
    moved = names[keys // 3 :] + names[: keys // 3]
    return rng, names, moved, weights


def limit_for(conn, room):
    """Limits a server so that it holds about this many keys once it has evicted for a while."""
    conn.ask("CONFIG", "SET", "maxmemory", "0")
    conn.ask("FLUSHALL")

    def write(first, count):
        conn.many([("SET", "k:%07d" % (10**6 + first + at), VALUE, "EX", "100000") for at in range(count)])

    write(0, room)
    limit = int(conn.info("memory")["used_memory"])
    for turn in range(1, 4):
        conn.ask("CONFIG", "SET", "maxmemory", str(limit))
        write(turn * 2 * room, 2 * room)
        limit = limit * room // conn.ask("DBSIZE")
    conn.ask("CONFIG", "SET", "maxmemory", str(limit))
    conn.ask("FLUSHALL")


class Side:
    def __init__(self, conn):
        self.conn, self.hits, self.asked = conn, 0, 0

    def step(self, batch, counted):
        got = self.conn.many([("GET", "k:%07d" % at) for at in batch])
        missed = [at for at, reply in zip(batch, got) if reply.value is None]
        if counted:
            self.hits += len(batch) - len(missed)
            self.asked += len(batch)
        sets = [("SET", "k:%07d" % at, VALUE, "EX", "100000") for at in dict.fromkeys(missed)]
        for reply in self.conn.many(sets):
            if reply.is_error:
                raise SystemExit("a write was refused: %r" % reply)

    def ratio(self):
        return 100.0 * self.hits / max(1, self.asked)


def compare(policy, servers, keys, batches):
    sides = []
    for server in servers:
        conn = server.conn(timeout=30.0)
        conn.ask("CONFIG", "SET", "maxmemory-policy", policy)
        limit_for(conn, keys // 5)
        sides.append(Side(conn))
    rng, names, moved, weights = load(keys, 7)
    for number in range(batches):
        order = names if number < batches / 2 else moved
        batch = [order[at] for at in rng.choices(range(keys), cum_weights=weights, k=BATCH)]
        for side in sides:
            # Until the cache is full nothing is chosen.
            side.step(batch, number > batches / 5)
    held = [side.conn.ask("DBSIZE") for side in sides]
    evicted = [int(side.conn.info("stats")["evicted_keys"]) for side in sides]
    for side in sides:
        side.conn.close()
    return [side.ratio() for side in sides], held, evicted


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--node", required=True)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--batches", type=int, default=6000, help="of requests; a time would be less on a slow machine")
    ap.add_argument("--keys", type=int, default=50_000)
    ap.add_argument("--policy", action="append", help="only these; repeatable")
    ap.add_argument("--short", action="store_true", help="two policies, few batches, few keys")
    opts = ap.parse_args()
    policies, batches, keys = POLICIES, opts.batches, opts.keys
    if opts.short:
        policies, batches, keys = POLICIES[:2], 1300, 40_000
    policies = opts.policy or policies
    count = Count()
    with Scratch() as scratch:
        servers = [redis_server(scratch), node_server(scratch, opts.node, threads=opts.threads)]
        for policy in policies:
            # The mean, as a run by itself is too much of a chance.
            runs = [compare(policy, servers, keys, batches) for _ in range(RUNS)]
            theirs, ours = (sum(of) / RUNS for of in zip(*(ratios for ratios, _, _ in runs)))
            _, held, evicted = runs[-1]
            text = "%s: %.2f%% of requests hit, redis-server %.2f%%; keys held %d and %d; evicted %d and %d" % (
                policy, ours, theirs, held[1], held[0], evicted[1], evicted[0],
            )
            count.check(text, ours >= theirs - TOLERANCE and evicted[1] > 0)
    count.close()


if __name__ == "__main__":
    main()
