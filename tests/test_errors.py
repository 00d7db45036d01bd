"""The exception tree: what may be caught, and what every class means."""

from __future__ import annotations

import inspect
import re

import pytest

from clerk_m2m import Decision, Reason, errors
from clerk_m2m.errors import (
    BackendAPIError,
    ClerkM2MError,
    ConfigurationError,
    MiddlewareMissingError,
    PermissionDeniedError,
    RateLimitedError,
    RefusalError,
    ScopeDeniedError,
    TokenInvalidError,
    TokenUnavailableError,
    VerificationUnavailableError,
    VerifierMisconfiguredError,
)

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, ClerkM2MError)
]
DECISION = Decision(caller="mch_" + "a" * 27, callee="mch_" + "c" * 27, reason=Reason.EDGE_MISSING)


def drawn_tree() -> dict[str, str]:
    """Return the parent of each class, as drawn in the module's docstring."""
    path: list[str] = []
    tree = {}
    for line in (errors.__doc__ or "").splitlines():
        name = re.search(r"\w+Error", line)
        if name and re.fullmatch(r"[ │├└─]*", line[: name.start()]):
            depth = (name.start() - 4) // 4
            path[depth:] = [name[0]]
            tree[name[0]] = path[depth - 1] if depth else "Exception"
    return tree


def test_the_tree_is_the_one_that_is_drawn_in_the_docstring() -> None:
    assert drawn_tree() == {each.__name__: each.__bases__[0].__name__ for each in CLASSES}


@pytest.mark.parametrize("each", CLASSES)
def test_every_class_has_a_code_a_status_and_a_docstring(
    each: type[ClerkM2MError],
) -> None:
    assert re.fullmatch(r"[a-z_]+", each.code)
    assert 400 <= each.status <= 599
    assert each.__doc__


def test_no_two_classes_that_are_raised_share_a_code() -> None:
    raised = [each for each in CLASSES if each not in (ClerkM2MError, RefusalError)]

    assert len({each.code for each in raised}) == len(raised)


def test_a_refusal_has_a_default_detail_or_the_given_one() -> None:
    assert str(TokenInvalidError()) == "The credential is unknown, expired or revoked."
    assert TokenInvalidError("The JWT has expired.").detail == "The JWT has expired."


def test_a_scope_refusal_keeps_the_decision() -> None:
    refusal = ScopeDeniedError(DECISION)

    assert refusal.decision is DECISION
    assert refusal.detail == str(DECISION)


def test_a_permission_refusal_keeps_the_order_of_its_scopes() -> None:
    refusal = PermissionDeniedError("Not that one.", required_scopes=["write", "read"])

    assert refusal.required_scopes == ("write", "read")


def test_required_scopes_in_one_string_are_rejected() -> None:
    with pytest.raises(ConfigurationError, match="required_scopes must be a list") as refused:
        PermissionDeniedError("Not that one.", required_scopes="write")

    assert refused.value.code == "configuration_invalid"


def test_503_errors_have_their_default_or_given_retry_after() -> None:
    assert VerificationUnavailableError().retry_after == 1.0
    assert VerificationUnavailableError(retry_after=7).retry_after == 7
    assert VerifierMisconfiguredError().retry_after == 30.0
    assert TokenUnavailableError("No token.").retry_after is None


def test_a_backend_error_has_the_details_of_clerks_answer() -> None:
    error = RateLimitedError("Slow down.", clerk_trace_id="trace_1", retry_after=3.0)

    assert (error.status, error.code) == (429, "rate_limited")
    assert (error.errors, error.clerk_trace_id, error.retry_after) == ((), "trace_1", 3.0)
    assert BackendAPIError("Odd.", status=418).status == 418


def test_configuration_error_is_a_value_error_and_middleware_missing_a_runtime_error() -> None:
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(MiddlewareMissingError, RuntimeError)
    assert not issubclass(MiddlewareMissingError, RefusalError)
