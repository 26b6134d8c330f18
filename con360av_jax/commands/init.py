"""con360av init: a pretrained folder with random weights, to train small models from nothing."""

from dataclasses import dataclass
from pathlib import Path

from con360av_jax.commands.options import override


@dataclass(frozen=True, kw_only=True)
class Init:
    """Make a pretrained folder with random weights for every part.

    Any setting of the config can be changed by its path, for example --config.clip.height 128.
    """

    config: str
    """Name of a config (configs/NAME.py), or path to a .py or .json file."""
    out: Path
    """Folder to make."""
    seed: int = 0
    """Seed of the weights."""

    def execute(self, settings: list[str]) -> None:
        """Writes the folder; `settings` are the options that change the config."""
        from con360av_jax.config.files import load_config

        config = override(load_config(self.config), settings)

        from con360av_jax.base.random import create_random
        from con360av_jax.runtime.compile_cache import enable_compile_cache

        enable_compile_cache()
        create_random(self.out, config, self.seed)
