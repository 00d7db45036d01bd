"""The pytest plugin in users' test suites, each in its own run."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import clerk_m2m

ROOT = Path(__file__).parents[2]
STRICT = """
[pytest]
addopts = --strict-markers --strict-config
filterwarnings = error
"""
ASYNCIO = STRICT + "asyncio_mode = strict\nasyncio_default_fixture_loop_scope = function\n"

SYNC_SUITE = """
import httpx

def test_one(clerk_emulator_server, clerk_machine, clerk_token):
    orders = clerk_machine("orders")
    headers = {"Authorization": f"Bearer {orders.secret_key}"}
    body = {"token": clerk_token(may_call=[orders]).token}
    answer = httpx.post(
        f"{clerk_emulator_server.url}/m2m_tokens/verify", json=body, headers=headers
    )
    assert answer.status_code == 200
    clerk_emulator_server.emulator.assert_verifications(1)
"""
ASYNC_SUITE = """
import pytest

@pytest.mark.MARK
async def test_one(clerk_emulator, clerk_machine, clerk_token):
    orders = clerk_machine("orders")
    verifier = clerk_emulator.verifier(orders)
    identity = await verifier.verify(clerk_token(may_call=[orders]).token)
    assert identity.scopes == {orders.id}
"""
ANYIO_BACKEND = """
@pytest.fixture
def anyio_backend():
    return "asyncio"
"""


class Suite:
    """A user's suite in its own directory, with this plugin and the plugins that it names."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, **files: str) -> None:
        """Write files; a double underscore in a name means a dot."""
        for name, text in files.items():
            (self._directory / name.replace("__", ".")).write_text(text, "utf-8")

    def run(self, *plugins: str, directory: Path | None = None) -> str:
        """Run pytest in its own process, assert that it passed, and return its output."""
        done = self.attempt(*plugins, directory=directory)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def attempt(
        self, *plugins: str, directory: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run pytest in its own process."""
        # Plugins by name, because a checkout has no entry points; other installed plugins are off.
        options = [f"-p{plugin}" for plugin in (*plugins, "clerk_m2m.testing")]
        environ = {name: os.environ[name] for name in os.environ if not name.startswith("CLERK_")}
        environ |= {
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": str(Path(clerk_m2m.__file__).parent.parent),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", *options),
                *("-c", str(self._directory / "pytest.ini"), "-p", "no:cacheprovider"),
                *("--rootdir", str(directory or self._directory), str(directory or ".")),
            ],
            cwd=self._directory,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """An empty suite."""
    return Suite(tmp_path)


def test_a_synchronous_suite_with_strict_settings_passes(suite: Suite) -> None:
    suite.write(pytest__ini=STRICT, test_one__py=SYNC_SUITE)
    assert "1 passed" in suite.run()


def test_a_suite_of_pytest_asyncio_passes(suite: Suite) -> None:
    suite.write(pytest__ini=ASYNCIO, test_one__py=ASYNC_SUITE.replace("MARK", "asyncio"))
    assert "1 passed" in suite.run("pytest_asyncio.plugin")


def test_a_suite_of_anyio_passes(suite: Suite) -> None:
    text = ASYNC_SUITE.replace("MARK", "anyio") + ANYIO_BACKEND
    suite.write(pytest__ini=STRICT, test_one__py=text)
    assert "1 passed" in suite.run("anyio")


def test_without_uvicorn_the_server_says_what_to_install(suite: Suite) -> None:
    suite.write(
        pytest__ini=STRICT,
        conftest__py="import sys\nsys.modules['uvicorn'] = None\n",
        test_one__py="def test_one(clerk_emulator_server): ...\n",
    )
    done = suite.attempt()
    assert done.returncode == 1
    assert "clerk_emulator_server needs uvicorn: pip install 'clerk-m2m[cli]'" in done.stdout


def test_without_pytest_the_kit_says_what_to_install() -> None:
    script = "import sys; sys.modules['pytest'] = None; import clerk_m2m.testing"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "clerk_m2m.testing needs pytest: pip install 'clerk-m2m[testing]'" in done.stderr


def test_the_example_suite_passes(suite: Suite) -> None:
    suite.write(pytest__ini=ASYNCIO)
    passed = suite.run("pytest_asyncio.plugin", directory=ROOT / "examples")
    assert re.search(r"\b8 passed\b", passed)


def test_the_blocks_of_the_document_are_a_suite_that_passes(suite: Suite) -> None:
    document = (ROOT / "docs" / "testing.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    suite.write(pytest__ini=ASYNCIO, test_document__py="\n".join(blocks))
    assert re.search(r"\b12 passed\b", suite.run("pytest_asyncio.plugin"))


def test_a_run_without_our_fixtures_imports_nothing_more(suite: Suite) -> None:
    heavy = ("clerk_m2m.emulator", "clerk_m2m.testing.", "uvicorn", "cryptography", "fastapi")
    suite.write(
        pytest__ini=STRICT,
        test_one__py=f"""
import sys

def test_one():
    assert "clerk_m2m.testing" in sys.modules
    assert [name for name in sys.modules if name.startswith({heavy!r})] == []
""",
    )
    assert "1 passed" in suite.run()


def test_pytest_finds_the_installed_plugin() -> None:
    try:
        distribution = importlib.metadata.distribution("clerk-m2m")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed here, so it has no entry points")
    plugins = distribution.entry_points.select(group="pytest11")
    assert [(plugin.name, plugin.value) for plugin in plugins] == [
        ("clerk_m2m", "clerk_m2m.testing")
    ]
