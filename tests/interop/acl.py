#!/usr/bin/env python3
"""Holds the node's users and their rights beside redis-server's.

    acl.py --node BINARY [--seed N] [--threads N]     starts redis-server and the node

The same random ACL SETUSER on both, then what both say of those users (ACL LIST, GETUSER), what the users may do
(DRYRUN of many requests, and some of them asked for), what ACL LOG tells of it, and all around it: MULTI, scripts,
channels, passwords, users that go, the file, protected mode. Commands that one side alone has are left out of what is
compared; so is the order of single commands, which redis-server itself does not keep from run to run. Then, of the
node alone, what becomes of connections in a handoff.
"""

import argparse
import os
import random
import re
import socket
import subprocess

from introspect import REQUESTS
from wire import Closed, Conn, Count, Scratch, Server, free_base, node_server, redis_server, wait_until

count = Count(quiet=True)

PASSWORDS = ["one", "two", "three"]
PATTERNS = ["a*", "b*", "d", "g:*", "h?", "[cs]*", "w_*", "k", "*x", "**"]
CHANNELS = ["c", "news.*", "n?", "a*", "*", "__*"]
SHA_OF_ONE = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
BAD_RULES = (
    "foo +nosuch -nosuch +@nosuch -@nosuch +config|nosuch -config|nosuch +config|get|x +select| -select|1 +get|x|y "
    "%%~a %%RX~a %%RR~a <nosuch !nosuch #nosuch #%s (foo) (+nosuch) +| + - onn nopasss ( (+get"
    % ("G" * 64)
).split()
MORE = """
APPEND a x|SETRANGE a 1 x|GETDEL a|GETEX a|GETEX a EX 10|GETSET a x|SETNX a x|SETEX a 10 x|INCR a|STRLEN a
HSET h1 f v|HGET h1 f|HGETALL h1|HDEL h1 f|HRANDFIELD h1|LPUSH b x|LPOP b|LRANGE b 0 1|RPOPLPUSH b d|BLMOVE b d LEFT LEFT 1
SADD s x|SMEMBERS s|SINTERSTORE d s a|SUNION s a|SDIFF s|SPOP s|ZADD d 1 x|ZRANGE d 0 1|ZRANGESTORE a d 0 1|ZREM d x
ZINTERSTORE d 2 a b|ZDIFFSTORE d 1 a|ZUNIONSTORE g:1 1 a|GEOADD g:1 1 1 x|GEOSEARCH g:1 FROMMEMBER x BYBOX 1 1 km
GEORADIUSBYMEMBER g:1 x 1 km STORE a|GEORADIUS_RO a 1 2 3 km|PFADD h1 x|SETBIT a 1 1|GETBIT a 1|BITCOUNT a|BITPOS a 1
BITFIELD_RO a GET u8 0|XADD w_1 * f v|XLEN w_1|XACK w_1 g 1-1|XTRIM w_1 MAXLEN 1|XDEL w_1 1-1|XRANGE w_1 - +
EXPIRE a 1|TTL a|TYPE a|PERSIST a|RENAMENX a b|MOVE a 1|RANDOMKEY|KEYS a*|SCAN 0|SSCAN s 0|HSCAN h1 0|ZSCAN d 0|DBSIZE
FLUSHALL|FLUSHDB|SWAPDB 0 1|SELECT 0|SELECT 1|PUBLISH c m|PUBLISH news.1 m|PUBLISH other m|SPUBLISH news.1 m
SUBSCRIBE c news.2|SUBSCRIBE other|PSUBSCRIBE news.*|PSUBSCRIBE news.1*|PSUBSCRIBE *|SSUBSCRIBE c other|UNSUBSCRIBE x
CONFIG GET a|CONFIG SET maxclients 100|CONFIG RESETSTAT|CONFIG HELP|CONFIG|CONFIG NOSUCH|CONFIG GET|CLIENT ID|CLIENT LIST
CLIENT KILL x:1|CLIENT GETNAME|CLIENT SETNAME x|COMMAND|COMMAND COUNT|COMMAND INFO get|INFO|LATENCY LATEST|MEMORY STATS
SLOWLOG GET|ACL WHOAMI|ACL USERS|ACL LIST|ACL CAT|ACL GENPASS|DEBUG SLEEP 0|DEBUG OBJECT a|OBJECT FREQ a|OBJECT HELP
SCRIPT LOAD x|SCRIPT EXISTS x|FUNCTION LIST|FUNCTION DUMP|EVALSHA_RO s 1 a|FCALL_RO f 1 b|WAIT 0 1|TIME|ECHO x|PING x
LOLWUT|ROLE|REPLICAOF no one|SHUTDOWN NOSAVE|SAVE|BGSAVE|LASTSAVE|MONITOR|AUTH x|AUTH x y|HELLO 3|RESET|QUIT|MULTI|EXEC
DISCARD|UNWATCH|READONLY|ASKING|CLUSTER INFO|CLUSTER KEYSLOT a|PUBSUB CHANNELS|PUBSUB NUMSUB x|XREADGROUP GROUP g c COUNT 1 STREAMS w_1 b > >
XAUTOCLAIM w_1 g c 0 0|XCLAIM w_1 g c 0 1-1|XPENDING w_1 g|XSETID w_1 1-1|XREVRANGE w_1 + -|XGROUP DESTROY w_1 g|XINFO GROUPS w_1
MSETNX a 1 d 2|SUBSTR a 0 1|SORT a BY nosort|SORT a GET #|SORT_RO a BY w_*|SORT a BY w_* STORE d|SINTERCARD 2 a s|EXPIRETIME a
OBJECT ENCODING d|MEMORY DOCTOR|PSETEX a 10 x|DECRBY d 2|LINSERT b BEFORE x y|LPOS b x|LMPOP 2 b d LEFT|ZMSCORE d x|SMISMEMBER s x
"""
# Asked for by the users themselves: what does not block, stop or lock anybody out.
ASKED = """
GET a|SET a 1|SET b 1 GET|DEL d|MSET a 1 g:1 2|MGET a b|COPY a b|RENAME a b|ZUNIONSTORE d 2 a b|EXISTS a|TYPE zz|TTL zz
PUBLISH c m|PUBLISH other m|CONFIG GET maxclients|CONFIG NOSUCH|CONFIG GET|CLIENT ID|ACL WHOAMI|SELECT 0|SELECT 1|ECHO x
XREAD COUNT 1 STREAMS a b 0 0|SORT a BY w_*|SORT a GET #|SORT a BY nosort|SORT_RO a GET x_*|EVAL return(1) 1 a|EVAL return(1) 0|OBJECT ENCODING a
BITFIELD a GET u8 0|BITFIELD a SET u8 0 1|KEYS zzz|DBSIZE|TIME|LRANGE b 0 1|HGET h1 f|SMEMBERS s|PFCOUNT a|GETEX a
SPUBLISH c m|PUBSUB NUMPAT|SCRIPT EXISTS x|COMMAND COUNT|NOSUCH|GET|MEMORY USAGE a|WATCH a|UNWATCH|XLEN w_1|LCS a b
""".replace("\n", "|")
REQUESTED = [line.split() for line in (REQUESTS + MORE.replace("|", "\n")).split("\n") if line.strip()]
ASKED = [line.split() for line in ASKED.split("|") if line.strip()]


