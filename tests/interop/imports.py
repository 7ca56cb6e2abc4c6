#!/usr/bin/env python3
"""Data of other servers through `ringkeep import` and `ringkeep export`, and back into a redis-server.

    imports.py --node BINARY [--short] [--seed S] [--only TEXT] [--keep]

Real servers (redis-server, and each kevy that is there) are filled with every data type and a seeded random
load, asked for everything they have, and stopped or killed. What they leave on the disk is imported, exported
as an RDB file and loaded by redis-server, which then must have the same keys, values and deadlines.
"""

import argparse
import os
import shutil
import signal
import struct
import subprocess
import time

from compare import Maker, dump, dump_diff
from kevy_replica import VERSIONS, W1, W3, Load, fill, kevy_server, pump
from wire import Conn, Count, Scratch, Server, encode, free_base, kevy_binary, node_server, redis_server, show, wait_until


class Tools:
    """The node's binary and a place for what it makes."""

    def __init__(self, node, scratch):
        self.node, self.scratch = os.path.abspath(node), scratch
        self.made = 0

    def run(self, *args):
        """Exit status, standard output and error of a subcommand."""
        done = subprocess.run(
            [self.node] + [str(a) for a in args], stdin=subprocess.DEVNULL, capture_output=True, timeout=120
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def place(self, name):
        self.made += 1
        return os.path.join(self.scratch.path, "%s-%d" % (name, self.made))

    def there_and_back(self, kind, path, shards=3):
        """Imports, and exports what was made. The RDB file, and what the tools said; None if they failed."""
        out, rdb = self.place("data"), self.place("export") + ".rdb"
        rc, said, err = self.run("import", "--" + kind, path, "--dir", out, "--shards", shards)
        if rc == 0:
            rc, more, err = self.run("export", "--dir", out, "--rdb", rdb)
            said += more
        shutil.rmtree(out, ignore_errors=True)
        return (rdb if rc == 0 else None), said + err


def redis_on(scratch, name, args=(), rdb=None):
    """A redis-server with files; `rdb` is what it loads."""
    port = free_base()
    directory = scratch.sub("%s-%d" % (name, port))
    if rdb:
        shutil.copy(rdb, os.path.join(directory, "dump.rdb"))
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--loglevel", "warning"]
    argv += ["--save", "", "--enable-debug-command", "yes", "--aof-timestamp-enabled", "yes"]
    return Server("%s-%d" % (name, port), argv + list(args), port, directory).start()


def loaded(scratch, rdb, details):
    """Everything that redis-server finds in an RDB file, and its digest of it."""
    server = redis_on(scratch, "reader", rdb=rdb)
    try:
        with server.conn(30.0) as c:
            return dump(c, details), c.ask("DEBUG", "DIGEST")
    finally:
        server.stop()


def without_brief(state):
    """Whether a key is written before or after it has expired is not in a log of kevy."""
    now = time.time() * 1000
    return {
        k: v for k, v in state.items() if not k.startswith(b"brief") and not 0 <= v[2] < now + 5000
    }


def same(count, name, tools, kind, path, before, details, scratch, tolerance_ms=50, digest=None):
    """Imports, exports, loads, compares."""
    rdb, said = tools.there_and_back(kind, path)
    if rdb is None:
        return count.fail(name, said)
    after, found = loaded(scratch, rdb, details)
    diff = dump_diff(without_brief(before), without_brief(after), tolerance_ms, ("there", "here "))
    if diff:
        count.fail(name, "%d of %d keys differ:\n    %s" % (len(diff), len(before), "\n    ".join(diff[:6])))
    elif digest is not None and digest != found:
        count.fail(name, "redis-server's digest was %r, is %r" % (digest, found))
    else:
        count.ok(name, "%d keys" % len(after))
    return said


# ---- redis-server ---------------------------------------------------------------------------


def load_redis(conn, seed, commands):
    maker = Maker(seed, valid=True)
    batch = []
    for _ in range(commands):
        args = maker.make()
        if args[0] not in (b"BLPOP", b"BRPOP", b"XREADGROUP", b"SUBSCRIBE"):
            batch.append(args)
    conn.many(batch)
    conn.many([["SELECT", "3"], ["SET", "in three", "x"], ["RPUSH", "l3", "a"], ["SELECT", "0"]])
    conn.many([["MULTI"], ["SET", "t1", "1"], ["INCR", "t1"], ["RPUSH", "t2", "x"], ["EXEC"]])
    # Everything that is still there is there for long.
    for key in conn.ask("KEYS", "*"):
        if 0 <= conn.ask("PTTL", key) < 600000:
            conn.ask("PEXPIRE", key, 6000000)


def redis_cases(count, tools, scratch, opts):
    commands = 1500 if opts.short else 20000
    for preamble in ("yes", "no"):
        name = "redis AOF, preamble %s" % preamble
        if opts.only and opts.only not in name:
            continue
        server = redis_on(
            scratch, "redis", ["--appendonly", "yes", "--aof-use-rdb-preamble", preamble]
        )
        with server.conn(30.0) as c:
            fill(c, "2.0.20")
            load_redis(c, opts.seed, commands)
            c.ask("BGREWRITEAOF")
            wait_until(
                "the rewrite ends", 20, lambda: c.info("persistence")["aof_rewrite_in_progress"] == "0"
            )
            load_redis(c, opts.seed + 1, commands)
            before, digest = dump(c), c.ask("DEBUG", "DIGEST")
            c.ask("SAVE")
        server.stop()
        directory = os.path.join(server.dir, "appendonlydir")
        same(count, name, tools, "aof", directory, before, True, scratch, digest=digest)
        manifest = [f for f in os.listdir(directory) if f.endswith(".manifest")][0]
        same(
            count, name + ", by its manifest", tools, "aof", os.path.join(directory, manifest), before, True,
            scratch, digest=digest,
        )
        same(
            count, "redis RDB file", tools, "rdb", os.path.join(server.dir, "dump.rdb"), before, True, scratch,
            digest=digest,
        )
        single_file(count, tools, scratch, server.dir, directory, before, digest)
        if preamble == "no":
            damage(count, tools, scratch, directory)


def single_file(count, tools, scratch, server_dir, directory, before, digest):
    """The files of older versions: a log alone, with a snapshot in front of it if it was rewritten."""
    names = sorted(os.listdir(directory), key=lambda n: ("incr" in n, n))
    parts = [open(os.path.join(directory, n), "rb").read() for n in names if not n.endswith(".manifest")]
    path = tools.place("appendonly") + ".aof"
    tail = encode(["MULTI"]) + encode(["DEL", "fill:big"])
    with open(path, "wb") as f:
        f.write(b"".join(parts) + tail + encode(["EXEC"])[:5])
    said = same(
        count, "one file with a torn transaction", tools, "aof", path, before, True, scratch, digest=digest
    )
    count.check("it is told where it was cut", said and "cut off" in said, said)


def damage(count, tools, scratch, directory):
    """Damage in the middle is refused, with the file and the place; nothing is made."""
    broken = tools.place("broken")
    shutil.copytree(directory, broken)
    log = [f for f in os.listdir(broken) if ".incr." in f][0]
    path = os.path.join(broken, log)
    data = bytearray(open(path, "rb").read())
    at = data.index(b"\r\n*", len(data) // 2) + 2
    data[at] = ord("!")
    open(path, "wb").write(data)
    out = tools.place("never")
    rc, said, err = tools.run("import", "--aof", broken, "--dir", out)
    good = rc == 1 and log in err and "byte %d:" % at in err and not os.path.exists(out)
    count.check("damage in a log is refused", good, "%d %s %s" % (rc, said, err))
    # A base that ends early although a log continues it.
    base = [f for f in os.listdir(directory) if ".base." in f][0]
    shutil.rmtree(broken)
    shutil.copytree(directory, broken)
    path = os.path.join(broken, base)
    os.truncate(path, os.path.getsize(path) - 3)
    rc, said, err = tools.run("import", "--aof", broken, "--dir", out)
    count.check("a torn base is refused", rc == 1 and base in err and "continue" in err, err)


def refusals(count, tools, scratch):
    """What cannot be imported is told apart from what is damaged."""
    small = tools.place("small") + ".rdb"
    module = b"\x07\x01k\x81\x04\xe2\x1a\xa2\x0c\x00\x00\x01\x02\x05\x05\x01x\x00"
    library = b"\xf5\x0c#!lua name=l"
    with open(small, "wb") as f:
        f.write(b"REDIS0011\xfe\x00\x00\x01a\x011" + module + library + b"\xff" + bytes(8))
    out = tools.place("part")
    rc, said, err = tools.run("import", "--rdb", small, "--dir", out)
    good = rc == 1 and "1 keys: 1 string" in said and said.count("NOT TAKEN") == 1
    good = good and "a library of functions" in said
    count.check("what is not taken is named and counts as a failure", good, "%d %s %s" % (rc, said, err))
    rc, said, err = tools.run("import", "--rdb", small, "--dir", out)
    count.check("a directory with data is left alone", rc == 1 and "data already" in err, err)
    for name, data, want in (
        ("no RDB file", b"HELLO WORLD", "byte 0: no RDB file"),
        ("an unknown version", b"REDIS0099....", "version 0099 is not known"),
        ("an unknown type", b"REDIS0011\xfe\x00\x63\x01k", "byte 11: type 99"),
        ("a cut file", b"REDIS0011\xfe\x00\x00\x01k\x05va", "byte 11: the file ends"),
        ("a wrong sum", b"REDIS0011\xff\x01\x02\x03\x04\x05\x06\x07\x08", "checksum"),
    ):
        with open(small, "wb") as f:
            f.write(data)
        out = tools.place("never")
        rc, said, err = tools.run("import", "--rdb", small, "--dir", out)
        good = rc == 1 and small in err and want in err and not os.path.exists(out)
        count.check("%s is refused" % name, good, "%d %s %s" % (rc, said, err))
    rc, said, err = tools.run("import", "--kevy", tools.scratch.sub("empty"), "--dir", out)
    count.check("an empty kevy directory is refused", rc == 1 and "neither" in err, err)


# ---- kevy -----------------------------------------------------------------------------------


def kevy_load(server, version, shards, seed, seconds):
    with server.conn(30.0) as c:
        # Without deadlines of fields: redis-server 7.0 has none.
        fill(c, "2.0.20")
        load = Load(seed, version, shards)
        load.table = [(w, f) for w, f in load.table if f != load.fields]
        load.total = sum(w for w, _ in load.table)
        pump(c, load, seconds)
        if version in W3:
            c.call("DEL", "fill:nothing")
        return c


def kevy_case(count, tools, scratch, version, shards, way, opts):
    """One directory: the log alone, a rewritten log, a snapshot, or what a kill leaves."""
    name = "kevy %s, %d shards, %s" % (version, shards, way)
    if opts.only and opts.only not in name:
        return
    server = kevy_server(scratch, version, shards, aof=True)
    seconds = 0.5 if opts.short else 3
    kevy_load(server, version, shards, opts.seed, seconds)
    with server.conn(30.0) as c:
        if way == "rewritten":
            c.ask("BGREWRITEAOF")
            time.sleep(1)
        elif way == "saved":
            c.ask("SAVE")
        # 1.19 and 5.4 lose what is written right behind a snapshot.
        if way != "saved" or version in ("2.0.20", "7.0.0"):
            c.many([["SET", "behind:%d" % i, "x"] for i in range(20)] + [["DEL", "behind:3"]])
        # Logs are written once a second, and old versions do not do it when they are stopped.
        time.sleep(1.3)
        before = dump(c, details=version == "7.0.0")
    if way == "rewritten" and version != "7.0.0":
        # Their rewritten logs leave out pending entries that were deleted: what they find there themselves.
        server.stop()
        server.start()
        with server.conn(30.0) as c:
            before = dump(c, details=False)
    server.stop(signal.SIGKILL if way == "killed" else signal.SIGTERM)
    same(count, name, tools, "kevy", server.dir, before, version == "7.0.0", scratch, tolerance_ms=1500)


def kevy_cases(count, tools, scratch, opts):
    for version in VERSIONS:
        if kevy_binary(version) is None:
            count.skip("kevy %s" % version, "not here: tests/peers.sh")
            continue
        for shards in (2,) if opts.short else (1, 2, 5):
            for way in ("plain", "rewritten", "saved", "killed"):
                kevy_case(count, tools, scratch, version, shards, way, opts)


def hashtags(count, tools, scratch):
    """Behaviour 23: keys with hashtags are in other shards of kevys before 1.27.4 than newer ones look in. A
    node finds them, after an import and when it follows."""
    if kevy_binary("1.19.0") is None:
        return count.skip("wire 23", "no kevy 1.19.0: tests/peers.sh")
    keys = ["user:{%d}:%s" % (n, what) for n in range(40) for what in ("name", "mail")]
    keys += ["{}x", "a{b", "{only}", "x{}{y}"]
    server = None
    for shards in (1, 3, 4):
        # One that has had a replica serves the next one nothing.
        if server:
            server.kill()
        server = kevy_server(scratch, "1.19.0", 4, aof=True)
        with server.conn() as c:
            c.many([["SET", key, "of " + key] for key in keys])
        args = ["--shards", shards, "--replicaof", "127.0.0.1:%d" % (server.port + 10000)]
        node = node_server(scratch, tools.node, args=args, threads=2, port=free_base(8))
        found = lambda c: [r.value for r in c.many([["GET", key] for key in keys])]
        want = [("of " + key).encode() for key in keys]
        try:
            # A kevy 1.19 sends what it has in its backlog.
            wait_until("all keys", 20, lambda: found(node.conn()) == want)
            count.ok("wire 23: keys with hashtags of 1.19 come to a node of %d shards" % shards)
        except TimeoutError:
            missing = sum(value is None for value in found(node.conn()))
            count.fail("wire 23: keys with hashtags of 1.19 come to a node", "%d are missing" % missing)
        node.kill()
    # Its log is written once a second.
    time.sleep(1.3)
    server.kill()
    for shards in (1, 2, 4, 5):
        out = tools.place("hashtags")
        rc, said, err = tools.run("import", "--kevy", server.dir, "--dir", out, "--shards", str(shards))
        node = node_server(scratch, tools.node, args=["--dir", out, "--shards", shards], port=free_base(8))
        with node.conn() as c:
            got = [r.value for r in c.many([["GET", key] for key in keys])]
            good = rc == 0 and got == want and c.ask("DBSIZE") == len(keys)
        missing = sum(value is None for value in got)
        name = "wire 23: keys with hashtags of 1.19 are found in %d shards" % shards
        count.check(name, good, "%d missing %s" % (missing, err))
        node.kill()


def kevy_by_hand(count, tools, scratch):
    """What real directories show only after accidents: records cut and damaged, transactions without an
    end, snapshots that do not fit, the same key in two shards."""

    def crc32c(data):
        crc = 0xFFFFFFFF
        for byte in data:
            crc ^= byte
            for _ in range(8):
                crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        return crc ^ 0xFFFFFFFF

    def record(*args):
        body = encode(args)
        return struct.pack("<II", len(body), crc32c(body)) + body

    def directory(**files):
        path = tools.place("kevy")
        os.mkdir(path)
        for name, data in files.items():
            name = name.replace("__", "-").replace("_", ".")
            with open(os.path.join(path, name), "wb") as f:
                f.write(data)
        return path

    def image(key, value, snapshot=None):
        body = b"KEVYSNAP\x05" + bytes(16) + b"\x01\x00"
        body += struct.pack("<I", len(key)) + key + struct.pack("<I", len(value)) + value + b"\x00"
        return body + (b"KEVYSNID" + struct.pack("<Q", snapshot) if snapshot else b"")

    begin, commit = b"\0KEVYTXNBEGIN", b"\0KEVYTXNCOMMIT"
    head = b"KEVYAOF2\n"
    log = head + record("SET", "a", "1") + record("INCR", "a")
    cases = [
        ("a log alone", directory(aof__0_aof=log), {b"a": b"2"}),
        (
            "a transaction without its end",
            directory(aof__0_aof=log + record(begin) + record("INCR", "a")),
            {b"a": b"2"},
        ),
        (
            "a transaction whose end never came, and more",
            directory(
                aof__0_aof=log + record(begin) + record("INCR", "a") + record(begin) + record("APPEND", "a", "x") + record(commit)
            ),
            {b"a": b"2x"},
        ),
        ("a torn record", directory(aof__0_aof=(log + record("DEL", "a"))[:-4]), {b"a": b"2"}),
        ("zeros at the end", directory(aof__0_aof=log + bytes(4096)), {b"a": b"2"}),
        (
            "a snapshot below a log",
            directory(aof__0_aof=head + record("APPEND", "k", "w"), dump__0_rdb=image(b"k", b"v")),
            {b"k": b"vw"},
        ),
        (
            "a log that stands alone",
            directory(
                aof__0_aof=head + record(b"\0KEVYLOGBASE", bytes(8)) + record("SET", "b", "1"),
                dump__0_rdb=image(b"k", b"v", 7),
            ),
            {b"b": b"1"},
        ),
        (
            "a log that continues the snapshot before the last",
            directory(
                aof__0_aof=head + record(b"\0KEVYLOGBASE", struct.pack("<Q", 6)) + record("SET", "b", "1"),
                dump__0_rdb=image(b"k", b"v", 7),
                dump__0_rdb_prev=image(b"k", b"old", 6),
            ),
            {b"k": b"old", b"b": b"1"},
        ),
        # The deadline of the last command shows that the first key had expired when it was counted up.
        (
            "a key written after it had expired",
            directory(
                aof__0_aof=b"KEVYAOF1\n"
                + b"".join(
                    encode(a)
                    for a in (
                        ["SET", "gone", "5", "PX", "30"],
                        ["PEXPIREAT", "gone", "1700000000030"],
                        ["SET", "other", "1", "EX", "10000000000"],
                        ["PEXPIREAT", "other", str(1700000001000 + 10**13)],
                        ["INCR", "gone"],
                    )
                )
            ),
            {b"gone": b"1", b"other": b"1"},
        ),
        (
            "a script and a refused command",
            directory(
                aof__0_aof=encode(["EVAL", "redis.call('set',KEYS[1],ARGV[1])", "1", "k", "v"])
                + encode(["SET", "k", "never", "GET"])
            ),
            {b"k": b"v"},
        ),
    ]
    for name, path, want in cases:
        rdb, said = tools.there_and_back("kevy", path)
        if rdb is None:
            count.fail("kevy: " + name, said)
            continue
        state, _ = loaded(scratch, rdb, False)
        got = {k: v[1] for k, v in state.items()}
        count.check("kevy: " + name, got == want, "%r\n%s" % (got, said))

    damaged = bytearray(log + record("SET", "b", "1"))
    damaged[len(head) + 12] ^= 1
    for name, path, want in (
        ("a damaged record", directory(aof__0_aof=bytes(damaged)), "aof-0.aof: byte 9: the checksum"),
        (
            "a snapshot that is not there",
            directory(aof__0_aof=head + record(b"\0KEVYLOGBASE", struct.pack("<Q", 6))),
            "continues snapshot 0000000000000006",
        ),
        ("a cut snapshot", directory(dump__0_rdb=image(b"k", b"v")[:-3]), "dump-0.rdb: image is cut short"),
        ("writes that were not put into the log", directory(aof__0_aof=log, aof__0_aof_stage=b"x"), "killed kevy"),
    ):
        rc, said, err = tools.run("import", "--kevy", path, "--dir", tools.place("never"))
        count.check("kevy: %s is refused" % name, rc == 1 and want in err, "%d %s %s" % (rc, said, err))

    two = {"shards_meta": b"2\nkevyhash\n"}
    path = directory(
        aof__0_aof=head + record("SET", "ab", "stray") + record("SET", "a", "home"),
        aof__1_aof=head + record("SET", "ab", "home") + record("SET", "a", "stray"),
        **two
    )
    out, rdb = tools.place("data"), tools.place("export") + ".rdb"
    rc, said, err = tools.run("import", "--kevy", path, "--dir", out)
    good = rc == 1 and "NOT TAKEN: 2 x keys that another shard has too" in said
    count.check("kevy: a key in two shards is told", good, "%d %s %s" % (rc, said, err))
    rc, said, err = tools.run("export", "--dir", out, "--rdb", rdb)
    state, _ = loaded(scratch, rdb, False) if rc == 0 else ({}, None)
    got = {k: v[1] for k, v in state.items()}
    count.check("kevy: the one that clients saw is taken", got == {b"a": b"home", b"ab": b"home"}, repr(got))


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    ap.add_argument("--node", required=True, help="the node's binary")
    ap.add_argument("--short", action="store_true", help="fewer commands and shard counts")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--only", help="servers whose case has this in its name, and nothing else")
    ap.add_argument("--keep", action="store_true", help="leave the files")
    opts = ap.parse_args()
    count = Count()
    with Scratch(opts.keep) as scratch:
        tools = Tools(opts.node, scratch)
        if not opts.only:
            refusals(count, tools, scratch)
            kevy_by_hand(count, tools, scratch)
            hashtags(count, tools, scratch)
        redis_cases(count, tools, scratch, opts)
        kevy_cases(count, tools, scratch, opts)
    count.close()


if __name__ == "__main__":
    main()
