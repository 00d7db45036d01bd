"""The input of `graph show`: the machines of a file or of an instance, with unique labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from clerk_m2m.cli.graph.drawings.drawn_graph import DrawnGraph
from clerk_m2m.cli.graph.drawings.labels import visible
from clerk_m2m.cli.graph.reading import Snapshot
from clerk_m2m.cli.program import CommandError
from clerk_m2m.graph.document import MachineTable


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownMachine:
    """A machine; `key` is its id, or its name if it has no id yet. `may_call` holds keys.

    `name` is None for a machine that others may call but that is not listed itself.
    """

    key: str
    name: str | None
    id: str | None
    may_call: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownGraph:
    """A drawing's graph, and the machine behind each of its labels."""

    drawn: DrawnGraph
    machines: tuple[ShownMachine, ...]

    @classmethod
    def of(cls, listed: Iterable[ShownMachine]) -> ShownGraph:
        """Assign a label to each machine, and sort the machines by label."""
        machines = {machine.key: machine for machine in listed}
        for callee in sorted({key for each in machines.values() for key in each.may_call}):
            machines.setdefault(callee, ShownMachine(key=callee, name=None, id=callee))
        labelled = sorted(
            zip(_labels(machines.values()), machines.values(), strict=True),
            key=lambda pair: (pair[0].casefold(), pair[0]),
        )
        index = {machine.key: at for at, (_, machine) in enumerate(labelled)}
        return cls(
            drawn=DrawnGraph(
                labels=tuple(label for label, _ in labelled),
                edges=frozenset(
                    (index[caller.key], index[callee])
                    for _, caller in labelled
                    for callee in caller.may_call
                ),
            ),
            machines=tuple(machine for _, machine in labelled),
        )

    @classmethod
    def of_file(cls, tables: Iterable[MachineTable]) -> ShownGraph:
        """Read the machines of a graph file, including those that do not exist yet."""
        return cls.of(
            ShownMachine(key=table.key, name=table.name, id=table.id, may_call=table.may_call)
            for table in tables
        )

    @classmethod
    def of_instance(cls, snapshot: Snapshot) -> ShownGraph:
        """Read the machines of an instance."""
        return cls.of(
            ShownMachine(key=node.id, name=node.name, id=node.id, may_call=node.may_call)
            for node in snapshot.machines.values()
        )

    def find(self, wanted: str) -> int:
        """Return the index of a machine by its name, id or label; raises `CommandError`."""
        found = [
            index
            for index, machine in enumerate(self.machines)
            if wanted in (machine.name, machine.id, self.drawn.labels[index])
        ]
        if len(found) > 1:
            labels = ", ".join(self.drawn.labels[index] for index in found)
            raise CommandError(
                f"Several machines are called {visible(wanted)}: {labels}. Give an id."
            )
        if not found:
            near = get_close_matches(visible(wanted), self.drawn.labels, n=3)
            hint = f"Nearest names: {', '.join(near)}." if near else f"There are {len(self.drawn)}."
            raise CommandError(f"There is no machine {visible(wanted)}. {hint}")
        return found[0]

    def around(self, center: int, depth: int) -> ShownGraph:
        """Return the part within `depth` edges of one machine, in both directions."""
        part = self.drawn.around(center, depth)
        machine_of = dict(zip(self.drawn.labels, self.machines, strict=True))
        return ShownGraph(drawn=part, machines=tuple(machine_of[label] for label in part.labels))

    def as_dict(self) -> dict[str, object]:
        """Return the graph for a program: edges name machines by their labels, which are unique."""
        labels = self.drawn.labels
        return {
            "title": self.drawn.title,
            "machines": [
                {
                    "label": label,
                    "name": machine.name,
                    "id": machine.id,
                    "listed": machine.name is not None,
                }
                for label, machine in zip(labels, self.machines, strict=True)
            ],
            "edges": [
                {"caller": labels[caller], "callee": labels[callee]}
                for caller, callee in sorted(self.drawn.edges)
            ],
        }


def _labels(machines: Iterable[ShownMachine]) -> list[str]:
    """Return a unique label for every machine: its name, with its id if that is needed."""
    machines = list(machines)
    names = [
        f"{each.key} (not listed)" if each.name is None else visible(each.name) for each in machines
    ]
    count = Counter(names)
    labels: dict[str, None] = {}
    for machine, label in zip(machines, names, strict=True):
        unique = label if count[label] == 1 else f"{label} ({machine.id or 'no id'})"
        while unique in labels:  # a name that equals another machine's label
            unique += " (again)"
        labels[unique] = None
    return list(labels)
