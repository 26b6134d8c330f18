"""con360av init: a pretrained folder with random weights, to train small models from nothing."""

from dataclasses import dataclass
from pathlib import Path

from con360av_jax.config.files import load_config
from con360av_jax.config.settings import Config


@dataclass(frozen=True, kw_only=True)
class Init:
    """Make a base with random weights, to train small models from nothing.

    Every setting of the config is an option, such as --config.clip.height 128. Defaults below are those of --config.
    """

    config: str
    """Name of a config (configs/NAME.py) or path to a .py or .json file."""
    out: Path
    """Folder of the base to write."""
    seed: int = 0
    """Seed of the weights."""

    def starting_config(self) -> Config:
        """The config whose settings are options."""
        return load_config(self.config)

    def execute(self, config: Config) -> None:
        """Writes the base."""
        from con360av_jax.base.random import create_random
        from con360av_jax.runtime.compile_cache import enable_compile_cache

        enable_compile_cache()
        create_random(self.out, config, self.seed)
