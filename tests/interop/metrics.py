#!/usr/bin/env python3
"""What a Prometheus reads: by promtool, by the parser of Prometheus's Python client, and against what was sent.

    metrics.py --node BINARY

A primary with a journal, and a replica, under load: every number that can be known is compared. The port is
then scraped as nobody should, while clients go on. `ringkeep top` shows the same node, once and in a terminal.
Runs with the Python of the peers, which has prometheus_client.
"""

import argparse
import fcntl
import http.client
import itertools
import json
import os
import pty
import re
import select
import socket
import struct
import subprocess
import termios
import time
import urllib.request
from collections import Counter

from prometheus_client.parser import text_string_to_metric_families

from wire import Conn, Count, Scratch, Server, free_base, node_server, peers_dir, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
DOCS = os.path.join(HERE, "..", "..", "src", "docs")
PROMTOOL = os.path.join(peers_dir(), "prometheus", "usr", "bin", "promtool")
PASSWORD = "geheim"
# Connections that have a place at the port.
PLACES = 16


class Page:
    """What one scrape has: the text, families by name, and samples by name and labels."""

    def __init__(self, text):
        self.text = text
        self.families, self.samples = {}, {}
        for family in text_string_to_metric_families(text):
            # The parser takes the suffix of counters for its own.
            name = family.name + ("_total" if family.type == "counter" else "")
            self.families[name] = family
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                assert key not in self.samples, key
                self.samples[key] = sample.value

    def get(self, name, **labels):
        return self.samples.get((name, tuple(sorted(labels.items()))))

    def sum(self, name, **labels):
        wanted = set(labels.items())
        found = [v for (of, has), v in self.samples.items() if of == name and wanted <= set(has)]
        return sum(found)


