"""A wheel holds all that the packages need besides their Python files."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support.paths import ROOT

PACKAGES = ("con360av_jax", "convert", "preprocess", "configs")
# As `con360av export` writes them.
MODEL = ("base.safetensors", "config.json", "control.safetensors", "report.json", "tokenizer_audio/tokenizer.json",
         "tokenizer_video/tokenizer_config.json")  # fmt: skip
# Templates that `configs` is read beside, not from an installed package.
EXAMPLES = ("configs/cluster/a100x64.sbatch", "configs/cluster/kubernetes.yaml")


def test_a_wheel_holds_every_file_of_the_packages_and_packaged_models(tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in MODEL:
        file = source / "con360av_jax" / "packaged" / "tests" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = source.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = {path for name in PACKAGES for path in (source / name).rglob("*") if path.is_file()}
    assert packed == {path.relative_to(source).as_posix() for path in files} - set(EXAMPLES)
