"""An operation of the contract, and the table that finds the operation of a request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from clerk_m2m.emulator.checks import Body, Query, TextRule
from clerk_m2m.emulator.responses import Refusal, Response, method_not_allowed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from clerk_m2m.emulator.instance import CheckedRequest

KeyRule = Literal["instance", "machine", "either", "none"]

# The operations that verify a credential, which Clerk bills for.
VERIFICATIONS = ("verifyM2MToken", "verifyApiKey", "verifyOAuthAccessToken")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation: its address, the keys it accepts, its parameters, and its handler."""

    id: str
    method: str
    path: str
    key: KeyRule
    run: Callable[[CheckedRequest], Response]
    path_rules: Mapping[str, TextRule] = field(default_factory=dict)
    query: Query = field(default_factory=Query)
    body: Body | None = None
    # Machines answer 422 to a value that breaks a rule; tokens and keys list only 400.
    invalid_status: int = 400

    @property
    def writes(self) -> bool:
        """Whether the operation changes the state; a verification only reads it."""
        return self.method != "GET" and self.id not in VERIFICATIONS


class Routes:
    """Finds the operation for a method and a path; a literal path is preferred to a template."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._literal: dict[str, dict[str, Operation]] = {}
        self._templates: dict[tuple[str, ...], dict[str, Operation]] = {}
        for operation in operations:
            if "{" in operation.path:
                methods = self._templates.setdefault(_segments(operation.path), {})
            else:
                methods = self._literal.setdefault(operation.path, {})
            methods[operation.method] = operation

    def find(self, method: str, path: str) -> tuple[Operation, dict[str, str]]:
        """The operation and its path parameters; 404 or 405 in Clerk's shape when there is none."""
        methods, given = self._match(path)
        if method in methods:
            return methods[method], given
        raise method_not_allowed(method, methods)

    def _match(self, path: str) -> tuple[dict[str, Operation], dict[str, str]]:
        if path in self._literal:
            return self._literal[path], {}
        segments = _segments(path)
        for template, methods in self._templates.items():
            given = _fit(template, segments)
            if given is not None:
                return methods, given
        raise Refusal(404, "resource_not_found", "There is no such address in this API")


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path.split("/"))


def _fit(template: tuple[str, ...], segments: tuple[str, ...]) -> dict[str, str] | None:
    if len(template) != len(segments):
        return None
    given = {}
    for expected, found in zip(template, segments, strict=True):
        if expected.startswith("{"):
            if not found:
                return None
            given[expected[1:-1]] = found
        elif expected != found:
            return None
    return given
