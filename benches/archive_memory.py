#!/usr/bin/env python3
"""Memory of an archive set that has as many slices as a billion rows.

    benches/archive_memory.py [--slices 125000] [--dir DIR] [--json FILE]

A billion rows in slices of 8,000 are 125,000 slices, each an entry of the ledger and a part of a
manifest. How many rows a slice has matters for one batch at a time only, so that a table of SQLite
with that many rows, each a slice of its own, has what a plan of a billion rows adds up to. Told is
the peak memory of each command, and how long it took.
"""

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM = os.environ.get("STILLPOINT", os.path.join(ROOT, "target/release/stillpoint"))
COMMANDS = {
    "plan": ["plan", "orders"],
    "run": ["run", "orders"],
    "run, nothing new": ["run", "orders"],
    "ls": ["ls"],
    "get": ["get", "orders", "--id", "77"],
    "verify": ["verify", "orders", "--against-ledger"],
    "reconcile": ["reconcile", "orders"],
}


def measured(command, cwd, env):
    start = time.monotonic()
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=log,
                                 stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            log.seek(0)
            sys.exit(f"{' '.join(command)}\nfailed:\n{log.read().decode(errors='replace')}")
    return {"wall_s": time.monotonic() - start, "peak_mib": usage.ru_maxrss / 1024}


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--slices", type=int, default=125_000)
    options.add_argument("--dir")
    options.add_argument("--json")
    options = options.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory(prefix="archive-memory-", dir=options.dir) as work:
        with sqlite3.connect(os.path.join(work, "shop.db")) as database:
            database.execute("PRAGMA journal_mode = wal")
            database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, created_at TEXT)")
            database.execute(
                "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
                "INSERT INTO orders SELECT i, '2019-01-01' FROM n", [options.slices])
        with open(os.path.join(work, "stillpoint.toml"), "w", encoding="utf-8") as file:
            file.write("""version = 1
timezone = "UTC"
repository.primary.url = "repo"
[database.shop]
endpoint = "sqlite:shop.db"
[archive.orders]
database = "shop"
root = "orders"
where = "created_at < :cutoff"
cutoff = "now - 1 months"
cutoff_form = "date"
slice_rows = 1
""")
        env = {**os.environ, "XDG_STATE_HOME": work}
        subprocess.run([PROGRAM, "init", "--repo", "repo", "--no-encryption"], cwd=work, env=env,
                       check=True, stdout=subprocess.DEVNULL)
        for name, command in COMMANDS.items():
            command = [PROGRAM, "--no-progress", "-c", "stillpoint.toml", "archive", *command]
            figures[name] = measured(command, work, env)
            print(f"{name:18} {figures[name]['peak_mib']:8.1f} MiB {figures[name]['wall_s']:8.2f} s",
                  flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
