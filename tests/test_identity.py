"""Identities: typed, without secrets, and read-only at every depth."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from clerk_m2m import ApiKeyIdentity, MachineIdentity, OAuthIdentity, TokenType
from clerk_m2m.identity import FrozenMapping, freeze

MACHINE, USER, ORG = "mch_" + "m" * 27, "user_" + "u" * 27, "org_" + "o" * 27


def machine(**given: Any) -> MachineIdentity:
    return MachineIdentity(token_id="mt_1", token_format="opaque", subject=MACHINE, **given)


def api_key(subject: str) -> ApiKeyIdentity:
    return ApiKeyIdentity(token_id="ak_1", name="reports", subject=subject)


def test_a_machine_identity_has_its_id_and_the_defaults() -> None:
    identity = machine(scopes=frozenset({MACHINE}), expires_at=1_800_000_000.0)

    assert identity.machine_id == identity.subject == MACHINE
    assert identity.token_type is TokenType.M2M_TOKEN
    assert str(identity.token_type) == "m2m_token"
    assert identity.claims == {}
    assert not identity.stale


def test_an_api_key_belongs_to_a_user_an_organization_or_a_machine() -> None:
    keys = [api_key(subject) for subject in (USER, ORG, MACHINE)]

    assert [(key.user_id, key.org_id, key.machine_id) for key in keys] == [
        (USER, None, None),
        (None, ORG, None),
        (None, None, MACHINE),
    ]
    assert {key.token_type for key in keys} == {TokenType.API_KEY}


def test_an_oauth_identity_has_its_user_and_its_client() -> None:
    identity = OAuthIdentity(token_id="oat_1", client_id="client_1", subject=USER)

    assert (identity.user_id, identity.client_id) == (USER, "client_1")
    assert identity.token_type is TokenType.OAUTH_TOKEN


@pytest.mark.parametrize("name", ["subject", "scopes", "claims", "stale", "token_type", "other"])
def test_no_attribute_of_an_identity_can_be_set(name: str) -> None:
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
        setattr(machine(), name, "mch_other")


def test_claims_are_read_only_at_every_depth() -> None:
    claims = freeze({"tenant": "acme", "roles": [{"name": "admin", "of": ["a"]}]})
    identity = machine(claims=claims)

    assert identity.claims["roles"][0]["of"] == ("a",)
    for holder, change in (
        (identity.claims, "update"),
        (identity.claims, "__setitem__"),
        (identity.claims["roles"], "append"),
        (identity.claims["roles"][0], "pop"),
        (identity.claims["roles"][0]["of"], "clear"),
    ):
        assert not hasattr(holder, change)


def test_the_empty_claims_that_identities_share_are_immutable() -> None:
    first, second = machine().claims, machine().claims

    assert first is second
    assert isinstance(first, FrozenMapping)


def test_an_identity_is_hashable_and_prints_no_claims() -> None:
    identity = machine(claims=freeze({"note": ["private"]}))

    assert identity in {identity}
    assert "private" not in repr(identity)


@pytest.mark.parametrize("value", [None, True, 7, 1.5, "text", [], {}, [[], {}], {"a": [None]}])
def test_freezing_keeps_every_value(value: Any) -> None:
    assert thaw(freeze(value)) == value


def test_claims_nested_deeper_than_the_recursion_limit_are_frozen() -> None:
    depth = 20_000
    nested: Any = []
    for _ in range(depth):
        nested = [{"a": nested}]
    frozen = freeze(nested)
    for _ in range(depth):
        frozen = frozen[0]["a"]

    assert frozen == ()


def test_freezing_copies_its_source() -> None:
    given = {"roles": ["reader"]}
    frozen = freeze(given)
    given["roles"].append("admin")

    assert frozen == {"roles": ("reader",)}


def thaw(value: Any) -> Any:
    return json.loads(json.dumps(value, default=dict))


def test_an_identity_as_a_dict_is_plain_json_with_its_type() -> None:
    identity = machine(
        scopes=frozenset({"mch_b", "mch_a"}),
        claims=freeze({"roles": [{"of": ["a"]}]}),
        expires_at=1_800_000_000.5,
    )

    given = identity.as_dict()
    assert (
        given
        == json.loads(json.dumps(given))
        == {
            "token_type": "m2m_token",
            "token_id": "mt_1",
            "subject": MACHINE,
            "scopes": ["mch_a", "mch_b"],
            "claims": {"roles": [{"of": ["a"]}]},
            "expires_at": 1_800_000_000.5,
            "stale": False,
            "token_format": "opaque",
        }
    )
    given["claims"]["roles"].clear()
    assert identity.claims["roles"]


def test_an_identity_as_a_dict_has_the_actor_and_the_audience_as_json() -> None:
    identity = OAuthIdentity(
        token_id="oat_1", client_id="c", subject=USER, audience=("a",), actor=freeze({"sub": "x"})
    )

    assert identity.as_dict() | {"audience": ["a"], "actor": {"sub": "x"}} == identity.as_dict()
    assert api_key(ORG).as_dict()["name"] == "reports"


def test_an_identity_is_copied_and_pickled_whole() -> None:
    identity = machine(claims=freeze({"roles": ["a"]}))

    assert copy.deepcopy(identity) == identity == pickle.loads(pickle.dumps(identity))
    assert pickle.loads(pickle.dumps(identity)).claims == {"roles": ("a",)}


def test_claims_nested_deeper_than_the_recursion_limit_become_a_dict() -> None:
    nested: Any = {}
    for _ in range(20_000):
        nested = {"a": nested}
    given = machine(claims=freeze(nested)).as_dict()["claims"]
    for _ in range(20_000):
        given = given["a"]

    assert given == {}
