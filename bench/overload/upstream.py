"""A server like Clerk with a fixed capacity. Tokens that begin with `mt_good` are good.

Clerk does not know any other token. `POST /control` with a JSON object sets fields of `Behaviour`;
`GET /counts` returns the counts of the calls.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

CALLER_DIGITS = 27


@dataclass(slots=True)
class Behaviour:
    """How it answers. `slots` 0 means no limit; `limit` is per second, over ten seconds."""

    slots: int = 0
    seconds: float = 0.1
    hang: str = ""  # calls about tokens that begin with this get no answer; "mt_" means all
    refuse_until: float = 0.0  # until then (monotonic s) all calls get a 429
    limit: int = 0
    revoked: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)  # callers without an edge


class Upstream:
    """Answers verifications and reads of machines."""

    def __init__(self, callee: str) -> None:
        self._callee = callee
        self.behaviour = Behaviour()
        self.asked: Counter[str] = Counter()
        self.calls = 0
        self.answered = 0
        self._out = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._recent: deque[float] = deque()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.split(b"\r\n"):
                    name, _, value = line.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                body = await reader.readexactly(length)
                method, path = head.split(b" ", 2)[:2]
                status, answer, extra = await self._answer(method, path.decode(), body)
                content = json.dumps(answer).encode()
                date = format_datetime(datetime.now(UTC), usegmt=True)
                writer.write(
                    f"HTTP/1.1 {status} X\r\nDate: {date}\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(content)}\r\n{extra}\r\n".encode()
                    + content
                )
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, method: bytes, path: str, body: bytes) -> tuple[int, Any, str]:
        if path == "/control":
            for name, value in json.loads(body).items():
                setattr(self.behaviour, name, value)
            return 200, {}, ""
        if path == "/counts":
            counts = {
                "calls": self.calls,
                "answered": self.answered,
                "distinct": len(self.asked),
                "garbage": sum(n for token, n in self.asked.items() if token.startswith("mt_bad")),
                "repeated": sum(n - 1 for n in self.asked.values()),
            }
            return 200, counts, ""
        if method == b"GET":
            return await self._machine(path.rpartition("/")[2])
        return await self._token(json.loads(body)["token"])

    async def _token(self, token: str) -> tuple[int, Any, str]:
        self.calls += 1
        self.asked[token] += 1
        refused = await self._work(token)
        if refused is not None:
            return refused
        self.answered += 1
        if not token.startswith("mt_good") or token in self.behaviour.revoked:
            return 404, {"errors": [{"code": "token_not_found", "message": "Unknown."}]}, ""
        now = int(time.time() * 1000)
        caller = "mch_" + token[7:].rjust(CALLER_DIGITS, "0")[-CALLER_DIGITS:]
        answer = {
            "object": "machine_to_machine_token",
            "id": "mt_" + token[7:].rjust(32, "0")[-32:],
            "subject": caller,
            "scopes": [self._callee],
            "claims": None,
            "revoked": False,
            "revocation_reason": None,
            "expired": False,
            "expiration": now + 3_600_000,
            "created_at": now,
            "updated_at": now,
        }
        return 200, answer, ""

    async def _machine(self, machine_id: str) -> tuple[int, Any, str]:
        self.calls += 1
        refused = await self._work("mt_good")
        if refused is not None:
            return refused
        self.answered += 1
        now = int(time.time() * 1000)
        callee = {
            "object": "machine",
            "id": self._callee,
            "instance_id": "ins_" + "i" * 27,
            "name": "callee",
            "default_token_ttl": 3600,
            "created_at": now,
            "updated_at": now,
        }
        cut = machine_id in self.behaviour.cut
        machine = callee | {"id": machine_id, "scoped_machines": [] if cut else [callee]}
        return 200, machine, ""

    async def _work(self, token: str) -> tuple[int, Any, str] | None:
        """Wait as long as the call takes; return None, or the answer if the call is refused."""
        behaviour, now = self.behaviour, time.monotonic()
        wait = max(0.0, behaviour.refuse_until - now)
        if behaviour.limit:
            while self._recent and self._recent[0] <= now - 10.0:
                self._recent.popleft()
            if len(self._recent) >= behaviour.limit * 10:
                wait = self._recent[0] + 10.0 - now
            else:
                self._recent.append(now)
        if wait > 0:
            error = {"errors": [{"code": "rate_limited", "message": "Too many requests."}]}
            return 429, error, f"Retry-After: {max(1, round(wait + 0.5))}\r\n"
        if behaviour.hang and token.startswith(behaviour.hang):
            await asyncio.sleep(3600)
        if behaviour.slots and self._out >= behaviour.slots:
            turn = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            await turn
        else:
            self._out += 1
        try:
            await asyncio.sleep(behaviour.seconds)
        finally:
            if self._queue:
                self._queue.popleft().set_result(None)
            else:
                self._out -= 1
        return None


async def _main() -> None:
    given = json.loads(sys.stdin.readline())
    upstream = Upstream(given["callee"])
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, backlog=1024)
    ended, loop = asyncio.Event(), asyncio.get_running_loop()

    def end_with_stdin() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=end_with_stdin, daemon=True).start()
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"origin": f"http://127.0.0.1:{port}"}), flush=True)
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(_main())
