#!/usr/bin/env python3
"""Holds what the node says about itself beside what redis-server says.

    introspect.py --node BINARY [--threads N]     starts redis-server and the node

COMMAND and COMMAND DOCS of every command that both have, with subcommands, flags, categories, tips, key
specifications and arguments; COMMAND's other forms; INFO, CONFIG, SLOWLOG, LATENCY, ACL and passwords by
what clients and dashboards read of them. NEWER names what is meant to differ, with its reason.
"""

import argparse

from wire import Conn, Count, Scratch, node_server, redis_server

count = Count(quiet=True)

# Commands whose row follows a later version than the redis-server at hand, 7.0.
NEWER = {
    "blpop": "7.2 lets scripts call it",
    "brpop": "7.2 lets scripts call it",
    "blmove": "7.2 lets scripts call it",
    "brpoplpush": "7.2 lets scripts call it",
    "bzpopmin": "7.2 lets scripts call it",
    "bzpopmax": "7.2 lets scripts call it",
    "wait": "7.2 calls it blocking and lets scripts call it",
    "zrank": "7.2 adds WITHSCORE",
    "zrevrank": "7.2 adds WITHSCORE",
}

# Subcommands that only one side has: those of 7.2, and those that are refused here.
ONLY_ONE = {
    "client|no-touch",
    "client|setinfo",
    "cluster|myshardid",
    "acl|deluser",
    "acl|load",
    "acl|save",
    "acl|setuser",
}
REFUSED_CLUSTER = (
    "addslots addslotsrange bumpepoch delslots delslotsrange failover flushslots forget meet replicate "
    "reset saveconfig set-config-epoch setslot"
)
ONLY_ONE |= {"cluster|" + sub for sub in REFUSED_CLUSTER.split()}

# Requests whose keys are asked for. The last group are errors.
REQUESTS = """
GET a
SET a b
SET a b GET
SET a b EX 10 get
MSET a 1 b 2
MGET a b c
DEL a b
BITFIELD a GET u8 0
BITFIELD a GET u8 0 OVERFLOW SAT GET u8 1
BITFIELD a SET u8 0 1
BITOP AND d a b
ZUNIONSTORE d 2 a b WEIGHTS 1 2
ZUNION 2 a b
ZINTERCARD 2 a b LIMIT 1
ZDIFF 0
ZMPOP 2 a b MIN
LMPOP 1 a LEFT
BLMPOP 1 2 a b LEFT
BZMPOP 1 2 a b MIN
BLPOP a b 1
SINTERCARD 1 a
XREAD COUNT 1 STREAMS a b 0 0
XREAD BLOCK 1 COUNT 2 STREAMS a 0
XREADGROUP GROUP g c STREAMS a b > >
XREADGROUP GROUP streams c STREAMS a >
XGROUP CREATE a g 0
XINFO STREAM a
OBJECT ENCODING a
MEMORY USAGE a
GEORADIUS a 1 2 3 km STORE b
GEORADIUS a 1 2 3 km STOREDIST b
GEORADIUS a 1 2 3 km
GEOSEARCHSTORE d a FROMMEMBER x BYBOX 1 1 km
COPY a b
RENAME a b
LMOVE a b LEFT RIGHT
SMOVE a b c
EVAL s 2 a b c
EVAL s 0
EVAL s 3 a
EVALSHA s 1 a
EVAL_RO s 1 a
PFADD a b
PFMERGE d a b
PFCOUNT a b
SORT a
SORT a STORE b
SORT a BY w_* LIMIT 0 1 GET x STORE b
SORT_RO a
FCALL f 1 a
LCS a b
DUMP a
RESTORE a 0 x
SPUBLISH c m
SSUBSCRIBE c
WATCH a b
TOUCH a b
UNLINK a
EXISTS a b
MIGRATE h 1 a 0 10
PING
GET
GET a b
NOSUCH a
ZUNION 2 a
CLIENT LIST
OBJECT NOSUCH a
"""


def plain(value):
    """A reply without the order of its sets and maps."""
    if value.kind == "~":
        return ("set", tuple(sorted(repr(plain(v)) for v in value.value)))
    if value.kind == "%":
        return ("map", tuple(sorted((plain(k), repr(plain(v))) for k, v in value.value)))
    if value.kind in "*>" and value.value is not None:
        return tuple(plain(v) for v in value.value)
    return value.value.decode() if isinstance(value.value, bytes) else value.value


def fields(reply):
    return {k.value.decode(): v for k, v in reply.value}


def same(name, ours, theirs):
    count.check(name, ours == theirs, "node %r\n    redis %r" % (ours, theirs))


