#!/usr/bin/env python3
"""What clients say about themselves and to each other: CLIENT and its kin, told to redis-server and to the
node in the same words, with every reply and every message compared byte for byte.

    sessions.py --node BINARY           (or --a HOST:PORT --b HOST:PORT: redis-server and the node)
    --threads N                         cores of the node (default 2)
    --only NAME                         only scenarios whose name starts so

A scenario speaks over named connections. Where redis-server is older than what the node follows, a check
is said in words (`only_node`) instead.
"""

import argparse
import re
import time

from wire import Broken, Closed, Conn, Count, Scratch, addr_of, encode, node_server, redis_server, wait_until


class Ident(int):
    """The id of a client: told apart from other numbers, because it differs from server to server."""


class Talk:
    """The named connections of one scenario to one server, and what came back."""

    def __init__(self, addr, is_node):
        self.addr, self.is_node = addr, is_node
        self.conns, self.ids, self.ports, self.said = {}, {}, {}, []
        self.wrong = []

    def conn(self, name):
        if name not in self.conns:
            self.conns[name] = Conn(self.addr, 5.0)
            ident = self.conns[name].call("CLIENT", "ID").value
            self.ids[name] = Ident(ident)
            self.ports[name] = self.conns[name].sock.getsockname()[1]
        return self.conns[name]

    def id(self, name):
        self.conn(name)
        return self.ids[name]

    def note(self, label, raw):
        self.said.append("%s -> %r" % (label, raw))

    def name_ids(self, raw):
        """Ids, ports and times differ from server to server: their owner's name stands in for them."""
        for name, ident in self.ids.items():
            raw = re.sub(rb"(?<=:)%d(?=\r\n)" % ident, b"<%s>" % name.encode(), raw)
            raw = re.sub(rb"(?<=id=)%d(?= )" % ident, b"<%s>" % name.encode(), raw)
            raw = raw.replace(b"127.0.0.1:%d" % self.ports[name], b"<%s>" % name.encode())
        return re.sub(rb"\d{10}\.\d{6}", b"<time>", raw)

    def call(self, name, *args):
        """Sends a request and notes its reply."""
        reply = self.conn(name).call(*args)
        names = {"127.0.0.1:%d" % port: "<%s>" % of for of, port in self.ports.items()}
        words = " ".join("<id>" if isinstance(arg, Ident) else names.get(arg, str(arg)) for arg in args)
        self.note("%s %s" % (name, words), self.name_ids(reply.raw))
        return reply

    def send(self, name, *args):
        self.conn(name).send(*args)

    def read(self, name):
        """Notes the next thing that comes to a connection."""
        try:
            reply = self.conn(name).read()
            self.note("%s reads" % name, self.name_ids(reply.raw))
            return reply
        except Closed as e:
            self.note("%s reads" % name, b"<closed>" if "silent" not in str(e) else b"<nothing>")
            return None

    def reads(self, name, count):
        """The next things that come, in whatever order."""
        got = sorted(self.name_ids(self.conn(name).read().raw) for _ in range(count))
        self.note("%s reads" % name, got)

    def quiet(self, name):
        """Nothing but the answer to this has come."""
        self.call(name, "ECHO", "quiet")

    def only_node(self, label, want, got):
        """A check of the node alone, for what redis-server does not know yet."""
        if self.is_node and want != got:
            self.wrong.append("%s: %r instead of %r" % (label, got, want))

    def until(self, what, check):
        wait_until(what, 5, check)

    def close(self, *names):
        for name in names or list(self.conns):
            self.conns.pop(name).close()


def fields_of(line):
    return dict(field.split("=", 1) for field in line.decode().split())


# ---- CLIENT ----


def client_errors(t):
    for words in [
        "CLIENT GETNAME x", "CLIENT ID 1", "CLIENT NOPE", "CLIENT SETNAME", "CLIENT REPLY nope", "CLIENT REPLY",
        "CLIENT NO-EVICT", "CLIENT NO-EVICT maybe", "CLIENT NO-EVICT on", "CLIENT NO-EVICT off",
        "CLIENT KILL", "CLIENT KILL a b", "CLIENT KILL ID 0", "CLIENT KILL ID x", "CLIENT KILL TYPE nope",
        "CLIENT KILL USER nobody", "CLIENT KILL SKIPME maybe", "CLIENT KILL ADDR", "CLIENT KILL ID 999999",
        "CLIENT KILL 1.2.3.4:5", "CLIENT KILL ADDR 1.2.3.4:5 LADDR 1.2.3.4:6", "CLIENT KILL ID 1 2",
        "CLIENT KILL TYPE master", "CLIENT KILL TYPE replica", "CLIENT KILL TYPE slave",
        "CLIENT LIST TYPE", "CLIENT LIST TYPE nope", "CLIENT LIST ID", "CLIENT LIST ID x", "CLIENT LIST NOPE",
        "CLIENT LIST TYPE master", "CLIENT LIST TYPE replica", "CLIENT LIST ID 999999", "CLIENT LIST ID 0 -4",
        "CLIENT LIST TYPE normal x",
        "CLIENT PAUSE", "CLIENT PAUSE x", "CLIENT PAUSE -1", "CLIENT PAUSE 1 nope", "CLIENT PAUSE 1 write x",
        "CLIENT UNPAUSE x", "CLIENT UNPAUSE",
        "CLIENT UNBLOCK", "CLIENT UNBLOCK x", "CLIENT UNBLOCK 999999", "CLIENT UNBLOCK 1 nope",
        "CLIENT UNBLOCK 1 error x", "CLIENT UNBLOCK -5 TIMEOUT",
        "CLIENT GETREDIR", "CLIENT GETREDIR x", "CLIENT CACHING", "CLIENT TRACKINGINFO x", "CLIENT TRACKING",
        "SLOWLOG NOPE", "SLOWLOG LEN 1", "SLOWLOG GET 1 2", "PUBSUB NOPE", "PUBSUB NUMPAT 1", "PUBSUB CHANNELS a b",
    ]:
        t.call("one", *words.split())
    t.call("one", "CLIENT", "SETNAME", "a b")
    t.call("one", "CLIENT", "SETNAME", "ok")
    t.call("one", "CLIENT", "GETNAME")
    t.call("one", "CLIENT", "SETNAME", "")
    t.call("one", "CLIENT", "GETNAME")
    t.call("one", "MULTI")
    t.call("one", "CLIENT", "NOPE")
    t.call("one", "EXEC")
    t.call("one", "MULTI")
    t.call("one", "CLIENT", "ID", "x")
    t.call("one", "EXEC")


