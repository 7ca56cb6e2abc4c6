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


# What dashboards read of INFO.
FIELDS = """
server: redis_version redis_mode os arch_bits multiplexing_api process_id run_id tcp_port server_time_usec
    uptime_in_seconds uptime_in_days hz configured_hz lru_clock executable config_file io_threads_active
clients: connected_clients maxclients blocked_clients
memory: used_memory used_memory_human used_memory_rss maxmemory maxmemory_policy mem_allocator
persistence: loading async_loading rdb_bgsave_in_progress rdb_last_save_time aof_enabled
    aof_rewrite_in_progress aof_rewrite_scheduled
stats: total_connections_received total_commands_processed instantaneous_ops_per_sec total_net_input_bytes
    total_net_output_bytes instantaneous_input_kbps instantaneous_output_kbps rejected_connections
    expired_keys evicted_keys latest_fork_usec total_forks total_error_replies
replication: role connected_slaves master_failover_state master_replid master_replid2 master_repl_offset
    second_repl_offset repl_backlog_active repl_backlog_size repl_backlog_first_byte_offset
    repl_backlog_histlen
cpu: used_cpu_sys used_cpu_user used_cpu_sys_children used_cpu_user_children
cluster: cluster_enabled
"""


def titles(conn, *sections):
    text = conn.call("INFO", *sections).value.decode()
    return [line[2:].strip() for line in text.splitlines() if line.startswith("# ")]


def information(node, server):
    for part in FIELDS.strip().replace("\n    ", " ").splitlines():
        section, names = part.split(": ")
        ours, theirs = node.info(section), server.info(section)
        missing = [name for name in names.split() if name not in ours]
        same("INFO %s has what dashboards read" % section, missing, [])
        unknown = [name for name in names.split() if name not in theirs]
        same("redis-server has it in INFO %s too" % section, unknown, [])
    for conn in (node, server):
        # So that no section is empty by chance.
        conn.call("NOSUCH")
        conn.call("SET", "k", "v")
    for args in ((), ("default",), ("all",), ("everything",), ("server", "CPU"), ("nosuch",), ("nosuch", "stats")):
        # The node's own sections come last, and only where everything is wanted.
        own = ["Cores", "Shards"] if args in (("all",), ("everything",)) else []
        same("INFO %s" % " ".join(args), titles(node, *args), titles(server, *args) + own)


def stats_of(conn, name):
    line = conn.info("commandstats").get("cmdstat_" + name, "")
    return {k: float(v) for k, v in (pair.split("=") for pair in line.split(",") if pair)}


def counting(node):
    node.ask("CONFIG", "RESETSTAT")
    for _ in range(5):
        node.call("SET", "text", "v")
    for _ in range(3):
        node.call("LPUSH", "text", "v")
    node.call("LPUSH", "text")
    node.call("NOSUCH")
    node.ask("EVAL", "return 1", 0)
    node.ask("MULTI")
    node.ask("GET", "text")
    node.call("INCR", "text")
    node.call("EXEC")
    got = {name: stats_of(node, name) for name in ("set", "lpush", "get", "incr", "exec", "multi", "eval")}
    calls = {name: int(stats.get("calls", 0)) for name, stats in got.items()}
    want = {"set": 5, "lpush": 3, "get": 1, "incr": 1, "exec": 1, "multi": 1, "eval": 1}
    same("calls are counted, those in EXEC when they run", calls, want)
    same("failed calls", (got["lpush"]["failed_calls"], got["incr"]["failed_calls"]), (3, 1))
    same("rejected calls", got["lpush"]["rejected_calls"], 1)
    errors = {k: v for k, v in node.info("errorstats").items() if k != "txt"}
    same("errors by kind", errors, {"errorstat_ERR": "count=3", "errorstat_WRONGTYPE": "count=3"})
    same("all errors", node.info("stats")["total_error_replies"], "6")
    count.check("latencystats", "latency_percentiles_usec_eval" in node.info("latencystats"))
    node.ask("CONFIG", "SET", "slowlog-log-slower-than", "0")
    node.ask("CONFIG", "RESETSTAT")
    for _ in range(200):
        node.ask("GET", "text")
    curve = dict(node.ask("LATENCY", "HISTOGRAM", "get", "nosuch"))[b"get"]
    curve = dict(curve)
    same("LATENCY HISTOGRAM counts every call", curve[b"calls"], 200)
    counts = [number for _, number in curve[b"histogram_usec"]]
    count.check("its curve rises to that", counts == sorted(counts) and counts[-1] == 200, repr(counts))
    node.ask("CONFIG", "SET", "slowlog-log-slower-than", "10000")
    node.ask("CONFIG", "RESETSTAT")
    same("RESETSTAT", stats_of(node, "get"), {})


