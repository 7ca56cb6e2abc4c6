#!/usr/bin/env python3
"""Celery with this server as broker and as result store: real jobs through a real worker.

jobs.py HOST:PORT   (empties the server)

The same file is the application that the worker loads; JOBS_ADDR then says where the server is.
"""

import os
import subprocess
import sys
import tempfile
import time

from celery import Celery, chain, chord, group
from celery.exceptions import TimeoutError as NotInTime
from redis import Redis

HERE = os.path.dirname(os.path.abspath(__file__))
ADDR = os.environ.get("JOBS_ADDR") or (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:6379")
app = Celery("jobs", broker="redis://%s/0" % ADDR, backend="redis://%s/1" % ADDR)
app.conf.update(
    task_acks_late=True,
    broker_transport_options={"visibility_timeout": 60, "priority_steps": [0, 3, 6, 9]},
    result_extended=True,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


@app.task
def add(x, y):
    return x + y


@app.task
def total(numbers):
    return sum(numbers)


@app.task
def when():
    return time.time()


@app.task
def fails():
    raise ValueError("as told")


@app.task(bind=True, max_retries=5)
def third_time(self, key):
    """Fails twice; the server counts the attempts."""
    tries = Redis.from_url("redis://%s/2" % ADDR).incr(key)
    if tries < 3:
        raise self.retry(countdown=0.2, exc=RuntimeError("try %d" % tries))
    return tries


@app.task
def note(key, word):
    Redis.from_url("redis://%s/2" % ADDR).rpush(key, word)


def main():
    from wire import Count, wait_until

    count = Count()
    host, _, port = ADDR.rpartition(":")
    server = Redis(host=host, port=int(port))
    server.flushall()

    def same(name, got, want):
        count.check(name, got == want, "%r, expected %r" % (got, want))

    with tempfile.TemporaryDirectory(prefix="ringkeep-jobs-") as scratch:
        log = open(os.path.join(scratch, "worker.log"), "wb")
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "jobs", "worker", "--pool", "threads", "-c", "4"]
            + ["--loglevel", "WARNING", "-n", "w1@test", "-E"],
            cwd=HERE,
            env=dict(os.environ, JOBS_ADDR=ADDR),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until("the worker answers", 30, lambda: app.control.ping(timeout=0.5), every=0.1)
            count.ok("the worker answers a ping through pub/sub")
            jobs(same, count, server)
        except Exception as e:  # what a client library raises is a result of this test
            with open(log.name, "rb") as f:
                tail = f.read()[-3000:].decode("utf-8", "replace")
            count.fail("jobs", "%r; the worker's last words:\n%s" % (e, tail))
        finally:
            worker.terminate()
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
            log.close()
    count.close()


def jobs(same, count, server):
    same("a job and its result", add.delay(2, 3).get(timeout=10), 5)
    many = [add.delay(n, n) for n in range(200)]
    same("200 jobs", [r.get(timeout=20) for r in many], [2 * n for n in range(200)])
    third = third_time.delay("tries")
    same("a job that fails twice and is tried again", third.get(timeout=20), 3)
    try:
        fails.delay().get(timeout=10)
        count.fail("a job that fails", "no error")
    except ValueError as e:
        same("a job that fails hands its error on", str(e), "as told")
    asked = time.time()
    ran = when.apply_async(countdown=1.0).get(timeout=15)
    count.check("a delayed job is not early", ran - asked >= 0.99, "after %.2f s" % (ran - asked))
    same("a chain", chain(add.s(1, 2), add.s(10), add.s(100))().get(timeout=15), 113)
    same("a group", group(add.s(n, 1) for n in range(20))().get(timeout=15), list(range(1, 21)))
    same("a chord", chord(add.s(n, n) for n in range(30))(total.s()).get(timeout=20), 2 * sum(range(30)))
    gone = add.apply_async((1, 1), expires=-1)
    try:
        gone.get(timeout=1)
        count.fail("a job past its deadline", "it ran")
    except NotInTime:
        count.fail("a job past its deadline", "nobody took it")
    except Exception as e:  # celery raises TaskRevokedError
        same("a job past its deadline is not run", type(e).__name__, "TaskRevokedError")
    for priority, word in ((9, "last"), (0, "first"), (6, "later")):
        note.apply_async(("order", word), priority=priority)
    import wire

    db = Redis(host=server.connection_pool.connection_kwargs["host"], db=2,
               port=server.connection_pool.connection_kwargs["port"])  # fmt: skip
    wire.wait_until("jobs of three priorities", 10, lambda: db.llen("order") == 3)
    count.ok("jobs of three priorities are all taken")
    wire.wait_until("nothing is left behind", 10, lambda: server.zcard("unacked_index") == 0)
    same("nothing waits unacknowledged", (server.hlen("unacked"), server.llen("celery")), (0, 0))
    third.forget()
    same("a forgotten result", third.state, "PENDING")


if __name__ == "__main__":
    main()
