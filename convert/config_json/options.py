"""Typed reading of a library network's config.json: no option is dropped or assumed silently."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from con360av_jax.errors import ConfigError

Json = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Original:
    """Constructor options of one class of an original library."""

    name: str
    read: Json
    """Options that are read, with the library's defaults."""
    fixed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Supported values of the other options, the library's default first."""
    idle: tuple[str, ...] = ()
    """Options that influence no number."""
    strict: bool = True
    """Whether any other option is an error; transformers and schedulers write many that have no effect."""


@dataclass(frozen=True)
class Options:
    """The options of one config.json, missing ones filled in with the original library's defaults."""

    original: Original
    given: Json = field(repr=False)

    def __post_init__(self):
        """Raises ConfigError for options that are unknown or have a value that is not implemented."""
        for name, supported in self.original.fixed.items():
            if name in self.given:
                self.only(name, *supported)
        if self.original.strict:
            # Names that begin with "_" hold the class and version that wrote the file.
            known = {*self.original.read, *self.original.fixed, *self.original.idle}
            for name, value in self.given.items():
                if name not in known and not name.startswith("_") and value is not None:
                    self.refuse(name, "unknown: remove it from config.json if it has no effect")

    def __getitem__(self, name: str) -> object:
        return self.given[name] if name in self.given else self.original.read[name]

    def refuse(self, name: str, why: str) -> NoReturn:
        """Raises ConfigError about the option `name`."""
        value = self.given.get(name, self.original.read.get(name))
        raise ConfigError(f"{self.original.name}: option {name}={value!r} is {why}")

    def only(self, name: str, *supported: object) -> None:
        """Raises ConfigError unless the option, and each of its entries where it is a list, is one of `supported`."""
        value = self.given.get(name, self.original.read.get(name))
        if not all(_is_one_of(entry, supported) for entry in entries(value)):
            names = " or ".join(repr(entry) for entry in supported)
            self.refuse(name, f"not implemented, supported is {names}: convert another checkpoint")

    def integer(self, name: str, least: int = 1) -> int:
        """Value of the option `name`: a whole number, `least` or more."""
        value = self[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            self.refuse(name, f"not a whole number from {least} on")
        return value

    def number(self, name: str) -> float:
        """Value of the option `name`: a finite number."""
        value = self[name]
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            self.refuse(name, "not a finite number")
        return float(value)

    def flag(self, name: str) -> bool:
        """Value of the option `name`: True or False."""
        self.only(name, True, False)
        return bool(self[name])

    def integers(self, name: str) -> tuple[int, ...]:
        """Value of the option `name`: a list of whole numbers from 1 on."""
        value = self[name]
        numbers = whole_numbers(value)
        if not isinstance(value, list | tuple) or len(numbers) != len(value) or any(number < 1 for number in numbers):
            self.refuse(name, "not a list of whole numbers from 1 on")
        return numbers

    def per_level(self, name: str, levels: int) -> tuple[int, ...]:
        """Whole number of each level; a single number in the file applies to all levels."""
        values = (self.integer(name),) * levels if isinstance(self[name], int) else self.integers(name)
        if len(values) != levels:
            self.refuse(name, f"a list of {len(values)}, but there are {levels} levels")
        return values

    def for_all(self, name: str) -> int:
        """Whole number that is given once or as a list of equal numbers; our networks have no choice per level."""
        values = (self.integer(name),) if isinstance(self[name], int) else self.integers(name)
        if len(set(values)) != 1:
            self.refuse(name, "not implemented, supported is the same number everywhere: convert another checkpoint")
        return values[0]


def whole_numbers(value: object) -> tuple[int, ...]:
    """The whole numbers among a list's entries."""
    return tuple(entry for entry in value if type(entry) is int) if isinstance(value, list | tuple) else ()


def entries(value: object) -> list[object]:
    """All entries of nested lists, in order; any other value as its own single entry."""
    if isinstance(value, list | tuple) and value:
        return [leaf for entry in value for leaf in entries(entry)]
    return [value]


def _is_one_of(value: object, supported: tuple[object, ...]) -> bool:
    """Whether `value` is among `supported`; 1 and 1.0 are the same, 1 and True are not."""
    return any(value == entry and isinstance(value, bool) == isinstance(entry, bool) for entry in supported)
