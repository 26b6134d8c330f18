"""Collectives of one run of a compiled program, read from its HLO text.

HLO lists computations, each a line per instruction:

    %all-reduce.1 = f32[16,16]{1,0} all-reduce(%dot.3), replica_groups=[1,8]<=[8], to_apply=%add

A collective inside a loop runs as often as the loop does, so the walk starts at the entry and follows calls.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_OPERATION = re.compile(rf" ({'|'.join(KINDS)})(-start)?\(")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,<=]*)\]")
_CALLS = re.compile(r"\b(?:body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_PARTITIONS = re.compile(r"\bnum_partitions=(\d+)")
_PLACE = re.compile(r'op_name="([^"]*)"')


@dataclass(frozen=True, kw_only=True)
class Collective:
    """One instruction that moves data between devices."""

    kind: str
    """One of KINDS."""
    payload: int
    """Bytes per device and run: of the array that is reduced, or of the gathered result."""
    group: int
    """Number of devices that exchange it with each other."""
    runs: int
    """Number of times it runs per run of the program."""
    known: bool
    """Whether `runs` is certain: a loop of unknown length counts as one run."""
    place: str
    """Place in the traced function that it comes from."""

    @property
    def sent(self) -> float:
        """Bytes that one device sends per run of the program when the group forms a ring."""
        share = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return self.runs * self.payload * factor


@dataclass(frozen=True)
class _Computation:
    collectives: list[Collective]
    calls: list[tuple[str, int, bool]]
    """Called computation, number of calls, whether that number is known."""


def collectives(hlo: str) -> list[Collective]:
    """Returns the collectives of a compiled program (`jax.stages.Compiled.as_text()`), with loops counted in full."""
    entry, computations = _read(hlo)
    found: list[Collective] = []
    pending = [(entry, 1, True)]
    while pending:
        name, times, known = pending.pop()
        computation = computations.get(name, _Computation([], []))
        found += [replace(one, runs=times, known=known) for one in computation.collectives]
        pending += [(callee, times * n, known and sure) for callee, n, sure in computation.calls]
    return found


def _read(hlo: str) -> tuple[str, dict[str, _Computation]]:
    """Parses HLO text; returns the name of the entry and all computations by name."""
    partitions = _PARTITIONS.search(hlo[: hlo.find("\n")])
    devices = int(partitions.group(1)) if partitions else 1
    computations: dict[str, _Computation] = {}
    entry, current = "", _Computation([], [])
    for line in hlo.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header.group(2), _Computation([], []))
            entry = header.group(2) if header.group(1) else entry
        elif " = " in line and line[0].isspace():
            instruction = line.split(" = ", 1)[1]
            current.calls.extend(_calls(instruction))
            if one := _collective(instruction, devices):
                current.collectives.append(one)
    return entry, computations


def _calls(instruction: str) -> Iterator[tuple[str, int, bool]]:
    names = _CALLS.findall(instruction)
    for group in _BRANCHES.findall(instruction):
        names += [name.strip().lstrip("%") for name in group.split(",")]
    loop = " while(" in instruction
    trips = _TRIPS.search(instruction) if loop else None
    for name in names:
        yield name, int(trips.group(1)) if trips else 1, not loop or trips is not None


def _collective(instruction: str, devices: int) -> Collective | None:
    end = _result_end(instruction)
    operation = _OPERATION.match(instruction, end)
    if operation is None:
        return None
    kind, asynchronous = operation.group(1), operation.group(2) is not None
    sizes = [_bytes(dtype, dims) for dtype, dims in _SHAPE.findall(instruction[:end])]
    if asynchronous and kind == "all-gather":
        # Operands and results.
        sizes = sizes[len(sizes) // 2 :]
    elif asynchronous and kind == "collective-permute":
        # Operand, result, and on some devices two numbers.
        sizes = sizes[1:2]
    group = _group(instruction, devices)
    place = _PLACE.search(instruction)
    return Collective(
        kind=kind,
        payload=sum(sizes) * (group if kind == "reduce-scatter" else 1),
        group=group,
        runs=1,
        known=True,
        place=place.group(1) if place else "",
    )


def _result_end(instruction: str) -> int:
    """Returns the end of the result's type: the first blank outside of brackets."""
    depth = 0
    for position, letter in enumerate(instruction):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == " " and depth == 0:
            return position
    return len(instruction)


def _bytes(dtype: str, dims: str) -> int:
    """Returns the size of an array in bytes, from a type such as f32 and dimensions such as "16,16"."""
    digits = re.search(r"\d+", dtype)
    bits = int(digits.group()) if digits else 8  # pred
    return math.ceil(math.prod(int(dim.lstrip("<=")) for dim in dims.split(",") if dim) * bits / 8)


def _group(instruction: str, devices: int) -> int:
    """Returns the size of one replica group, from any of HLO's three notations."""
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", instruction):
        return int(found.group(1))
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", instruction):
        return found.group(1).count(",") + 1
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", instruction):
        axes = dict(re.findall(r"'([^']+)'=(\d+)", found.group(1)))
        # A part of an axis is written 'axis':(what comes before)size.
        named = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", found.group(2))
        return math.prod(int(part or axes[name]) for name, part in named)
    return devices