def client_help(t):
    help = [line.decode() for line in t.conn("one").ask("CLIENT", "HELP")]
    newer = {
        "    * ID <client-id>", "      Kill connections by client id.", "    * MAXAGE <maxage>",
        "      Kill connections older than the specified age.", "SETINFO <option> <value>",
        "    Set client meta attr. Options are:", "    * LIB-NAME: the client lib name.",
        "    * LIB-VER: the client lib version.", "NO-TOUCH (ON|OFF)",
        "    Will not touch LRU/LFU stats when this mode is on.",
    }
    t.call("one", "SLOWLOG", "HELP")
    t.call("one", "PUBSUB", "HELP")
    t.note("CLIENT HELP", [line for line in help if line not in newer])
    t.only_node("lines of newer servers", len(newer), len([line for line in help if line in newer]))


def client_list(t):
    for name in ["one", "two", "three"]:
        t.call(name, "CLIENT", "SETNAME", name)
    t.call("two", "SELECT", "3")
    t.call("two", "MULTI")
    t.call("two", "SET", "a", "b")
    t.call("three", "SUBSCRIBE", "x", "y")
    lines = t.conn("one").ask("CLIENT", "LIST").splitlines()
    seen = ["name", "flags", "db", "sub", "psub", "ssub", "multi", "events", "cmd", "user", "redir", "resp"]
    for line in lines:
        fields = fields_of(line)
        if fields["name"]:
            t.note("line", [(name, fields[name]) for name in seen])
            own = "127.0.0.1:%d" % t.ports[fields["name"]]
            t.note("addr", [fields["addr"] == own, fields["laddr"] == "127.0.0.1:%d" % t.addr[1]])
    ids = [int(fields_of(line)["id"]) for line in lines]
    t.note("sorted", ids == sorted(ids))
    names = list(fields_of(lines[0]))
    t.note("fields", [name for name in names if name not in ("lib-name", "lib-ver")])
    t.only_node("fields of newer servers", ["lib-name", "lib-ver"], names[-2:])
    some = t.conn("one").ask("CLIENT", "LIST", "ID", t.id("three"), t.id("one"), 999999, t.id("three"))
    t.note("in the order asked for", [fields_of(line)["name"] for line in some.splitlines()])
    for kind in ["normal", "pubsub"]:
        some = t.conn("one").ask("CLIENT", "LIST", "TYPE", kind).splitlines()
        t.note(kind, [fields_of(line)["name"] for line in some if fields_of(line)["name"]])
    t.note("INFO", fields_of(t.conn("one").ask("CLIENT", "INFO"))["cmd"])


def client_names_of_libraries(t):
    if not t.is_node:
        return
    c = t.conn("one")
    texts = {
        ("LIB-NAME", "mine"): b"+OK\r\n",
        ("lib-ver", "1.2"): b"+OK\r\n",
        ("LIB-NAME", "a b"): b"-ERR LIB-NAME cannot contain spaces, newlines or special characters.\r\n",
        ("nope", "x"): b"-ERR Unrecognized option 'nope'\r\n",
    }
    for (option, value), want in texts.items():
        t.only_node(option, want, c.call("CLIENT", "SETINFO", option, value).raw)
    fields = fields_of(c.ask("CLIENT", "INFO"))
    t.only_node("library", ("mine", "1.2"), (fields["lib-name"], fields["lib-ver"]))
    c.call("RESET")
    t.only_node("kept by RESET", "mine", fields_of(c.ask("CLIENT", "INFO"))["lib-name"])
    t.only_node("NO-TOUCH", b"+OK\r\n", c.call("CLIENT", "NO-TOUCH", "on").raw)
    t.only_node("its letter", "T", fields_of(c.ask("CLIENT", "INFO"))["flags"])


def client_kill(t):
    for name in ["one", "two", "three", "four", "five"]:
        t.conn(name)
    port = t.ports["two"]
    t.call("one", "CLIENT", "KILL", "127.0.0.1:%d" % port)
    t.read("two")
    t.call("one", "CLIENT", "KILL", "127.0.0.1:%d" % port)
    t.call("one", "CLIENT", "KILL", "ID", t.id("three"), "SKIPME", "yes")
    t.read("three")
    t.call("four", "SUBSCRIBE", "x")
    t.call("one", "CLIENT", "KILL", "TYPE", "pubsub")
    t.read("four")
    t.call("one", "CLIENT", "KILL", "ID", t.id("one"))
    t.call("one", "CLIENT", "KILL", "ID", t.id("one"), "SKIPME", "no", "USER", "default")
    t.read("one")
    t.quiet("five")
    port = t.ports["five"]
    t.call("five", "CLIENT", "KILL", "127.0.0.1:%d" % port)
    t.read("five")
    t.conn("six")
    t.only_node("MAXAGE", 0, t.conn("six").call("CLIENT", "KILL", "MAXAGE", 1000).value)
    t.only_node("MAXAGE", b"-ERR maxage should be greater than 0\r\n",
                t.conn("six").call("CLIENT", "KILL", "MAXAGE", 0).raw)


