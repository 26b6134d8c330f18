"""The page "Reproduce the paper": its commands at debug scale, run in a shell in an empty folder, make the table."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.doc_blocks import blocks
from tests.support.paths import ROOT


@pytest.mark.slow
def test_the_debug_scale_runs_from_scenes_to_the_table(tmp_path: Path, shared_models: Path):
    for package, extra in (("torch", "torch"), ("ai_edge_litert", "features")):
        pytest.importorskip(package, reason=f"protocol small needs it: pip install -e '.[{extra}]'")
    (block,) = (block for block in blocks("sh") if block.runs_slow)
    (tmp_path / "models").symlink_to(shared_models.resolve())
    told = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    inherited = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "CON360AV_CACHE")}
    finished = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=tmp_path, env={**inherited, **told}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "Open table1/table1.html" in finished.stdout and (tmp_path / "table1" / "table1.html").is_file()
    table = json.loads((tmp_path / "table1" / "table1.json").read_text())
    assert table["warnings"] == []
    values = {(row, name): metric["value"] for row, found in table["rows"].items() for name, metric in found.items()}
    assert values.keys() == {
        ("baseline", "s_kl"), ("baseline", "fad"), ("con360av", "s_kl"), ("con360av", "fad"), ("viewpoints", "fad"),
    }  # fmt: skip
    assert all(value is not None and math.isfinite(value) for value in values.values()), values
