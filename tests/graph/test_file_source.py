"""A scope graph in a file: when it is read again, and broken or partly written files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clerk_m2m import BackendUnavailableError, ConfigurationError
from clerk_m2m.graph.file import FileSource
from clerk_m2m.graph.source import GraphSource
from harness import FakeTime

TTL, MAX_STALE = 30.0, 300.0
ORDERS, BILLING, AUDIT = ("mch_" + letter * 27 for letter in "oba")


def edges(*callees: str) -> frozenset[str]:
    return frozenset(callees)


def known(source: GraphSource, caller: str) -> frozenset[str] | None:
    """The machines of three that `caller` may call; None if the source does not know."""
    answers = {callee: source.allows(caller, callee) for callee in (ORDERS, BILLING, AUDIT)}
    if None in answers.values():
        assert set(answers.values()) == {None}
        return None
    return frozenset(callee for callee, allowed in answers.items() if allowed)


def toml(*callees: str) -> str:
    listed = ", ".join(f'"{callee}"' for callee in callees)
    return f'[machines.orders]\nid = "{ORDERS}"\nmay_call = [{listed}]\n'


# A file


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def path(tmp_path: Path, time: FakeTime) -> Path:
    path = tmp_path / "graph.toml"
    write(path, toml(BILLING), time)
    return path


def write(path: Path, content: str | bytes, time: FakeTime, *, age: float = 60.0) -> None:
    """Write a file and set its modification time to `age` seconds ago."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(path, (time.wall - age, time.wall - age))


def open_file(path: Path, time: FakeTime) -> FileSource:
    return FileSource(path, ttl=TTL, max_stale=MAX_STALE, clock=time.clock)


def spoil(path: Path, text: str | None, time: FakeTime) -> None:
    if text is None:
        path.unlink()
    else:
        write(path, text, time)


def test_a_file_is_read_at_construction(path: Path, time: FakeTime) -> None:
    source = open_file(path, time)

    assert known(source, ORDERS) == edges(BILLING)
    assert known(source, BILLING) == edges()


def test_a_changed_file_is_read_again_after_its_ttl(path: Path, time: FakeTime) -> None:
    source = open_file(path, time)
    write(path, toml(BILLING, AUDIT), time)

    assert known(source, ORDERS) == edges(BILLING)
    time.advance(TTL)
    assert known(source, ORDERS) == edges(BILLING, AUDIT)


def test_a_replaced_file_of_the_same_size_and_time_is_noticed(path: Path, time: FakeTime) -> None:
    source = open_file(path, time)
    other = path.with_name("other.toml")
    other.write_text(toml(AUDIT))
    stat = path.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)
    time.advance(TTL)

    assert known(source, ORDERS) == edges(AUDIT)


class Stamped(type(Path())):  # type: ignore[misc]  # the class for this system
    """A path whose `stat` returns the numbers in `shown`, and the real ones for the rest."""

    shown: dict[str, int]

    def stat(self, **kwargs: Any) -> Any:
        """Return the file's real numbers, replaced by those in `shown`."""
        found = super().stat(**kwargs)
        names = ("st_mtime_ns", "st_ctime_ns", "st_size", "st_ino")
        return SimpleNamespace(**({name: getattr(found, name) for name in names} | self.shown))


@pytest.mark.parametrize("changed", ["st_mtime_ns", "st_ctime_ns", "st_size", "st_ino"])
def test_a_change_of_a_single_stat_attribute_is_noticed(
    path: Path, time: FakeTime, changed: str
) -> None:
    same = {"st_mtime_ns": 1, "st_ctime_ns": 2, "st_size": 3, "st_ino": 4}
    stamped = Stamped(path)
    stamped.shown = same
    source = open_file(stamped, time)
    write(path, toml(AUDIT), time)
    time.advance(TTL)
    assert known(source, ORDERS) == edges(BILLING), "the change of the file is not visible"

    stamped.shown = same | {changed: 5}
    time.advance(TTL)
    assert known(source, ORDERS) == edges(AUDIT)


