"""What loadtest's scripts start, ask and stop: the subjects' servers, each a child of its own, pinned to one core.

Standard library only; needs taskset.
"""

import datetime
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BATCH = 100  # claims a request of forebay-batch, as batch.lua makes them
CAMPAIGN = "load"
MANY = 10_000  # campaigns of forebay-many
STOCK = 4_000_000  # more than any run of half a minute can claim, so that a claims subject never sells out
BATCH_STOCK = 12_000_000  # the same for batches, which take 1.3 GB of the book
READY_SECONDS = 30
STOP_SECONDS = 10  # from SIGTERM to SIGKILL
TICKS = os.sysconf("SC_CLK_TCK")


class RunFailed(Exception):
    """The run's figures mean nothing; the message says why."""


# ---------------------------------------------------------------- the machine


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def file_system(path):
    """Type and mount point of the file system that holds `path`."""
    best = ("?", "")
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        point, kind = line.split()[1:3]
        point = point.replace("\\040", " ")
        # A later mount on the same point hides the earlier one, hence >=.
        if os.path.commonpath([point, str(path)]) == point and len(point) >= len(best[1]):
            best = (kind, point)
    return best


def machine(folder):
    model = re.search(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    kind, point = file_system(folder)
    return {
        "cpu": model.group(1) if model else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "congestion_control": pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "file_system": kind,
        "mount": point,
        "wrk": subprocess.run(["wrk", "-v"], capture_output=True, text=True).stdout.split("\n")[0],
        "load_before": os.getloadavg()[0],
    }


def process_cpu(pid):
    """Seconds of processor time of a process, all its threads, and its children that have ended."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def peak_memory(pid):
    found = re.search(r"VmHWM:\s*(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) * 1024 if found else None


def core_cpu(core):
    """Seconds a core was busy, whoever used it: user, nice, system, irq, softirq, and what the host stole."""
    for line in pathlib.Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            return (user + nice + system + irq + softirq + steal) / TICKS
    raise RunFailed(f"/proc/stat has no core {core}")


# ---------------------------------------------------------------- HTTP, for set-up and checks only


def http(method, url, body=None):
    """(status, text); a refusal is an answer, not an exception."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {}, method=method)
    # No proxy: the environment may name one, and these are this machine's own ports.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode(errors="replace")
    except OSError as e:
        raise RunFailed(f"{method} {url}: {e}") from e


def metric(text, name, **labels):
    """Sum of a metric's samples that carry these labels; 0 when it has none yet."""
    total = 0.0
    for line in text.splitlines():
        found = re.match(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if found:
            have = dict(re.findall(r'(\w+)="([^"]*)"', found.group(1) or ""))
            if all(have.get(k) == v for k, v in labels.items()):
                total += float(found.group(2))
    return total


def buckets(text, name):
    """A histogram's bounds in seconds, the smallest first, each with how many were at most that."""
    found = re.findall(rf'^{name}_bucket\{{[^}}]*le="([^"]+)"[^}}]*\}} (\S+)', text, re.M)
    return sorted((float(bound), float(count)) for bound, count in found)


# ---------------------------------------------------------------- the subjects


class Server:
    """A child process pinned to one core; `with` stops it by its own pid and removes its folder."""

    script = "claim.lua"
    claims_a_request = 1
    binary = "examples/bare_hyper"  # what it needs of the binaries that were built
    programs = {}  # what it needs beside them: program, its Debian package
    needs_nginx = False
    promise = "nothing is kept"  # what is done before a 202

    def __init__(self, options, subject):
        self.options, self.subject = options, subject
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{subject}-", dir=options.dir))
        self.log = self.folder / "server.log"
        self.child = None
        self.port = self.admin = None

    def __enter__(self):
        try:
            self.start()
            return self
        except BaseException as e:
            self.stop(e)
            raise

    def __exit__(self, _kind, error, _trace):
        self.stop(error)

    def launch(self, command, stdout=None):
        # The measured configuration is the one in the file, whatever the caller's environment says.
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("FOREBAY_", "PG", "RUST_"))}
        command = ["taskset", "-c", str(self.options.server_core), *map(str, command)]
        with open(self.log, "wb") as log:
            # taskset becomes the server by exec, so the child's pid is the server's.
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stdout or log, stderr=log, cwd=self.folder, env=environment
            )

    def cpu(self):
        """Seconds of processor time of the whole server side."""
        return process_cpu(self.child.pid)

    def alive(self):
        if self.child.poll() is not None:
            raise RunFailed(f"the server exited with {self.child.returncode}")

    def start(self):
        """Bare: it prints the port it bound, and is ready then."""
        self.launch([self.options.binaries / "examples" / "bare_hyper", 0], stdout=subprocess.PIPE)
        line = self.child.stdout.readline().strip()
        if not line.isdigit():
            raise RunFailed(f"bare_hyper did not print its port but {line!r}")
        self.port = int(line)

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def claim(self, user):
        return http("POST", self.url(f"/v1/campaigns/{CAMPAIGN}/claims"), {"user": user, "quantity": 1})

    def check_one_answer(self):
        status, text = self.claim("probe-1")
        if status != 202:
            raise RunFailed(f"a single claim was answered {status}: {text[:300]}")

    def counters(self):
        return {}

    def check_run(self, result, _before):
        if result["non_2xx"]:
            raise RunFailed(f"{result['non_2xx']} of {result['requests']} answers were not 2xx")

    def stop(self, error=None):
        if self.child and self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        if self.child and self.child.stdout:
            self.child.stdout.close()
        if isinstance(error, RunFailed) and self.log.exists():
            tail = self.log.read_text(errors="replace").splitlines()[-8:]
            error.args = ("\n      ".join([str(error), *tail]),)
        shutil.rmtree(self.folder, ignore_errors=True)


