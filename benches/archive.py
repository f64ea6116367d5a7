#!/usr/bin/env python3
"""Rows of a table of PostgreSQL into Parquet and out of the table, beside a script that does the
same without looking.

    benches/archive.py [--rows 2000000] [--rounds 3] [--slice 8000] [--verify row|tuple]
                       [--bin DIR] [--dir DIR] [--json FILE]

Makes a table with ten columns and about 250 bytes a row, and lets both move all of it, taking turns:

- *script*: `COPY (DELETE ... RETURNING *) TO STDOUT` for 8,000 rows of the key at a time, each a
  transaction of its own, through `zstd -1` into a file that is synced at the end. What the file
  holds is never read back; killed, or with a full disk, it loses rows.
- *stillpoint*: `archive run`, which reads first, stores Parquet, reads that back, and compares row
  by row what it deletes; with `--verify tuple`, version by version.

Told are rows a second, processor time of client and server, peak memory of the client, and what the
files take. `--bin` names the programs of PostgreSQL; without it the newest below /usr/lib/postgresql.
"""

import argparse
import glob
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
PROGRAM = os.environ.get("STILLPOINT", os.path.join(ROOT, "target/release/stillpoint"))
PORT = "27817"
TICKS = os.sysconf("SC_CLK_TCK")


def must(command, **more):
    done = subprocess.run(command, text=True, errors="replace", stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **more)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed:\n{done.stdout}")
    return done.stdout


def user():
    """A server refuses to run as root."""
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []


def programs(given):
    if given:
        return given
    found = [place for place in sorted(glob.glob("/usr/lib/postgresql/*/bin"))
             if all(os.path.exists(os.path.join(place, name)) for name in ("initdb", "psql"))]
    if not found:
        sys.exit("no programs of PostgreSQL: apt-get install postgresql, or --bin DIR")
    return found[-1]


class Server:
    def __init__(self, work, bin_):
        self.bin, self.data, self.sockets = bin_, os.path.join(work, "data"), work
        if os.getuid() == 0:
            os.chmod(work, 0o777)
        must(user() + [f"{bin_}/initdb", "-D", self.data, "-U", "postgres", "-A", "trust",
                       "--no-sync"])
        with open(os.path.join(self.data, "postgresql.conf"), "a", encoding="utf-8") as file:
            file.write(f"port = {PORT}\nlisten_addresses = ''\nshared_buffers = 512MB\n"
                       f"unix_socket_directories = '{work}'\nmax_wal_size = 32GB\n"
                       "checkpoint_timeout = 1d\nautovacuum = off\n")
        subprocess.check_call(user() + [f"{bin_}/pg_ctl", "-D", self.data, "-w", "-s", "-l",
                                        os.path.join(work, "server.log"), "start"],
                              stdin=subprocess.DEVNULL)

    def stop(self):
        must(user() + [f"{self.bin}/pg_ctl", "-D", self.data, "-m", "fast", "-w", "stop"])

    def sql(self, *statements):
        command = [f"{self.bin}/psql", "-h", self.sockets, "-p", PORT, "-U", "postgres", "-XAtq",
                   "-v", "ON_ERROR_STOP=1", "postgres"]
        for statement in statements:
            command += ["-c", statement]
        return must(command).strip()

    def cpu_s(self):
        """Processor time of the server and of every process that it has, or had."""
        with open(os.path.join(self.data, "postmaster.pid"), encoding="utf-8") as file:
            leader = file.readline().strip()
        ticks = 0
        for stat in glob.glob("/proc/[0-9]*/stat"):
            try:
                with open(stat, encoding="utf-8", errors="replace") as file:
                    process, rest = stat.split("/")[2], file.read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if process == leader:
                ticks += sum(int(rest[field]) for field in (11, 12, 13, 14))
            elif rest[1] == leader:
                ticks += int(rest[11]) + int(rest[12])
        return ticks / TICKS

    def fill(self, rows):
        words = ("ARRAY['amber','basin','cedar','delta','ember','fjord','grove','haven','islet',"
                 "'jetty','knoll','ledge','marsh','north','ocean','plain']")
        self.sql(
            "DROP TABLE IF EXISTS orders",
            "DROP SCHEMA IF EXISTS stillpoint CASCADE",
            "CREATE TABLE orders (id bigint PRIMARY KEY, customer_id int NOT NULL, created_at "
            "timestamptz NOT NULL, state text NOT NULL, amount numeric(12,2), rate numeric(9,4), "
            "ref uuid, note text, payload jsonb, digest bytea)",
            "SELECT setseed(0.5)",
            f"INSERT INTO orders SELECT i, (random() * 100000)::int, '2019-01-01'::timestamptz + "
            f"i * interval '13 seconds', ({words})[1 + i % 3], (random() * 1000)::numeric(12,2), "
            f"(random() * 10)::numeric(9,4), gen_random_uuid(), (SELECT string_agg(({words})[1 + "
            f"(random() * 15)::int], ' ') FROM generate_series(1, 12) k WHERE i > 0), "
            f"jsonb_build_object('sku', (random() * 5000)::int, 'quantity', (random() * 9)::int, "
            f"'channel', ({words})[1 + (random() * 3)::int]), decode(substr(md5(i::text), 1, 16), "
            f"'hex') FROM generate_series(1, {rows}) i",
            "VACUUM (FREEZE, ANALYZE) orders", "CHECKPOINT")


