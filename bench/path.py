"""The length of a request's path through this package: its frames, files, and changes of file.

One request through `MachineAuthMiddleware` is counted, from the call of the middleware until it
returns. The app inside answers at once. An earlier request has opened everything. The transport is
the emulator, and there is no graph. The clock of the event loop is stopped, so no timer fires.
(Otherwise, on a busy machine, a request could take more than 50 ms. Then the watch of its
connection would begin, and lengthen the path.)

- A **frame** is one call of a function whose code is in a file of `clerk_m2m`, except the
  emulator. A coroutine or a generator counts once, when it starts, and not when it is resumed.
  A comprehension does not count (since Python 3.12 it has no frame). Code that the standard library
  generates, such as the `__init__` of a dataclass, has no file and does not count.
- A **file** is the file of at least one such frame.
- A **change of file** is a frame that starts in another file than the frame that started before it,
  whether that one called it or not. Returns are not counted.

The frames of `transport/sockets.py` that httpcore calls for each operation of a socket are not on
this path: their number depends on the version of httpcore.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path as FilePath
from types import FrameType
from typing import Any, Final

import httpx

import clerk_m2m
from bench.cached import bare, request, template
from bench.measure import Row
from clerk_m2m import MachineAuthMiddleware, Settings, Verifier
from clerk_m2m.emulator import Emulator

AIMS: Final = {"frames": 60, "files": 20, "changes of file": 24}

_PACKAGE: Final = FilePath(clerk_m2m.__file__).parent
_COMPREHENSIONS: Final = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>"})


@dataclass(slots=True)
class Path:
    """The frames of a request in the order in which they started, each with its file."""

    steps: list[tuple[str, str]] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """The number of frames."""
        return len(self.steps)

    @property
    def files(self) -> int:
        """The number of files."""
        return len({file for file, _ in self.steps})

    @property
    def changes(self) -> int:
        """The number of changes of file."""
        files = [file for file, _ in self.steps]
        return sum(before != after for before, after in pairwise(files))

    def __str__(self) -> str:
        return "\n".join(f"{file}: {function}" for file, function in self.steps)


@contextmanager
def no_timer_due() -> Iterator[None]:
    """Stop the clock of the running event loop."""
    loop = asyncio.get_running_loop()
    instant, running = loop.time(), loop.time
    loop.time = lambda: instant  # type: ignore[method-assign]
    try:
        yield
    finally:
        loop.time = running  # type: ignore[method-assign]


@contextmanager
def traced() -> Iterator[Path]:
    """Record the frames of this package that start in this thread."""
    path = Path()
    started: dict[int, FrameType] = {}  # kept, so that no other frame gets the same id

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        if event != "call" or id(frame) in started:
            return
        file = _file(frame)
        if file is not None:
            started[id(frame)] = frame
            path.steps.append((file, frame.f_code.co_qualname))

    before, collects = sys.getprofile(), gc.isenabled()
    gc.disable()  # a collection runs the finalizers of other objects in this thread
    sys.setprofile(note)
    try:
        yield path
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()


def _file(frame: FrameType) -> str | None:
    """Return the file of a frame, relative to the package; None if it is not in the package."""
    path = FilePath(frame.f_code.co_filename)
    if frame.f_code.co_name in _COMPREHENSIONS or not path.is_relative_to(_PACKAGE):
        return None
    file = path.relative_to(_PACKAGE)
    return None if file.parts[0] == "emulator" else file.as_posix()


async def paths() -> tuple[Path, Path]:
    """Return the path of a new opaque token, and of the same token when it is cached and in use."""
    emulator = Emulator()
    callee = emulator.add_machine("callee")
    caller = emulator.add_machine("caller", may_call=[callee])
    settings = Settings(machine_id=callee.id, machine_secret_key=callee.secret_key)
    verifier = Verifier(settings, transport=httpx.ASGITransport(emulator))
    app = MachineAuthMiddleware(bare, verifier=verifier)

    def call(token: str) -> Callable[[], Awaitable[None]]:
        return request(app, template(token))

    other, token = (emulator.mint_m2m_token(caller).token for _ in range(2))
    with no_timer_due():
        await call(other)()
        with traced() as new:
            await call(token)()
        with traced() as cached:
            await call(token)()
    await verifier.aclose()
    return new, cached


async def rows() -> list[Row]:
    """Return the rows with the counts on the path of a new opaque token."""
    new, cached = await paths()
    counted = {"frames": new.frames, "files": new.files, "changes of file": new.changes}
    note = (
        f"Counted, not timed; `bench/path.py` defines the counts. A cached token has "
        f"{cached.frames} frames, {cached.files} files and {cached.changes} changes of file."
    )
    return [
        Row(
            title=f"Path of a new opaque token, without a graph: {name} of this package",
            ours=f"{name}, from the middleware to the answer",
            against="the aim",
            pairs=[(float(count), float(AIMS[name]))],
            aim=1.0,
            unit="count",
            note=note if name == "frames" else "",
        )
        for name, count in counted.items()
    ]


async def _print() -> None:
    for name, path in zip(("new", "cached"), await paths(), strict=True):
        print(f"{name}: {path.frames} frames, {path.files} files, {path.changes} changes of file")
        print(f"{path}\n")


if __name__ == "__main__":
    asyncio.run(_print())
