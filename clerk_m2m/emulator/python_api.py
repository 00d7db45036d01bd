"""The Python side of the emulator: machines, edges and credentials made in its state directly."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from clerk_m2m.emulator import api_keys, credentials, m2m_tokens, machines, oauth_tokens
from clerk_m2m.emulator.api_keys import ApiKeyRow
from clerk_m2m.emulator.credentials import CredentialRow
from clerk_m2m.emulator.ids import KEY_SUBJECT, MACHINE_ID, USER_ID, random_hex, random_word
from clerk_m2m.emulator.instance import ISSUER, OPAQUE, Instance, TokenFormat
from clerk_m2m.emulator.m2m_tokens import M2MTokenRow, MintRequest
from clerk_m2m.emulator.oauth_tokens import OAuthTokenRow
from clerk_m2m.emulator.responses import InvalidField, Refusal
from clerk_m2m.emulator.signing import CATEGORY_SESSION, CATEGORY_TEMPLATE, rotate, sign

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedMachine:
    """A machine of the emulator and its secret key."""

    id: str
    name: str
    secret_key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedToken:
    """An M2M or OAuth token of the emulator: its id, and the value to present."""

    id: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedApiKey:
    """An API key of the emulator: its id, and the secret to present."""

    id: str
    secret: str = field(repr=False)


MachineOrId = EmulatedMachine | str


class PythonAPI:
    """Makes machines, edges and credentials of one instance; `Emulator` is one.

    An unknown machine, token or key is a `LookupError`, a bad argument a `ValueError`.
    """

    issuer = ISSUER

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    @property
    def secret_key(self) -> str:
        """The instance secret key, `sk_test_…`."""
        return self._instance.secret_key

    @property
    def instance_id(self) -> str:
        """The instance's id, `ins_…`; also the name of its first signing key."""
        return self._instance.instance_id

    def now(self) -> float:
        """The emulator's own time in Unix seconds: the clock plus what `travel` added."""
        return self._instance.now()

    # Machines and edges

    def add_machine(
        self,
        name: str,
        *,
        id: str | None = None,
        may_call: Sequence[MachineOrId] = (),
        default_token_ttl: int = machines.DEFAULT_TOKEN_TTL,
        secret_key: str | None = None,
    ) -> EmulatedMachine:
        """Add a machine that may call these; `default_token_ttl` is seconds.

        Raises `ValueError` for an id that is taken or malformed, `LookupError` for a callee that
        does not exist.
        """
        if id is not None and not MACHINE_ID.fullmatch(id):
            raise ValueError(f"a machine id is mch_ and 27 word characters, not {id!r}")
        with self._writing() as db:
            if id is not None and machines.find_machine(db, id) is not None:
                raise ValueError(f"there is a machine {id} already")
            machine = machines.insert_machine(
                db,
                name=name,
                now=self._instance.now_ms(),
                machine_id=id,
                default_token_ttl=default_token_ttl,
                secret_key=secret_key,
            )
            for callee in map(_id, may_call):
                if machines.find_machine(db, callee) is None:
                    raise LookupError(f"there is no machine {callee!r}: give a machine, or its id")
            callees = [machines.existing_machine(db, _id(callee)) for callee in may_call]
            machines.add_edges(db, machine, callees, self._instance.now_ms())
            return _emulated(db, machine)

    def machine(self, machine_id: str) -> EmulatedMachine:
        """The machine with this id, for instance a seeded one; `LookupError` if there is none."""
        with self._writing() as db:
            return _emulated(db, machines.existing_machine(db, machine_id))

    def delete_machine(self, machine: MachineOrId) -> None:
        """Remove the machine and its edges, tokens and keys; `LookupError` if there is none."""
        with self._writing() as db:
            machines.remove_machine(db, machines.existing_machine(db, _id(machine)))

    def allow(self, caller: MachineOrId, callee: MachineOrId) -> None:
        """Add the edge; tokens minted before keep their scopes, so they may not call `callee`."""
        with self._writing() as db:
            found = machines.existing_machine(db, _id(caller))
            callees = [machines.existing_machine(db, _id(callee))]
            machines.add_edges(db, found, callees, self._instance.now_ms())

    def cut(self, caller: MachineOrId, callee: MachineOrId) -> None:
        """Delete the edge if it exists; tokens minted before keep their scopes."""
        with self._writing() as db:
            found = machines.existing_machine(db, _id(caller))
            machines.remove_edge(db, found, machines.existing_machine(db, _id(callee)))

    # Credentials

    def mint_m2m_token(
        self,
        machine: MachineOrId,
        *,
        token_format: TokenFormat = OPAQUE,
        seconds_until_expiration: float | None = None,
        claims: Mapping[str, Any] | None = None,
    ) -> EmulatedToken:
        """Mint a token of this machine; its scopes are the machines that it may call now.

        `seconds_until_expiration` is the machine's `default_token_ttl` unless given; `math.inf`
        never expires (opaque only). Raises `LookupError` for an unknown machine, `ValueError` for
        claims of a JWT that would replace `iss sub exp nbf iat jti`.
        """
        request = MintRequest(
            token_format=token_format,
            seconds_until_expiration=seconds_until_expiration,
            claims=None if claims is None else dict(claims),
        )
        with self._writing() as db:
            found = machines.existing_machine(db, _id(machine))
            token = m2m_tokens.mint(db, self._instance, found, request)
        return EmulatedToken(id=token.id, token=token.token)

    def revoke_m2m_token(self, token: EmulatedToken | str, reason: str | None = None) -> None:
        """Revoke an opaque M2M token, given or by its id; `LookupError` if there is none."""
        self._revoke(M2MTokenRow, token, reason, "opaque M2M token")

    def add_api_key(
        self,
        name: str,
        *,
        subject: MachineOrId,
        scopes: Sequence[str] = (),
        claims: Any = None,
        seconds_until_expiration: float | None = None,
        secret: str | None = None,
    ) -> EmulatedApiKey:
        """Add an API key of a user, an organization or a machine; by default it never expires.

        Raises `ValueError` for a subject that is none of the three and for `scopes` in one string,
        `LookupError` for a machine that does not exist.
        """
        subject_id = _id(subject)
        if not KEY_SUBJECT.fullmatch(subject_id):
            raise ValueError(f"a subject is user_, org_ or mch_ and 27 more, not {subject_id!r}")
        now = self._instance.now_ms()
        end = seconds_until_expiration
        with self._writing() as db:
            if subject_id.startswith("mch_"):
                machines.existing_machine(db, subject_id)
            key = api_keys.new_key(
                name=name,
                subject=subject_id,
                now=now,
                expires_at=None if end is None else credentials.expires_at(now, end),
                scopes=_scopes(scopes),
                claims=claims,
                secret=secret,
            )
            api_keys.insert_key(db, key)
        return EmulatedApiKey(id=key.id, secret=key.secret)

    def revoke_api_key(self, key: EmulatedApiKey | str, reason: str | None = None) -> None:
        """Revoke an API key, given or by its id; `LookupError` if there is none."""
        self._revoke(ApiKeyRow, key, reason, "API key")

    def add_oauth_token(
        self,
        *,
        subject: str,
        scopes: Sequence[str] = (),
        client_id: str = "client_emulator",
        token_format: TokenFormat = OPAQUE,
        seconds_until_expiration: float = 86_400,
        audience: str | Sequence[str] | None = None,
        actor: Mapping[str, Any] | None = None,
    ) -> EmulatedToken:
        """Add an OAuth access token of a user, which the Backend API cannot create.

        `audience` and `actor` are its `aud` and `act`; without them it has none. Raises
        `ValueError` for a subject that is not `user_` and 27 word characters, and for `scopes` in
        one string.
        """
        if not USER_ID.fullmatch(subject):
            raise ValueError(f"a subject is user_ and 27 word characters, not {subject!r}")
        with self._writing() as db:
            token = oauth_tokens.issue(
                db,
                self._instance,
                subject=subject,
                scopes=_scopes(scopes),
                client_id=client_id,
                token_format=token_format,
                seconds_until_expiration=seconds_until_expiration,
                audience=audience,
                actor=actor,
            )
        return EmulatedToken(id=token.id, token=token.token)

    def revoke_oauth_token(self, token: EmulatedToken | str, reason: str | None = None) -> None:
        """Revoke an OAuth access token, given or by its id; `LookupError` if there is none."""
        self._revoke(OAuthTokenRow, token, reason, "OAuth token")

    def _revoke(
        self,
        kind: type[CredentialRow],
        given: EmulatedToken | EmulatedApiKey | str,
        reason: str | None,
        name: str,
    ) -> None:
        credential_id = _id(given)
        with self._writing() as db:
            found = credentials.find_by_id(db, kind, credential_id)
            if found is None:
                raise LookupError(f"no {name} {credential_id}")
            credentials.revoke(db, found, reason, self._instance.now_ms())

    # JWTs and the keys that sign them

    def mint_session_jwt(
        self,
        user_id: str = "user_" + "0" * 27,
        *,
        seconds_until_expiration: float = 60,
        claims: Mapping[str, Any] | None = None,
    ) -> str:
        """A browser session's JWT: correctly signed, but not a machine credential."""
        extra = {"sid": random_word("sess_"), "azp": "http://localhost", "v": 2, **(claims or {})}
        return self._user_jwt(user_id, CATEGORY_SESSION, seconds_until_expiration, extra)

    def mint_template_jwt(
        self,
        user_id: str = "user_" + "0" * 27,
        *,
        seconds_until_expiration: float = 60,
        claims: Mapping[str, Any] | None = None,
    ) -> str:
        """A JWT of a JWT template: correctly signed, but not a machine credential."""
        return self._user_jwt(user_id, CATEGORY_TEMPLATE, seconds_until_expiration, claims or {})

    def _user_jwt(
        self, user_id: str, category: str, seconds: float, claims: Mapping[str, Any]
    ) -> str:
        now = int(self.now())
        times = {"iat": now, "nbf": now, "exp": now + int(seconds)}
        registered = {"iss": self.issuer, "sub": user_id, "jti": random_hex(""), **times}
        return self.sign_jwt({**registered, **claims}, headers={"cat": category})

    def sign_jwt(
        self,
        claims: Mapping[str, Any],
        *,
        headers: Mapping[str, Any] | None = None,
        algorithm: Literal["RS256", "HS256", "none"] = "RS256",
        secret: bytes = b"",
    ) -> str:
        """Sign these claims and no others, for forged and odd tokens in tests.

        `headers` are added to `alg`, `typ` and `kid`, and one that is `None` is left out.
        `secret` signs where `algorithm` is `HS256`.
        """
        with self._writing() as db:
            key = self._instance.keys(db)[0]
        return sign(key, claims, headers, algorithm=algorithm, secret=secret)

    def rotate_signing_key(self, *, keep_previous: bool = True) -> str:
        """Sign with a new key from now on. By default the old keys stay in the key set.

        Returns the new key's `kid`.
        """
        with self._writing() as db:
            return rotate(db, self.instance_id, keep_previous=keep_previous).kid

    def jwks(self) -> dict[str, Any]:
        """The key set, as `GET /v1/jwks` answers it (operation GetJWKS)."""
        with self._writing() as db:
            return {"keys": [key.jwk() for key in self._instance.keys(db)]}

    def public_key_pem(self) -> str:
        """The public key that signs now, as PEM: what `CLERK_JWT_KEY` takes."""
        with self._writing() as db:
            return self._instance.keys(db)[0].public_pem()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that raises refusals as `LookupError` and `ValueError`."""
        try:
            with self._instance.store.writing() as db:
                yield db
        except InvalidField as exc:
            raise ValueError(exc.message) from exc
        except sqlite3.IntegrityError as exc:
            raise ValueError(f"this id or secret is taken: {exc}") from exc
        except Refusal as exc:
            error = LookupError if exc.status == 404 else ValueError
            raise error(exc.message) from exc


def _emulated(db: sqlite3.Connection, machine: machines.MachineRow) -> EmulatedMachine:
    secret = machines.secret_key(db, machine)
    return EmulatedMachine(id=machine.id, name=machine.name, secret_key=secret)


def _id(given: EmulatedMachine | EmulatedToken | EmulatedApiKey | str) -> str:
    return given if isinstance(given, str) else given.id


def _scopes(given: Sequence[str]) -> list[str]:
    if isinstance(given, str):
        raise ValueError("scopes must be a list of scopes, not one string")
    return list(given)
