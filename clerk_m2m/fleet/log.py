"""The log in Redis: append rows, read new rows, wait for more. Only this file imports `redis`."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from clerk_m2m.errors import ConfigurationError, FleetUnavailableError
from clerk_m2m.fleet.rows import Row
from clerk_m2m.fleet.running import running_for
from clerk_m2m.fleet.script import APPEND, READ
from clerk_m2m.fleet_settings import Fleet
from clerk_m2m.secret import Secret

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")

# All times are in seconds. A healthy Redis answers within a millisecond. Requests may wait for the
# calls that have these two limits.
COMMAND_TIMEOUT: Final = 0.1
CONNECT_TIMEOUT: Final = 0.25
# No request waits for a read, so it may take longer.
READ_TIMEOUT: Final = 1.0
# For the first call of a client: the connection, TLS, the handshake, the map of a cluster. Below
# 1 s, after which TCP would repeat a lost SYN: our own new attempt comes sooner.
OPEN_TIMEOUT: Final = 0.85
# How long one wait for rows takes; after it the head of the log is compared.
WAIT: Final = 0.4
MAX_CONNECTIONS: Final = 8
MAX_ROWS: Final = 100_000
PAGE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The head of the log, and the rows after the requested number, in order.

    `floor` is the last row that was dropped to make room, or None.
    """

    epoch: str
    number: int
    first: int
    nonce: str
    floor: Row | None
    rows: tuple[Row, ...]

    @property
    def before(self) -> int:
        """The number of the row before the first row of this page."""
        return self.rows[0].number - 1 if self.rows else self.number


class Log:
    """The log of one fleet. Use it only in the event loop in which it was made.

    Every method raises `FleetUnavailableError` if Redis fails or sends an unreadable answer.
    """

    def __init__(self, fleet: Fleet) -> None:
        # The braces put both keys into one slot of a Redis Cluster, as each program uses both.
        self._head = f"{{{fleet.prefix}}}:log:head"
        self._rows = f"{{{fleet.prefix}}}:log:rows"
        self._fleet = fleet
        self._client: Redis | None = None

    async def append(self, rows: Iterable[Row]) -> int:
        """Append rows, and return the number of the last one."""
        texts = [text for row in rows for text in _texts(row)]
        answer = await self._eval(
            APPEND, MAX_ROWS, *texts, timeout=CONNECT_TIMEOUT + COMMAND_TIMEOUT
        )
        try:
            _, number = answer
            return int(number)
        except (TypeError, ValueError):
            failed = "Redis sent an unreadable answer."
        raise FleetUnavailableError(failed)

    async def read(self, after: int, *, ending: str = "") -> Page:
        """Read the head and at most 500 rows after number `after` (-1: from the oldest row).

        If the epoch is `ending`, this call begins a new epoch.
        """
        answer = await self._eval(READ, after, PAGE, ending, timeout=READ_TIMEOUT)
        try:
            return _page(json.loads(_text(answer)))
        except (TypeError, ValueError, RecursionError):
            failed = "Redis sent an unreadable answer."
        raise FleetUnavailableError(failed)

    async def wait(self, after: int, *, timeout: float) -> list[Row]:
        """Wait for rows after number `after`, for at most `timeout` seconds (`WAIT`).

        Returns the new rows without the head of the log: only `read` shows whether rows were lost.
        """
        answer = await self._run(
            lambda client: client.xread(
                {self._rows: f"{after}-0"}, count=PAGE, block=max(1, int(timeout * 1000))
            ),
            READ_TIMEOUT,
        )
        try:
            return _rows_of(answer)
        except (TypeError, ValueError, LookupError, AttributeError):
            failed = "Redis sent an unreadable answer."
        raise FleetUnavailableError(failed)

    async def info(self, section: str) -> dict[str, str]:
        """Return one section of the answer to `INFO`."""
        told = await self._run(
            lambda client: client.info(section), CONNECT_TIMEOUT + COMMAND_TIMEOUT
        )
        return {_text(name): _text(value) for name, value in told.items()}

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is None:
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT + COMMAND_TIMEOUT):
                await self._client.aclose()
        except Exception:  # noqa: BLE001, S110  the connection is dropped in any case
            pass

    async def _eval(self, program: str, *arguments: int | str, timeout: float) -> Any:
        given = (self._head, self._rows, secrets.token_hex(16), *map(str, arguments))
        return await self._run(lambda client: client.eval(program, 2, *given), timeout)

    async def _run(self, call: Callable[[Redis], Awaitable[T]], timeout: float) -> T:
        try:
            if self._client is None:
                self._client = client_of(self._fleet)
                timeout = OPEN_TIMEOUT
            # A limit for the whole call: the client's own timeouts restart with each byte received.
            async with running_for(timeout):
                return await call(self._client)
        except TimeoutError:
            failed = "Redis did not answer in time."
        except Exception as exc:  # noqa: BLE001  what a server that is no Redis makes a client raise
            # Neither its text nor the error itself is passed on: the text may quote a password or
            # the sent command, and the frames of its traceback hold both.
            failed = f"Redis failed with {_named(exc)}."
        raise FleetUnavailableError(failed)


