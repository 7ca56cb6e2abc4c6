#!/usr/bin/env python3
"""The package on a machine with a systemd of its own: what tests/interop/package.py does in systemd's place, it does here.

systemd.py --node BINARY [--root FOLDER]

Needs root and debootstrap. FOLDER has a small Debian with systemd in it; where it is not there, debootstrap makes it, in
some minutes. It is booted in namespaces, over a file system that is gone afterwards. tests/ci.sh does not run this.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time

from package import BUILD, CONFIG, DATA, Load, must, run
from wire import Conn, Count, peers_dir, wait_until

WITH = "systemd-sysv,dbus,adduser,init-system-helpers,procps"
BOOT = r"""
mount --make-rprivate /
mount -t tmpfs tmpfs "$2"
mkdir "$2/upper" "$2/work" "$2/root"
root=$2/root
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$root"
mount --bind "$3" "$root/mnt"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for one in null zero full random urandom tty; do touch "$root/dev/$one"; mount --bind /dev/$one "$root/dev/$one"; done
ip link set lo up
cd "$root"
mkdir old
pivot_root . old
umount -l /old
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=multi-user.target
"""
ADDR = ("127.0.0.1", 6379)
# Settings, while they are spoilt.
KEPT = CONFIG + ".kept"
SOCKET = """[Socket]
ListenStream=127.0.0.1:6379
Backlog=1024
"""


class Machine:
    """A systemd as the first process of its namespaces."""

    def __init__(self, root, packages):
        self.scratch = tempfile.mkdtemp(prefix="ringkeep-systemd-")
        # The network is ours, so that the clients need not be inside.
        argv = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"]
        argv += ["sh", "-ec", BOOT, "sh", root, self.scratch, packages]
        self.log = tempfile.TemporaryFile()
        self.proc = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        wait_until("systemd is up", 60, lambda: "running" in self.do("systemctl", "is-system-running").stdout)

    def first(self):
        with open("/proc/%d/task/%d/children" % (self.proc.pid, self.proc.pid), encoding="utf-8") as f:
            children = f.read().split()
        return children[0] if children else None

    def do(self, *argv):
        if self.proc.poll() is not None:
            self.log.seek(0)
            raise SystemExit("the machine did not boot: %s" % self.log.read().decode())
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"]
        return run("nsenter", "-t", self.first() or "1", "-m", "-p", "-u", "-i", "-C", *clean, *argv)

    def show(self, key):
        return self.do("systemctl", "show", "--value", "-p", key, "ringkeep").stdout.strip()

    def end(self):
        self.proc.kill()
        self.proc.wait()
        os.rmdir(self.scratch)


def ask(*words):
    with Conn(ADDR) as c:
        return c.ask(*words)


def pid_of_node():
    """Its number in the machine."""
    with Conn(ADDR) as c:
        return int(c.info("server")["process_id"])


def goes_on(count, load, name):
    seen = load.seen()
    try:
        wait_until("the clients go on", 30, lambda: load.grown(seen) or load.faults)
    except TimeoutError as error:
        load.faults.append(str(error))
    count.check("no request fails: %s" % name, not load.faults, "; ".join(load.faults))


def installed(count, machine, deb):
    got = machine.do("dpkg", "-i", deb)
    count.check("it is installed", got.returncode == 0, got.stdout + got.stderr)
    state = machine.do("systemctl", "is-active", "ringkeep").stdout.strip()
    count.check("and is started: its word that it is ready counts", state in ("active", "activating"), state)
    wait_until("it is ready", 30, lambda: machine.show("SubState") == "running")
    count.check("it is enabled", machine.do("systemctl", "is-enabled", "ringkeep").returncode == 0)
    status = machine.show("StatusText")
    count.check("its status is told", status == "process %d serves" % pid_of_node(), status)
    touch = "touch %s && rm %s"
    for path, may in ((DATA + "/x", True), ("/etc/ringkeep/x", True), ("/etc/x", False), ("/usr/x", False)):
        words = ["nsenter", "-t", str(pid_of_node()), "-m", "sh", "-c", touch % (path, path)]
        count.check("%s is %s" % (path, ("closed", "open")[may]), (machine.do(*words).returncode == 0) == may)
    with Conn(ADDR) as c:
        count.check("it may write its settings", not c.call("CONFIG", "REWRITE").is_error)


def handed_over(count, machine, deb):
    load = Load()
    goes_on(count, load, "at the start")
    before = pid_of_node()
    got = machine.do("systemctl", "reload", "ringkeep")
    after = pid_of_node()
    count.check("a reload is a handoff", got.returncode == 0 and before != after, got.stderr)
    goes_on(count, load, "over a reload")
    got = machine.do("dpkg", "-i", deb)
    count.check("an upgrade is one", got.returncode == 0 and pid_of_node() != after, got.stdout + got.stderr)
    goes_on(count, load, "over an upgrade")
    node, supervisor = pid_of_node(), machine.show("MainPID")
    machine.do("systemctl", "kill", "-s", "KILL", "--kill-whom=main", "ringkeep")
    wait_until("another supervisor", 30, lambda: machine.show("MainPID") not in ("0", supervisor))
    wait_until("it is ready", 30, lambda: machine.show("SubState") == "running")
    count.check("the node outlives its supervisor", pid_of_node() == node)
    goes_on(count, load, "without a supervisor for a while")
    got = machine.do("systemctl", "reload", "ringkeep")
    count.check("the next supervisor can hand it over", got.returncode == 0 and pid_of_node() != node, got.stderr)
    goes_on(count, load, "over that")
    return load.end()


def kept(count, counts, name):
    good = all(ask("GET", "count:" + client) == b"%d" % last for client, last in counts.items())
    count.check("nothing is lost: %s" % name, good)


def refused(count, machine):
    before = pid_of_node()
    machine.do("sh", "-c", "cp %s %s; echo '[nonsense]' >>%s" % (CONFIG, KEPT, CONFIG))
    count.check("a reload that fails says so", machine.do("systemctl", "reload", "ringkeep").returncode == 1)
    count.check("and the old process serves on", pid_of_node() == before and machine.show("SubState") == "running")
    machine.do("cp", KEPT, CONFIG)


def ended(count, machine, counts):
    count.check("it is started again", machine.do("systemctl", "restart", "ringkeep").returncode == 0)
    kept(count, counts, "at a restart")
    before = pid_of_node()
    machine.do("kill", "-KILL", str(before))
    wait_until("another process", 30, lambda: machine.show("StatusText") != "process %d serves" % before)
    wait_until("it serves", 30, lambda: machine.show("StatusText").endswith("serves"))
    count.check("a node that is killed is started anew", pid_of_node() != before)
    # The last second or two are not on the disk, unless the kernel had them: a process died, no machine.
    kept(count, counts, "by a kill of the process")
    got = machine.do("systemctl", "stop", "ringkeep")
    left = machine.do("pgrep", "-x", "ringkeep").stdout
    count.check("a stop leaves nothing", got.returncode == 0 and not left and machine.show("Result") == "success", left)


def activated(count, machine, counts):
    """As the end of the unit has it."""
    write = "cat >/etc/systemd/system/ringkeep.socket <<END\n%sEND\n" % SOCKET
    machine.do("sh", "-c", write + "systemctl daemon-reload; systemctl start ringkeep.socket")
    state = machine.do("systemctl", "is-active", "ringkeep").stdout.strip()
    count.check("a socket waits alone", state == "inactive", state)
    kept(count, counts, "with sockets of systemd")
    # A reload of what is being started is nothing to systemd.
    wait_until("it is ready", 30, lambda: machine.show("SubState") == "running")
    before = pid_of_node()
    count.check("and is handed over", machine.do("systemctl", "reload", "ringkeep").returncode == 0)
    count.check("to another process", pid_of_node() != before)
    machine.do("systemctl", "stop", "ringkeep.socket", "ringkeep")
    machine.do("sh", "-c", "rm /etc/systemd/system/ringkeep.socket; systemctl daemon-reload; systemctl start ringkeep")


def purged(count, machine):
    got = machine.do("dpkg", "-r", "ringkeep")
    left = machine.do("pgrep", "-x", "ringkeep").stdout
    count.check("a removal stops it", got.returncode == 0 and not left, got.stdout + got.stderr + left)
    count.check("and keeps the data", machine.do("test", "-e", DATA + "/ringkeep.meta").returncode == 0)
    got = machine.do("dpkg", "-P", "ringkeep")
    count.check("it is purged", got.returncode == 0, got.stdout + got.stderr)
    left = machine.do("find", "/etc", "/var/lib", "/usr", "/lib", "/run", "-name", "*ringkeep*").stdout
    count.check("and nothing is left", not left, left)
    count.check("systemd is well", machine.do("systemctl", "is-system-running").stdout.strip() == "running")


def inside(node, root):
    must("ip", "link", "set", "lo", "up")
    count = Count(quiet=True)
    made = tempfile.mkdtemp(prefix="ringkeep-packages-")
    machine = None
    try:
        # Small packages take a minute of CPU here and prove nothing.
        fast = dict(os.environ, DPKG_DEB_COMPRESSOR_TYPE="gzip", DPKG_DEB_COMPRESSOR_LEVEL="1")
        number = must(node, "--version").stdout.split()[1]
        debs = [must(BUILD, node, made, "%s-%d" % (number, at), env=fast).stdout.strip() for at in (1, 2)]
        first, second = ("/mnt/" + os.path.basename(deb) for deb in debs)
        machine = Machine(root, made)
        installed(count, machine, first)
        counts = handed_over(count, machine, second)
        kept(count, counts, "at handoffs")
        refused(count, machine)
        ended(count, machine, counts)
        activated(count, machine, counts)
        purged(count, machine)
    finally:
        if machine:
            machine.end()
        shutil.rmtree(made)
    count.close()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--node", required=True)
    ap.add_argument("--root", default=os.path.join(peers_dir(), "systemd"))
    ap.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    opts = ap.parse_args()
    node, root = os.path.abspath(opts.node), os.path.abspath(opts.root)
    if opts.inside:
        inside(node, root)
        return
    if not os.path.exists(os.path.join(root, "lib/systemd/systemd")):
        started = time.monotonic()
        made = ["debootstrap", "--variant=minbase", "--include=" + WITH, "bookworm", root]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
        print("%s is made, %d s" % (root, time.monotonic() - started))
    again = [sys.executable, os.path.abspath(__file__), "--inside", "--node", node, "--root", root]
    os.execvp("unshare", ["unshare", "--net"] + again)


if __name__ == "__main__":
    main()
