"""The emulator of Clerk's Backend API in its own process, with credentials to verify."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.measure import Effort
from bench.processes import child, serve
from clerk_m2m import Settings
from clerk_m2m.emulator import Emulator

OPAQUE_TOKENS = 6000
JWTS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """An instance with one caller -> callee edge, and credentials of that caller."""

    origin: str
    secret_key: str
    callee: str
    callee_key: str
    caller: str
    public_key: str
    opaque_tokens: list[str]
    jwts: list[str]
    api_key: str

    def settings(self, **given: Any) -> Settings:
        """Return the callee's settings with only its machine key; `given` is added."""
        return Settings(
            machine_id=self.callee,
            machine_secret_key=self.callee_key,
            api_url=self.origin,
            unknown_rate=1e6,
            **given,
        )

    def jwt_settings(self) -> Settings:
        """Return settings that verify JWTs offline, with a static graph."""
        graph = {self.caller: [self.callee]}
        return self.settings(jwt_key=self.public_key, graph=graph)


@contextmanager
def running(effort: Effort) -> Iterator[Upstream]:
    """Run the emulator's process."""
    with child("bench.upstream") as process:
        wanted = {"opaque": effort.count(OPAQUE_TOKENS), "jwts": effort.count(JWTS)}
        yield Upstream(**process.ask(wanted))


def _serve_emulator() -> None:
    wanted = json.loads(sys.stdin.readline())
    emulator = Emulator()
    callee = emulator.add_machine("callee")
    caller = emulator.add_machine("caller", may_call=[callee])
    answer = {
        "secret_key": emulator.secret_key,
        "callee": callee.id,
        "callee_key": callee.secret_key,
        "caller": caller.id,
        "public_key": emulator.public_key_pem(),
        "opaque_tokens": [emulator.mint_m2m_token(caller).token for _ in range(wanted["opaque"])],
        "jwts": [
            emulator.mint_m2m_token(caller, token_format="jwt").token for _ in range(wanted["jwts"])
        ],
        "api_key": emulator.add_api_key("bench", subject="user_" + "b" * 27).secret,
    }
    serve(emulator, answer)


if __name__ == "__main__":
    _serve_emulator()
