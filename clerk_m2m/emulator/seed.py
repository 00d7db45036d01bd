"""Seeding from a TOML file: machines by name, edges, API keys. The file also serves as a graph.

    [machines.orders]
    id = "mch_…"                        # optional: derived from the name
    may_call = ["billing", "mch_…"]     # names in this file, or machine ids
    must_not_call = ["audit"]           # optional; nothing that may_call names
    secret_key = "ak_…"                 # optional: derived from the name
    default_token_ttl = 3600            # optional, seconds

    [[api_keys]]
    name = "reporting"
    subject = "orders"                  # a name in this file, or user_…, org_…, mch_…
    scopes = ["read"]                   # optional
    secret = "ak_…"                     # optional: derived from subject and name

Seeding adds and updates, and never removes. Seeding twice changes nothing.
"""

from __future__ import annotations

import re
import sqlite3
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clerk_m2m.emulator import api_keys, machines
from clerk_m2m.emulator.api_keys import ApiKeyRow
from clerk_m2m.emulator.checks import BodyRule, Number, Text, Texts
from clerk_m2m.emulator.credentials import canonical, find_by_id
from clerk_m2m.emulator.ids import KEY_SUBJECT, MACHINE_ID, SECRET_LENGTH, derived_hex, derived_word

MACHINE_SECRET = re.compile(r"ak_\w{8,}", re.ASCII)
API_KEY_SECRET = re.compile(r"ak_\w{16,}", re.ASCII)  # a shorter text is no API key of Clerk's

MACHINE_FIELDS: Mapping[str, BodyRule] = {
    "id": Text(pattern=MACHINE_ID),
    "may_call": Texts(),
    "must_not_call": Texts(),
    "secret_key": Text(pattern=MACHINE_SECRET),
    "default_token_ttl": Number(minimum=1, maximum=machines.MAX_TOKEN_TTL, whole=True),
}
KEY_FIELDS: Mapping[str, BodyRule] = {
    "name": Text(min_length=3),
    "subject": Text(min_length=1),
    "scopes": Texts(),
    "secret": Text(pattern=API_KEY_SECRET),
}


class SeedError(ValueError):
    """A seed file cannot be used; the text names the file, the table and the key."""

    def __init__(self, file: str, place: str, problem: str) -> None:
        super().__init__(f"{file}: {place}: {problem}")
        self.file = file
        self.place = place
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededMachine:
    """One `[machines.NAME]` table; `callee_ids` are resolved."""

    name: str
    id: str
    callee_ids: tuple[str, ...]
    secret_key: str | None
    default_token_ttl: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededKey:
    """One `[[api_keys]]` table; `subject` is resolved."""

    name: str
    subject: str
    scopes: tuple[str, ...]
    secret: str | None


@dataclass(frozen=True, slots=True)
class Seed:
    """A whole seed file, checked."""

    file: str
    machines: tuple[SeededMachine, ...]
    api_keys: tuple[SeededKey, ...]


