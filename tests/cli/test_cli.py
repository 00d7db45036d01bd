"""The command line: the emulator command, output and errors."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

import httpx
import pytest
from commands import run_command

import clerk_m2m
from clerk_m2m import ClerkClient
from clerk_m2m.__main__ import main

SEED = """
[machines.orders]
may_call = ["stock"]

[machines.stock]
"""


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Make started processes receive Ctrl-C, which background processes of a shell ignore."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`clerk-m2m` in its own process."""
    with subprocess.Popen(
        [sys.executable, "-m", "clerk_m2m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_until(process: subprocess.Popen[str], mark: str) -> list[str]:
    """Return what the process prints, up to the first line with `mark`."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if mark in line:
            return lines
    raise AssertionError(f"ended without {mark!r}: {lines}")


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Send Ctrl-C to a process; return its exit code and its errors."""
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    return process.returncode, errors


def exported(lines: Sequence[str]) -> dict[str, str]:
    """Return the environment that the lines set; the first value of a name counts."""
    environment: dict[str, str] = {}
    for line in lines:
        if "export " in line:
            name, _, value = line.strip().removeprefix("export ").partition("=")
            environment.setdefault(name, value)
    return environment


async def test_the_printed_environment_lines_work(tmp_path: Path) -> None:
    seed = tmp_path / "machines.toml"
    seed.write_text(SEED)
    with started("emulator", "--port", "0", "--seed", str(seed)) as process:
        environment = exported(lines_until(process, "Mint a token"))
        async with ClerkClient(
            secret_key=environment["CLERK_SECRET_KEY"],
            machine_secret_key=environment["CLERK_MACHINE_SECRET_KEY"],
            api_url=environment["CLERK_API_URL"],
        ) as clerk:
            machine = await clerk.machines.get(environment["CLERK_MACHINE_ID"])
            minted = await clerk.m2m_tokens.create()
        exit_code, errors = interrupted(process)

    assert [callee.name for callee in machine.scoped_machines] == ["stock"]
    assert minted.subject == machine.id
    assert (exit_code, errors) == (0, "")


def test_an_emulator_without_machines_prints_how_to_create_one(tmp_path: Path) -> None:
    database = tmp_path / "clerk.db"
    with started(
        "emulator", "--host", "localhost", "--port", "0", "--db", str(database)
    ) as process:
        lines = lines_until(process, "Remove an edge")
        minted = use_curl_lines(lines)
        _, errors = interrupted(process)

    assert minted["scopes"] == [minted["callee"]]
    assert errors == "", "localhost is loopback"
    assert (
        "No machine yet. Create a service, and paste its id and secret_key from the answer:"
        in lines
    )
    assert f"Kept in {database}." in lines


def use_curl_lines(lines: Sequence[str]) -> dict[str, Any]:
    """Create a callee and a caller and mint a token, with the printed commands."""
    environment = exported(lines)
    text = "\n".join(lines).replace("\\\n", " ")
    service, caller, token = re.findall(r"^ +curl (.*)$", text, re.MULTILINE)
    callee = environment["CLERK_MACHINE_ID"] = curl(service, environment)["id"]
    key = curl(caller, environment)["secret_key"]
    return {"callee": callee, **curl(token.replace("ak_…", key), environment)}


def curl(arguments: str, environment: Mapping[str, str]) -> Any:
    """Send the request that curl would send for these arguments after shell expansion.

    Every curl has these options; `--json` came with 7.82.
    """
    url, *options = [Template(word).safe_substitute(environment) for word in shlex.split(arguments)]
    given = list(zip(options[::2], options[1::2], strict=True))
    assert {option for option, _ in given} == {"-H", "-d"}
    headers = dict(value.split(": ", 1) for option, value in given if option == "-H")
    [body] = [value for option, value in given if option == "-d"]
    answer = httpx.post(url, headers=headers, content=body, trust_env=False)
    return answer.raise_for_status().json()


def test_the_emulator_warns_if_it_listens_beyond_loopback() -> None:
    with started("emulator", "--host", "0.0.0.0", "--port", "0") as process:
        lines = lines_until(process, "Mint a token")
        origin = exported(lines)["CLERK_API_URL"]
        calls = httpx.get(f"{origin}/_emulator/calls", trust_env=False)
        _, errors = interrupted(process)

    assert re.match(r"Warning: 0\.0\.0\.0 is not loopback\..*needs no key\.\n$", errors)
    assert origin.startswith("http://127.0.0.1:")
    assert calls.json()["total"] == 0, "what the command itself asked is not counted"


def test_only_allowed_host_names_can_use_the_emulators_control_api() -> None:
    allowed = ["--allow-host", "clerk", "--allow-host", "emulator.internal"]
    hosts = ["clerk:4010", "emulator.internal", "localhost", "evil.example"]
    with started("emulator", "--port", "0", *allowed) as process:
        origin = exported(lines_until(process, "Mint a token"))["CLERK_API_URL"]
        statuses = {
            host: httpx.get(
                f"{origin}/_emulator", headers={"Host": host}, trust_env=False
            ).status_code
            for host in hosts
        }

    assert statuses == dict(zip(hosts, [200, 200, 200, 403], strict=True))


def test_only_the_first_twenty_machines_are_printed(tmp_path: Path) -> None:
    seed = tmp_path / "machines.toml"
    seed.write_text("\n".join(f"[machines.worker-{number}]" for number in range(23)))
    with started("emulator", "--port", "0", "--seed", str(seed)) as process:
        lines = lines_until(process, "Mint a token")

    assert sum(line.startswith("Machine worker-") for line in lines) == 20
    assert any(line.startswith("And 3 more: GET http://127.0.0.1:") for line in lines)


def test_a_name_in_a_seed_cannot_control_the_terminal(tmp_path: Path) -> None:
    seed = tmp_path / "machines.toml"
    seed.write_text(r'[machines."a\u001b[2J\nb"]')
    with started("emulator", "--port", "0", "--seed", str(seed)) as process:
        lines = lines_until(process, "Mint a token")

    assert "Machine a\ufffd[2J\ufffdb (may call: nobody):" in [line.rstrip() for line in lines]


def failing(*arguments: str) -> str:
    """Run a command that fails with one line, and return that line."""
    result = run_command(*arguments)
    assert result.code == 2
    assert result.out == ""
    [line] = result.err.splitlines()
    return line


def test_an_invalid_seed_prints_one_error_line(tmp_path: Path) -> None:
    seed = tmp_path / "machines.toml"
    seed.write_text('[machines.orders]\nmay_call = ["nobody"]\n')

    line = failing("emulator", "--seed", str(seed))

    assert line.startswith(f"Error: {seed}: machines.orders.may_call: 'nobody'")


def test_a_database_that_cannot_be_opened_prints_one_error_line(tmp_path: Path) -> None:
    line = failing("emulator", "--db", str(tmp_path))

    assert line.startswith(f"Error: {tmp_path} cannot be used as the database:")


def test_a_port_in_use_prints_one_error_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = failing("emulator", "--port", str(port))

    assert line == f"Error: cannot listen on 127.0.0.1 port {port}: Address already in use"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], "--port must be 0 to 65535, not 70000."),
        (["--host", "::1::", "--port", "0"], "cannot listen on ::1:: port 0"),
        (["--allow-host", "clerk:4010"], "without scheme and port, not 'clerk:4010'"),
        (["--secret-key", "sk_live_" + "x" * 40], "--secret-key must start with sk_test_"),
    ],
)
def test_an_invalid_option_prints_one_error_line(arguments: list[str], words: str) -> None:
    assert words in failing("emulator", *arguments)


def test_a_real_instance_key_is_rejected_and_not_quoted() -> None:
    assert "sk_live_" not in failing("emulator", "--secret-key", "sk_live_" + "x" * 40)


def test_ctrl_c_ends_the_demo_without_a_traceback() -> None:
    with started("demo") as process:
        lines_until(process, "the same token again")
        exit_code, errors = interrupted(process)

    assert (exit_code, errors) == (130, "Stopped.\n")


def test_the_version_is_shown() -> None:
    result = run_command("--version")

    assert result.out == f"clerk-m2m {clerk_m2m.__version__}\n"


@pytest.mark.parametrize("package", ["typer", "rich", "fastapi", "uvicorn", "websockets"])
def test_a_package_that_is_not_installed_is_named_with_the_extra(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # With None, Python raises ImportError when the module is imported.
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.err == f"The command line needs {package}: pip install 'clerk-m2m[cli]'\n"
    assert printed.out == ""


def test_the_command_line_runs_from_main(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["clerk-m2m", "--version"])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 0
