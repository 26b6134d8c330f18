"""The base and the dataset that training runs use."""

from pathlib import Path

import pytest

from con360av_jax.config.settings import Config
from tests.support import tiny_world


@pytest.fixture(scope="session")
def folders(lean: Config) -> tuple[Path, Path]:
    return tiny_world.base(lean), tiny_world.dataset(lean)
