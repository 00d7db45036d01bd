"""Properties for every input: only documented errors, in bounded time, and no access."""

from __future__ import annotations

import json
import math
import re
import string
import time
from collections.abc import Callable
from typing import Any

import pytest
from forging import b64
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sent_credentials import classify

from clerk_m2m import (
    BackendUnavailableError,
    ConfigurationError,
    Decision,
    MachineIdentity,
    PermissionDeniedError,
    Reason,
    ScopeGraph,
    TokenInvalidError,
    TokenMalformedError,
    TokenTypeNotAcceptedError,
)
from clerk_m2m.asgi.refusals import answer, challenge
from clerk_m2m.backend_api import parsing as wire
from clerk_m2m.backend_api.problems import read_problem
from clerk_m2m.credentials import extract, load_object, split_jwt
from clerk_m2m.identity import MACHINE_ID, TokenClass, freeze
from clerk_m2m.verification.policy import decide
from clerk_m2m.verification.signature import check_times, key_id, read_claims, usable_keys

same_each_time = settings(derandomize=True, database=None, max_examples=60)

TOKEN68 = re.compile(rb"[A-Za-z0-9\-._~+/]+=*")
WORD = string.ascii_letters + string.digits + "_"

raw_values = st.binary(max_size=60) | st.builds(
    b"".join,
    st.lists(
        st.sampled_from(
            [b"Bearer", b"bearer", b"Basic", b" ", b"\t", b",", b"=", b"mt_1", b"ak_2", b"\x00"]
        )
        | st.binary(max_size=4),
        max_size=8,
    ),
)
headers = st.lists(
    st.tuples(st.sampled_from([b"authorization", b"x-api-key", b"host"]), raw_values), max_size=4
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
machine_ids = st.text(WORD, min_size=27, max_size=27).map("mch_{}".format)


def within_a_second(what: Callable[[], object]) -> None:
    """Fail if a call takes a second; it takes far less unless its time grows out of bounds."""
    began = time.perf_counter()
    what()
    assert time.perf_counter() - began < 1.0


# Credentials


@same_each_time
@given(headers, st.sampled_from([None, b"x-api-key"]))
def test_extraction_returns_one_well_formed_credential_or_none_or_refuses(
    fields: list[tuple[bytes, bytes]], api_key_header: bytes | None
) -> None:
    read = [value for name, value in fields if name in (b"authorization", api_key_header)]
    try:
        token = extract(fields, api_key_header=api_key_header)
    except (TokenMalformedError, TokenTypeNotAcceptedError):
        assert read
        return
    if token is None:
        assert not any(re.search(rb"(?i)^bearer ", value) for value in read)
        return
    assert TOKEN68.fullmatch(token.encode())
    assert any(token.encode() in value for value in read)


@same_each_time
@given(st.from_regex(TOKEN68, fullmatch=True), raw_values, st.booleans())
def test_a_second_authorization_header_is_always_refused(
    token: bytes, other: bytes, first: bool
) -> None:
    fields = [(b"authorization", b"Bearer " + token), (b"authorization", other)]
    with pytest.raises(TokenMalformedError) as refused:
        extract(fields if first else fields[::-1])

    assert refused.value.code == "token_malformed"


@same_each_time
@given(st.text() | st.text(WORD + ".-~+/=", max_size=80))
@example("mt_" + "x" * 100_000)
@example("." * 100_000)
@example("a." * 50_000)
@example("e30." + "W1tb" * 20_000 + ".QUJD")
def test_every_text_is_classified_within_a_second(token: str) -> None:
    within_a_second(lambda: classify(token))

    if classify(token) in (TokenClass.M2M_OPAQUE, TokenClass.API_KEY, TokenClass.OAUTH_OPAQUE):
        assert re.fullmatch(r"(mt|oat)_[A-Za-z0-9_-]+|ak_[A-Za-z0-9._~+/-]+=*", token)


@same_each_time
@given(
    st.dictionaries(st.sampled_from(["cat", "typ", "alg", "kid", "crit"]), json_values),
    st.dictionaries(st.sampled_from(["sub", "exp", "nbf", "iat", "jti", "aud"]), json_values),
)
def test_an_unsigned_jwt_is_classified_and_checked_without_a_crash(
    header: dict[str, Any], claims: dict[str, Any]
) -> None:
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), b"signature")
    token = ".".join(map(b64, parts))

    if classify(token) is TokenClass.M2M_JWT:
        assert MACHINE_ID.fullmatch(claims["sub"])
    try:
        jwt = split_jwt(token)
        key_id(jwt)
        checked = read_claims(load_object(jwt.payload))
        check_times(checked, 1_800_000_000.0, lambda: "this clock")
    except TokenInvalidError:
        return
    assert math.isfinite(checked.expires_at)
    assert checked.expires_at > 1_800_000_000.0 - 6


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", ["1" + "0" * 400, "-1" + "0" * 400, "1e400", "-1e400", "1e308"])
def test_an_instant_of_extreme_size_is_refused(name: str, value: str) -> None:
    claims: dict[str, object] = {"exp": 1, "iat": 1, "nbf": 1, "sub": "mch_1", "jti": "mt_1"}
    rest = {key: item for key, item in claims.items() if key != name}
    payload = json.dumps(rest)[:-1] + f', "{name}": {value}}}'
    jwt = split_jwt(f"{b64(b'{}')}.{b64(payload.encode())}.{b64(b'x')}")
    with pytest.raises(TokenInvalidError) as refused:
        check_times(read_claims(load_object(jwt.payload)), 1_800_000_000.0, lambda: "this clock")

    assert refused.value.code == "token_invalid"


