"""`graph check` and `graph test`: answers about a graph, and errors."""

from __future__ import annotations

import pytest

from clerk_m2m.emulator import EmulatedMachine

from .conftest import Operator


@pytest.fixture
def machines(operator: Operator) -> tuple[EmulatedMachine, EmulatedMachine]:
    """`orders`, which may call `stock`."""
    stock = operator.emulator.add_machine("stock")
    operator.emulator.add_machine("stock two")  # its name contains the other name
    return operator.emulator.add_machine("orders", may_call=[stock]), stock


def test_an_edge_exits_with_0_and_lists_the_accepted_credentials(
    operator: Operator, machines: tuple[EmulatedMachine, EmulatedMachine]
) -> None:
    orders, stock = machines

    run = operator.ended(0, "check", "orders", stock.id)
    document = operator.json(0, "check", orders.id, "stock")

    assert run.out.startswith(f"yes: there is an edge orders ({orders.id}) -> stock ({stock.id})")
    assert "(3600 s by default)" in run.out
    rows = [list(row.values()) for row in document["credentials"]]
    assert rows[1] == ["M2M token, JWT", "401 token_type_not_accepted", "admitted"]
    assert rows[2][1:] == ["403 scope_denied", "admitted, where `accepts` names it"]


def test_a_missing_edge_exits_with_1(
    operator: Operator, machines: tuple[EmulatedMachine, EmulatedMachine]
) -> None:
    document = operator.json(1, "check", "stock", "orders")

    assert operator.ended(1, "check", "stock", "orders").out.startswith("no: there is no edge")
    assert document["allowed"] is False
    assert {row["with_graph"] for row in document["credentials"][:3]} == {"403 scope_denied"}


def test_a_typo_or_an_outage_exits_with_2(
    operator: Operator, machines: tuple[EmulatedMachine, EmulatedMachine]
) -> None:
    assert "no machine ordres" in operator.ended(2, "check", "ordres", "stock").err
    assert "no machine mch_" in operator.ended(2, "check", "orders", "mch_" + "u" * 27).err
    assert "CLERK_SECRET_KEY" in operator.ended(2, "check", "a", "b", CLERK_SECRET_KEY="").err
    operator.emulator.fail("ListMachines", status=500)
    assert "answered 500" in operator.ended(2, "check", "orders", "stock").err


def test_check_with_a_file_needs_no_instance(operator: Operator) -> None:
    operator.write('[machines.orders]\nmay_call = ["stock"]\n[machines.stock]\n')
    no_key = {"CLERK_SECRET_KEY": ""}

    operator.ended(0, "check", "orders", "stock", "--file", operator.file, **no_key)
    operator.ended(1, "check", "stock", "orders", "--file", operator.file, **no_key)
    assert (
        "graph.toml has no machine audit"
        in operator.ended(2, "check", "audit", "orders", "--file", operator.file, **no_key).err
    )


def test_each_assertion_is_reported(
    operator: Operator, machines: tuple[EmulatedMachine, EmulatedMachine]
) -> None:
    orders, stock = machines
    operator.write(
        f'[machines.orders]\nid = "{orders.id}"\nmay_call = ["stock"]\n'
        f'[machines.stock]\nmust_not_call = ["orders"]\n'
    )
    operator.ended(0, "test", operator.file)
    operator.emulator.cut(orders, stock)
    operator.emulator.allow(stock, orders)

    run = operator.ended(1, "test", operator.file)
    document = operator.json(1, "test", operator.file)

    assert run.out.splitlines()[:2] == [
        "FAILED orders may call stock: there is no edge",
        "FAILED stock must not call orders: there is an edge",
    ]
    assert (document["checked"], len(document["failed"])) == (2, 2)


def test_an_assertion_about_an_unknown_machine_exits_with_2(operator: Operator) -> None:
    operator.emulator.add_machine("orders")
    operator.write(f'[machines.orders]\nmust_not_call = ["mch_{"u" * 27}"]\n')

    assert "is not in the instance ins_" in operator.ended(2, "test", operator.file).err


def test_assertions_of_one_file_are_checked_against_another(operator: Operator) -> None:
    policy = operator.file.with_name("policy.toml")
    policy.write_text('[machines.a]\nmust_not_call = ["b"]\n[machines.b]\n')
    operator.write('[machines.a]\nmay_call = ["b"]\n[machines.b]\n')

    run = operator.ended(1, "test", policy, "--file", operator.file, CLERK_SECRET_KEY="")

    assert run.out.splitlines()[0] == "FAILED a must not call b: there is an edge"


@pytest.mark.parametrize("command", ["pull", "plan", "apply", "check", "test"])
def test_the_help_of_a_command_has_an_example(operator: Operator, command: str) -> None:
    assert f"Example: clerk-m2m graph {command}" in operator.ended(0, command, "--help").out
