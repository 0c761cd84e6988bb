"""What people have in front of a timed sale today, started as it would be tuned: nginx + Lua + Redis, and one PostgreSQL
transaction a claim. Each answers wrk's claims as Forebay does: 202, once a buyer, no more than there are units.

Sources: loadtest/peers. Standard library only; needs redis-server, PostgreSQL's own programs, and apt-get, by which nginx comes:
its packages are unpacked into a folder of their own, because to install them would start a server at port 80, and might put another
LuaJIT under wrk.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import urllib.parse

from servers import CAMPAIGN, ROOT, STOCK, RunFailed, Server, free_port, http
from shared import Parted, Parts, program

SOURCES = ROOT / "loadtest" / "peers"
LAST = "last-unit"  # a campaign with one unit, to see that it is sold once
UNITS = 400_000  # rows of postgres-skip-locked: more than it can sell in a minute
NGINX = ["nginx", "libnginx-mod-http-ndk", "libnginx-mod-http-lua", "libluajit2-5.1-2", "libluajit2-5.1-common", "lua-resty-core",
         "lua-resty-lrucache", "lua-cjson"]  # fmt: skip


# ---------------------------------------------------------------- nginx' packages


class Missing(Exception):
    """Something has to be installed first; the message says what."""


def apt(words, folder):
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    if done.returncode:
        raise Missing(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def installed(package):
    asked = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package], capture_output=True, text=True)
    return asked.stdout == "installed"


def download(folder):
    # Of the libraries that these need only PCRE, in one version or both, is not on every machine.
    needs = apt(["apt-cache", "depends", "nginx", "libnginx-mod-http-lua"], folder).split()
    names = NGINX + sorted({word for word in needs if word.startswith("libpcre") and not installed(word)})
    # As root, apt would become somebody who may not write here.
    apt(["apt-get", "-o", "APT::Sandbox::User=root", "download", *names], folder)


def unpacked(folder):
    """Debian's nginx with Lua, below `folder`, as Debian has it now; fetched and unpacked unless it is there."""
    target = folder / "debian"
    if target.exists():
        return target
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise Missing("nginx is taken from Debian's packages, and there is no apt-get and dpkg-deb here")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nginx-", dir=folder) as place:
        place = pathlib.Path(place)
        try:
            download(place)
        except Missing as e:
            # Lists that are old, or that a container came without, are the usual reason.
            if os.geteuid() != 0:
                raise Missing(f"{e}\nTry again after: sudo apt-get update") from e
            apt(["apt-get", "update"], place)
            download(place)
        for package in sorted(place.glob("*.deb")):
            apt(["dpkg-deb", "-x", str(package), "root"], place)
        # At once, so that an interrupted run leaves nothing half done. Another run may have been quicker.
        with contextlib.suppress(OSError):
            (place / "root").rename(target)
    if not target.exists():
        raise Missing(f"{target} could not be made")
    return target


def libraries(debian):
    """The folders of its shared libraries; the processor is part of their names."""
    return sorted({path.parent for top in ("lib", "usr/lib") for path in debian.glob(f"{top}/*/lib*.so.*")})


# ---------------------------------------------------------------- what all of them must do


class Peer(Parted, Server):
    stock = STOCK

    def check_one_answer(self):
        """Sold once to one buyer, and the last unit to one only."""
        self.expect(CAMPAIGN, "probe-1", 202, "")
        self.expect(CAMPAIGN, "probe-1", 409, "already-claimed")
        self.expect(LAST, "probe-1", 202, "")
        self.expect(LAST, "probe-2", 409, "sold-out")

    def expect(self, campaign, user, status, text):
        got, body = http("POST", self.url(f"/v1/campaigns/{campaign}/claims"), {"user": user, "quantity": 1})
        if got != status or text not in body:
            raise RunFailed(f"{user}'s claim of {campaign} was answered {got}, expected {status} {text}: {body[:300]}")
        json.loads(body)

    def kept(self):
        """What the store behind it has: (claims, buyers, units that are gone)."""
        raise NotImplementedError

    def counters(self):
        return {"accepted": self.kept()[0]}

    def check_run(self, result, before):
        super().check_run(result, before)
        claims, buyers, gone = self.kept()
        # A claim is kept before wrk is told; more may have been on their way at the end.
        if claims - before["accepted"] < result["requests"]:
            raise RunFailed(f"wrk has {result['requests']} acceptances, {claims - before['accepted']} claims are kept")
        if not claims == buyers == gone:
            raise RunFailed(f"{claims} claims are kept, of {buyers} buyers, and {gone} units are gone")


# ---------------------------------------------------------------- nginx + Lua + Redis