def client_unblock(t):
    t.call("one", "DEL", "list", "zset")
    for reason in [[], ["TIMEOUT"], ["ERROR"]]:
        for words in ["BLPOP list 0", "BRPOPLPUSH list other 0", "BZPOPMIN zset 0", "XREAD BLOCK 0 STREAMS st $",
                      "BLMPOP 0 1 list LEFT", "WAIT 3 0"]:
            t.send("two", *words.split())
            t.until("it blocks", lambda: b"flags=b" in t.conn("one").ask("CLIENT", "LIST", "ID", t.id("two")))
            t.call("one", "CLIENT", "UNBLOCK", t.id("two"), *reason)
            t.read("two")
            t.call("one", "CLIENT", "UNBLOCK", t.id("two"), *reason)
    t.call("one", "RPUSH", "list", "a")
    t.call("two", "LPOP", "list")


def client_pause(t):
    t.call("one", "CLIENT", "PAUSE", "100000", "WRITE")
    t.call("two", "GET", "a")
    t.send("two", "SET", "a", "1")
    t.send("three", "MULTI")
    t.read("three")
    t.send("three", "GET", "a")
    t.read("three")
    t.send("three", "EVAL", "return redis.call('get', KEYS[1])", "1", "a")
    t.send("four", "PUBLISH", "x", "y")
    # Requests in one piece: what is behind the held one waits too.
    t.conn("five").send_raw(encode(["PING"]) + encode(["INCR", "n"]) + b"PING inline\r\nINCR n\r\n")
    t.read("five")
    blocked = lambda name: b"flags=b" in t.conn("one").ask("CLIENT", "LIST", "ID", t.id(name)).replace(b"=xb", b"=b")
    for name in ["two", "three", "four", "five"]:
        t.until("%s is held" % name, lambda: blocked(name))
    t.call("one", "CLIENT", "UNPAUSE")
    for name in ["two", "three", "four", "five", "five", "five"]:
        t.read(name)
    t.call("three", "EXEC")
    # The longer and the stricter of two pauses holds.
    t.call("one", "CLIENT", "PAUSE", "300")
    begun = time.monotonic()
    t.send("two", "GET", "a")
    t.read("two")
    t.note("held", time.monotonic() - begun > 0.2)
    t.quiet("one")


def client_reply(t):
    t.send("one", "CLIENT", "REPLY", "OFF")
    t.send("one", "SET", "a", "1")
    t.send("one", "CLIENT", "REPLY", "SKIP")
    t.call("one", "CLIENT", "REPLY", "ON")
    t.send("one", "CLIENT", "REPLY", "SKIP")
    t.send("one", "SET", "a", "2")
    t.call("one", "GET", "a")


# ---- CLIENT TRACKING ----

# Keys enough to live on every core.
KEYS = ["k%d" % n for n in range(8)]


def tracking_errors(t):
    for words in [
        "CLIENT CACHING yes", "CLIENT TRACKING nope", "CLIENT TRACKING on nope", "CLIENT TRACKING on REDIRECT",
        "CLIENT TRACKING on REDIRECT x", "CLIENT TRACKING on REDIRECT 99999", "CLIENT TRACKING on REDIRECT 0",
        "CLIENT TRACKING on PREFIX", "CLIENT TRACKING on PREFIX a", "CLIENT TRACKING on OPTIN OPTOUT",
        "CLIENT TRACKING on BCAST OPTIN", "CLIENT TRACKING on BCAST OPTOUT", "CLIENT TRACKINGINFO",
        "CLIENT TRACKING on BCAST PREFIX a PREFIX ab", "CLIENT TRACKING on BCAST PREFIX ab PREFIX c PREFIX a",
        "CLIENT TRACKING on", "CLIENT TRACKINGINFO", "CLIENT GETREDIR", "CLIENT CACHING yes", "CLIENT CACHING no",
        "CLIENT CACHING nope", "CLIENT TRACKING on BCAST", "CLIENT TRACKING on NOLOOP", "CLIENT TRACKINGINFO",
        "CLIENT TRACKING off", "CLIENT TRACKINGINFO", "CLIENT TRACKING on OPTIN", "CLIENT TRACKING on OPTOUT",
        "CLIENT CACHING no", "CLIENT CACHING yes", "CLIENT TRACKINGINFO", "CLIENT TRACKINGINFO",
        "CLIENT TRACKING off x", "CLIENT TRACKING off", "CLIENT TRACKING on OPTOUT", "CLIENT TRACKING on OPTIN",
        "CLIENT CACHING no", "CLIENT TRACKINGINFO", "CLIENT TRACKING off",
        "CLIENT TRACKING on BCAST PREFIX foo PREFIX bar", "CLIENT TRACKING on BCAST PREFIX fo",
        "CLIENT TRACKING on BCAST PREFIX baz NOLOOP", "CLIENT TRACKINGINFO", "CLIENT TRACKING off",
        "CLIENT TRACKING on BCAST", "CLIENT TRACKINGINFO",
    ]:
        t.call("two", *words.split())
    t.call("two", "CLIENT", "TRACKING", "off")
    t.call("two", "CLIENT", "TRACKING", "on", "REDIRECT", t.id("one"), "REDIRECT", t.id("one"))
    t.call("two", "CLIENT", "TRACKING", "on", "REDIRECT", t.id("one"))
    t.call("two", "CLIENT", "TRACKINGINFO")
    t.call("two", "CLIENT", "GETREDIR")
    t.call("two", "MULTI")
    t.call("two", "CLIENT", "TRACKING", "off")
    t.call("two", "CLIENT", "TRACKING", "on", "BCAST")
    t.call("two", "EXEC")
    t.note("flags", fields_of(t.conn("two").ask("CLIENT", "INFO"))["flags"])
    t.call("two", "RESET")
    t.call("two", "CLIENT", "GETREDIR")


