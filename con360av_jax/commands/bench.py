"""con360av bench: how fast a part of training is on this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure a part of training on this machine.

    loader: records read per second from local disk, ready as batches, without a model.
    """

    what: tyro.conf.Positional[Literal["loader"]]
    """The part to measure."""
    config: tyro.conf.Positional[str] = ""
    """Name of a config or path to a .py or .json file. Left out: the dataset's own, or without one published."""
    dataset: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Encoded dataset to read. Left out: a temporary one of random latents of the config's sizes."""
    records: int = 2000
    """How many records to read while the clock runs."""
    batch_size: int = 8
    """Records per batch."""
    threads: int = 2
    """Loader threads, as --config.train.loader-threads of a run."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file for the result."""

    def execute(self) -> None:
        """Measures and shows the result."""
        from con360av_jax.bench import bench_loader, publish, with_threads
        from con360av_jax.config_io import load_config
        from con360av_jax.data.source import open_dataset
        from con360av_jax.host_memory import keep_freed_memory

        if self.config or self.dataset is None:
            config = load_config(self.config or "published")
        else:
            config = open_dataset(self.dataset, verify="sizes").config
        keep_freed_memory()
        config = with_threads(config, self.threads)
        publish(bench_loader(config, self.dataset, self.records, self.batch_size), self.out)
