"""con360av bench: how fast a part of training, or sampling, is on this machine."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from con360av_jax.config.files import config_of, load_config
from con360av_jax.config.settings import Config, Dtype
from con360av_jax.errors import ConfigError

NEEDS_CHECKPOINT = "bench sample needs --checkpoint, and nothing else takes it"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure a part of training, or sampling, on this machine.

    loader: records read per second from local disk, ready as batches, without a model. train: the compiled training
    step, on random weights. sample: batches of clips of --checkpoint, from captions to video and audio. Every setting
    of the config is an option, such as --config.mesh.data 4. Defaults below are those of CONFIG.
    """

    what: tyro.conf.Positional[Literal["loader", "train", "sample"]]
    """The part to measure."""
    config: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")] = ""
    """Name of a config (configs/NAME.py) or path to a .py or .json file. Left out: the dataset's config, or published
    without a dataset. With a dataset, model, mel, noise schedules and clip are those of the dataset's config."""
    dataset: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Encoded dataset to read. Left out: random latents of the config's shapes."""
    records: int | None = None
    """loader: number of records to read while the clock runs; left out: 2000. train: number of records of a temporary
    dataset that the loader reads; left out: no loader, all batches are made before the clock starts."""
    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """sample: run, checkpoint, base, exported or packaged model that generates; its config is CONFIG."""
    steps: int | None = None
    """train: number of steps to time. Left out: 20."""
    rounds: int | None = None
    """sample: number of batches to time. Left out: 3."""
    dtype: Dtype | None = None
    """sample: data type to compute in. Left out: float32 on CPUs, bfloat16 on GPUs and TPUs."""
    batch_size: int | None = None
    """Records or clips per batch. Left out: 8 for loader, 1 for sample, the config's train.batch_size for train."""
    threads: int | None = None
    """Loader threads. Left out: the config's train.loader_threads."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file to write the result to."""

    def starting_config(self) -> Config:
        """The config whose settings are options.

        Raises DatasetError if there is no dataset, ConfigError if it is given together with records to make.
        """
        if self.what == "train" and self.records is not None and self.dataset is not None:
            raise ConfigError(f"--records {self.records} and --dataset {self.dataset} are both given: choose one")
        if (self.what == "sample") != (self.checkpoint is not None):
            raise ConfigError(NEEDS_CHECKPOINT)
        if self.checkpoint is not None:
            if self.config or self.dataset is not None:
                raise ConfigError("bench sample takes the config of --checkpoint: give neither CONFIG nor --dataset")
            inside = self.checkpoint.parent.name == "checkpoints"
            return config_of(self.checkpoint.parents[1] if inside else self.checkpoint)
        if self.dataset is None:
            return load_config(self.config or "published")

        from con360av_jax.data.source import open_dataset

        made = open_dataset(self.dataset, verify="sizes").config
        return load_config(self.config).on_base(made, made.clip) if self.config else made

    def execute(self, config: Config) -> None:
        """Measures and shows the result."""
        from con360av_jax.bench.results import publish
        from con360av_jax.runtime.host_memory import keep_freed_memory

        if self.threads is not None:
            config = replace(config, train=replace(config.train, loader_threads=self.threads))
        keep_freed_memory()
        measure = {"loader": self._loader, "train": self._train, "sample": self._sample}[self.what]
        publish(measure(config), self.out)

    def _sample(self, config: Config) -> dict[str, object]:
        from con360av_jax.bench.sample import bench_sample
        from con360av_jax.runtime.compile_cache import enable_compile_cache

        if self.checkpoint is None:
            raise ConfigError(NEEDS_CHECKPOINT)
        if self.steps is not None:
            raise ConfigError(f"--steps {self.steps} is for bench train: give bench sample --config.sampler.steps")
        enable_compile_cache()
        batch_size = 1 if self.batch_size is None else self.batch_size
        rounds = 3 if self.rounds is None else self.rounds
        return bench_sample(config, self.checkpoint, batch_size, rounds, self.dtype)

    def _loader(self, config: Config) -> dict[str, object]:
        from con360av_jax.bench.loader import bench_loader

        if self.steps is not None:
            raise ConfigError(f"--steps {self.steps} is for bench train: give bench loader --records")
        records = 2000 if self.records is None else self.records
        return bench_loader(config, self.dataset, records, 8 if self.batch_size is None else self.batch_size)

    def _train(self, config: Config) -> dict[str, object]:
        from con360av_jax.bench.train import bench_train

        if self.batch_size is not None:
            config = replace(config, train=replace(config.train, batch_size=self.batch_size))
        steps = 20 if self.steps is None else self.steps
        return bench_train(config, self.dataset, self.records or 0, steps)
