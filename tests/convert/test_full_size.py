"""The whole published set at full width, random weights on disk: converted and verified by the commands users type.

Needs Linux, a disk with 24 GB free and 14 GB of memory; takes many minutes. `--basetemp` chooses the disk.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from convert.verify.jax_networks import NETWORKS
from tests.support.paths import ROOT

pytest.importorskip("torch", reason="the originals are PyTorch models")

CONFIG = "published"
DISK, MEMORY, PEAK = 24e9, 14e9, 12e9
NETWORK_TOLERANCE, LAYER_TOLERANCE = 1e-4, 1e-5
# Parameters in millions, as published or (connectors) counted in the public implementation, by paths in report.json.
MILLIONS = {
    r"joint/unet/audio/.*": 415.95,
    r"joint/unet/video/(?!.*motion_modules).*": 859.52,
    r"joint/unet/video/.*motion_modules.*": 453.21,
    r"joint/(connector|environment_encoder)/.*": 467.74,
    r"vae_audio/.*": 55.38,
    r"vae_video/.*": 83.65,
    r"text_audio/.*": 125.3,
    r"text_video/.*": 123.06,
    r"vocoder/.*": 55.26,
}
# Map Encoder and FiLM are in no published file.
OWN = r"joint/(map_encoder|film)/.*"
MAKE = (
    "import sys; from pathlib import Path; from benchmarks.conversion import make_pipeline\n"
    "from con360av_jax.config.files import load_config\n"
    "make_pipeline(load_config(sys.argv[1]), Path(sys.argv[2]))\n"
)


@dataclass(frozen=True, kw_only=True)
class FullRun:
    """Output of the commands."""

    report: Mapping[str, object]
    """report.json of the pretrained folder."""
    peak: float
    """Most memory that the conversion held, bytes."""
    page: str
    """Rows of the page that `verify` wrote; its numbers have two digits."""
    verified: int
    """Exit code of `verify`."""


def spent(command: list[str]) -> tuple[int, float]:
    """Runs a command in a process of its own; its exit code and the most memory it held, bytes."""
    # As a user runs it: without the tests' flags, but also without touching the user's cache of compiled programs.
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    child = subprocess.Popen(command, cwd=ROOT, env={**kept, "CON360AV_CACHE": "off"})
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, usage.ru_maxrss * 1024.0


def convert_and_verify(folder: Path, config: str) -> FullRun:
    """Makes a pipeline of `config` (a name or a file) in `folder`, converts and verifies it."""
    pipeline, base, page = folder / "pipeline", folder / "base", folder / "verification.html"
    convert, sources = [sys.executable, "-m", "convert"], ["--baseline", str(pipeline)]
    made, _ = spent([sys.executable, "-c", MAKE, config, str(pipeline)])
    assert made == 0
    converted, peak = spent([*convert, "base", *sources, "--out", str(base), "--config", config])
    assert converted == 0
    verified, _ = spent([*convert, "verify", *sources, "--base", str(base), "--html", str(page)])
    return FullRun(
        report=json.loads((base / "report.json").read_text()), peak=peak, page=page.read_text(), verified=verified
    )


def require_room(folder: Path) -> None:
    """Skips, saying why, where the machine is too small."""
    memory_file = Path("/proc/meminfo")
    if not memory_file.is_file():
        pytest.skip("the memory of a process is measured on Linux only")
    free = shutil.disk_usage(folder).free
    if free < DISK:
        pytest.skip(f"{folder} has {free / 1e9:.1f} GB free, the set needs {DISK / 1e9:.0f}: choose with --basetemp")
    found = re.search(r"MemAvailable:\s+(\d+) kB", memory_file.read_text())
    available = int(found[1]) * 1024 if found else 0
    if available < MEMORY:
        pytest.skip(f"{available / 1e9:.1f} GB of memory are available, the set needs {MEMORY / 1e9:.0f}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FullRun]:
    folder = tmp_path_factory.mktemp("full_size")
    require_room(folder)
    try:
        yield convert_and_verify(folder, CONFIG)
    finally:
        # pytest keeps the folders of three runs, these are 21 GB each.
        shutil.rmtree(folder)


def parameters(report: Mapping[str, object], pattern: str) -> int:
    """Parameters of report.json's tensors whose "part/path" matches."""
    rows = report["tensors"]
    assert isinstance(rows, list)
    return sum(math.prod(row["shape"]) for row in rows if re.fullmatch(pattern, f"{row['part']}/{row['path']}"))


def errors(page: str) -> dict[str, tuple[list[float], list[float]]]:
    """The errors that the page of `verify` shows by network: of its outputs, and of its layers."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for name, section in re.findall(r'<section class="card" id="(\w+)">(.*?)</section>', page, re.DOTALL):
        halves = section.split("worst layer")
        assert len(halves) == 2, name
        outputs, layers = ([float(number) for number in re.findall(r">([\d.]+e[+-]\d+|nan|inf)<", half)]
                           for half in halves)  # fmt: skip
        found[name] = outputs, layers
    return found


@pytest.mark.slow
def test_the_full_set_has_the_published_numbers_of_parameters(run: FullRun):
    found = {pattern: parameters(run.report, pattern) / 1e6 for pattern in MILLIONS}
    assert found == pytest.approx(MILLIONS, abs=0.006)
    totals = run.report["totals"]
    assert isinstance(totals, dict)
    assert {part: total["parameters"] for part, total in totals.items()} == {
        part: parameters(run.report, f"{part}/.*") for part in totals
    }
    published = sum(MILLIONS.values())
    whole = sum(total["parameters"] for total in totals.values()) - parameters(run.report, OWN)
    assert whole / 1e6 == pytest.approx(published, abs=0.02)


@pytest.mark.slow
def test_converting_the_full_set_fits_into_memory(run: FullRun):
    assert run.peak <= PEAK


@pytest.mark.slow
def test_the_full_set_equals_its_originals(run: FullRun):
    assert run.verified == 0
    found = errors(run.page)
    assert set(found) == set(NETWORKS)
    for name, (outputs, layers) in found.items():
        assert outputs and all(error <= NETWORK_TOLERANCE for error in outputs), name
        assert layers and all(error <= LAYER_TOLERANCE for error in layers), name