def read_seed(given: str | Path | Mapping[str, Any]) -> Seed:
    """Read and check a seed file or a mapping of the same shape; raises `SeedError`."""
    if isinstance(given, Mapping):
        return _Reader("<mapping>", given).read()
    try:
        tables = tomllib.loads(Path(given).read_text(encoding="utf-8"))
    except OSError as exc:
        raise SeedError(str(given), "file", f"cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise SeedError(str(given), "file", f"is not TOML: {exc}") from exc
    return _Reader(str(given), tables).read()


class _Reader:
    def __init__(self, file: str, tables: Mapping[str, Any]) -> None:
        self._file = file
        self._tables = tables
        self._ids: dict[str, str] = {}

    def read(self) -> Seed:
        for name in self._tables:
            if name not in ("machines", "api_keys"):
                raise self._error(name, "is not a table that a seed file has")
        named = self._machine_tables()
        self._ids = {
            name: table.get("id") or derived_word("mch_", name) for name, table in named.items()
        }
        self._refuse_twice("id", {f"machines.{name}": id for name, id in self._ids.items()})
        seed = Seed(
            self._file,
            tuple(self._machine(name, table) for name, table in named.items()),
            tuple(self._keys()),
        )
        secrets = {f"machines.{m.name}": m.secret_key for m in seed.machines}
        self._refuse_twice("secret_key", secrets)
        return seed

    def _machine_tables(self) -> dict[str, dict[str, Any]]:
        tables = self._tables.get("machines", {})
        if not isinstance(tables, Mapping):
            raise self._error("machines", "must be a table of tables")
        for name in tables:
            if not 1 <= len(name) <= 255:
                raise self._error("machines", "a name must have 1 to 255 characters")
        return {
            name: self._checked(f"machines.{name}", table, MACHINE_FIELDS)
            for name, table in tables.items()
        }

    def _machine(self, name: str, table: dict[str, Any]) -> SeededMachine:
        place = f"machines.{name}.may_call"
        callee_ids = tuple(self._machine_id(place, item) for item in table.get("may_call", ()))
        if len(set(callee_ids)) > machines.MAX_EDGES:
            raise self._error(place, f"must have at most {machines.MAX_EDGES} items")
        place = f"machines.{name}.must_not_call"
        forbidden = {self._machine_id(place, item) for item in table.get("must_not_call", ())}
        if both := forbidden.intersection(callee_ids):
            raise self._error(place, f"names {min(both)}, which may_call names too")
        return SeededMachine(
            name=name,
            id=self._ids[name],
            callee_ids=callee_ids,
            secret_key=table.get("secret_key"),
            default_token_ttl=table.get("default_token_ttl"),
        )

    def _machine_id(self, place: str, name_or_id: str) -> str:
        if name_or_id in self._ids:
            return self._ids[name_or_id]
        if MACHINE_ID.fullmatch(name_or_id):
            return name_or_id
        raise self._error(place, f"{name_or_id!r} is no machine of this file and no machine id")

    def _keys(self) -> list[SeededKey]:
        tables = self._tables.get("api_keys", [])
        if not isinstance(tables, list):
            raise self._error("api_keys", "must be an array of tables")
        keys = [self._key(f"api_keys[{index}]", table) for index, table in enumerate(tables)]
        places = [f"api_keys[{index}]" for index in range(len(keys))]
        self._refuse_twice(
            "name", {place: f"{k.subject} {k.name}" for place, k in zip(places, keys, strict=True)}
        )
        self._refuse_twice("secret", {p: k.secret for p, k in zip(places, keys, strict=True)})
        return keys

    def _key(self, place: str, table: object) -> SeededKey:
        checked = self._checked(place, table, KEY_FIELDS)
        for name in ("name", "subject"):
            if name not in checked:
                raise self._error(place, f"{name} is missing")
        if checked["name"] != checked["name"].strip():
            raise self._error(f"{place}.name", "must not begin or end with a space")
        subject = self._ids.get(checked["subject"], checked["subject"])
        if not KEY_SUBJECT.fullmatch(subject):
            problem = f"{subject!r} is no machine of this file and no user, org or machine id"
            raise self._error(f"{place}.subject", problem)
        return SeededKey(
            name=checked["name"],
            subject=subject,
            scopes=tuple(checked.get("scopes", ())),
            secret=checked.get("secret"),
        )

    def _checked(self, place: str, table: object, rules: Mapping[str, BodyRule]) -> dict[str, Any]:
        if not isinstance(table, Mapping):
            raise self._error(place, "must be a table")
        checked = {}
        for key, value in table.items():
            if key not in rules:
                raise self._error(f"{place}.{key}", "is not a key that this table has")
            try:
                checked[key] = rules[key].check(value)
            except ValueError as exc:
                raise self._error(f"{place}.{key}", str(exc)) from exc
        return checked

    def _refuse_twice(self, key: str, values: Mapping[str, str | None]) -> None:
        seen: dict[str, str] = {}
        for place, value in values.items():
            if value is not None and value in seen:
                raise self._error(f"{place}.{key}", f"is the same as in {seen[value]}")
            if value is not None:
                seen[value] = place

    def _error(self, place: str, problem: str) -> SeedError:
        return SeedError(self._file, place, problem)


def apply_seed(db: sqlite3.Connection, seed: Seed, now: int) -> None:
    """Add and update what the seed names, within the transaction given."""
    try:
        for machine in seed.machines:
            _put_machine(db, machine, now)
        _put_undeclared(db, seed, now)
        _put_edges(db, seed, now)
        for key in seed.api_keys:
            _put_key(db, key, now)
    except sqlite3.IntegrityError as exc:
        problem = f"clashes with what the database holds ({exc})"
        raise SeedError(seed.file, "file", problem) from exc


def _put_machine(db: sqlite3.Connection, seeded: SeededMachine, now: int) -> None:
    machine = machines.find_machine(db, seeded.id)
    if machine is None:
        machines.insert_machine(
            db,
            name=seeded.name,
            now=now,
            machine_id=seeded.id,
            default_token_ttl=seeded.default_token_ttl or machines.DEFAULT_TOKEN_TTL,
            secret_key=seeded.secret_key
            or derived_word("ak_", "machine", seeded.name, length=SECRET_LENGTH),
        )
        return
    ttl = seeded.default_token_ttl or machine.default_token_ttl
    if (machine.name, machine.default_token_ttl) != (seeded.name, ttl):
        machines.change_machine(db, machine, name=seeded.name, default_token_ttl=ttl, now=now)
    if seeded.secret_key not in (None, machines.secret_key(db, machine)):
        machines.replace_secret_key(db, machine, secret=seeded.secret_key, grace=0, now=now)


def _put_undeclared(db: sqlite3.Connection, seed: Seed, now: int) -> None:
    """Machines that the file names only by id: the id is used as the name."""
    known = {row[0] for row in db.execute("SELECT id FROM machines")}
    called = {callee_id for machine in seed.machines for callee_id in machine.callee_ids}
    subjects = {key.subject for key in seed.api_keys if key.subject.startswith("mch_")}
    for machine_id in sorted((called | subjects) - known):
        machines.insert_machine(
            db,
            name=machine_id,
            now=now,
            machine_id=machine_id,
            secret_key=derived_word("ak_", "machine", machine_id, length=SECRET_LENGTH),
        )


def _put_edges(db: sqlite3.Connection, seed: Seed, now: int) -> None:
    seqs = dict(db.execute("SELECT id, seq FROM machines").fetchall())
    db.executemany(
        "INSERT OR IGNORE INTO edges VALUES (?, ?, ?)",
        (
            (seqs[machine.id], seqs[callee_id], now)
            for machine in seed.machines
            for callee_id in machine.callee_ids
        ),
    )
    over = db.execute(
        "SELECT m.name FROM edges JOIN machines AS m ON m.seq = caller"
        " GROUP BY caller HAVING count(*) > ? LIMIT 1",
        (machines.MAX_EDGES,),
    ).fetchone()
    if over is not None:
        problem = f"with the edges in the database there are more than {machines.MAX_EDGES}"
        raise SeedError(seed.file, f"machines.{over[0]}.may_call", problem)


def _put_key(db: sqlite3.Connection, seeded: SeededKey, now: int) -> None:
    key_id = derived_hex("ak_", seeded.subject, seeded.name)
    derived = derived_word("ak_", "key", seeded.subject, seeded.name, length=SECRET_LENGTH)
    known = find_by_id(db, ApiKeyRow, key_id)
    if known is None:
        new = api_keys.new_key(
            key_id=key_id,
            name=seeded.name,
            subject=seeded.subject,
            scopes=seeded.scopes,
            secret=seeded.secret or derived,
            now=now,
        )
        api_keys.insert_key(db, new)
        return
    scopes, secret = canonical(list(seeded.scopes)), seeded.secret or known.secret
    if (known.scopes, known.secret) != (scopes, secret):
        db.execute(
            "UPDATE api_keys SET scopes = ?, secret = ?, updated_at = ? WHERE id = ?",
            (scopes, secret, now, key_id),
        )
