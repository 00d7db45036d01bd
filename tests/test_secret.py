"""A secret is not printed, not pickled, and not quoted by an error about the wrong setting."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
from commands import run_command

from clerk_m2m import (
    ClerkClient,
    ConfigurationError,
    MachineTokenAuth,
    ScopeGraph,
    Secret,
    Settings,
    Verifier,
    require_api_key,
    require_machine,
)
from clerk_m2m.asgi.excluded import ExcludedPaths
from clerk_m2m.secret import is_credential, without_credentials
from harness import USER_ID, World

MACHINE_ID = "mch_" + "c" * 27
MACHINE_KEY, INSTANCE_KEY = "ak_" + "0123456789" * 4, "sk_live_" + "abcdefghij" * 4


def settings(**given: Any) -> Settings:
    return Settings(**({"machine_id": MACHINE_ID, "machine_secret_key": MACHINE_KEY} | given))


def client() -> ClerkClient:
    return ClerkClient(secret_key=INSTANCE_KEY, machine_secret_key=MACHINE_KEY)


# Printing


@pytest.mark.parametrize("write", [repr, str, format, "{}".format, "%s".__mod__, ascii])
def test_a_secret_is_not_in_its_text_forms(write: Callable[[Any], str]) -> None:
    assert MACHINE_KEY not in write(Secret(MACHINE_KEY))


def test_a_secret_has_no_dict_and_no_json() -> None:
    with pytest.raises(TypeError):
        vars(Secret(MACHINE_KEY))
    with pytest.raises(TypeError, match="not JSON serializable"):
        json.dumps(Secret(MACHINE_KEY))


def test_settings_do_not_print_the_callable_that_gives_a_key() -> None:
    made = settings(machine_secret_key=partial(str, MACHINE_KEY))

    assert MACHINE_KEY not in repr(made)
    assert "<a callable that gives a key>" in repr(made)


# Pickling and copying

HOLDERS: dict[str, Callable[[], Any]] = {
    "Secret": lambda: Secret(MACHINE_KEY),
    "Settings": settings,
    "ClerkClient": client,
    "Verifier": lambda: Verifier(settings()),
    "a list of settings": lambda: [settings()],
    "Settings with a callable": lambda: settings(machine_secret_key=partial(str, MACHINE_KEY)),
    "ClerkClient with a callable": lambda: ClerkClient(secret_key=partial(str, INSTANCE_KEY)),
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_an_object_with_a_key_raises_and_says_what_to_do(
    holder: str, protocol: int
) -> None:
    with pytest.raises(TypeError, match=r"cannot be pickled.*in the other process") as refused:
        pickle.dumps(HOLDERS[holder](), protocol)

    assert MACHINE_KEY not in str(refused.value)


def test_settings_cannot_be_passed_to_a_spawned_process() -> None:
    with pytest.raises(TypeError, match="from its own environment"):
        ForkingPickler.dumps(settings())


async def test_a_created_resource_with_its_secret_can_be_copied_but_not_pickled(
    world: World,
) -> None:
    async with world.emulator.client(world.callee) as clerk:
        machine = await clerk.machines.create("new")
        token = await clerk.m2m_tokens.create()
        api_key = await clerk.api_keys.create("key", subject=USER_ID)

    for created in (machine, token, api_key):
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(created)
        assert copy.copy(created) == dataclasses.replace(created, id=created.id) == created
    with pytest.raises(TypeError, match="A Secret cannot be pickled"):
        pickle.dumps(machine)
    assert copy.deepcopy(machine) == machine
    assert dataclasses.asdict(machine)["secret_key"] is machine.secret_key


def test_a_copy_of_a_secret_is_the_secret_itself() -> None:
    secret = Secret(MACHINE_KEY)

    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret


def test_settings_with_a_callable_can_be_copied_and_compared() -> None:
    give = partial(str, MACHINE_KEY)
    made = settings(machine_secret_key=give)

    assert copy.copy(made) == copy.deepcopy(made) == made == settings(machine_secret_key=give)
    assert dataclasses.replace(made, timeout=3.0).machine_secret_key == made.machine_secret_key
    assert made != settings(machine_secret_key=partial(str, MACHINE_KEY))
    assert len({hash(each.machine_secret_key) for each in (made, copy.copy(made))}) == 1


def test_settings_and_a_client_can_be_copied() -> None:
    made = settings(secret_key=INSTANCE_KEY)

    assert copy.copy(made) == copy.deepcopy(made) == made
    assert dataclasses.asdict(made)["machine_secret_key"] is made.machine_secret_key
    assert dataclasses.replace(made, timeout=3.0).machine_secret_key == made.machine_secret_key
    assert isinstance(copy.copy(client()), ClerkClient)
    assert isinstance(copy.deepcopy(client()), ClerkClient)


# A key in the wrong place


@pytest.mark.parametrize(
    "text",
    [
        INSTANCE_KEY,
        MACHINE_KEY,
        "ak_AbCd1234/+efgh==",
        "mt_0123456789abcdef",
        "oat_0123456789abcdef",
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtY2gifQ.c2lnbmF0dXJl",
    ],
)
def test_a_text_that_looks_like_a_key_or_a_token_is_cut_to_its_beginning(text: str) -> None:
    assert is_credential(text)
    assert text[3:11] not in without_credentials(f"'{text}' is not a path, Bearer {text}.")
    assert without_credentials(f"KEY={text}").startswith(f"KEY={text[:2]}")


@pytest.mark.parametrize(
    "text",
    ["billing", MACHINE_ID, USER_ID, "break_dancing_service", "sk_test_…", "ak_…", "1 minute"],
)
def test_another_text_is_left_unchanged(text: str) -> None:
    assert not is_credential(text)
    assert without_credentials(text) == text


VARIABLES = [
    "CLERK_MACHINE_ID",
    "CLERK_MACHINE_SECRET_KEY",
    "CLERK_JWT_KEY",
    "CLERK_API_URL",
    "CLERK_M2M_JWKS_URL",
    "CLERK_M2M_ACCEPTS",
    "CLERK_M2M_API_KEY_HEADER",
    "CLERK_M2M_GRAPH",
    "CLERK_M2M_GRAPH_TTL",
    "CLERK_M2M_GRAPH_MAX_STALE",
    "CLERK_M2M_CACHE_TTL",
    "CLERK_M2M_NEGATIVE_TTL",
    "CLERK_M2M_CACHE_SIZE",
    "CLERK_M2M_STALE_IF_ERROR",
    "CLERK_M2M_TIMEOUT",
    "CLERK_M2M_MAX_INFLIGHT",
]


def everything_in(error: BaseException | None) -> str:
    """The repr of an error, of its causes and of its contexts."""
    if error is None:
        return ""
    return repr(error) + everything_in(error.__cause__) + everything_in(error.__context__)


@pytest.mark.parametrize("variable", VARIABLES)
def test_the_error_about_a_key_in_the_wrong_variable_names_only_the_variable(
    variable: str,
) -> None:
    environ = {"CLERK_MACHINE_ID": MACHINE_ID, "CLERK_MACHINE_SECRET_KEY": MACHINE_KEY}

    with pytest.raises(ConfigurationError, match=variable) as refused:
        Settings.from_env(environ | {variable: INSTANCE_KEY})

    assert refused.value.code == "configuration_invalid"
    assert INSTANCE_KEY[3:] not in everything_in(refused.value)


@pytest.mark.parametrize("variable", ["CLERK_M2M_CACHE_TTL", "CLERK_M2M_CACHE_SIZE"])
def test_the_error_about_a_number_does_not_quote_a_part_of_a_key(variable: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{variable} must be a number") as refused:
        Settings.from_env({"CLERK_MACHINE_ID": MACHINE_ID, variable: INSTANCE_KEY[9:]})

    assert INSTANCE_KEY[9:] not in everything_in(refused.value)


MISPLACED: dict[str, Callable[[], Any]] = {
    "accepts": lambda: settings(accepts=[INSTANCE_KEY]),
    "jwt_key": lambda: Verifier(settings(jwt_key=INSTANCE_KEY, graph={})),
    "graph path": lambda: Verifier(settings(graph=INSTANCE_KEY)),
    "graph mapping": lambda: settings(graph={INSTANCE_KEY: []}),
    "graph callee": lambda: ScopeGraph({MACHINE_ID: [INSTANCE_KEY]}),
    "id in TOML": lambda: ScopeGraph.from_toml(f'[machines.a]\nid = "{INSTANCE_KEY}"'),
    "callee in TOML": lambda: ScopeGraph.from_toml(
        f'[machines.a]\nid = "{MACHINE_ID}"\nmay_call = ["{INSTANCE_KEY}"]'
    ),
    "name in TOML": lambda: ScopeGraph.from_toml(f"[machines.{INSTANCE_KEY}]"),
    "two names in TOML": lambda: ScopeGraph.from_toml(f"[machines.{INSTANCE_KEY}]\n" * 2),
    "key in TOML": lambda: ScopeGraph.from_toml(
        f'[machines.a]\nid = "{MACHINE_ID}"\n{INSTANCE_KEY} = 1'
    ),
    "hosts": lambda: MachineTokenAuth(MACHINE_KEY, hosts=[f"{INSTANCE_KEY}/"]),
    "exclude": lambda: ExcludedPaths([INSTANCE_KEY]),
    "a guard's machine": lambda: require_machine(INSTANCE_KEY),
    "a guard's scope": lambda: require_api_key(scopes=[f'"{INSTANCE_KEY}"']),
}


@pytest.mark.parametrize("place", MISPLACED)
def test_an_error_about_a_key_in_the_wrong_place_does_not_quote_it(place: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        MISPLACED[place]()

    assert refused.value.code == "configuration_invalid"
    assert INSTANCE_KEY[3:] not in everything_in(refused.value)


def test_settings_do_not_print_jwt_key() -> None:
    assert INSTANCE_KEY not in repr(settings(jwt_key=INSTANCE_KEY, graph={}))


def test_the_command_line_does_not_quote_a_key_in_a_seed_file(tmp_path: Path) -> None:
    seed = tmp_path / "seed.toml"
    seed.write_text(f'[machines.a]\nmay_call = ["{INSTANCE_KEY}"]', "utf-8")

    done = run_command("emulator", "--port", "0", "--seed", seed)

    assert "sk_…" in done.err
    assert INSTANCE_KEY[3:] not in done.out + done.err
