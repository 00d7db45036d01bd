"""A search for leaked secrets in reachable objects, logs, answers and frames."""

from __future__ import annotations

import os
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import httpx
import pytest
from rich.pretty import pretty_repr
from starlette.requests import HTTPConnection

import clerk_m2m
from clerk_m2m import ClerkM2MError, RefusalError, Verifier
from clerk_m2m.secret import Secret, SecretCallable
from harness import World, bearer, calling, protected

WINDOW = 16  # characters; a part of a secret of this length does not occur by chance
BLOCK = WINDOW // 2
PACKAGE = Path(clerk_m2m.__file__).parent
# The keys in these are made up and give no access.
FAKES = ("emulator", "testing", "demo")


def reachable(root: Any) -> Iterator[str]:
    """The `repr` of an object and of everything that can be reached from it within our package."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, Secret | SecretCallable):
            if isinstance(each, Secret | SecretCallable):
                yield f"{each!r} {each}"
            continue
        seen.add(id(each))
        yield repr(each)
        waiting.extend(_held(each))


def _held(value: Any) -> list[Any]:
    if isinstance(value, Mapping | WeakKeyDictionary):
        return [item for pair in value.items() for item in pair]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    held: list[Any] = []
    if type(value).__module__.startswith("clerk_m2m"):
        names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        held = [getattr(value, name) for name in names if hasattr(value, name)]
        held += vars(value).values() if hasattr(value, "__dict__") else ()
    if isinstance(value, BaseException):
        held += [value.__cause__, value.__context__, *value.args, str(value)]
    return held


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and every other that its traceback could show."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__]


def our_frames(error: BaseException) -> list[FrameType]:
    """The frames of one traceback that run code of the package, outermost first."""
    frames = (frame for frame, _line in traceback.walk_tb(error.__traceback__))
    return [
        frame
        for frame in frames
        if frame.f_code.co_filename.startswith(f"{PACKAGE}{os.sep}")
        and Path(frame.f_code.co_filename).relative_to(PACKAGE).parts[0] not in FAKES
    ]


def _place(frame: FrameType) -> tuple[str, str]:
    return Path(frame.f_code.co_filename).name, frame.f_code.co_name


def given_the_token(frames: list[FrameType]) -> int:
    """How many of the outermost frames may have the caller's token: those up to the verifier."""
    places = [_place(frame) for frame in frames]
    if ("verifier.py", "verify") in places:
        return places.index(("verifier.py", "verify")) + 1
    return len(frames) if places and places[0][0] == "middleware.py" else 0


def locals_of(frame: FrameType, known: dict[int, list[str]]) -> list[str]:
    """The locals of a frame as a debugger, pytest and rich would show them.

    `known` keeps what was shown of an object that is a local of other frames too.
    """
    shown = []
    for name, value in frame.f_locals.items():
        if id(value) not in known:
            try:
                known[id(value)] = [repr(value), pretty_repr(value)]
            except AttributeError:  # an object whose construction has failed
                known[id(value)] = []
        shown += [name, *known[id(value)]]
    return shown


