#!/usr/bin/env python3
"""The Debian package: made, installed, upgraded under load, removed and purged.

package.py --node BINARY

Needs root. All of it happens in namespaces of its own, over the machine's folders: nothing stays. systemd is not there
(tests/interop/systemd.py boots one); what it does with the unit is done here: the folders, the user, the limits, the file system that is read only, the socket for
the word that the service is ready. What the unit says is read out of it.
"""

import argparse
import ctypes
import glob
import os
import pwd
import resource
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time

from wire import Closed, Conn, Count, loopback_up, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, "src/packaging/build.sh")
UNIT = "/lib/systemd/system/ringkeep.service"
CONFIG = "/etc/ringkeep/ringkeep.toml"
DATA = "/var/lib/ringkeep"
ADDR = ("127.0.0.1", 6379)
# What the package has to bring, and how.
CONTENT = {
    "/usr/bin/ringkeep": "-rwxr-xr-x",
    UNIT: "-rw-r--r--",
    CONFIG: "-rw-r--r--",
    "/usr/share/man/man1/ringkeep.1.gz": "-rw-r--r--",
    "/usr/share/bash-completion/completions/ringkeep": "-rw-r--r--",
    "/usr/share/zsh/vendor-completions/_ringkeep": "-rw-r--r--",
    "/usr/share/fish/vendor_completions.d/ringkeep.fish": "-rw-r--r--",
    "/usr/share/doc/ringkeep/copyright": "-rw-r--r--",
    "/usr/share/doc/ringkeep/changelog.Debian.gz": "-rw-r--r--",
    "/usr/share/doc/ringkeep/examples/sysctl.conf": "-rw-r--r--",
    DATA + "/": "drwxr-xr-x",
}
# What stays of a package that was removed: data, settings, what dpkg needs for a purge, and what Debian's helper keeps so
# that a unit that was disabled is so again.
KEPT = [
    CONFIG,
    DATA,
    "/var/lib/dpkg/info/ringkeep.",
    "/etc/systemd/system/multi-user.target.wants/ringkeep.service",
    "/var/lib/systemd/deb-systemd-helper-enabled/",
]
# Words of a command line, and what bash has to offer for the last one.
COMPLETED = [
    ("ringkeep im", ["import"]),
    ("ringkeep --maxmemory-p", ["--maxmemory-policy"]),
    ("ringkeep --ring-level ", ["basic", "multishot", "full"]),
    ("ringkeep --appendfsync = e", ["everysec"]),
    ("ringkeep config ", ["check", "show"]),
    ("ringkeep config show --or", ["--origin"]),
    ("ringkeep upgrade --b", ["--binary"]),
    ("ringkeep supervise --dead", ["--deadline-ms"]),
    ("ringkeep supervise --quorum-writes ", ["yes", "no"]),
    ("ringkeep completions f", ["fish"]),
    ("ringkeep export --rdb /etc/debian_v", ["/etc/debian_version"]),
]


def run(*argv, **kw):
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False, **kw
    )


def must(*argv, **kw):
    got = run(*argv, **kw)
    if got.returncode != 0:
        raise SystemExit("%s: %s%s" % (" ".join(argv), got.stdout, got.stderr))
    return got


def seclude(scratch):
    """Nothing that is written to the folders of packages leaves this process and its children."""
    loopback_up()
    must("mount", "-t", "tmpfs", "tmpfs", scratch)
    for folder in ("usr", "etc", "var"):
        upper, work = os.path.join(scratch, folder), os.path.join(scratch, folder + ".work")
        os.mkdir(upper)
        os.mkdir(work)
        places = "lowerdir=/%s,upperdir=%s,workdir=%s" % (folder, upper, work)
        must("mount", "-t", "overlay", "overlay", "-o", places, "/" + folder)
    must("mount", "-t", "tmpfs", "tmpfs", "/run")
    # The index of manual pages would be made anew each time.
    if os.path.exists("/var/lib/man-db/auto-update"):
        os.remove("/var/lib/man-db/auto-update")
    with open("/etc/dpkg/dpkg.cfg.d/test", "w", encoding="utf-8") as f:
        f.write("force-unsafe-io\n")


