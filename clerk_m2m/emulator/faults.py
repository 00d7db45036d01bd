"""Scripted faults: which call fails, how often, and what is answered instead."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from clerk_m2m.emulator.responses import Headers, Response, error_response, json_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FaultKind = Literal[
    "status",
    "delay",
    "hang",
    "drop",
    "drip",
    "malformed_json",
    "wrong_shape",
    "html",
    "oversize",
    "body",
    "revoked",
    "expired",
    "inactive",
]

OVERSIZE_BYTES = 2 * 1024 * 1024

# These keep the operation's own answer, or a part of it.
_NEEDS_RESPONSE = frozenset({"delay", "drip", "revoked", "expired"})

_UNWRITABLE = re.compile(r"[^\x20-\x7e]")
_HTML = b"<!doctype html><html><title>502 Bad Gateway</title><h1>Bad Gateway</h1></html>"


class ConnectionDroppedError(ConnectionError):
    """A `drop` fault in process, over ASGI, where there is no socket to close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault on one operation, or on every one (`"*"`).

    `delay` and `pace` are seconds. `times` is how many more calls it applies to; `None` is until
    it is cleared. With `performed` the operation is carried out before its answer is replaced.
    """

    id: int
    operation: str
    kind: FaultKind
    status: int | None = None
    retry_after: int | str | None = None
    delay: float = 0.0
    pace: float = 1.0
    body: bytes | None = None
    headers: Headers = ()
    times: int | None = None
    performed: bool = False

    def as_json(self) -> dict[str, Any]:
        """The fault as `GET /_emulator/faults` shows it."""
        return {
            "id": self.id,
            "operation": self.operation,
            "kind": self.kind,
            "status": self.status,
            "retry_after": self.retry_after,
            "delay": self.delay,
            "pace": self.pace,
            "times": self.times,
            "performed": self.performed,
        }


async def spoilt_answer(fault: Fault, perform: Callable[[], Awaitable[Response]]) -> Response:
    """The answer to send instead of the operation's own."""
    response = await perform() if fault.performed or fault.kind in _NEEDS_RESPONSE else None
    spoilt = _SPOILT[fault.kind](fault, response or json_response({}))
    return replace(spoilt, headers=(*spoilt.headers, *_extra_headers(fault)))


def _extra_headers(fault: Fault) -> Headers:
    if fault.retry_after is None:
        return fault.headers
    return (("retry-after", str(fault.retry_after)), *fault.headers)


class FaultBook:
    """The faults that are not used up; the oldest applies first."""

    def __init__(self, operations: frozenset[str]) -> None:
        self._operations = operations
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._last_id = 0
        # A call that hangs waits for this event; clearing the faults sets it.
        self.epoch = 0

    def add(self, operation: str, kind: FaultKind, **details: Any) -> Fault:
        """Script a fault; raises `ValueError` for one that could never occur."""
        if operation != "*" and operation not in self._operations:
            raise ValueError(f"no operation is called {operation!r}")
        if kind not in get_args(FaultKind):
            raise ValueError(f"no kind of fault is called {kind!r}")
        with self._lock:
            self._last_id += 1
            fault = Fault(id=self._last_id, operation=operation, kind=kind, **details)
            _check(fault)
            self._faults.append(fault)
        return fault

    def take(self, operation: str) -> Fault | None:
        """The fault for this call; its `times` is counted down."""
        with self._lock:
            for index, fault in enumerate(self._faults):
                if fault.operation in ("*", operation):
                    self._count_down(index, fault)
                    return fault
        return None

    def _count_down(self, index: int, fault: Fault) -> None:
        if fault.times is None:
            return
        if fault.times <= 1:
            del self._faults[index]
        else:
            self._faults[index] = replace(fault, times=fault.times - 1)

    def waiting(self) -> list[Fault]:
        """The faults that are not used up, with the rest of their `times`."""
        with self._lock:
            return list(self._faults)

    def clear(self, fault_id: int | None = None) -> int:
        """Remove one fault, or all; return how many there were."""
        with self._lock:
            kept = [fault for fault in self._faults if fault_id not in (None, fault.id)]
            cleared = len(self._faults) - len(kept)
            self._faults = kept
            self.epoch += 1
        return cleared


def _check(fault: Fault) -> None:
    if fault.times is not None and fault.times < 1:
        raise ValueError("times must be at least 1, or None")
    if fault.delay < 0 or fault.pace <= 0:
        raise ValueError("delay must not be negative, and pace must be above 0")
    if fault.status is not None and not 200 <= fault.status <= 599:
        raise ValueError("status must be between 200 and 599")
    if any(_UNWRITABLE.search(name + value) for name, value in _extra_headers(fault)):
        raise ValueError("headers must be printable ASCII")
    if fault.kind == "status" and fault.status is None:
        raise ValueError("a fault needs a status, a delay, a body or another kind")
    if fault.kind == "body" and fault.body is None:
        raise ValueError("a fault of kind 'body' needs a body")


def implied_kind(status: int | None, body: bytes | None, delay: float) -> FaultKind:
    """The kind of a fault that is scripted without one."""
    if status is None and body is not None:
        return "body"
    return "delay" if status is None and delay > 0 else "status"


def _status(fault: Fault, _: Response) -> Response:
    status = fault.status or 500
    if fault.body is not None:
        return Response(status, fault.body)
    return error_response(status, "emulated_fault", f"The emulator was told to answer {status}")


def _own(_: Fault, response: Response) -> Response:
    return response


def _bytes(content: bytes, media_type: str = "application/json") -> Callable[..., Response]:
    def spoil(fault: Fault, _: Response) -> Response:
        return Response(fault.status or 200, content, media_type)

    return spoil


def _given_body(fault: Fault, _: Response) -> Response:
    return Response(fault.status or 200, fault.body or b"")


def _oversize(fault: Fault, _: Response) -> Response:
    padding = "x" * OVERSIZE_BYTES
    return json_response({"padding": padding}, fault.status or 200)


def _flagged(name: str) -> Callable[..., Response]:
    def spoil(_: Fault, response: Response) -> Response:
        body = json.loads(response.content)
        if response.status >= 300:
            return response
        return json_response({**body, name: True}, response.status)

    return spoil


_SPOILT: dict[FaultKind, Callable[[Fault, Response], Response]] = {
    "status": _status,
    "delay": _own,
    "drip": _own,
    "hang": _own,
    "drop": _own,
    "malformed_json": _bytes(b'{"object": "machine_to_machine_tok'),
    "wrong_shape": _bytes(b'{"object": 7, "data": "not what you asked for"}'),
    "html": _bytes(_HTML, "text/html; charset=utf-8"),
    "oversize": _oversize,
    "body": _given_body,
    "revoked": _flagged("revoked"),
    "expired": _flagged("expired"),
    "inactive": _bytes(b'{"active": false}'),
}
