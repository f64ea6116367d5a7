#!/usr/bin/env python3
"""Stillpoint beside pgBackRest, pg_basebackup and Barman, on the same PostgreSQL cluster in one run.

    benches/side_by_side/postgres.py [--data pgbench,mixed] [--scale 100] [--mixed-mib 750]
                                     [--rounds 3] [--tools all] [--what backups,log]
                                     [--dir DIR] [--json FILE]

Two clusters of PostgreSQL 18 with page checksums: one of pgbench (1.5 GiB at scale 100), and one of
columns that compress and columns that do not, with indexes. Of each, every tool in turn takes a full
backup, an incremental after a short pgbench run, and one after 1 % of the rows were updated at
random, restores, and restores again over a directory of which 1 % of the pages were damaged. Then it
archives WAL, and fetches it back. A figure is the median of the rounds, with its spread. CPU is that
of the tool and of the server together. pgBackRest runs with zst level 3, bundles, block incremental
and two processes; Stillpoint once at the same level and once as it is by default. Nobody encrypts.
"""

import argparse
import getpass
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TREE = os.environ.get("PEERS_TREE", os.path.join(ROOT, ".tools", "peers"))
BIN = os.path.join(TREE, "usr/lib/postgresql/18/bin")
PAGE = 8192
TICK = os.sysconf("SC_CLK_TCK")
PORT = "54318"
LOG_FILES = 96


def stat(pid):
    """Parent, own ticks, and ticks of children that it waited for."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])


def family_cpu_s(root):
    """CPU seconds that a process, its living children and its past ones have used."""
    own = stat(root)
    ticks = own[1] + own[2]
    for name in os.listdir("/proc"):
        if name.isdigit():
            other = stat(name)
            if other and other[0] == root:
                ticks += other[1]
    return ticks / TICK


def must(command, env=None, **more):
    """Runs a command that is not measured; its output."""
    done = subprocess.run(command, env={**os.environ, **(env or {})}, text=True, errors="replace",
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False, **more)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed:\n{done.stdout}")
    return done.stdout


def measured(commands, server=None, env=None, said=None):
    """Runs commands one after the other: wall, CPU with the server's, and the largest process."""
    os.sync()
    before = family_cpu_s(server.pid()) if server else 0.0
    cpu = peak = 0.0
    start = time.monotonic()
    for command in commands:
        log = tempfile.TemporaryFile()
        child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                 env={**os.environ, **(env or {})})
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            log.seek(0)
            sys.exit(f"{' '.join(command)}\nfailed:\n{log.read().decode(errors='replace')}")
        if said is not None:
            log.seek(0)
            said.append(log.read().decode(errors="replace"))
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, usage.ru_maxrss / 1024)
    wall = time.monotonic() - start
    if server:
        cpu += family_cpu_s(server.pid()) - before
    return {"wall_s": wall, "cpu_s": cpu, "peak_mib": peak}


def stored(directory):
    """Bytes of every file below a directory."""
    return sum(os.lstat(os.path.join(where, name)).st_size
               for where, _, names in os.walk(directory) for name in names)


def emptied(directory):
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory, mode=0o700)
    return directory


class Server:
    """The cluster that every tool backs up."""

    def __init__(self, work):
        self.work = work
        self.data = os.path.join(work, "data")
        self.sockets = work
        must([f"{BIN}/initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--data-checksums",
              "--no-sync"])
        with open(os.path.join(self.data, "postgresql.conf"), "a", encoding="utf-8") as file:
            file.write(f"""
port = {PORT}
listen_addresses = ''
unix_socket_directories = '{self.sockets}'
shared_buffers = 512MB
maintenance_work_mem = 256MB
max_wal_size = 32GB
checkpoint_timeout = 1d
autovacuum = off
wal_level = replica
summarize_wal = on
archive_mode = on
archive_command = '/bin/true'
max_wal_senders = 10
""")
        self.start()

    def start(self):
        # Its output is not taken: the server would hold the pipe.
        subprocess.check_call([f"{BIN}/pg_ctl", "-D", self.data, "-l",
                               os.path.join(self.work, "server.log"), "-w", "-s", "start"],
                              stdin=subprocess.DEVNULL)

    def stop(self):
        must([f"{BIN}/pg_ctl", "-D", self.data, "-m", "fast", "-w", "stop"])

    def pid(self):
        with open(os.path.join(self.data, "postmaster.pid"), encoding="utf-8") as file:
            return int(file.readline())

    def sql(self, *statements):
        command = [f"{BIN}/psql", "-h", self.sockets, "-p", PORT, "-U", "postgres", "-XAtq", "-v",
                   "ON_ERROR_STOP=1", "postgres"]
        for statement in statements:
            command += ["-c", statement]
        return must(command).strip()

    def bench(self, *options):
        must([f"{BIN}/pgbench", "-h", self.sockets, "-p", PORT, "-U", "postgres", "-q" if "-i" in
              options else "-n", *options, "postgres"])

    def archive(self, command):
        self.sql(f"ALTER SYSTEM SET archive_command = '{command}'", "SELECT pg_reload_conf()")

    def settle(self):
        """Leaves nothing to do that would be counted against the next tool."""
        self.sql("CHECKPOINT")
        os.sync()

    def size_mib(self):
        return int(self.sql("SELECT sum(pg_database_size(oid)) FROM pg_database")) / 2**20


