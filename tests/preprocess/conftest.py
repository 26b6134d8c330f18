"""The chain of stages without weights, and the tiny config as a file, for tests that run preprocessing."""

from pathlib import Path

import pytest

from con360av_jax.config.files import save_config
from con360av_jax.config.settings import Config
from con360av_jax.data.encoding import NoEncoder
from preprocess.captions.template import template_caption
from preprocess.running.pipeline import Pipeline
from preprocess.saliency.contrast import segment_contrast
from preprocess.stages.viewpoints import ViewpointSettings


@pytest.fixture
def chain(tiny: Config) -> Pipeline:
    return Pipeline(
        config=tiny,
        saliency=segment_contrast,
        captions=template_caption,
        encoder=NoEncoder(),
        viewpoints=ViewpointSettings(count=1),
    )


@pytest.fixture(scope="session")
def config_path(tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.json"
    save_config(tiny, path)
    return path