def written(scratch):
    """Every path that was made and is still there and has our name."""
    found = []
    for folder in ("usr", "etc", "var"):
        for path, dirs, files in os.walk(os.path.join(scratch, folder)):
            for name in dirs + files:
                whole = os.path.join(path, name)
                is_gone = stat.S_ISCHR(os.lstat(whole).st_mode)
                if "ringkeep" in whole[len(scratch) :] and not is_gone:
                    found.append(whole[len(scratch) :])
    return sorted(found)


def read_unit():
    """The last value of each key of the unit."""
    values = {}
    with open(UNIT, encoding="utf-8") as f:
        for line in f:
            key, eq, value = line.strip().partition("=")
            if eq and not line.startswith("#"):
                values[key] = value
    return values


class Service:
    """What systemd does with the unit, for as much of it as the node can tell."""

    def __init__(self):
        unit = read_unit()
        self.user = unit["User"]
        who = pwd.getpwnam(self.user)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = "/run/notify-%d" % time.monotonic_ns()
        self.notify.bind(path)
        os.chmod(path, 0o777)
        self.notify.settimeout(30)
        self.told = b""
        folder = "/run/" + unit["RuntimeDirectory"]
        os.makedirs(folder, exist_ok=True)
        os.chown(folder, who.pw_uid, who.pw_gid)
        writable = [folder, "/var/lib/" + unit["StateDirectory"], unit["ReadWritePaths"].lstrip("-")]
        assert unit["ProtectSystem"] == "strict" and unit["NoNewPrivileges"] == "true"
        script = "".join("mount --bind %s %s; " % (one, one) for one in writable)
        script += "for one in /usr /etc /var /; do mount -o remount,bind,ro $one; done; "
        script += 'exec setpriv --reuid %s --regid %s --clear-groups --no-new-privs "$@"' % (self.user, unit["Group"])
        argv = ["unshare", "-m", "sh", "-ec", script, "sh"] + shlex.split(unit["ExecStart"])
        # Not every root may raise them.
        files = min(int(unit["LimitNOFILE"]), resource.getrlimit(resource.RLIMIT_NOFILE)[1])

        def limits():
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

        self.log = tempfile.TemporaryFile()
        self.proc = subprocess.Popen(
            argv,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "NOTIFY_SOCKET": path},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            preexec_fn=limits,
        )
        # As systemd does: a process that ended and was not looked after still has its name.
        threading.Thread(target=self.proc.wait, daemon=True).start()

    def ready(self):
        """Waits for the word of the service that it is ready."""
        while b"READY=1" not in self.told:
            if self.proc.poll() is not None:
                return False
            self.told += self.notify.recv(4096) + b"\n"
        return True

    def text(self):
        self.log.seek(0)
        return self.log.read().decode("utf-8", "replace")

    def stop(self):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
        return self.proc.wait(30)


class Load:
    """Clients that count: two on connections that stay, one on a connection for each request."""

    def __init__(self):
        self.is_over = threading.Event()
        self.faults, self.counts = [], {}
        self.threads = [
            threading.Thread(target=self.go, args=(name, stays))
            for name, stays in (("a", True), ("b", True), ("c", False))
        ]
        for thread in self.threads:
            thread.start()

    def go(self, name, stays):
        conn = Conn(ADDR)
        count = 0
        try:
            while not self.is_over.is_set():
                if not stays:
                    conn.close()
                    conn = Conn(ADDR)
                reply = conn.call("INCR", "count:" + name)
                count += 1
                if reply.kind != ":" or reply.value != count:
                    self.faults.append("%s: %r instead of %d" % (name, reply, count))
                    return
                self.counts[name] = count
        except (OSError, Closed) as error:
            self.faults.append("%s: %s after %d" % (name, error, count))
        finally:
            conn.close()

    def seen(self):
        return dict(self.counts)

    def grown(self, before):
        return all(self.counts.get(name, 0) > before.get(name, 0) + 20 for name in "abc")

    def end(self):
        self.is_over.set()
        for thread in self.threads:
            thread.join(20)
        return self.counts


