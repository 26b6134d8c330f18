"""Benchmarks run to their end at a small width, and the speeds that they publish follow from the measured seconds."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT

pytest.importorskip("torch", reason="benchmarks compare with the original libraries")

from benchmarks import harness


def run(name: str, out: Path, *options: str) -> tuple[Any, str]:
    """Results of a benchmark at debug width, and its terminal output."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--config", "debug", *options, "--out", str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    results = json.loads(out.read_text())
    assert results["command"].startswith(f"python -m benchmarks.{name} --config debug")
    assert results["commit"] and results["processor"] and results["versions"]["jax"]
    assert results["config"]["name"] == "debug"
    return results, ran.stdout


def test_vocoder_benchmark_compares_both_sides(tmp_path: Path):
    results, shown = run("vocoder", tmp_path / "results" / "vocoder.json", "--rounds", "2")
    ((_, case),) = results["cases"].items()
    assert case["errors"]["jax"] < 1e-4
    ours, theirs = (case["seconds"][name]["rounds"] for name in ("jax", "torch eager"))
    ratios = [one / other for one, other in zip(theirs, ours, strict=True)]
    assert case["ratios"]["torch eager / jax"]["median"] == pytest.approx(sum(ratios) / 2)
    assert case["compiled"]["jax"]["compile_seconds"] > 0
    assert "torch eager / jax" in shown


def test_checkpoint_benchmark_saves_the_state_of_a_run_and_counts_in_copies(tmp_path: Path):
    results, _ = run("checkpoint", tmp_path / "checkpoint.json", "--rounds", "2")
    blocks, copies = (results["seconds"][name]["rounds"] for name in ("save_blocks", "copy"))
    assert results["blocks_in_copies"]["rounds"] == [save / copy for save, copy in zip(blocks, copies, strict=True)]
    assert len(blocks) == 2 and results["arrays"] > 0 and results["bytes"] > 0


def test_preprocessing_benchmark_times_the_whole_way_and_every_stage(tmp_path: Path):
    results, _ = run("preprocessing", tmp_path / "preprocess.json", "--height", "64", "--rounds", "1")
    (case,) = results["cases"].values()
    assert {"whole way", "saliency", "views", "write, processor"} <= set(case["seconds"])
    for name, row in case["seconds"].items():
        assert case["clips_per_second"][name] == pytest.approx(1 / row["median"])


def test_scenes_benchmark_renders_each_number_once(tmp_path: Path):
    results, _ = run("scenes", tmp_path / "scenes.json", "--samples", "4", "--rounds", "2")
    (case,) = results["cases"].values()
    assert {"stills", "stills, shuffled", "clips", "audio, processor"} <= set(case["seconds"])
    assert case["samples_per_second"]["audio"] == pytest.approx(2 / case["seconds"]["audio"]["median"])


def test_memory_of_a_command_is_its_own_and_failure_is_an_error():
    block = bytearray(400 << 20)  # of this process, not of the command's
    _, small = harness.measured_command([sys.executable, "-c", "pass"])
    _, large = harness.measured_command([sys.executable, "-c", "block = bytearray(200 << 20); print(block[0])"])
    assert len(block) and small < 100 and 200 <= large < 300
    with pytest.raises(RuntimeError, match="exit code 3"):
        harness.measured_command([sys.executable, "-c", "raise SystemExit(3)"])
