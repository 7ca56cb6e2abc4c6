#!/usr/bin/env python3
"""Starts the node on a free port, runs a command with HOST:PORT as its last argument, ends the node.

serve.py --node BINARY [--threads N] [--node-args "..."] -- COMMAND ARGS...
"""

import argparse
import subprocess
import sys

from wire import Scratch, node_server


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--node", required=True)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--node-args", default="")
    ap.add_argument("command", nargs=argparse.REMAINDER)
    opts = ap.parse_args()
    command = [c for i, c in enumerate(opts.command) if not (i == 0 and c == "--")]
    with Scratch() as scratch:
        node = node_server(scratch, opts.node, threads=opts.threads, args=opts.node_args.split())
        rc = subprocess.run(command + ["%s:%d" % node.addr], stdin=subprocess.DEVNULL, check=False).returncode
        if not node.alive():
            print("FAILED  the node ended:\n%s" % node.log_tail(30))
            rc = rc or 1
    sys.exit(rc)


if __name__ == "__main__":
    main()
