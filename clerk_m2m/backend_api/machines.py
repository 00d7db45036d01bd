"""The operations on machines and the edges between them. Each path is written here once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from clerk_m2m.backend_api import parsing, resources
from clerk_m2m.backend_api.calls import (
    MAX_PAGE_SIZE,
    UNSET,
    Answered,
    BackendAPI,
    items,
    reading,
    segment,
    writing,
)
from clerk_m2m.backend_api.revocations import Revocation
from clerk_m2m.backend_api.walking import walk
from clerk_m2m.errors import ConflictError
from clerk_m2m.secret import Secret
from clerk_m2m.transport.gate import CallDemand


async def get_machine(
    api: BackendAPI, machine_id: str, *, demand: CallDemand | None = None
) -> Answered[resources.Machine]:
    """Get one machine with the machines that it may call (`GetMachine`)."""
    url = f"/v1/machines/{segment(machine_id)}"
    call = reading("GetMachine", url, api.instance_key(), items=4)
    return await api.send(call, parsing.read_machine, demand=demand)


class Machines:
    """Machines and the edges between them. Needs the instance's key."""

    def __init__(self, api: BackendAPI) -> None:
        self._api = api

    async def list(
        self,
        *,
        limit: int = 10,
        offset: int = 0,
        query: str | None = None,
        order_by: str = "-created_at",
    ) -> resources.Page[resources.Machine]:
        """Return a page of machines (`ListMachines`), at most 500.

        `query` is an exact id or part of a name. `order_by` is `created_at` or `name`; a `-` before
        it reverses the order.
        """
        key = self._api.instance_key()
        call = reading(
            "ListMachines",
            "/v1/machines",
            key,
            {
                "limit": limit,
                "offset": offset,
                "query": query,
                "order_by": order_by,
            },
            items=limit,
        )
        return await self._api.run(call, parsing.read_machines)

    async def iter(
        self,
        *,
        page_size: int = MAX_PAGE_SIZE,
        query: str | None = None,
        order_by: str = "created_at",
    ) -> AsyncIterator[resources.Machine]:
        """Iterate over all machines, each once, oldest first; `query` and `order_by` as in `list`.

        All pages are read before the first machine is yielded, so the loop body may delete
        machines. Machines that are created during the reading may be missing. Machines with many
        scopes make a page large: if it is over the size limit, smaller pages are read.
        """

        async def page(limit: int, offset: int) -> resources.Page[resources.Machine]:
            return await self.list(limit=limit, offset=offset, query=query, order_by=order_by)

        async for machine in walk(page, page_size):
            yield machine

    async def create(
        self,
        name: str,
        *,
        scoped_machines: Iterable[str] = (),
        default_token_ttl: int | None = None,
    ) -> resources.CreatedMachine:
        """Create a machine that may call `scoped_machines` (`CreateMachine`).

        The result holds its secret key.
        """
        body = {
            "name": name,
            "scoped_machines": items("scoped_machines", scoped_machines),
            "default_token_ttl": UNSET if default_token_ttl is None else default_token_ttl,
        }
        key = self._api.instance_key()
        call = writing("CreateMachine", "POST", "/v1/machines", key, body)
        return await self._api.run(call, parsing.read_created_machine)

    async def find_or_create(
        self,
        name: str,
        *,
        scoped_machines: Iterable[str] = (),
        default_token_ttl: int | None = None,
    ) -> tuple[resources.Machine, bool]:
        """Return the machine with exactly this name, and True if this call created it.

        A machine that exists is not changed: `scoped_machines` and `default_token_ttl` are ignored.
        A new machine is a `CreatedMachine`, with its secret key. Not atomic: two processes that
        call this at the same time may each create a machine. Raises `ConflictError` if several
        machines have the name; the error lists their ids.
        """
        same = [each async for each in self.iter(query=name) if each.name == name]
        if len(same) > 1:
            ids = ", ".join(each.id for each in same)
            raise ConflictError(
                f"{len(same)} machines have the name {name!r}: {ids}. Rename or delete all but one."
            )
        if same:
            return same[0], False
        created = await self.create(
            name, scoped_machines=scoped_machines, default_token_ttl=default_token_ttl
        )
        return created, True

    async def get(self, machine_id: str) -> resources.Machine:
        """Return one machine with the machines that it may call (`GetMachine`)."""
        return (await get_machine(self._api, machine_id)).value

    async def update(
        self, machine_id: str, *, name: str | None = None, default_token_ttl: int | None = None
    ) -> resources.Machine:
        """Change a machine's name or default token lifetime (`UpdateMachine`); None keeps it."""
        body = {
            "name": UNSET if name is None else name,
            "default_token_ttl": UNSET if default_token_ttl is None else default_token_ttl,
        }
        url, key = f"/v1/machines/{segment(machine_id)}", self._api.instance_key()
        return await self._api.run(
            writing("UpdateMachine", "PATCH", url, key, body), parsing.read_machine
        )

    async def delete(self, machine_id: str) -> None:
        """Delete a machine with its edges and tokens (`DeleteMachine`)."""
        url, key = f"/v1/machines/{segment(machine_id)}", self._api.instance_key()
        ends = Revocation(machine_id=machine_id)
        await self._api.run(
            writing("DeleteMachine", "DELETE", url, key), parsing.read_deleted, ends=ends
        )

    async def get_secret_key(self, machine_id: str) -> Secret:
        """Return a machine's secret key (`GetMachineSecretKey`)."""
        url = f"/v1/machines/{segment(machine_id)}/secret_key"
        call = reading("GetMachineSecretKey", url, self._api.instance_key())
        return await self._api.run(call, parsing.read_secret)

    async def rotate_secret_key(self, machine_id: str, *, previous_token_ttl: int) -> Secret:
        """Rotate a machine's secret key (`RotateMachineSecretKey`) and return the new one.

        The old key stays valid for `previous_token_ttl` seconds, 0 to 28,800.
        """
        url = f"/v1/machines/{segment(machine_id)}/secret_key/rotate"
        body = {"previous_token_ttl": previous_token_ttl}
        key = self._api.instance_key()
        return await self._api.run(
            writing("RotateMachineSecretKey", "POST", url, key, body), parsing.read_secret
        )

    async def create_scope(self, caller: str, callee: str) -> resources.MachineScope:
        """Allow `caller` to call `callee` (`CreateMachineScope`), with tokens minted after that."""
        url, key = f"/v1/machines/{segment(caller)}/scopes", self._api.instance_key()
        body = {"to_machine_id": callee}
        return await self._api.run(
            writing("CreateMachineScope", "POST", url, key, body), parsing.read_scope
        )

    async def delete_scope(self, caller: str, callee: str) -> resources.MachineScope:
        """Remove the edge from `caller` to `callee` (`DeleteMachineScope`)."""
        url = f"/v1/machines/{segment(caller)}/scopes/{segment(callee)}"
        key = self._api.instance_key()
        ends = Revocation(caller=caller)
        call = writing("DeleteMachineScope", "DELETE", url, key)
        return await self._api.run(call, parsing.read_scope, ends=ends)
