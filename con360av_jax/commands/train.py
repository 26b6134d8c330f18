"""con360av train: trains the control of a frozen base on a dataset of records."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from con360av_jax.commands.options import override


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train on a dataset of records.

    Any setting of the config can be changed by its path, for example --config.train.steps 100. SIGTERM and Ctrl-C
    save a checkpoint; the same command with --resume goes on as if nothing had happened.
    """

    base: Path
    """Pretrained folder (from `con360av init` or a conversion)."""
    dataset: Path
    """Dataset folder (from `python -m preprocess`)."""
    out: Path
    """Folder of the run."""
    config: str = ""
    """Name of a config or path to a .py or .json file. Left out: the base's own config, or when resuming the run's."""
    resume: bool = False
    """Go on from the newest checkpoint of the run."""
    allow: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """When resuming, the path of a setting that may differ from the run's, such as train.learning_rate; repeatable."""

    distributed: bool = False
    """One of several processes; the others are found through SLURM, Open MPI or Kubernetes."""
    coordinator: str = ""
    """One of several processes without such a scheduler: HOST:PORT on which process 0 listens."""
    processes: int = 0
    """How many processes take part, with --coordinator."""
    process_id: int = -1
    """Which of them this is, from 0, with --coordinator."""

    def execute(self, settings: list[str]) -> None:
        """Trains; `settings` are the options that change the config."""
        from con360av_jax.config.files import load_config
        from con360av_jax.errors import CheckpointError

        default = (self.out if self.resume else self.base) / "config.json"
        if not self.config and not default.is_file():
            raise CheckpointError(f"{default} does not exist: is {default.parent} the right folder?")
        config = override(load_config(self.config or default), settings)

        from con360av_jax.runtime.compile_cache import enable_compile_cache
        from con360av_jax.runtime.host_memory import keep_freed_memory
        from con360av_jax.train.cluster import Cluster, join
        from con360av_jax.train.loop import train

        enable_compile_cache()
        keep_freed_memory()
        join(
            Cluster(
                detect=self.distributed,
                coordinator=self.coordinator,
                processes=self.processes,
                process_id=self.process_id,
            )
        )
        stopped_by = train(config, self.base, self.dataset, self.out, resume=self.resume, allowed=self.allow)
        if stopped_by is signal.SIGINT:
            # A shell stops a chain of commands only at an exit code other than 0.
            raise KeyboardInterrupt("the run is saved; the same command with --resume goes on")
