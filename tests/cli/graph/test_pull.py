"""`graph pull`: the file that it writes, and what it keeps in an existing file."""

from __future__ import annotations

from typer.testing import CliRunner

from clerk_m2m import ScopeGraph
from clerk_m2m.cli import app
from clerk_m2m.emulator import Emulator

from .conftest import Operator


def test_a_pulled_file_is_sorted_and_readable_by_services_emulator_and_plan(
    operator: Operator,
) -> None:
    stock = operator.emulator.add_machine("stock")
    billing = operator.emulator.add_machine("billing", may_call=[stock])
    orders = operator.emulator.add_machine("orders", may_call=[stock, billing])

    run = operator.ended(0, "pull", "--out", operator.file)

    assert "Machines: 3. Edges: 3." in run.err
    assert operator.file.read_text() == (
        "# Who may call whom. After an edit: clerk-m2m graph plan, then clerk-m2m graph apply.\n\n"
        f'[machines.billing]\nid = "{billing.id}"\nmay_call = [\n    "stock",\n]\n\n'
        f'[machines.orders]\nid = "{orders.id}"\n'
        'may_call = [\n    "billing",\n    "stock",\n]\n\n'
        f'[machines.stock]\nid = "{stock.id}"\nmay_call = []\n'
    )
    assert operator.graph() == ScopeGraph(
        {orders.id: [stock.id, billing.id], billing.id: [stock.id], stock.id: []}
    )
    assert Emulator(seed=operator.file).machine(orders.id).name == "orders"
    assert operator.ended(0, "plan", operator.file).out.startswith("Nothing to change")


def test_pull_changes_only_tables_that_differ(operator: Operator) -> None:
    emulator = operator.emulator
    old, store = emulator.add_machine("old"), emulator.add_machine("store")
    billing, orders = emulator.add_machine("billing"), emulator.add_machine("orders")
    emulator.add_machine("new")
    for callee in ("store", "billing"):
        emulator.allow(orders, {"store": store, "billing": billing}[callee])
    before = f"""# Our graph.

# the shop
[machines.orders]  # team A
id = '{orders.id}'
may_call = [
    "stock",  # for counts
    "old",
]
must_not_call = ["old", "audit"] # never
{{audit}}
# to be removed
[machines.old]
id = "{old.id}"

[machines."stock"]
id = "{store.id}"
default_token_ttl = 60

[machines.billing]

[[api_keys]]
name = "reporting"
subject = "orders"
"""
    before = before.replace('"old", "audit"', f'"{billing.id}"').replace("{audit}\n", "\n")
    emulator.cut(orders, billing)
    emulator.delete_machine(old)
    operator.write(before)

    run = operator.ended(0, "pull", "--out", operator.file)

    assert run.err.splitlines()[0].startswith("[machines.old] is not in the instance")
    assert operator.file.read_text() == before.replace(
        '    "stock",  # for counts\n    "old",\n', '    "store",  # for counts\n'
    ).replace(f'\n# to be removed\n[machines.old]\nid = "{old.id}"\n', "").replace(
        '[machines."stock"]', "[machines.store]"
    ).replace("[machines.billing]\n", f'[machines.billing]\nid = "{billing.id}"\n').replace(
        "# the shop\n",
        f"{new_table(operator)}\n# the shop\n",
    )
    assert "No change in" in operator.ended(0, "pull", "--out", operator.file).err


def new_table(operator: Operator) -> str:
    """The table of the machine `new`, which sorts before `orders`."""
    own = {m["name"]: m["id"] for m in operator.json(0, "pull")["machines"]}["new"]
    return f'[machines.new]\nid = "{own}"\nmay_call = []\n'


def test_a_hostile_name_cannot_change_the_file(operator: Operator) -> None:
    name = 'a"]\n[machines.evil]\n\x1b[2J\\ \N{SNOWMAN}\U0001f600'
    machine = operator.emulator.add_machine(name)
    caller = operator.emulator.add_machine("caller", may_call=[machine])

    run = operator.ended(0, "pull")
    operator.ended(0, "pull", "--out", operator.file)

    assert ScopeGraph.from_toml(run.out) == operator.graph()
    assert operator.graph().callees(caller.id) == {machine.id}
    assert "\x1b" not in run.out
    assert "\x1b" not in operator.ended(0, "check", "caller", machine.id).out


def test_new_tables_have_the_line_endings_of_the_file(operator: Operator) -> None:
    stock = operator.emulator.add_machine("stock")
    operator.emulator.add_machine("billing", may_call=[stock])
    operator.emulator.add_machine("zebra")
    operator.file.write_bytes(b"# ours\r\n[machines.stock]\r\n")

    operator.ended(0, "pull", "--out", operator.file)

    text = operator.file.read_bytes().decode()
    assert text.count("\n") == text.count("\r\n") > 10
    assert "\r\n\r\n\r\n" not in text
    assert text.index("[machines.billing]") < text.index("# ours") < text.index("[machines.zebra]")


def test_a_pulled_file_is_utf_8_whatever_the_locale_is(operator: Operator) -> None:
    operator.emulator.add_machine("gr\u00f6\u00dfe \N{SNOWMAN}")

    done = CliRunner(charset="latin-1").invoke(app, ["graph", "pull"], env=operator.environ)
    operator.ended(0, "pull", "--out", operator.file)

    assert done.exit_code == 0
    assert done.stdout_bytes == operator.file.read_bytes()


def test_two_machines_with_one_name_are_an_error_that_names_both(operator: Operator) -> None:
    twins = [operator.emulator.add_machine("orders").id for _ in range(2)]

    for arguments in (["pull"], ["check", "orders", twins[0]]):
        run = operator.ended(2, *arguments)
        assert f"Two machines are called orders: {twins[0]} and {twins[1]}." in run.err


def test_pull_refuses_an_edge_that_must_not_call_forbids(operator: Operator) -> None:
    stock = operator.emulator.add_machine("stock")
    orders = operator.emulator.add_machine("orders", may_call=[stock])
    text = (
        f'[machines.orders]\nid = "{orders.id}"\nmust_not_call = ["stock"]\n'
        f'[machines.stock]\nid = "{stock.id}"\n'
    )
    operator.write(text)

    run = operator.ended(2, "pull", "--out", operator.file)

    assert "may_call and must_not_call both name" in run.err
    assert operator.file.read_text() == text


def test_a_file_in_an_unknown_form_is_rejected_and_not_changed(operator: Operator) -> None:
    orders = operator.emulator.add_machine("orders")
    operator.emulator.add_machine("stock")
    text = f'[machines]\norders = {{ id = "{orders.id}", may_call = ["{orders.id}"] }}\n'
    operator.write(text)

    run = operator.ended(2, "pull", "--out", operator.file)

    assert "give each machine a table of its own" in run.err
    assert operator.file.read_text() == text
