"""con360av bench: how fast a part of training is on this machine."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from con360av_jax.commands.options import override
from con360av_jax.errors import ConfigError

if TYPE_CHECKING:
    from con360av_jax.config.settings import Config


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure a part of training on this machine.

    loader: records read per second from local disk, ready as batches, without a model. train: the compiled training
    step, on random weights. Any setting of the config can be changed by its path, for example --config.mesh.data 4.
    """

    what: tyro.conf.Positional[Literal["loader", "train"]]
    """The part to measure."""
    config: tyro.conf.Positional[str] = ""
    """Name of a config or path to a .py or .json file. Left out: the dataset's own, or without one published."""
    dataset: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Encoded dataset to read. Left out: random latents of the config's sizes."""
    records: int | None = None
    """loader: how many records to read while the clock runs; left out: 2000. train: how many records a temporary
    dataset has that the loader reads; left out: none, batches are made ahead."""
    steps: int | None = None
    """train: how many steps to count; left out: 20."""
    batch_size: int | None = None
    """Records per batch. Left out: loader 8, train the config's."""
    threads: int | None = None
    """Loader threads. Left out: the config's."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file for the result."""

    def execute(self, settings: list[str]) -> None:
        """Measures and shows the result; `settings` are the options that change the config."""
        from con360av_jax.bench.results import publish
        from con360av_jax.config.files import load_config
        from con360av_jax.data.source import open_dataset
        from con360av_jax.runtime.host_memory import keep_freed_memory

        if self.config or self.dataset is None:
            config = load_config(self.config or "published")
        else:
            config = open_dataset(self.dataset, verify="sizes").config
        config = override(config, settings)
        if self.threads is not None:
            config = replace(config, train=replace(config.train, loader_threads=self.threads))
        keep_freed_memory()
        measure = self._loader if self.what == "loader" else self._train
        publish(measure(config), self.out)

    def _loader(self, config: "Config") -> dict[str, object]:
        from con360av_jax.bench.loader import bench_loader

        if self.steps is not None:
            raise ConfigError(f"--steps {self.steps} is for bench train: give bench loader --records")
        records = 2000 if self.records is None else self.records
        return bench_loader(config, self.dataset, records, 8 if self.batch_size is None else self.batch_size)

    def _train(self, config: "Config") -> dict[str, object]:
        from con360av_jax.bench.train import bench_train

        if self.records is not None and self.dataset is not None:
            raise ConfigError(f"--records {self.records} and --dataset {self.dataset} are both given: choose one")
        if self.batch_size is not None:
            config = replace(config, train=replace(config.train, batch_size=self.batch_size))
        steps = 20 if self.steps is None else self.steps
        return bench_train(config, self.dataset, self.records or 0, steps)
