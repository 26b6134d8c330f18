"""Display of a plan as tables on a terminal."""

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table

from con360av_jax.plan.collectives import KINDS
from con360av_jax.plan.planner import USABLE_SHARE, Plan
from con360av_jax.plan.requirements import Requirements

GIB, MIB = 1 << 30, 1 << 20


def show(plan: Plan, console: Console) -> None:
    """Prints the plan."""
    console.print(Group(*_blocks(plan)))


def _blocks(plan: Plan) -> Iterator[RenderableType]:
    mesh = plan.mesh
    yield f"con360av plan {plan.config} (config {plan.config_hash}, JAX {plan.jax_version})"
    yield (
        f"{plan.machine.devices} devices: data={mesh.data} fsdp={mesh.fsdp} tensor={mesh.tensor}; "
        f"batch {plan.batch_size} = {plan.needs.rows} at once on each x {mesh.data * mesh.fsdp}"
        + (f" x accumulate {plan.accumulate}" if plan.accumulate > 1 else "")
        + f"; remat {plan.needs.remat}; compiled in {plan.needs.compile_seconds:.0f} s"
    )
    yield from (f"changed: {change}" for change in plan.changes)
    yield _memory(plan)
    yield _wire(plan.needs)
    yield _time(plan)
    if plan.policies:
        yield _policies(plan)
        yield f"suggestion: {plan.suggestion}"
    yield from (f"- {note}" for note in plan.notes)


def _memory(plan: Plan) -> Table:
    memory = plan.needs.memory
    unit, name_of_unit = (GIB, "GiB") if memory.total >= GIB else (MIB, "MiB")
    table = _table("memory per device", "", name_of_unit)
    rows = {
        "trainable parameters (float32)": memory.trainable,
        "their moving average (float32)": memory.ema,
        "optimizer": memory.optimizer,
        "frozen parameters": memory.frozen,
        "batch": memory.batch,
        f"temporaries (gradients included: {memory.gradients / unit:.2f})": memory.temporaries,
        "total": memory.total,
        f"{USABLE_SHARE:.0%} of the device: {'fits' if plan.fits else 'DOES NOT FIT'}": USABLE_SHARE
        * plan.machine.memory,
    }
    for name, size in rows.items():
        table.add_row(name, f"{size / unit:.2f}")
    return table


def _wire(needs: Requirements) -> Table:
    table = _table("collectives per step", "kind", "count", "MiB per device", "MiB sent (ring)")
    for kind in KINDS:
        found = [one for one in needs.collectives if one.kind == kind]
        if found:
            payload = sum(one.runs * one.payload for one in found)
            count = f"{sum(one.runs for one in found)}" + ("" if all(one.known for one in found) else " or more")
            table.add_row(kind, count, f"{payload / MIB:.2f}", f"{sum(one.sent for one in found) / MIB:.2f}")
    if not needs.collectives:
        table.add_row("none", "0", "0.00", "0.00")
    return table


def _time(plan: Plan) -> Table:
    machine, needs, time = plan.machine, plan.needs, plan.time
    shortest, longest = time.range
    table = _table("arithmetic and expected time (estimates)", "", "")
    table.add_row("FLOPs per clip", f"{needs.flops_per_clip / 1e12:.2f} T")
    table.add_row("FLOPs per clip as counted by XLA", f"{needs.xla_flops_per_clip / 1e12:.2f} T")
    table.add_row(f"compute at {machine.mfu:.0%} of {machine.peak_tflops:g} TFLOP/s", f"{time.compute:.3f} s")
    table.add_row(f"communication at {machine.bandwidth:g} GB/s per device", f"{time.wire:.3f} s")
    table.add_row("step, with and without overlap", f"{shortest:.3f} - {longest:.3f} s")
    speed = f"{plan.batch_size / longest:.1f} - {plan.batch_size / shortest:.1f}"
    table.add_row("clips/s, all devices", speed)
    return table


def _policies(plan: Plan) -> Table:
    table = _table(
        "remat policies", "train.remat", "fixed GiB", "GiB per sample", "most samples per device", "TFLOPs per clip"
    )
    for one in plan.policies:
        table.add_row(
            one.remat,
            f"{one.base / GIB:.2f}",
            f"{one.per_row / GIB:.3f}",
            f"{one.largest_rows}",
            f"{one.flops_per_clip / 1e12:.2f}",
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=any(columns))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table