def row_parts(row):
    name, arity, flags, first, last, step, categories, tips, keys, subs = row.value
    return (
        {
            "arity": arity.value,
            "flags": plain(flags),
            "first, last, step": (first.value, last.value, step.value),
            "categories": plain(categories),
            "tips": plain(tips),
            "keys": plain(keys),
        },
        {sub.value[0].value.decode(): sub for sub in subs.value},
    )


def compare_rows(name, ours, theirs):
    (here, our_subs), (there, their_subs) = row_parts(ours), row_parts(theirs)
    if name not in NEWER:
        for part in here:
            same("COMMAND INFO %s: %s" % (name, part), here[part], there[part])
    for sub in sorted(set(our_subs) ^ set(their_subs)):
        count.check("COMMAND INFO %s" % sub, sub in ONLY_ONE, "only one side has it")
    for sub in sorted(set(our_subs) & set(their_subs)):
        compare_rows(sub, our_subs[sub], their_subs[sub])


def compare_docs(name, ours, theirs):
    ours, theirs = fields(ours), fields(theirs)
    count.check("COMMAND DOCS %s has a summary" % name, bool(ours["summary"].value))
    our_subs, their_subs = (fields(d["subcommands"]) if "subcommands" in d else {} for d in (ours, theirs))
    # Summaries are our own words; the history is left out.
    left_out = {"summary", "history", "subcommands"}
    if name not in NEWER:
        for part in sorted((set(ours) | set(theirs)) - left_out):
            here, there = (plain(d[part]) if part in d else None for d in (ours, theirs))
            same("COMMAND DOCS %s: %s" % (name, part), here, there)
    for sub in sorted(set(our_subs) & set(their_subs)):
        compare_docs(sub, our_subs[sub], their_subs[sub])


def commands(node, server):
    ours = {row.value[0].value.decode(): row for row in node.call("COMMAND").value}
    theirs = {row.value[0].value.decode(): row for row in server.call("COMMAND").value}
    both = sorted(set(ours) & set(theirs))
    count.check("at least 190 commands are held side by side", len(both) >= 190, str(len(both)))
    for name in both:
        compare_rows(name, ours[name], theirs[name])
    same("COMMAND COUNT", node.ask("COMMAND", "COUNT"), len(ours))
    our_docs, their_docs = (fields(side.call("COMMAND", "DOCS")) for side in (node, server))
    same("COMMAND DOCS tells of every command", set(our_docs), set(ours))
    for name in both:
        compare_docs(name, our_docs[name], their_docs[name])
    listed = {name.decode() for name in node.ask("COMMAND", "LIST")}
    there = {name.decode() for name in server.ask("COMMAND", "LIST")}
    is_both = lambda name: name.split("|")[0] in both and name not in ONLY_ONE
    same("COMMAND LIST", set(filter(is_both, listed)), set(filter(is_both, there)))
    for form in ("ACLCAT hash", "ACLCAT transaction", "ACLCAT nosuch", "PATTERN z*", "PATTERN *|help", "MODULE x"):
        args = ["COMMAND", "LIST", "FILTERBY"] + form.split()
        here, there = ({name.decode() for name in side.ask(*args)} for side in (node, server))
        same(" ".join(args), set(filter(is_both, here)), set(filter(is_both, there)))
    for request in REQUESTS.strip().splitlines():
        if request.split()[0].lower() in set(theirs) - set(ours):
            continue
        for sub in ("GETKEYS", "GETKEYSANDFLAGS"):
            args = ["COMMAND", sub] + request.split()
            same(" ".join(args), plain(node.call(*args)), plain(server.call(*args)))
    for line in (
        "COMMAND INFO client|list nosuch get",
        "COMMAND INFO client|nosuch",
        "COMMAND COUNT x",
        "COMMAND NOSUCH",
        "COMMAND LIST FILTERBY nosuch x",
        "COMMAND LIST x",
        "COMMAND DOCS nosuch",
        "COMMAND GETKEYS",
        "COMMAND HELP",
        "SLOWLOG HELP",
        "LATENCY HELP",
        "CONFIG HELP",
        "SLOWLOG NOSUCH",
        "LATENCY NOSUCH",
        "CONFIG NOSUCH",
        "CONFIG GET",
        "CONFIG SET a",
        "SLOWLOG LEN x",
        "SLOWLOG GET a",
        "SLOWLOG GET -2",
        "LATENCY HISTORY",
    ):
        args = line.split()
        same(line, plain(node.call(*args)), plain(server.call(*args)))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--node", required=True)
    ap.add_argument("--threads", type=int, default=2)
    opts = ap.parse_args()
    with Scratch() as scratch:
        node = node_server(scratch, opts.node, threads=opts.threads)
        server = redis_server(scratch)
        with Conn(node.addr) as a, Conn(server.addr) as b:
            for conn in (a, b):
                conn.call("HELLO", "3")
            commands(a, b)
        count.check("the node still runs", node.alive())
    count.close()


if __name__ == "__main__":
    main()