def three(t, *names):
    for name in names:
        t.conn(name).call("HELLO", "3")


def tracking_reads(t):
    three(t, "one", "two")
    t.call("one", "CLIENT", "TRACKING", "on")
    for key in KEYS:
        t.call("two", "SET", key, "1")
        t.call("one", "GET", key)
    t.quiet("one")
    for key in KEYS:
        t.call("two", "SET", key, "2")
        t.read("one")
        t.call("two", "SET", key, "3")
    t.quiet("one")
    # Several keys, keys that are not there, keys that come and go.
    t.call("one", "MGET", *KEYS)
    t.call("one", "EXISTS", "absent")
    t.call("one", "LRANGE", "absent", 0, -1)
    t.call("two", "MSET", *[x for key in KEYS for x in (key, "4")])
    t.reads("one", len(KEYS))
    t.call("two", "LPUSH", "absent", "a")
    t.read("one")
    t.call("one", "LLEN", "absent")
    t.call("two", "LPOP", "absent")
    t.read("one")
    t.quiet("one")
    # Sources of a store are read, its destination is written.
    t.call("two", "SADD", "s1", "a", "b")
    t.call("one", "SMEMBERS", "s3")
    t.call("one", "SCARD", "s1")
    t.call("two", "SINTERSTORE", "s3", "s1", "s1")
    t.read("one")
    t.quiet("one")
    # Its own writes.
    for key in KEYS:
        t.call("one", "GET", key)
        t.call("one", "SET", key, "5")
        t.read("one")
    t.quiet("one")
    t.call("one", "GET", "k1")
    t.call("one", "CLIENT", "TRACKING", "on", "NOLOOP")
    t.call("one", "SET", "k1", "6")
    t.quiet("one")
    t.call("one", "MGET", *KEYS)
    t.call("one", "MSET", *[x for key in KEYS for x in (key, "4")])
    t.quiet("one")
    # A key of another database is the same key to who keeps it.
    t.call("one", "GET", "k2")
    t.call("two", "SELECT", 3)
    t.call("two", "SET", "k2", "1")
    t.read("one")
    t.call("one", "GET", "k2")
    t.call("one", "CLIENT", "TRACKING", "off")
    t.call("two", "SET", "k2", "2")
    t.quiet("one")


def tracking_in_transactions_and_scripts(t):
    three(t, "one", "two")
    t.call("one", "CLIENT", "TRACKING", "on")
    t.call("one", "MULTI")
    for key in KEYS[:4]:
        t.call("one", "GET", key)
    t.call("one", "EXEC")
    t.call("two", "MULTI")
    for key in KEYS[:4]:
        t.call("two", "SET", key, 1)
    t.call("two", "EXEC")
    t.reads("one", 4)
    t.call("one", "EVAL", "return {redis.call('get', KEYS[1]), redis.call('get', KEYS[2])}", 2, "k0", "k1")
    t.call("two", "EVAL", "redis.call('set', KEYS[1], 2) redis.call('set', KEYS[2], 2)", 2, "k0", "k1")
    t.reads("one", 2)
    t.call("one", "GET", "k3")
    t.call("one", "MULTI")
    t.call("one", "SET", "k3", 9)
    t.call("one", "GET", "k3")
    t.call("one", "EXEC")
    t.read("one")
    t.quiet("one")


def tracking_opt(t):
    three(t, "one", "two")
    t.call("one", "CLIENT", "TRACKING", "on", "OPTIN")
    t.call("one", "GET", "k0")
    t.call("one", "CLIENT", "CACHING", "yes")
    t.call("one", "GET", "k1")
    t.call("one", "GET", "k2")
    for key in KEYS:
        t.call("two", "SET", key, 1)
    t.read("one")
    t.quiet("one")
    t.call("one", "CLIENT", "CACHING", "yes")
    t.call("one", "MULTI")
    t.call("one", "GET", "k3")
    t.call("one", "GET", "k4")
    t.call("one", "EXEC")
    t.call("one", "GET", "k5")
    for key in KEYS:
        t.call("two", "SET", key, 1)
    t.reads("one", 2)
    t.quiet("one")
    t.call("one", "CLIENT", "TRACKING", "off")
    t.call("one", "CLIENT", "TRACKING", "on", "OPTOUT")
    t.call("one", "GET", "k0")
    t.call("one", "CLIENT", "CACHING", "no")
    t.call("one", "GET", "k1")
    t.call("one", "GET", "k2")
    for key in KEYS:
        t.call("two", "SET", key, 1)
    t.reads("one", 2)
    t.quiet("one")


