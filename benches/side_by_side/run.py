#!/usr/bin/env python3
"""Stillpoint beside restic, on the same SQLite database in the same run.

    benches/side_by_side/run.py [--size-mib 1024] [--rounds 5] [--days 7] [--dir DIR] [--json FILE]

Both keep an encrypted repository on the same file system and run with their default settings. Each
figure is the median of the rounds, with the spread; what counts are the ratios, since absolute times
depend on the machine. Peak memory and CPU are those that the kernel reports for the whole process.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from shop import Shop  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGETS = {
    "first backup, wall": 0.6, "small change, wall": 0.3, "restore alone, wall": 0.8,
    "stored increments of a week": 0.1,
}
CHECK = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
assert db.execute("PRAGMA foreign_key_check").fetchone() is None
"""


def run(command, env=None):
    """Runs a command; returns wall seconds, CPU seconds, peak memory in MiB and what it said."""
    log = tempfile.TemporaryFile()
    os.sync()  # what was written before is not this command's to wait for
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                             env={**os.environ, **(env or {})})
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    log.seek(0)
    said = log.read().decode(errors="replace")
    if child.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed:\n{said}")
    figure = {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime,
              "peak_mib": usage.ru_maxrss / 1024}
    return figure, said


def stored(directory):
    """Bytes of every file below a directory."""
    return sum(os.path.getsize(os.path.join(where, name))
               for where, _, names in os.walk(directory) for name in names)


class Stillpoint:
    name = "stillpoint"

    def __init__(self, work, binary):
        self.repository = os.path.join(work, "stillpoint repo")
        self.binary = binary
        secret = os.path.join(work, "passphrase")
        with open(secret, "w", encoding="utf-8") as file:
            file.write("correct horse battery staple\n")
        self.env = {"STILLPOINT_REPO": self.repository, "STILLPOINT_PASSPHRASE_FILE": secret,
                    "XDG_STATE_HOME": os.path.join(work, "state")}

    def init(self):
        shutil.rmtree(self.repository, ignore_errors=True)
        run([self.binary, "init"], self.env)

    def backup(self, path):
        return run([self.binary, "backup", f"sqlite:{path}", "--name", "shop"], self.env)[0]

    def restore(self, target):
        """Returns the figures of restoring and checking, and the wall seconds of restoring alone."""
        command = [self.binary, "restore", "shop", "--to", os.path.join(target, "shop.db"), "-o",
                   "json", "--no-progress"]
        figure, said = run(command, self.env)
        return figure, json.loads(said)["copy_ms"] / 1000

    def version(self):
        return subprocess.check_output([self.binary, "--version"], text=True).strip()


class Restic:
    name = "restic"

    def __init__(self, work):
        self.repository = os.path.join(work, "restic")
        self.env = {"RESTIC_REPOSITORY": self.repository,
                    "RESTIC_PASSWORD": "correct horse battery staple",
                    "RESTIC_CACHE_DIR": os.path.join(work, "restic-cache")}

    def init(self):
        shutil.rmtree(self.repository, ignore_errors=True)
        run(["restic", "init"], self.env)

    def backup(self, path):
        return run(["restic", "backup", path], self.env)[0]

    def restore(self, target):
        """As Stillpoint's: restic does not know what it restores, so the engine's check follows."""
        figure, _ = run(["restic", "restore", "latest", "--target", target], self.env)
        alone = figure["wall_s"]
        path = next(os.path.join(where, "shop.db") for where, _, names in os.walk(target)
                    if "shop.db" in names)
        check, _ = run([sys.executable, "-c", CHECK, path])
        figure["wall_s"] += check["wall_s"]
        figure["cpu_s"] += check["cpu_s"]
        return figure, alone

    def version(self):
        return subprocess.check_output(["restic", "version"], text=True).strip()


def install():
    if shutil.which("restic") is None:
        command = ["apt-get", "install", "-y", "--no-install-recommends", "restic"]
        if os.geteuid() != 0:
            sys.exit(f"restic is missing; as root: {' '.join(command)}")
        subprocess.check_call(["apt-get", "update"], stdout=subprocess.DEVNULL)
        subprocess.check_call(command, stdout=subprocess.DEVNULL)
    subprocess.check_call(["cargo", "build", "--release", "--quiet"], cwd=ROOT)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    meta = subprocess.check_output(["cargo", "metadata", "--format-version=1", "--no-deps"], cwd=ROOT)
    target = json.loads(meta).get("target_directory", target)
    return os.path.join(target, "release", "stillpoint")