def cli(*words):
    return run("redis-cli", *words).stdout.strip()


def pid_of_node():
    with Conn(ADDR) as c:
        return int(c.info("server")["process_id"])


def contents(count, deb):
    had = {}
    for line in must("dpkg-deb", "-c", deb).stdout.splitlines():
        fields = line.split(None, 5)
        had[fields[5].split(" -> ")[0].lstrip(".")] = (fields[0], fields[1])
    for path, mode in CONTENT.items():
        count.check("%s is in it" % path, had.get(path) == (mode, "root/root"), repr(had.get(path)))
    fields = must("dpkg-deb", "-f", deb, "Depends", "Version").stdout
    count.check("the C library is asked for", "libc6 (>= " in fields, fields)
    control = must("dpkg-deb", "-I", deb, "conffiles").stdout
    count.check("the settings are the administrator's", control == CONFIG + "\n", control)


def lints(count, deb):
    if not shutil.which("lintian"):
        count.skip("lintian", "it is not there: tests/peers.sh lintian")
        return
    got = run("lintian", "--fail-on", "error,warning", deb)
    count.check("lintian has nothing to say", got.returncode == 0, got.stdout + got.stderr)


def unit_is_good(count):
    if not shutil.which("systemd-analyze"):
        count.skip("systemd-analyze", "it is not there")
        return
    got = run("systemd-analyze", "verify", "--man=no", UNIT)
    ours = [line for line in got.stderr.splitlines() if "ringkeep" in line]
    count.check("the unit is good", got.returncode == 0 and not ours, got.stdout + got.stderr)


def page(count):
    if not shutil.which("groff"):
        count.skip("the manual page", "groff is not there")
        return
    text = must("zcat", "/usr/share/man/man1/ringkeep.1.gz").stdout
    with tempfile.NamedTemporaryFile("w", suffix=".1") as f:
        f.write(text)
        f.flush()
        got = run("groff", "-man", "-Tutf8", "-ww", "-P-cbou", f.name)
    count.check("the manual page can be set without a warning", got.returncode == 0 and not got.stderr, got.stderr)
    for words in ("ringkeep upgrade", "--maxmemory-policy POLICY", "RINGKEEP_PORT", "CONFIG SET changes it"):
        flat = " ".join(got.stdout.replace("\u2010", "-").split())
        count.check("it has %s" % words, words in flat)


def completes(count):
    script = "/usr/share/bash-completion/completions/ringkeep"
    for line, want in COMPLETED:
        words = line.split(" ")
        lines = [
            "source " + script,
            "COMP_WORDS=(%s)" % " ".join(shlex.quote(word) for word in words),
            "COMP_CWORD=%d" % (len(words) - 1),
            "_ringkeep",
            'printf "%s\\n" "${COMPREPLY[@]}"',
        ]
        got = run("bash", "-c", "\n".join(lines))
        count.check("bash completes '%s'" % line, got.stdout.split() == want, got.stdout + got.stderr)
    if shutil.which("zsh"):
        got = run("zsh", "-n", "/usr/share/zsh/vendor-completions/_ringkeep")
        count.check("zsh can read its script", got.returncode == 0 and not got.stderr, got.stderr)
    else:
        count.skip("completions of zsh", "zsh is not there")
    if not shutil.which("fish"):
        count.skip("completions of fish", "fish is not there")
        return
    for line, want in COMPLETED:
        # fish takes = as a part of the word, and offers what goes behind it.
        if "=" not in line and "/" not in line:
            got = run("fish", "-c", "complete -C " + shlex.quote(line), env=dict(os.environ, HOME="/run"))
            offered = [one.split("\t")[0] for one in got.stdout.splitlines()]
            count.check("fish completes '%s'" % line, set(want) <= set(offered), got.stdout + got.stderr)