class Pgbench:
    """pgbench's own tables: hardly anything but filler, which compresses twenty to one."""

    def __init__(self, server, options):
        self.server = server
        self.rows = options.scale * 100_000
        server.bench("-i", "-s", str(options.scale), "-I", "dtgvp")
        server.settle()

    def short_run(self, seed):
        self.server.bench("-t", "1000", "-c", "2", f"--random-seed={seed}")

    def update(self, seed):
        self.server.sql(f"SELECT setseed(0.{seed})",
                        f"UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid IN (SELECT "
                        f"(random() * {self.rows})::int FROM generate_series(1, {self.rows // 100}))")


class Mixed(Pgbench):
    """Words, numbers and times that compress, digests and random bytes that do not, and indexes."""

    def __init__(self, server, options):  # pylint: disable=super-init-not-called
        self.server = server
        self.rows = options.mixed_mib * 1400
        words = ("ARRAY['amber','basin','cedar','delta','ember','fjord','grove','haven','islet',"
                 "'jetty','knoll','ledge','marsh','north','ocean','plain']")
        server.sql(
            "SELECT setseed(0.5)",
            f"CREATE TABLE orders AS SELECT n AS id, (random() * 50000)::int AS customer, "
            f"timestamptz '2024-01-01' + n * interval '7 seconds' AS placed, "
            f"(random() * 100000)::int / 100.0 AS amount, "
            f"(SELECT string_agg(({words})[1 + (random() * 15)::int], ' ') FROM "
            f"generate_series(1, 12 + n % 9)) AS note, "
            f"decode(md5(random()::text) || md5(random()::text) || md5(random()::text), 'hex') AS "
            f"token, (ARRAY['new','paid','sent','done'])[1 + n % 4] AS state "
            f"FROM generate_series(1, {self.rows}) AS n",
            "ALTER TABLE orders ADD PRIMARY KEY (id)",
            "CREATE INDEX ON orders (customer, placed)", "CREATE INDEX ON orders (token)",
            f"CREATE TABLE documents AS SELECT n AS id, "
            f"(SELECT decode(string_agg(md5(random()::text), ''), 'hex') FROM "
            f"generate_series(1, 100 + n % 100)) AS body FROM generate_series(1, {self.rows} / 20) n",
            "VACUUM ANALYZE")
        server.bench("-i", "-s", "1")
        server.settle()

    def update(self, seed):
        self.server.sql(f"SELECT setseed(0.{seed})",
                        f"UPDATE orders SET amount = amount + 1, state = 'done' WHERE id IN (SELECT "
                        f"(random() * {self.rows})::int FROM generate_series(1, {self.rows // 100}))")


