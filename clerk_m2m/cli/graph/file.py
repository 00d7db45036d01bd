"""The graph file on disk: reads it, writes it atomically, and writes ids of machines into it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clerk_m2m.cli.graph import sections
from clerk_m2m.cli.program import CommandError
from clerk_m2m.errors import ConfigurationError
from clerk_m2m.graph.document import MachineTable, read_tables


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFile:
    """A graph file and the machines that it lists, in its order."""

    path: Path
    text: str = field(repr=False)
    machines: tuple[MachineTable, ...]

    @property
    def by_name(self) -> dict[str, MachineTable]:
        """Return the machines by name."""
        return {machine.name: machine for machine in self.machines}


def load(path: Path) -> GraphFile:
    """Read a graph file; raises `CommandError`, which names the file and the wrong entry."""
    text = read_text(path)
    try:
        machines = read_tables(text)
    except ConfigurationError as exc:
        raise CommandError(f"{path}: {exc}") from None
    return GraphFile(path=path, text=text, machines=machines)


def read_text(path: Path) -> str:
    """Read a file as it is, with its line endings; raises `CommandError`."""
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as exc:
        raise CommandError(f"{path} cannot be read: {exc.strerror}.") from exc
    except UnicodeDecodeError as exc:
        raise CommandError(f"{path} is not UTF-8.") from exc


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically, so that a service never reads a partly written one."""
    target = path.resolve()  # keep a symbolic link
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
    with tempfile.NamedTemporaryFile(
        "wb", dir=target.parent, prefix=f".{target.name}.", delete=False
    ) as written:
        try:
            written.write(text.encode("utf-8"))
            written.flush()
            os.fsync(written.fileno())
            Path(written.name).chmod(mode)
            Path(written.name).replace(target)
        except BaseException:
            Path(written.name).unlink(missing_ok=True)
            raise


def refuse_unless_ids_fit(file: GraphFile, names: Collection[str]) -> None:
    """Raise `CommandError` if the ids of these machines could not be written into the file."""
    known = file.by_name
    for name in names:
        if name not in known:
            raise CommandError(
                f"{file.path} has no [machines.{name}], which the plan creates. Make a new plan."
            )
    missing = [name for name in names if known[name].id is None]
    _with_ids(file, {name: f"mch_dryrun{number:021}" for number, name in enumerate(missing)})


def write_ids(path: Path, ids: Mapping[str, str]) -> None:
    """Write the ids of machines, by name, into a file; ids that it already has are not changed.

    The file is read again first, because it may have been edited.
    """
    file = load(path)
    known = file.by_name
    missing = {name: new for name, new in ids.items() if name in known and known[name].id is None}
    if missing:
        write_text(path, _with_ids(file, missing))


def _with_ids(file: GraphFile, ids: Mapping[str, str]) -> str:
    text = sections.with_ids(file.text, ids)
    expected = {table.name: table.id or ids.get(table.name) for table in file.machines}
    try:
        found = {table.name: table.id for table in read_tables(text)}
    except ConfigurationError:
        found = {}
    if found != expected:
        raise _unwritable(file.path, next(iter(ids)))
    return text


def _unwritable(path: Path, name: str) -> CommandError:
    return CommandError(
        f"{path}: no id can be written into [machines.{name}]. Give each machine a table of its "
        "own, with the header [machines.NAME] on one line."
    )