def text(reply):
    """A reply as text and lists, without the order of its sets."""
    if reply.kind in "*>" and reply.value is not None:
        return [text(one) for one in reply.value]
    if reply.kind == "~":
        return sorted(text(one) for one in reply.value)
    if reply.kind == "%":
        return [part for pair in reply.value for part in (text(pair[0]), text(pair[1]))]
    if isinstance(reply.value, bytes):
        mark = "-" if reply.is_error else ""
        return mark + reply.value.decode("utf-8", "replace")
    return reply.value


class Pair:
    """One connection to each of the two."""

    def __init__(self, node, server):
        self.node, self.server = node, server

    def both(self, *args):
        return text(self.node.call(*args)), text(self.server.call(*args))

    def same(self, *args):
        ours, theirs = self.both(*args)
        count.check(" ".join(args), ours == theirs, "node  %r\n    redis %r" % (ours, theirs))
        return ours

    def close(self):
        self.node.close()
        self.server.close()


class Bench:
    def __init__(self, servers, rng):
        self.servers, self.rng = servers, rng
        self.admin = self.pair()
        ours, theirs = self.admin.both("COMMAND", "LIST")
        self.common = set(ours) & set(theirs)
        self.known = [name for name in ours if name in theirs]
        self.categories = self.admin.same("ACL", "CAT")

    def pair(self):
        return Pair(*(server.conn() for server in self.servers))

    def user(self, name, password):
        pair = self.pair()
        pair.same("AUTH", name, password)
        return pair

    def rules_of(self, rules):
        """Rules of commands: those of categories in their order, and the set of single ones that both have."""
        words = rules.split()
        is_category = lambda word: word[1:2] == "@"
        single = [word for word in words if not is_category(word)]
        named = lambda word: word[1:].lower() in self.common or word[1:].split("|")[0] in ("select", "debug")
        return [word for word in words if is_category(word)], sorted(filter(named, single))

    def line(self, line):
        """A line of ACL LIST in parts that can be compared."""
        parts = re.split(r"[()]", line)
        heads, rules = [], []
        for part in parts:
            words = part.split(" ")
            rules.append(self.rules_of(" ".join(w for w in words if w[:1] in ("+", "-"))))
            heads.append([w for w in words if w[:1] not in ("+", "-")])
        return heads, rules

    def described(self, name):
        """ACL GETUSER in parts that can be compared."""
        def parts(reply):
            if not isinstance(reply, list):
                return reply
            fields = dict(zip(reply[::2], reply[1::2]))
            fields["commands"] = self.rules_of(fields["commands"])
            if "selectors" in fields:
                fields["selectors"] = [parts(one) for one in fields["selectors"]]
            return fields

        ours, theirs = (parts(reply) for reply in self.admin.both("ACL", "GETUSER", name))
        count.check("ACL GETUSER %s" % name, ours == theirs, "node  %r\n    redis %r" % (ours, theirs))

    def lists(self):
        ours, theirs = self.admin.both("ACL", "LIST")
        count.check("as many users", len(ours) == len(theirs))
        for one, other in zip(ours, theirs):
            is_same = self.line(one) == self.line(other)
            count.check("ACL LIST", is_same, "node  %s\n    redis %s" % (one, other))

    def rule(self):
        rng = self.rng
        kind = rng.randrange(100)
        sign = rng.choice("+-")
        if kind < 25:
            return sign + "@" + rng.choice(self.categories)
        if kind < 55:
            return sign + rng.choice(self.known)
        if kind < 58:
            return rng.choice(["+@all", "-@all", "allcommands", "nocommands", "+@ALL"])
        if kind < 62:
            return "+%s|%s" % (rng.choice(["select", "debug", "SELECT"]), rng.choice(["0", "1", "sleep"]))
        if kind < 74:
            return rng.choice(["~", "~", "%R~", "%W~", "%RW~", "%r~", "%wr~"]) + rng.choice(PATTERNS)
        if kind < 78:
            return rng.choice(["allkeys", "~*", "resetkeys", "resetkeys", "RESETKEYS"])
        if kind < 84:
            return "&" + rng.choice(CHANNELS)
        if kind < 86:
            return rng.choice(["allchannels", "resetchannels", "resetchannels"])
        if kind < 91:
            mark = rng.choice("><")
            return mark + rng.choice(PASSWORDS)
        if kind < 92:
            return rng.choice(["#", "!"]) + SHA_OF_ONE
        if kind < 97:
            words = "on off nopass resetpass reset clearselectors sanitize-payload skip-sanitize-payload ON"
            return rng.choice(words.split())
        return rng.choice(BAD_RULES)

    def selector(self):
        parts = [self.rule() for _ in range(self.rng.randrange(1, 5))]
        parts = [part for part in parts if part[:1] in "~%&+-"]
        return "(" + " ".join(parts) + ")"

    def set_randomly(self, name, length):
        rules = [self.rule() for _ in range(length)]
        if self.rng.randrange(3) == 0:
            rules.insert(self.rng.randrange(len(rules) + 1), self.selector())
        if self.rng.randrange(6) == 0:
            # In parts, as it is typed.
            rules += self.selector().split(" ")
        self.admin.same("ACL", "SETUSER", name, *rules)


