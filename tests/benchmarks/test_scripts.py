"""A benchmark runs to its end at a small width, and what it says of speed follows from the seconds it measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytest.importorskip("torch", reason="benchmarks compare with the original libraries")


def test_vocoder_benchmark_compares_both_sides_and_says_on_what(tmp_path: Path):
    out = tmp_path / "results" / "vocoder.json"
    command = [sys.executable, "-m", "benchmarks.vocoder", "--config", "debug", "--rounds", "2"]
    ran = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    results = json.loads(out.read_text())
    assert results["command"].endswith(f"--out {out}") and results["commit"] and results["versions"]["jax"]
    assert results["config"]["name"] == "debug"
    ((_, case),) = results["cases"].items()
    assert case["errors"]["jax"] < 1e-4
    ours, theirs = (case["seconds"][name]["rounds"] for name in ("jax", "torch eager"))
    ratios = [one / other for one, other in zip(theirs, ours, strict=True)]
    assert case["ratios"]["torch eager / jax"]["median"] == pytest.approx(sum(ratios) / 2)
    assert case["compiled"]["jax"]["compile_seconds"] > 0
    assert "torch eager / jax" in ran.stdout


def test_checkpoint_benchmark_saves_what_a_run_saves_and_counts_in_copies(tmp_path: Path):
    out = tmp_path / "checkpoint.json"
    command = [sys.executable, "-m", "benchmarks.checkpoint", "--config", "debug", "--rounds", "2"]
    ran = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    results = json.loads(out.read_text())
    blocks, copies = (results["seconds"][name]["rounds"] for name in ("save_blocks", "copy"))
    assert results["blocks_in_copies"]["rounds"] == [save / copy for save, copy in zip(blocks, copies, strict=True)]
    assert len(blocks) == 2 and results["arrays"] > 0 and results["bytes"] > 0
