"""When a CPU did nothing for anybody. Machines are shared: what a node is late with while the host had other plans is
not the node's, and a measurement that says nothing of that is of the host.
"""

import atexit
import subprocess
import sys

PROBE = """
import os, sys, time
clock = getattr(time, sys.argv[2])
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
before = clock()
while True:
    time.sleep(0.005)
    now = clock()
    if now - before > 0.008:
        print(before + 0.005, now, flush=True)
    before = now
"""


class Stalls:
    """A real-time thread on a CPU that wakes up every 5 ms, and notes when it came 3 ms late or more. `clock` is the
    name of a function of `time`."""

    def __init__(self, cpu, path, clock="time"):
        self.path = path
        with open(path, "wb") as out:
            argv = [sys.executable, "-c", PROBE, str(cpu), clock]
            self.probe = subprocess.Popen(argv, stdout=out, stderr=subprocess.DEVNULL)
        atexit.register(self.probe.kill)

    def so_far(self):
        """The times it stood still; nothing if that cannot be found out."""
        if self.probe.poll() is not None:
            return None
        with open(self.path, encoding="ascii") as rows:
            return [tuple(float(word) for word in row.split()) for row in rows if row.endswith("\n")]

    def end(self):
        """The same, and the last of it."""
        found = self.so_far()
        self.probe.kill()
        self.probe.wait()
        return found


def without(since, until, stalls):
    """The part of a time in which the CPU did not stand still; the stalls do not overlap."""
    return until - since - sum(max(0, min(until, b) - max(since, a)) for a, b in stalls)