def random_users(bench):
    """Rules of every kind, good and bad, and what both make of them."""
    for rule in BAD_RULES:
        bench.admin.same("ACL", "SETUSER", "bad", "on", rule)
        bench.admin.same("ACL", "SETUSER", "bad", "~*", "&*", rule)
    for rule in ("~x", "&x", "%R~x"):
        bench.admin.same("ACL", "SETUSER", "full", "~*", "&*", rule)
    bench.admin.same("ACL", "SETUSER", "a b", "on")
    bench.admin.same("ACL", "GETUSER", "nosuch")
    for category in bench.categories:
        bench.admin.same("ACL", "SETUSER", "cat-" + category, "+@" + category)
        bench.admin.same("ACL", "SETUSER", "less-" + category, "+@all", "-@" + category)
    bench.lists()
    for at in range(150):
        name = "u%d" % (at % 25)
        bench.set_randomly(name, bench.rng.randrange(1, 9))
        bench.described(name)
    bench.lists()
    bench.admin.same("ACL", "USERS")


def decisions(bench):
    """What the users may do, by DRYRUN and by asking."""
    names = bench.admin.same("ACL", "USERS")
    for name in (name for name in names if name.startswith("u")):
        for request in REQUESTED:
            if request[0] == "MIGRATE":
                continue
            bench.admin.same("ACL", "DRYRUN", name, *request)
    bench.admin.same("ACL", "DRYRUN", "nosuch", "GET", "a")
    bench.admin.same("ACL", "LOG", "RESET")
    for at in range(12):
        name = "q%d" % at
        rules = ["on", "nopass", "+@all" if at % 2 else "+@read"]
        rules += ["~" + bench.rng.choice(PATTERNS) for _ in range(at % 4)]
        rules += ["%R~" + bench.rng.choice(["x*", "c*", "b*"]), "&" + bench.rng.choice(CHANNELS)]
        rules += [bench.rng.choice("+-") + bench.rng.choice(bench.known) for _ in range(12)]
        rules += ["-shutdown", "-client|reply", "-quit", "+acl|whoami"]
        bench.admin.same("ACL", "SETUSER", name, *rules)
        pair = bench.user(name, "any")
        for request in ASKED:
            ours, theirs = pair.both(*request)
            refused = lambda reply: isinstance(reply, str) and reply.startswith("-")
            if refused(theirs) or refused(ours):
                label = "%s asks for %s" % (name, " ".join(request))
                count.check(label, ours == theirs, "node  %r\n    redis %r" % (ours, theirs))
            else:
                count.check("allowed on both", True)
        logs(bench, "ACL LOG of " + name)
        pair.close()


