"""Describes connection errors in words that say what to check."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Final

import httpx

from clerk_m2m.errors import BackendUnavailableError
from clerk_m2m.observe.call_times import CallResult

# The timeouts, and what each of them limits.
_TIMEOUTS: Final[tuple[tuple[type[httpx.TimeoutException], str], ...]] = (
    (httpx.ConnectTimeout, "connecting timed out"),
    (httpx.ReadTimeout, "reading the answer timed out"),
    (httpx.WriteTimeout, "writing the request timed out"),
    (httpx.PoolTimeout, "waiting for a free connection timed out"),
)
# Errors before anything was sent. A proxy's error comes while it connects (CONNECT, SOCKS).
_NEVER_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
)
# The codes of X509_STORE_CTX_get_error (OpenSSL, x509_vfy.h).
_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_OTHER_NAME: Final = frozenset({62, 64})


def reason_of(exc: Exception) -> str:
    """Return why no answer came: which timeout, which TLS error, or the type of the error."""
    for kind, reason in _TIMEOUTS:
        if isinstance(exc, kind):
            return f"{reason}: {kind.__name__}"
    if isinstance(exc, httpx.ProxyError):
        # If the proxy answered, httpx begins its text with the status of that answer.
        status = str(exc)[:3]
        return f"ProxyError: the proxy answered {status if status.isdigit() else 'with an error'}"
    for each in _chain(exc):
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"{type(exc).__name__}: {_certificate(each)}"
        if isinstance(each, ssl.SSLError):
            return f"{type(exc).__name__}: TLS failed, {each.reason or 'without a reason'}"
    return type(exc).__name__


def never_sent(exc: BaseException | None) -> bool:
    """Return whether a call failed before anything of it was sent."""
    return isinstance(exc, _NEVER_SENT)


def was_dropped(exc: BaseException | None) -> bool:
    """Return whether the connection was lost during a call, which may have been carried out."""
    return isinstance(exc, httpx.NetworkError | httpx.RemoteProtocolError)


def result_of_failure(exc: BackendUnavailableError) -> CallResult:
    """Return the result to count for a call that got no answer."""
    match exc.__cause__:
        case httpx.TimeoutException() | TimeoutError():
            return CallResult.TIMEOUT
        case httpx.ConnectError() | httpx.ProxyError():
            return CallResult.NO_CONNECTION
    return CallResult.BAD_ANSWER


def _certificate(exc: ssl.SSLCertVerificationError) -> str:
    code = exc.verify_code
    if code == _EXPIRED:
        return "the server's certificate has expired"
    if code == _NOT_YET_VALID:
        return "the server's certificate is not valid yet; is this host's clock right?"
    if code in _OTHER_NAME:
        return "the server's certificate is for another host"
    return f"the server's certificate is not trusted ({exc.verify_message})"


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if exc is None:
            return
        yield exc
        exc = exc.__cause__ or exc.__context__