def test_forget_makes_the_next_decision_look_at_the_file(path: Path, time: FakeTime) -> None:
    source = open_file(path, time)
    write(path, toml(), time)
    source.forget(ORDERS)

    assert known(source, ORDERS) == edges()


@pytest.mark.parametrize("text", ["[machines", "[machines.orders]", None])
async def test_a_broken_file_is_logged_and_the_last_graph_used_for_graph_max_stale(
    path: Path, time: FakeTime, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    source = open_file(path, time)
    spoil(path, text, time)
    time.advance(TTL)

    assert known(source, ORDERS) == edges(BILLING)
    assert [each.levelname for each in caplog.records] == ["ERROR"]
    assert "the last one is used" in caplog.text
    assert known(source, ORDERS) == edges(BILLING)
    assert len(caplog.records) == 1  # not one per request

    time.advance(MAX_STALE)
    assert known(source, ORDERS) == edges(BILLING)
    time.advance(0.001)
    assert known(source, ORDERS) is None
    with pytest.raises(BackendUnavailableError, match=r"graph\.toml has been unreadable") as failed:
        await source.fetch(ORDERS, BILLING, timeout=1)
    assert failed.value.code == "backend_unavailable"


def test_a_repaired_file_is_used_again(path: Path, time: FakeTime) -> None:
    source = open_file(path, time)
    write(path, "[machines", time)
    time.advance(TTL + MAX_STALE + 1)
    assert known(source, ORDERS) is None

    write(path, toml(AUDIT), time)
    time.advance(TTL)
    assert known(source, ORDERS) == edges(AUDIT)


def test_idle_time_of_a_service_does_not_count_as_unreadable(path: Path, time: FakeTime) -> None:
    source = open_file(path, time)
    time.advance(86_400)

    assert known(source, ORDERS) == edges(BILLING)


@pytest.mark.parametrize("content", [b"[machines", b"\xff\xfe", b""])
def test_an_invalid_file_is_rejected_at_construction(
    path: Path, time: FakeTime, content: bytes
) -> None:
    write(path, content, time)
    with pytest.raises(ConfigurationError) as refused:
        open_file(path, time)

    assert refused.value.code == "configuration_invalid"


def test_a_folder_or_a_missing_file_is_rejected(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.toml"):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            open_file(path, FakeTime())


# A file that is being written


SOON = FileSource.SECOND_LOOK


def test_a_partly_written_file_does_not_replace_the_graph(path: Path, time: FakeTime) -> None:
    source = open_file(path, time)
    time.advance(TTL)
    write(path, toml(), time, age=0.01)  # valid TOML, with the edges not yet written
    assert known(source, ORDERS) == edges(BILLING)

    write(path, toml(BILLING, AUDIT), time, age=0)
    time.advance(SOON)
    assert known(source, ORDERS) == edges(BILLING), "the stamp is another one"
    time.advance(SOON)
    assert known(source, ORDERS) == edges(BILLING, AUDIT)


def test_a_new_file_replaces_the_graph_at_the_second_look(path: Path, time: FakeTime) -> None:
    source = open_file(path, time)
    time.advance(TTL)
    write(path, toml(AUDIT), time, age=0.5)

    assert known(source, ORDERS) == edges(BILLING)
    time.advance(SOON / 2)
    assert known(source, ORDERS) == edges(BILLING)
    time.advance(SOON / 2)
    assert known(source, ORDERS) == edges(AUDIT)


@pytest.mark.parametrize(("age", "seen"), [(0.99, BILLING), (1.0, AUDIT)])
def test_a_change_that_is_a_second_old_needs_no_second_look(
    path: Path, time: FakeTime, age: float, seen: str
) -> None:
    source = open_file(path, time)
    time.advance(TTL)
    write(path, toml(AUDIT), time, age=age)

    assert known(source, ORDERS) == edges(seen)


def test_a_file_with_a_time_in_the_future_replaces_the_graph_at_the_second_look(
    path: Path, time: FakeTime
) -> None:
    source = open_file(path, time)
    time.advance(TTL)
    write(path, toml(AUDIT), time, age=-86_400)

    assert known(source, ORDERS) == edges(BILLING)
    time.advance(SOON)
    assert known(source, ORDERS) == edges(AUDIT)


def test_after_forget_a_new_file_still_needs_its_second_look(path: Path, time: FakeTime) -> None:
    source = open_file(path, time)
    write(path, toml(), time, age=0)
    source.forget(ORDERS)
    assert known(source, ORDERS) == edges(BILLING)

    source.forget(ORDERS)
    assert known(source, ORDERS) == edges(BILLING), "0.1 s have not passed"
    time.advance(SOON)
    assert known(source, ORDERS) == edges()


@pytest.mark.parametrize("half", [toml(), "[machines"])
def test_a_file_that_is_written_to_while_it_is_read_does_not_replace_the_graph(
    tmp_path: Path, time: FakeTime, half: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = WrittenTo(tmp_path / "graph.toml")
    write(path, toml(BILLING), time)
    source = open_file(path, time)
    time.advance(TTL)
    write(path, half, time)
    path.while_read = lambda: write(path, toml(AUDIT), time, age=0)

    assert known(source, ORDERS) == edges(BILLING)
    time.advance(SOON)
    assert known(source, ORDERS) == edges(AUDIT)
    assert caplog.records == []


def test_a_new_invalid_file_keeps_the_last_graph_and_is_logged_once(
    path: Path, time: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    source = open_file(path, time)
    time.advance(TTL)
    write(path, "[machines", time, age=0)
    assert known(source, ORDERS) == edges(BILLING)
    assert caplog.records == [], "it may be half a file"

    for _ in range(3):
        time.advance(SOON)
        assert known(source, ORDERS) == edges(BILLING)
    assert [each.levelname for each in caplog.records] == ["ERROR"]


def test_a_new_file_at_construction_gets_a_second_look_soon(path: Path, time: FakeTime) -> None:
    write(path, toml(), time, age=0.01)
    source = open_file(path, time)
    write(path, toml(BILLING), time, age=0)
    assert known(source, ORDERS) == edges()

    time.advance(SOON)
    assert known(source, ORDERS) == edges()
    time.advance(SOON)
    assert known(source, ORDERS) == edges(BILLING)


def test_a_file_written_during_the_first_read_gets_a_second_look_soon(
    tmp_path: Path, time: FakeTime
) -> None:
    path = WrittenTo(tmp_path / "graph.toml")
    write(path, toml(), time)
    path.while_read = lambda: write(path, toml(BILLING), time, age=0)
    source = open_file(path, time)

    for _ in range(2):
        time.advance(SOON)
        known(source, ORDERS)
    assert known(source, ORDERS) == edges(BILLING)


def test_waiting_for_the_second_look_does_not_count_as_unreadable(
    path: Path, time: FakeTime
) -> None:
    source = open_file(path, time)
    time.advance(86_400)
    write(path, toml(AUDIT), time, age=0)

    assert known(source, ORDERS) == edges(BILLING)


def test_a_file_that_changes_at_every_look_counts_as_unreadable_after_a_while(
    path: Path, time: FakeTime
) -> None:
    source = open_file(path, time)
    answer: frozenset[str] | None = None
    for tick in range(int((2 * TTL + MAX_STALE) / SOON) + 2):
        time.advance(SOON)
        write(path, toml(AUDIT) + f"# {tick}", time, age=0)
        answer = known(source, ORDERS)
        assert answer in (edges(BILLING), None)

    assert answer is None


class WrittenTo(type(Path())):  # type: ignore[misc]  # the class for this system
    """A path whose file is written once, by `while_read`, right after it was read."""

    while_read: Callable[[], None] | None = None

    def read_text(self, *args: Any, **kwargs: Any) -> str:
        """Read the file, then write it."""
        text: str = super().read_text(*args, **kwargs)
        write_to, self.while_read = self.while_read, None
        if write_to is not None:
            write_to()
        return text