def check(fleet: Fleet) -> None:
    """Raise `ConfigurationError` if redis-py is missing or rejects the address."""
    if isinstance(fleet.server, Secret):
        client_of(fleet)


def client_of(fleet: Fleet) -> Redis:
    """Return a new client of a fleet's Redis; raises `ConfigurationError`."""
    if not isinstance(fleet.server, Secret):
        client: Redis = fleet.server()
        return client
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as exc:
        raise ConfigurationError(
            "A fleet needs the package redis: install clerk-m2m[fleet]."
        ) from exc
    address = fleet.server
    # A Unix socket has no keepalive, and redis-py rejects the option for it.
    keepalive = {} if address.reveal().startswith("unix:") else {"socket_keepalive": True}
    try:
        pool = BlockingConnectionPool.from_url(
            address.reveal(),
            max_connections=MAX_CONNECTIONS,
            timeout=COMMAND_TIMEOUT,
            # `running_for` limits the whole of every call.
            socket_connect_timeout=None,
            socket_timeout=None,
            # By default a call is retried for up to a minute; the callers of `Log` retry instead.
            retry=Retry(NoBackoff(), 0),
            client_name="clerk_m2m",
            **keepalive,
        )
        # Raises here if the address has an option that redis-py does not know.
        pool.make_connection()  # type: ignore[no-untyped-call]
        return Redis.from_pool(pool)
    except Exception:  # noqa: BLE001  errors of several classes, whose frames hold the address
        pool = None  # its repr shows the password
    raise ConfigurationError(
        "fleet: redis-py rejects the address (CLERK_M2M_FLEET_URL). Check what comes after the "
        "host: the number of the database, and the options after the question mark."
    )


def _named(exc: Exception) -> str:
    """Return the class of an error, with Redis's error code or the class of the first cause."""
    first = str(exc).partition(" ")[0]
    detail = first if first.isalpha() and first.isupper() and len(first) <= 16 else ""
    cause: BaseException = exc
    while (before := cause.__cause__ or cause.__context__) is not None:
        cause = before
    if not detail and isinstance(cause, OSError) and cause is not exc:
        detail = type(cause).__name__
    return type(exc).__name__ + (f" ({detail})" if detail else "")


def _texts(row: Row) -> tuple[str, str, str, str]:
    return row.nonce, row.body, row.signature, str(row.ends_at)


def _text(value: object) -> str:
    # A client that the user made may return str or bytes.
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _page(answer: Any) -> Page:
    if not isinstance(answer, list) or not all(type(each) is str for each in answer):
        raise TypeError("not the answer of the program")
    epoch, number, first, nonce, floor, *fields = answer
    rows = (fields[at : at + 5] for at in range(0, len(fields), 5))
    return Page(
        epoch=epoch,
        number=int(number),
        first=int(first),
        nonce=nonce,
        floor=_floor(floor),
        rows=tuple(
            Row(number=int(n), nonce=own, previous=previous, body=body, signature=signature)
            for n, own, previous, body, signature in rows
        ),
    )


def _rows_of(answer: Any) -> list[Row]:
    """Return the rows of an answer to `XREAD` about one stream, in any of redis-py's shapes."""
    if not answer:
        return []
    # A list of pairs, or a dict. With RESP3 the entries may be inside one more list.
    entries = next(iter(answer.values())) if isinstance(answer, dict) else answer[0][1]
    if entries and isinstance(entries[0], list):
        entries = entries[0]
    rows = []
    for id_, fields in entries:
        texts = {_text(name): _text(value) for name, value in fields.items()}
        number = int(_text(id_).partition("-")[0])
        rows.append(
            Row(
                number=number,
                nonce=texts.get("nonce", ""),
                previous=texts.get("previous", ""),
                body=texts.get("body", ""),
                signature=texts.get("signature", ""),
            )
        )
    return rows


def _floor(text: str) -> Row | None:
    if not text:
        return None
    try:
        nonce, body, signature = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None  # our program did not write it
    return Row(nonce=str(nonce), body=str(body), signature=str(signature))
