"""Weights that no initialiser would give, of sizes that keep attention soft and features near one."""

from pathlib import Path

import numpy as np

from con360av_jax.base.parts import PARTS, part_factory
from con360av_jax.base.pretrained import write_pretrained
from con360av_jax.base.tokenizer import train_tokenizers
from con360av_jax.config.settings import Config
from con360av_jax.models import functional
from con360av_jax.models.functional import Params, flatten, unflatten


def write_random_base(folder: Path, config: Config) -> Path:
    """A pretrained folder whose every parameter is random."""
    parts = ((part, _random(config, part, number)) for number, part in enumerate(PARTS))
    write_pretrained(folder, config, parts, train_tokenizers(config, 0), origin="noise")
    return folder


def _random(config: Config, part: str, number: int) -> Params:
    random = np.random.default_rng(number)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        around = 1.0 if path.endswith("scale") else 0.0
        spread = 0.2 if len(shape) == 1 else np.prod(shape[:-1]) ** -0.5
        return (around + spread * random.standard_normal(shape)).astype(np.float32)

    shapes = flatten(functional.abstract(part_factory(part, config))[1])
    return unflatten({path: draw(path, leaf.shape) for path, leaf in shapes.items()})