class Forebay(Server):
    """`forebay serve` with one front-end thread, SQLite in its own folder and every check on."""

    binary = "forebay"
    promise = "synced in the journal"
    durability = "disk"
    stock = STOCK
    others = 0
    extra = ""  # more tables of the configuration

    def start(self):
        self.port, self.admin = free_port(), free_port()
        data = self.folder / "data"
        config = self.folder / "forebay.toml"
        config.write_text(
            f'[ingest]\nlisten = "127.0.0.1:{self.port}"\nadmin_listen = "127.0.0.1:{self.admin}"\nthreads = 1\n\n'
            f'[antiscalper]\nuser_rate = "10/s"\n\n'
            f"[buffer]\ndata_dir = {json.dumps(str(data))}\ndurability = \"{self.durability}\"\n\n"
            f"[store]\nurl = {json.dumps(f'sqlite:{data}/forebay.db')}\n\n"
            f'[shutdown]\ngrace = "1s"\n\n{self.extra}'
        )
        self.launch([self.options.binaries / "forebay", "serve", "--config", config])
        self.wait_until_ready()
        for number in range(self.others):
            self.create(f"other-{number}", 100)
        self.create(CAMPAIGN, self.stock)

    def create(self, name, stock):
        now = datetime.datetime.now(datetime.timezone.utc)
        campaign = {
            "id": name,
            "kind": "flash_sale",
            "title": "Load test",
            "opens_at": (now - datetime.timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "closes_at": (now + datetime.timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "per_user_limit": 1,
            "stock": stock,
            "currency": "CNY",
            "price": 990,
        }
        status, text = http("POST", self.admin_url("/admin/v1/campaigns"), campaign)
        if status != 201 or json.loads(text).get("state") != "open":
            raise RunFailed(f"creating the campaign was answered {status}: {text[:300]}")

    def admin_url(self, path):
        return f"http://127.0.0.1:{self.admin}{path}"

    def wait_until_ready(self):
        last, deadline = "no answer", time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            self.alive()
            try:
                status, text = http("GET", self.admin_url("/readyz"))
                if status == 200:
                    return
                last = f"{status} {text[:200]}"
            except RunFailed as e:
                last = str(e)
            time.sleep(0.02)
        raise RunFailed(f"not ready after {READY_SECONDS} s: {last}")

    def check_one_answer(self):
        status, text = self.claim("probe-1")
        if status != 202 or json.loads(text).get("durability") != self.durability:
            raise RunFailed(f"a single claim was answered {status}, expected 202 and {self.durability}: {text[:300]}")

    def counters(self):
        status, text = http("GET", self.admin_url("/metrics"))
        if status != 200:
            raise RunFailed(f"/metrics was answered {status}")
        return {
            "accepted": metric(text, "forebay_claims_total", campaign=CAMPAIGN, outcome="accepted"),
            "last": metric(text, "forebay_journal_last_seq"),
            "drained": metric(text, "forebay_drain_rows_total"),
            "waiting": metric(text, "forebay_buffer_entries"),
            "syncs": metric(text, "forebay_journal_sync_seconds_count"),
        }

    def check_run(self, result, before):
        super().check_run(result, before)
        # Every 202 that wrk has read was counted before it was sent; more may have been on their way at the end.
        accepted = self.counters()["accepted"] - before["accepted"]
        answered = result["requests"] * self.claims_a_request
        if accepted < answered:
            raise RunFailed(f"wrk has {answered} acceptances, forebay_claims_total says {accepted:.0f}")


class ForebayMemory(Forebay):
    promise = "written, not synced"
    durability = "memory"


class ForebaySoldOut(Forebay):
    """One unit, sold before the measurement: every answer is 409 sold-out."""

    stock = 1

    def check_one_answer(self):
        super().check_one_answer()
        self.check_refusal()

    def check_refusal(self):
        status, text = self.claim(f"probe-{time.monotonic_ns()}")
        if status != 409 or not json.loads(text).get("type", "").endswith("sold-out"):
            raise RunFailed(f"a claim after the last unit was answered {status}, not 409 sold-out: {text[:300]}")

    def check_run(self, result, before):
        if result["non_2xx"] != result["requests"]:
            raise RunFailed(f"{result['requests'] - result['non_2xx']} of {result['requests']} claims were not refused")
        accepted = self.counters()["accepted"]
        if accepted != 1:
            raise RunFailed(f"one unit was for sale, forebay_claims_total says {accepted:.0f} were accepted")
        self.check_refusal()


class ForebayBatch(Forebay):
    """Claims of `forebay-disk`, a hundred of them in each request. A claim that is refused makes the counters fall short."""

    script = "batch.lua"
    claims_a_request = BATCH
    stock = BATCH_STOCK

    def check_one_answer(self):
        claims = [{"user": f"probe-{n}", "quantity": 1} for n in range(BATCH)]
        status, text = http("POST", self.url(f"/v1/campaigns/{CAMPAIGN}/claims:batch"), {"claims": claims})
        outcomes = json.loads(text).get("outcomes", []) if status == 200 else []
        if [o.get("claim", {}).get("durability") for o in outcomes] != [self.durability] * BATCH:
            raise RunFailed(f"a batch was answered {status}, expected {BATCH} claims of {self.durability}: {text[:300]}")


class ForebayCarts(Forebay):
    """Adds to carts, each by a buyer that never had one."""

    script = "cart.lua"

    def check_one_answer(self):
        status, text = http("POST", self.url("/v1/carts/probe-1/items"), {"sku": "sku-1", "op": "add", "quantity": 1})
        if status != 202 or json.loads(text).get("durability") != self.durability:
            raise RunFailed(f"an add to a cart was answered {status}, expected 202 and {self.durability}: {text[:300]}")
        status, text = http("GET", self.url("/v1/carts/probe-1"))
        if status != 200 or json.loads(text).get("items") != [{"sku": "sku-1", "quantity": 1}]:
            raise RunFailed(f"the cart was answered {status}: {text[:300]}")

    def check_run(self, result, before):
        Server.check_run(self, result, before)
        # Each add is an entry, and each entry waits or was drained.
        entered = self.counters()["last"] - before["last"]
        if entered < result["requests"]:
            raise RunFailed(f"wrk has {result['requests']} answers, the journal has {entered:.0f} entries")


class ForebayMixed(Forebay):
    """Seven claims, two adds to carts and one read of a cart in ten requests."""

    script = "mixed.lua"

    def check_run(self, result, before):
        Server.check_run(self, result, before)
        accepted = self.counters()["accepted"] - before["accepted"]
        if accepted < result["requests"] * 0.69:
            raise RunFailed(f"wrk has {result['requests']} answers, forebay_claims_total says {accepted:.0f}")


class ForebayMany(Forebay):
    """Claims of `forebay-disk` on a node that has ten thousand other campaigns."""

    others = MANY


KINDS = {
    "bare": Server,
    "forebay-disk": Forebay,
    "forebay-memory": ForebayMemory,
    "forebay-soldout": ForebaySoldOut,
    "forebay-batch": ForebayBatch,
    "forebay-carts": ForebayCarts,
    "forebay-mixed": ForebayMixed,
    "forebay-many": ForebayMany,
}
