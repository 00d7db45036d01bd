"""The checks of the scope graph, and of the keys that verify JWTs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from clerk_m2m.backend_api.jwks import get_jwks
from clerk_m2m.backend_api.machines import Machines
from clerk_m2m.cli.doctor.findings import Finding, Status
from clerk_m2m.cli.doctor.remote import Service, is_answer, open_service_api
from clerk_m2m.cli.instance import TIMEOUT
from clerk_m2m.clock import Clock
from clerk_m2m.errors import BackendAPIError, ConfigurationError, KeyRefusedError
from clerk_m2m.graph.document import read_tables
from clerk_m2m.graph.file import FileSource
from clerk_m2m.identity import TokenType
from clerk_m2m.settings import Settings

_APPLY: Final = "Add the edge to a graph file: clerk-m2m graph plan FILE, then graph apply FILE."


async def check_graph(service: Service, clock: Clock) -> Finding:
    """Check that the graph can be read, and that at least one machine may call this machine."""
    settings = service.settings
    if settings.graph is None:
        return Finding(
            "graph",
            Status.OK,
            "There is no graph. An opaque token keeps the scopes that it was minted with until it "
            "expires. A machine's key cannot read who may call this machine.",
        )
    if isinstance(settings.graph, Path):
        return _check_file(settings, settings.graph, clock)
    if service.failure is not None:
        return Finding("graph", Status.UNKNOWN, "Not checked: Clerk did not return the machine.")
    return await _check_live(settings)


def _check_file(settings: Settings, path: Path, clock: Clock) -> Finding:
    callee = settings.machine_id
    try:
        source = FileSource(
            path, ttl=settings.graph_ttl, max_stale=settings.graph_max_stale, clock=clock
        )
        tables = read_tables(path.read_text("utf-8"))
    except (ConfigurationError, OSError, UnicodeDecodeError) as exc:
        return Finding("graph", Status.FAULT, str(exc), f"Correct the file {path}.")
    callers = [each.name for each in tables if source.allows(each.key, callee)]
    if callers:
        return _has_callers(f"the file {path}", callers)
    listed = any(callee in (each.id, *each.may_call, *each.must_not_call) for each in tables)
    missing = "has no edge to" if listed else "does not have"
    return _nobody(settings, f"The graph file {path} {missing} this machine ({callee})")


def _nobody(settings: Settings, fault: str) -> Finding:
    text = f"{fault}: every calling machine gets a 403."
    decides = TokenType.M2M_TOKEN in settings.accepts
    return Finding("graph", Status.FAULT if decides else Status.WARNING, text, _APPLY)


def _has_callers(where: str, callers: Sequence[str]) -> Finding:
    shown = ", ".join(callers[:5]) + (", …" if len(callers) > 5 else "")
    text = f"By {where}, these may call this machine ({len(callers)}): {shown}."
    return Finding("graph", Status.OK, text)


async def _check_live(settings: Settings) -> Finding:
    # Clerk takes longer to list machines with many edges than to answer a service's own calls.
    api = open_service_api(settings, TIMEOUT)
    try:
        async for machine in Machines(api).iter(order_by="+created_at"):
            if any(callee.id == settings.machine_id for callee in machine.scoped_machines):
                text = f"By the live graph, at least {machine.name} may call this machine."
                return Finding("graph", Status.OK, text)
    except BackendAPIError as exc:
        return Finding("graph", Status.UNKNOWN, f"The live graph cannot be read: {exc}")
    finally:
        await api.aclose()
    return _nobody(
        settings,
        f"By the live graph no machine may call this machine ({settings.machine_id})",
    )


async def check_key_set(service: Service) -> Finding:
    """Check that there are keys to verify JWTs, if the service accepts JWTs."""
    from clerk_m2m.verification.signature import key_from_pem, usable_keys

    settings = service.settings
    if not _takes_jwts(settings):
        return Finding("key set", Status.OK, "This service accepts no JWTs, so it needs no keys.")
    if settings.jwt_key is not None:
        try:
            key_from_pem(settings.jwt_key)
        except ConfigurationError as exc:
            return Finding("key set", Status.FAULT, str(exc))
        text = "One fixed key (CLERK_JWT_KEY). If Clerk rotates the key, you must set the new one."
        return Finding("key set", Status.OK, text)
    where = settings.jwks_url or settings.api_url
    if service.unreached is not None and settings.jwks_url is None:
        return Finding("key set", Status.UNKNOWN, "Not checked: Clerk did not answer.")
    try:
        keys = usable_keys((await get_jwks(service.api, settings.jwks_url)).value)
    except KeyRefusedError as exc:
        return Finding("key set", Status.FAULT, f"Clerk refuses CLERK_SECRET_KEY: {exc}")
    except BackendAPIError as exc:
        remedy = "Check CLERK_M2M_JWKS_URL." if settings.jwks_url else None
        status = Status.FAULT if is_answer(exc) else Status.UNKNOWN
        return Finding("key set", status, f"No key set from {where}: {exc}", remedy)
    if not keys:
        return Finding("key set", Status.FAULT, f"The key set of {where} holds no usable key.")
    count = sum(map(len, keys.values()))
    return Finding("key set", Status.OK, f"{where} has {count} usable key{'s'[: count > 1]}.")


def _takes_jwts(settings: Settings) -> bool:
    m2m = TokenType.M2M_TOKEN in settings.accepts and settings.graph is not None
    return settings.verifies_jwts and (m2m or TokenType.OAUTH_TOKEN in settings.accepts)
