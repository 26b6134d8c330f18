"""Fixtures of evaluation tests."""

from functools import cache
from pathlib import Path

import pytest

import con360av_jax as c3
from con360av_jax.config.settings import Dtype
from con360av_jax.evaluate import extraction, run
from tests.support.evaluation_stand_ins import Extractor


@cache
def _loaded(path: Path, mesh: c3.MeshConfig, dtype: Dtype) -> c3.Con360AV:
    return c3.load(path, mesh=mesh, local=True, dtype=dtype)


@pytest.fixture
def one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opens each model once for all tests."""
    monkeypatch.setenv("CON360AV_CACHE", "off")
    monkeypatch.setattr(run, "load", lambda path, ema, mesh, local, dtype: _loaded(path, mesh, dtype))


@pytest.fixture
def extractor(monkeypatch: pytest.MonkeyPatch) -> Extractor:
    """Feature extraction by a stand-in that needs no networks and no weights."""
    stand_in = Extractor()
    monkeypatch.setattr(run, "require_weights", lambda *_: None)
    monkeypatch.setattr(extraction, "run_extractor", stand_in)
    return stand_in
