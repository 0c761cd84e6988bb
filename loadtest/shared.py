"""Subjects that are more than one server, all on one core: shared mode, which is Redis, PostgreSQL, and a gate and a worker in
one process. What such subjects have in common is here, too.

Standard library only; needs redis-server (7.0 or newer), PostgreSQL's own programs and taskset.
"""

import glob
import json
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import time

from servers import STOP_SECONDS, Forebay, ForebaySoldOut, RunFailed, free_port, process_cpu

DATABASE_SECONDS = 60


def program(name):
    """Where Debian and others put programs that only servers need."""
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
    return found[-1] if found else shutil.which(name) or name


def family_cpu(pid):
    """Seconds of processor time of a process and all that came of it."""
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return process_cpu(pid) + sum(family_cpu(int(child)) for child in children)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0  # ended just now; its parent has counted it, or soon will


class Parts:
    """The other servers of a subject; stopped by their own pids."""

    def __init__(self, server):
        self.server, self.children = server, []

    def launch(self, command, user=None):
        command = ["taskset", "-c", str(self.server.options.server_core), *map(str, command)]
        log = open(self.server.folder / "parts.log", "ab")
        extra = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", **extra)
        log.close()
        self.children.append(child)

    def redis(self, fsync):
        socket = self.server.folder / "redis.sock"
        folder = self.server.folder / "redis"
        folder.mkdir()
        self.launch(["redis-server", "--port", 0, "--unixsocket", socket, "--dir", folder, "--save", "", "--appendonly",
                     "yes", "--appendfsync", fsync, "--daemonize", "no", "--io-threads", 1])  # fmt: skip
        deadline = time.monotonic() + 10
        while not socket.exists():
            if time.monotonic() > deadline:
                raise RunFailed("redis-server did not start")
            time.sleep(0.02)
        return f"unix://{socket}"

    def postgres(self, *settings):
        """`settings`: NAME=VALUE, over those that every subject has."""
        # It refuses to run as root.
        user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        folder, port = self.server.folder / "postgres", free_port()
        folder.mkdir()
        if user:
            os.chown(folder, user.pw_uid, user.pw_gid)
            for parent in [self.server.folder, self.server.options.dir]:
                parent.chmod(0o755)
        extra = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        made = subprocess.run(
            [program("initdb"), "--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C", "-D",
             folder / "data"], capture_output=True, text=True, cwd="/", **extra)  # fmt: skip
        if made.returncode:
            raise RunFailed(f"initdb: {made.stderr[-300:]}")
        settings = ("listen_addresses=127.0.0.1", "shared_buffers=256MB", "max_wal_size=4GB", *settings)
        each = [word for setting in settings for word in ("-c", setting)]
        self.launch([program("postgres"), "-D", folder / "data", "-p", port, "-k", folder, *each], user)
        deadline = time.monotonic() + DATABASE_SECONDS
        ready = [program("pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, capture_output=True).returncode:
            if time.monotonic() > deadline:
                raise RunFailed("PostgreSQL did not start")
            time.sleep(0.05)
        return f"postgres://postgres@127.0.0.1:{port}/postgres"

    def alive(self):
        for child in self.children:
            if child.poll() is not None:
                raise RunFailed(f"{child.args[3]} exited with {child.returncode}")

    def stop(self):
        for child in reversed(self.children):
            child.send_signal(signal.SIGINT)
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


ROW_LAG = """
select count(*), coalesce(percentile_disc(0.5) within group (order by lag), 0),
       coalesce(percentile_disc(0.99) within group (order by lag), 0), coalesce(max(lag), 0)
from (select extract(epoch from pg_xact_commit_timestamp(xmin) - accepted_at) * 1e6 as lag from claims
      where accepted_at between to_timestamp({first}) and to_timestamp({last})) as each
"""


class Parted:
    """A subject whose front end, `child`, has other servers behind it, `parts`."""

    def alive(self):
        super().alive()
        self.parts.alive()

    def cpu(self):
        return sum(family_cpu(child.pid) for child in [self.child, *self.parts.children])

    def stop(self, error=None):
        child = self.child
        if child and child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if hasattr(self, "parts"):
            self.parts.stop()
        super().stop(error)


class Shared(Parted):
    """What a subject of shared mode starts differently."""

    fsync = "always"
    promise = "synced in the gate's journal, and by Redis (appendfsync always)"
    programs = {"redis-server": "redis-server", "initdb": "postgresql"}

    def start(self):
        self.parts = Parts(self)
        redis, database = self.parts.redis(self.fsync), self.parts.postgres("track_commit_timestamp=on")
        self.database = database
        self.port, self.admin = free_port(), free_port()
        config = self.folder / "forebay.toml"
        accept = "" if self.fsync == "always" else f'accept = ["appendfsync={self.fsync}"]\n'
        config.write_text(
            f'[ingest]\nlisten = "127.0.0.1:{self.port}"\nadmin_listen = "127.0.0.1:{self.admin}"\nthreads = 1\n\n'
            f'[antiscalper]\nuser_rate = "10/s"\n\n'
            f"[buffer]\nkind = \"redis\"\ndata_dir = {json.dumps(str(self.folder / 'data'))}\n\n"
            f"[redis]\nurl = {json.dumps(redis)}\n{accept}\n"
            f"[store]\nurl = {json.dumps(database)}\n\n"
            f'[shutdown]\ngrace = "1s"\n\n{self.extra}'
        )
        self.launch([self.options.binaries / "forebay", "serve", "--config", config])
        self.wait_until_ready()
        self.create("load", self.stock)

    def row_lag(self, first, last):
        """From acceptance to the commit of the row, in microseconds: {rows, p50, p99, max} of the claims that were accepted in
        between (seconds since 1970), by the database's own record of when its transactions were committed."""
        query = ROW_LAG.format(first=first, last=last)
        done = subprocess.run([program("psql"), self.database, "-XAtc", query], capture_output=True, text=True)
        if done.returncode:
            raise RunFailed(f"psql: {done.stderr[-300:]}")
        names = ("rows", "p50", "p99", "max")
        return {name: float(value) for name, value in zip(names, done.stdout.strip().split("|"))}


class ForebayShared(Shared, Forebay):
    """Claims through Redis, synced there and in the gate's own journal, into PostgreSQL."""


class ForebaySharedEverysec(Shared, Forebay):
    """The same where Redis syncs once a second: the gate's journal has what it may lose."""

    fsync = "everysec"
    promise = "synced in the gate's journal; by Redis within a second"


class ForebaySharedSoldOut(Shared, ForebaySoldOut):
    """One unit, sold before the measurement: refusals of a gate, without a call to Redis."""

    def check_one_answer(self):
        super().check_one_answer()
        # Until the gate has read who holds the unit, refusals are Redis'.
        time.sleep(1)