class NginxRedis(Peer):
    """One call to Redis a claim, which is one script, over a Unix socket and connections that stay."""

    way = "single"
    fsync = "everysec"
    promise = "memory of Redis; synced within a second or two"
    binary = None
    programs = {"redis-server": "redis-server", "redis-cli": "redis-tools"}
    needs_nginx = True
    sources = SOURCES / "nginx"

    def start(self):
        self.parts = Parts(self)
        self.redis = self.parts.redis(self.fsync).removeprefix("unix://")
        self.ask("-x", "FUNCTION", "LOAD", text=(self.sources / "claim.redis.lua").read_text())
        self.ask("SET", f"{{{CAMPAIGN}}}:stock", self.stock)
        self.ask("SET", f"{{{LAST}}}:stock", 1)
        debian, self.port = self.options.nginx, free_port()
        folders = libraries(debian)
        words = {
            "FOLDER": self.folder,
            "DEBIAN": debian,
            "SOURCES": self.sources,
            "REDIS": self.redis,
            "WAY": self.way,
            "PORT": self.port,
            "CPATH": ";".join(f"{folder}/lua/5.1/?.so" for folder in folders),
            # A worker of root's would become somebody who may not read what is here.
            "USER": "user root;" if os.geteuid() == 0 else "",
        }
        text = (self.sources / "nginx.conf").read_text()
        for name, value in words.items():
            text = text.replace(f"@{name}@", str(value))
        (self.folder / "nginx.conf").write_text(text)
        found = ":".join(map(str, folders))
        self.launch(["env", f"LD_LIBRARY_PATH={found}", debian / "usr/sbin/nginx", "-p", self.folder, "-e", "stderr", "-c",
                     self.folder / "nginx.conf"])  # fmt: skip
        self.wait_until_answered()

    def wait_until_answered(self):
        deadline = time.monotonic() + 10
        while True:
            self.alive()
            try:
                return http("GET", self.url("/"))
            except RunFailed:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def ask(self, *words, text=None):
        command = ["redis-cli", "-s", self.redis, *map(str, words)]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30)
        if done.returncode or "ERR" in done.stdout:
            raise RunFailed(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-300:]}")
        return done.stdout.strip()

    def kept(self):
        key = f"{{{CAMPAIGN}}}"
        claims, buyers = int(self.ask("LLEN", f"{key}:claims")), int(self.ask("SCARD", f"{key}:buyers"))
        return claims, buyers, self.stock - int(self.ask("GET", f"{key}:stock"))


class NginxRedisAlways(NginxRedis):
    fsync = "always"
    promise = "synced by Redis"


class NginxBatched(NginxRedis):
    """Not the usual gate: claims that come while a call is under way share the next one."""

    way = "batched"


class NginxBatchedAlways(NginxBatched, NginxRedisAlways):
    pass


# ---------------------------------------------------------------- one PostgreSQL transaction a claim


class Postgres(Peer):
    """The front end of `bare`, with one transaction a claim behind it: one round trip, prepared, over a Unix socket."""

    promise = "committed (synchronous_commit on)"
    binary = "examples/postgres_claim"
    programs = {"initdb": "postgresql", "psql": "postgresql-client"}
    schema = fill = None
    connections = 0  # the best of 1 to 64, tried by the subject

    def start(self):
        self.parts = Parts(self)
        url = self.parts.postgres("fsync=on", "synchronous_commit=on", "full_page_writes=on", "checkpoint_timeout=1h", "jit=off",
                                  "wal_buffers=16MB", "autovacuum_naptime=5s")  # fmt: skip
        port = url.rpartition(":")[2].partition("/")[0]
        socket = urllib.parse.quote(f"{self.folder}/postgres", safe="")
        self.database = f"postgres://postgres@localhost:{port}/postgres?host={socket}"
        self.ask((SOURCES / "postgres" / self.schema).read_text())
        self.ask(self.fill.format(campaign=CAMPAIGN, stock=self.stock) + self.fill.format(campaign=LAST, stock=1))
        self.ask("VACUUM ANALYZE")
        self.ask("CHECKPOINT")
        self.launch([self.options.binaries / self.binary, self.database, self.connections], stdout=subprocess.PIPE)
        line = self.child.stdout.readline().strip()
        if not line.isdigit():
            raise RunFailed(f"postgres_claim did not print its port but {line!r}")
        self.port = int(line)

    def ask(self, text):
        command = [program("psql"), self.database, "-XqAt", "-v", "ON_ERROR_STOP=1"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RunFailed(f"psql: {(done.stderr or done.stdout).strip()[-300:]}")
        return done.stdout.strip()

    def kept(self):
        free, claims, sold = map(int, self.ask(f"SELECT free, claims, sold FROM balance WHERE campaign = '{CAMPAIGN}'").split("|"))
        return claims, sold, self.stock - free


class PostgresHotRow(Postgres):
    """One row says how many units are free: who claims waits for whoever has it."""

    schema = "hot_row.sql"
    fill = "INSERT INTO stock VALUES ('{campaign}', {stock});"
    connections = 16


class PostgresSkipLocked(Postgres):
    """A row a unit: who claims takes any that nobody else is taking."""

    schema = "skip_locked.sql"
    fill = "INSERT INTO units SELECT '{campaign}', n FROM generate_series(1, {stock}) n;"
    stock = UNITS
    connections = 8


KINDS = {
    "nginx-everysec": NginxRedis,
    "nginx-always": NginxRedisAlways,
    "nginx-batched": NginxBatched,
    "nginx-batched-always": NginxBatchedAlways,
    "postgres-hot-row": PostgresHotRow,
    "postgres-skip-locked": PostgresSkipLocked,
}
