"""Fixtures of evaluation tests."""

import pytest

from con360av_jax.evaluate import extraction
from tests.support.evaluation_stand_ins import Extractor


@pytest.fixture
def extractor(monkeypatch: pytest.MonkeyPatch) -> Extractor:
    """Feature extraction by a stand-in that needs no networks."""
    stand_in = Extractor()
    monkeypatch.setattr(extraction, "run_extractor", stand_in)
    return stand_in