def logs(bench, label):
    """ACL LOG without ages, and of the client what does not differ by nature."""
    def parts(reply):
        entries = []
        for entry in reply:
            fields = dict(zip(entry[::2], entry[1::2]))
            float(fields.pop("age-seconds"))
            client = dict(word.split("=", 1) for word in fields.pop("client-info").split(" ") if "=" in word)
            fields["client"] = {key: client.get(key) for key in ("user", "db", "resp", "name")}
            entries.append((list(fields), fields))
        return entries

    ours, theirs = (parts(reply) for reply in bench.admin.both("ACL", "LOG", "200"))
    ours, theirs = ([one for one in log if one[1]["object"] != "nosuch"] for log in (ours, theirs))
    count.check(label, ours == theirs, "node  %r\n    redis %r" % (ours[:4], theirs[:4]))
    bench.admin.same("ACL", "LOG", "RESET")


def categories(bench):
    for category in bench.categories:
        ours, theirs = (set(names) for names in bench.admin.both("ACL", "CAT", category))
        ours, theirs = ours & bench.common, theirs & bench.common
        label = "ACL CAT %s" % category
        count.check(label, ours == theirs, "node  %r\n    redis %r" % (ours - theirs, theirs - ours))
    bench.admin.same("ACL", "CAT", "nosuch")
    bench.admin.same("ACL", "NOSUCH")
    bench.admin.same("ACL", "SETUSER")
    bench.admin.same("ACL", "WHOAMI", "x")
    bench.admin.same("ACL", "HELP")
    bench.admin.same("ACL", "LOG", "x")
    bench.admin.same("ACL", "LOAD")
    bench.admin.same("ACL", "SAVE")