class Stillpoint:
    def __init__(self, work, server, binary, level):
        self.name = "stillpoint" if level is None else f"stillpoint -{level}"
        self.repository = os.path.join(work, f"repo {self.name}")
        self.binary, self.server = binary, server
        self.level = [] if level is None else ["--level", str(level)]
        self.url = (f"postgres:host={server.sockets} port={PORT} user=postgres dbname=postgres")
        self.env = {"STILLPOINT_REPO": self.repository, "XDG_STATE_HOME": os.path.join(work, "state"),
                    "PATH": f"{BIN}:{os.environ['PATH']}"}

    def init(self):
        shutil.rmtree(self.repository, ignore_errors=True)
        must([self.binary, "init", "--no-encryption"], self.env)

    def command(self):
        return [self.binary, "backup", self.url, "--name", "main", "--no-progress", *self.level]

    def full(self):
        return measured([self.command()], self.server, self.env)

    incremental = full

    def restore(self, target, delta=False):
        """Replays, too, and verifies every page: the time until files are in place is its own."""
        if not delta:
            os.rmdir(target)
        command = [self.binary, "restore", "main", "--to", target, "--no-progress", "-o", "json"]
        said = []
        whole = measured([command + (["--delta"] if delta else [])], None, self.env, said)
        answer = json.loads(said[0].splitlines()[-1])
        return {"wall_s": answer["copy_ms"] / 1000, "peak_mib": whole["peak_mib"]}, whole

    def push(self):
        return f"{self.settings()} {self.binary} wal-push %p --name main"

    def get(self, name, target):
        return [self.binary, "wal-get", name, target, "--name", "main"]

    def settings(self):
        """The environment, as a shell takes it before a command."""
        return " ".join(f'{name}="{value}"' for name, value in self.env.items() if name != "PATH")

    def version(self):
        return must([self.binary, "--version"]).strip()


class PgBackRest:
    name = "pgbackrest"

    def __init__(self, work, server):
        self.repository = os.path.join(work, "pgbackrest")
        self.server = server
        self.config = os.path.join(work, "pgbackrest.conf")
        self.program = os.path.join(TREE, "usr/bin/pgbackrest")
        for name in ("spool", "lock", "log"):
            os.makedirs(os.path.join(work, f"pgbackrest-{name}"), exist_ok=True)
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(f"""[global]
repo1-path={self.repository}
repo1-bundle=y
repo1-block=y
repo1-retention-full=9
compress-type=zst
compress-level=3
process-max=2
start-fast=y
archive-async=y
archive-get-queue-max=1GiB
spool-path={work}/pgbackrest-spool
lock-path={work}/pgbackrest-lock
log-path={work}/pgbackrest-log
log-level-file=off
log-level-console=warn
[main]
pg1-path={server.data}
pg1-port={PORT}
pg1-socket-path={server.sockets}
pg1-user=postgres
""")
        self.base = [self.program, f"--config={self.config}", "--stanza=main"]

    def push(self):
        return f"{self.program} --config={self.config} --stanza=main archive-push %p"

    def init(self):
        shutil.rmtree(self.repository, ignore_errors=True)
        must([*self.base, "stanza-create"])

    def backup(self, kind):
        self.server.archive(self.push())
        figure = measured([[*self.base, "backup", f"--type={kind}"]],
                          self.server)
        self.server.archive("/bin/true")
        return figure

    def full(self):
        return self.backup("full")

    def incremental(self):
        return self.backup("incr")

    def restore(self, target, delta=False):
        command = [*self.base, f"--pg1-path={target}", "restore", "--type=immediate"]
        return replayed(target, measured([command + (["--delta"] if delta else [])]))

    def get(self, name, target):
        return [*self.base, "archive-get", name, target]

    def version(self):
        return must([self.program, "version"]).strip()


class PgBasebackup:
    name = "pg_basebackup"

    def __init__(self, work, server):
        self.repository = os.path.join(work, "pg_basebackup")
        self.server = server
        self.chain = []

    def init(self):
        emptied(self.repository)
        self.chain = []

    def backup(self, *more):
        place = os.path.join(self.repository, str(len(self.chain)))
        command = [f"{BIN}/pg_basebackup", "-h", self.server.sockets, "-p", PORT, "-U", "postgres",
                   "-D", place, "-c", "fast", "-F", "tar", "-Z", "client-zstd:level=3", *more]
        figure = measured([command], self.server)
        self.chain.append(place)
        return figure

    def full(self):
        return self.backup()

    def incremental(self):
        return self.backup("-i", os.path.join(self.chain[-1], "backup_manifest"))

    def restore(self, target, delta=False):
        if delta:
            return None, None
        commands, places = [], []
        for number, place in enumerate(self.chain):
            unpacked = emptied(f"{target}.{number}")
            places.append(unpacked)
            commands.append(["sh", "-c", f"tar -I zstd -xf '{place}/base.tar.zst' -C '{unpacked}' && "
                             f"tar -xf '{place}/pg_wal.tar' -C '{unpacked}/pg_wal' && "
                             f"cp '{place}/backup_manifest' '{unpacked}'"])
        os.rmdir(target)
        commands.append([f"{BIN}/pg_combinebackup", *places, "-o", target])
        figure = measured(commands)
        for place in places:
            shutil.rmtree(place)
        return replayed(target, figure)

    def version(self):
        return must([f"{BIN}/pg_basebackup", "--version"]).strip()


