"""What k6/run and jmeter/run load: a server of their own, or a deployment that somebody names; and its side of the story.

A server of their own has its defaults, a journal and SQLite, in a folder below target/loadtest that is gone afterwards. In both cases
a campaign is made where none is named, and afterwards the server is asked whether it accepted what the tool counted.
"""

import contextlib
import datetime
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import parameters
import tools
from servers import buckets, free_port, metric

READY_SECONDS = 60
DRAIN_SECONDS = 60
STOP_SECONDS = 40  # the server's own grace is 30 s
ANSWER_SECONDS = 30
# Of the tools' starts: k6 makes its virtual users beforehand, JMeter starts a Java and warms it up. At least so long, and
# so many times as long as it takes the tool to say its version, on a machine that is slow or busy.
LEAD = {"k6": 4, "jmeter": 7}
LEAD_STARTS = 4
SCOPES = "claims:write,carts:write,read"


class Fault(Exception):
    """What went wrong, for people."""


def time_text(instant):
    return datetime.datetime.fromtimestamp(instant, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def ask(method, url, body=None, token=""):
    """(status, text) of a request; a refusal is an answer too."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = None
    if body is not None:
        data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
    request = urllib.request.Request(url, data, headers, method=method)
    # The deployment is asked as the load tool asks it: without a proxy that the environment may name.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER_SECONDS) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode(errors="replace")
    except OSError as e:
        raise Fault(f"{method} {url}: {getattr(e, 'reason', e)}") from e


class Deployment:
    """One that is there already, at URL."""

    is_own = False

    def __init__(self, tool, scenario, values):
        self.tool, self.scenario, self.values = tool, scenario, values
        self.url, self.token = values["URL"], values["TOKEN"]
        self.admin, self.admin_token = values["ADMIN_URL"], values["ADMIN_TOKEN"]
        self.campaign, self.made = values["CAMPAIGN"], False
        self.before = None

    def __enter__(self):
        try:
            self.start()
            if not self.campaign:
                self.make_campaign()
            if self.admin:
                self.before = self.balance()
            return self
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()

    def start(self):
        pass

    def stop(self):
        if self.made and not self.is_own:
            # A sale that nobody wants should not stay open. What it sold stays on record.
            with contextlib.suppress(Fault):
                self.admin_ask("PATCH", f"/admin/v1/campaigns/{self.campaign}", {"state": "closed"})

    def admin_ask(self, method, path, body=None):
        status, text = ask(method, self.admin + path, body, self.admin_token)
        if not 200 <= status < 300:
            raise Fault(f"{method} {self.admin}{path} was answered {status}: {text[:300]}")
        return text

    def make_campaign(self):
        values, lead = self.values, self.lead() if self.scenario == "opening" else 0
        now = time.time()
        comes = values["RATE"] * values["DURATION"] + values.get("HOLDERS", 0)
        stock = values["STOCK"] or max(1, int(comes / 2 if self.scenario == "opening" else comes * 2))
        opens = now + values["QUIET"] + lead if self.scenario == "opening" else now - 60
        self.campaign, self.made = f"load-{values['RUN']}", True
        self.admin_ask("POST", "/admin/v1/campaigns", {
            "id": self.campaign, "kind": "flash_sale", "title": f"Load test: {self.scenario}", "opens_at": time_text(opens),
            "closes_at": time_text(now + 86_400), "per_user_limit": 1, "stock": min(stock, parameters.KNOWN["STOCK"]["max"]),
            "currency": "CNY", "price": 990})  # fmt: skip

    def lead(self):
        """Seconds that the tool has to get ready before the first early claim."""
        return max(LEAD[self.tool], LEAD_STARTS * tools.start_seconds(self.tool)) + self.values["RATE"] / 500

    def opens_at(self):
        """When the campaign opens, by its own word, in seconds since 1970."""
        status, text = ask("GET", f"{self.url}/v1/campaigns/{self.campaign}", token=self.token)
        if status != 200:
            raise Fault(f"campaign {self.campaign} was answered {status}: {text[:300]}")
        return datetime.datetime.fromisoformat(json.loads(text)["opens_at"].replace("Z", "+00:00")).timestamp()

    def balance(self):
        return json.loads(self.admin_ask("GET", f"/admin/v1/campaigns/{self.campaign}/balance"))

    def drained(self):
        """The balance once nothing waits for the database any more, or as it is when that takes too long."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while (balance := self.balance())["accepted"] and time.monotonic() < deadline:
            time.sleep(0.1)
        return balance

    def server_side(self, accepted):
        """Prints the server's side of the run, and gives what is wrong with it. `accepted` is what the tool counted."""
        if not self.admin:
            print("\nThe server's side was not looked at: no ADMIN_URL.")
            return []
        balance, faults = self.drained(), []
        sold, before = taken(balance), taken(self.before)
        print(f"\nThe server's side, campaign {self.campaign}:")
        terms = " + ".join(f"{name} {balance[name]}" for name in ["free", "accepted", "persisted", "settled", "dead"])
        print(f"  stock {balance['stock']} = {terms}; error {balance['error']}")
        print(f"  accepted claims: {accepted} by the tool, {sold - before} by the server")
        if balance["error"] != 0:
            faults.append(f"the balance's error is {balance['error']}, expected 0")
        if sold > balance["stock"]:
            faults.append(f"{sold} units are held of a stock of {balance['stock']}")
        # Others may have claimed meanwhile where the campaign was there already.
        if sold - before < accepted or (self.made and sold - before != accepted):
            faults.append(f"the tool counted {accepted} accepted claims, the server {sold - before}")
        if balance["accepted"]:
            print(f"  {balance['accepted']} claims still wait for the database after {DRAIN_SECONDS} s")
        self.show_metrics()
        return faults

    def show_metrics(self):
        text = self.admin_ask("GET", "/metrics")
        p99 = bucket(text, "forebay_ack_seconds", 0.99)
        reasons = dict(re.findall(r'^forebay_refusals_total\{[^}]*reason="([^"]+)"[^}]*\} (\d+)', text, re.M))
        shown = ", ".join(f"{reason} {count}" for reason, count in reasons.items() if count != "0") or "none"
        print(f"  since its start: acknowledgements p99 at most {p99}; refusals: {shown}")
        waiting, letters = metric(text, "forebay_buffer_entries"), metric(text, "forebay_dead_letters")
        print(f"  waiting for the database: {waiting:.0f}; dead letters: {letters:.0f}")


def taken(balance):
    return sum(balance[name] for name in ["accepted", "persisted", "settled", "dead"])


def bucket(text, name, q):
    """The upper bound of the bucket that holds a histogram's quantile."""
    found = buckets(text, name)
    total = found[-1][1] if found else 0
    for bound, count in found:
        if total and count >= total * q:
            return f"{bound * 1000:g} ms"
    return "unknown: nothing was acknowledged"


class Own(Deployment):
    """A server that is started here, and gone afterwards."""

    is_own = True

    def start(self):
        binary = self.binary()
        tools.WORK.mkdir(parents=True, exist_ok=True)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="server-", dir=tools.WORK))
        self.log, self.config = self.folder / "server.log", self.folder / "forebay.toml"
        public, admin = free_port(), free_port()
        self.url, self.admin = f"http://127.0.0.1:{public}", f"http://127.0.0.1:{admin}"
        auth, keys = self.values["AUTH"], ""
        if auth == "service":
            keys, self.token = self.key(binary)
        self.config.write_text(
            f'[ingest]\nlisten = "127.0.0.1:{public}"\nadmin_listen = "127.0.0.1:{admin}"\nauth = "{auth}"\n\n'
            f"[buffer]\ndata_dir = {json.dumps(str(self.folder / 'data'))}\n\n{keys}"
        )
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(
                [binary, "serve", "--config", self.config], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                env=self.environment(), start_new_session=True)  # fmt: skip
        self.binary_path = binary
        self.wait_until_ready()
        print(f"a server of its own: {self.url}, admin {self.admin}, auth {auth}", flush=True)

    child = folder = None

    def environment(self):
        # The configuration is the one in the file, whatever the caller's environment says.
        return {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}

    def binary(self):
        if self.values["BINARY"]:
            binary = pathlib.Path(self.values["BINARY"]).resolve()
            if not os.access(binary, os.X_OK) or not binary.is_file():
                raise Fault(f"BINARY is {str(binary)!r}, expected a program")
            return binary
        binary = tools.TARGET / "release" / "forebay"
        if not binary.is_file():
            print("building the server", flush=True)
            if subprocess.run(["cargo", "build", "--release", "--bin", "forebay"], cwd=tools.ROOT).returncode:
                raise Fault("cargo build --release failed")
        return binary

    def key(self, binary):
        """(the table for the configuration, the key) of a service that may do what the scenarios do."""
        done = subprocess.run([binary, "key", "new", "--name", "load", "--scope", SCOPES], capture_output=True, text=True, cwd=self.folder)
        key = re.search(r"^fbk_\S+$", done.stdout, re.M)
        if done.returncode or not key:
            raise Fault(f"forebay key new ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout[done.stdout.index("[[service_keys]]"):], key[0]

    def wait_until_ready(self):
        last, deadline = "no answer", time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                raise Fault(f"the server ended with {self.child.returncode}\n{self.log.read_text(errors='replace')[-2000:]}")
            with contextlib.suppress(Fault):
                status, last = ask("GET", f"{self.admin}/readyz")
                if status == 200:
                    return
            time.sleep(0.02)
        raise Fault(f"the server was not ready after {READY_SECONDS} s: {last[:300]}")

    def server_side(self, accepted):
        if self.child.poll() is not None:
            return [f"the server ended with {self.child.returncode}: {self.log.read_text(errors='replace')[-2000:]}"]
        faults = super().server_side(accepted)
        command = [self.binary_path, "audit", "--config", self.config]
        audit = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, env=self.environment())
        if audit.returncode:
            faults.append(f"forebay audit ended with {audit.returncode}:\n{audit.stdout}{audit.stderr}".rstrip())
        else:
            print("  forebay audit: clean")
        return faults

    def stop(self):
        if self.child and self.child.poll() is None:
            # A server that was stopped, as for a demonstration, does not hear of its end.
            self.child.send_signal(signal.SIGCONT)
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def of(tool, scenario, values):
    """The deployment that the parameters speak of; to be entered by `with`."""
    return (Deployment if values["URL"] else Own)(tool, scenario, values)


