"""Builds the wheel and the sdist into `dist/`, checks them, and installs the wheel anew.

It checks the metadata; that the wheel holds the package and nothing else; that the sdist
holds every committed file and builds the same wheel; that the bare installation brings nothing
optional; that each extra brings what it is for; and that the app of the README, served as the
README says, accepts a token of the emulator and refuses a request without one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"

# What the bare installation must be able to import, and what an extra adds to it.
BARE = """
import clerk_m2m, clerk_m2m.backend_api, clerk_m2m.emulator, clerk_m2m.observe
clerk_m2m.MachineAuthMiddleware, clerk_m2m.Verifier
clerk_m2m.ClerkClient, clerk_m2m.MachineTokenAuth
clerk_m2m.emulator.Emulator().close()
"""
EXTRAS = {
    "fastapi": "import clerk_m2m; clerk_m2m.require_machine()",
    "cli": "import clerk_m2m.cli, clerk_m2m.demo",
    "prometheus": "import clerk_m2m.observe.prometheus",
    "fleet": "import clerk_m2m.fleet.log, clerk_m2m.fleet.member",
    "otel": "import clerk_m2m.observe.otel",
    "testing": "import pytest, clerk_m2m.testing; clerk_m2m.testing.ClerkEmulator",
}
OPTIONAL = {"fastapi", "typer", "uvicorn", "websockets", "redis", "pytest", "tomlkit"}
OPTIONAL |= {"prometheus-client", "opentelemetry-api"}


def check(holds: bool, otherwise: str) -> None:
    """Exit with the message if the condition does not hold."""
    if not holds:
        raise SystemExit(f"dist: {otherwise}")


def run(*command: str | Path) -> str:
    """Run a command outside the checkout; return its output, or exit with it if it fails."""
    done = subprocess.run(
        [str(each) for each in command], cwd=tempfile.gettempdir(), capture_output=True, text=True
    )
    check(done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def contents(archive: Path) -> dict[str, bytes]:
    """Return the files of a wheel."""
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def committed() -> set[str]:
    """Return the files that git tracks."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return set(listed.stdout.split("\0")) - {""}


def built(folder: Path) -> tuple[Path, Path]:
    """Build the sdist, the wheel from the sdist, and the wheel from the checkout; compare."""
    DIST.mkdir(exist_ok=True)
    for old in DIST.iterdir():
        old.unlink()
    run(sys.executable, "-m", "build", "--outdir", DIST, ROOT)  # the wheel is built from the sdist
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT)
    (sdist,), (wheel,), (direct,) = (
        list(DIST.glob("*.tar.gz")),
        list(DIST.glob("*.whl")),
        list(folder.glob("*.whl")),
    )
    check(contents(wheel) == contents(direct), "the sdist builds another wheel than the checkout")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    return wheel, sdist


def look_inside(wheel: Path, sdist: Path) -> None:
    """Compare the contents of both with the tracked files."""
    files = committed()
    package = {name for name in files if name.startswith("clerk_m2m/")}
    inside = {name for name in contents(wheel) if ".dist-info/" not in name}
    check(inside == package, f"the wheel and clerk_m2m/ differ: {sorted(inside ^ package)}")
    check("clerk_m2m/py.typed" in inside, "the wheel has no py.typed")
    with tarfile.open(sdist) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()} - {"PKG-INFO"}
    check(names == files, f"the sdist and the commit differ: {sorted(names ^ files)}")


def fits(wheel: Path, tag: str | None) -> None:
    """Compare the version with the changelog, and with the tag of a release."""
    version = wheel.name.split("-")[1]
    heading = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    newest = heading[1] if heading else ""
    check(newest.split(" ")[0] == version, f"CHANGELOG.md has {newest!r} on top, not {version}")
    if tag is not None:
        check(tag == f"v{version}", f"the tag is {tag}, the version {version}")
        check("unreleased" not in newest, f"CHANGELOG.md gives {version} no date")


class Environment:
    """A new virtual environment with the wheel and one of its extras."""

    def __init__(self, folder: Path, wheel: Path, extra: str = "", *others: str) -> None:
        venv.create(folder, with_pip=True)
        self.bin = folder / "bin"
        wanted = f"{wheel}[{extra}]" if extra else str(wheel)
        run(self.bin / "pip", "install", "--quiet", "--disable-pip-version-check", wanted, *others)

    def python(self, code: str) -> str:
        """Run code in it, isolated from the checkout."""
        return run(self.bin / "python", "-I", "-W", "error", "-c", code)

    def installed(self) -> set[str]:
        """Return the names of the installed distributions."""
        listed = run(self.bin / "pip", "list", "--format", "json", "--disable-pip-version-check")
        return {each["name"].lower().replace("_", "-") for each in json.loads(listed)}


