"""The command line of scripts/bench."""
import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time

from . import archive, backup, cache, data, far, lists, mount, report, writers
from .bench import Bench, say
from .table import Table
from .tools import Pmxfs, installed_peers, versions

AREAS = {"limits": backup.limits, "backup": backup.backup, "mount": mount.mount, "memory": mount.memory, "lists": lists.lists,
         "cache": cache.cache, "writers": writers.writers, "far": far.far, "archive": archive.archive}


def main():
    # Ends as an interrupt does: unmounts, and leaves nothing behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ap = argparse.ArgumentParser(prog="scripts/bench", add_help=False)
    ap.add_argument("--quick", action="store_true")
    ap.add_argument("--json")
    ap.add_argument("--markdown")
    ap.add_argument("--only", default=",".join(AREAS))
    ap.add_argument("--rounds", type=int)
    ap.add_argument("--peers")
    args = ap.parse_args()
    areas = args.only.split(",")
    unknown = [a for a in areas if a not in AREAS]
    if unknown:
        ap.error(f"no area {unknown[0]}; there are {', '.join(AREAS)}")
    if args.rounds is not None and args.rounds < 1:
        ap.error("--rounds: at least one")
    if os.getuid() != 0:
        sys.exit("scripts/bench: run it as root: it mounts, and drops the kernel's caches")
    peers = [] if args.quick else installed_peers()
    if args.peers is not None:
        names = [n for n in args.peers.split(",") if n]
        peers = [p for p in installed_peers() if p.name in names]
        absent = set(names) - {p.name for p in peers}
        if absent:
            ap.error(f"not installed: {', '.join(sorted(absent))}")
    return run(args, [a for a in AREAS if a in areas], peers)


def run(args, areas, peers):
    rounds = args.rounds or (1 if args.quick else 3)
    os.makedirs(data.DATA, exist_ok=True)
    work = tempfile.mkdtemp(prefix="run", dir=data.DATA)
    table = Table()
    info = report.machine(versions() if peers else {}, rounds, args.quick)
    try:
        b = Bench(table, work, Pmxfs(work), [p(work) for p in peers], args.quick)
        for i in range(rounds):
            for area in areas:
                say(f"round {i + 1} of {rounds}, {area} ({time.strftime('%H:%M:%S')})")
                with b.attempt(area, b.ours):
                    AREAS[area](b)
                if args.json:
                    report.write_json(args.json, info, table)
                if args.markdown:
                    report.write_markdown(args.markdown, info, table, [p.name for p in peers])
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(table.text())
    missed = table.missed()
    if missed:
        say(f"{len(missed)} goals missed")
    # A goal that is missed is a result; what could not be measured is a failure.
    return 1 if table.failures else 0


if __name__ == "__main__":
    sys.exit(main())
