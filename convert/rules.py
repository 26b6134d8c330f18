"""Conversion as data: a table of rules from names in a PyTorch file to paths in a parameter tree, complete or an error.

A rule's pattern must match a whole source name; exactly one rule applies to each name. Needs NumPy only.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from con360av_jax.errors import CheckpointError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Axis order of one kind of tensor on both sides; `to_torch` also gets the shape wanted in PyTorch."""

    name: str
    to_jax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray, Shape], np.ndarray]


same = Layout("same", lambda x: x, lambda x, shape: x)
linear = Layout("linear", lambda x: x.T, lambda x, shape: x.T)
# (out, in, height, width) <-> (height, width, in, out)
conv2d = Layout("conv2d", lambda x: x.transpose(2, 3, 1, 0), lambda x, shape: x.transpose(3, 2, 0, 1))
# (out, in, time) <-> (time, in, out)
conv1d = Layout("conv1d", lambda x: x.transpose(2, 1, 0), lambda x, shape: x.transpose(2, 1, 0))
# Transposed: (in, out, time) <-> (time, in, out)
conv1d_transposed = Layout("conv1d_transposed", lambda x: x.transpose(2, 0, 1), lambda x, shape: x.transpose(1, 2, 0))
# (out, in, 1, ..) <-> (in, out): a convolution of size 1 is a dense layer.
pointwise = Layout("pointwise", lambda x: x.reshape(x.shape[:2]).T, lambda x, shape: x.T.reshape(shape))
# (channel, 1, ..) <-> (channel,)
vector = Layout("vector", lambda x: x.reshape(x.size), lambda x, shape: x.reshape(shape))


@dataclass(frozen=True)
class Rule:
    """Names that match `pattern` go to the path `target` (a regex template such as r"\\1.kernel") in `layout`."""

    pattern: str
    target: str
    layout: Layout = same

    def path(self, name: str) -> str | None:
        """Path in the parameter tree ("a/b/0/kernel"), or None where the rule does not apply."""
        match = re.fullmatch(self.pattern, name)
        return None if match is None else match.expand(self.target).replace(".", "/")


@dataclass(frozen=True)
class Skip:
    """Names that match `pattern` are left out of the parameter tree, for the stated reason.

    `formula` computes from a tensor's shape the values that the model has in its place; convert/skipped.py compares the
    two. It raises ValueError for a shape that such a tensor cannot have.
    """

    pattern: str
    because: str = field(kw_only=True)
    formula: Callable[[Shape], np.ndarray] = field(kw_only=True)


Table = Sequence[Rule | Skip]


def under(source: str, target: str, table: Iterable[Rule | Skip]) -> list[Rule | Skip]:
    """The same table for names that begin with `source` (literally), going below the path `target` ("": the root)."""
    prefix = re.escape(f"{source}.")
    below = f"{target}." if target else ""
    return [
        replace(entry, pattern=prefix + entry.pattern, target=below + entry.target)
        if isinstance(entry, Rule)
        else replace(entry, pattern=prefix + entry.pattern)
        for entry in table
    ]


@runtime_checkable
class Described(Protocol):
    """A mapping that knows its tensors' shapes without reading them, such as convert.torch_files.weights.Weights."""

    @property
    def infos(self) -> Mapping[str, Any]:
        """Objects with a `shape`, by tensor name."""
        ...


@dataclass(frozen=True)
class Converted(Mapping[str, np.ndarray]):
    """Source tensors under their paths and in our layout; each is read on access and not kept."""

    source: Mapping[str, np.ndarray] = field(repr=False)
    placed: Mapping[str, tuple[str, Layout]] = field(repr=False)
    """Source name and layout of every path, in the model's order."""

    def __getitem__(self, path: str) -> np.ndarray:
        name, layout = self.placed[path]
        # A copy where the order changes, so that a file's mapped pages are released one tensor at a time.
        return np.asarray(layout.to_jax(np.asarray(self.source[name])), order="C")

    def __iter__(self) -> Iterator[str]:
        return iter(self.placed)

    def __len__(self) -> int:
        return len(self.placed)

    def __contains__(self, path: object) -> bool:
        return path in self.placed


