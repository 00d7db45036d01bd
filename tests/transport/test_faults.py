"""The error texts of calls that got no answer."""

from __future__ import annotations

import ssl

import httpx
import pytest

from clerk_m2m.transport.faults import never_sent, reason_of


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (httpx.ConnectTimeout(""), "connecting timed out"),
        (httpx.ReadTimeout(""), "reading the answer timed out"),
        (httpx.WriteTimeout(""), "writing the request timed out"),
        (httpx.PoolTimeout(""), "waiting for a free connection timed out"),
    ],
)
def test_a_timeout_is_named(raised: httpx.TimeoutException, said: str) -> None:
    assert said in reason_of(raised)


@pytest.mark.parametrize(
    ("code", "said"), [(10, "expired"), (62, "another host"), (18, "not trusted"), (9, "not valid")]
)
def test_a_certificate_error_is_named(code: int, said: str) -> None:
    fault = ssl.SSLCertVerificationError()
    fault.verify_code, fault.verify_message = code, "as OpenSSL says"
    raised = httpx.ConnectError("")
    raised.__cause__ = fault

    assert said in reason_of(raised)
    assert never_sent(raised)
