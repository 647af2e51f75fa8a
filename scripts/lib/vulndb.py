"""Makes a database that govulncheck reads (https://go.dev/doc/security/vuln/database) of a folder of OSV entries.

Usage: vulndb.py FOLDER DATABASE
"""

import json
import os
import sys

NEVER = "0001-01-01T00:00:00Z"  # the time of an entry that has none
EARLIEST = "2020-01-01T00:00:00Z"  # what stands for it


def fixed_in(affected):
    """The version that its last range ends with; none if that has no end."""
    events = [e for r in affected.get("ranges", []) for e in r.get("events", [])]
    return events[-1].get("fixed") if events else None


def main(source, database):
    for folder in ("ID", "index"):
        os.makedirs(os.path.join(database, folder))
    modules, entries = {}, []
    for name in sorted(os.listdir(source)):
        if not name.endswith(".json"):
            continue
        with open(os.path.join(source, name), encoding="utf-8") as f:
            entry = json.load(f)
        if entry["modified"] == NEVER:
            entry["modified"] = EARLIEST
        brief = {"id": entry["id"], "modified": entry["modified"]}
        entries.append({**brief, "aliases": entry.get("aliases", [])})
        for affected in entry["affected"]:
            of_module = modules.setdefault(affected["package"]["name"], {})
            fixed = fixed_in(affected)
            again = entry["id"] in of_module  # then its ranges tell
            of_module[entry["id"]] = {**brief, "fixed": fixed} if fixed and not again else brief
        with open(os.path.join(database, "ID", name), "w", encoding="utf-8") as f:
            json.dump(entry, f)
    index = {
        "db": {"modified": max(e["modified"] for e in entries)},
        "modules": [{"path": path, "vulns": list(modules[path].values())} for path in sorted(modules)],
        "vulns": entries,
    }
    for name, value in index.items():
        with open(os.path.join(database, "index", name + ".json"), "w", encoding="utf-8") as f:
            json.dump(value, f)


if __name__ == "__main__":
    main(*sys.argv[1:])
