"""`clerk-m2m graph show`: from a file and from an instance, in each format, and its errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from commands import Ended, run_command
from drawn_graphs import HOSTILE, clusters
from test_docs import blocks

from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph
from clerk_m2m.cli.graph.file import load
from clerk_m2m.demo.services import EDGES
from harness import Instance

ROOT = Path(__file__).parent.parent.parent.parent
DEMO = ROOT / "docs" / "graph.toml"
UNLISTED = "mch_unlistedunlistedunlisted012"


def shown(*arguments: str, width: int = 80) -> Ended:
    return run_command("graph", "show", *arguments, environ={"COLUMNS": str(width)})


def failing(*arguments: str, width: int = 80) -> str:
    """Run a command that fails with one line, and return that line."""
    result = shown(*arguments, width=width)
    assert result.code == 2
    assert result.out == ""
    [line] = result.err.splitlines()
    return line


def written(path: Path, tables: Mapping[str, Sequence[str]]) -> str:
    """Write a graph file and return its path."""
    path.write_text(
        "[machines]\n"
        + "\n".join(
            # A JSON string is a TOML string, except for surrogates, which do not occur here.
            f"[machines.{json.dumps(name)}]\nmay_call = {json.dumps(list(callees))}"
            for name, callees in tables.items()
        ),
        "utf-8",
    )
    return str(path)


def written_graph(path: Path, graph: DrawnGraph) -> str:
    return written(
        path,
        {
            label: [graph.labels[callee] for a, callee in sorted(graph.edges) if a == caller]
            for caller, label in enumerate(graph.labels)
        },
    )


def test_the_graph_in_the_docs_is_the_demos() -> None:
    found = {table.name: table.may_call for table in load(DEMO).machines}

    assert found == {name: frozenset(callees) for name, callees in EDGES.items()}


def test_the_drawing_in_the_readme_is_the_commands_output() -> None:
    result = shown("--file", str(DEMO), "--format", "svg")

    assert result.out == (ROOT / "docs" / "graph.svg").read_text("ascii")
    assert "](graph.svg)" in (ROOT / "docs" / "quick-start.md").read_text("utf-8")


def test_an_instance_is_drawn(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERK_SECRET_KEY", instance.emulator.secret_key)
    twin = instance.emulator.add_machine("caller")

    result = shown()
    document = json.loads(shown("--json").out)

    assert result.out == (
        "Scope graph: 3 machines, 1 edge\n\n"
        f"caller ({instance.caller.id})\n└── callee\n\nNo edges:\n  caller ({twin.id})\n"
    )
    assert result.code == 0
    assert document["format_version"] == 1
    assert {each["id"]: each["name"] for each in document["machines"]} == {
        instance.caller.id: "caller",
        twin.id: "caller",
        instance.callee.id: "callee",
    }
    assert document["edges"] == [
        {"caller": f"caller ({instance.caller.id})", "callee": "callee"},
    ]
    twins = sorted([instance.caller.id, twin.id], key=str.casefold)
    assert failing("--around", "caller") == (
        f"Error: Several machines are called caller: caller ({twins[0]}), caller ({twins[1]}). "
        "Give an id."
    )
    assert "May call nobody" in shown("--around", twin.id).out


def test_an_unlisted_callee_is_marked(tmp_path: Path) -> None:
    file = written(tmp_path / "graph.toml", {"orders": [UNLISTED]})

    assert f"└── {UNLISTED} (not listed)" in shown("--file", file).out
    assert "orders" in shown("--file", file, "--around", UNLISTED).out
    document = json.loads(shown("--file", file, "--format", "json").out)
    assert [each["listed"] for each in document["machines"]] == [False, True]


def test_around_draws_only_near_machines_in_every_format() -> None:
    near = ("--file", str(DEMO), "--around", "shop", "--depth", "1")

    assert shown(*near).out == (
        "Scope graph around shop, depth 1: 2 machines, 1 edge\n\n"
        "May call 1 machine:\nshop\n└── orders …\n\nMay be called by nobody:\nshop\n\n"
        "… more is beyond the depth\n"
    )
    mermaid = 'flowchart LR\n  m0["orders"]\n  m1["shop"]\n  m1 --> m0\n'
    assert shown(*near, "--format", "mermaid").out == mermaid
    assert len(json.loads(shown(*near, "--json").out)["machines"]) == 2
    assert "2 machines, 1 edge" in shown(*near, "--format", "svg").out


def test_an_unknown_name_is_rejected_with_similar_names() -> None:
    assert failing("--file", str(DEMO), "--around", "odrers") == (
        "Error: There is no machine odrers. Nearest names: orders, reports."
    )
    assert failing("--file", str(DEMO), "--around", "\x1b[31m") == (
        r"Error: There is no machine \x1b[31m. There are 5."
    )


def test_many_machines_are_drawn_as_a_matrix_or_an_error_names_the_width(
    tmp_path: Path,
) -> None:
    file = written_graph(tmp_path / "graph.toml", clusters(10, 20))

    assert failing("--file", file, width=80) == (
        "Error: A matrix of 200 machines needs 118 columns, and there are 80. Use a wider "
        "terminal, --format svg, or --around NAME."
    )
    assert "may call   " in shown("--file", file, width=200).out
    warned = shown("--file", file, "--format", "mermaid")
    assert warned.code == 0
    assert warned.err.startswith("Warning: Mermaid draws 500 edges by default")


def test_too_many_machines_for_a_drawing_are_rejected(tmp_path: Path) -> None:
    file = written(tmp_path / "graph.toml", {f"worker-{at}": [] for at in range(1_001)})

    for arguments in ([], ["--format", "svg"]):
        assert "1,001 machines are too many for one drawing" in failing("--file", file, *arguments)
    assert shown("--file", file, "--json").code == 0
    assert "1 machine, 0 edges" in shown("--file", file, "--around", "worker-7").out


@pytest.mark.parametrize("form", ["text", "svg", "mermaid", "json"])
def test_hostile_names_are_escaped_in_every_format(form: str, tmp_path: Path) -> None:
    names = [name for name in HOSTILE.values() if "\ud800" not in name]
    chain = {name: names[at + 1 : at + 2] for at, name in enumerate(names)}
    result = shown("--file", written(tmp_path / "graph.toml", chain), "--format", form)

    assert result.code == 0
    lines = result.out.replace("\u2068", "").replace("\u2069", "").splitlines()
    assert all(line.isprintable() for line in lines)
    if form == "json":
        document = json.loads(result.out)
        assert {each["name"] for each in document["machines"]} == set(names)
    if form == "svg":
        ElementTree.fromstring(result.out)


def test_a_terminal_without_unicode_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_command("graph", "show", "--file", DEMO, charset="ascii")

    assert result.code == 0
    assert result.out.isascii()
    assert "|-- orders" in result.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--file", "no-such-file.toml"], "no-such-file.toml cannot be read"),
        (["--format", "png"], "'png' is not one of"),
        (["--depth", "0"], "'--depth'"),
    ],
)
def test_an_invalid_show_command_exits_with_2(arguments: list[str], words: str) -> None:
    assert words in failing(*arguments)


def test_the_show_commands_of_the_docs_page_work(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CLERK_SECRET_KEY", instance.emulator.secret_key)
    monkeypatch.chdir(tmp_path)
    instance.emulator.add_machine("billing")
    (tmp_path / "graph.toml").write_bytes(DEMO.read_bytes())
    lines = "".join(blocks(ROOT / "docs" / "command-line.md", "console")).splitlines()
    commands = [line.partition(" > ")[0].split()[4:] for line in lines if "graph show" in line]

    assert len(commands) == 3
    for arguments in commands:
        assert "Scope graph" in shown(*arguments).out
