"""Reads all machines and edges of an instance; edges hold ids."""

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
# Oldest first: with the newest first, each creation would move items on the pages not read yet.
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
        """Return the number of edges."""
        return sum(len(node.may_call) for node in self.machines.values())

    @property
    def longest_token_ttl(self) -> int:
        """Return the longest default lifetime of an M2M token, in seconds."""
        return max((node.token_ttl for node in self.machines.values()), default=0)


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Make a call. After a 429, wait for as long as Clerk asks and make it again.

    That is safe for every call: if Clerk answers 429, it has not carried out the call.
    """
    while True:
        try:
            return await call()
        except RateLimitedError as exc:
            await asyncio.sleep(1.0 if exc.retry_after is None else exc.retry_after)


async def read_snapshot(clerk: ClerkClient, advance: Advance) -> Snapshot:
    """Read every machine; `advance` is called for each page.

    Raises `CommandError` if the pages are inconsistent, because machines were created or deleted
    during the reading.
    """
    with _uncollected():
        return await _read_snapshot(clerk, advance)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Turn off the garbage collector: it took a third of the time, and a page has no cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


async def _read_snapshot(clerk: ClerkClient, advance: Advance) -> Snapshot:
    nodes: dict[str, Node] = {}
    kept: dict[str, str] = {}  # one string object per id, because many edges may name it
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
            "or deleted during the reading. Try again."
        )


def node_of(machine: Machine, kept: dict[str, str] | None = None) -> Node:
    """Return the data of a machine that a graph needs."""
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
    """Read the machines with exactly this name; at Clerk, names need not be unique."""

    async def read() -> list[Node]:
        machines = clerk.machines.iter(query=name, order_by=_ORDER)
        return [node_of(machine) async for machine in machines if machine.name == name]

    return await patiently(read)


async def instance_id_of(clerk: ClerkClient) -> str:
    """Return the id of an instance that has no machines: the name of its signing key."""
    key_set = await clerk.jwks.get()
    for key in key_set["keys"]:
        kid = key.get("kid") if isinstance(key, dict) else None
        if isinstance(kid, str) and _INSTANCE_ID.fullmatch(kid):
            return kid
    raise CommandError("The id of the instance is unknown: it has no machine and no ins_… key.")


def refuse_equal_names(nodes: Iterable[Node]) -> None:
    """Raise `CommandError` for two machines with one name: in a file, names must be unique."""
    seen: dict[str, Node] = {}
    for node in nodes:
        other = seen.setdefault(node.name, node)
        if other is not node:
            raise CommandError(
                f"Two machines are called {printable(node.name)}: {other.id} and {node.id}. "
                "Rename or delete one of them."
            )