def to_jax(
    source: Mapping[str, np.ndarray], table: Table, wanted: Mapping[str, Shape], *, optional: str = r"(?!)"
) -> Converted:
    """Every source tensor under its path; `wanted` are the shapes of the flat parameter tree.

    Tensors of a `Described` source are read on access only; all problems are found beforehand.
    Paths that match the regex `optional` may stay unfilled (they are left out of the result).
    Raises CheckpointError listing every problem: names without a rule or with two, paths that do not exist, are filled
    twice or not at all, shapes that differ.
    """
    placed, problems = place(source, table)
    filled: dict[str, tuple[str, Layout]] = {}
    infos = source.infos if isinstance(source, Described) else None
    for name, (path, layout) in placed.items():
        if path not in wanted:
            problems.append(f"{name} -> {path}: the model has no such parameter")
        elif path in filled:
            problems.append(f"{name} -> {path}: already filled by another tensor")
        else:
            filled[path] = name, layout
            given = tuple(infos[name].shape) if infos is not None else np.shape(source[name])
            if (shape := _shape_here(layout, given)) != tuple(wanted[path]):
                found = (
                    f"shape {shape} given" if shape is not None else f"shape {given} does not fit layout {layout.name}"
                )
                problems.append(f"{name} -> {path}: {found}, {tuple(wanted[path])} wanted")
    problems += [
        f"{path}: no tensor for it" for path in wanted if path not in filled and not re.fullmatch(optional, path)
    ]
    _raise(problems)
    return Converted(source, {path: filled[path] for path in wanted if path in filled})


def _shape_here(layout: Layout, shape: Shape) -> Shape | None:
    """Our shape of a tensor of the given shape; None if it lacks the axes that the layout moves."""
    try:
        # One broadcast element: the layout itself computes the shape, without the memory.
        return layout.to_jax(np.broadcast_to(np.empty((), np.int8), shape)).shape
    except ValueError:
        return None


def to_torch(params: Mapping[str, np.ndarray], table: Table, wanted: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """The inverse: tensors under the names and shapes of `wanted`, without those the table skips.

    Raises CheckpointError listing every problem.
    """
    placed, problems = place(wanted, table)
    problems += [f"{name} <- {path}: no such parameter" for name, (path, _) in placed.items() if path not in params]
    _raise(problems)
    return {
        name: np.asarray(layout.to_torch(np.asarray(params[path]), tuple(wanted[name])), order="C")
        for name, (path, layout) in placed.items()
    }


def entries_for(name: str, table: Table) -> list[Rule | Skip]:
    """The entries of a table whose pattern matches the whole name; a table that fits has one for each name."""
    return [entry for entry in table if re.fullmatch(entry.pattern, name)]


def place(names: Iterable[str], table: Table) -> tuple[dict[str, tuple[str, Layout]], list[str]]:
    """Path and layout of every name that is not skipped, and the names that no entry or several entries apply to."""
    placed: dict[str, tuple[str, Layout]] = {}
    problems: list[str] = []
    for name in names:
        entries = entries_for(name, table)
        if len(entries) != 1:
            patterns = ", ".join(entry.pattern for entry in entries)
            problems.append(f"{name}: {f'several entries apply: {patterns}' if entries else 'no entry applies'}")
        elif isinstance(entry := entries[0], Rule) and (path := entry.path(name)) is not None:
            placed[name] = (path, entry.layout)
    return placed, problems


def _raise(problems: list[str]) -> None:
    if problems:
        raise CheckpointError(
            f"{len(problems)} problems, nothing converted; the file and the config or the table do not fit: "
            + "; ".join(problems)
        )