def call(url: str, token: str = "", body: object = None) -> tuple[int, Any]:
    """Send a request; return the status and the JSON of the answer."""
    request = urllib.request.Request(url, json.dumps(body).encode() if body is not None else None)  # noqa: S310 - loopback
    request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


@contextmanager
def served(folder: Path, *command: str | Path, **environment: str) -> Iterator[tuple[str, str]]:
    """Run a server; yield its address and what it has printed until it listens."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(each) for each in command],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        ends_at = time.monotonic() + 30
        while not (address := re.search(r"http://127\.0\.0\.1:[1-9]\d*", log.read_text())):
            check(process.poll() is None and time.monotonic() < ends_at, log.read_text())
            time.sleep(0.1)
        while _refuses(address[0]):
            check(time.monotonic() < ends_at, log.read_text())
            time.sleep(0.1)
        yield address[0], log.read_text()
    finally:
        process.terminate()
        process.wait(10)


def _refuses(address: str) -> bool:
    """Return True while nothing listens at the address."""
    try:
        call(address)
    except json.JSONDecodeError:
        return False
    except urllib.error.URLError:
        return True
    return False


def serve_the_readme(folder: Path, app: Environment, cli: Environment) -> None:
    """Serve the README's app in one environment, with the emulator of another as its Clerk."""
    (block, *_) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    (folder / "app.py").write_text(block, "utf-8")
    emulator = (cli.bin / "clerk-m2m", "emulator", "--port", "0")
    with served(folder, *emulator, PYTHONUNBUFFERED="1") as (clerk, printed):
        key = re.findall(r"CLERK_SECRET_KEY=(sk_test_\w+)", printed)[0]
        _, orders = call(f"{clerk}/v1/machines", key, {"name": "orders"})
        caller = {"name": "billing", "scoped_machines": [orders["id"]]}
        _, billing = call(f"{clerk}/v1/machines", key, caller)
        _, minted = call(f"{clerk}/v1/m2m_tokens", billing["secret_key"], {})
        settings = {
            "CLERK_API_URL": clerk,
            "CLERK_MACHINE_ID": orders["id"],
            "CLERK_MACHINE_SECRET_KEY": orders["secret_key"],
        }
        with served(folder, app.bin / "uvicorn", "--port", "0", "app:app", **settings) as (
            service,
            _,
        ):
            status, problem = call(f"{service}/orders")
            check(
                (status, problem["code"]) == (401, "token_missing"), f"no token: {status} {problem}"
            )
            status, answer = call(f"{service}/orders", minted["token"])
            check(
                (status, billing["id"] in str(answer)) == (200, True), f"token: {status} {answer}"
            )


def main() -> None:
    """Build, check, install."""
    parser = argparse.ArgumentParser(prog="dist", description=__doc__.splitlines()[0])
    parser.add_argument("--tag", help="the tag of the release, such as v0.1.0")
    tag = parser.parse_args().tag
    with tempfile.TemporaryDirectory(prefix="dist-") as temporary:
        folder = Path(temporary)
        wheel, sdist = built(folder)
        look_inside(wheel, sdist)
        fits(wheel, tag)
        print(f"built and checked: {wheel.name}, {sdist.name}", flush=True)

        bare = Environment(folder / "bare", wheel)
        bare.python(BARE)
        unwanted = bare.installed() & OPTIONAL
        check(not unwanted, f"the bare installation brings {sorted(unwanted)}")
        print("bare installation: imports, brings nothing optional", flush=True)

        environments = {}
        for extra, code in EXTRAS.items():
            others = ["uvicorn"] if extra == "fastapi" else []  # the server of the README
            environments[extra] = Environment(folder / extra, wheel, extra, *others)
            environments[extra].python(code)
            print(f"extra {extra}: imports", flush=True)
        serve_the_readme(folder, environments["fastapi"], environments["cli"])
        print("the README's app: 401 without a token, 200 with one")


if __name__ == "__main__":
    main()