def tracking_broadcast(t):
    three(t, "one", "two", "three", "four")
    t.call("one", "CLIENT", "TRACKING", "on", "BCAST", "PREFIX", "k1", "PREFIX", "k2")
    t.call("two", "CLIENT", "TRACKING", "on", "BCAST")
    t.call("three", "CLIENT", "TRACKING", "on", "BCAST", "NOLOOP")
    for key in KEYS:
        t.call("four", "SET", key, 1)
        t.read("two")
        t.read("three")
    t.read("one")
    t.read("one")
    t.call("three", "SET", "k1", 1)
    t.read("two")
    t.read("one")
    t.quiet("three")
    t.call("two", "INCR", "k1")
    t.read("two")
    t.read("three")
    t.read("one")
    t.call("one", "CLIENT", "TRACKING", "off")
    t.call("four", "DEL", "k1")
    t.read("two")
    t.quiet("one")
    t.call("four", "FLUSHALL")
    t.read("two")
    t.read("three")
    t.read("three")
    t.close("two")
    t.call("four", "SET", "k1", 1)
    t.read("three")


def tracking_ends_of_keys(t):
    three(t, "one", "two")
    t.call("one", "CLIENT", "TRACKING", "on")
    for key in KEYS:
        t.call("two", "SET", key, 1, "PX", 30)
        t.call("one", "GET", key)
    t.reads("one", len(KEYS))
    t.call("two", "SET", "k1", 1)
    t.call("one", "GET", "k1")
    t.call("two", "EXPIRE", "k1", -1)
    t.read("one")
    t.call("one", "GET", "k1")
    t.call("two", "FLUSHDB")
    t.read("one")
    t.call("two", "FLUSHALL")
    t.read("one")
    t.call("one", "FLUSHALL")
    t.read("one")
    t.call("two", "EVAL", "redis.call('flushall')", 0)
    t.read("one")
    t.quiet("one")
    t.call("one", "GET", "k1")
    t.call("two", "RENAME", "k1", "k2")
    t.call("two", "SET", "k2", 1)
    t.call("two", "RENAME", "k2", "k1")
    t.read("one")
    t.call("one", "GET", "k1")
    t.call("two", "MOVE", "k1", 5)
    t.read("one")
    t.quiet("one")


def tracking_redirect(t):
    for name in ["one", "two", "three", "four"]:
        t.conn(name)
    # RESP2: to a connection that listens; not to one that does not.
    t.call("one", "SUBSCRIBE", "__redis__:invalidate")
    t.call("two", "CLIENT", "TRACKING", "on", "REDIRECT", t.id("one"))
    t.call("three", "CLIENT", "TRACKING", "on", "REDIRECT", t.id("four"))
    t.call("two", "MGET", *KEYS)
    t.call("three", "MGET", *KEYS)
    for key in KEYS:
        t.call("four", "SET", key, 1)
        t.read("one")
    t.quiet("four")
    t.call("four", "FLUSHALL")
    t.read("one")
    t.quiet("two")
    # RESP3: to anybody; and the news that the other one is gone.
    three(t, "two", "four")
    t.call("three", "GET", "k1")
    t.call("five", "SET", "k1", 2)
    t.read("four")
    t.close("one")
    gone = lambda: not t.conn("five").ask("CLIENT", "LIST", "ID", t.ids["one"])
    t.until("one has gone", gone)
    t.call("two", "GET", "k3")
    t.call("four", "SET", "k3", 1)
    t.read("two")
    t.note("flags", fields_of(t.conn("two").ask("CLIENT", "INFO"))["flags"])
    t.call("two", "CLIENT", "TRACKINGINFO")
    # To itself.
    t.call("four", "CLIENT", "TRACKING", "on", "REDIRECT", t.id("four"))
    t.call("four", "GET", "k5")
    t.call("four", "SET", "k5", 1)
    t.read("four")
    t.quiet("four")


def tracking_table_is_bounded(t):
    three(t, "one", "two")
    t.call("two", "CONFIG", "SET", "tracking-table-max-keys", "20")
    t.call("one", "CLIENT", "TRACKING", "on")
    for n in range(200):
        t.send("one", "GET", "key%d" % n)
    told = replies = 0
    while replies < 200 or (t.is_node and told < 180):
        reply = t.conn("one").read()
        told += reply.kind == ">"
        replies += reply.kind != ">"
    t.until("the table is small", lambda: int(t.conn("two").info("stats")["tracking_total_keys"]) <= 20)
    t.until("one tracks", lambda: t.conn("two").info("clients")["tracking_clients"] == "1")
    t.call("two", "CONFIG", "SET", "tracking-table-max-keys", "1000000")


# ---- MONITOR ----


def monitor(t):
    t.call("eye", "MONITOR")
    for words in [
        "PING", "AUTH x", "AUTH x y", "HELLO 3", "HELLO 2", "MULTI", "SET a 1", "GET a", "EXEC", "CONFIG GET databases",
        "CLIENT ID", "LPUSH a 1", "SELECT 3", "GET z", "NOPE", "GET", "CLIENT SETNAME foo", "CLIENT NOPE",
        "SUBSCRIBE x", "UNSUBSCRIBE", "RESET", "SLOWLOG LEN", "MULTI", "DISCARD", "WATCH a", "PUBLISH a b", "FLUSHALL",
        "MSET k0 1 k1 1 k2 1 k3 1", "ECHO \\x",
    ]:
        if words.startswith("HELLO"):
            t.conn("one").call(*words.split())
        else:
            t.call("one", *words.split())
    t.call("one", "PING", b"a\n\x01\"b\\\xff\x07\x00\r\t\x08")
    t.call("one", "EVAL", "redis.call('set', KEYS[1], 1) return redis.call('GET', KEYS[1])", 1, "k")
    # What the other side shows comes in the order in which it happened.
    t.call("one", "ECHO", "end")
    while True:
        reply = t.read("eye")
        if reply is None or reply.value.endswith(b'"end"'):
            break
    for words in ["GET x", "SET x y", "PUBLISH x y", "EVAL 1 0"]:
        t.call("eye", *words.split())
    t.call("eye", "RESET")
    t.call("one", "PING")
    t.quiet("eye")
    t.call("eye", "MULTI")
    t.call("eye", "MONITOR")