class Barman:
    """Its incremental backups take no compression; neither do its full ones, then."""

    name = "barman"

    def __init__(self, work, server):
        self.repository = os.path.join(work, "barman")
        self.server, self.work = server, work
        self.config = os.path.join(work, "barman.conf")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(f"""[barman]
barman_user = {getpass.getuser()}
barman_home = {self.repository}
barman_lock_directory = {work}
configuration_files_directory = {work}/barman.d
log_file = {work}/barman.log
log_level = WARNING
[main]
conninfo = host={server.sockets} port={PORT} user=postgres dbname=postgres
streaming_conninfo = host={server.sockets} port={PORT} user=postgres dbname=postgres
backup_method = postgres
archiver = on
immediate_checkpoint = true
path_prefix = {BIN}
""")
        os.makedirs(os.path.join(work, "barman.d"), exist_ok=True)
        self.program = os.path.join(TREE, "barman/bin/barman")

    def call(self, *arguments):
        return [self.program, "-c", self.config, *arguments]

    def init(self):
        emptied(self.repository)
        incoming = os.path.join(self.repository, "main", "incoming")
        os.makedirs(incoming)
        self.server.archive(f"cp %p {incoming}/%f")
        self.server.sql("SELECT pg_switch_wal()")
        deadline = time.monotonic() + 60
        while not os.listdir(incoming) and time.monotonic() < deadline:
            time.sleep(0.1)
        must(self.call("archive-wal", "main"))
        self.server.archive("/bin/true")

    def backup(self, *more):
        self.server.archive(f"cp %p {self.repository}/main/incoming/%f")
        figure = measured([self.call("backup", "main", *more)], self.server)
        self.server.archive("/bin/true")
        return figure

    def full(self):
        return self.backup()

    def incremental(self):
        return self.backup("--incremental", "last")

    def restore(self, target, delta=False):
        if delta:
            return None, None
        staging = emptied(os.path.join(self.work, "barman-staging"))
        os.rmdir(target)
        figure = measured([self.call("restore", "--staging-path", staging, "--staging-location", "local", "main", "latest",
                                     target)])
        shutil.rmtree(staging)
        return replayed(target, figure)

    def version(self):
        return must([self.program, "--version"]).splitlines()[0]


def replayed(target, figure):
    """What a restore took, and what it took together with a server's start: its replay."""
    options = "-p 54319 -c archive_mode=off -c shared_buffers=512MB"
    program = [f"{BIN}/pg_ctl", "-D", target, "-l", f"{target}.log", "-o", options, "-w", "-s"]
    start = time.monotonic()
    subprocess.check_call([*program, "start"], stdin=subprocess.DEVNULL)
    took = time.monotonic() - start
    must([*program, "-m", "fast", "stop"])
    return figure, {"wall_s": figure["wall_s"] + took}


def damage(directory, share, seed):
    """Overwrites a share of the pages of the tables below a directory, as a broken disk would."""
    chance = random.Random(seed)
    for where, _, names in os.walk(os.path.join(directory, "base")):
        for name in names:
            path = os.path.join(where, name)
            pages = os.path.getsize(path) // PAGE
            count = int(pages * share + chance.random())
            with open(path, "r+b") as file:
                for page in chance.sample(range(pages), count):
                    file.seek(page * PAGE)
                    file.write(chance.randbytes(PAGE))


class Figures:
    def __init__(self):
        self.values = {}

    def note(self, what, tool, figure):
        for unit, value in (figure or {}).items():
            self.values.setdefault((what, unit), {}).setdefault(tool.name, []).append(value)

    def show(self, names, against="pgbackrest"):
        print(f"{'':44}" + "".join(f"{name:>16}" for name in names) + "   ratios to " + against)
        for (what, unit), values in self.values.items():
            medians = {name: statistics.median(values[name]) for name in names if name in values}
            line = f"{what + ', ' + unit:44}"
            line += "".join(f"{medians[n]:16.2f}" if n in medians else f"{'-':>16}" for n in names)
            peer = medians.get(against)
            if peer:
                line += "   " + ", ".join(f"{medians[n] / peer:.2f}" for n in names
                                          if n in medians and n.startswith("stillpoint"))
            print(line)
            spreads = (f"{n} {min(v):.2f}..{max(v):.2f}" for n, v in values.items())
            print(f"{'':44}  spread: {', '.join(spreads)}")


