"""con360av init: a pretrained folder with random weights, or with parts that were pretrained, to train small models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from con360av_jax.config.files import load_config
from con360av_jax.config.pretraining import JUDGES
from con360av_jax.config.settings import Config
from con360av_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Init:
    """Make a base with random weights, to train small models from nothing.

    Parts that `con360av pretrain` has trained take the place of random ones. Every setting of the config is an option,
    such as --config.clip.height 128. Defaults below are those of --config.
    """

    config: str
    """Name of a config (configs/NAME.py) or path to a .py or .json file."""
    out: Path
    """Folder of the base to write."""
    seed: int = 0
    """Seed of the weights."""
    part: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Trained part, as PART=RUN (moving average of the run's newest checkpoint) or PART=RUN/checkpoints/STEP."""

    def starting_config(self) -> Config:
        """The config whose settings are options."""
        return load_config(self.config)

    def execute(self, config: Config) -> None:
        """Writes the base; raises ConfigError if a part is not given as PART=RUN or twice."""
        from con360av_jax.base.pretrained import refuse_existing
        from con360av_jax.base.random import create_random
        from con360av_jax.models.functional import flatten, unflatten
        from con360av_jax.runtime.compile_cache import enable_compile_cache
        from con360av_jax.train.trained_parts import open_trained, with_factors

        enable_compile_cache()
        refuse_existing(self.out)
        trained: dict[str, object] = {}
        origins = []
        for given in self.part:
            name, _, path = given.partition("=")
            if not path:
                raise ConfigError(f"--part {given}: give a part and the run that trained it, such as vae_video=RUN")
            if name in JUDGES:
                raise ConfigError(
                    f"--part {given}: a judge is no part of a base; give it to con360av evaluate --protocol scenes "
                    f"--weights {given}"
                )
            found = open_trained(Path(path), config)
            if name != found.origin["part"]:
                raise ConfigError(f"--part {given}: that run trained {found.origin['part']}, not {name}")
            flat = flatten(found.params)
            if both := sorted(flat.keys() & trained.keys()):
                raise ConfigError(f"--part {given}: {both[0]} was given by an earlier --part")
            config = with_factors(config, found.scaling_factors)
            trained |= flat
            origins.append(found.origin)
        create_random(self.out, config, self.seed, unflatten(trained), origins)