@same_each_time
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_a_json_object_is_parsed_or_refused(text: bytes) -> None:
    try:
        value = load_object(text)
    except TokenInvalidError:
        return
    assert value == json.loads(text)


@same_each_time
@given(json_values | st.dictionaries(st.just("keys"), json_values))
def test_a_key_set_of_any_shape_is_parsed_within_a_second(jwks: Any) -> None:
    if isinstance(jwks, dict):
        within_a_second(lambda: usable_keys(jwks))


# Claims


@same_each_time
@given(json_values)
def test_a_frozen_value_has_the_same_json(
    value: Any,
) -> None:
    assert json.dumps(freeze(value), default=dict) == json.dumps(value)


# The graph

graphs = st.dictionaries(machine_ids, st.lists(machine_ids, max_size=4), max_size=5)


@same_each_time
@given(graphs, machine_ids, machine_ids)
def test_a_graph_has_exactly_the_given_edges(
    edges: dict[str, list[str]], caller: str, callee: str
) -> None:
    graph = ScopeGraph(edges)
    pairs = {(one, other) for one, others in edges.items() for other in others}

    assert graph.decide(caller, callee).allowed == ((caller, callee) in pairs)
    for one, other in pairs:
        assert graph.decide(one, other).allowed
        assert graph.decide(other, one).allowed == ((other, one) in pairs)


@same_each_time
@given(graphs)
def test_a_graph_written_as_toml_is_read_as_the_same_graph(edges: dict[str, list[str]]) -> None:
    tables = [
        f"[machines.m{number}]\nid = {json.dumps(caller)}\nmay_call = {json.dumps(callees)}\n"
        for number, (caller, callees) in enumerate(edges.items())
    ]

    assert ScopeGraph.from_toml("\n".join(["[machines]", *tables])) == ScopeGraph(edges)


@same_each_time
@given(
    st.text(max_size=200)
    | st.lists(
        st.sampled_from(
            ["[machines.a]", "[machines]", "id =", '"mch_1"', "may_call", "= [", "]", "\n", "a = 1"]
        ),
        max_size=12,
    ).map(" ".join)
)
def test_any_other_text_is_parsed_or_raises_configuration_error(text: str) -> None:
    try:
        graph = ScopeGraph.from_toml(text)
    except ConfigurationError:
        return
    assert graph == ScopeGraph.from_toml(text)


@same_each_time
@given(st.dictionaries(st.text(max_size=33) | machine_ids, json_values))
def test_any_mapping_is_a_graph_or_raises_configuration_error(edges: dict[str, Any]) -> None:
    try:
        ScopeGraph(edges)
    except ConfigurationError:
        return
    assert all(MACHINE_ID.fullmatch(caller) for caller in edges)