def installed(count):
    who = pwd.getpwnam("ringkeep")
    count.check("the user is one of the system", who.pw_uid < 1000 and "nologin" in who.pw_shell, repr(who))
    for path, mode, owner in ((DATA, 0o750, "ringkeep"), (CONFIG, 0o640, "ringkeep")):
        got = os.stat(path)
        owned = (stat.S_IMODE(got.st_mode), pwd.getpwuid(got.st_uid).pw_name)
        count.check("%s is closed to others" % path, owned == (mode, owner), repr(owned))
    got = run("ringkeep", "config", "check", CONFIG)
    count.check("the settings that it brings are good", got.returncode == 0 and "good" in got.stdout, got.stderr)
    count.check("the unit is enabled", os.path.islink("/etc/systemd/system/multi-user.target.wants/ringkeep.service"))


def served(count, service):
    count.check("the service tells that it is ready", service.ready(), service.text())
    count.check("redis-cli is answered", cli("set", "greeting", "hello") == "OK")
    with Conn(ADDR) as c:
        replies = c.many([("SET", "key:%d" % i, "value:%d" % i) for i in range(5000)])
        count.check("5000 keys are written", not any(reply.is_error for reply in replies))
        c.ask("CONFIG", "SET", "maxclients", "4000")
        reply = c.call("CONFIG", "REWRITE")
        count.check("the node may write its settings", not reply.is_error, repr(reply))
    with open(CONFIG, encoding="utf-8") as f:
        count.check("and they are there", "max_clients = 4000" in f.read())
    uid = os.stat("/proc/%d" % pid_of_node()).st_uid
    count.check("the node runs as its user", pwd.getpwuid(uid).pw_name == "ringkeep", str(uid))


def upgraded(count, deb):
    before = pid_of_node()
    load = Load()
    wait_until("the clients are under way", 20, lambda: load.grown({}))
    got = run("dpkg", "-i", deb)
    seen = load.seen()
    count.check("the newer package is installed", got.returncode == 0, got.stdout + got.stderr)
    count.check("the node has handed over", "serves" in got.stdout, got.stdout + got.stderr)
    after = pid_of_node()
    count.check("another process serves", before != after, "%d" % after)
    same = os.path.samefile("/proc/%d/exe" % after, "/usr/bin/ringkeep")
    count.check("and it is the new program", same, os.readlink("/proc/%d/exe" % after))
    try:
        wait_until("the clients go on", 20, lambda: load.grown(seen) or load.faults)
    except TimeoutError as error:
        load.faults.append(str(error))
    counts = load.end()
    count.check("no request failed", not load.faults, "; ".join(load.faults))
    with Conn(ADDR) as c:
        for name, last in counts.items():
            count.check("what %s counted is there" % name, c.ask("GET", "count:" + name) == b"%d" % last)
        kept(count, c)


def kept(count, c):
    good = all(c.ask("GET", "key:%d" % i) == b"value:%d" % i for i in range(5000))
    count.check("the data are there", good and c.ask("GET", "greeting") == b"hello")


def refused(count, deb):
    """Settings that are wrong keep the next process from starting."""
    with open(CONFIG, encoding="utf-8") as f:
        text = f.read()
    with open(CONFIG, "w", encoding="utf-8") as f:
        f.write(text + "[nonsense]\n")
    before = pid_of_node()
    got = run("dpkg", "-i", deb)
    told = got.stdout + got.stderr
    count.check("a package whose node cannot take over is installed", got.returncode == 0, told)
    count.check("and tells what to do", "the old process serves on" in got.stderr, told)
    count.check("the old process serves on", pid_of_node() == before and cli("get", "greeting") == "hello")
    with open(CONFIG, "w", encoding="utf-8") as f:
        f.write(text)


