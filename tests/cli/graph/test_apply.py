"""`graph apply`: its changes, their order, and what it refuses to change."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from clerk_m2m import ClerkClient
from clerk_m2m.cli.graph.apply import Done, Run
from clerk_m2m.cli.graph.file import load
from clerk_m2m.cli.graph.planning import make_plan
from clerk_m2m.cli.graph.reading import read_snapshot
from clerk_m2m.cli.program import CommandError
from clerk_m2m.testing import ClerkEmulator
from harness import API_URL, Upstream

from .conftest import Operator

FILE = """\
# who may call whom
[machines.orders]  # the shop
may_call = [
    "stock",  # for counts
    "billing",
]
must_not_call = ["audit"]

[machines.billing]
may_call = ["orders"]

[machines.stock]
[machines.audit]
"""
SHOP = {"orders": ["billing", "stock"], "billing": ["orders"], "stock": [], "audit": []}


def planned(operator: Operator) -> Path:
    """Write a plan of the graph file to a file and return its path."""
    path = operator.file.with_suffix(".json")
    operator.ended(1, "plan", operator.file, "--out", path)
    return path


def advance(steps: int, total: int | None = None, /) -> None:
    """A progress callback that does nothing."""


def test_new_machines_are_created_and_their_ids_written_beside_the_comments(
    operator: Operator,
) -> None:
    operator.write(FILE)

    run = operator.ended(0, "apply", operator.file)
    again = operator.json(0, "apply", operator.file)

    assert operator.live() == SHOP
    text = operator.file.read_text()
    assert re.sub(r'id = "mch_\w{27}"\n', "", text) == FILE
    assert operator.graph().allows(*re.findall(r'id = "(\w+)"', text)[:2])
    assert run.err.startswith("Talking to the development instance at http://127.0.0.1:")
    assert "Done. Machines: 4 created, 0 renamed, 0 deleted. Edges: 3 added, 0 cut." in run.out
    assert (again["created"], again["added"], again["cut"]) == ({}, 0, 0)


def test_no_secret_key_of_a_new_machine_is_printed_or_written(operator: Operator) -> None:
    operator.write(FILE)
    plan = planned(operator)

    runs = [
        operator.ended(0, "apply", plan, "--json"),
        operator.run("pull"),
        operator.run("check", "orders", "stock"),
    ]

    seen = "".join(run.out + run.err for run in runs) + operator.file.read_text() + plan.read_text()
    ids = [machine["id"] for machine in operator.json(0, "pull")["machines"]]
    assert not [own for own in ids if operator.emulator.machine(own).secret_key in seen]
    assert operator.emulator.secret_key not in seen


def test_unlisted_machines_are_deleted_only_with_prune(operator: Operator) -> None:
    old = operator.emulator.add_machine("old")
    operator.emulator.add_machine("older", may_call=[old])
    operator.write("[machines.orders]\n")

    operator.ended(0, "apply", operator.file)
    assert operator.live() == {"old": [], "older": ["old"], "orders": []}

    run = operator.ended(2, "apply", operator.file, "--prune")
    assert "Edges to remove: 1 of 1, more than half. Continue? [y/N]" in run.err
    assert "Nothing was changed. (Answer y, or give --allow-large-cut.)" in run.err
    assert len(operator.live()) == 3

    operator.ended(0, "apply", operator.file, "--prune", answers="y\n")
    operator.ended(0, "plan", operator.file, "--prune")
    assert operator.live() == {"orders": []}


def test_a_name_can_move_from_one_machine_to_another(operator: Operator) -> None:
    first = operator.emulator.add_machine("orders")
    second = operator.emulator.add_machine("billing", may_call=[first])
    operator.write(
        f'[machines.billing]\nid = "{first.id}"\n[machines.old]\nid = "{second.id}"\n'
        'may_call = ["billing"]\n[machines.orders]\nmay_call = ["billing"]\n'
    )

    operator.ended(0, "apply", planned(operator))

    assert operator.live() == {"billing": [], "old": ["billing"], "orders": ["billing"]}
    assert operator.emulator.machine(first.id).name == "billing"


@pytest.mark.parametrize("edit", ["add", "cut", "rename", "delete"])
def test_an_edit_between_plan_and_apply_is_refused(operator: Operator, edit: str) -> None:
    emulator = operator.emulator
    stock, audit = emulator.add_machine("stock"), emulator.add_machine("audit")
    kept = emulator.add_machine("kept")
    orders = emulator.add_machine("orders", may_call=[stock, kept])
    operator.write(
        f'[machines.first]\n[machines.orders]\nid = "{orders.id}"\n'
        f'may_call = ["{kept.id}", "first"]\n'
    )
    plan = planned(operator)
    said = {
        "add": f"an edge to {audit.id} has been added",
        "cut": f"the edge to {kept.id} has been cut",
        "rename": "it is now called sales",
        "delete": "it has been deleted",
    }[edit]
    match edit:
        case "add":
            emulator.allow(orders, audit)
        case "cut":
            emulator.cut(orders, kept)
        case "rename":
            rename = httpx.patch(
                f"{operator.environ['CLERK_API_URL']}/v1/machines/{orders.id}",
                headers={"Authorization": f"Bearer {emulator.secret_key}"},
                json={"name": "sales"},
                trust_env=False,
            )
            assert rename.status_code == 200
        case "delete":
            emulator.delete_machine(orders)

    run = operator.ended(2, "apply", plan)

    assert f"orders ({orders.id}) has been changed since the plan was made: {said}." in run.err
    assert "first" not in operator.live(), "nothing was changed"


async def run_after(
    edit: Callable[[], object], emulator: ClerkEmulator, path: Path, *, prune: bool = False
) -> Done:
    """Apply a file, with a concurrent edit after everything has been read and checked."""
    async with emulator.client() as clerk:
        snapshot = await read_snapshot(clerk, advance)
        plan = make_plan(load(path), snapshot, prune=prune)
        edit()
        return await Run(clerk, plan, snapshot, advance).run()


async def test_an_edit_during_apply_is_refused_before_its_machine_is_touched(
    clerk_emulator: ClerkEmulator, tmp_path: Path
) -> None:
    stock, audit = clerk_emulator.add_machine("stock"), clerk_emulator.add_machine("audit")
    orders = clerk_emulator.add_machine("orders")
    path = tmp_path / "graph.toml"
    path.write_text(f'[machines.orders]\nid = "{orders.id}"\nmay_call = ["{stock.id}"]\n')

    with pytest.raises(CommandError, match="has been added"):
        await run_after(lambda: clerk_emulator.allow(orders, audit), clerk_emulator, path)
    clerk_emulator.cut(orders, audit)
    with pytest.raises(CommandError, match="it has been deleted"):
        await run_after(lambda: clerk_emulator.delete_machine(orders), clerk_emulator, path)

    clerk_emulator.assert_calls(CreateMachineScope=0, DeleteMachineScope=0)


async def test_changes_made_by_a_concurrent_run_are_not_repeated(
    clerk_emulator: ClerkEmulator, tmp_path: Path
) -> None:
    old = clerk_emulator.add_machine("old")
    path = tmp_path / "graph.toml"
    path.write_text("[machines.orders]\n")

    def other_run() -> None:
        clerk_emulator.add_machine("orders")
        clerk_emulator.delete_machine(old)

    done = await run_after(other_run, clerk_emulator, path, prune=True)

    assert done.created == {}
    clerk_emulator.assert_calls(CreateMachine=0, DeleteMachine=0)
    assert "id = " in path.read_text()


async def test_edges_are_added_before_others_are_removed_except_at_the_limit(
    clerk_emulator: ClerkEmulator, tmp_path: Path
) -> None:
    emulator = clerk_emulator
    callees = [emulator.add_machine(f"m{number:03}") for number in range(152)]
    moved = emulator.add_machine("moved", may_call=[callees[0]])
    full = emulator.add_machine("full", may_call=callees[:150])
    path = tmp_path / "graph.toml"
    wanted = ", ".join(f'"{callee.id}"' for callee in callees[3:])
    path.write_text(
        f'[machines.full]\nid = "{full.id}"\nmay_call = [{wanted}]\n'
        f'[machines.moved]\nid = "{moved.id}"\nmay_call = ["{callees[1].id}"]\n'
    )
    upstream = Upstream(emulator.transport)
    async with ClerkClient(
        secret_key=emulator.secret_key, api_url=API_URL, transport=upstream
    ) as clerk:
        snapshot = await read_snapshot(clerk, advance)
        plan = make_plan(load(path), snapshot, prune=False)
        done = await Run(clerk, plan, snapshot, advance).run()

    names = {full.id: "full", moved.id: "moved"}
    changes = [
        (request.method, names[request.url.path.split("/")[3]])
        for request in upstream.requests
        if request.method != "GET"
    ]
    assert changes == [
        ("DELETE", "full"),
        ("POST", "full"),
        ("DELETE", "full"),
        ("POST", "full"),
        ("POST", "moved"),
        ("DELETE", "full"),
        ("DELETE", "moved"),
    ]
    assert (done.added, done.cut) == (3, 4)


def test_an_edge_that_already_exists_or_is_gone_counts_as_done(operator: Operator) -> None:
    emulator = operator.emulator
    stock, audit = emulator.add_machine("stock"), emulator.add_machine("audit")
    orders = emulator.add_machine("orders", may_call=[stock])
    operator.write(f'[machines.orders]\nid = "{orders.id}"\nmay_call = ["{audit.id}"]\n')
    # Carry out the change, but answer as if someone else had made it before.
    emulator.fail("CreateMachineScope", status=409, performed=True, times=1)
    emulator.fail("DeleteMachineScope", status=404, performed=True, times=1)

    operator.ended(0, "apply", operator.file, "--allow-large-cut")

    assert operator.live()["orders"] == ["audit"]


def test_a_rate_limit_is_waited_for(operator: Operator) -> None:
    operator.write(FILE)
    for operation in ("ListMachines", "CreateMachine", "CreateMachineScope"):
        operator.emulator.fail(operation, status=429, retry_after=0, times=3)

    operator.ended(0, "apply", operator.file)

    assert operator.live() == SHOP


def test_an_outage_during_apply_exits_with_2_and_a_second_run_continues(operator: Operator) -> None:
    operator.write(FILE)
    operator.emulator.fail("CreateMachineScope", kind="drop", times=1)

    run = operator.ended(2, "apply", operator.file)

    assert "CreateMachineScope" in run.err
    assert operator.file.read_text().count("id = ") == 4, "what was created is in the file"
    operator.ended(0, "apply", operator.file)
    assert operator.live() == SHOP


def test_a_machine_created_by_a_killed_run_is_found_again(operator: Operator) -> None:
    operator.write(FILE)
    plan = planned(operator)
    audit = operator.emulator.add_machine("audit")
    billing = operator.emulator.add_machine("billing")

    assert operator.json(1, "plan", operator.file)["found"] == {
        "audit": audit.id,
        "billing": billing.id,
    }
    done = operator.json(0, "apply", plan)

    assert sorted(done["created"]) == ["orders", "stock"]
    assert operator.live() == SHOP
    assert f'[machines.audit]\nid = "{audit.id}"' in operator.file.read_text()


def test_apply_creates_nothing_if_ids_cannot_be_written(operator: Operator) -> None:
    operator.write("machines.orders = { may_call = [] }\n")

    run = operator.ended(2, "apply", operator.file)

    assert "no id can be written into [machines.orders]" in run.err
    assert operator.live() == {}


def test_apply_changes_a_live_instance_only_after_confirmation(
    operator: Operator, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("sk_live_" + "x" * 40)
    operator.write("[machines.orders]\n")
    live = {"CLERK_SECRET_KEY": "", "CLERK_SECRET_KEY_FILE": str(key)}
    operator.emulator.fail("ListMachines", body={"data": [], "total_count": 0})
    operator.emulator.fail("GetJWKS", body={"keys": [{"kid": "ins_live"}]})

    declined = operator.ended(2, "apply", operator.file, answers="no\n", **live)
    unasked = operator.ended(2, "apply", operator.file, **live)
    agreed = operator.ended(2, "apply", operator.file, "--yes", **live)

    assert "Talking to the LIVE instance at http://127.0.0.1:" in declined.err
    assert "Really make these changes (machines: 1) in the LIVE instance" in declined.err
    assert "Nothing was changed. (Answer y, or give --yes.)" in declined.err
    assert "Nothing was changed." in unasked.err
    # The emulator does not know the live key, so the command fails after the question.
    assert "CreateMachine: Clerk answered 401" in agreed.err
    assert "sk_live_x" not in declined.err + unasked.err + agreed.err


def test_prune_cannot_be_combined_with_a_plan(operator: Operator) -> None:
    operator.write(FILE)
    path = planned(operator)

    assert "the plan says what is deleted" in operator.ended(2, "apply", path, "--prune").err
    assert json.loads(path.read_text())["file"] == str(operator.file)


def test_a_file_that_cannot_be_read_is_named(operator: Operator) -> None:
    assert f"{operator.file} cannot be read: No" in operator.ended(2, "apply", operator.file).err
    operator.file.write_bytes(b"\xff")
    assert f"{operator.file} is not UTF-8." in operator.ended(2, "plan", operator.file).err