def scrape(port):
    with urllib.request.urlopen("http://127.0.0.1:%d/metrics" % port, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4"), answer.headers
        return Page(answer.read().decode())


def settled(port):
    """What holds once every core has told what it counted so far: at a beat, which comes each 100 ms."""
    time.sleep(0.35)
    return scrape(port)


def raw(port, request, half_closes=False):
    """Sends bytes, and what comes until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
        s.sendall(request)
        if half_closes:
            s.shutdown(socket.SHUT_WR)
        got = b""
        while True:
            try:
                piece = s.recv(65536)
            except ConnectionResetError:
                return got
            if not piece:
                return got
            got += piece


class Case:
    def __init__(self, count, scratch, node):
        self.count, self.scratch, self.node = count, scratch, os.path.abspath(node)
        base = free_base(8)
        self.port, self.metrics = base, base + 7
        args = ["--metrics-port", str(self.metrics), "--shards", "3", "--appendfsync", "always"]
        args += ["--replication-port", str(base + 1)]
        self.server = node_server(scratch, node, port=base, threads=2, args=args, name="primary")
        place = "127.0.0.1:%d" % (base + 1)
        self.replica_metrics = base + 6
        args = ["--metrics-port", str(self.replica_metrics), "--shards", "3", "--replicaof", place]
        self.replica = node_server(scratch, node, threads=2, args=args, name="replica")
        with self.server.conn() as c:
            # Who scrapes is not asked.
            assert not c.call("CONFIG", "SET", "requirepass", PASSWORD).is_error
        wait_until("the replica is there", 10, self.has_replica)

    def has_replica(self):
        return scrape(self.metrics).sum("ringkeep_replica_online") == 3

    def check(self, name, good, why=""):
        return self.count.check(name, good, why)

    def conn(self):
        c = self.server.conn()
        assert not c.call("AUTH", PASSWORD).is_error
        return c

    # ---- the text ----

    def text(self):
        page = settled(self.metrics)
        tool = subprocess.run(
            [PROMTOOL, "check", "metrics"], input=page.text, capture_output=True, text=True, timeout=60, check=False
        )
        told = tool.stdout + tool.stderr
        self.check("promtool has nothing to say", tool.returncode == 0 and not told.strip(), told)
        for name, family in page.families.items():
            if family.type == "histogram":
                self.check("%s is a histogram" % name, self.is_histogram(page, name), name)
        listed = self.listed()
        self.check("the page on metrics has them all", set(listed) == set(page.families), set(listed) ^ set(page.families))
        for name, (kind, labels) in listed.items():
            family = page.families.get(name)
            if family is None:
                continue
            has = {tuple(sorted(set(s.labels) - {"le"})) for s in family.samples}
            good = family.type == kind and has <= {labels}
            self.check("%s is as listed" % name, good, (family.type, has, labels))
        with open(os.path.join(DOCS, "grafana.json"), encoding="utf-8") as f:
            panels = json.load(f)["panels"]
        self.board(panels)
        queries = [t["expr"] for p in panels for t in p.get("targets", [])]
        names = set(re.findall(r"\b(?:ringkeep|process)_[a-z_]+", " ".join(queries)))
        known = {name for name, _ in page.samples}
        # Elections are off, and nothing else that is drawn may be missing.
        missing = {name for name in names - known if not name.startswith("ringkeep_election_")}
        self.check("the dashboard draws what is there", len(names) > 30 and not (missing - self.of_replicas()), missing)
        self.rules(queries + self.alarms(), set(page.families))

    def board(self, panels):
        """What a look at the dashboard has shown to matter: places, titles, units, and colours that mean something."""
        cells = []
        for panel in panels:
            name, at = panel["title"], panel["gridPos"]
            cells += itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))
            if panel["type"] == "row":
                continue
            refs = [t["refId"] for t in panel["targets"]]
            self.check("%s tells its queries apart" % name, len(set(refs)) == len(refs), refs)
            defaults = panel["fieldConfig"]["defaults"]
            self.check("%s has a unit" % name, "unit" in defaults, defaults)
            # Without thresholds of its own, Grafana paints every number above 80 red.
            plain = panel["type"] in ("timeseries", "heatmap")
            self.check("%s is not red by default" % name, plain or defaults.get("thresholds"), defaults)
            log = defaults.get("custom", {}).get("scaleDistribution", {}).get("type") == "log"
            self.check("%s: no logarithm of 0" % name, not (log and "min" in defaults), defaults)
        wide = all(x < 24 for x, _ in cells)
        self.check("the panels lie beside each other", wide and len(set(cells)) == len(cells), Counter(cells).most_common(1))
        ids, titles = [p["id"] for p in panels], [p["title"] for p in panels]
        self.check("each panel has a number of its own", len(set(ids)) == len(ids), ids)
        self.check("each panel has a title of its own", len(set(titles)) == len(titles), titles)

    def rules(self, queries, families):
        """A Prometheus reads each query, and each name in it is one of ours."""
        plain = [q.replace("$instance", ".*").replace("$__rate_interval", "5m") for q in queries]
        rules = [{"record": "rule:number%d" % at, "expr": query} for at, query in enumerate(plain)]
        path = os.path.join(self.scratch.sub("rules"), "rules.yml")
        with open(path, "w", encoding="utf-8") as f:
            # What is JSON is YAML.
            json.dump({"groups": [{"name": "ours", "rules": rules}]}, f)
        tool = subprocess.run([PROMTOOL, "check", "rules", path], capture_output=True, text=True, timeout=60, check=False)
        told = tool.stdout + tool.stderr
        good = tool.returncode == 0 and "%d rules found" % len(rules) in told
        self.check("promtool reads all %d queries" % len(rules), good and len(rules) > 60, told)
        names = {re.sub("_(bucket|sum|count)$", "", n) for q in queries for n in re.findall(r"ringkeep_\w+", q)}
        self.check("they are of what is there", names <= families, names - families)

    @staticmethod
    def alarms():
        with open(os.path.join(DOCS, "metrics.md"), encoding="utf-8") as f:
            table = f.read().split("## What to watch")[1].split("##")[0]
        return [text for text in re.findall("`([^`]+)`", table) if "ringkeep_" in text]

    def of_replicas(self):
        return {name for name, _ in scrape(self.replica_metrics).samples}

    @staticmethod
    def is_histogram(page, name):
        """Counts do not fall from bound to bound, bounds do not either, and the last is the count."""
        series = {}
        for (of, labels), value in page.samples.items():
            if of == name + "_bucket":
                labels = dict(labels)
                bound = float(labels.pop("le"))
                series.setdefault(tuple(labels.items()), []).append((bound, value))
        good = bool(series) or not page.families[name].samples
        for labels, buckets in series.items():
            counts = [n for _, n in sorted(buckets)]
            last = page.get(name + "_count", **dict(labels))
            good = good and len(counts) == 20 and counts == sorted(counts) and counts[-1] == last
        return good

    @staticmethod
    def listed():
        with open(os.path.join(DOCS, "metrics.md"), encoding="utf-8") as f:
            rows = re.findall(r"^\| `((?:ringkeep|process)_\w+)` \| (\w+) \| ([a-z, ]*) \|", f.read(), re.M)
        return {n: (k, tuple(sorted(w for w in l.replace(",", " ").split()))) for n, k, l in rows}

    # ---- the numbers ----

    def numbers(self):
        conns = [self.conn() for _ in range(4)]
        before = settled(self.metrics)
        sent, back, sets, gets = 0, 0, 0, 0
        for turn in range(5):
            for at, c in enumerate(conns):
                batch = [("SET", "key:%d:%d:%d" % (at, turn, i), "v" * (i % 50)) for i in range(150)]
                batch += [("GET", "key:%d:%d:%d" % (at, turn, i)) for i in range(100)]
                replies = c.many(batch)
                assert not any(r.is_error for r in replies)
                sent, sets, gets = sent + len(batch), sets + 150, gets + 100
                back += sum(len(r.raw) for r in replies)
        with self.conn() as c:
            sent, back = sent + 1, back + 5
            size = c.ask("DBSIZE")
            sent, back = sent + 1, back + len(b":%d\r\n" % size)
        after = settled(self.metrics)

        def grown(name, **labels):
            return after.sum(name, **labels) - before.sum(name, **labels)

        def equal(name, want, **labels):
            got = grown(name, **labels)
            self.check("%s grows by %d" % (name, want), got == want, got)

        equal("ringkeep_requests_total", sent)
        equal("ringkeep_turn_requests_sum", sent)
        equal("ringkeep_command_calls_total", sets, command="set")
        equal("ringkeep_command_calls_total", gets, command="get")
        equal("ringkeep_changes_total", sets)
        equal("ringkeep_sent_bytes_total", back)
        equal("ringkeep_connections_accepted_total", 1)
        equal("ringkeep_error_replies_total", 0)
        keys = after.sum("ringkeep_keys", db="0")
        self.check("ringkeep_keys is DBSIZE", keys == size, (keys, size))
        clients = after.sum("ringkeep_clients")
        self.check("ringkeep_clients is how many there are", clients == len(conns), clients)
        self.check("fewer turns than requests", 0 < grown("ringkeep_turn_requests_count") <= sent)
        self.check("turns take time", grown("ringkeep_turn_seconds_sum") > 0)
        turns = grown("ringkeep_turn_seconds_count")
        self.check("turns with work are turns", 0 < turns <= grown("ringkeep_loop_turns_total"), turns)
        self.check("the ring told something", grown("ringkeep_turn_completions_sum") > 0)
        syncs, commits = after.sum("ringkeep_journal_syncs_total"), after.sum("ringkeep_commit_seconds_count")
        self.check("every sync was measured", syncs == commits > 0, (syncs, commits))
        took = after.sum("ringkeep_commit_seconds_sum")
        self.check("and took some time", 0 < took < commits * 10, took)
        self.check("CPU time is told", after.sum("ringkeep_core_cpu_seconds_total") > 0)
        cores = after.sum("ringkeep_core_cpu_seconds_total")
        process = after.sum("process_cpu_seconds_total")
        self.check("by the cores no more than by the process", cores <= process, (cores, process))

        with self.conn() as c:
            assert c.call("EVAL", "return redis.error_reply('A\"B\\\\C there')", "0").is_error
            assert c.call("GET").is_error
            assert c.call("LPUSH", "key:0:0:0", "x").is_error
            again = settled(self.metrics)
            name = "ringkeep_error_replies_total"
            odd = again.get(name, error='A"B\\C')
            self.check("a script may call its error what it likes", odd == 1, again.families[name])
            self.check("WRONGTYPE is counted", again.get(name, error="WRONGTYPE") == 1)
            failed = again.get("ringkeep_command_failed_total", command="lpush")
            rejected = again.get("ringkeep_command_rejected_total", command="get")
            self.check("failed and rejected are told apart", (failed, rejected) == (1, 1), (failed, rejected))
            c.call("CONFIG", "RESETSTAT")
        again = settled(self.metrics)
        now = again.get("ringkeep_command_calls_total", command="set")
        was = after.get("ringkeep_command_calls_total", command="set")
        self.check("CONFIG RESETSTAT sets nothing back", now == was, (now, was))
        for c in conns:
            c.close()

    def links(self):
        def is_level():
            page = scrape(self.metrics)
            return page.sum("ringkeep_replica_behind_frames") == 0

        wait_until("the replica has everything", 10, is_level)
        page = settled(self.metrics)
        lags = [v for (n, _), v in page.samples.items() if n == "ringkeep_replica_lag_seconds_count"]
        self.check("the lag of each link is measured", len(lags) == 3 and min(lags) > 0, lags)
        self.check("a replica is one node", page.get("ringkeep_replicas") == 1)
        other = scrape(self.replica_metrics)
        self.check("the replica says that it is one", other.get("ringkeep_replica") == 1)
        self.check("the primary does not", page.get("ringkeep_replica") == 0)
        self.check("its streams are up", other.sum("ringkeep_upstream_up") == 3)
        keys = other.sum("ringkeep_keys")
        self.check("it has the keys", keys == page.sum("ringkeep_keys") > 0, keys)

    # ---- the port ----

    def refusals(self):
        argv = [self.node, "--no-config", "--port", str(free_base())]
        shared = subprocess.run(
            argv + ["--metrics-port", argv[-1]], capture_output=True, text=True, timeout=30, check=False
        )
        told = "port %s is to be for clients and for metrics" % argv[-1]
        self.check("no port is for two", shared.returncode == 1 and told in shared.stderr, shared.stderr)
        for name, request, want in [
            ("another page", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
            ("another method", b"DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
            ("HEAD", b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
            ("a body", b"POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n123456789", b"413"),
            ("a large body", b"POST /metrics HTTP/1.1\r\nContent-Length: 90000\r\n\r\n" + b"x" * 90000, b"413"),
            ("a huge head", b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 100_000, b"431"),
            ("many lines", b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"431"),
            ("RESP", b"*1\r\n$4\r\nPING\r\n", b"400"),
            ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
            ("noise", bytes(range(256)) * 8, b"400"),
        ]:
            got = raw(self.metrics, request)
            self.check("%s is answered %s" % (name, want.decode()), got.startswith(b"HTTP/1.1 " + want), got[:80])
        got = raw(self.metrics, b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", half_closes=True)
        head, _, body = got.partition(b"\r\n\r\n")
        told = int(re.search(rb"Content-Length: (\d+)", head).group(1))
        self.check("who has said all is answered", head.startswith(b"HTTP/1.1 200") and told == len(body), head)
        kept = http.client.HTTPConnection("127.0.0.1", self.metrics, timeout=10)
        for _ in range(3):
            kept.request("GET", "/metrics")
            answer = kept.getresponse()
            good = answer.status == 200 and len(answer.read()) == int(answer.headers["Content-Length"])
            self.check("a client that would keep the connection is answered", good)
        with socket.create_connection(("127.0.0.1", self.metrics), timeout=10) as s:
            for byte in b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n":
                s.sendall(bytes([byte]))
            self.check("a request may come byte by byte", s.recv(15) == b"HTTP/1.1 200 OK")

    def siege(self):
        """Many connections that want nothing good; clients and who scrapes do not notice."""
        fds = "/proc/%d/fd" % self.server.proc.pid
        wait_until("the port is quiet", 10, lambda: self.quiet_fds(fds))
        before = len(os.listdir(fds))
        asked = [b"", b"GET /metrics HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00", b"a" * 5000]
        idle = [socket.create_connection(("127.0.0.1", self.metrics), timeout=10) for _ in range(200)]
        for at, s in enumerate(idle):
            try:
                s.sendall(asked[at % len(asked)])
            except OSError:
                pass
        slow = []
        for _ in range(40):
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.settimeout(10)
            s.connect(("127.0.0.1", self.metrics))
            s.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            slow.append(s)
        with self.conn() as c:
            replies = c.many([("INCR", "counted")] * 2000)
            good = [r.value for r in replies] == list(range(1, 2001))
            self.check("clients are served meanwhile", good)
        # A core tells what it counted at its next beat.
        def is_counted():
            return (scrape(self.metrics).get("ringkeep_command_calls_total", command="incr") or 0) >= 2000

        wait_until("who scrapes sees what the clients did", 10, is_counted)
        self.check("and who scrapes", True)
        # Each of them is a descriptor of the node, or it is not there any more.
        wait_until("few have a place", 10, lambda: len(os.listdir(fds)) - before <= PLACES)
        self.check("few of 240 connections have a place", True)
        for s in idle + slow:
            # Who is cut off is told so; nobody has to wait for that here.
            s.close()
        wait_until("nothing is left of it", 15, lambda: len(os.listdir(fds)) <= before)
        self.check("nothing is left of it", True)
        patient = [socket.create_connection(("127.0.0.1", self.metrics), timeout=15) for _ in range(5)]
        patient[0].sendall(b"GET /metrics HTTP/1.1\r\n")
        self.check("who asks for nothing is hung up on", all(s.recv(1) == b"" for s in patient))
        for s in patient:
            s.close()
        self.check("the node lives", self.server.alive(), self.server.log_tail())

    @staticmethod
    def quiet_fds(path):
        one = len(os.listdir(path))
        time.sleep(0.3)
        return len(os.listdir(path)) == one

    # ---- in a terminal ----

    def top(self, *words, password=PASSWORD, port=None):
        env = dict(os.environ, RINGKEEP_PASSWORD=password)
        argv = [self.node, "top", "--port", str(port or self.port)] + list(words)
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=30, check=False)

    def frames(self):
        got = self.top("--once")
        lines = got.stdout.splitlines()
        self.check("top --once", got.returncode == 0 and "primary" in lines[0], got.stdout + got.stderr)
        self.check("fits", len(lines) <= 24 and all(len(line) <= 80 for line in lines), lines)
        cores = [line for line in lines if re.match(r" +\d+ .*%", line)]
        self.check("has both cores", len(cores) == 2, got.stdout)
        self.check("has the replica", "replica 127.0.0.1:" in got.stdout and "online" in got.stdout, got.stdout)
        shards = lines[lines.index(next(line for line in lines if "expiring" in line)) + 1 :][:3]
        rows = [line.split() for line in shards]
        good = [row[0] for row in rows] == ["0", "1", "2"] and all(row[1] != "0" for row in rows)
        self.check("has the keys of each shard", good, got.stdout)
        bad = self.top("--once", password="falsch")
        self.check("a wrong password is told", bad.returncode == 1 and "WRONGPASS" in bad.stderr, bad.stderr)
        none = self.top("--once", port=free_base())
        self.check("no node is told", none.returncode == 1 and "refused" in none.stderr, none.stderr)
        piped = self.top()
        self.check("without a terminal it says so", piped.returncode == 1 and "--once" in piped.stderr, piped.stderr)
        for name, key in [("q", b"q"), ("Ctrl-C", b"\x03")]:
            status, text = self.in_terminal(key)
            self.check("%s leaves" % name, status == 0, (status, text[-500:]))
            good = b"\x1b[?1049h" in text and b"\x1b[?1049l" in text and b"req/turn" in text
            self.check("and the terminal is as before", good, text[-500:])

    def in_terminal(self, key):
        pid, fd = pty.fork()
        if pid == 0:
            os.environ["RINGKEEP_PASSWORD"] = PASSWORD
            os.execv(self.node, [self.node, "top", "--port", str(self.port)])
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        text, is_asked, end = b"", False, time.monotonic() + 20
        while time.monotonic() < end:
            if not select.select([fd], [], [], 0.1)[0]:
                continue
            try:
                text += os.read(fd, 65536)
            except OSError:
                break
            if b"q: leave" in text and not is_asked:
                is_asked = True
                os.write(fd, key)
        else:
            os.kill(pid, 9)
        os.close(fd)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text

    # ---- elections ----

    def fleet(self):
        base = free_base(12)
        places = {name: base + 4 * at for at, name in enumerate("abc")}
        peers = ",".join("%s@127.0.0.1:%d:%d:%d" % (n, p + 1, p, p + 2) for n, p in places.items())
        nodes = []
        for name, port in places.items():
            args = ["--node-id", name, "--peers", peers, "--elect-port", port + 1, "--replication-port", port + 2]
            args += ["--metrics-port", port + 3, "--elect-down-after-ms", "600", "--shards", "1"]
            nodes.append(node_server(self.scratch, self.node, port=port, args=args, name=name))

        def pages():
            return [scrape(port + 3) for port in places.values()]

        def roles():
            found = pages()
            leaders = sum(page.get("ringkeep_election_role", role="leader") or 0 for page in found)
            replicas = sum(page.get("ringkeep_election_role", role="replica") or 0 for page in found)
            reached = all(page.get("ringkeep_election_members_reached") == 3 for page in found)
            epochs = {page.get("ringkeep_election_epoch") for page in found}
            known = all(page.get("ringkeep_election_primary_known") == 1 for page in found)
            agreed = (leaders, replicas) == (1, 2) and reached and known and len(epochs) == 1
            return found if agreed else None

        found = wait_until("one leads and two follow, in one epoch, and all know it", 30, roles)
        leader = next(p for p in found if p.get("ringkeep_election_role", role="leader"))
        # Every family of the table has a number where there are elections.
        lacking = [n for n in leader.families if n.startswith("ringkeep_election_") and not leader.families[n].samples]
        self.check("elections have numbers", not lacking, lacking)
        epoch = leader.get("ringkeep_election_epoch")
        self.check("all are in one epoch", epoch >= 1, epoch)
        self.check("the leader was elected", leader.get("ringkeep_election_won_total") >= 1)
        votes = sum(page.get("ringkeep_election_votes_total") for page in found)
        self.check("by votes", votes >= 1, votes)
        self.check("it has a lease", leader.get("ringkeep_election_lease_seconds") > 0)
        for node in nodes:
            node.stop()

    # ---- another process ----

    def handoff(self):
        folder = self.scratch.sub("supervised")
        port = free_base(4)
        argv = [self.node, "supervise", "--dir", os.path.join(folder, "data"), "--port", str(port)]
        argv += ["--no-config", "--threads", "2", "--replication-port", "0", "--metrics-port", str(port + 3)]
        server = Server("supervisor", argv, port, folder).start()
        before = scrape(port + 3)
        argv, asked = [self.node, "upgrade", "--binary", self.node], None
        for _ in range(50):
            asked = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
            # The supervisor hears a moment later than clients that the node serves.
            if "does not serve yet" not in asked.stderr:
                break
            time.sleep(0.1)
        self.check("an upgrade of a node with metrics", asked.returncode == 0, asked.stdout + asked.stderr)

        def is_new():
            started = scrape(port + 3).get("process_start_time_seconds")
            return started > before.get("process_start_time_seconds")

        wait_until("the new process is scraped", 10, is_new)
        self.check("and no other", all(is_new() for _ in range(20)))
        server.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--node", required=True)
    parser.add_argument("--keep", action="store_true")
    opts = parser.parse_args()
    count = Count()
    with Scratch(opts.keep) as scratch:
        case = Case(count, scratch, opts.node)
        parts = [case.numbers, case.links, case.text, case.refusals, case.siege, case.frames, case.fleet, case.handoff]
        for part in parts:
            part()
    count.close()


if __name__ == "__main__":
    main()
