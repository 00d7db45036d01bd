"""The contract's rules for bodies, queries and path parameters, as data.

Each rule takes a JSON value and returns the value to use, or raises `ValueError` with what is
wrong. The property lists of the operations are beside their handlers.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl

from clerk_m2m.emulator.responses import InvalidField, Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BODY_BYTES = 1024 * 1024
MAX_DEPTH = 64
# SQLite's integers are 64 bits; a longer offset points past the end just the same.
MAX_INTEGER = 2**62

_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class BodyRule(Protocol):
    """The rule for a JSON property."""

    def check(self, value: object) -> Any:
        """The value to use, from JSON."""


class TextRule(Protocol):
    """The rule for a parameter in a query string or path."""

    def read(self, text: str) -> Any:
        """The value to use, from text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A string: bounds on its length, a pattern that it matches whole, a choice of values."""

    min_length: int = 0
    max_length: int | None = None
    pattern: re.Pattern[str] | None = None
    choices: tuple[str, ...] = ()
    nullable: bool = False

    def check(self, value: object) -> str | None:
        """Reject a value that is not a string, or has a wrong length or form."""
        if value is None and self.nullable:
            return None
        if not isinstance(value, str):
            raise ValueError("must be a string")
        if len(value) < self.min_length:
            raise ValueError(f"must have at least {self.min_length} characters")
        if self.max_length is not None and len(value) > self.max_length:
            raise ValueError(f"must have at most {self.max_length} characters")
        if self.pattern is not None and not self.pattern.fullmatch(value):
            raise ValueError(f"must match {self.pattern.pattern}")
        if self.choices and value not in self.choices:
            raise ValueError(f"must be one of {', '.join(self.choices)}")
        return value

    read = check


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A JSON number within bounds, not a boolean. `above` excludes the bound itself."""

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    whole: bool = False
    nullable: bool = False

    def check(self, value: object) -> int | float | None:
        """Reject a value that is not a finite number, out of bounds, or wrongly not whole."""
        if value is None and self.nullable:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("must be a number")
        if self.whole and isinstance(value, float):
            if not value.is_integer():
                raise ValueError("must be a whole number")
            value = int(value)
        self._check_bounds(value)
        return value

    def _check_bounds(self, value: float) -> None:
        if self.minimum is not None and value < self.minimum:
            raise ValueError(f"must be at least {self.minimum}")
        if self.maximum is not None and value > self.maximum:
            raise ValueError(f"must be at most {self.maximum}")
        if self.above is not None and value <= self.above:
            raise ValueError(f"must be greater than {self.above}")

    def read(self, text: str) -> int | None:
        """The number written in a query string, cut to a whole one: it counts rows."""
        if self.nullable and text == "null":
            return None
        if len(text) > 400 or not _JSON_NUMBER.fullmatch(text):
            raise ValueError("must be a number")
        number = self.check(_finite(text) if re.search(r"[.eE]", text) else int(text))
        return min(math.floor(number or 0), MAX_INTEGER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """A list of strings."""

    max_items: int | None = None

    def check(self, value: object) -> list[str]:
        """Reject a value that is not a list of strings, or is too long."""
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError("must be a list of strings")
        if self.max_items is not None and len(value) > self.max_items:
            raise ValueError(f"must have at most {self.max_items} items")
        return value


@dataclass(frozen=True, slots=True)
class Flag:
    """`true` or `false` in a query string; the contract lets it be null."""

    def read(self, text: str) -> bool | None:
        """The boolean written in a query string."""
        meanings = {"true": True, "false": False, "null": None}
        if text not in meanings:
            raise ValueError("must be true or false")
        return meanings[text]


@dataclass(frozen=True, slots=True)
class Switch:
    """`true` or `false` in JSON."""

    def check(self, value: object) -> bool:
        """Reject a value that is not a boolean."""
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value


@dataclass(frozen=True, slots=True)
class Anything:
    """Any JSON value."""

    def check(self, value: object) -> object:
        """Take it as it is."""
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A JSON object: its properties, which of them must be there, whether others may be."""

    fields: Mapping[str, BodyRule]
    required: tuple[str, ...] = ()
    closed: bool = True
    optional: bool = False

    def read(self, content: bytes, media_type: str) -> dict[str, Any]:
        """The checked properties of a request's body."""
        if not content and self.optional:
            return self.check({})
        if media_type.partition(";")[0].strip().lower() != "application/json":
            raise Refusal(400, "unsupported_content_type", "Content-Type must be application/json")
        return self.check(parse_object(content))

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The properties that the contract knows, each by its rule."""
        for name in self.required:
            if name not in given:
                raise InvalidField(name, "form_param_missing", f"{name} is required")
        if self.closed:
            for name in given.keys() - self.fields.keys():
                raise InvalidField(name, "form_param_unknown", f"{name} is not a valid parameter")
        return {
            name: _apply(name, rule.check, given[name])
            for name, rule in self.fields.items()
            if name in given
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The parameters of a query string; others are ignored, as the contract has it."""

    fields: Mapping[str, TextRule] = field(default_factory=dict)
    required: tuple[str, ...] = ()

    def read(self, query_string: bytes) -> dict[str, Any]:
        """The checked parameters of a request."""
        read: dict[str, Any] = {}
        for name, text in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
            rule = self.fields.get(name)
            if rule is None:
                continue
            if name in read:
                raise InvalidField(name, "form_param_duplicate", f"{name} is given twice")
            read[name] = _apply(name, rule.read, text)
        for name in self.required:
            if name not in read:
                raise InvalidField(name, "form_param_missing", f"{name} is required")
        return read


def read_path(fields: Mapping[str, TextRule], given: Mapping[str, str]) -> None:
    """Check the path parameters that have a rule."""
    for name, rule in fields.items():
        if name in given:
            _apply(name, rule.read, given[name])


def parse_object(content: bytes) -> dict[str, Any]:
    """The JSON object in a request's body; 400 when there is none."""
    try:
        value = json.loads(content.decode(), parse_float=_finite, parse_constant=_refuse_constant)
        _check_storable(value)
    except (ValueError, RecursionError) as exc:
        raise Refusal(400, "request_body_invalid", "Request body is not valid JSON") from exc
    if not isinstance(value, dict):
        raise Refusal(400, "request_body_invalid", "Request body must be a JSON object")
    return value


def _apply(name: str, rule: Any, value: object) -> Any:
    try:
        return rule(value)
    except ValueError as exc:
        raise InvalidField(name, "form_param_format_invalid", f"{name} {exc}") from exc


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("must be a finite number")
    return number


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _check_storable(value: object, depth: int = 0) -> None:
    """Reject what could not be written as JSON again: lone surrogates, too deep nesting."""
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, list):
        for item in value:
            _check_storable(item, depth + 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            name.encode()
            _check_storable(item, depth + 1)
