"""The emulator's state: one SQLite database, in memory or in a file.

The only owner of the connection. A file is kept in WAL mode: a transaction that was committed
is in the file when the answer goes out, so killing the process loses nothing that was answered.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import weakref
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

R = TypeVar("R")

# How long a transaction of this process waits for one of another, and how often it looks.
BUSY_SECONDS = 5.0
RETRY_SECONDS = 0.01

SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS signing_keys (
    seq INTEGER PRIMARY KEY, kid TEXT UNIQUE NOT NULL, pem TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS machines (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE NOT NULL,
    name TEXT NOT NULL,
    folded_name TEXT NOT NULL,
    default_token_ttl INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS machines_by_age ON machines (created_at, seq);
CREATE INDEX IF NOT EXISTS machines_by_name ON machines (name, seq);
CREATE TABLE IF NOT EXISTS machine_secrets (
    secret TEXT PRIMARY KEY,
    machine INTEGER NOT NULL REFERENCES machines (seq) ON DELETE CASCADE,
    valid_until INTEGER
);
CREATE INDEX IF NOT EXISTS secrets_by_machine ON machine_secrets (machine);
CREATE TABLE IF NOT EXISTS edges (
    caller INTEGER NOT NULL REFERENCES machines (seq) ON DELETE CASCADE,
    callee INTEGER NOT NULL REFERENCES machines (seq) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (caller, callee)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS edges_by_callee ON edges (callee);
CREATE TABLE IF NOT EXISTS m2m_tokens (
    seq INTEGER PRIMARY KEY,
    id TEXT UNIQUE NOT NULL,
    token TEXT UNIQUE NOT NULL,
    subject TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
    claims TEXT NOT NULL,
    scopes TEXT NOT NULL,
    revoked INTEGER NOT NULL DEFAULT 0,
    revocation_reason TEXT,
    expires_at INTEGER,
    last_used_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS m2m_tokens_by_subject ON m2m_tokens (subject);
CREATE TABLE IF NOT EXISTS api_keys (
    seq INTEGER PRIMARY KEY,
    id TEXT UNIQUE NOT NULL,
    secret TEXT UNIQUE NOT NULL,
    type TEXT NOT NULL,
    subject TEXT NOT NULL,
    name TEXT NOT NULL,
    folded_name TEXT NOT NULL,
    description TEXT,
    claims TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_by TEXT,
    revoked INTEGER NOT NULL DEFAULT 0,
    revocation_reason TEXT,
    expires_at INTEGER,
    last_used_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS api_keys_by_subject ON api_keys (subject);
CREATE TABLE IF NOT EXISTS oauth_tokens (
    seq INTEGER PRIMARY KEY,
    id TEXT UNIQUE NOT NULL,
    token TEXT UNIQUE NOT NULL,
    token_format TEXT NOT NULL,
    client_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    scopes TEXT NOT NULL,
    audience TEXT,
    actor TEXT,
    revoked INTEGER NOT NULL DEFAULT 0,
    revocation_reason TEXT,
    expires_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);
"""

# Columns that a file of an older version lacks.
_ADDED_COLUMNS = (("oauth_tokens", "audience TEXT"), ("oauth_tokens", "actor TEXT"))

# Children first, so that no cascade has work to do.
_RESOURCE_TABLES = (
    "oauth_tokens",
    "api_keys",
    "m2m_tokens",
    "edges",
    "machine_secrets",
    "machines",
)


