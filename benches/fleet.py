#!/usr/bin/env python3
"""Thousands of real SQLite databases under one `serve`.

    benches/fleet.py [--databases 10000] [--minutes 10] [--rounds 2] [--running 4] [--dir DIR]
                     [--json FILE]

Makes the databases, each in WAL mode with a few hundred rows, and one configuration that backs all
of them up at once, and then again every so many minutes, spread over that time. An hour of schedule
is thereby compressed. Every backup is read back, as always. A row is added to each database between
the rounds. Told are the time until the first backups were made, how late the others began (median,
99th percentile, most), processor time, peak memory, and that a sample of databases can be restored
with the newest row. Kills nothing and needs no root.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
PROGRAM = os.environ.get("STILLPOINT", os.path.join(ROOT, "target/release/stillpoint"))
TICKS = os.sysconf("SC_CLK_TCK")


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def make(path):
    live = sqlite3.connect(path)
    live.execute("PRAGMA journal_mode = wal")
    live.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
    rows = ((os.urandom(24).hex(),) for _ in range(200))
    live.executemany("INSERT INTO note (text) VALUES (?)", rows)
    live.commit()
    live.close()


def write(path, text):
    live = sqlite3.connect(path)
    live.execute("INSERT INTO note (text) VALUES (?)", (text,))
    live.commit()
    live.close()


def used(process):
    """Resident and most resident bytes, and processor seconds."""
    with open(f"/proc/{process}/status", encoding="ascii") as file:
        status = dict(line.split(":", 1) for line in file)
    with open(f"/proc/{process}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    kib = {name: int(status[name].split()[0]) for name in ("VmRSS", "VmHWM")}
    return kib["VmRSS"] << 10, kib["VmHWM"] << 10, (int(fields[11]) + int(fields[12])) / TICKS


def jobs(state, what):
    with sqlite3.connect(f"file:{state}?mode=ro", uri=True, timeout=60) as shared:
        return shared.execute(what).fetchall()


def wait(process, until, log, told):
    last = 0
    while not until():
        if process.poll() is not None:
            with open(log, encoding="utf-8") as file:
                raise SystemExit(f"serve has ended:\n{file.read()[-4000:]}")
        if 30 < time.monotonic() - last:
            last = time.monotonic()
            resident, most, cpu = used(process.pid)
            say(f"{told()}, {resident >> 20} MiB resident, {most >> 20} MiB at most, {cpu:.0f} s")
        time.sleep(1)


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    options.add_argument("--databases", type=int, default=10_000)
    options.add_argument("--minutes", type=int, default=10)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--running", type=int, default=4)
    options.add_argument("--dir")
    options.add_argument("--json")
    options = options.parse_args()
    top = tempfile.mkdtemp(prefix="stillpoint-fleet-", dir=options.dir)
    try:
        figures = measure(options, top)
    finally:
        shutil.rmtree(top, ignore_errors=True)
    print(json.dumps(figures, indent=2))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2)


def measure(options, top):
    count, state, log = options.databases, f"{top}/state.db", f"{top}/serve.log"
    config, repository = f"{top}/stillpoint.json", f"{top}/repository"
    for folder in range(0, count, 1000):
        os.makedirs(f"{top}/live/{folder // 1000}")
    paths = [f"{top}/live/{number // 1000}/{number}.db" for number in range(count)]
    say(f"making {count} databases")
    for path in paths:
        make(path)
    every = {"at": f"*/{options.minutes} * * * *", "spread": f"{options.minutes * 60 - 5}s"}
    policy = {"rpo": "2h", "full": "0 3 1 1 *", "incremental": every, "logs": "never"}
    document = {
        "version": 1,
        "timezone": "UTC",
        "coordinator": {"state": f"sqlite://{state}", "running": options.running},
        "repository": {"main": {"url": f"file://{repository}"}},
        "policy": {"default": {**policy, "keep": {"last": 3}, "pitr_window": "1h"}},
        "database": {
            f"db/{number:05}": {"endpoint": f"sqlite:{path}"} for number, path in enumerate(paths)
        },
    }
    with open(config, "w", encoding="utf-8") as file:
        json.dump(document, file)
    environment = {"PATH": os.environ["PATH"], "HOME": top, "TMPDIR": top}
    with open(log, "w", encoding="utf-8") as told:
        command = [PROGRAM, "serve", "-c", config]
        process = subprocess.Popen(command, env=environment, stdout=told, stderr=told)
    try:
        figures = watch(options, process, state, log, paths)
        process.send_signal(signal.SIGTERM)
        process.wait(90)
    finally:
        process.kill()
    figures["restored"] = restore(top, config, repository, environment, count)
    return figures


def watch(options, process, state, log, paths):
    count, begun = len(paths), time.monotonic()
    succeeded = "SELECT count(DISTINCT name) FROM job WHERE outcome = 'succeeded'"

    def number(what):
        try:
            return jobs(state, what)[0][0]
        except sqlite3.Error:
            return 0

    first = f"{succeeded}"
    wait(process, lambda: number(first) >= count, log, lambda: f"{number(first)} backed up first")
    first_seconds = time.monotonic() - begun
    _, _, first_cpu = used(process.pid)
    for path in paths:
        write(path, "the newest row")
    # What became due meanwhile was left out or is late by the first backups; it does not count.
    period = options.minutes * 60
    from_at = (int(time.time()) // period + 1) * period
    until_at = from_at + options.rounds * period
    say(f"first backups took {first_seconds:.0f} s; measuring for {until_at - time.time():.0f} s")
    span = f"due >= {from_at} * 1000000 AND due < {until_at} * 1000000"
    ended = f"SELECT count(*) FROM job WHERE state = 'ended' AND {span}"
    open_still = f"SELECT count(*) FROM job WHERE state <> 'ended' AND {span}"
    wait(process, lambda: time.time() >= from_at, log, lambda: "waiting for the first round")
    _, _, before = used(process.pid)
    wait(process, lambda: time.time() >= until_at, log, lambda: f"{number(ended)} increments")
    _, _, after = used(process.pid)
    wait(process, lambda: number(open_still) == 0, log, lambda: f"{number(open_still)} open")
    rows = jobs(state, f"SELECT due, started, ended, outcome FROM job WHERE {span}")
    late = sorted((started - due) / 1e6 for due, started, _, _ in rows if started)
    wrong = [outcome for _, _, _, outcome in rows if outcome != "succeeded"]
    resident, most, _ = used(process.pid)
    return {
        "databases": count,
        "first_backups_seconds": round(first_seconds, 1),
        "first_backups_each_second": round(count / first_seconds, 1),
        "first_backups_cpu_ms_each": round(first_cpu * 1000 / count, 1),
        "increments": len(rows),
        "increments_expected": count * options.rounds,
        "increments_not_succeeded": len(wrong),
        "late_seconds_median": round(statistics.median(late), 2),
        "late_seconds_p99": round(late[int(len(late) * 0.99)], 2),
        "late_seconds_most": round(late[-1], 2),
        "increments_cpu_ms_each": round((after - before) * 1000 / max(1, len(rows)), 1),
        "cpu_cores_used": round((after - before) / (until_at - from_at), 2),
        "resident_mib": resident >> 20,
        "resident_mib_most": most >> 20,
    }


def restore(top, config, repository, environment, count):
    good = 0
    sample = random.Random(1).sample(range(count), min(20, count))
    for number in sample:
        target = f"{top}/restored-{number}"
        command = [PROGRAM, "restore", f"db/{number:05}", "-c", config, "--to", target]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        with sqlite3.connect(target) as live:
            newest = live.execute("SELECT text FROM note ORDER BY id DESC LIMIT 1").fetchone()
        good += newest == ("the newest row",)
    return f"{good} of {len(sample)}"


main()
