"""The memory of a cached verdict, for each kind of credential."""

from __future__ import annotations

import gc
import json
import secrets
import tracemalloc
from collections.abc import Callable

from bench import endless
from bench.measure import Effort, Row
from clerk_m2m.backend_api.parsing import read_m2m_token
from clerk_m2m.identity import ApiKeyIdentity, MachineIdentity
from clerk_m2m.lookups.verdict import Answer, Refused, Verdict
from clerk_m2m.verification.online import identity_of

VERDICTS = 20_000
BYTES_EACH = 700
SCOPES = frozenset({"orders:read"})


def _opaque(number: int) -> Verdict:
    return identity_of(read_m2m_token(json.loads(endless.verified(endless.machine_id(number)))))


def _jwt(number: int) -> Verdict:
    return MachineIdentity(
        token_id="mt_" + secrets.token_hex(16),
        token_format="jwt",
        subject=endless.machine_id(number),
        expires_at=endless.EXPIRATION / 1000 + number,
    )


def _api_key(number: int) -> Verdict:
    return ApiKeyIdentity(
        token_id="ak_" + secrets.token_hex(16),
        name=f"key {number}",
        subject=f"user_{number:027}",
        scopes=SCOPES,
        expires_at=endless.EXPIRATION / 1000 + number,
    )


def _refused(number: int) -> Verdict:
    return Refused("Clerk does not know the credential.")


KINDS: dict[str, Callable[[int], Verdict]] = {
    "opaque M2M token": _opaque,
    "M2M JWT": _jwt,
    "API key": _api_key,
    "unknown token": _refused,
}


def rows(effort: Effort) -> list[Row]:
    """Return one row for each kind. The digests are random, so no tokens are needed."""
    return [_row(kind, make, effort.count(VERDICTS)) for kind, make in KINDS.items()]


def _row(kind: str, make: Callable[[int], Verdict], verdicts: int) -> Row:
    cache = endless.verifier(cache_size=2 * VERDICTS)._verdicts

    def keep(numbers: range) -> int:
        for number in numbers:
            answer = Answer(value=make(number), negative=make is _refused)
            cache.put(secrets.token_bytes(16), answer, asked_at=0)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    before = keep(range(1))
    after = keep(range(1, verdicts + 1))
    tracemalloc.stop()
    return Row(
        title=f"Memory of a cached verdict: {kind}",
        ours="a verdict",
        against="the aim",
        pairs=[((after - before) / verdicts, float(BYTES_EACH))],
        aim=1.0,
        unit="bytes",
        note=(
            f"Measured with tracemalloc over {verdicts:,} verdicts. Each has its own id, subject "
            "and expiry. All share one set of scopes."
        )
        if kind == "opaque M2M token"
        else "",
    )
