"""The machines and edges of an instance, read whole, with edges kept as ids."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.backend_api.resources import Machine, Page
from clerk_m2m.cli.program import Advance, CommandError, printable
from clerk_m2m.errors import AnswerTooLargeError, RateLimitedError

T = TypeVar("T")

PAGE_SIZE: Final = 500
# Oldest first: with the newest first, every creation would shift the pages that are still to come.
_ORDER: Final = "+created_at"
_INSTANCE_ID: Final = re.compile(r"ins_[A-Za-z0-9_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine; `may_call` are ids, `token_ttl` is how long its tokens live by default, in s."""

    id: str
    name: str
    may_call: frozenset[str]
    token_ttl: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All machines of an instance by id, the oldest first."""

    instance_id: str
    machines: dict[str, Node]

    @property
    def edges(self) -> int:
        """Give the number of edges."""
        return sum(len(node.may_call) for node in self.machines.values())

    @property
    def longest_token_ttl(self) -> int:
        """Give the longest default lifetime of an M2M token, in seconds."""
        return max((node.token_ttl for node in self.machines.values()), default=0)


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Call; where Clerk's rate limit is reached (429), wait as long as Clerk asks, and call again.

    Clerk has done nothing of a call that it answered with 429.
    """
    while True:
        try:
            return await call()
        except RateLimitedError as exc:
            await asyncio.sleep(1.0 if exc.retry_after is None else exc.retry_after)


async def read_snapshot(clerk: ClerkClient, advance: Advance) -> Snapshot:
    """Read every machine; `advance` is told each page.

    Raises `CommandError` where the pages do not fit together, because machines were created or
    deleted meanwhile.
    """
    with _uncollected():
        return await _read_snapshot(clerk, advance)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector off: it took a third of the time, and a page has no cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


async def _read_snapshot(clerk: ClerkClient, advance: Advance) -> Snapshot:
    nodes: dict[str, Node] = {}
    kept: dict[str, str] = {}  # one text for each id, however many edges name it
    instance_id, offset, limit = "", 0, PAGE_SIZE
    while True:
        try:
            page = await patiently(
                partial(clerk.machines.list, limit=limit, offset=offset, order_by=_ORDER)
            )
        except AnswerTooLargeError:
            if limit == 1:
                raise
            limit = max(1, limit // 4)
            continue
        for machine in page:
            instance_id = machine.instance_id
            nodes[machine.id] = node_of(machine, kept)
        offset += len(page)
        advance(len(page), page.total_count)
        if len(page) < limit or offset >= page.total_count:
            break
    _refuse_gaps(nodes, offset, page)
    return Snapshot(instance_id=instance_id or await instance_id_of(clerk), machines=nodes)


def _refuse_gaps(nodes: dict[str, Node], read: int, last: Page[Machine]) -> None:
    whole = all(callee in nodes for node in nodes.values() for callee in node.may_call)
    if not (whole and len(nodes) == read == last.total_count):
        raise CommandError(
            f"{len(nodes)} machines were read, and there are {last.total_count}: some were created "
            "or deleted meanwhile. Try again."
        )


def node_of(machine: Machine, kept: dict[str, str] | None = None) -> Node:
    """Give what a graph needs of a machine."""
    kept = {} if kept is None else kept
    return Node(
        id=machine.id,
        name=machine.name,
        may_call=frozenset(
            kept.setdefault(callee.id, callee.id) for callee in machine.scoped_machines
        ),
        token_ttl=machine.default_token_ttl,
    )


async def read_named(clerk: ClerkClient, name: str) -> list[Node]:
    """Read the machines of exactly this name; Clerk does not keep names apart."""

    async def read() -> list[Node]:
        machines = clerk.machines.iter(query=name, order_by=_ORDER)
        return [node_of(machine) async for machine in machines if machine.name == name]

    return await patiently(read)


async def instance_id_of(clerk: ClerkClient) -> str:
    """Give the id of an instance that has no machines: the name of its signing key."""
    key_set = await clerk.jwks.get()
    for key in key_set["keys"]:
        kid = key.get("kid") if isinstance(key, dict) else None
        if isinstance(kid, str) and _INSTANCE_ID.fullmatch(kid):
            return kid
    raise CommandError("The instance does not tell its id: it has no machine and no ins_… key.")


def refuse_equal_names(nodes: Iterable[Node]) -> None:
    """Raise `CommandError` for two machines of one name, which a file could not tell apart."""
    seen: dict[str, Node] = {}
    for node in nodes:
        other = seen.setdefault(node.name, node)
        if other is not node:
            raise CommandError(
                f"Two machines are called {printable(node.name)}: {other.id} and {node.id}. "
                "Rename or delete one of them."
            )
