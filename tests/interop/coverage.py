#!/usr/bin/env python3
"""The page src/docs/coverage.md: every command of Redis 7.2 and of kevy 2.0.20, and whether the node has it.

    coverage.py --node BINARY            fails when the page is not what the node's table of commands says
    coverage.py --node BINARY --write    writes the page

Commands come from COMMAND LIST; whether a container has a subcommand is found out by calling it. The lists and
the reasons are in tests/coverage/. The test also holds that every command has its line in compare.py's table
of samples (wrong types, too few arguments, places of keys).
"""

import argparse
import fnmatch
import os
import re

import compare
from wire import Closed, Conn, Count, Scratch, node_server

HERE = os.path.dirname(os.path.abspath(__file__))
LISTS = os.path.join(HERE, "..", "coverage")
PAGE = os.path.join(HERE, "..", "..", "src", "docs", "coverage.md")
# Never called on the way: they end the node, or answer nothing.
ASSUMED = {"CLIENT|REPLY"}

HEAD = """# Which commands there are

Binds `src/cmd/` and `tests/interop/coverage.py`.

Every command and subcommand of Redis 7.2, of kevy 2.0.20 and of this node. The page is made by
`tests/interop/coverage.py --write` from the node's own table, and the tests fail when it is out of date. How
replies differ where a command is there is in the page on [migration](crate::docs::migration).

"""


def lines(name):
    with open(os.path.join(LISTS, name), encoding="utf-8") as f:
        return [t.strip() for t in f if t.strip() and not t.startswith("#")]


def has(addr, name):
    """Does the container know the subcommand? Some say only with the right number of arguments."""
    if name in ASSUMED:
        return True
    container, sub = name.split("|")
    for args in ([], ["1"], ["1", "1"], ["1", "1", "1"], ["1", "1", "1", "1"]):
        with Conn(addr, timeout=2.0) as c:
            try:
                r = c.call(container, sub, *args)
            except Closed:
                return True
        if not (r.is_error and re.match(rb"ERR [Uu]nknown ", r.value)):
            return True
    return False


def page(addr):
    """The page, and what is neither there nor explained."""
    with Conn(addr) as c:
        ours = {r.value.decode().upper().replace(" ", "|") for r in c.call("COMMAND", "LIST").value}
    redis, kevy = set(lines("redis-7.2.txt")), set(lines("kevy-2.0.20.txt"))
    reasons = [t.split(" ", 1) for t in lines("reasons.txt")]
    limits = dict(t.split(" ", 1) for t in lines("limits.txt"))
    rows, counts = [], {"done": 0, "will not": 0, "not yet": 0}
    for name in sorted(redis | kevy | ours):
        container = name.split("|")[0]
        done = name in ours or ("|" in name and container in ours and has(addr, name))
        reason = next((why for pattern, why in reasons if fnmatch.fnmatchcase(name, pattern)), None)
        state = "done" if done else "will not" if reason else "not yet"
        counts[state] += 1
        why = limits.get(name) if done else reason
        text = "%s: %s" % (state, why) if why else state
        cell = "`%s`" % name.replace("|", " ")
        yes = lambda there: "yes" if there else "-"
        rows.append("| %s | %s | %s | %s |" % (cell, yes(name in redis), yes(name in kevy), text))
    said = "%(done)d are done, %(will not)d will not be, %(not yet)d are not there yet.\n\n" % counts
    table = "| | Redis 7.2 | kevy 2.0.20 | here |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    return HEAD + said + table, ours


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    ap.add_argument("--node", required=True)
    ap.add_argument("--write", action="store_true")
    opts = ap.parse_args()
    count = Count()
    with Scratch() as scratch:
        server = node_server(scratch, opts.node, args=["--no-pin"])
        fresh, ours = page(server.addr)
        if not server.alive():
            count.fail("the node ended", server.log_tail())
    if opts.write:
        with open(PAGE, "w", encoding="utf-8") as f:
            f.write(fresh)
    try:
        with open(PAGE, encoding="utf-8") as f:
            kept = f.read()
    except FileNotFoundError:
        kept = ""
    changed = sorted(set(fresh.splitlines()) ^ set(kept.splitlines()))
    count.check(
        "the page says what the node has",
        fresh == kept,
        "run tests/interop/coverage.py --node %s --write\n    %s" % (opts.node, "\n    ".join(changed[:20])),
    )
    sampled = {s.lstrip("~? ").split()[0] for s in compare.samples()}
    bare = {n for n in ours if "|" not in n} - sampled - set(compare.ALSO) - compare.NO_ARITY - compare.OWN
    count.check("every command has a sample in compare.py", not bare, " ".join(sorted(bare)))
    count.close()


if __name__ == "__main__":
    main()
