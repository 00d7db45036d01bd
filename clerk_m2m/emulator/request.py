"""A request as it was received, before anything is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clerk_m2m.emulator.checks import MAX_BODY_BYTES

if TYPE_CHECKING:
    from starlette.types import Receive, Scope


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `content` is `None` where the body is too large to be kept."""

    method: str
    path: str
    query_string: bytes
    media_type: str
    authorization: tuple[str, ...]
    api_version: str
    hosts: tuple[str, ...]
    origins: tuple[str, ...]
    content: bytes | None


async def read_request(scope: Scope, receive: Receive) -> Request:
    """The request that this ASGI connection carries."""
    headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    return Request(
        method=scope["method"].upper(),
        path=scope["path"],
        query_string=scope.get("query_string", b""),
        media_type=_first(headers, b"content-type"),
        authorization=_all(headers, b"authorization"),
        api_version=_first(headers, b"clerk-api-version"),
        hosts=_all(headers, b"host"),
        origins=_all(headers, b"origin"),
        content=await _read_body(receive),
    )


def _all(headers: list[tuple[bytes, str]], wanted: bytes) -> tuple[str, ...]:
    return tuple(value for name, value in headers if name == wanted)


def _first(headers: list[tuple[bytes, str]], wanted: bytes) -> str:
    return next((value for name, value in headers if name == wanted), "")


async def _read_body(receive: Receive) -> bytes | None:
    """Read the whole body; one that is too large is read to its end too, but not kept.

    A client that is still sending would see its connection reset instead of the answer.
    """
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= MAX_BODY_BYTES:
            chunks.append(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks) if size <= MAX_BODY_BYTES else None
