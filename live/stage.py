"""The machines that are created for one run, and the deletion of everything that a run has created.

The name of everything that a run creates begins with `PREFIX`. At its end a run deletes what has
such a name, besides what it has noted, because the answer to a creation may have been lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from secrets import token_hex
from typing import TYPE_CHECKING, Final, Literal

from clerk_m2m import (
    BackendAPIError,
    BackendUnavailableError,
    ClerkClient,
    NotFoundError,
    RateLimitedError,
    Secret,
)
from live.calls import Answer, presentable

if TYPE_CHECKING:
    from clerk_m2m.backend_api import CreatedM2MToken, CreatedMachine
    from live.calls import Calls, Sleep
    from live.options import Options

PREFIX: Final = "clerk-m2m-live-"
# Only the machine with this label is a subject of API keys.
KEYS_LABEL: Final = "keys"
TOKEN_TTL: Final = 600
DEFAULT_TTL: Final = 1800
IDLE_TIMEOUT: Final = 5.0

VERIFY: Final = "/v1/m2m_tokens/verify"


class Stage:
    """The machines of one run: `caller` may call `callee`, and `stranger` may call nobody."""

    caller: CreatedMachine
    callee: CreatedMachine
    stranger: CreatedMachine

    def __init__(self, options: Options, calls: Calls, sleep: Sleep) -> None:
        self.options, self.calls, self.sleep = options, calls, sleep
        self.clerk = calls.clerk
        self.prefix = f"{PREFIX}{token_hex(4)}-"
        self.machine_ids: set[str] = set()
        self.keys_machine: str | None = None

    async def prepare(self) -> None:
        """Create the three machines."""
        self.callee = await self.machine("callee")
        self.caller = await self.machine("caller", may_call=[self.callee.id])
        self.stranger = await self.machine("stranger")

    async def clean_up(self) -> Removed:
        """Delete everything that this run has created."""
        await self.calls.connection.idle(IDLE_TIMEOUT)  # a creation may be in progress
        return await remove(self.clerk, self.prefix, self.machine_ids, self.options.user)

    async def machine(self, label: str, *, may_call: Iterable[str] = ()) -> CreatedMachine:
        """Create a machine, which is deleted at the end."""
        machine = await self.clerk.machines.create(
            f"{self.prefix}{label}", scoped_machines=may_call, default_token_ttl=DEFAULT_TTL
        )
        self.machine_ids.add(machine.id)
        return machine

    async def token(
        self,
        machine: CreatedMachine | None = None,
        *,
        seconds: float = TOKEN_TTL,
        token_format: Literal["opaque", "jwt"] = "opaque",
        claims: dict[str, object] | None = None,
    ) -> CreatedM2MToken:
        """Mint a token for the caller, or for another machine."""
        return await self.clerk.m2m_tokens.create(
            machine_secret_key=(machine or self.caller).secret_key,
            seconds_until_expiration=seconds,
            token_format=token_format,
            claims=claims,
        )

    async def verify(self, token: Secret, *, key: Secret | None = None) -> Answer:
        """Verify an M2M token at Clerk, by default with the instance's key."""
        return await self.calls.post(VERIFY, {"token": token}, key=key)


@dataclass(slots=True, kw_only=True)
class Removed:
    """The numbers of deleted items. `why`: the errors because of which something may be left."""

    machines: int = 0
    api_keys: int = 0
    why: list[str] = field(default_factory=list)


async def remove(
    clerk: ClerkClient, prefix: str, known: Iterable[str] = (), user: str | None = None
) -> Removed:
    """Delete all machines and API keys whose name begins with `prefix`, and the `known` machines.

    API keys are found by their subject: the machines with `KEYS_LABEL`, and `user`.
    """
    removed = Removed()
    found = dict.fromkeys(known, "")
    try:
        # Without `query`, because what it matches is one of the assumptions to check.
        async for machine in clerk.machines.iter(page_size=100):
            if machine.name.startswith(prefix):
                found[machine.id] = machine.name
    except BackendAPIError as exc:
        removed.why.append(presentable(str(exc)))
    subjects = [id for id, name in found.items() if name.endswith(KEYS_LABEL)]
    try:
        await _delete_keys(clerk, prefix, subjects + ([user] if user else []), removed)
    except BackendAPIError as exc:
        removed.why.append(presentable(str(exc)))
    await _delete_machines(clerk, found, removed)
    return removed


async def _delete_keys(
    clerk: ClerkClient, prefix: str, subjects: Iterable[str], removed: Removed
) -> None:
    for subject in subjects:
        keys = [key async for key in clerk.api_keys.iter(subject, include_invalid=True)]
        for key in keys:
            if key.name.startswith(prefix):
                await clerk.api_keys.delete(key.id)
                removed.api_keys += 1


async def _delete_machines(clerk: ClerkClient, ids: Iterable[str], removed: Removed) -> None:
    for machine_id in ids:
        try:
            await clerk.machines.delete(machine_id)
            removed.machines += 1
        except NotFoundError:
            pass  # a check has deleted it
        except BackendAPIError as exc:
            removed.why.append(presentable(str(exc)))
            if isinstance(exc, BackendUnavailableError | RateLimitedError):
                return  # each further call would take as long as this one
