"""Makes invalidations, applies them in this process, and publishes them to the fleet."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

from clerk_m2m.backend_api.revocations import Revocation
from clerk_m2m.clock import Clock, ServerClock
from clerk_m2m.credentials import jwt_of
from clerk_m2m.errors import ConfigurationError
from clerk_m2m.graph.source import GraphSource
from clerk_m2m.lookups.digest import digest_of
from clerk_m2m.lookups.invalidation import Invalidation, TokenKind
from clerk_m2m.lookups.invalidations import Invalidations
from clerk_m2m.observe.reporter import Reporter

if TYPE_CHECKING:
    from clerk_m2m.fleet.member import Member
    from clerk_m2m.verification.offline import OfflineVerification


class Effects:
    """Makes invalidations, and applies them to the verdicts, the denials and the graph.

    `digest_keys` are the keys under which tokens are digested. The verdict cache uses the digests
    of the first key. `opaque_lifetime` is the longest time, in seconds, that a verdict on an opaque
    token can live if its look-up starts now.
    """

    def __init__(
        self,
        table: Invalidations,
        offline: OfflineVerification | None,
        graph: GraphSource | None,
        *,
        digest_keys: tuple[bytes, ...],
        opaque_lifetime: float,
        clock: Clock,
        server_clock: ServerClock,
    ) -> None:
        self._table = table
        self._offline = offline
        self._graph = graph
        self._digest_keys = digest_keys
        self._opaque_lifetime = opaque_lifetime
        self._clock = clock
        self._server_clock = server_clock

    def of(
        self,
        *,
        token: str | None = None,
        token_id: str | None = None,
        machine_id: str | None = None,
        caller: str | None = None,
    ) -> Invalidation:
        """Return an invalidation of exactly one of these, as of now; else raises `TypeError`."""
        if sum(each is not None for each in (token, token_id, machine_id, caller)) != 1:
            raise TypeError("invalidate() takes exactly one of token, token_id and machine_id")
        instant = self._server_clock.latest()
        if token is None:
            return Invalidation(
                token_id=token_id, machine_id=machine_id, caller=caller, instant=instant
            )
        kind, ends_at = self._kind(token)
        return Invalidation(
            digests=tuple(digest_of(key, token) for key in self._digest_keys),
            token_kind=kind,
            ends_at=ends_at,
            instant=instant,
        )

    def of_revocation(self, revocation: Revocation) -> list[Invalidation]:
        """Return the invalidations for what a client has revoked or deleted."""
        token = revocation.token
        names = {
            "token": None if token is None else token.reveal(),
            "token_id": revocation.token_id,
            "machine_id": revocation.machine_id,
            "caller": revocation.caller,
        }
        return [self.of(**{name: value}) for name, value in names.items() if value is not None]

    def apply(self, invalidation: Invalidation, *, live: bool = True) -> None:
        """Apply an invalidation; `live` means that it was made a moment ago.

        The clock of the process that made it may be slow. The instant of a live invalidation is
        therefore raised to the later of this host's clock and Clerk's.
        """
        instant = invalidation.instant
        if live:
            instant = max(instant, self._server_clock.latest())
        if invalidation.digests:
            self._apply_token(invalidation)
        elif invalidation.token_id is not None:
            never_a_jwt = self._offline is None or invalidation.token_id.startswith("ak_")
            lifetime = self._opaque_lifetime if never_a_jwt else inf
            self._table.add(invalidation.token_id, lifetime=lifetime)
        elif invalidation.machine_id is not None:
            lifetime = self._opaque_lifetime if self._offline is None else inf
            self._table.add(invalidation.machine_id, lifetime=lifetime, instant=instant)
            self._forget(invalidation.machine_id)
        elif invalidation.caller is not None:
            self._forget(invalidation.caller)

    def void_everything(self, instant: float | None = None) -> None:
        """Void all verdicts and the graph, and deny JWTs issued up to `instant` (Unix s)."""
        self._table.void_everything(instant)
        forget_everything = getattr(self._graph, "forget_everything", None)
        if forget_everything is not None:
            forget_everything()

    def _kind(self, token: str) -> tuple[TokenKind, float | None]:
        jwt = jwt_of(token)
        if jwt is None:
            return TokenKind.OPAQUE, None
        left = None if self._offline is None else self._offline.remaining(jwt)
        if left is None:
            return TokenKind.UNPROVEN, None
        return TokenKind.JWT, self._clock.wall() + left

    def _apply_token(self, invalidation: Invalidation) -> None:
        lifetime = self._opaque_lifetime
        if invalidation.ends_at is not None:
            lifetime = max(lifetime, invalidation.ends_at - self._clock.wall())
        for each in invalidation.digests:
            if invalidation.token_kind is TokenKind.UNPROVEN and self._offline is not None:
                self._table.add_unproven(each)
            else:
                self._table.add(each, lifetime=lifetime)

    def _forget(self, caller: str) -> None:
        """Make the graph read the edges of `caller` again, if the graph has a `forget` method."""
        forget = getattr(self._graph, "forget", None)
        if forget is not None:
            forget(caller)


class Invalidator:
    """Makes an invalidation take effect in this process, and in the fleet if there is one.

    `patience` is for how many seconds a write to the fleet's log is retried in the background.
    """

    def __init__(
        self, effects: Effects, fleet: Member | None, reporter: Reporter, *, patience: float
    ) -> None:
        self._effects = effects
        self._fleet = fleet
        self._reporter = reporter
        self._patience = patience

    def here(
        self,
        *,
        token: str | None = None,
        token_id: str | None = None,
        machine_id: str | None = None,
    ) -> Invalidation:
        """Invalidate one of these in this process; raises `TypeError` for more or none."""
        invalidation = self._effects.of(token=token, token_id=token_id, machine_id=machine_id)
        self._apply(invalidation)
        return invalidation

    async def everywhere(self, invalidation: Invalidation, *, timeout: float) -> None:
        """Publish an invalidation, already applied here, to the fleet; `timeout` is in seconds."""
        if self._fleet is None:
            raise ConfigurationError(
                "invalidate_everywhere() needs Settings(fleet=…). To invalidate in this process "
                "only, call invalidate()."
            )
        await asyncio.wrap_future(self._fleet.publish(invalidation, patience=timeout))

    def revoked(self, revocation: Revocation) -> None:
        """Invalidate what a client has revoked or deleted, here and in the fleet."""
        for invalidation in self._effects.of_revocation(revocation):
            self._apply(invalidation)
            if self._fleet is not None:
                self._fleet.spread(invalidation, patience=self._patience)

    def _apply(self, invalidation: Invalidation) -> None:
        if self._fleet is not None:
            self._fleet.invalidated_here(invalidation)
        self._effects.apply(invalidation)
        self._reporter.invalidated(
            token_id=invalidation.token_id, machine_id=invalidation.machine_id
        )