@dataclass
class Aviary:
    """The canaries (secrets to search for), and everything that is searched for them.

    `keys` are our own keys. `seen` must contain no canary. `seen_of_tokens` may contain tokens, but
    no key.
    """

    world: World
    log: pytest.LogCaptureFixture
    canaries: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    seen_of_tokens: list[str] = field(default_factory=list)
    frames: set[tuple[str, str]] = field(default_factory=set)

    def keep(self, secret: str) -> str:
        """Make a canary of a secret."""
        self.canaries.append(secret)
        return secret

    def keep_key(self, key: str) -> str:
        """Make a canary of a key of ours."""
        self.keys.append(key)
        return self.keep(key)

    def look_at_error(self, error: BaseException) -> None:
        """Search an error, and its traceback with the locals of our frames."""
        self.look(error)
        self.seen += traceback.format_exception(error)
        # The frames hold their objects, so none is freed during the search and each id is unique.
        known: dict[int, list[str]] = {}
        for each in chain(error):
            frames = our_frames(each)
            given = given_the_token(frames)
            for frame in frames[:given]:
                self.seen_of_tokens += locals_of(frame, known)
            for frame in frames[given:]:
                self.seen += locals_of(frame, known)
            self.frames |= {_place(frame) for frame in frames}

    def refused(self, _connection: HTTPConnection, refusal: RefusalError) -> None:
        """Look at a refusal that the middleware answers."""
        self.look_at_error(refusal)

    async def attempt(self, act: Callable[[], Awaitable[Any]]) -> None:
        """Do something that may fail, and search what it returns or raises."""
        try:
            self.look(await act())
        except (ClerkM2MError, ValueError) as exc:
            self.look_at_error(exc)

    def look(self, *roots: Any) -> None:
        """Search everything that can be reached from these."""
        for root in roots:
            self.seen.extend(reachable(root))

    async def ask(self, verifier: Verifier, token: str) -> httpx.Response | None:
        """Verify through the middleware and directly, and keep everything that results."""
        answer = None
        async with calling(protected(verifier, on_error=self.refused)) as client:
            answer = await client.get("/", headers=bearer(token))
        self.seen += [answer.text, str(answer.headers.raw)]
        await self.attempt(lambda: verifier.verify(token))
        self.look(verifier, verifier.settings, verifier.stats)
        return answer

    def assert_silent(self) -> None:
        """Fail if a part of a canary was found."""
        for record in self.log.records:
            self.seen += [record.getMessage(), repr(record.args), record.exc_text or ""]
            if record.exc_info and record.exc_info[1]:
                self.look_at_error(record.exc_info[1])
        _assert_in_none(self.canaries, self.seen)
        _assert_in_none(self.keys, self.seen_of_tokens)


def _assert_in_none(canaries: list[str], seen: list[str]) -> None:
    text = "\n".join(dict.fromkeys(seen))
    for canary in canaries:
        # Each window contains at least one whole block of half its length. So only windows around
        # a block that was found need a closer look.
        blocks = range(3, len(canary) - BLOCK + 1, BLOCK)
        for block in (start for start in blocks if canary[start : start + BLOCK] in text):
            first = max(3, block - BLOCK + 1)
            for start in range(first, min(block, len(canary) - WINDOW) + 1):
                assert canary[start : start + WINDOW] not in text, "a secret leaked"


def _error(**members: Any) -> dict[str, Any]:
    return {"errors": [{"message": "m", "long_message": "l", "code": "c", "meta": {}} | members]}


# Answers of an upstream that repeats a secret that it was sent, each in another place.
ECHOES: dict[str, Callable[[int, str], httpx.Response]] = {
    "in the message": lambda status, said: httpx.Response(
        status, json=_error(message=f"bad: {said}", long_message="")
    ),
    "in the long message": lambda status, said: httpx.Response(
        status, json=_error(long_message=f"The secret {said} is unknown.")
    ),
    "in the code": lambda status, said: httpx.Response(status, json=_error(code=said)),
    "as the name of a field": lambda status, said: httpx.Response(
        status, json=_error(meta={"param_name": said})
    ),
    "as the trace id": lambda status, said: httpx.Response(
        status, json=_error() | {"clerk_trace_id": said}
    ),
    "cut short": lambda status, said: httpx.Response(
        status, json=_error(long_message=f"Unknown: {said[:24]}…")
    ),
    "cut in two": lambda status, said: httpx.Response(
        status, json=_error(message=said[:20], long_message=said[:20], code=said[20:])
    ),
    "as text": lambda status, said: httpx.Response(status, text=said),
    "as HTML": lambda status, said: httpx.Response(status, html=f"<pre>{said}</pre>"),
    "as a JSON string": lambda status, said: httpx.Response(status, json=said),
    "in the headers": lambda status, said: httpx.Response(
        status, headers={"Retry-After": said, "Location": said, "X-Echo": said, "Date": said}
    ),
    "as every member": lambda status, said: httpx.Response(
        status,
        json=dict.fromkeys(
            ("id", "subject", "scopes", "expiration", "revoked", "active", "keys", "errors"), said
        ),
    ),
}
