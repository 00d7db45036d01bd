"""The log in Redis: append rows, read what came since, wait for more. Sole owner of `redis`."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from clerk_m2m.errors import ConfigurationError, FleetUnavailableError
from clerk_m2m.fleet.rows import Row
from clerk_m2m.fleet.script import APPEND, READ
from clerk_m2m.fleet_settings import Fleet
from clerk_m2m.secret import Secret

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")

# Redis answers within a millisecond, or something is wrong with it. Seconds.
COMMAND_TIMEOUT: Final = 0.1
CONNECT_TIMEOUT: Final = 0.25
# How long one wait for rows takes; after it the head of the log is compared.
WAIT: Final = 1.0
MAX_CONNECTIONS: Final = 8
MAX_ROWS: Final = 100_000
PAGE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The head of the log, and the rows after the number that was asked for, in order.

    `floor` is the last row that was dropped to make room, None where none was.
    """

    epoch: str
    number: int
    first: int
    nonce: str
    floor: Row | None
    rows: tuple[Row, ...]


class Log:
    """The log of one fleet. Belongs to the event loop that it is made in.

    Every method raises `FleetUnavailableError` where Redis does not do what was asked.
    """

    def __init__(self, fleet: Fleet) -> None:
        # One slot of a Redis Cluster: the programs touch both keys.
        self._head = f"{{{fleet.prefix}}}:log:head"
        self._rows = f"{{{fleet.prefix}}}:log:rows"
        self._client = client_of(fleet)

    async def append(self, rows: Iterable[Row]) -> int:
        """Append rows; gives the number of the last one."""
        texts = [text for row in rows for text in _texts(row)]
        answer = await self._eval(APPEND, MAX_ROWS, *texts)
        try:
            return int(answer[1])
        except (TypeError, ValueError, IndexError) as exc:
            raise FleetUnavailableError("Redis gave something else than the log's answer.") from exc

    async def read(self, after: int, *, ending: str = "") -> Page:
        """Read the head, and at most 500 rows after `after`; -1 reads from the oldest on.

        Where the epoch is `ending`, a new one begins.
        """
        answer = await self._eval(READ, after, PAGE, ending)
        try:
            return _page([_text(each) for each in answer])
        except (ValueError, TypeError) as exc:
            raise FleetUnavailableError("Redis gave something else than a log.") from exc

    async def wait(self, after: int) -> None:
        """Wait until there is a row after `after`, for a second at most."""
        # What it gives is not looked at: `read` gives the head and the rows of one moment.
        await self._run(
            self._client.xread({self._rows: f"{after}-0"}, count=1, block=int(WAIT * 1000)),
            WAIT + COMMAND_TIMEOUT,
        )

    async def info(self, section: str) -> dict[str, str]:
        """Ask for a section of what Redis tells of itself."""
        told = await self._run(self._client.info(section), CONNECT_TIMEOUT + COMMAND_TIMEOUT)
        return {_text(name): _text(value) for name, value in told.items()}

    async def aclose(self) -> None:
        """Close the connections."""
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                await self._client.aclose()
        except Exception:  # noqa: BLE001, S110  whatever it raises: nothing is left to be done
            pass

    async def _eval(self, program: str, *arguments: int | str) -> Any:
        call = self._client.eval(
            program, 2, self._head, self._rows, secrets.token_hex(16), *map(str, arguments)
        )
        return await self._run(call, CONNECT_TIMEOUT + COMMAND_TIMEOUT)

    async def _run(self, call: Awaitable[T], timeout: float) -> T:
        try:
            # For the whole of it: the client's own timeouts count anew for each byte that comes.
            async with asyncio.timeout(timeout):
                return await call
        except TimeoutError as exc:
            raise FleetUnavailableError("Redis did not answer in time.") from exc
        except Exception as exc:
            # Not its text: it may quote a password, or what was sent.
            raise FleetUnavailableError(f"Redis failed with {_named(exc)}.") from exc


def require_redis() -> None:
    """Import redis-py, at the start and not at the first request; it takes a tenth of a second.

    Raises `ConfigurationError` where it is not installed.
    """
    try:
        import redis.asyncio  # noqa: F401
    except ImportError as exc:
        raise ConfigurationError(
            "A fleet needs the package redis: install clerk-m2m[fleet]."
        ) from exc


def client_of(fleet: Fleet) -> Redis:
    """Make the client of a fleet's Redis."""
    if not isinstance(fleet.server, Secret):
        client: Redis = fleet.server()
        return client
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    pool = BlockingConnectionPool.from_url(
        fleet.server.reveal(),
        max_connections=MAX_CONNECTIONS,
        timeout=COMMAND_TIMEOUT,
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=WAIT + COMMAND_TIMEOUT,
        socket_keepalive=True,
        # The defaults repeat a call for up to a minute; the callers of `Log` repeat by themselves.
        retry=Retry(NoBackoff(), 0),
        client_name="clerk_m2m",
    )
    return Redis.from_pool(pool)


def _named(exc: Exception) -> str:
    """Name an error of Redis: its class, and the code that a reply of Redis begins with."""
    first = str(exc).partition(" ")[0]
    code = f" ({first})" if first.isalpha() and first.isupper() and len(first) <= 16 else ""
    return f"{type(exc).__name__}{code}"


def _texts(row: Row) -> tuple[str, str, str, str]:
    return row.nonce, row.body, row.signature, str(row.ends_at)


def _text(value: object) -> str:
    # A client of the user's may decode answers, or not.
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _page(answer: list[str]) -> Page:
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


def _floor(text: str) -> Row | None:
    if not text:
        return None
    try:
        nonce, body, signature = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None  # not written by the program
    return Row(nonce=str(nonce), body=str(body), signature=str(signature))