def measured(server, command, rows, **more):
    os.sync()
    before, start = server.cpu_s(), time.monotonic()
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **more)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - start
        if child.returncode != 0:
            log.seek(0)
            sys.exit(f"{' '.join(command)}\nfailed:\n{log.read().decode(errors='replace')}")
    return {"rows_per_s": rows / wall, "wall_s": wall, "client_cpu_s": usage.ru_utime + usage.ru_stime,
            "server_cpu_s": server.cpu_s() - before, "peak_mib": usage.ru_maxrss / 1024}


def by_script(server, work, rows, slice_rows, _verify):
    """One psql, a pipe, one zstd: as people write it."""
    out = os.path.join(work, "orders.csv.zst")
    script = os.path.join(work, "move.sql")
    with open(script, "w", encoding="utf-8") as file:
        for first in range(0, rows, slice_rows):
            file.write(f"COPY (DELETE FROM orders WHERE id > {first} AND id <= {first + slice_rows} "
                       "RETURNING *) TO STDOUT WITH (FORMAT csv);\n")
    shell = (f"{server.bin}/psql -h {server.sockets} -p {PORT} -U postgres -XAtq -v ON_ERROR_STOP=1 "
             f"-f {script} postgres | zstd -q -1 -f -o {out} && sync {out}")
    figures = measured(server, ["bash", "-o", "pipefail", "-c", shell], rows)
    left = server.sql("SELECT count(*) FROM orders")
    assert left == "0", left
    return {**figures, "stored_mib": os.path.getsize(out) / 2**20}


def by_stillpoint(server, work, rows, slice_rows, verify):
    site = os.path.join(work, "site")
    shutil.rmtree(site, ignore_errors=True)
    os.makedirs(site)
    socket = server.sockets.replace("/", "%2F")
    with open(os.path.join(site, "stillpoint.toml"), "w", encoding="utf-8") as file:
        file.write(f"""version = 1
timezone = "UTC"
repository.primary.url = "repo"
[database.shop]
endpoint = "postgres://postgres@{socket}:{PORT}/postgres"
[archive.orders]
database = "shop"
root = "public.orders"
where = "created_at < :cutoff"
cutoff = "now - 1 months"
slice_rows = {slice_rows}
verify = "{verify}"
""")
    env = {**os.environ, "XDG_STATE_HOME": site}
    must([PROGRAM, "init", "--repo", "repo", "--no-encryption"], cwd=site, env=env)
    command = [PROGRAM, "archive", "run", "orders", "-c", "stillpoint.toml", "--no-progress"]
    figures = measured(server, command, rows, cwd=site, env=env)
    left = server.sql("SELECT count(*) FROM orders")
    assert left == "0", left
    files = glob.glob(os.path.join(site, "repo/archive/**/*.parquet"), recursive=True)
    stored = sum(os.path.getsize(file) for file in files)
    return {**figures, "stored_mib": stored / 2**20, "files": len(files)}


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--rows", type=int, default=2_000_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--slice", type=int, default=8_000)
    options.add_argument("--verify", choices=["row", "tuple"], default="row")
    options.add_argument("--bin")
    options.add_argument("--dir")
    options.add_argument("--json")
    options = options.parse_args()
    ways = {"script": by_script, "stillpoint": by_stillpoint}
    figures = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(prefix="archive-bench-", dir=options.dir) as work:
        server = Server(work, programs(options.bin))
        try:
            for number in range(options.rounds):
                turns = list(ways.items())
                for name, way in turns if number % 2 == 0 else reversed(turns):
                    server.fill(options.rows)
                    figures[name].append(way(server, work, options.rows, options.slice,
                                             options.verify))
                    print(number + 1, name, {key: round(value, 2) for key, value in
                                             figures[name][-1].items()}, file=sys.stderr, flush=True)
            heap = server.sql("SELECT version()")
        finally:
            server.stop()
    print(heap)
    median = {name: {key: statistics.median(one[key] for one in all_) for key in all_[0]}
              for name, all_ in figures.items()}
    for key in median["script"]:
        script, ours = median["script"][key], median["stillpoint"][key]
        print(f"{key:14} script {script:12.1f}   stillpoint {ours:12.1f}   ratio {ours / script:.2f}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
