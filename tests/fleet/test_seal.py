"""A sealed verdict can be opened only for the same token, with the same keys and context."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from clerk_m2m import MachineIdentity
from clerk_m2m.fleet.applied import MAX_NAMES, Applied, Mark
from clerk_m2m.fleet.contents import Shared, read
from clerk_m2m.fleet.seal import Seal
from clerk_m2m.identity import TokenClass
from clerk_m2m.lookups.invalidation import Invalidation
from clerk_m2m.secret import Secret

from .services import FLEET_KEY, OTHER_KEY

CLERK_KEY = "ak_" + "c" * 40
IDENTITY = MachineIdentity(
    token_id="mt_1", subject="mch_1", scopes=frozenset({"mch_2"}), token_format="opaque"
)
SHARED = Shared(identity=IDENTITY, asked_at=1.0, left=60.0, mark=Mark("e", 3))
DIGEST = b"d" * 16


def seal(fleet_key: str = FLEET_KEY, clerk_key: str = CLERK_KEY, context: str = "a") -> Seal:
    return Seal(Secret(fleet_key), Secret(clerk_key), context)


def contents(**changed: Any) -> bytes:
    """Return the contents of an entry with changed members; an Ellipsis removes a member."""
    written = SHARED.write()
    assert written is not None
    members = json.loads(written) | changed
    return json.dumps({k: v for k, v in members.items() if v is not ...}).encode()


def test_changed_entries_cannot_be_opened() -> None:
    ours = seal()
    written = SHARED.write()
    assert written is not None
    good = ours.close(DIGEST, written)
    assert ours.open(DIGEST, good) == written
    others = [
        seal(fleet_key=OTHER_KEY),
        seal(clerk_key="ak_" + "x" * 40),  # another service of the fleet
        seal(context="b"),
    ]
    chance = random.Random(7)
    for at in range(10_000):
        place = chance.randrange(len(good))
        match at % 5:
            case 0:
                flipped = chr(ord(good[place]) ^ (1 << chance.randrange(7)))
                harmed, digest = good[:place] + flipped + good[place + 1 :], DIGEST
            case 1:
                harmed, digest = good[:place], DIGEST
            case 2:
                harmed, digest = good, chance.randbytes(16)  # the entry of another token
            case 3:
                harmed, digest = others[at % 3].close(DIGEST, written), DIGEST
            case _:
                harmed, digest = chance.randbytes(place).decode("latin-1"), DIGEST
        assert ours.open(digest, harmed) is None


def test_services_with_different_keys_or_contexts_use_different_names() -> None:
    seals = [seal(), seal(OTHER_KEY), seal(clerk_key="ak_" + "x" * 40), seal(context="b")]

    assert len({each.name(DIGEST) for each in seals}) == 4


@pytest.mark.parametrize(
    "changed",
    [
        {"later": 1},
        {"left": ...},
        {"left": "60"},
        {"asked_at": True},
        {"asked_at": float("nan")},
        {"number": 3.0},
        {"epoch": None},
        {"identity": []},
        {"identity": {"token_id": "mt_1"}},
        {"identity": {"token_id": "mt_1", "subject": "s", "scopes": [1], "claims": {}}},
    ],
)
def test_contents_with_unexpected_members_are_ignored(changed: dict[str, Any]) -> None:
    assert read(TokenClass.M2M_OPAQUE, contents()) == SHARED
    assert read(TokenClass.M2M_OPAQUE, contents(**changed)) is None
    assert read(TokenClass.API_KEY, contents()) is None
    assert read(TokenClass.M2M_OPAQUE, b"[" * 100_000) is None


def test_verdicts_older_than_the_known_rows_are_not_used() -> None:
    applied = Applied()
    applied.begin(5)
    applied.reached("e", 5)

    def outlawed(number: int, epoch: str = "e") -> bool:
        return applied.outlaws(["mt_1"], Mark(epoch, number), since=0.0)

    assert (outlawed(4), outlawed(5), outlawed(6), outlawed(6, "other")) == (1, 0, 0, 1)
    for number in range(6, 8 + MAX_NAMES):
        applied.note(number, Invalidation(token_id=f"mt_x{number}", instant=0.0))
    assert (outlawed(6), outlawed(7)) == (1, 0)
    applied.lost()
    assert outlawed(10**6)


def test_after_many_local_invalidations_older_shared_verdicts_are_not_used() -> None:
    applied = Applied()
    applied.begin(0)
    applied.reached("e", 0)
    for number in range(MAX_NAMES + 1):
        applied.invalidated_here(Invalidation(token_id=f"mt_x{number}", instant=0.0), now=10.0)

    assert applied.outlaws(["mt_1"], Mark("e", 0), since=9.0)
    assert not applied.outlaws(["mt_1"], Mark("e", 0), since=10.0)
