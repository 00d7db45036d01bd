"""The decision about a token of which only the id is known, from Clerk's lists.

Without the credential itself, Clerk cannot verify it. The data that `Verifier` would receive is
read from the list instead, and the same functions decide.
"""

from __future__ import annotations

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.backend_api.opening import open_api
from clerk_m2m.backend_api.resources import ApiKey, M2MToken
from clerk_m2m.cli.explain.steps import Decided
from clerk_m2m.cli.graph.check import find_machine
from clerk_m2m.cli.ids import is_credential_id
from clerk_m2m.cli.instance import TIMEOUT
from clerk_m2m.cli.program import CommandError, progress
from clerk_m2m.clock import Clock
from clerk_m2m.decision import Decision, Reason
from clerk_m2m.errors import (
    BackendAPIError,
    NotFoundError,
    RefusalError,
    ScopeDeniedError,
    TokenInvalidError,
    TokenTypeNotAcceptedError,
)
from clerk_m2m.graph.source import fetched_edge, known_edge
from clerk_m2m.identity import Identity, TokenClass
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.settings import Settings
from clerk_m2m.verification import parts
from clerk_m2m.verification.online import identity_of, why_refused
from clerk_m2m.verification.outcome import refusal_of
from clerk_m2m.verification.policy import decide, needs_edge, not_accepted


def check_id(token_id: str) -> str:
    """Return the id; raises `CommandError`, without quoting it, for anything but an id."""
    if not is_credential_id(token_id, "mt", "ak"):
        raise CommandError(
            "--token-id takes the id of a token or an API key: mt_ or ak_ and 32 hex digits. The "
            "credential itself goes to standard input."
        )
    return token_id


async def find_by_id(
    clerk: ClerkClient, token_id: str, caller: str | None, *, shown: bool
) -> M2MToken | ApiKey:
    """Look a credential up by its id. Clerk lists tokens by machine, so `caller` saves calls.

    Raises `CommandError` if no machine has it.
    """
    if token_id.startswith("ak_"):
        try:
            return await clerk.api_keys.get(token_id)
        except NotFoundError:
            raise CommandError("The instance has no API key with this id.") from None
    if caller is not None:
        owners = [(await find_machine(clerk, caller)).id]
    else:
        owners = [each.id async for each in clerk.machines.iter(order_by="+created_at")]
    with progress("Looking through the tokens of each machine", shown=shown) as advance:
        for owner in owners:
            found = await _token_of(clerk, owner, token_id)
            advance(1, len(owners))
            if found is not None:
                return found
    raise CommandError(
        "No machine of the instance has an opaque token with this id. (A JWT is not kept at Clerk: "
        "explain it from standard input.)"
    )


async def _token_of(clerk: ClerkClient, owner: str, token_id: str) -> M2MToken | None:
    async for token in clerk.m2m_tokens.iter(owner, revoked=True, expired=True):
        if token.id == token_id:
            return token
    return None


async def decide_on_found(settings: Settings, found: M2MToken | ApiKey) -> Decided:
    """Decide about a credential that was looked up, as the service with these settings would."""
    token_class = TokenClass.API_KEY if isinstance(found, ApiKey) else TokenClass.M2M_OPAQUE
    try:
        identity = await _admitted(settings, found, token_class)
    except RefusalError as refusal:
        return Decided(callee=settings.machine_id, token_class=token_class, refusal=refusal)
    return Decided(callee=settings.machine_id, token_class=token_class, identity=identity)


async def _admitted(
    settings: Settings, found: M2MToken | ApiKey, token_class: TokenClass
) -> Identity:
    if (detail := not_accepted(settings).get(token_class)) is not None:
        raise TokenTypeNotAcceptedError(detail, token_class=token_class)
    if (detail := why_refused(found, None, frozenset())) is not None:
        raise TokenInvalidError(detail, token_class=token_class)
    identity = identity_of(found)
    reason = decide(identity, settings.machine_id, await _edge(settings, identity))
    if reason is not Reason.ALLOWED:
        decision = Decision(caller=identity.subject, callee=settings.machine_id, reason=reason)
        refusal = ScopeDeniedError(decision)
        refusal.holder = identity
        raise refusal
    return identity


async def _edge(settings: Settings, identity: Identity) -> bool | None:
    clock = Clock()
    api = open_api(
        secret_key=settings.secret_key,
        machine_secret_key=None,
        api_url=settings.api_url,
        allow_http=settings.allow_http,
        timeout=TIMEOUT,
        max_inflight=2,
        transport=None,
    )
    try:
        graph = parts.graph_source(settings, api, clock, Reporter(clock))
        if graph is None or not needs_edge(identity):
            return None
        caller, callee = identity.subject, settings.machine_id
        edge = known_edge(graph.allows(caller, callee))
        if edge is None:
            edge = fetched_edge(await graph.fetch(caller, callee, timeout=TIMEOUT))
        return edge
    except BackendAPIError as exc:
        raise refusal_of(exc) from exc
    finally:
        await api.aclose()
