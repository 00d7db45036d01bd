"""More about a refusal than the caller receives: what is missing, since when, and the remedy.

Nothing here decides. Claims of a JWT are printed as claims; they are not verified.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.backend_api.resources import ApiKey, M2MToken, Machine, OAuthAccessToken
from clerk_m2m.cli.explain.steps import Decided, Diagnosis
from clerk_m2m.cli.ids import is_credential_id
from clerk_m2m.cli.told import told_life
from clerk_m2m.cli.verifying import ask_clerk
from clerk_m2m.credentials import JWTCredential, OpaqueCredential
from clerk_m2m.decision import Decision, Reason
from clerk_m2m.errors import (
    BackendAPIError,
    NotFoundError,
    ScopeDeniedError,
    TokenInvalidError,
    TokenMalformedError,
    TokenMissingError,
    TokenTypeNotAcceptedError,
    VerificationUnavailableError,
)
from clerk_m2m.identity import TokenClass, TokenType
from clerk_m2m.observe.events import cleaned
from clerk_m2m.settings import Settings

Resource = M2MToken | ApiKey | OAuthAccessToken

_ONE_HEADER: Final = (
    "Send one header, `Authorization: Bearer TOKEN`, with no quotes, spaces or line breaks in the "
    "token. `MachineTokenAuth` does so."
)
_MINT: Final = (
    "Mint a new token: `MachineTokenAuth` in the calling service does, or clerk-m2m tokens mint."
)
_DOCTOR: Final = "clerk-m2m doctor, in the service's own environment, says what is wrong."
_NOT_A_CREDENTIAL: Final = (
    "If it is the secret key of a machine: do not send it to a service. The machine mints a token "
    "with the key (clerk-m2m tokens mint) and sends the token."
)


async def diagnose(
    decided: Decided, settings: Settings, clerk: ClerkClient, found: Resource | None = None
) -> Diagnosis:
    """Look for the cause of a refusal; `found` is Clerk's answer about the credential, if any.

    An opaque credential is verified at Clerk once more, which is billed.
    """
    diagnosis = Diagnosis()
    try:
        match decided.refusal:
            case ScopeDeniedError(decision=decision):
                await _scope(diagnosis, decision, settings, clerk)
            case TokenInvalidError():
                await _invalid(diagnosis, decided, settings, clerk, found)
            case TokenTypeNotAcceptedError():
                _not_accepted(diagnosis, decided, settings)
            case TokenMalformedError() | TokenMissingError():
                diagnosis.mend.append(_ONE_HEADER)
            case VerificationUnavailableError():
                diagnosis.mend.append(_DOCTOR)
            case _:
                pass  # not a refusal
    except BackendAPIError as exc:
        diagnosis.why.append(f"explain could not find out more: {exc}")
    return diagnosis


# Scopes and edges


async def _scope(
    diagnosis: Diagnosis, decision: Decision, settings: Settings, clerk: ClerkClient
) -> None:
    caller = await _machine(clerk, settings, decision.caller)
    callee = await _machine(clerk, settings, decision.callee)
    pair = f"{_named(decision.caller, caller)} -> {_named(decision.callee, callee)}"
    if decision.reason is Reason.NO_GRAPH:
        diagnosis.why.append("Only a graph can decide whom this credential may call.")
        diagnosis.mend.append(_graph_remedy())
        return
    if decision.reason is Reason.TOKEN_SCOPE_MISSING:
        diagnosis.why.append(
            f"The token was minted without the edge {pair}, and its scopes do not change later."
        )
        if settings.machine_secret_key is not None:
            diagnosis.why.append(
                "If the service verifies with its machine's key, Clerk answers 404 for such a "
                "token, and the service answers 401 token_invalid."
            )
        if caller is not None and _has_edge(caller, decision.callee):
            diagnosis.why.append("The edge is there now, so the token is older than the edge.")
            diagnosis.mend.append(_MINT)
            return
        if caller is not None:
            diagnosis.why.append("The edge is not there now either.")
        elif settings.secret_key is None:
            diagnosis.why.append(
                "explain needs the instance's key (CLERK_SECRET_KEY) to check whether the edge "
                "exists now."
            )
    else:
        where = "the live graph" if settings.graph == "live" else str(settings.graph)
        diagnosis.why.append(f"The edge {pair} is missing in {where}.")
    of = f"[machines.{caller.name}]" if caller else f"the machine {decision.caller}"
    diagnosis.mend.append(
        f'Add "{callee.name if callee else decision.callee}" to `may_call` of {of} in the graph '
        "file: clerk-m2m graph plan FILE, then clerk-m2m graph apply FILE."
    )
    diagnosis.mend.append(f"Opaque tokens keep the scopes that they were minted with. {_MINT}")


async def _machine(clerk: ClerkClient, settings: Settings, machine_id: str) -> Machine | None:
    if settings.secret_key is None:
        return None
    try:
        return await clerk.machines.get(machine_id)
    except NotFoundError:
        return None


def _named(machine_id: str, machine: Machine | None) -> str:
    return machine_id if machine is None else f"{machine.name} ({machine_id})"


def _has_edge(caller: Machine, callee: str) -> bool:
    return any(each.id == callee for each in caller.scoped_machines)


def _graph_remedy() -> str:
    return (
        "Give the service a graph: CLERK_M2M_GRAPH with the path of a graph file (clerk-m2m graph "
        "pull --out FILE writes one), or CLERK_SECRET_KEY for the live one."
    )


# Types


def _not_accepted(diagnosis: Diagnosis, decided: Decided, settings: Settings) -> None:
    match decided.token_class:
        case TokenClass.SESSION_JWT:
            diagnosis.why.append(
                "A session JWT belongs to a user in a browser, never to a machine."
            )
            diagnosis.mend.append(_MINT)
        case TokenClass.M2M_JWT if TokenType.M2M_TOKEN in settings.accepts:
            diagnosis.why.append(
                "Only a graph can decide whom a JWT's caller may call, but the service has none."
            )
            diagnosis.mend += [
                _graph_remedy(),
                "Or send an opaque token: clerk-m2m tokens mint --format opaque.",
            ]
        case TokenClass.API_KEY:
            diagnosis.mend += [_accept(settings, TokenType.API_KEY), _NOT_A_CREDENTIAL]
        case TokenClass.OAUTH_OPAQUE | TokenClass.OAUTH_JWT:
            diagnosis.mend.append(_accept(settings, TokenType.OAUTH_TOKEN))
        case TokenClass.M2M_OPAQUE | TokenClass.M2M_JWT:
            diagnosis.mend.append(_accept(settings, TokenType.M2M_TOKEN))
        case _:
            diagnosis.mend.append(_ONE_HEADER)


def _accept(settings: Settings, token_type: TokenType) -> str:
    accepts = ",".join(sorted({*settings.accepts, token_type}))
    key = "" if settings.secret_key else ", and CLERK_SECRET_KEY to verify it with"
    return f"To make the service accept it: CLERK_M2M_ACCEPTS={accepts}{key}."


# Credentials


async def _invalid(
    diagnosis: Diagnosis,
    decided: Decided,
    settings: Settings,
    clerk: ClerkClient,
    found: Resource | None,
) -> None:
    match decided.credential:
        case JWTCredential() as jwt:
            await _jwt(diagnosis, jwt, settings, clerk)
        case OpaqueCredential() as opaque:
            found = await ask_clerk(clerk, opaque)
            await _opaque(diagnosis, decided, settings, clerk, found)
        case None if found is not None:
            await _opaque(diagnosis, decided, settings, clerk, found)
        case None:
            _form(diagnosis, decided)


def _form(diagnosis: Diagnosis, decided: Decided) -> None:
    if decided.token_class is TokenClass.MALFORMED:
        diagnosis.why.append(
            "It begins like a credential of Clerk's, but is too short or holds other characters: "
            "it was cut, or is an id instead of a token."
        )
    else:
        diagnosis.why.append("It is neither a credential of Clerk's nor one of Clerk's JWTs.")
    diagnosis.mend += [_ONE_HEADER, _MINT]


async def _opaque(
    diagnosis: Diagnosis,
    decided: Decided,
    settings: Settings,
    clerk: ClerkClient,
    found: Resource | None,
) -> None:
    if found is None:
        _unknown(diagnosis, decided, settings)
        return
    diagnosis.why.append(f"Clerk's answer about {found.id} of {found.subject}: {told_life(found)}.")
    if isinstance(found, M2MToken) and found.live and settings.machine_secret_key is not None:
        # The service asked with its machine's key, which verifies only tokens for that machine.
        if decided.callee in found.scopes:
            diagnosis.why.append(
                f"It may call {decided.callee}, but the key in CLERK_MACHINE_SECRET_KEY cannot "
                "verify it: most likely that key belongs to another machine."
            )
            diagnosis.mend.append(_DOCTOR)
        else:
            reason = Reason.TOKEN_SCOPE_MISSING
            decision = Decision(caller=found.subject, callee=decided.callee, reason=reason)
            await _scope(diagnosis, decision, settings, clerk)
        return
    diagnosis.mend.append(_again(decided))


def _again(decided: Decided) -> str:
    if decided.token_class is TokenClass.API_KEY:
        return "Create a new API key: clerk-m2m keys create."
    if decided.token_class is TokenClass.OAUTH_OPAQUE:
        return "The client must get a new access token from Clerk."
    return _MINT


def _unknown(diagnosis: Diagnosis, decided: Decided, settings: Settings) -> None:
    credential = decided.credential
    if isinstance(credential, OpaqueCredential) and is_credential_id(
        credential.token.reveal(), "mt", "ak", "oat"
    ):
        diagnosis.why.append(
            "It has the form of an id, which is not a credential: send the token or the key itself."
        )
    if settings.secret_key is None:
        diagnosis.why += [
            "With a machine's key Clerk answers 404 for a token that it does not know (any more) "
            "and for one that was minted without an edge to the key's machine. explain cannot find "
            "out which one this is.",
            "The instance's key can show it: run explain with CLERK_SECRET_KEY set.",
        ]
        diagnosis.mend += [
            f"If the edge is missing: clerk-m2m graph check CALLER {decided.callee}, then "
            "clerk-m2m graph plan FILE and graph apply FILE.",
            f"If the key in CLERK_MACHINE_SECRET_KEY is another machine's: {_DOCTOR}",
            _MINT,
        ]
        return
    diagnosis.why.append(
        f"The instance at {settings.api_url} does not know it (any more): it was revoked or has "
        "expired, belongs to another instance, was deleted with its machine, or is made up."
    )
    if decided.token_class is not TokenClass.OAUTH_OPAQUE:
        diagnosis.mend.append(
            "If its id is known (from a log): clerk-m2m explain --token-id ID shows whether it was "
            "revoked or has expired, and when."
        )
    if decided.token_class is TokenClass.API_KEY:
        diagnosis.mend.append(_NOT_A_CREDENTIAL)
    diagnosis.mend += [
        "Compare CLERK_API_URL and the keys of the caller and of this service: both must be of "
        "one instance. clerk-m2m machines list shows this one's machines.",
        _again(decided),
    ]


async def _jwt(
    diagnosis: Diagnosis, credential: JWTCredential, settings: Settings, clerk: ClerkClient
) -> None:
    says = credential.claims
    diagnosis.why.append(
        f"Its claims (not verified): subject {_text(says.get('sub'))}, issuer "
        f"{_text(says.get('iss'))}, issued {_instant(says, 'iat')}, expires "
        f"{_instant(says, 'exp')}."
    )
    kid = credential.jwt.header.get("kid")
    if settings.secret_key is not None:
        known = [each.get("kid") for each in (await clerk.jwks.get())["keys"]]
        if kid not in known:
            diagnosis.why.append(
                f"It names the key {_text(kid)}; this instance has "
                f"{', '.join(_text(each) for each in known) or 'none'}. So another "
                "instance issued it, or its key was rotated out."
            )
            diagnosis.mend.append(
                "The calling service must mint with the key of a machine of this instance: "
                "compare CLERK_MACHINE_SECRET_KEY and CLERK_API_URL there."
            )
    diagnosis.mend += [_MINT, f"If the times look right, a clock may be wrong: {_DOCTOR}"]


def _text(value: object) -> str:
    return cleaned(str(value))


def _instant(claims: Mapping[str, Any], name: str) -> str:
    try:
        return datetime.fromtimestamp(claims[name], UTC).isoformat(" ", "seconds")
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return "(no readable time)"