def rounds(figures, kind, data, tools, count, work):
    for number in range(count):
        order = tools[number % len(tools):] + tools[:number % len(tools)]
        for tool in order:
            tool.init()
            data.server.settle()
            take(figures, f"{kind}: full", tool, tool.full)
        for change, label in ((data.short_run, "after a short run"), (data.update, "after 1 %")):
            change(number + 1)
            data.server.settle()
            for tool in order:
                take(figures, f"{kind}: incremental {label}", tool, tool.incremental)
        for tool in order:
            target = emptied(os.path.join(work, "restored"))
            restored(figures, f"{kind}: restore", tool, tool.restore(target))
            damage(target, 0.01, number)
            restored(figures, f"{kind}: delta restore", tool, tool.restore(target, True))
            shutil.rmtree(target)
        for tool in tools:
            shutil.rmtree(tool.repository, ignore_errors=True)


def log(figures, kind, data, tools, work):
    """Has each tool archive the same number of WAL files that wait, and fetch them one by one."""
    server = data.server
    for tool in tools:
        if not hasattr(tool, "get"):
            continue
        tool.init()
        tool.full()
        server.archive("")
        first = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
        standby = emptied(os.path.join(work, "standby"))
        must([f"{BIN}/pg_basebackup", "-D", standby, "-c", "fast", "--no-sync", "-h",
              server.sockets, "-p", PORT, "-U", "postgres"])
        for seed in range(40):
            data.update(seed + 20)
            server.sql("SELECT pg_switch_wal()")
            if len(waiting(server)) >= LOG_FILES:
                break
        names = waiting(server)
        server.settle()
        start = time.monotonic()
        server.archive(tool.push())
        server.sql("SELECT pg_switch_wal()")
        while waiting(server):
            time.sleep(0.02)
        took = time.monotonic() - start
        figures.note(f"{kind}: archiving WAL", tool, {"files_per_s": len(names) / took})
        server.archive("/bin/true")
        place = emptied(os.path.join(work, "fetched"))
        names = [name for name in names if first < name and "." not in name]
        target = os.path.join(place, "RECOVERYXLOG")
        start = time.monotonic()
        for name in names:
            must(tool.get(name, target), getattr(tool, "env", None))
            os.remove(target)
        took = time.monotonic() - start
        figures.note(f"{kind}: fetching WAL", tool, {"files_per_s": len(names) / took})
        # A process that fetches ahead may still be at work there.
        shutil.rmtree(place, ignore_errors=True)
        os.sync()
        took_s, waited_s = recovered(tool, standby)
        figures.note(f"{kind}: recovery that fetches WAL", tool, {"wall_s": took_s})
        figures.note(f"{kind}: fetching WAL in recovery", tool,
                     {"files_per_s": len(waited_s) / sum(waited_s)})
        shutil.rmtree(standby, ignore_errors=True)
        shutil.rmtree(tool.repository, ignore_errors=True)


def recovered(tool, standby):
    """Has a server replay all that was archived: how long that took, and for how long it waited for
    each file."""
    times, script = f"{standby}.times", f"{standby}.sh"
    command = f"{getattr(tool, 'settings', str)()} {' '.join(tool.get('$1', '$PWD/$2'))}"
    with open(script, "w", encoding="utf-8") as file:
        file.write(f"begin=$EPOCHREALTIME\n{command} >/dev/null || exit\n"
                   f"echo $begin $EPOCHREALTIME $1 >> {times}\n")
    with open(os.path.join(standby, "postgresql.auto.conf"), "a", encoding="utf-8") as file:
        file.write(f"restore_command = 'bash {script} %f %p'\nrecovery_target_timeline = current\n"
                   f"hot_standby = off\narchive_mode = off\n")
    signal = os.path.join(standby, "recovery.signal")
    with open(signal, "w", encoding="utf-8"):
        pass
    options = "-p 54319 -c archive_mode=off -c shared_buffers=512MB"
    program = [f"{BIN}/pg_ctl", "-D", standby, "-l", f"{standby}.log", "-o", options, "-w", "-s"]
    start = time.monotonic()
    subprocess.check_call([*program, "start"], stdin=subprocess.DEVNULL)
    # The server removes it when it has replayed all that there is.
    while os.path.exists(signal):
        time.sleep(0.01)
    took_s = time.monotonic() - start
    must([*program, "-m", "immediate", "stop"])
    with open(times, encoding="utf-8") as file:
        calls = [line.split() for line in file]
    for name in (times, script, f"{standby}.log"):
        os.remove(name)
    return took_s, [float(end) - float(begin) for begin, end, name in calls if "." not in name]


