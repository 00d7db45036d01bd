"""`graph plan`: the differences that it finds, and the files that it rejects."""

from __future__ import annotations

import json

import pytest

from .conftest import Operator

UNKNOWN = "mch_" + "u" * 27


def test_a_plan_lists_every_difference_and_exits_with_1(operator: Operator) -> None:
    emulator = operator.emulator
    stock, store = emulator.add_machine("stock"), emulator.add_machine("old store")
    orders = emulator.add_machine("orders", may_call=[stock])
    emulator.add_machine("unlisted", may_call=[stock])
    operator.write(
        f'[machines.orders]\nid = "{orders.id}"\nmay_call = ["store", "new"]\n'
        f'[machines.store]\nid = "{store.id}"\n[machines.stock]\nid = "{stock.id}"\n'
        "[machines.new]\n"
    )

    shown = operator.ended(1, "plan", operator.file).out.splitlines()
    planned = operator.json(1, "plan", operator.file)
    pruned = operator.json(1, "plan", operator.file, "--prune")

    assert shown[:6] == [
        "  + orders -> old store",
        "  + orders -> new",
        "  - orders -> stock",
        f"rename    old store to store ({store.id})",
        "create    new",
        "Machines: 1 to create, 1 to rename, 0 to delete. Edges: 2 to add, 1 to cut, of 1.",
    ]
    assert any("live graph: within graph_ttl, 30 s" in line for line in shown)
    assert planned["instance"] == emulator.instance_id
    assert planned["changes"][0] == {
        "action": "change",
        "id": orders.id,
        "base": {"name": "orders", "may_call": [stock.id]},
        "target": {"name": "orders", "may_call": sorted([store.id, "new"])},
    }
    assert [each["action"] for each in pruned["changes"]][-1] == "delete"
    assert (planned["ended"], pruned["ended"], pruned["edges"]) == (1, 2, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'[machines.a]\nid = "{UNKNOWN}"', f"{UNKNOWN} is not in this instance (ins_"),
        (f'[machines.a]\nmay_call = ["{UNKNOWN}"]', f"names {UNKNOWN}, which is not in this"),
        ('[machines.a]\nmay_call = ["b"]', "names 'b', which is neither a machine"),
        ("[machines.twin]", "two machines called twin: mch_"),
        ("[machines.taken]\nmay_call = []", "has a machine taken already, mch_"),
        ("[machines", "graph.toml: The scope graph is not valid TOML"),
    ],
)
def test_a_file_that_cannot_be_applied_is_rejected(
    operator: Operator, text: str, said: str
) -> None:
    stock = operator.emulator.add_machine("stock")
    operator.emulator.add_machine("taken", may_call=[stock])
    for _ in range(2):
        operator.emulator.add_machine("twin")
    operator.write(text)

    run = operator.ended(2, "plan", operator.file)

    assert said in run.err
    assert run.out == ""


def test_more_callees_than_clerks_limit_are_rejected(operator: Operator) -> None:
    callees = [f'"{operator.emulator.add_machine(f"m{n}").id}"' for n in range(151)]
    operator.write(f"[machines.a]\nmay_call = [{', '.join(callees)}]")

    assert "has more than 150 machines" in operator.ended(2, "plan", operator.file).err


def test_a_callee_that_prune_would_delete_is_an_error(operator: Operator) -> None:
    stock = operator.emulator.add_machine("stock")
    operator.write(f'[machines.orders]\nmay_call = ["{stock.id}"]')

    assert operator.run("plan", operator.file).code == 1
    assert "--prune would delete" in operator.ended(2, "plan", operator.file, "--prune").err


@pytest.mark.parametrize("kind", ["drop", "html", "malformed_json"])
def test_an_outage_is_no_answer(operator: Operator, kind: str) -> None:
    operator.write("[machines.orders]")
    operator.emulator.fail("ListMachines", kind=kind)  # type: ignore[arg-type]

    run = operator.ended(2, "plan", operator.file)

    assert run.err.startswith("Error: ListMachines")
    assert run.out == ""


def test_machines_that_change_during_the_read_exit_with_2(operator: Operator) -> None:
    operator.write("[machines]")
    operator.emulator.fail("ListMachines", body={"data": [], "total_count": 3})

    run = operator.ended(2, "plan", operator.file)

    assert "0 machines were read, and there are 3" in run.err


@pytest.mark.parametrize("text", ['{"format_version": 7}', "{}", '{"format_version": 1}', "{nope"])
def test_a_plan_of_another_version_is_rejected(operator: Operator, text: str) -> None:
    path = operator.file.with_suffix(".json")
    path.write_text(text)

    assert "ake a new" in operator.ended(2, "apply", path).err


def test_a_plan_of_another_instance_is_rejected(operator: Operator) -> None:
    path = operator.file.with_suffix(".json")
    operator.write("[machines.orders]")
    operator.ended(1, "plan", operator.file, "--out", path)
    planned = json.loads(path.read_text()) | {"instance": "ins_" + "o" * 27}
    path.write_text(json.dumps(planned))

    run = operator.ended(2, "apply", path)

    assert "The plan is for the instance ins_ooo" in run.err
    assert operator.live() == {}
