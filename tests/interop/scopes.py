#!/usr/bin/env python3
"""Keys that one node alone may write to: the same requests to a real kevy and to the node, with the same kevy.toml.

    scopes.py --node BINARY

alone   One node with scopes of its own and of another one: single requests, pipelines, transactions, scripts,
        commands that block. Where the kevy looks at no key but the first one of a command with one key, the node
        looks at all that a command may change; those requests are listed apart, and both answers are asserted.
wrong   Lists that both refuse.
data    What was written before there were scopes, and what a primary sends, is taken by the node whatever they
        say. A kevy leaves it out, which is asserted, too, so that its page tells the truth.
moved   A kevy that is to move a prefix to the node is refused, and keeps it.
fleet   Three members that elect a primary: kevys, ringkeeps, and both. The primary takes what is its own, and what
        is that of a member that is killed and has it for its fallback, until that one is back.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import threading
import time

from wire import Closed, Count, Scratch, Server, free_base, kevy_binary, show, wait_until

KEVY = "7.0.0"
IDS = "abc"
FOREIGN = "-MISDIRECTED writer is b"
# What both answer alike. f: is another node's, o: is this node's, everything else nobody's.
SAME = """
SET plain 1
GET f:1
SET f:1 1
SET o:1 1
GET o:1
SET f 1
SET f:\u00e4 1
INCR f:1
APPEND f:1 x
GETSET f:1 x
GETDEL f:1
GETEX f:1
SETEX f:1 10 x
DEL f:1
UNLINK f:1
EXPIRE f:1 10
PERSIST f:1
EXISTS f:1 plain
TYPE f:1
STRLEN f:1
RPUSH f:l a
LPOP f:l
LRANGE f:l 0 -1
HSET f:h a 1
HGETALL f:h
SADD f:s a
SMEMBERS f:s
ZADD f:z 1 a
ZRANGE f:z 0 -1
XADD f:x * a 1
XLEN f:x
XREAD COUNT 1 STREAMS f:x 0
BLPOP f:l 1
SETBIT f:b 1 1
MULTI
SET plain 2
SET f:1 1
GET f:1
SET o:1 2
EXEC
MULTI
SET f:1 1
DISCARD
GET plain
GET o:1
WATCH f:1
UNWATCH
DBSIZE
""".strip().splitlines()
# What the kevy takes, though it changes a key of another node.
LOOSE = """
MSET plain 1 f:1 1
MSET f:1 1 plain 1
DEL f:1 plain
DEL plain f:1
UNLINK plain f:1
RENAME plain f:1
RENAME f:1 plain
COPY plain f:1
SUNIONSTORE f:u s
SINTERSTORE f:u s
SDIFFSTORE f:u s
ZUNIONSTORE f:zz 1 z
ZINTERSTORE f:zz 1 z
BITOP AND f:b plain plain
LMOVE l f:l LEFT LEFT
LMOVE f:l l LEFT LEFT
RPOPLPUSH l f:l
BLPOP l f:l 1
BRPOPLPUSH l f:l 1
XGROUP CREATE f:x g 0 MKSTREAM
XREADGROUP GROUP g c STREAMS f:x >
""".strip().splitlines()
# What reads keys of another node and writes to others: taken by both.
READS = """
SADD s m
SUNIONSTORE u f:s s
COPY f:c c
BITOP OR bits f:b
ZUNIONSTORE zz 1 f:z
""".strip().splitlines()
SCRIPTS = [
    ("return redis.call('SET',KEYS[1],'1')", "f:1"),
    ("return redis.call('GET',KEYS[1])", "f:1"),
    ("return redis.call('SET',KEYS[1],'1')", "o:1"),
    ("redis.call('SET',KEYS[1],'3') return redis.pcall('SET','f:'..KEYS[1],'1')", "plain"),
    ("return redis.pcall('DEL','f:1')['err']", "plain"),
]
WRONG = ("f:", "=b", "f:=", "f:=b|", "f:=|c", "f:=b,f:=c", "f:=b,f:g:=c")
KEVY_TOML = """[server]
port = %d
bind = "127.0.0.1"
threads = %d
data_dir = "%s"
[persistence]
aof = true
"""


def told(reply):
    """A reply as text; a kevy writes what is not there in RESP3 as in RESP2."""
    return show(reply).replace("null", "nil")


class Bench:
    def __init__(self, scratch, node, count):
        self.scratch, self.node, self.count = scratch, os.path.abspath(node), count

    def server(self, name, is_kevy, toml, flags=(), port=None, threads=1):
        """A node, or a kevy, on this file."""
        port = port or free_base(2)
        folder = self.scratch.sub(name)
        data = self.scratch.sub(os.path.join(name, "data"))
        path = os.path.join(folder, "kevy.toml")
        with open(path, "w", encoding="utf-8") as f:
            f.write(KEVY_TOML % (port, threads, data) + toml)
        if is_kevy:
            # Its io_uring needs more locked pages than small machines give.
            return Server(name, [kevy_binary(KEVY), "--config", path], port, folder, {"KEVY_IO_URING": "0"})
        argv = [self.node, "--config", path, "--no-pin", "--spin-us", "0"]
        return Server(name, argv + list(flags), port, folder)

    # -----------------------------------------------------------------------------------------
    # One node

    def alone(self):
        toml = '[cluster]\nnode_id = "a"\nscopes = ["f:=b", "o:=a|b"]\n'
        kevy = self.server("kevy", True, toml).start()
        ours = self.server("node", False, toml, ["--shards", "4"], threads=2).start()
        with kevy.conn(30) as k, ours.conn(30) as o:
            for proto in ("2", "3"):
                for c in (k, o):
                    c.call("HELLO", proto)
                for line in SAME + READS:
                    said, got = (told(c.call(*line.split())) for c in (k, o))
                    self.count.check("RESP%s %s" % (proto, line), said == got, "%s, kevy %s" % (got, said))
                for line in LOOSE:
                    said, got = (told(c.call(*line.split())) for c in (k, o))
                    good = got == FOREIGN and not said.startswith("-MISDIRECTED")
                    self.count.check("RESP%s loose %s" % (proto, line), good, "%s, kevy %s" % (got, said))
                for c in (k, o):
                    c.call("FLUSHALL")
            self.scripts(k, o)
            self.pipelines(k, o)
        with ours.conn(30) as o:
            self.only_here(o)
        kevy.stop()
        ours.stop()

    def scripts(self, k, o):
        for source, key in SCRIPTS:
            said, got = (told(c.call("EVAL", source, "1", key)) for c in (k, o))
            # The script's name is added here, as in Redis.
            got = got.split(" script: ")[0]
            self.count.check("script %s %s" % (source, key), said == got, "%s, kevy %s" % (got, said))
        said, got = (told(c.call("GET", "plain")) for c in (k, o))
        self.count.check("what a script wrote before stays", said == got == '"3"', "%s, kevy %s" % (got, said))

    def pipelines(self, k, o):
        lines = ["SET k%d 1" % n for n in range(40)]
        lines[3::5] = ["SET f:%d 1" % n for n in range(8)]
        lines[4::5] = ["GET f:%d" % n for n in range(8)]
        said, got = ([told(r) for r in c.many([line.split() for line in lines])] for c in (k, o))
        self.count.check("a pipeline of 40", said == got and got.count(FOREIGN) == 8, "%s, kevy %s" % (got, said))

    def only_here(self, o):
        """What no kevy has."""
        texts = [
            "SMOVE f:s s m",
            "MSETNX plain 1 f:1 1",
            "PFADD f:p 1",
            "LMPOP 2 none f:l LEFT",
            "BLMPOP 1 2 none f:l LEFT",
            "SORT l STORE f:l",
            "RESTORE f:1 0 x",
            "ZRANGESTORE f:z z 0 -1",
        ]
        for line in texts:
            got = show(o.call(*line.split()))
            self.count.check(line, got == FOREIGN, got)
        for line, want in (("SORT f:l", "[]"), ("PFCOUNT f:p", "(int 0)"), ("GEORADIUS f:g 0 0 1 m", "[]")):
            got = show(o.call(*line.split()))
            self.count.check(line, got == want, got)
        # A pipeline whose requests wait for shards of another core, and follow each other there.
        lines = [["MSET", "x%d" % n, "1", "fy"[n % 2] + ":%d" % n, "1"] for n in range(200)]
        got = [show(r) for r in o.many(lines)]
        self.count.check("requests over cores", got == [FOREIGN, "+OK"] * 100, str(got))
        load = "#!lua name=l\nredis.register_function('w', function(k) return redis.call('SET', k[1], 1) end)"
        o.ask("FUNCTION", "LOAD", load)
        got = show(o.call("FCALL", "w", "1", "f:1"))
        self.count.check("a function", got.startswith(FOREIGN), got)
        got = o.call("CONFIG", "GET", "scopes").flat()
        self.count.check("CONFIG GET", got == [b"scopes", b"f:=b,o:=a|b"], str(got))
        got = o.info("errorstats").get("errorstat_MISDIRECTED", "")
        self.count.check("INFO errorstats counts", got.startswith("count=") and got != "count=0", got)
        o.ask("SET", "plain", "before")
        lines = ("MULTI", "SET plain after", "MSET plain 1 f:1 1", "EXEC")
        got = show(o.many([line.split() for line in lines])[-1])
        self.count.check("EXEC of several keys", got == "[+OK, %s]" % FOREIGN, got)

    # -----------------------------------------------------------------------------------------
    # What is wrong, and what is there

    def wrong(self):
        for scopes in WRONG:
            toml = '[cluster]\nnode_id = "a"\nscopes = "%s"\n' % scopes
            for is_kevy in (True, False):
                server = self.server("wrong-%s" % ("kevy" if is_kevy else "node"), is_kevy, toml)
                got = subprocess.run(
                    server.argv,
                    cwd=server.dir,
                    env=server.env,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=30,
                    check=False,
                )
                lines = got.stderr.strip().splitlines()
                good = got.returncode != 0 and (is_kevy or len(lines) == 1 and "scopes" in lines[0])
                who = "kevy" if is_kevy else "node"
                self.count.check("%s refuses %s" % (who, scopes), good, "%d %s" % (got.returncode, lines))

    def data(self):
        toml = '[cluster]\nnode_id = "a"\nscopes = "f:=b"\n'
        for is_kevy in (True, False):
            who = "kevy" if is_kevy else "node"
            server = self.server("%s-before" % who, is_kevy, "").start()
            with server.conn() as c:
                c.ask("SET", "f:1", "there")
                c.ask("SET", "plain", "there")
            server.stop()
            server = self.server("%s-before" % who, is_kevy, toml, port=server.port).start()
            self.has(server, "%s, from its disk" % who, is_kevy)
            server.stop()
        for of_kevy, is_kevy in ((True, True), (True, False), (False, False)):
            who = "%s, from a %s" % ("kevy" if is_kevy else "node", "kevy" if of_kevy else "node")
            primary = self.server("primary", of_kevy, '[replication]\nrole = "primary"\n')
            follows = '[replication]\nrole = "replica"\nupstream = "127.0.0.1:%d"\n' % (primary.port + 10000)
            replica = self.server("replica", is_kevy, toml + follows)
            primary.start()
            replica.start()
            with primary.conn() as c:
                wait_until("a replica", 20, lambda: c.info("replication").get("connected_slaves") == "1")
                c.ask("SET", "f:1", "there")
                c.ask("MSET", "f:2", "there", "f:3", "there")
                c.ask("EVAL", "return redis.call('SET', KEYS[1], 'there')", "1", "f:4")
                c.ask("SET", "plain", "there")
            self.has(replica, who, is_kevy)
            with replica.conn() as c:
                if not is_kevy:
                    got = [c.ask("GET", "f:%d" % n) for n in (2, 3, 4)]
                    self.count.check("%s: of MSET and EVAL" % who, got == [b"there"] * 3, str(got))
                got = show(c.call("SET", "f:1", "2"))
            self.count.check("%s: READONLY goes first" % who, got.startswith("-READONLY"), got)
            replica.stop()
            primary.stop()
            self.forget("primary", "replica")

    def forget(self, *names):
        for name in names:
            shutil.rmtree(os.path.join(self.scratch.path, name))

    def moved(self):
        """A kevy that is to hand a prefix over to the node is refused, and goes on writing."""
        node = self.server("moved-node", False, "").start()
        port = free_base(2)
        peers = "a@127.0.0.1:%d:%d,b@127.0.0.1:%d:%d" % (port + 200, port, node.port + 200, node.port)
        toml = '[cluster]\nnode_id = "a"\npeers = "%s"\nscopes = "o:=a"\n' % peers
        kevy = self.server("moved-kevy", True, toml, port=port).start()
        with kevy.conn() as k, node.conn() as n:
            k.ask("SET", "o:1", "there")
            got = show(k.call("MOVE-SCOPE", "o:", "FROM", "a", "TO", "b"))
            good = got.startswith("-ERR MOVE-SCOPE ship failed") and "unknown command" in got
            self.count.check("MOVE-SCOPE to the node is refused", good, got)
            good = k.ask("SET", "o:2", "1") == b"OK" and k.ask("GET", "o:1") == b"there"
            self.count.check("and the kevy goes on", good and n.ask("DBSIZE") == 0)
        kevy.stop()
        node.stop()

    def has(self, server, what, is_kevy):
        with server.conn() as c:
            wait_until("%s: a key of nobody" % what, 20, lambda: c.ask("GET", "plain") == b"there")
            got = c.ask("GET", "f:1")
        self.count.check("%s: a key of another node" % what, got == (None if is_kevy else b"there"), str(got))

    # -----------------------------------------------------------------------------------------
    # Fleets

    def fleet(self, name, kinds, ports):
        token = lambda i: "%s@127.0.0.1:%d:%d" % (i, ports[i] + 200, ports[i])
        pairs = itertools.permutations(IDS, 2)
        # ab: is written by a, and by b while a is down. a0: by a alone.
        scopes = ["%s%s:=%s|%s" % (a, b, a, b) for a, b in pairs] + ["%s0:=%s" % (a, a) for a in IDS]
        toml = '[replication]\nrole = "primary"\n[cluster]\nnode_id = "%s"\npeers = "%s"\nscopes = "%s"\n'
        is_kevy = {i: kind == "kevy" for i, kind in zip(IDS, kinds)}
        listed = ",".join(token(i) for i in IDS)
        members = {}
        for i in IDS:
            text = toml % (i, listed, ",".join(scopes))
            members[i] = self.server("%s-%s" % (name, i), is_kevy[i], text, port=ports[i])
        for member in members.values():
            member.start()

        def primary():
            """The one that takes writes, once the others have its data."""
            taken, up = [], 0
            for i, member in members.items():
                with member.conn() as c:
                    info = c.info("replication")
                    up += info.get("master_link_status") == "up" and info.get("master_sync_in_progress") != "1"
                    if not c.call("SET", "plain", "1").is_error:
                        taken.append(i)
            return taken[0] if len(taken) == 1 and up == 2 else None

        p = wait_until("%s: a primary" % name, 60, primary, every=0.1)
        x, o = [i for i in IDS if i != p]
        say = lambda what: "%s: %s" % (name, what)
        answers = lambda: self.answers(members[p], ports)
        up = {a + b: a for a, b in itertools.permutations(IDS, 2)}
        up.update({a + "0": a for a in IDS})
        down = dict(up, **{x + p: p, x + o: o})
        seen = lambda owners: {prefix: "+OK" if owner == p else owner for prefix, owner in owners.items()}
        got = self.becomes(answers, seen(up))
        self.count.check(say("all are up"), got == seen(up), str(got))
        for i in (x, o):
            with members[i].conn() as c:
                got = show(c.call("SET", p + "0:1", "1"))
            self.count.check(say("READONLY goes first on %s" % i), got.startswith("-READONLY"), got)
            if not is_kevy[i]:
                self.arrives(members[p], members[i], p + "0:frame", say("a frame arrives at %s" % i))
        members[x].stop(9)
        got = self.becomes(answers, seen(down))
        self.count.check(say("%s is down, %s writes" % (x, p)), got == seen(down), str(got))
        blocked = members[p].conn(30)
        blocked.send("BLPOP", "%s%s:list" % (x, p), "0")
        if not is_kevy[p]:
            with members[p].conn() as c:
                wait_until(say("a client blocks"), 10, lambda: c.info("clients")["blocked_clients"] == "1")
        members[x].start()
        got = self.becomes(answers, seen(up))
        self.count.check(say("%s is back" % x), got == seen(up), str(got))
        if not is_kevy[p]:
            try:
                got = show(blocked.read())
            except Closed as why:
                got = str(why)
            want = "-MISDIRECTED writer is 127.0.0.1:%d" % ports[x]
            self.count.check(say("who was blocked is told"), got == want, got)
            log = members[p].log_text()
            good = "scopes: %s is down, %s writes to %s%s:" % (x, p, x, p) in log
            self.count.check(say("the log tells"), good and "scopes: %s is back" % x in log, log[-1000:])
        blocked.close()
        for member in members.values():
            member.stop()

    def answers(self, server, ports):
        """To a write to each prefix: that it was taken, or who takes it."""
        names = {"-MISDIRECTED writer is 127.0.0.1:%d" % port: i for i, port in ports.items()}
        with server.conn() as c:
            said = {a + b: show(c.call("SET", a + b + ":1", "1")) for a in IDS for b in IDS + "0" if a != b}
        return {prefix: names.get(text, text) for prefix, text in said.items()}

    def becomes(self, answers, want):
        """The answers once they are as they should be, or the last ones."""
        try:
            return wait_until("these answers", 25, lambda: (lambda got: got == want and got)(answers()), every=0.1)
        except TimeoutError:
            return answers()

    def arrives(self, primary, replica, key, name):
        with primary.conn() as c:
            c.ask("SET", key, "v")
        try:
            with replica.conn() as c:
                wait_until(name, 20, lambda: c.ask("GET", key) == b"v")
            self.count.ok(name)
        except TimeoutError as why:
            self.count.fail(name, str(why))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--node", required=True)
    opts = ap.parse_args()
    count = Count()
    fleets = {
        "kevys": ("kevy",) * 3,
        "ringkeeps": ("ringkeep",) * 3,
        "both": ("ringkeep", "ringkeep", "kevy"),
    }
    with Scratch() as scratch:
        bench = Bench(scratch, opts.node, count)

        def guarded(name, job, *args):
            try:
                job(*args)
            except Exception as why:  # any of them is a failure, with its reason
                count.fail(name, "%s: %s" % (type(why).__name__, why))

        # The fleets mostly wait, for elections and for who is killed to count as down.
        threads = []
        for name, kinds in fleets.items():
            args = (name, bench.fleet, name, kinds, {i: free_base(2) for i in IDS})
            threads.append(threading.Thread(target=guarded, args=args))
        for thread in threads:
            thread.start()
        for name in ("alone", "wrong", "data", "moved"):
            guarded(name, getattr(bench, name))
        for thread in threads:
            thread.join()
    count.close()


if __name__ == "__main__":
    main()