def timings(tools, path, rounds, work):
    """First backup, backup after a small change, and restore; the tools take turns."""
    figures = {}

    def note(tool, what, figure):
        for unit, value in figure.items():
            figures.setdefault((what, unit), {}).setdefault(tool.name, []).append(value)

    for number in range(rounds):
        order = tools if number % 2 == 0 else tools[::-1]
        copy = os.path.join(work, "shop.db")
        shutil.copyfile(path, copy)
        for tool in order:
            tool.init()
            note(tool, "first backup", tool.backup(copy))
            note(tool, "first backup", {"stored_mib": stored(tool.repository) / 2**20})
        shop = Shop(copy, seed=100 + number)
        shop.update(0.001)
        shop.settle()
        shop.db.close()
        for tool in order:
            before = stored(tool.repository)
            note(tool, "small change", tool.backup(copy))
            note(tool, "small change", {"stored_mib": (stored(tool.repository) - before) / 2**20})
        for tool in order:
            target = os.path.join(work, f"restored-{tool.name}")
            shutil.rmtree(target, ignore_errors=True)
            os.makedirs(target)
            figure, alone = tool.restore(target)
            note(tool, "restore alone", {"wall_s": alone})
            note(tool, "restore and engine check", figure)
            shutil.rmtree(target)
    return figures


def week(tools, path, days, work):
    """Stored bytes of daily backups of a database that lives: updates, inserts, a vacuum."""
    copy = os.path.join(work, "shop.db")
    shutil.copyfile(path, copy)
    sizes = {}
    for tool in tools:
        tool.init()
        tool.backup(copy)
        sizes[tool.name] = [stored(tool.repository)]
    shop = Shop(copy, seed=7)
    for day in range(days):
        shop.update(0.002)
        shop.insert(0.003)
        shop.delete(0.0005)
        if day % 3 == 2:
            shop.incremental_vacuum()
        shop.settle()
        for tool in tools:
            tool.backup(copy)
            sizes[tool.name].append(stored(tool.repository))
    shop.full_vacuum()
    shop.db.close()
    rewritten = {}
    for tool in tools:
        tool.backup(copy)
        rewritten[tool.name] = (stored(tool.repository) - sizes[tool.name][-1]) / 2**20
    return sizes, rewritten


def show(figures, sizes, rewritten, days):
    def line(what, unit, ours, theirs, target):
        ratio = ours / theirs if theirs else float("nan")
        verdict = "" if target is None else f"<= {target}: {'yes' if ratio <= target else 'NO'}"
        print(f"{what:34} {ours:10.2f} {theirs:10.2f}  {unit:10} {ratio:7.3f}  {verdict}")

    print(f"{'':34} {'stillpoint':>10} {'restic':>10}  {'unit':10} {'ratio':>7}")
    for (what, unit), values in figures.items():
        target = TARGETS.get(f"{what}, wall") if unit == "wall_s" else None
        line(what, unit, *(statistics.median(values[t]) for t in ("stillpoint", "restic")), target)
        spread = ", ".join(f"{t} {min(v):.2f}..{max(v):.2f}" for t, v in values.items())
        print(f"{'':34} spread: {spread}")
    grown = {tool: (values[-1] - values[0]) / 2**20 for tool, values in sizes.items()}
    line(f"increments of {days} days", "stored_mib", grown["stillpoint"], grown["restic"],
         TARGETS["stored increments of a week"])
    for tool, values in sizes.items():
        days_mib = [round((b - a) / 2**20, 1) for a, b in zip(values, values[1:])]
        print(f"{'':34} {tool}: {days_mib} MiB")
    line("a day with a full VACUUM", "stored_mib", rewritten["stillpoint"], rewritten["restic"], None)
    peak = max(v for (_, unit), values in figures.items() if unit == "peak_mib"
               for v in values["stillpoint"])
    print(f"{'peak memory':34} {peak:10.1f} MiB {'':17} <= 256: {'yes' if peak <= 256 else 'NO'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--dir", default=None)
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    binary = install()
    work = tempfile.mkdtemp(prefix="stillpoint-bench-", dir=options.dir)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((l.split(":")[1].strip() for l in file if l.startswith("model name")), "?")
        tools = [Stillpoint(work, binary), Restic(work)]
        print(f"machine: {model}, {os.cpu_count()} cores, {platform.release()}")
        print("versions:", "; ".join(tool.version() for tool in tools))
        print("command:", " ".join(sys.argv))
        path = os.path.join(work, "source.db")
        shop = Shop(path)
        shop.fill(options.size_mib * 2**20)
        print(f"database: {shop.size() / 2**20:.0f} MiB, {shop.rows()} orders")
        shop.db.close()
        figures = timings(tools, path, options.rounds, work)
        sizes, rewritten = week(tools, path, options.days, work)
        show(figures, sizes, rewritten, options.days)
        if options.json:
            flat = {f"{what}, {unit}": values for (what, unit), values in figures.items()}
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump({"timings": flat, "week": sizes, "full vacuum": rewritten}, file, indent=1)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
