"""`graph check`: whether one machine may call another, why, and with which credentials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.cli.graph.file import GraphFile
from clerk_m2m.cli.graph.reading import Node, node_of, patiently, read_named, refuse_equal_names
from clerk_m2m.cli.program import CommandError
from clerk_m2m.errors import NotFoundError
from clerk_m2m.identity import MACHINE_ID

# The answers of a service with and without a graph and the edge (docs/scope-policy.md).
_ADMITTED: Final = "admitted"
_DENIED: Final = "403 scope_denied"
_ONLY_ACCEPTED: Final = "only where `accepts` names it; edges do not count"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One type of credential, and the answer of a service without and with a graph."""

    credential: str
    without_graph: str
    with_graph: str


def ways(*, allowed: bool) -> Sequence[Way]:
    """Return the answers for each type of credential of the caller."""
    decided = _ADMITTED if allowed else _DENIED
    return (
        Way(
            credential="M2M token, opaque",
            without_graph=(
                "admitted, if minted after the edge was created"
                if allowed
                else "refused, unless minted while the edge existed"
            ),
            with_graph="admitted, if minted after the edge was created" if allowed else _DENIED,
        ),
        Way(
            credential="M2M token, JWT",
            without_graph="401 token_type_not_accepted",
            with_graph=decided,
        ),
        Way(
            credential="API key of the machine",
            without_graph=_DENIED,
            with_graph=f"{decided}, where `accepts` names it" if allowed else _DENIED,
        ),
        Way(
            credential="API key of a user or organization, OAuth",
            without_graph=_ONLY_ACCEPTED,
            with_graph=_ONLY_ACCEPTED,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Whether `caller` may call `callee`, and `where` that was read."""

    caller: Node
    callee: Node
    where: str

    @property
    def allowed(self) -> bool:
        """Whether there is an edge."""
        return self.callee.id in self.caller.may_call

    @property
    def sentence(self) -> str:
        """Return the result as a sentence, with the reason."""
        pair = f"{self.caller.name} ({self.caller.id}) -> {self.callee.name} ({self.callee.id})"
        if self.allowed:
            return f"yes: there is an edge {pair} in {self.where}."
        return f"no: there is no edge {pair} in {self.where}."

    def as_json(self) -> dict[str, Any]:
        """Return it as the members of a JSON object."""
        return {
            "allowed": self.allowed,
            "caller": {"id": self.caller.id, "name": self.caller.name},
            "callee": {"id": self.callee.id, "name": self.callee.name},
            "graph": self.where,
            "credentials": [
                {
                    "credential": way.credential,
                    "without_graph": way.without_graph,
                    "with_graph": way.with_graph,
                }
                for way in ways(allowed=self.allowed)
            ],
        }


async def find_machine(clerk: ClerkClient, name_or_id: str) -> Node:
    """Read one machine; raises `CommandError` if there is none, or two with the name."""
    if MACHINE_ID.fullmatch(name_or_id):
        try:
            return node_of(await patiently(lambda: clerk.machines.get(name_or_id)))
        except NotFoundError:
            raise _unknown(name_or_id, "The instance") from None
    found = await read_named(clerk, name_or_id)
    refuse_equal_names(found)
    if not found:
        raise _unknown(name_or_id, "The instance")
    return found[0]


def find_in_file(file: GraphFile, name_or_id: str) -> Node:
    """Return one machine of a file; raises `CommandError` if none has the name or id."""
    for table in file.machines:
        if name_or_id in (table.name, table.id):
            return Node(id=table.key, name=table.name, may_call=table.may_call, token_ttl=0)
    if MACHINE_ID.fullmatch(name_or_id) and any(
        name_or_id in table.may_call | table.must_not_call for table in file.machines
    ):
        return Node(id=name_or_id, name=name_or_id, may_call=frozenset(), token_ttl=0)
    raise _unknown(name_or_id, str(file.path))


def _unknown(name_or_id: str, where: str) -> CommandError:
    return CommandError(f"{where} has no machine {name_or_id}.")