def transactions(bench):
    bench.admin.same("ACL", "SETUSER", "tom", "on", ">pw", "~a*", "+@all", "-del", "&c", "-acl", "+acl|whoami")
    tom = bench.user("tom", "pw")
    for request in ("MULTI", "SET a 1", "SET b 1", "GET a", "EXEC"):
        tom.same(*request.split())
    for request in ("MULTI", "SET a 1", "PUBLISH c x", "GET a", "SORT a GET x", "CONFIG GET maxclients"):
        tom.same(*request.split())
    bench.admin.same("ACL", "SETUSER", "tom", "resetkeys", "%R~a*", "resetchannels", "-config")
    tom.same("EXEC")
    for request in ("MULTI", "AUTH tom no", "AUTH tom pw", "ACL WHOAMI", "GET a", "EXEC", "ACL WHOAMI"):
        tom.same(*request.split())
    bench.admin.same("ACL", "SETUSER", "tom", "-exec")
    for request in ("MULTI", "GET a", "EXEC", "DISCARD", "MULTI", "GET a", "DISCARD"):
        tom.same(*request.split())
    logs(bench, "ACL LOG of transactions")
    tom.close()


def scripts(bench):
    bench.admin.same("ACL", "SETUSER", "sam", "on", ">pw", "~a*", "%R~r*", "&c", "+@all", "-del", "-script", "-config|set")
    sam = bench.user("sam", "pw")
    calls = (
        "'get','a'", "'get','b'", "'get','r1'", "'set','r1','x'", "'del','a'", "'publish','c','m'", "'publish','x','m'",
        "'mget','a','r','b'", "'copy','r1','a1'", "'copy','a1','r1'", "'object','encoding','b'", "'nosuch'", "'get'",
        "'set','a','1','get'", "'sort','a1','store','b'", "'eval','x',0",
    )
    for call in calls:
        for script in ("return redis.call(%s)", "return redis.pcall(%s)", "return {redis.acl_check_cmd(%s)}"):
            if "acl_check" in script and ("'get'" == call or "nosuch" in call):
                continue
            sam.same("EVAL", script % call, "0")
    sam.same("EVAL", "return redis.call('get', KEYS[1])", "1", "b")
    sam.same("EVAL", "return redis.call('get', KEYS[1])", "1", "a")
    for request in (("MULTI",), ("EVAL", "return redis.pcall('set','b','1')", "0"), ("EXEC",)):
        sam.same(*request)
    bench.admin.same("EVAL", "return redis.call('set', 'anything', '1')", "0")
    logs(bench, "ACL LOG of scripts")
    sam.close()


def is_closed(conn):
    """Has the server closed it? Pushes that were on their way are read."""
    conn.sock.settimeout(0.3)
    try:
        while True:
            conn.read()
    except Closed as closed:
        return "no reply" not in str(closed)


def closed_together(label, pair, expected):
    ours, theirs = is_closed(pair.node), is_closed(pair.server)
    count.check(label, ours == theirs == expected, "node %s, redis %s" % (ours, theirs))
    pair.close()


def connections(bench):
    """Who stays and who has to go."""
    admin = bench.admin
    admin.same("ACL", "SETUSER", "eve", "on", ">pw", "+@all", "~*", "&c", "&d", "&p*")
    pairs = [bench.user("eve", "pw") for _ in range(6)]
    for pair, request in zip(pairs, ("SUBSCRIBE c", "PSUBSCRIBE p*", "SSUBSCRIBE d", "PING", "SUBSCRIBE d", "GET a")):
        pair.same(*request.split())
    admin.same("ACL", "SETUSER", "eve", "resetchannels", "&d", "&p1")
    closed_together("a channel is taken away", pairs[0], True)
    closed_together("a pattern is taken away", pairs[1], True)
    closed_together("a shard channel stays", pairs[2], False)
    pairs[3].same("SUBSCRIBE", "c")
    admin.same("ACL", "SETUSER", "eve", "off")
    pairs[3].same("GET", "a")
    late = bench.pair()
    late.same("AUTH", "eve", "pw")
    late.same("HELLO", "3", "AUTH", "eve", "pw")
    admin.same("ACL", "SETUSER", "eve", "on")
    late.same("AUTH", "eve", "pw")
    late.same("ACL", "WHOAMI")
    late.same("RESET")
    late.same("ACL", "WHOAMI")
    late.close()
    mine = bench.user("eve", "pw")
    count.check("CLIENT LIST names it", all(" user=eve " in line for line in mine.both("CLIENT", "INFO")))
    admin.same("CLIENT", "KILL", "USER", "nosuch")
    admin.same("CLIENT", "KILL", "USER", "eve", "ID", "99999")
    admin.same("ACL", "DELUSER", "default")
    admin.same("ACL", "DELUSER", "nosuch", "eve", "eve")
    closed_together("a subscriber of a user that is gone", pairs[4], True)
    closed_together("another of its clients", pairs[3], True)
    closed_together("one that was idle", pairs[5], True)
    closed_together("one more", mine, True)
    admin.same("ACL", "SETUSER", "eve", "on", "nopass", "+@all")
    again = bench.user("eve", "x")
    again.same("ACL", "DELUSER", "eve")
    closed_together("who deleted itself", again, True)