class Store:
    """One connection, one lock: transactions of this process take turns.

    Between processes SQLite's own locks do the same. A transaction that has to wait for another
    process releases this process's lock while it waits.
    """

    def __init__(self, database: str | Path) -> None:
        self._lock = threading.RLock()
        self._thread = threading.local()
        self._last_uses: dict[tuple[str, str], int] = {}
        self._db = sqlite3.connect(
            str(database), timeout=0, isolation_level=None, check_same_thread=False
        )
        # Registered first: the connection is closed even if the rest of this method raises or a
        # test forgets to close its emulator. Python 3.13 warns about an unclosed connection.
        weakref.finalize(self, self._db.close)
        self._db.execute("PRAGMA foreign_keys = ON")
        if str(database) != ":memory:":
            self._enter_wal()
        with self.writing() as db:
            for statement in SCHEMA.split(";"):
                db.execute(statement)
            _add_missing_columns(db)

    def _enter_wal(self) -> None:
        # SQLite does not wait for its lock here when two processes open a new file at once.
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_SECONDS)
        self._db.execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that reads one consistent state, also while another process writes.

        Its block may write too; that raises while another process writes.
        """
        with self._transaction("BEGIN") as db:
            yield db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes: all of it or, when the block raises, none."""
        with self._transaction("BEGIN IMMEDIATE") as db:
            noted = self._last_uses.copy()
            for (table, id), used_at in noted.items():
                update = f"UPDATE {table} SET last_used_at = ? WHERE id = ?"  # noqa: S608 - a name from the code
                db.execute(update, (used_at, id))
            yield db
        for use, used_at in noted.items():
            if self._last_uses.get(use) == used_at:
                del self._last_uses[use]

    def note_last_use(self, table: str, id: str, used_at: int) -> None:
        """Record `last_used_at` of this row; the next transaction that can write stores it."""
        self._last_uses[table, id] = used_at

    def write_last_uses(self) -> None:
        """Write the recorded uses; those that cannot be written now stay recorded."""
        if not self._last_uses:
            return
        try:
            with self.writing():
                pass
        except sqlite3.Error:  # locked or full: a verification must not fail for this
            pass

    @contextmanager
    def without_waiting(self) -> Iterator[None]:
        """Within the block, in this thread, a transaction that would wait raises (`is_busy`)."""
        self._thread.waits = False
        try:
            yield
        finally:
            self._thread.waits = True

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        self._begin(begin)
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            # After some errors, such as a full disk, SQLite has already rolled back.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        finally:
            self._lock.release()

    def _begin(self, statement: str) -> None:
        """Take the lock and begin a transaction; release the lock if that fails."""
        waits = getattr(self._thread, "waits", True)
        deadline = time.monotonic() + (BUSY_SECONDS if waits else 0)
        while True:
            self._lock.acquire()
            try:
                self._db.execute(statement)
                return
            except sqlite3.Error as exc:
                self._lock.release()
                if not is_busy(exc) or time.monotonic() >= deadline:
                    raise
            time.sleep(RETRY_SECONDS)

    def close(self) -> None:
        """Close the connection. State in memory is lost; a file stays."""
        self.write_last_uses()
        with self._lock:
            self._db.close()


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process holds the database; trying again may succeed."""
    # The extended codes, which say why, carry the plain code in their low byte.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _add_missing_columns(db: sqlite3.Connection) -> None:
    for table, column in _ADDED_COLUMNS:
        present = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
        if column.split()[0] not in present:
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column}")


def setting(db: sqlite3.Connection, name: str, default: str) -> str:
    """Return this setting; if the database does not have it yet, store `default` first."""
    db.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (name, default))
    row = db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
    return str(row[0])


def keep_setting(db: sqlite3.Connection, name: str, value: str) -> None:
    """Store this value of a setting, replacing the previous one."""
    db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))


@cache
def _columns(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def select(db: sqlite3.Connection, kind: type[R], tail: str, given: Sequence[Any]) -> list[R]:
    """The rows of a table as dataclasses; the fields of `kind` are the columns."""
    hashable: Any = kind  # type[R] is not, to mypy
    columns = _columns(hashable)
    sql = f"SELECT {', '.join(columns)} FROM {tail}"  # noqa: S608 - names from the code
    rows = db.execute(sql, given)
    return [kind(**dict(zip(columns, row, strict=True))) for row in rows]


def select_one(db: sqlite3.Connection, kind: type[R], tail: str, *given: Any) -> R | None:
    """The first matching row, or None."""
    return next(iter(select(db, kind, tail, given)), None)


def count(db: sqlite3.Connection, tail: str, given: Sequence[Any] = ()) -> int:
    """The number of matching rows."""
    return int(db.execute(f"SELECT count(*) FROM {tail}", given).fetchone()[0])  # noqa: S608 - as above


def insert(db: sqlite3.Connection, table: str, row: Any, **more: Any) -> None:
    """Store a dataclass as a row, with more columns beside its fields."""
    values = {field.name: getattr(row, field.name) for field in fields(row)} | more
    marks = ", ".join("?" * len(values))
    sql = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})"  # noqa: S608 - as above
    db.execute(sql, tuple(values.values()))


def delete_resources(db: sqlite3.Connection) -> None:
    """Empty every table but the instance's own: its settings and signing keys stay."""
    for table in _RESOURCE_TABLES:
        db.execute(f"DELETE FROM {table}")  # noqa: S608 - as above
