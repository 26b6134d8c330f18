"""A page without content, for tests of what leads to it."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("con360av_jax.evaluate.page"):
        return
    module = ModuleType("con360av_jax.evaluate.page")

    def write_page(folder: Path) -> Path:
        (folder / "metrics.html").write_text("page")
        return folder / "metrics.html"

    def write_comparison(results: Sequence, out: Path, folders: object = None, differences: object = None) -> Path:
        out.write_text("page")
        return out

    module.write_page, module.write_comparison = write_page, write_comparison
    monkeypatch.setitem(sys.modules, module.__name__, module)