def passwords(bench):
    """The default user, with a password and without."""
    admin = bench.admin
    early = bench.pair()
    # Now it has come in, on whichever core.
    early.same("PING")
    for request in ("CONFIG SET requirepass secret", "ACL GETUSER default", "CONFIG GET requirepass"):
        admin.both(*request.split())
    bench.described("default")
    early.same("GET", "a")
    for request in (
        "GET a", "HELLO 3", "HELLO 3 AUTH default no", "AUTH no", "MULTI", "ACL WHOAMI", "AUTH secret", "GET a",
        "AUTH default secret", "HELLO 2 AUTH default secret", "RESET", "GET a",
    ):
        pair = bench.pair() if request == "GET a" else pair
        if request.startswith("HELLO 2"):
            pair.both(*request.split())
            continue
        pair.same(*request.split())
    admin.same("ACL", "SETUSER", "default", ">more")
    late = bench.user("default", "more")
    late.same("AUTH", "secret")
    admin.same("CONFIG", "GET", "requirepass")
    admin.same("ACL", "SETUSER", "default", "off")
    late.same("GET", "a")
    late.same("AUTH", "secret")
    admin.same("ACL", "SETUSER", "default", "on", "nopass")
    waiting = bench.pair()
    waiting.same("GET", "a")
    admin.same("AUTH", "x")
    admin.same("ACL", "SETUSER", "default", "-@all", "+@connection", "+acl", "~x", "+config")
    waiting.same("GET", "a")
    waiting.same("PING")
    admin.same("ACL", "SETUSER", "default", "+@all", "~*", "&*")
    admin.same("CONFIG", "SET", "requirepass", "")
    waiting.same("GET", "a")
    bench.described("default")
    logs(bench, "ACL LOG of passwords")
    # A shorter log forgets with the next entry.
    admin.same("CONFIG", "SET", "acllog-max-len", "2")
    logs(bench, "ACL LOG that is to be shorter")
    for name in "xyz":
        admin.same("AUTH", name, "wrong")
    logs(bench, "ACL LOG that is shorter")
    admin.same("CONFIG", "SET", "acllog-max-len", "128")


def secrets(bench):
    """What was told to ACL SETUSER is in no slow log."""
    node = bench.admin.node
    node.call("CONFIG", "SET", "slowlog-log-slower-than", "0")
    node.call("ACL", "SETUSER", "spy", "on", ">verysecret")
    log = repr(node.call("SLOWLOG", "GET", "-1").plain())
    count.check("the slow log has the request", "redacted" in log and "SETUSER" in log, log[:300])
    count.check("the slow log has no password", "verysecret" not in log, log[:300])
    node.call("CONFIG", "SET", "slowlog-log-slower-than", "10000")
    node.call("ACL", "DELUSER", "spy")


