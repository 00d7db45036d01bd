"""One emulated Clerk instance: its store, keys, clock and rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from clerk_m2m.emulator.ids import random_word
from clerk_m2m.emulator.signing import SigningKey, add_signing_key, signing_keys
from clerk_m2m.emulator.store import Store, keep_setting, setting

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

ISSUER = "https://clerk.emulator.test"

DeadTokenAnswer = Literal["error", "flag"]
TokenFormat = Literal["opaque", "jwt"]
OAuthInstants = Literal["seconds", "milliseconds"]
AS_ERROR: DeadTokenAnswer = "error"
OPAQUE: TokenFormat = "opaque"
JWT: TokenFormat = "jwt"
SECONDS: OAuthInstants = "seconds"


class Instance:
    """The configuration and the database that every operation uses."""

    def __init__(
        self,
        *,
        database: str | Path,
        secret_key: str | None,
        clock: Callable[[], float],
        dead_token_answer: DeadTokenAnswer,
        oauth_instants: OAuthInstants,
        signing_key: str | None,
    ) -> None:
        if dead_token_answer not in ("error", "flag"):
            raise ValueError(f"dead_token_answer must be 'error' or 'flag': {dead_token_answer!r}")
        if oauth_instants not in ("seconds", "milliseconds"):
            raise ValueError(
                f"oauth_instants must be 'seconds' or 'milliseconds': {oauth_instants!r}"
            )
        self.store = Store(database)
        self.dead_token_answer = dead_token_answer
        self.oauth_instants = oauth_instants
        self.seconds_travelled = 0.0
        self._clock = clock
        with self.store.writing() as db:
            if secret_key is not None:
                keep_setting(db, "secret_key", secret_key)
            self.secret_key = setting(db, "secret_key", random_word("sk_test_", 40))
            self.instance_id = setting(db, "instance_id", random_word("ins_"))
            if signing_key is not None:
                SigningKey(self.instance_id, signing_key).public_pem()
                add_signing_key(db, self.instance_id, signing_key)

    def now(self) -> float:
        """The instance's own time, in Unix seconds."""
        return self._clock() + self.seconds_travelled

    def now_ms(self) -> int:
        """The instance's own time, as the API writes it: milliseconds."""
        return int(self.now() * 1000)

    def keys(self, db: sqlite3.Connection) -> list[SigningKey]:
        """The key pairs; the first one signs."""
        return signing_keys(db, self.instance_id)


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """The holder of a request's secret key: a machine, or the instance (None)."""

    machine_id: str | None


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """One request to one operation, already checked against the contract."""

    instance: Instance
    db: sqlite3.Connection
    now: int
    holder: KeyHolder
    api_version: str
    path: dict[str, str]
    query: dict[str, Any]
    body: dict[str, Any]
