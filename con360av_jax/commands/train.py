"""con360av train: trains the control of a frozen base on a dataset of records."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from con360av_jax.config.files import load_config, load_run_config
from con360av_jax.config.settings import Config
from con360av_jax.errors import CheckpointError
from con360av_jax.train.cluster import Cluster, join


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train the control of a base on a dataset.

    Every setting of the config is an option, such as --config.train.steps 100. Defaults below are those of the config
    that the options name, or of the config published. SIGTERM and Ctrl-C save a checkpoint; the same command with
    --resume goes on and gives the same weights as a run that was not stopped.
    """

    if_interrupted: ClassVar = "run the same command again, with --resume if the run has a checkpoint"

    base: Path
    """Folder of frozen weights, made by `con360av init` or `python -m convert base`."""
    dataset: Path
    """Folder of records, made by `python -m preprocess run`."""
    out: Path
    """Folder of the run: checkpoints, metrics and the config."""
    config: str = ""
    """Name of a config (configs/NAME.py) or path to a .py or .json file. Left out: the config of the base, or with
    --resume that of the run."""
    resume: bool = False
    """Go on from the newest checkpoint of the run."""
    allow: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """With --resume, the path of a setting that may differ from the run's, such as train.learning_rate."""
    cluster: tyro.conf.OmitArgPrefixes[Cluster] = Cluster()
    """Options by which the processes of one run find each other."""

    def starting_config(self) -> Config:
        """The config whose settings are options; raises CheckpointError if there is none."""
        if self.config:
            return load_config(self.config)
        default = (self.out if self.resume else self.base) / "config.json"
        if not default.is_file():
            raise CheckpointError(f"{default} does not exist: is {default.parent} the right folder?")
        return load_run_config(self.out) if self.resume else load_config(default)

    def execute(self, config: Config) -> None:
        """Trains; raises KeyboardInterrupt after Ctrl-C, when the checkpoint is saved."""
        from con360av_jax.runtime.compile_cache import enable_compile_cache
        from con360av_jax.runtime.host_memory import keep_freed_memory
        from con360av_jax.train.loop import train

        enable_compile_cache()
        keep_freed_memory()
        join(self.cluster)
        stopped_by = train(config, self.base, self.dataset, self.out, resume=self.resume, allowed=self.allow)
        if stopped_by is signal.SIGINT:
            # A shell stops a chain of commands only at an exit code other than 0.
            raise KeyboardInterrupt("the run is saved; the same command with --resume goes on")
