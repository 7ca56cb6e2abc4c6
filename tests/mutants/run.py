#!/usr/bin/env python3
"""Takes the rules of elections and failovers out one at a time, and shows that a test misses each.

    run.py                  every mutant of elect.txt and failover.txt
    run.py NAME...          only these
    run.py --seeds 2000     with so many histories of the simulated world
    run.py --check          changes nothing: does each text stand exactly once in its file?

A mutant is one change of the text of a file. Both machines need little of the rest, so a few folders make a small
crate in target/mutants/, which takes seconds to build, with the tests that drive the one that is changed. For each mutant
the tests that fail are told, and of the simulated world the seed. One that no test misses is a failure: either the
world is too kind, or the rule does nothing and can go.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
LAB = os.path.join(ROOT, "target", "mutants")
# Some mutants have so many more states that a walk through them does not end; that alone shows nothing.
LIMIT_S = 600

MANIFEST = """[workspace]
[package]
name = "ringkeep"
version = "0.0.0"
edition = "2024"
[dependencies]
arrayvec = "0.7"
bytes = "1.12"
itoa = "1"
ryu = "1"
crc32fast = "1.5"
mimalloc = { version = "0.1", default-features = false }
[dev-dependencies]
proptest = "1.12"
[profile.dev]
opt-level = 2
debug = false
"""

LIB = """//! The machines alone.
pub mod base;
pub mod elect;
pub mod failover;
pub mod resp;
"""

TESTS = ("elect_sim", "elect_walk", "failover_sim")
# Both simulations say so of a seed.
SEEDS_TESTS = ("no_history_breaks_a_rule", "no_seed_loses_a_write_or_has_two_primaries")


class Mutant:
    def __init__(self, text):
        head, find, replace = re.split(r"^---- (?:find|replace)\n", text, flags=re.M)
        self.name, self.path, self.rule = head.split("\n", 2)
        self.rule = " ".join(self.rule.split())
        self.find, self.replace = find.rstrip("\n"), replace.rstrip("\n")

    def fault(self):
        with open(os.path.join(ROOT, self.path), encoding="utf-8") as f:
            count = f.read().count(self.find)
        return None if count == 1 else f"{self.name}: its text stands {count} times in {self.path}"


def mutants():
    found = []
    for name in ("elect.txt", "failover.txt"):
        with open(os.path.join(HERE, name), encoding="utf-8") as f:
            found += [Mutant(t) for t in re.split(r"^==== ", f.read(), flags=re.M)[1:]]
    return found


def put(path, text):
    """Writes a file of the lab, unless it is the same: what did not change is not compiled again."""
    path = os.path.join(LAB, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.exists(path) and open(path, encoding="utf-8").read() == text:
        return
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def lab(mutant):
    """The crate as it is, or with one mutant."""
    put("Cargo.toml", MANIFEST)
    put("src/lib.rs", LIB)
    if not os.path.exists(os.path.join(LAB, "Cargo.lock")):
        shutil.copy(os.path.join(ROOT, "Cargo.lock"), LAB)
    for folder in ("src/base", "src/elect", "src/failover", "src/resp", "tests"):
        for name in os.listdir(os.path.join(ROOT, folder)):
            path = f"{folder}/{name}"
            if name.endswith(".rs") and (folder != "tests" or name.startswith(("elect_", "failover_"))):
                with open(os.path.join(ROOT, path), encoding="utf-8") as f:
                    text = f.read()
                put(path, text.replace(mutant.find, mutant.replace) if mutant and path == mutant.path else text)
    golden = os.path.join(LAB, "tests", "golden")
    if not os.path.exists(golden):
        os.symlink(os.path.join(ROOT, "tests", "golden"), golden)


def killers(mutant, seeds):
    """The tests that fail; None if it does not even compile."""
    lab(mutant)
    cargo = ["cargo", "test", "--quiet", "--no-run"]
    built = subprocess.run(cargo, cwd=LAB, capture_output=True, text=True)
    if built.returncode != 0:
        print(built.stderr, file=sys.stderr)
        return None
    env = dict(os.environ, RINGKEEP_ELECT_SEEDS=str(seeds), RINGKEEP_FAILOVER_SEEDS=str(2 * seeds))
    # Only what drives the machine that was changed.
    machine = mutant.path.split("/")[1] if mutant else ""
    drives = ["--lib"] + [a for t in TESTS if t.startswith(machine) for a in ("--test", t)]
    run = subprocess.Popen(
        ["cargo", "test", "--no-fail-fast", *drives],
        cwd=LAB,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, _ = run.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        out, _ = run.communicate()
    found = []
    for test in re.findall(r"^test (\S+) \.\.\. FAILED", out, flags=re.M):
        seed = re.search(r"^seed (\d+)", out, flags=re.M)
        is_seeds = test in SEEDS_TESTS and seed
        found.append(f"seed {seed[1]}" if is_seeds else test.replace("::tests", "").replace("elect::", "").replace("failover::", ""))
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--seeds", type=int, default=500)
    args = parser.parse_args()
    every = mutants()
    faults = [f for f in (m.fault() for m in every) if f]
    if faults or args.check:
        print("\n".join(faults))
        print(f"{len(every) - len(faults)} passed, {len(faults)} failed")
        return 1 if faults else 0
    chosen = [m for m in every if not args.names or m.name in args.names]
    if not args.names and killers(None, args.seeds) != []:
        print("the tests fail without any mutant")
        return 1
    killed = 0
    for mutant in chosen:
        started = time.monotonic()
        found = killers(mutant, args.seeds)
        took = f"{time.monotonic() - started:.0f} s"
        if found:
            killed += 1
            print(f"killed    {mutant.name} ({took}): {', '.join(found)}", flush=True)
        else:
            print(f"{'SURVIVED' if found == [] else 'BROKEN  '}  {mutant.name} ({took}): {mutant.rule}", flush=True)
    lab(None)
    print(f"{killed} passed, {len(chosen) - killed} failed")
    return 0 if killed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
