#!/usr/bin/env python3
"""Runs every command of src/docs/operations.md and compares what it prints with what stands there.

operations.py --node BINARY

One shell runs all blocks in their order, in an empty folder, with a kevy 7.0.0 and redis-cli to be found. The page has fixed
ports, so this has a network of its own where it may.
"""

import argparse
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time

from wire import Count, Scratch, kevy_binary, loopback_up

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PAGE = os.path.join(ROOT, "src/docs/operations.md")
# Longest that one command may take.
LIMIT = 60
MARK = "this-command-is-done"


class Step:
    """A command, where it stands, and what it is to print."""

    def __init__(self, line, command):
        self.line, self.command, self.want = line, command, []


def steps(text):
    """The commands of the blocks. A here-document belongs to the command that begins it."""
    found, is_code, end = [], False, None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            is_code = line == "```console"
        elif is_code and end is not None:
            found[-1].command += "\n" + line
            end = None if line == end else end
        elif is_code and line.startswith("$ "):
            found.append(Step(number, line[2:]))
            here = re.search(r"<<(\w+)", line)
            end = here and here.group(1)
        elif is_code:
            if not found:
                raise SystemExit("line %d: a block begins with a command" % number)
            found[-1].want.append(line)
    return found


def fits(want, got):
    """Do the lines say the same, with ... for anything, and alone on a line for any lines?"""
    parts = ["(?:.*\n)*" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n" for line in want]
    return re.fullmatch("".join(parts), "".join(line + "\n" for line in got)) is not None


class Shell:
    def __init__(self, folder, path):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RINGKEEP_", "KEVY_"))}
        # Jobs are numbered; a group of its own, so that none outlives the test.
        self.proc = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env=dict(env, PATH=path + ":" + env["PATH"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.seen = b""
        self.ready = selectors.DefaultSelector()
        self.ready.register(self.proc.stdout, selectors.EVENT_READ)

    def run(self, command):
        """The lines that it prints, and its status; none if it is not done in time."""
        self.proc.stdin.write(("%s\necho %s $?\n" % (command, MARK)).encode())
        self.proc.stdin.flush()
        end = time.monotonic() + LIMIT
        done = re.compile(rb"(.*?)" + MARK.encode() + rb" (\d+)\n", re.S)
        while True:
            found = done.match(self.seen)
            if found:
                self.seen = self.seen[found.end() :]
                return found.group(1).decode("utf-8", "replace").splitlines(), int(found.group(2))
            if not self.ready.select(max(0, end - time.monotonic())):
                return self.seen.decode("utf-8", "replace").splitlines(), None
            data = os.read(self.proc.stdout.fileno(), 65536)
            if not data:
                return self.seen.decode("utf-8", "replace").splitlines(), None
            self.seen += data

    def end(self):
        try:
            os.killpg(self.proc.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.proc.wait()


def logs(folder):
    """The ends of the logs, for who has to find out."""
    for name in sorted(os.listdir(folder)):
        if name.endswith(".log"):
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as f:
                print("---- %s\n%s" % (name, "".join(f.readlines()[-8:])))


def page(count, scratch, node, kevy):
    path = scratch.sub("path")
    os.symlink(node, os.path.join(path, "ringkeep"))
    os.symlink(kevy, os.path.join(path, "kevy"))
    with open(PAGE, encoding="utf-8") as f:
        todo = steps(f.read())
    folder = scratch.sub("here")
    shell = Shell(folder, path)
    try:
        for step in todo:
            got, status = shell.run(step.command)
            name = "line %d: %s" % (step.line, step.command.split("\n")[0])
            good = fits(step.want, got) and status == 0
            if not count.check(name, good, "status %s\n%s" % (status, "\n".join(got))):
                logs(folder)
                break
    finally:
        shell.end()


def own_rules(count):
    """What compares is compared itself."""
    count.check("a line stands for itself", fits(["a.b"], ["a.b"]) and not fits(["a.b"], ["axb"]))
    count.check("... stands for what is there", fits(["a...b"], ["a1b"]) and not fits(["a...b"], ["a1c"]))
    count.check("... alone stands for lines", fits(["...", "b"], ["1", "2", "b"]) and not fits(["..."] + ["b"], ["1"]))
    count.check("nothing stands for nothing", fits([], []) and not fits([], ["a"]))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--node", required=True)
    ap.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    opts = ap.parse_args()
    own = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if not opts.inside and subprocess.run(own + ["true"], capture_output=True, check=False).returncode == 0:
        script = os.path.abspath(__file__)
        os.execvp(own[0], own + [sys.executable, script, "--inside", "--node", os.path.abspath(opts.node)])
    if opts.inside:
        loopback_up()
    count = Count(quiet=True)
    own_rules(count)
    kevy = kevy_binary("7.0.0")
    if not kevy or not shutil.which("redis-cli"):
        count.skip("the page", "kevy 7.0.0 or redis-cli is not there: tests/peers.sh")
    else:
        with Scratch() as scratch:
            page(count, scratch, os.path.abspath(opts.node), kevy)
    count.close()


if __name__ == "__main__":
    main()
