#!/usr/bin/env python3
"""Locks of redis-py and of python-redis-lock, fought for by threads.     locks.py HOST:PORT   (empties the server)"""

import sys
import threading
import time

import redis
import redis_lock
from redis.exceptions import LockError, LockNotOwnedError

from wire import Count, addr_of

WORKERS, TURNS = 6, 25


def fight(addr, name, enter):
    """Every worker adds one by reading and writing apart; without the lock some would be lost."""
    inside, errors = [], []
    r = redis.Redis(host=addr[0], port=addr[1])
    r.set(name, 0)

    def work():
        mine = redis.Redis(host=addr[0], port=addr[1])
        for _ in range(TURNS):
            with enter(mine):
                inside.append(1)
                if len(inside) > 1:
                    errors.append("two at once")
                n = int(mine.get(name))
                time.sleep(0.0005)
                mine.set(name, n + 1)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(WORKERS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return int(r.get(name)), errors


def main():
    addr = addr_of(sys.argv[1])
    count = Count()
    r = redis.Redis(host=addr[0], port=addr[1])
    r.flushall()
    kinds = {
        "redis-py's lock": lambda c: c.lock("lock", timeout=10, sleep=0.002),
        "python-redis-lock": lambda c: redis_lock.Lock(c, "other", expire=10),
        "python-redis-lock, renewed": lambda c: redis_lock.Lock(c, "third", expire=2, auto_renewal=True),
    }
    for name, enter in kinds.items():
        got, errors = fight(addr, "n", enter)
        count.check(
            name, got == WORKERS * TURNS and not errors, "%d of %d, %s" % (got, WORKERS * TURNS, errors)
        )

    lock = r.lock("short", timeout=0.1)
    count.check("a lock is taken", lock.acquire(blocking=False))
    count.check("a taken lock is refused", not r.lock("short", timeout=5).acquire(blocking=False))
    time.sleep(0.15)
    other = r.lock("short", timeout=5)
    count.check("a lock whose time is up is free", other.acquire(blocking=False))
    try:
        lock.release()
        count.fail("the former owner releases", "no error")
    except LockNotOwnedError:
        count.ok("the former owner cannot release it")
    count.check("a lock is extended", other.extend(10) and r.pttl("short") > 5000)
    count.check("a lock is taken again", other.reacquire() and other.owned())
    other.release()
    count.check("a released lock leaves nothing", r.exists("short") == 0)
    try:
        other.release()
        count.fail("a lock is released twice", "no error")
    except LockError:
        count.ok("a lock is released once")
    count.close()


if __name__ == "__main__":
    main()
