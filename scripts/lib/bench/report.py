"""Writes a run down: as JSON, and into a document between two marks."""
import json
import os
import re
import subprocess
import time

BEGIN, END = "<!-- scripts/bench begins: do not edit -->", "<!-- scripts/bench ends -->"


def machine(versions, rounds, quick):
    """What the figures of a run depend on."""
    with open("/proc/cpuinfo") as f:
        model = re.search(r"^model name\s*:\s*(.+)$", f.read(), re.M)
    with open("/proc/meminfo") as f:
        memory = int(re.search(r"^MemTotal:\s+(\d+)", f.read(), re.M).group(1)) / (1 << 20)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    return {"date": time.strftime("%Y-%m-%d"), "commit": commit, "cpu": model.group(1) if model else "unknown", "cores": os.cpu_count(),
            "memory_gib": round(memory, 1), "kernel": os.uname().release, "load_before": round(os.getloadavg()[0], 2), "rounds": rounds, "quick": quick,
            "data": "small, as --quick has it" if quick else "full", "peers": versions}


def write_json(path, info, table):
    new = path + ".new"
    with open(new, "w") as f:
        json.dump({**info, "rows": table.data(), "failures": table.failures}, f, indent=1)
        f.write("\n")
    os.rename(new, path)


def write_markdown(path, info, table, peers):
    """Sets the run's tables between the marks of the document at path."""
    with open(path) as f:
        text = f.read()
    new = replace_between(text, describe(info) + "\n\n" + table.markdown(peers))
    with open(path, "w") as f:
        f.write(new)


def replace_between(text, middle):
    """text with middle between its marks, in place of what is there."""
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"the document lacks the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{middle}\n\n{END}{after}"


def describe(info):
    """The machine and the run, as sentences."""
    peers = "; ".join(version if version.startswith(name) else f"{name} {version}" for name, version in info["peers"].items()) or "none"
    quick = " **Made with --quick: small disks, which say little.**" if info["quick"] else ""
    return (f"Commit {info['commit']}, {info['date']}. {info['cores']} cores of {info['cpu']}, {info['memory_gib']} GiB of memory, Linux {info['kernel']}. "
            f"Medians of {info['rounds']} round(s); the load average before was {info['load_before']}. Peers: {peers}.{quick}")