def file_of_users(scratch, options):
    """--aclfile at the start, ACL LOAD and ACL SAVE, on both."""
    good = (
        "user default on nopass ~* &* +@all\n\n"
        "user bob on #%s ~a* resetchannels &c -@all +@read +set (~b* resetchannels -@all +get)\r\n"
        "user old off -@all\n" % SHA_OF_ONE
    )
    paths = [os.path.join(scratch.sub("acl-" + name), "users.acl") for name in ("node", "redis")]

    def put(text):
        for path in paths:
            with open(path, "w") as file:
                file.write(text)

    put(good)
    node = node_server(scratch, options.node, threads=options.threads, args=["--aclfile", paths[0]], name="filed")
    port = free_base()
    argv = ["redis-server", "--port", str(port), "--save", "", "--aclfile", paths[1]]
    server = Server("redis-%d" % port, argv, port, scratch.sub("redis-%d" % port)).start()
    bench = Bench((node, server), random.Random(options.seed))
    bench.lists()
    bob = bench.user("bob", "one")
    for request in ("GET a", "GET b", "SET b 1", "SET a 1", "PUBLISH c x"):
        bob.same(*request.split())
    bob.close()
    bench.admin.same("ACL", "SETUSER", "new", "on", ">two", "%R~x", "&y", "+@hash", "-hset", "(+get ~z)")
    bench.admin.same("ACL", "SAVE")
    bench.admin.same("ACL", "DELUSER", "bob", "new")
    bench.admin.same("ACL", "LOAD")
    bench.lists()
    saved = [open(path).read() for path in paths]
    for one, other in zip(*(text.splitlines() for text in saved)):
        count.check("a line of the file", bench.line(one) == bench.line(other), "node  %s\n    redis %s" % (one, other))
    # What redis-server wrote can be read here.
    with open(paths[0], "w") as file:
        file.write(saved[1])
    bench.admin.same("ACL", "LOAD")
    bench.lists()
    left = sorted(os.listdir(os.path.dirname(paths[0])))
    count.check("nothing is left beside the file", left == ["users.acl"], repr(left))
    gone = bench.user("new", "two")
    put("user default on nopass ~* &* +@all\n")
    bench.admin.same("ACL", "LOAD")
    closed_together("a client of a user that the file has not", gone, True)
    strip = lambda reply: reply.replace(paths[0], "F").replace(paths[1], "F")
    for bad in (
        "user bob on +nosuch\n", "foo\n", "user\n", "user bob (+get\n", "user bob on\nuser bob off\nuser x ~a ~* ~b\n",
        "user a on\nuser b foo bar\nnouser\n",
    ):
        put(bad)
        ours, theirs = (strip(reply) for reply in bench.admin.both("ACL", "LOAD"))
        ours = re.sub(r"found at F:(\d+)", r"found on line \1", ours)
        ours, theirs = (re.sub(r"definition\. ?", "definition.", reply) for reply in (ours, theirs))
        count.check("ACL LOAD of %r" % bad, ours == theirs, "node  %s\n    redis %s" % (ours, theirs))
    bench.admin.same("ACL", "USERS")
    for request in ("MULTI", "ACL SAVE", "ACL LOAD", "EXEC"):
        bench.admin.same(*request.split())
    os.chmod(paths[0], 0o640)
    bench.admin.same("ACL", "SAVE")
    count.check("its mode stays", os.stat(paths[0]).st_mode & 0o777 == 0o640)
    # Whoever starts with a bad file is told everything that is wrong, and does not serve.
    put("user bob on +nosuch\nfoo\nuser x on bar\n")
    argv = [options.node, "--port", str(free_base()), "--aclfile", paths[0]]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    lines = [line for line in ended.stderr.splitlines() if paths[0] in line]
    count.check("a bad file: the node does not start", ended.returncode != 0)
    count.check("a line for each error", len(lines) == 3, ended.stderr)


