"""Every code block of the documents runs, here or in the test named in `LANGUAGES`."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from commands import run_command

from clerk_m2m import ScopeGraph
from harness import Instance, bearer, serve

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
_BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)

# The languages of a page's blocks. Blocks that this file does not run are run by the named test.
LANGUAGES = {
    "README.md": {"python", "console"},
    "CONTRIBUTING.md": {"python", "console"},  # tests/test_contributing.py
    "calling.md": {"python"},
    "quick-start.md": {"console"},
    "scope-policy.md": {"toml"},
    "settings.md": {"python"},
    "revocation.md": {"python"},
    "deployment.md": {"console"},  # tests/test_forks.py, tests/asgi/test_bad_settings.py
    "guards.md": {"python"},
    "client.md": {"python", "console"},
    "command-line.md": {"toml", "console"},  # tests/cli/test_docs.py
    "emulator.md": {"python", "toml", "console"},  # tests/emulator/test_docs.py
    "fastapi.md": {"python"},
    "fleet.md": {"python", "console", "text"},  # tests/fleet/test_docs.py
    "logs.md": {"python"},  # tests/asgi/test_events.py
    "metrics.md": {"python"},
    "other-frameworks.md": {"python"},
    "live.md": {"console"},  # tests/live/test_live.py
    "testing.md": {"python"},  # tests/testing/test_runs.py
}


def blocks(document: Path, language: str) -> list[str]:
    """Return the blocks of a language, without their indentation."""
    return [
        re.sub(f"^{indent}", "", text, flags=re.MULTILINE)
        for indent, found, text in _BLOCK.findall(document.read_text("utf-8"))
        if found == language
    ]


def commands_of(document: Path) -> list[list[str]]:
    """Return the words of each line that is typed into a shell."""
    return [
        line.removeprefix("$ ").split("#")[0].split()
        for block in blocks(document, "console")
        for line in block.splitlines()
    ]


def assert_ours_exist(commands: list[list[str]]) -> None:
    """Run each command of ours with its options and `--help`."""
    for words in commands:
        if words[0] == "clerk-m2m":
            assert run_command(*words[1:], "--help").code == 0, words


@pytest.mark.parametrize(
    "document",
    [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))],
    ids=str,
)
def test_every_block_has_a_language_that_a_test_runs(document: Path) -> None:
    found = {language for _, language, _ in _BLOCK.findall(document.read_text("utf-8"))}

    assert found <= LANGUAGES.get(document.name, set())


async def test_the_app_of_the_readme_protects_its_routes(instance: Instance) -> None:
    (block,) = blocks(README, "python")
    namespace: dict[str, Any] = {}
    exec(compile(block, str(README), "exec"), namespace)
    assert len(block.splitlines()) <= 20

    # On a server, whose shutdown closes the connections of the middleware.
    async with serve(namespace["app"]) as origin, httpx.AsyncClient(base_url=origin) as client:
        healthz = await client.get("/healthz")
        orders = await client.get("/orders", headers=bearer(instance.token()))
        missing = await client.get("/orders")

    assert healthz.json() == {"status": "ok"}
    assert orders.json() == {"orders_for": instance.caller.id}
    assert missing.json()["code"] == "token_missing"


def test_the_graph_on_the_page_about_the_scope_policy_is_valid() -> None:
    (text,) = blocks(ROOT / "docs" / "scope-policy.md", "toml")
    orders, billing = re.findall(r'id = "(\w+)"', text)

    assert ScopeGraph.from_toml(text) == ScopeGraph({orders: [billing], billing: []})


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "quick-start.md"], ids=str)
def test_the_commands_of_a_page_for_beginners_exist(page: Path) -> None:
    commands = commands_of(page)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert {words[1] for words in commands if words[0] == "make"} <= set(targets)
    assert_ours_exist(commands)


async def test_the_page_about_calling_runs_as_one_script(instance: Instance) -> None:
    script = "\n".join(blocks(ROOT / "docs" / "calling.md", "python"))

    process = await asyncio.create_subprocess_exec(sys.executable, "-W", "error", "-c", script)

    assert await process.wait() == 0


async def test_the_apps_on_the_page_about_guards_accept_and_refuse_as_it_says(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for region in ("EU", "US"):
        monkeypatch.setenv(f"{region}_MACHINE_ID", instance.callee.id)
        monkeypatch.setenv(f"{region}_MACHINE_SECRET_KEY", instance.callee.secret_key)
    namespace: dict[str, Any] = {}
    script = "\n".join(blocks(ROOT / "docs" / "guards.md", "python"))
    exec(compile(script, "guards.md", "exec"), namespace)

    async with (
        serve(namespace["app"]) as one,
        serve(namespace["both"]) as several,
        httpx.AsyncClient(headers=bearer(instance.token())) as client,
    ):
        closed = [
            await client.get(f"{one}/invoices"),
            await client.get(f"{one}/export"),
            await client.delete(f"{one}/admin/invoices/7"),
            await client.get(f"{one}/internal/ledger"),
            await client.get(f"{one}/files/README.md"),
        ]
        opened = [await client.get(f"{several}/{region}/orders") for region in ("eu", "us")]

    assert [answer.json()["code"] for answer in closed] == ["permission_denied"] * 5
    assert [answer.json()["orders_for"] for answer in opened] == [instance.caller.id] * 2


async def test_the_app_on_the_page_about_calling_is_503_when_no_token_can_be_minted(
    instance: Instance,
) -> None:
    namespace: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "calling.md", "python"):
        if "main()" not in block and "chain()" not in block:
            exec(compile(block, "calling.md", "exec"), namespace)
    instance.emulator.fail("createM2MToken", status=500)

    async with serve(namespace["app"]) as origin, httpx.AsyncClient(base_url=origin) as client:
        answer = await client.get("/orders/7")

    assert (answer.status_code, answer.json()) == (503, {"code": "token_unavailable"})
    assert answer.headers["Retry-After"] in ("1", "2")


@pytest.mark.parametrize(
    "page", ["metrics.md", "other-frameworks.md", "fastapi.md", "settings.md", "revocation.md"]
)
async def test_a_page_runs_as_one_script(instance: Instance, page: str) -> None:
    script = "\n".join(blocks(ROOT / "docs" / page, "python"))

    process = await asyncio.create_subprocess_exec(sys.executable, "-W", "error", "-c", script)

    assert await process.wait() == 0


async def test_the_app_of_the_page_about_fastapi_shows_what_the_page_says(
    instance: Instance,
) -> None:
    namespace: dict[str, Any] = {}
    page = ROOT / "docs" / "fastapi.md"
    exec(compile("\n".join(blocks(page, "python")), str(page), "exec"), namespace)
    async with serve(namespace["app"]) as origin, httpx.AsyncClient(base_url=origin) as client:
        me = (await client.get("/me", headers=bearer(instance.token()))).json()
        paths = (await client.get("/openapi.json")).json()["paths"]

    assert me["subject"] == instance.caller.id
    assert me["token_type"] == "m2m_token"
    assert "claims" not in me
    assert paths["/stock"]["get"]["security"] == [{"ClerkM2MToken": []}]
    assert paths["/orders"]["post"]["security"] == [{"ClerkApiKey": ["orders:write"]}]


async def test_the_app_of_the_page_about_frameworks_refuses_as_the_middleware_does(
    instance: Instance,
) -> None:
    namespace: dict[str, Any] = {}
    page = ROOT / "docs" / "other-frameworks.md"
    exec(compile(blocks(page, "python")[0], str(page), "exec"), namespace)
    app = namespace["app"]
    async with (
        serve(app, lifespan="off") as origin,
        httpx.AsyncClient(base_url=origin) as client,
    ):
        known = await client.get("/", headers=bearer(instance.token()))
        missing = await client.get("/")
    await app.verifier.aclose()

    assert known.text == instance.caller.id
    assert missing.json()["code"] == "token_missing"


async def test_the_page_about_the_client_runs_as_one_script(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ROOT / "docs" / "client.md"
    assert_ours_exist(commands_of(page))
    set_there = re.findall(r"(\w+)=", "".join(blocks(page, "console")))
    environ = {**instance.environ, "CLERK_SECRET_KEY": instance.emulator.secret_key}
    for name in environ:
        monkeypatch.delenv(name, raising=False)
    for name in set_there:
        monkeypatch.setenv(name, environ[name])

    script = "\n".join(blocks(page, "python"))
    process = await asyncio.create_subprocess_exec(sys.executable, "-W", "error", "-c", script)

    assert await process.wait() == 0
    # The emulator, not Clerk, received all of them.
    instance.emulator.assert_calls(CreateMachine=6, DeleteMachine=4, revokeApiKey=1)