def monitor_several(t):
    for name in ["eye", "ear", "one", "two", "three"]:
        t.conn(name)
    t.call("eye", "MONITOR")
    t.call("ear", "MONITOR")
    for name in ["one", "two", "three"]:
        t.call(name, "SET", name, 1)
        t.read("eye")
        t.read("ear")
    t.close("ear")
    t.call("two", "PING")
    t.read("eye")


# ---- sharded publish and subscribe ----


def shard_channels(t):
    t.call("one", "SSUBSCRIBE", "a", "b", "a")
    t.call("two", "SSUBSCRIBE", "a")
    t.call("three", "PSUBSCRIBE", "*")
    t.call("four", "SPUBLISH", "a", "text")
    t.read("one")
    t.read("two")
    t.call("four", "PUBLISH", "a", "other")
    t.read("three")
    for words in [
        "PUBSUB SHARDCHANNELS", "PUBSUB CHANNELS", "PUBSUB SHARDCHANNELS b*", "PUBSUB SHARDNUMSUB a b c",
        "PUBSUB SHARDNUMSUB", "PUBSUB NUMSUB a", "SPUBLISH nobody x", "SSUBSCRIBE", "SPUBLISH a",
    ]:
        if words == "PUBSUB SHARDCHANNELS":
            t.note(words, sorted(t.conn("four").ask(*words.split())))
        else:
            t.call("four", *words.split())
    t.call("one", "GET", "x")
    t.call("one", "PING")
    t.call("one", "SUNSUBSCRIBE", "nope")
    t.call("one", "SUNSUBSCRIBE", "b")
    t.call("one", "SUNSUBSCRIBE")
    t.call("one", "SUNSUBSCRIBE")
    t.quiet("one")
    t.call("four", "EVAL", "return redis.call('spublish', KEYS[1], 'said')", 1, "a")
    t.read("two")
    three(t, "four")
    t.call("four", "SSUBSCRIBE", "x")
    t.send("four", "SPUBLISH", "x", "mine")
    t.reads("four", 2)
    t.call("two", "RESET")
    t.until("nobody listens", lambda: t.conn("four").ask("PUBSUB", "SHARDNUMSUB", "a") == [b"a", 0])


# ---- keyspace events ----

# Commands that tell of something, or might.
EVENTFUL = """
SET a 1
SET a 1 EX 100
SET a 1 KEEPTTL
SET b 1 NX GET
GET none
GETSET a 2
GETDEL a
GETDEL a
SETNX a 1
SETEX a 10 1
PSETEX a 1000 1
GETEX a PERSIST
GETEX a PERSIST
GETEX a EX 10
GETEX a EXAT 1
MSET a 1 b 2
MSETNX c 1 d 2
MSETNX c 1 e 2
INCR a
DECR a
INCRBY a 2
DECRBY a 1
INCRBYFLOAT a 1.5
APPEND a x
SETRANGE a 1 yy
SETRANGE zz 0 ""
SETBIT bit 1 1
BITOP AND dst a b
BITOP AND dst none none
BITFIELD bf SET u8 0 1
BITFIELD bf GET u8 0
DEL a b none
UNLINK c none
SET a 1
EXPIRE a 100
EXPIRE a 100 NX
PEXPIREAT a 99999999999999
PERSIST a
PERSIST a
EXPIRE a -1
SET a 1
RENAME a b
SET a 1
RENAME a b
RENAMENX b c
COPY c d REPLACE
COPY c newd
MOVE c 3
SELECT 3
MOVE c 0
SELECT 0
TYPE none
EXISTS c none
TTL none
STRLEN none
OBJECT ENCODING none
LPUSH l a b c
LPUSHX l a
LPUSHX nol a
RPUSH l z
RPUSHX l z
LINSERT l BEFORE a q
LINSERT l BEFORE nope q
LSET l 0 x
LREM l 0 nope
LREM l 0 x
LTRIM l 0 2
LPOP l
RPOP l
RPOP l
LPOP l
LPUSH l a b
RPOPLPUSH l l2
LMOVE l l2 LEFT RIGHT
LMOVE l2 l2 LEFT RIGHT
LMPOP 1 l2 LEFT COUNT 2
RPUSH l 1 2
BLPOP l 1
BRPOP l 1
RPUSH l 1 2
BLMOVE l l3 LEFT LEFT 1
BRPOPLPUSH l l3 1
BLMPOP 1 1 l3 RIGHT COUNT 3
LTRIM none 0 1
RPUSH l 1
LTRIM l 5 9
SADD s a b c
SADD s a
SREM s a
SREM s nope
SMOVE s s2 b
SMOVE s s2 nope
SPOP s
SADD s a b c
SPOP s 2
SPOP s 5
SADD s a b
SADD t b c
SINTERSTORE x s t
SINTERSTORE x s none
SUNIONSTORE x s t
SDIFFSTORE x none s
SDIFFSTORE nothere none s
HSET hh a 1 b 2
HSET hh a 1
HMSET hh c 3
HSETNX hh a 1
HSETNX hh d 1
HINCRBY hh a 1
HINCRBYFLOAT hh a 1.5
HDEL hh a nope
HDEL hh b c d
ZADD z 1 a 2 b 3 c
ZADD z 1 a
ZADD z 5 a
ZADD z INCR 1 a
ZINCRBY z 1 b
ZREM z a
ZREM z nope
ZADD z 1 a 2 b 3 c 4 d 5 e 6 f 7 g
ZREMRANGEBYSCORE z 1 1
ZREMRANGEBYRANK z 0 0
ZREMRANGEBYLEX z - [c
ZPOPMIN z
ZPOPMAX z
BZPOPMIN z 1
BZPOPMAX z 1
ZADD z 1 a 2 b 3 c 4 d
ZMPOP 1 z MIN
BZMPOP 1 1 z MAX
ZUNIONSTORE zz2 1 z
ZINTERSTORE zz2 1 z
ZDIFFSTORE zz2 1 z
ZDIFFSTORE zz2 2 z z
ZRANGESTORE zz2 z 0 -1
ZRANGESTORE zz2 z 5 9
ZREMRANGEBYSCORE z -inf +inf
GEOADD g 13.36 38.11 P 15.08 37.5 C
GEOSEARCHSTORE g2 g FROMLONLAT 15 37 BYRADIUS 200 km
GEOSEARCHSTORE g2 g FROMLONLAT 0 0 BYRADIUS 1 km
GEORADIUS g 15 37 200 km STORE g3
GEORADIUS g 0 0 1 km STORE g3
XADD st 1-1 a b
XADD st MAXLEN 1 2-1 a b
XGROUP CREATE st grp 0
XGROUP CREATE newst grp 0 MKSTREAM
XGROUP CREATECONSUMER st grp al
XGROUP CREATECONSUMER st grp al
XREADGROUP GROUP grp bob STREAMS st >
XCLAIM st grp carl 0 2-1
XAUTOCLAIM st grp dan 0 0
XACK st grp 2-1
XGROUP SETID st grp 0
XGROUP DELCONSUMER st grp al
XGROUP DELCONSUMER st grp nope
XGROUP DESTROY st grp
XGROUP DESTROY st grp
XDEL st 2-1
XDEL st 2-1
XSETID st 5-1
XTRIM st MAXLEN 0
XADD st 6-1 a b
XTRIM st MAXLEN 0
TOUCH none
DUMP none
PFADD h a
PFADD h a
PFMERGE h2 h
PFCOUNT h h2
SORT t ALPHA STORE srt
SORT none STORE srt
FLUSHDB
SWAPDB 0 1
"""


