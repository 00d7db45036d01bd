"""The graph as a value, read from a mapping or from TOML, and its decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clerk_m2m import ConfigurationError, Decision, Reason, ScopeGraph
from clerk_m2m.observe.counters import Stats

ORDERS, BILLING, AUDIT = ("mch_" + letter * 27 for letter in "oba")


def test_an_edge_allows_only_its_caller_to_call_its_callee() -> None:
    graph = ScopeGraph({ORDERS: [BILLING]})

    assert graph.callees(ORDERS) == {BILLING}
    assert graph.decide(ORDERS, BILLING).allowed
    assert not graph.decide(BILLING, ORDERS).allowed
    assert not graph.decide(ORDERS, ORDERS).allowed
    assert not graph.decide(AUDIT, BILLING).allowed


def test_a_machine_may_call_itself_only_with_an_edge_to_itself() -> None:
    assert ScopeGraph({ORDERS: [ORDERS]}).decide(ORDERS, ORDERS).allowed


def test_a_decision_says_why_and_names_the_edge_that_was_missing() -> None:
    refused = ScopeGraph({}).decide(ORDERS, BILLING)

    assert refused == Decision(caller=ORDERS, callee=BILLING, reason=Reason.EDGE_MISSING)
    assert refused.missing_edge == (ORDERS, BILLING)
    assert str(refused) == (f"{ORDERS} may not call {BILLING}: the scope graph has no such edge.")


def test_an_allowed_decision_has_no_missing_edge() -> None:
    allowed = ScopeGraph({ORDERS: [BILLING]}).decide(ORDERS, BILLING)

    assert allowed.missing_edge is None
    assert str(allowed) == f"{ORDERS} may call {BILLING}."


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_sentence_with_both_machines(reason: Reason) -> None:
    decision = Decision(caller=ORDERS, callee=BILLING, reason=reason)

    assert ORDERS in str(decision)
    assert BILLING in str(decision)
    assert decision.allowed is (reason is Reason.ALLOWED)


def test_changing_the_mapping_does_not_change_the_graph() -> None:
    callees = [BILLING]
    edges = {ORDERS: callees}
    graph = ScopeGraph(edges)
    callees.append(AUDIT)
    edges[AUDIT] = [BILLING]

    assert graph == ScopeGraph({ORDERS: [BILLING]})
    assert hash(graph) == hash(ScopeGraph({ORDERS: (BILLING, BILLING)}))
    assert graph != ScopeGraph({})
    assert graph != {ORDERS: [BILLING]}
    assert repr(graph) == "<ScopeGraph: 1 callers, 1 edges>"


@pytest.mark.parametrize(
    ("edges", "said"),
    [
        ({"orders": [BILLING]}, "'orders' in the scope graph is not a machine id"),
        ({ORDERS: ["billing"]}, "'billing' in the scope graph is not a machine id"),
        ({ORDERS: [BILLING + "\n"]}, "is not a machine id"),
        ({ORDERS: [7]}, "7 in the scope graph is not a machine id"),
        ({None: [BILLING]}, "None in the scope graph is not a machine id"),
        ({ORDERS: BILLING}, f"callees of {ORDERS} must be a list"),
        ({ORDERS: 7}, f"callees of {ORDERS} must be a list"),
    ],
)
def test_a_graph_with_other_values_than_machine_ids_is_rejected(edges: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        ScopeGraph(edges)

    assert refused.value.code == "configuration_invalid"


def test_a_graph_is_read_from_toml() -> None:
    graph = ScopeGraph.from_toml(
        f"""
        [machines.orders]
        id = "{ORDERS}"
        default_token_ttl = 600
        may_call = ["billing", "{AUDIT}"]

        [machines.billing]
        id = "{BILLING}"
        must_not_call = ["orders"]

        [[api_keys]]
        name = "for the emulator only"
        """
    )

    assert graph == ScopeGraph({ORDERS: [BILLING, AUDIT], BILLING: []})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[machines", "not valid TOML"),
        ("\ufeff[machines.orders]", "byte order mark"),
        ("a = " + "9" * 5000, "not valid TOML"),
        ("a = " + "[" * 100_000, "not valid TOML"),
        ("", r"has no \[machines.NAME\] table"),
        ("machines = 7", r"has no \[machines.NAME\] table"),
        ("[machines.orders]", r"\[machines.orders\] has no id.* clerk-m2m graph apply FILE"),
        ("machines.orders = 7", r"\[machines.orders\] must be a table"),
        (
            f'[machines.{ORDERS}]\nid = "{BILLING}"',
            "has the id of another machine as its name",
        ),
        (
            f'[machines.orders]\nid = "{ORDERS}"\nmay_call = ["{BILLING}"]\n'
            f'must_not_call = ["billing"]\n[machines.billing]\nid = "{BILLING}"',
            rf"\[machines.orders\] may_call and must_not_call both name {BILLING}",
        ),
        ('[machines.orders]\nmust_not_call = ["nobody"]', "must_not_call names 'nobody'"),
        ('[machines.orders]\nid = "orders"', "'orders' in the scope graph is not a machine id"),
        ("[machines.orders]\nid = 7", "7 in the scope graph is not a machine id"),
        (
            f'[machines.a]\nid = "{ORDERS}"\n[machines.b]\nid = "{ORDERS}"',
            "Two machines of the scope graph have the same id",
        ),
        (
            f'[machines.orders]\nid = "{ORDERS}"\nmay_call = "billing"',
            r"\[machines.orders\] may_call must be a list",
        ),
        (
            f'[machines.orders]\nid = "{ORDERS}"\nmay_call = ["nobody"]',
            r"\[machines.orders\] may_call names 'nobody'",
        ),
        (
            f'[machines.orders]\nid = "{ORDERS}"\nmay_call = [7]',
            r"\[machines.orders\] may_call names 7",
        ),
    ],
)
def test_an_invalid_toml_file_raises_an_error_that_names_the_entry(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        ScopeGraph.from_toml(text)

    assert refused.value.code == "configuration_invalid"


@pytest.mark.parametrize("given", ["graphs/system.toml", Path("graph.toml"), b"[machines]"])
def test_from_toml_with_a_path_raises_an_error_that_names_the_alternatives(given: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"not the path.*Settings\(graph=path\)"
    ) as refused:
        ScopeGraph.from_toml(given)

    assert refused.value.code == "configuration_invalid"


def test_machines_are_the_callers_and_callees_of_edges() -> None:
    assert ScopeGraph({ORDERS: [BILLING], AUDIT: []}).machines == {ORDERS, BILLING}
    assert ScopeGraph({}).machines == frozenset()


def test_counters_can_be_read_by_name() -> None:
    counters = Stats(paid=2)

    assert counters.as_dict() == {
        "hits": 0,
        "sent": 0,
        "paid": 2,
        "shared": 0,
        "offline": 0,
        "refreshes": 0,
        "stale": 0,
        "unavailable": 0,
        "refused_hits": 0,
    }


def test_a_misspelt_key_of_a_machine_is_an_error() -> None:
    text = f'[machines.orders]\nid = "mch_{"o" * 27}"\nmay_cal = []\n'

    with pytest.raises(ConfigurationError, match="unknown key 'may_cal'"):
        ScopeGraph.from_toml(text)
