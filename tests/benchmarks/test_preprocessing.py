"""The benchmark of preprocessing runs to its end and tells each stage's speed from the seconds it measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT


def test_preprocessing_benchmark_times_the_whole_way_and_every_stage(tmp_path: Path):
    out = tmp_path / "preprocess.json"
    command = [sys.executable, "-m", "benchmarks.preprocessing", "--config", "debug", "--height", "64"]
    ran = subprocess.run([*command, "--rounds", "1", "--out", str(out)], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    results = json.loads(out.read_text())
    assert results["command"] and results["commit"] and results["processor"]
    (case,) = results["cases"].values()
    assert {"whole way", "saliency", "views", "write, processor"} <= set(case["seconds"])
    for name, row in case["seconds"].items():
        assert case["clips_per_second"][name] == pytest.approx(1 / row["median"])