def removed(count, service, scratch):
    got = run("dpkg", "-r", "ringkeep")
    count.check("the package is removed", got.returncode == 0, got.stdout + got.stderr)
    count.check("the service has ended well", service.proc.wait(30) == 0, service.text())
    left = [path for path in written(scratch) if not path.startswith(tuple(KEPT)) and path != "/etc/ringkeep"]
    count.check("nothing is left but data and settings", not left, repr(left))
    count.check("the settings are left", os.path.exists(CONFIG))
    count.check("the data are left", bool(glob.glob(DATA + "/journal-*")), repr(os.listdir(DATA)))


def again(count, deb):
    got = run("dpkg", "-i", deb)
    count.check("it is installed again", got.returncode == 0, got.stdout + got.stderr)
    count.check("nobody was to be replaced", "serves" not in got.stdout + got.stderr, got.stdout)
    service = Service()
    count.check("it starts with what there was", service.ready(), service.text())
    with Conn(ADDR) as c:
        kept(count, c)
    count.check("it ends in order", service.stop() == 0, service.text())
    got = run("dpkg", "-i", deb)
    quiet = got.returncode == 0 and "old process" not in got.stderr
    count.check("an upgrade where nothing runs does nothing", quiet, got.stdout + got.stderr)


def purged(count, scratch):
    got = run("dpkg", "-P", "ringkeep")
    count.check("the package is purged", got.returncode == 0, got.stdout + got.stderr)
    left = written(scratch)
    count.check("nothing at all is left", not left, repr(left))
    count.check("the user is gone", "ringkeep" not in [who.pw_name for who in pwd.getpwall()])


def inside(node):
    count = Count(quiet=True)
    scratch = tempfile.mkdtemp(prefix="ringkeep-package-")
    try:
        seclude(scratch)
        made = os.path.join(scratch, "made")
        # Small packages take a minute of CPU here and prove nothing.
        fast = dict(os.environ, DPKG_DEB_COMPRESSOR_TYPE="gzip", DPKG_DEB_COMPRESSOR_LEVEL="1")
        first = must(BUILD, node, made, env=fast).stdout.strip()
        number = must("dpkg-deb", "-f", first, "Version").stdout.strip()
        want = must(node, "--version").stdout.split()[1] + "-1"
        count.check("the version is that of the binary", number == want, number)
        second = must(BUILD, node, made, number.rpartition("-")[0] + "-2", env=fast).stdout.strip()
        contents(count, first)
        lints(count, first)
        got = run("dpkg", "-i", first)
        count.check("it is installed", got.returncode == 0, got.stdout + got.stderr)
        installed(count)
        unit_is_good(count)
        page(count)
        completes(count)
        service = Service()
        served(count, service)
        upgraded(count, second)
        refused(count, second)
        removed(count, service, scratch)
        again(count, second)
        purged(count, scratch)
    finally:
        # The children end with the namespace of processes; the mounts with that of mounts.
        ctypes.CDLL(None).umount2(scratch.encode(), 2)
        os.rmdir(scratch)
    count.close()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--node", required=True)
    ap.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    opts = ap.parse_args()
    node = os.path.abspath(opts.node)
    if opts.inside:
        inside(node)
        return
    count = Count()
    own = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"]
    if os.getuid() != 0 or run(*own, "true").returncode != 0:
        count.skip("the package", "this needs root, and namespaces")
        count.close()
    # The shell looks after orphans, as the first process of a machine does.
    own += ["sh", "-c", '"$@"; exit $?', "sh"]
    os.execvp(own[0], own + [sys.executable, os.path.abspath(__file__), "--inside", "--node", node])


if __name__ == "__main__":
    main()
