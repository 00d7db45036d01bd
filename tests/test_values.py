"""Values that are passed between the parts of the package are immutable."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module

import pytest
from test_architecture import MODULES
from test_docs import ROOT

# These hold counters or work in progress, each used in one place. All others are frozen.
CHANGING = {
    "backend_api.key_pauses._Pause",
    "backend_api.key_source._Reading",
    "fleet.exchange._Errand",
    "fleet.outbox._Letter",
    "fleet.position.Position",
    "lookups.store.Entry",
    "observe.counters.SharedVerdicts",
    "observe.counters.Stats",
    "observe.lines._Line",
    "observe.reporter._State",
    "outbound.flight.Flight",
    "transport.admission.Ticket",
    "transport.http._LoopState",
}
# These use the package as an application does; the package does not use them.
APART = ("clerk_m2m.emulator", "clerk_m2m.cli", "clerk_m2m.demo", "clerk_m2m.testing")


def dataclasses_of_the_package() -> Iterator[type]:
    for module in MODULES:
        if module.startswith(APART) or module.endswith("__main__"):
            continue
        for each in vars(import_module(module)).values():
            if (
                inspect.isclass(each)
                and each.__module__ == module
                and "__dataclass_fields__" in vars(each)
            ):
                yield each


def test_every_dataclass_except_the_listed_ones_is_frozen() -> None:
    frozen = {
        f"{each.__module__}.{each.__qualname__}".removeprefix("clerk_m2m."): "__setattr__"
        in vars(each)
        for each in dataclasses_of_the_package()
    }

    assert len(frozen) > 50
    assert {name for name, cannot_change in frozen.items() if not cannot_change} == CHANGING


def test_every_dataclass_has_slots() -> None:
    open_ended = [each for each in dataclasses_of_the_package() if "__slots__" not in vars(each)]

    assert open_ended == []


@pytest.mark.parametrize(
    ("constant", "page", "said"),
    [
        ("credentials.MAX_CREDENTIAL_BYTES", "security.md", "more than {:.0f} KiB"),
        ("lookups.invalidations.MAX_ROWS", "security.md", "Up to {:,} invalidations are stored"),
        ("lookups.invalidations.MAX_UNPROVEN", "security.md", "Up to {:,} whose signature"),
        ("verification.key_set.FETCH_PAUSE", "security.md", "one fetch of the key set in {:.0f} s"),
        ("verification.signature.MIN_KEY_BITS", "security.md", "{:d} bits at least"),
    ],
)
def test_the_documents_state_each_limit_correctly(constant: str, page: str, said: str) -> None:
    module, _, name = constant.rpartition(".")
    value = getattr(import_module(f"clerk_m2m.{module}"), name)
    shown = said.format(value / 1024 if "KiB" in said else value)

    assert shown in " ".join((ROOT / "docs" / page).read_text("utf-8").split())
