"""Tests of handlers without an emulator: makes identities, and an app that receives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from copy import copy
from typing import Any, Final, Literal

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from clerk_m2m.asgi.middleware import MachineAuthMiddleware
from clerk_m2m.credentials import Headers, credential_of
from clerk_m2m.errors import RefusalError, TokenMissingError
from clerk_m2m.identity import (
    MACHINE_ID,
    NO_CLAIMS,
    ApiKeyIdentity,
    Identity,
    MachineIdentity,
    OAuthIdentity,
    TokenType,
    freeze,
)
from clerk_m2m.settings import Settings
from clerk_m2m.verification.outcome import CredentialVerifier

CALLEE_ID: Final = "mch_" + "callee".ljust(27, "0")
CALLER_ID: Final = "mch_" + "caller".ljust(27, "0")
TEST_USER_ID: Final = "user_" + "0" * 27
TOKEN: Final = "mt_" + "0" * 64


def machine_identity(
    machine_id: str = CALLER_ID,
    *,
    token_format: Literal["opaque", "jwt"] = "opaque",
    token_id: str = "mt_" + "0" * 32,
    scopes: Iterable[str] = (),
    claims: Mapping[str, Any] | None = None,
    expires_at: float | None = None,
) -> MachineIdentity:
    """Make the identity of a machine, as a handler receives it from the middleware.

    Raises `ValueError` for anything but a machine id: `mch_` and 27 more characters.
    """
    if not MACHINE_ID.fullmatch(machine_id):
        raise ValueError(f"{machine_id!r} is not a machine id: mch_ and 27 more characters")
    return MachineIdentity(
        token_id=token_id,
        subject=machine_id,
        token_format=token_format,
        scopes=_scopes(scopes),
        claims=_claims(claims),
        expires_at=expires_at,
    )


def api_key_identity(
    subject: str = TEST_USER_ID,
    *,
    name: str = "test key",
    token_id: str = "ak_" + "0" * 32,
    scopes: Iterable[str] = (),
    claims: Mapping[str, Any] | None = None,
    expires_at: float | None = None,
) -> ApiKeyIdentity:
    """Make the identity of an API key of a `user_…`, an `org_…` or a `mch_…`."""
    return ApiKeyIdentity(
        token_id=token_id,
        subject=subject,
        name=name,
        scopes=_scopes(scopes),
        claims=_claims(claims),
        expires_at=expires_at,
    )


def oauth_identity(
    subject: str = TEST_USER_ID,
    *,
    client_id: str = "client_test",
    token_id: str = "oat_" + "0" * 32,
    scopes: Iterable[str] = (),
    audience: str | Iterable[str] = (),
    actor: Mapping[str, Any] | None = None,
    claims: Mapping[str, Any] | None = None,
    expires_at: float | None = None,
) -> OAuthIdentity:
    """Make the identity of an OAuth access token that a `user_…` granted to `client_id`."""
    return OAuthIdentity(
        token_id=token_id,
        subject=subject,
        client_id=client_id,
        scopes=_scopes(scopes),
        audience=(audience,) if isinstance(audience, str) else tuple(audience),
        actor=None if actor is None else _claims(actor),
        claims=_claims(claims),
        expires_at=expires_at,
    )


def verifier_of(answer: Identity | RefusalError) -> CredentialVerifier:
    """Make a verifier that returns `answer` for every token, without any call.

    For code that needs a verifier. If `answer` is a refusal, it is raised: with
    `VerificationUnavailableError()` a test sees what a service does while Clerk is down.
    """
    return _FixedVerifier(answer)


def as_caller(app: ASGIApp, caller: Identity | RefusalError | None) -> ASGIApp:
    """Return a copy of `app` in which every request is made by `caller`; `app` is not changed.

    `MachineAuthMiddleware` on `app` keeps its options and its place, but does not read the
    environment and does not call Clerk. If `app` has no such middleware, one is put in front. With
    None as `caller`, requests have no credential; with a refusal, the middleware answers with it.
    The middleware is found if it was added with `add_middleware`, or if it is `app` itself. A
    mounted app with its own middleware must be passed to this function separately.
    """
    verifier = verifier_of(TokenMissingError() if caller is None else caller)
    return _Calling(_verified_by(verifier, app), None if caller is None else TOKEN)


class _FixedVerifier:
    """A `CredentialVerifier` with a fixed answer."""

    def __init__(self, answer: Identity | RefusalError) -> None:
        self.settings = Settings(
            machine_id=CALLEE_ID,
            machine_secret_key="ak_made_up",
            secret_key="sk_test_made_up",
            accepts=TokenType,  # all types, so a test can make a caller for any guard
        )
        self._answer = answer

    async def verify(
        self, token: str, *, while_waiting: AbstractAsyncContextManager[None] | None = None
    ) -> Identity:
        """Return the identity, or raise the refusal, that the test has chosen."""
        if isinstance(self._answer, RefusalError):
            self._answer.from_verifier = True
            # The same exception is raised for many requests: without this its traceback would grow.
            raise self._answer.with_traceback(None)
        return self._answer

    async def verify_headers(self, headers: Headers) -> Identity:
        """Do the same for the headers of a request, which must contain a credential."""
        return await self.verify(credential_of(headers, self.settings.api_key_header))

    async def aclose(self) -> None:
        """Do nothing, because nothing was opened."""


class _Calling:
    """Passes every request to `app` with `token` as its credential, or with none."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            headers = [each for each in scope["headers"] if each[0].lower() != b"authorization"]
            if self._token is not None:
                headers.append((b"authorization", f"Bearer {self._token}".encode()))
            scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)


def _verified_by(verifier: CredentialVerifier, app: ASGIApp) -> ASGIApp:
    if isinstance(app, MachineAuthMiddleware):
        middleware = copy(app)
        middleware.verifier = verifier
        return middleware
    if not isinstance(app, Starlette):
        return MachineAuthMiddleware(app, verifier=verifier)
    entries = app.user_middleware
    if not any(map(_is_ours, entries)):
        # Added to the app, not wrapped around it: the middleware must see a guard's refusal before
        # Starlette turns it into a 500.
        entries = [Middleware(MachineAuthMiddleware), *entries]
    # A second middleware stack over the same routes: the app under test is not changed.
    stack = copy(app)
    stack.user_middleware = [_entry(verifier, each) if _is_ours(each) else each for each in entries]
    stack.middleware_stack = None
    return stack


def _is_ours(entry: Middleware) -> bool:
    return isinstance(entry.cls, type) and issubclass(entry.cls, MachineAuthMiddleware)


def _entry(verifier: CredentialVerifier, entry: Middleware) -> Middleware:
    # The positional argument is the settings, which the verifier replaces.
    options = {name: value for name, value in entry.kwargs.items() if name != "settings"}
    of_class: Any = entry.cls
    return Middleware(of_class, **(options | {"verifier": verifier}))


def _scopes(scopes: Iterable[str]) -> frozenset[str]:
    if isinstance(scopes, str):
        raise ValueError("scopes must be a list of scopes, not one string")
    return frozenset(scopes)


def _claims(claims: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return NO_CLAIMS if claims is None else freeze(dict(claims))
