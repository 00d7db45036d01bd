"""Types in public signatures: each of ours can be imported from a public module.

The tests visit every public name: the annotations of its methods and fields, those of the resources
of `ClerkClient`, and the libraries' classes that public classes derive from.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import typing
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

from clerk_m2m import ClerkClient

PLACES = [
    "clerk_m2m",
    "clerk_m2m.backend_api",
    "clerk_m2m.observe",
    "clerk_m2m.emulator",
    "clerk_m2m.testing",
]

# The types of libraries in public signatures, each with the reason why a user's code needs it.
LIBRARY_TYPES = {
    "httpx.AsyncBaseTransport": "what a user passes as `transport=`",
    "httpx.Auth": "what `MachineTokenAuth` is, for a client of httpx",
    "httpx2.Auth": "what `MachineTokenAuth` is, for a client of httpx2",
    "_pytest.monkeypatch.MonkeyPatch": "what the fixture `clerk_environ` requests from pytest",
    "starlette.requests.HTTPConnection": "what `on_error` and guards are called with",
    "starlette.responses.Response": "what `on_error` may return",
    "fastapi.security.base.SecurityBase": "how FastAPI recognizes a guard as a security scheme",
    "fastapi.security.oauth2.SecurityScopes": "what FastAPI passes to a guard in `Security(…)`",
}


@cache
def public_names() -> dict[str, Any]:
    """Every public name by its place: `clerk_m2m.Verifier`."""
    names = {}
    for place in PLACES:
        module = importlib.import_module(place)
        for name in getattr(module, "__all__", ()):
            names[f"{place}.{name}"] = getattr(module, name)
    return names


def namespace(module: ModuleType) -> dict[str, Any]:
    """What the annotations of a module may name, imports for type checkers included."""
    names = dict(vars(module))
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            exec(compile(ast.Module(node.body, []), str(module.__file__), "exec"), names)
    return names


def annotations_of(value: Any) -> Iterator[tuple[str, Any]]:
    """The annotations of a function, or of a class's own fields, as what they name."""
    names = namespace(sys.modules[value.__module__])
    for name, annotation in inspect.get_annotations(value).items():
        if not name.startswith("_"):
            yield name, eval(annotation, names) if isinstance(annotation, str) else annotation


def classes_in(annotation: Any) -> Iterator[type]:
    """The classes that an annotation consists of."""
    if isinstance(annotation, list | tuple):  # the parameters of a callable
        for part in annotation:
            yield from classes_in(part)
        return
    origin = typing.get_origin(annotation)
    yield from (each for each in (origin or annotation,) if isinstance(each, type))
    yield from classes_in(typing.get_args(annotation)) if origin else ()


def signatures(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every annotation in the signatures of a public name, and where it is."""
    if not inspect.isclass(value):
        function = inspect.unwrap(value)
        if inspect.isfunction(function):
            yield from ((f"{name}({each})", found) for each, found in annotations_of(function))
        else:
            yield name, value  # an alias of types
        return
    for base in value.__mro__:
        if base.__module__.startswith("clerk_m2m"):
            yield from ((f"{name}.{each}", found) for each, found in annotations_of(base))
        elif base.__module__.partition(".")[0] not in sys.stdlib_module_names:
            yield f"{name} derives from it", base
    for attribute in dir(value):
        if attribute.startswith("_") and not attribute.startswith("__"):
            continue
        member = inspect.getattr_static(value, attribute)
        member = member.fget if isinstance(member, property) else member
        function = getattr(member, "__func__", member)
        if inspect.isfunction(function) and function.__module__.startswith("clerk_m2m"):
            for each, found in annotations_of(function):
                yield f"{name}.{attribute}({each})", found


@cache
def types_met() -> dict[type, set[str]]:
    """Every class in a public signature, and the places where it is used."""
    client = ClerkClient(secret_key="sk_test_made_up")
    operations = {
        f"clerk_m2m.ClerkClient.{name}.{operation}": function
        for name, held in vars(client).items()
        for operation, function in inspect.getmembers(type(held), inspect.isfunction)
        if not name.startswith("_") and not operation.startswith("_")
    }
    met: dict[type, set[str]] = defaultdict(set)
    for name, value in (public_names() | operations).items():
        for where, annotation in signatures(name, value):
            for each in classes_in(annotation):
                met[each].add(where)
    return met


def test_every_type_of_ours_in_a_public_signature_is_a_public_name() -> None:
    public = {id(value) for value in public_names().values()}
    private = {
        f"{each.__module__}.{each.__qualname__}": sorted(places)
        for each, places in types_met().items()
        if each.__module__.startswith("clerk_m2m") and id(each) not in public
    }

    assert private == {}


def test_the_types_of_libraries_in_public_signatures_are_the_listed_ones() -> None:
    libraries = {
        f"{each.__module__}.{each.__qualname__}"
        for each in types_met()
        if each.__module__.partition(".")[0] not in {"clerk_m2m", *sys.stdlib_module_names}
    }

    assert libraries == set(LIBRARY_TYPES)
