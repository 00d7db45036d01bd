"""The operations on machines and the edges between them. Each path is written here once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from clerk_m2m.backend_api import parsing as wire
from clerk_m2m.backend_api import resources as records
from clerk_m2m.backend_api.operations import UNSET, OperationGroup, Revocation, items, segment, walk
from clerk_m2m.secret import Secret


class Machines(OperationGroup):
    """Machines and the edges between them. Takes the instance's key."""

    async def list(
        self,
        *,
        limit: int = 10,
        offset: int = 0,
        query: str | None = None,
        order_by: str = "-created_at",
    ) -> records.Page[records.Machine]:
        """Give a page of machines (`ListMachines`); `query` is an exact id or part of a name."""
        key = self._session.instance_key()
        answer = await self._get(
            "ListMachines",
            "/v1/machines",
            key,
            {
                "limit": limit,
                "offset": offset,
                "query": query,
                "order_by": order_by,
            },
        )
        return wire.read_page(answer, "data", wire.read_machine)

    async def iter(
        self, *, page_size: int = 100, query: str | None = None, order_by: str = "-created_at"
    ) -> AsyncIterator[records.Machine]:
        """Walk all pages of machines.

        A machine with many scopes makes a large page: where one is over the size limit, the walk
        goes on with smaller ones.
        """

        async def page(limit: int, offset: int) -> records.Page[records.Machine]:
            return await self.list(limit=limit, offset=offset, query=query, order_by=order_by)

        async for machine in walk(page, page_size):
            yield machine

    async def create(
        self,
        name: str,
        *,
        scoped_machines: Iterable[str] = (),
        default_token_ttl: int | None = None,
    ) -> records.CreatedMachine:
        """Create a machine that may call `scoped_machines` (`CreateMachine`); gives its secret."""
        body = {
            "name": name,
            "scoped_machines": items("scoped_machines", scoped_machines),
            "default_token_ttl": UNSET if default_token_ttl is None else default_token_ttl,
        }
        key = self._session.instance_key()
        answer = await self._send("CreateMachine", "POST", "/v1/machines", key, body)
        return wire.read_created_machine(answer)

    async def get(self, machine_id: str, *, background: bool = False) -> records.Machine:
        """Give one machine with those that it may call (`GetMachine`)."""
        url, key = f"/v1/machines/{segment(machine_id)}", self._session.instance_key()
        return wire.read_machine(await self._get("GetMachine", url, key, background=background))

    async def update(
        self, machine_id: str, *, name: str | None = None, default_token_ttl: int | None = None
    ) -> records.Machine:
        """Change a machine's name or default token life (`UpdateMachine`); None leaves it."""
        body = {
            "name": UNSET if name is None else name,
            "default_token_ttl": UNSET if default_token_ttl is None else default_token_ttl,
        }
        url, key = f"/v1/machines/{segment(machine_id)}", self._session.instance_key()
        return wire.read_machine(await self._send("UpdateMachine", "PATCH", url, key, body))

    async def delete(self, machine_id: str) -> None:
        """Delete a machine with its edges and tokens (`DeleteMachine`)."""
        url, key = f"/v1/machines/{segment(machine_id)}", self._session.instance_key()
        ends = Revocation(machine_id=machine_id)
        wire.read_deleted(await self._send("DeleteMachine", "DELETE", url, key, ends=ends))

    async def get_secret_key(self, machine_id: str) -> Secret:
        """Give a machine's secret key (`GetMachineSecretKey`)."""
        url = f"/v1/machines/{segment(machine_id)}/secret_key"
        answer = await self._get("GetMachineSecretKey", url, self._session.instance_key())
        return wire.read_secret(answer)

    async def rotate_secret_key(self, machine_id: str, *, previous_token_ttl: int) -> Secret:
        """Give a machine a new secret key (`RotateMachineSecretKey`).

        The old one works for `previous_token_ttl` seconds more, 0 to 28,800.
        """
        url = f"/v1/machines/{segment(machine_id)}/secret_key/rotate"
        body = {"previous_token_ttl": previous_token_ttl}
        key = self._session.instance_key()
        return wire.read_secret(await self._send("RotateMachineSecretKey", "POST", url, key, body))

    async def create_scope(self, caller: str, callee: str) -> records.MachineScope:
        """Let `caller` call `callee` (`CreateMachineScope`), with tokens minted from now on."""
        url, key = f"/v1/machines/{segment(caller)}/scopes", self._session.instance_key()
        body = {"to_machine_id": callee}
        return wire.read_scope(await self._send("CreateMachineScope", "POST", url, key, body))

    async def delete_scope(self, caller: str, callee: str) -> records.MachineScope:
        """Cut the edge from `caller` to `callee` (`DeleteMachineScope`)."""
        url = f"/v1/machines/{segment(caller)}/scopes/{segment(callee)}"
        key = self._session.instance_key()
        ends = Revocation(caller=caller)
        answer = await self._send("DeleteMachineScope", "DELETE", url, key, ends=ends)
        return wire.read_scope(answer)