# The policy

identities = st.builds(
    MachineIdentity,
    token_id=st.just("mt_1"),
    token_format=st.sampled_from(["opaque", "jwt"]),
    subject=st.sampled_from(["mch_" + "a" * 27, "mch_" + "b" * 27]),
    scopes=st.frozensets(st.sampled_from(["mch_" + "c" * 27, "mch_" + "d" * 27])),
    claims=st.dictionaries(st.sampled_from(["aud", "scopes"]), st.just(("mch_" + "c" * 27,))),
)


@same_each_time
@given(identities, st.none() | st.booleans())
def test_an_opaque_token_needs_its_scope_and_a_jwt_needs_an_edge(
    identity: MachineIdentity, edge: bool | None
) -> None:
    callee = "mch_" + "c" * 27
    if decide(identity, callee, edge) is not Reason.ALLOWED:
        return
    if identity.token_format == "opaque":
        assert callee in identity.scopes
        assert edge in (None, True)
    else:
        assert edge is True


@same_each_time
@given(machine_ids, machine_ids, st.frozensets(machine_ids, max_size=3))
def test_a_decision_is_allowed_exactly_when_there_is_an_edge(
    caller: str, callee: str, callees: frozenset[str]
) -> None:
    decision = ScopeGraph({caller: callees}).decide(caller, callee)

    assert decision == Decision(caller=caller, callee=callee, reason=decision.reason)
    assert decision.allowed == (callee in callees)


# Answers of Clerk's

READERS: list[Callable[[Any], object]] = [
    wire.read_m2m_token,
    wire.read_created_m2m_token,
    wire.read_api_key,
    wire.read_created_api_key,
    wire.read_oauth_access_token,
    wire.read_machine,
    wire.read_created_machine,
    wire.read_secret,
    wire.read_scope,
    wire.read_deleted,
    wire.read_jwks,
]
WHOLE = {
    "id": "mt_" + "0" * 32,
    "subject": "mch_" + "a" * 27,
    "scopes": ["mch_" + "c" * 27],
    "claims": {"a": [1]},
    "revoked": False,
    "revocation_reason": None,
    "expired": False,
    "expiration": 1_800_000_000_000,
    "created_at": 1_800_000_000_000,
    "updated_at": 1_800_000_000_000,
}


@same_each_time
@given(json_values | st.dictionaries(st.sampled_from(sorted(WHOLE)), json_values))
def test_an_answer_of_any_shape_is_parsed_or_raises_backend_unavailable(value: Any) -> None:
    for read in READERS:
        try:
            read(value)
        except BackendUnavailableError:
            continue
        assert isinstance(value, dict), read


@same_each_time
@given(st.sampled_from(sorted(WHOLE)), json_values)
def test_an_answer_with_one_changed_member_never_grants_more(name: str, value: Any) -> None:
    try:
        token = wire.read_m2m_token({**WHOLE, name: value})
    except BackendUnavailableError:
        return
    assert MACHINE_ID.fullmatch(token.subject)
    assert set(token.scopes) <= {"mch_" + "c" * 27} or name == "scopes"
    assert token.live == ((name, value) not in (("revoked", True), ("expired", True)))


@same_each_time
@given(json_values | st.dictionaries(st.sampled_from(["errors", "clerk_trace_id"]), json_values))
def test_an_error_answer_of_any_shape_is_parsed_or_ignored(value: Any) -> None:
    problem = read_problem(value)

    assert problem is None or all(isinstance(each.message, str) for each in problem.errors)


# Answers of ours


@same_each_time
@given(st.text(max_size=60), st.lists(st.from_regex(r"[\x21\x23-\x5b\x5d-\x7e]+", fullmatch=True)))
def test_a_refusal_with_any_text_is_one_well_formed_answer(detail: str, scopes: list[str]) -> None:
    refusal = PermissionDeniedError(detail, required_scopes=scopes)
    response = answer(refusal)

    assert json.loads(bytes(response.body))["code"] == "permission_denied"
    assert challenge(refusal).isascii()
    assert challenge(refusal).isprintable()