def own_address():
    """An address of this machine that is not the loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            # Nothing is sent: the kernel says from where it would go to an address that nobody has.
            asking.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address = asking.getsockname()[0]
    return None if address.startswith("127.") else address


def protected(scratch, options):
    """Clients of other machines are turned away as long as anybody could do anything."""
    address = own_address()
    if address is None:
        return count.skip("protected mode", "this machine has no address but the loopback")
    ports = [free_base(), free_base()]
    folder = scratch.sub("protected")
    common = ["--protected-mode", "yes"]
    node = [os.path.abspath(options.node), "--port", str(ports[0]), "--bind", "0.0.0.0", "--threads", "2"] + common
    redis = ["redis-server", "--port", str(ports[1]), "--save", ""] + common
    servers = [
        Server(name, argv, port, folder).start()
        for name, argv, port in (("node-far", node, ports[0]), ("redis-far", redis, ports[1]))
    ]
    admin = Pair(*(server.conn() for server in servers))
    admin.same("CONFIG", "GET", "protected-mode")
    admin.same("CONFIG", "SET", "protected-mode", "maybe")

    def far(label, *request):
        replies = []
        for port in ports:
            with Conn((address, port)) as conn:
                try:
                    replies.append(text(conn.call(*request)))
                except Closed as closed:
                    replies.append(str(closed))
        count.check(label, replies[0] == replies[1], "node  %r\n    redis %r" % tuple(replies))
        return replies[0]

    count.check("it is turned away", far("a far client", "PING").startswith("-DENIED"))
    admin.same("CONFIG", "SET", "requirepass", "x")
    far("a far client, with a password to show", "PING")
    admin.same("CONFIG", "SET", "requirepass", "")
    far("a far client, with none again", "PING")
    admin.same("CONFIG", "SET", "protected-mode", "no")
    far("a far client, without protection", "PING")
    admin.close()
    for server in servers:
        server.stop()


def handoff(scratch, options):
    """Connections keep their user when another process takes over, and users are as they were, saved or not, unless
    the file has others by then."""
    folder = scratch.sub("handoff")
    users = os.path.join(folder, "users.acl")
    with open(users, "w") as file:
        file.write("user default on nopass ~* &* +@all\nuser bob on nopass ~a* &c -@all +@all -@admin\n")
    node, control, port = os.path.abspath(options.node), os.path.join(folder, "control"), free_base()
    argv = [node, "supervise", "--control", control, "--port", str(port), "--threads", str(options.threads)]
    argv += ["--dir", os.path.join(folder, "data"), "--aclfile", users, "--replication-port", "0"]
    server = Server("supervised", argv, port, folder).start()
    admin, bob, eve, listener = (server.conn() for _ in range(4))
    admin.ask("ACL", "SETUSER", "eve", "on", "nopass", "+@all", "~*")
    bob.ask("AUTH", "bob", "x")
    listener.ask("AUTH", "bob", "x")
    listener.ask("SUBSCRIBE", "c")
    eve.ask("AUTH", "eve", "x")
    before = admin.ask("CLIENT", "ID")
    upgrade = [node, "upgrade", "--binary", node, "--control", control]

    def upgraded():
        done = subprocess.run(upgrade, capture_output=True, text=True, timeout=60)
        is_early = "does not serve yet" in done.stderr
        return None if is_early else done

    def upgrades(users):
        done = wait_until("the supervisor takes the node for one that serves", 20, upgraded, every=0.1)
        count.check("the upgrade", done.returncode == 0, done.stderr + done.stdout)
        count.check("the default user's connection goes on", admin.ask("CLIENT", "ID") == before)
        count.check("the users", admin.ask("ACL", "USERS") == users)
        count.check("who it is goes along", bob.ask("ACL", "WHOAMI") == b"bob")
        count.check("what it may goes along", not bob.call("SET", "a", "1").is_error)
        refused = bob.call("SET", "b", "1")
        count.check("what it may not, too", refused.value.startswith(b"NOPERM"), repr(refused))

    upgrades([b"bob", b"default", b"eve"])
    count.check("a user that was not saved, too", eve.ask("ACL", "WHOAMI") == b"eve")
    with open(users, "a") as file:
        file.write("user carl on nopass\n")
    upgrades([b"bob", b"carl", b"default"])
    count.check("a user that the file has not is gone, and its connection", is_closed(eve))
    admin.ask("PUBLISH", "c", "x")
    count.check("a listener hears on", listener.read().plain()[:2] == [b"message", b"c"])
    server.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--node", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with Scratch() as scratch:
        node = node_server(scratch, options.node, threads=options.threads)
        bench = Bench((node, redis_server(scratch)), random.Random(options.seed))
        for part in (categories, random_users, decisions, transactions, scripts, connections, passwords, secrets):
            part(bench)
        count.check("the node lives", node.alive(), node.log_tail())
        file_of_users(scratch, options)
        protected(scratch, options)
        handoff(scratch, options)
        log = node.log_text()
        count.check("no password in its log", "verysecret" not in log and "secret" not in log)
    count.close()


if __name__ == "__main__":
    main()