def slow(node, server):
    for conn in (node, server):
        conn.ask("CONFIG", "SET", "slowlog-log-slower-than", "0")
        conn.ask("SLOWLOG", "RESET")
        conn.ask("CLIENT", "SETNAME", "me")
        conn.ask("SET", "key", "x" * 200)
        conn.ask("RPUSH", "list", *range(50))
        conn.call("AUTH", "wrong")
        conn.call("HELLO", "3", "AUTH", "nobody", "wrong")
    # Where a command ran for another core, the client is not known.
    ours, theirs = ([e[3] for e in conn.ask("SLOWLOG", "GET", "5")] for conn in (node, server))
    same("SLOWLOG shortens and hides the same", ours, theirs)
    same("SLOWLOG GET -1 is all", len(node.ask("SLOWLOG", "GET", "-1")), node.ask("SLOWLOG", "LEN") - 1)
    node.ask("CONFIG", "SET", "slowlog-max-len", "2")
    node.ask("PING")
    same("SLOWLOG LEN", node.ask("SLOWLOG", "LEN"), 2)
    for conn in (node, server):
        conn.ask("CONFIG", "SET", "slowlog-log-slower-than", "10000", "slowlog-max-len", "128")


def latencies(node, server):
    for conn in (node, server):
        conn.ask("LATENCY", "RESET")
    same("no events", node.ask("LATENCY", "LATEST"), [])
    node.ask("CONFIG", "SET", "latency-monitor-threshold", "10")
    node.ask("DEBUG", "SLEEP", "0.03")
    event = node.ask("LATENCY", "LATEST")[0]
    count.check("an event", event[0] == b"command" and 30 <= event[2] == event[3], repr(event))
    same("its history", node.ask("LATENCY", "HISTORY", "command"), [event[1:3]])
    graph = node.ask("LATENCY", "GRAPH", "command")
    count.check("its graph", graph.startswith(b"txt:command - high %d ms, low %d ms" % (event[2], event[2])), repr(graph))
    count.check("the doctor", b"command: 1 times" in node.ask("LATENCY", "DOCTOR"))
    for line in ("LATENCY GRAPH nosuch", "LATENCY HISTORY nosuch", "LATENCY RESET nosuch"):
        same(line, plain(node.call(*line.split())), plain(server.call(*line.split())))
    same("LATENCY RESET counts", node.ask("LATENCY", "RESET", "command", "nosuch"), 1)
    node.ask("CONFIG", "SET", "latency-monitor-threshold", "0")


def access(addr, node, server):
    for line in (
        "ACL WHOAMI",
        "ACL USERS",
        "ACL LIST",
        "ACL GETUSER default",
        "ACL GETUSER nosuch",
        "ACL CAT",
        "ACL CAT nosuch",
        "ACL CAT transaction",
        "ACL LOG RESET",
        "ACL LOG",
        "ACL LOG x",
        "ACL DRYRUN default GET a",
        "ACL DRYRUN default GET",
        "ACL DRYRUN default nosuch",
        "ACL DRYRUN nosuch GET a",
        "ACL GENPASS 0",
        "ACL GENPASS x",
        "ACL NOSUCH",
        "AUTH x",
        "AUTH default x",
        "AUTH nosuch x",
        "AUTH a b c",
        "HELLO 3 AUTH nosuch x",
        "CONFIG SET requirepass secret",
        "ACL LIST",
        "ACL GETUSER default",
        "GET k",
        "RESET",
        "GET k",
        "MULTI",
        "NOSUCH",
        "GET",
        "HELLO 3",
        "HELLO 3 AUTH default wrong",
        "AUTH wrong",
        "AUTH nosuch secret",
        "AUTH default wrong",
        "AUTH secret",
        "GET k",
        "RESET",
        "AUTH default secret",
        "GET k",
        "CONFIG SET maxclients 5 nosuch 1",
        "CONFIG SET maxclients 5 maxclients 6",
        "CONFIG SET port",
        "CONFIG GET requirepass slowlog-max-len",
        "CONFIG SET latency-monitor-threshold x",
        "CONFIG REWRITE",
    ):
        args = line.split()
        ours, theirs = (plain(conn.call(*args)) for conn in (node, server))
        if isinstance(ours, tuple) and "CAT" in args:
            ours, theirs = (set(names) for names in (ours, theirs))
        if line.startswith("CONFIG GET") and isinstance(ours, tuple):
            # Pairs in any order.
            ours, theirs = (dict(zip(pairs[::2], pairs[1::2])) for pairs in (ours, theirs))
        same(line, ours, theirs)
    same("ACL GENPASS 5 is two digits", len(node.ask("ACL", "GENPASS", "5")), 2)
    # Whichever core takes them, new connections must show the password as soon as CONFIG SET has answered.
    fresh = [Conn(addr) for _ in range(16)]
    errors = {conn.call("GET", "k").value for conn in fresh}
    same("new connections of every core", errors, {b"NOAUTH Authentication required."})
    for conn in fresh:
        conn.close()
    for conn in (node, server):
        conn.ask("CONFIG", "SET", "requirepass", "")


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
            information(a, b)
            counting(a)
            slow(a, b)
            latencies(a, b)
            access(node.addr, a, b)
        count.check("the node still runs", node.alive())
    count.close()


if __name__ == "__main__":
    main()
