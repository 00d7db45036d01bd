"""The decision about a credential, by the middleware's own code."""

from __future__ import annotations

from clerk_m2m.cli.explain.presented import headers_of
from clerk_m2m.cli.explain.steps import Decided
from clerk_m2m.credentials import Credential, credential_of, parse
from clerk_m2m.errors import RefusalError, TokenInvalidError
from clerk_m2m.secret import Secret
from clerk_m2m.settings import Settings
from clerk_m2m.verification.verifier import Verifier


async def decide_on(settings: Settings, presented: Secret) -> Decided:
    """Decide as the service with these settings does; verifying an opaque credential is billed.

    Raises `ConfigurationError` for settings with which the service would not start.
    """
    verifier, operations = Verifier(settings), list[str]()
    verifier.on_call(lambda operation, _result, _seconds: operations.append(operation))
    callee, credential, token_class = settings.machine_id, None, None
    try:
        token = Secret(credential_of(headers_of(presented), settings.api_key_header))
        credential = _parsed(token)
        token_class = credential.token_class if credential else None
        identity = await verifier.verify(token.reveal())
    except RefusalError as refusal:
        return Decided(
            callee=callee,
            credential=credential,
            token_class=token_class or refusal.token_class,
            refusal=refusal,
            operations=operations,
        )
    finally:
        await verifier.aclose()
    return Decided(
        callee=callee,
        credential=credential,
        token_class=token_class,
        identity=identity,
        operations=operations,
    )


def _parsed(token: Secret) -> Credential | None:
    """Parse the credential, for the output; None if the verifier refuses its form."""
    try:
        return parse(token)
    except TokenInvalidError:
        return None
