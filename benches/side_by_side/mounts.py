#!/usr/bin/env python3
"""Mounted backups beside restored ones, of the same PostgreSQL clusters in one run.

    benches/side_by_side/mounts.py [--scales 16,128] [--rounds 3] [--dir DIR] [--json FILE]
                                   [--tables N] [--prepare]

For each scale, a cluster of pgbench with page checksums is backed up. Then, with no file in the
page cache: how long a drill takes until its first query is answered, mounted and restored; at which
rate all files are read in order, of a mount and of a restored directory, and again from the cache;
and how long a server takes for a sum over the largest table on both. A figure is the median of the
rounds. With --tables, the time until the first query is also taken of a cluster of so many tables,
each a file of its own. Needs root, for mounts and for the page cache. With --prepare only the clusters and their
backups are made, in --dir, where a later run finds them: the measuring part is then short.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BIN = os.environ.get("POSTGRES_BIN", "/usr/lib/postgresql/15/bin")
PROGRAM = os.environ.get("STILLPOINT", os.path.join(ROOT, "target/release/stillpoint"))
PORT = "54319"
SQL = "SELECT count(*), sum(abalance) FROM pgbench_accounts"


def must(command, **more):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def as_server(command):
    user = must(["id", "-u", "postgres"]).strip(), must(["id", "-g", "postgres"]).strip()
    return ["setpriv", f"--reuid={user[0]}", f"--regid={user[1]}", "--clear-groups", *command]


def forget_files():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="utf-8") as file:
        file.write("3")


def timed(work):
    start = time.monotonic()
    answer = work()
    return time.monotonic() - start, answer


class Cluster:
    """One size: its server while it is backed up, its repository, and what is measured."""

    def __init__(self, place, scale, tables=0):
        self.place = os.path.join(place, f"tables-{tables}" if tables else f"scale-{scale}")
        self.scale = scale
        self.tables = tables
        self.environment = {
            **os.environ,
            "STILLPOINT_REPO": os.path.join(self.place, "repo"),
            "XDG_STATE_HOME": os.path.join(self.place, "state"),
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }

    def path(self, name):
        return os.path.join(self.place, name)

    def stillpoint(self, *words):
        text = must([PROGRAM, *words, "-o", "json", "--no-progress"], env=self.environment)
        return json.loads(text)

    def serve(self, data):
        log = self.path("server.log")
        options = f"-p {PORT} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        must(as_server([f"{BIN}/pg_ctl", "-D", data, "-w", "-l", log, "-o", options, "start"]))

    def stop(self, data):
        must(as_server([f"{BIN}/pg_ctl", "-D", data, "-w", "-m", "fast", "stop"]))

    def ask(self, sql):
        words = ["-h", "127.0.0.1", "-p", PORT, "-U", "postgres", "-XAtc", sql, "postgres"]
        return must([f"{BIN}/psql", *words]).strip()

    def prepare(self):
        if os.path.exists(self.path("ready")):
            return
        os.makedirs(self.place)
        os.chmod(self.place, 0o755)
        source = self.path("source")
        for name in ["source", "server"]:
            os.makedirs(self.path(name))
            shutil.chown(self.path(name), "postgres", "postgres")
        open(self.path("server.log"), "w", encoding="utf-8").close()
        shutil.chown(self.path("server.log"), "postgres", "postgres")
        must(as_server([f"{BIN}/initdb", "-D", source, "-U", "postgres", "-A", "trust",
                        "--data-checksums", "--no-sync"]))
        self.serve(source)
        try:
            must([f"{BIN}/pgbench", "-h", "127.0.0.1", "-p", PORT, "-U", "postgres", "-i", "-q",
                  "-s", str(self.scale), "postgres"])
            made = "".join(f"CREATE TABLE t{i} AS SELECT {i} AS i;\n" for i in range(self.tables))
            must([f"{BIN}/psql", "-h", "127.0.0.1", "-p", PORT, "-U", "postgres", "-q"],
                 input=made)
            self.ask("CHECKPOINT")
            must([PROGRAM, "init", "--no-encryption"], env=self.environment)
            url = f"postgres://postgres@127.0.0.1:{PORT}/postgres"
            backup = self.stillpoint("backup", url, "--name", "bench")
        finally:
            self.stop(source)
        with open(self.path("ready"), "w", encoding="utf-8") as file:
            json.dump(backup, file)
        shutil.rmtree(source)

    def drill(self, *more):
        forget_files()
        drill = self.stillpoint("drill", "run", "bench", "--scratch", self.place, *more)
        assert drill["presented"]["mounted"] == ("--no-mount" not in more), drill["presented"]
        return drill["rto_ms"] / 1000

    def read_all(self, directory):
        """Reads every file in order; seconds and bytes."""
        def read():
            length = 0
            for folder, folders, names in os.walk(directory):
                folders.sort()
                for name in sorted(names):
                    with open(os.path.join(folder, name), "rb", buffering=0) as file:
                        while chunk := file.read(1 << 20):
                            length += len(chunk)
            return length
        return timed(read)

    def scan(self, data):
        """A sum by a server, cold and then again."""
        self.serve(data)
        try:
            self.ask("SET max_parallel_workers_per_gather = 0")
            return timed(lambda: self.ask(SQL))[0], timed(lambda: self.ask(SQL))[0]
        finally:
            self.stop(data)

    def mounted(self, *more):
        point = self.path("mount")
        os.makedirs(point, exist_ok=True)
        command = [PROGRAM, "mount", "bench", point, "-o", "json", "--no-progress", *more]
        process = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, text=True)
        if "mount/1" not in process.stdout.readline():
            raise SystemExit("it is not mounted")
        return point, process

    def unmounted(self, point, process):
        must(["umount", point])
        process.wait()
        process.stdout.close()


def measure(cluster, figures):
    def note(name, value):
        figures.setdefault(name, []).append(value)

    note("first query, mounted", cluster.drill())
    note("first query, restored", cluster.drill("--no-mount"))
    restored = cluster.path("restored")
    shutil.rmtree(restored, ignore_errors=True)
    cluster.stillpoint("restore", "bench", "--to", restored)
    for name, directory in [("mounted", None), ("restored", restored)]:
        point = process = None
        if directory is None:
            forget_files()
            point, process = cluster.mounted()
            directory = point
        forget_files()
        for state in ["cold", "warm"]:
            seconds, length = cluster.read_all(directory)
            note(f"files, {name}, {state}", length / seconds / (1 << 20))
        if process:
            cluster.unmounted(point, process)
    for name, directory in [("mounted", None), ("restored", restored)]:
        point = process = None
        if directory is None:
            point, process = cluster.mounted("--read-write", "--scratch", cluster.place)
            directory = point
        forget_files()
        cold, warm = cluster.scan(directory)
        note(f"sum, {name}, cold", cold)
        note(f"sum, {name}, warm", warm)
        if process:
            cluster.unmounted(point, process)
    shutil.rmtree(restored)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--scales", default="16,128")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tables", type=int)
    parser.add_argument("--dir")
    parser.add_argument("--json")
    parser.add_argument("--prepare", action="store_true")
    options = parser.parse_args()
    place = options.dir or tempfile.mkdtemp(prefix="mounts-")
    os.makedirs(place, exist_ok=True)
    os.chmod(place, 0o755)
    answer = {"machine": f"{os.cpu_count()} cores, Linux {platform.release()}", "scales": {}}
    try:
        for scale in options.scales.split(","):
            cluster = Cluster(place, int(scale))
            cluster.prepare()
            if options.prepare:
                continue
            figures = {}
            for _ in range(options.rounds):
                measure(cluster, figures)
            medians = {name: statistics.median(values) for name, values in figures.items()}
            answer["scales"][scale] = medians
            print(f"scale {scale}")
            for name, value in medians.items():
                spread = f"({min(figures[name]):.2f}..{max(figures[name]):.2f})"
                print(f"  {name:26} {value:9.2f} {spread}", flush=True)
        if options.tables:
            cluster = Cluster(place, 1, options.tables)
            cluster.prepare()
            if not options.prepare:
                seconds = statistics.median(cluster.drill() for _ in range(options.rounds))
                answer["tables"] = {options.tables: {"first query, mounted": seconds}}
                print(f"{options.tables} tables\n  {'first query, mounted':26} {seconds:9.2f}")
    finally:
        if not options.dir:
            shutil.rmtree(place)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(answer, file, indent=2)


if __name__ == "__main__":
    main()
