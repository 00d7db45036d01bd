"""The operations on machines, their scopes and their tokens. Each path is written here once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Literal

from clerk_m2m import _wire as wire
from clerk_m2m import records
from clerk_m2m._secret import Secret
from clerk_m2m._session import UNSET, OperationGroup, Revocation, items, segment, walk
from clerk_m2m.config import checked_key, hidden


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


class M2MTokens(OperationGroup):
    """Tokens of machines."""

    async def create(
        self,
        *,
        token_format: Literal["opaque", "jwt"] = "opaque",
        seconds_until_expiration: float | None = None,
        claims: Mapping[str, Any] | None = None,
        min_remaining_ttl_seconds: int | None = None,
        machine_secret_key: str | Secret | None = None,
    ) -> records.CreatedM2MToken:
        """Mint a token (`createM2MToken`) for the machine whose secret key this client has.

        `seconds_until_expiration` None means the machine's default. With
        `min_remaining_ttl_seconds`, Clerk may give an existing token of the same claims and scopes
        that lives at least so long.
        """
        # First of all: tracebacks may show the locals of this frame.
        machine_secret_key = hidden(machine_secret_key)
        body = {
            "token_format": token_format,
            "seconds_until_expiration": UNSET
            if seconds_until_expiration is None
            else seconds_until_expiration,
            "claims": UNSET if claims is None else dict(claims),
            "min_remaining_ttl_seconds": UNSET
            if min_remaining_ttl_seconds is None
            else min_remaining_ttl_seconds,
        }
        key = checked_key("machine_secret_key", "ak_", machine_secret_key)
        key = key or self._session.machine_key()
        answer = await self._send("createM2MToken", "POST", "/v1/m2m_tokens", key, body)
        return wire.read_created_m2m_token(answer)

    async def list(
        self,
        subject: str,
        *,
        revoked: bool = False,
        expired: bool = False,
        limit: int = 10,
        offset: int = 0,
    ) -> records.Page[records.M2MToken]:
        """Give a page of a machine's opaque tokens (`getM2MTokens`)."""
        answer = await self._get(
            "getM2MTokens",
            "/v1/m2m_tokens",
            self._session.either_key(),
            {
                "subject": subject,
                "revoked": revoked,
                "expired": expired,
                "limit": limit,
                "offset": offset,
            },
        )
        return wire.read_page(answer, "m2m_tokens", wire.read_m2m_token)

    async def iter(
        self, subject: str, *, revoked: bool = False, expired: bool = False, page_size: int = 100
    ) -> AsyncIterator[records.M2MToken]:
        """Walk all pages of a machine's opaque tokens."""

        async def page(limit: int, offset: int) -> records.Page[records.M2MToken]:
            return await self.list(
                subject, revoked=revoked, expired=expired, limit=limit, offset=offset
            )

        async for token in walk(page, page_size):
            yield token

    async def revoke(
        self, token_id: str, *, revocation_reason: str | None = None
    ) -> records.M2MToken:
        """Revoke an opaque token (`revokeM2MToken`). A JWT cannot be revoked at Clerk."""
        url = f"/v1/m2m_tokens/{segment(token_id)}/revoke"
        body, key = {"revocation_reason": revocation_reason}, self._session.either_key()
        ends = Revocation(token_id=token_id)
        answer = await self._send("revokeM2MToken", "POST", url, key, body, ends=ends)
        return wire.read_m2m_token(answer)

    async def verify(self, token: str | Secret, *, background: bool = False) -> records.M2MToken:
        """Ask Clerk about an opaque token (`verifyM2MToken`); billed.

        An answer may still say `revoked` or `expired`: see `live`.
        """
        token = Secret(token)  # first of all: tracebacks may show the locals of this frame
        url, key = "/v1/m2m_tokens/verify", self._session.either_key()
        body = {"token": token}
        answer = await self._verify("verifyM2MToken", url, key, body, background)
        return wire.read_m2m_token(answer)