def events_of(t):
    """What came to the listener, up to a message that is sent now."""
    told = []
    # Messages of several cores come in any order: once one of them has come, all that left before it are
    # there with the next.
    for _ in range(2):
        t.conn("two").call("PUBLISH", "__keyend", "")
        while True:
            reply = t.conn("ear").read().plain()
            if reply[2] == b"__keyend":
                break
            told.append(b"%s %s" % (reply[2], reply[3]))
    return told


def keyspace_events(t):
    t.call("two", "CONFIG", "SET", "notify-keyspace-events", "KEAmn")
    t.call("ear", "PSUBSCRIBE", "__key*")
    for line in EVENTFUL.strip().splitlines():
        words = [word.strip('"') for word in line.split()]
        t.conn("one").call(*words)
        t.note(line, events_of(t))
    t.conn("one").call("EVAL", "redis.call('set', KEYS[1], 1) redis.call('del', KEYS[1])", 1, "script")
    t.note("a script", events_of(t))
    for words in ["MULTI", "SET exec 1", "DEL exec", "EXEC"]:
        t.conn("one").call(*words.split())
    t.note("a transaction", events_of(t))
    t.send("one", "BLPOP", "later", 0)
    t.until("it blocks", lambda: b"flags=b" in t.conn("two").ask("CLIENT", "LIST", "ID", t.id("one")))
    t.conn("two").call("RPUSH", "later", "a", "b")
    t.conn("one").read()
    # Who pushes and who waited may be on two cores, and the listener on a third.
    t.note("a client that waited", sorted(event for event in events_of(t) if b"keyevent" in event))


def keyspace_events_of_time(t):
    t.call("two", "CONFIG", "SET", "notify-keyspace-events", "Ex")
    t.call("ear", "PSUBSCRIBE", "__key*")
    for key in KEYS:
        t.call("one", "SET", key, 1, "PX", 30)
    t.reads("ear", len(KEYS))
    t.call("one", "SET", "found", 1, "PX", 1)
    time.sleep(0.003)
    t.call("one", "GET", "found")
    t.read("ear")


def keyspace_event_classes(t):
    for letters in ["KEA", "AKE", "Kx", "", "g$lshzxetd", "nope", "KEg$", "Ex", "K", "Em", "$g", "KEq"]:
        t.call("one", "CONFIG", "SET", "notify-keyspace-events", letters)
        t.note("shown", t.conn("one").ask("CONFIG", "GET", "notify-keyspace-events"))
    for letters in ["", "K$", "E$", "Kl", "El", "KElg", "A", "KE"]:
        t.call("one", "CONFIG", "SET", "notify-keyspace-events", letters)
        t.call("ear", "PSUBSCRIBE", "__key*")
        t.conn("one").call("SET", "string", 1)
        t.conn("one").call("RPUSH", "list", 1)
        t.conn("one").call("DEL", "list")
        t.note(letters, events_of(t))
    t.call("one", "CONFIG", "SET", "notify-keyspace-events", "")