def report_folder(tool, scenario, values):
    """Where the run's report goes: REPORT, or a folder named after the run. A report is never written over another."""
    if values["REPORT"]:
        folder = pathlib.Path(values["REPORT"]).resolve()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise Fault(f"REPORT is {str(folder)!r}, expected an empty folder, or none of that name")
    else:
        folder = tools.WORK / "reports" / f"{tool}-{scenario}-{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%SZ}-{values['RUN']}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main(tool, run, program=None, explained=None, preset=()):
    """The whole of a wrapper: `run(scenario, values)` gives what is wrong. Exits with 0, 1 (faults) or 2 (parameters).

    Another program than the tool's own wrapper has its own text for --help, and gives scenario and parameters in `preset`.
    """
    # Whoever ends this script ends the server too: `with` and `finally` run on the way out.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    program = program or f"loadtest/{tool}/run"
    if sys.argv[1:] and sys.argv[1] in ("-h", "--help", "help"):
        print(explained or parameters.explain(tool, program))
        return
    try:
        scenario, values = parameters.read(tool, [*preset, *sys.argv[1:]])
    except parameters.Refused as refused:
        print(f"{program}: {refused}", file=sys.stderr)
        sys.exit(2)
    try:
        faults = run(scenario, values)
    except (Fault, tools.Missing) as fault:
        faults = [str(fault)]
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(130)
    for fault in faults:
        print(f"{program}: {fault}", file=sys.stderr)
    print(f"\n{program} {scenario}: {'FAILED' if faults else 'passed'}", flush=True)
    sys.exit(1 if faults else 0)