def waiting(server):
    """Names of WAL files that wait for the archiver."""
    status = os.listdir(os.path.join(server.data, "pg_wal", "archive_status"))
    return sorted(name.removesuffix(".ready") for name in status if name.endswith(".ready"))


def restored(figures, what, tool, outcome):
    in_place, replay = outcome
    figures.note(f"{what}, files in place", tool, in_place)
    figures.note(f"{what}, replayed", tool, replay)


def take(figures, what, tool, backup):
    before = stored(tool.repository)
    print(f"  {what}: {tool.name}", file=sys.stderr)
    figures.note(what, tool, backup())
    figures.note(what, tool, {"stored_mib": (stored(tool.repository) - before) / 2**20})


def install():
    must(["sh", os.path.join(HERE, "peers.sh")])
    subprocess.check_call(["cargo", "build", "--release", "--quiet"], cwd=ROOT)
    meta = subprocess.check_output(["cargo", "metadata", "--format-version=1", "--no-deps"], cwd=ROOT)
    return os.path.join(json.loads(meta)["target_directory"], "release", "stillpoint")


def as_nobody_special(options):
    """PostgreSQL refuses root: installs as root, and goes on as an ordinary user."""
    binary = install()
    work = tempfile.mkdtemp(prefix="stillpoint-bench-", dir=options.dir)
    shutil.copy(binary, os.path.join(work, "stillpoint"))
    shutil.copy(__file__, os.path.join(work, "bench.py"))
    os.chmod(work, 0o755)
    command = [sys.executable, os.path.join(work, "bench.py"), *sys.argv[1:], "--work", work]
    environment = {**os.environ, "PEERS_TREE": TREE, "HOME": work, "USER": "nobody", "LOGNAME": "nobody"}
    try:
        if os.geteuid() == 0:
            must(["chown", "-R", "nobody", work])
            python = must(["sh", "-c", "command -v /usr/bin/python3"]).strip()
            command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", python,
                       *command[1:]]
        return subprocess.call(command, cwd=work, env=environment)
    finally:
        shutil.rmtree(work)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", default="pgbench,mixed")
    parser.add_argument("--scale", type=int, default=100)
    parser.add_argument("--mixed-mib", type=int, default=750)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tools", default="all")
    parser.add_argument("--what", default="backups,log")
    parser.add_argument("--dir", default=None)
    parser.add_argument("--json", default=None)
    parser.add_argument("--work", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is None:
        sys.exit(as_nobody_special(options))
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((l.split(":")[1].strip() for l in file if l.startswith("model name")), "?")
    print(f"machine: {model}, {os.cpu_count()} cores, {platform.release()}")
    print("command: benches/side_by_side/postgres.py", " ".join(sys.argv[1:-2]))
    figures, names = Figures(), []
    try:
        for kind in options.data.split(","):
            names = compare(figures, names, kind, options)
    finally:
        figures.show(names)
        if options.json:
            flat = {f"{what}, {unit}": values for (what, unit), values in figures.values.items()}
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump(flat, file, indent=1)


def compare(figures, names, kind, options):
    """Lets the tools take turns on one cluster; returns their names."""
    work = emptied(os.path.join(options.work, "w"))
    server = Server(work)
    try:
        data = {"pgbench": Pgbench, "mixed": Mixed}[kind](server, options)
        binary = os.path.join(options.work, "stillpoint")
        tools = [Stillpoint(work, server, binary, None), Stillpoint(work, server, binary, 3),
                 PgBackRest(work, server), PgBasebackup(work, server), Barman(work, server)]
        if options.tools != "all":
            tools = [tool for tool in tools if tool.name in options.tools.split(",")]
        if not names:
            print("versions:", "; ".join(tool.version() for tool in tools))
        print(f"{kind}: {server.size_mib():.0f} MiB")
        if "backups" in options.what:
            rounds(figures, kind, data, tools, options.rounds, work)
        if "log" in options.what:
            for _ in range(options.rounds):
                log(figures, kind, data, tools, work)
        return [tool.name for tool in tools]
    finally:
        server.stop()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