# ---- limits ----


def a_queue_is_bounded(t):
    """What MULTI queues counts as what waits to be run."""
    for name, values in (
        (
            "client-output-buffer-limit",
            ("", "normal 0 0", "foo 0 0 0", "master 0 0 0", "normal a 0 0", "normal 0 0 -1", "normal 0 0 1x")
            + ("replica 1mb 2mb 3", "pubsub 1gb 2gb 3 normal 4gb 5gb 6")
            + ("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",),
        ),
        ("maxmemory-clients", ("x", "-1%", "101%", "5%", "1gb", "0")),
        ("maxclients", ("0", "x", "4294967296", "9000", "10000")),
    ):
        for value in values:
            t.call("two", "CONFIG", "SET", name, value)
            t.call("two", "CONFIG", "GET", name)
    t.call("two", "CONFIG", "SET", "client-query-buffer-limit", "x")
    t.call("two", "CONFIG", "SET", "client-query-buffer-limit", "1mb")
    t.call("one", "MULTI")
    closed = False
    try:
        for _ in range(64):
            t.conn("one").call("SET", "key", "x" * 60000)
    except (Closed, OSError):
        closed = True
    # Redis 7.2 and later count it.
    t.only_node("closed", True, closed)
    t.call("two", "EXISTS", "key")
    t.call("two", "CONFIG", "SET", "client-query-buffer-limit", "1gb")
    t.call("two", "CONFIG", "GET", "client-query-buffer-limit")


def what_exec_runs_is_in_the_slow_log(t):
    t.call("one", "CONFIG", "SET", "slowlog-log-slower-than", "0")
    t.call("one", "SLOWLOG", "RESET")
    for words in ["MULTI", "LRANGE a 0 -1", "EXEC"]:
        t.call("one", *words.split())
    seen = [entry[3] for entry in t.conn("one").ask("SLOWLOG", "GET")]
    t.note("inside EXEC", [b"LRANGE", b"a", b"0", b"-1"] in seen)
    t.call("one", "CONFIG", "SET", "slowlog-log-slower-than", "10000")
    t.call("one", "SLOWLOG", "RESET")


# ---- WATCH ----


def watch_and_flush(t):
    """Emptying a database changes only the keys that were in it."""
    tries = [
        ("there", "FLUSHDB"), ("there", "FLUSHALL"), ("absent", "FLUSHDB"), ("absent", "FLUSHALL"),
        ("there", "SELECT 4", "FLUSHDB"), ("there", "SELECT 4", "FLUSHALL"), ("due", "FLUSHALL"),
        ("source", "SUNIONSTORE to source source"), ("to", "SUNIONSTORE to source source"),
        ("there", "COPY there there2"), ("there2", "COPY there there2 REPLACE"),
        ("there", "BITOP NOT there2 there"),
    ]
    for key, *words in tries:
        t.call("two", "SELECT", 0)
        t.call("two", "MSET", "there", 1, "there2", 2)
        t.call("two", "SADD", "source", 1)
        t.call("two", "SET", "due", 1, "PX", 1)
        time.sleep(0.003)
        t.call("one", "WATCH", key)
        for line in words:
            t.call("two", *line.split())
        t.call("one", "MULTI")
        t.call("one", "PING")
        t.call("one", "EXEC")


SCENARIOS = [
    keyspace_events,
    keyspace_events_of_time,
    keyspace_event_classes,
    a_queue_is_bounded,
    what_exec_runs_is_in_the_slow_log,
    monitor,
    monitor_several,
    shard_channels,
    watch_and_flush,
    tracking_errors,
    tracking_reads,
    tracking_in_transactions_and_scripts,
    tracking_opt,
    tracking_broadcast,
    tracking_ends_of_keys,
    tracking_redirect,
    tracking_table_is_bounded,
    client_errors,
    client_help,
    client_list,
    client_names_of_libraries,
    client_kill,
    client_unblock,
    client_pause,
    client_reply,
]


def play(scenario, addr, is_node):
    with Conn(addr) as c:
        c.call("FLUSHALL")
    talk = Talk(addr, is_node)
    try:
        scenario(talk)
    except (Closed, Broken, OSError, RuntimeError, TimeoutError) as e:
        talk.note("it ended", "%s: %s" % (type(e).__name__, e))
        talk.wrong.append("%s: %s" % (type(e).__name__, e))
    talk.close()
    with Conn(addr) as c:
        wait_until("clients have gone", 5, lambda: int(c.info("clients")["connected_clients"]) <= 1)
    return talk


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--node")
    ap.add_argument("--a")
    ap.add_argument("--b")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--only", default="")
    opts = ap.parse_args()
    count = Count()
    with Scratch() as scratch:
        a = addr_of(opts.a) if opts.a else redis_server(scratch).addr
        b = addr_of(opts.b) if opts.b else node_server(scratch, opts.node, threads=opts.threads).addr
        for scenario in SCENARIOS:
            if not scenario.__name__.startswith(opts.only):
                continue
            theirs, ours = play(scenario, a, False), play(scenario, b, True)
            why = list(ours.wrong)
            for at in range(max(len(theirs.said), len(ours.said))):
                want = theirs.said[at] if at < len(theirs.said) else "<nothing>"
                got = ours.said[at] if at < len(ours.said) else "<nothing>"
                if want != got:
                    why.append("\n    redis %s\n    node  %s" % (want, got))
            count.check(scenario.__name__, not why, "; ".join(why))
    count.close()


if __name__ == "__main__":
    main()
