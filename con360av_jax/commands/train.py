"""con360av train: trains the control of a frozen base on a dataset of records."""

import logging
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from con360av_jax.config.files import changes, config_of, load_config, load_run_config, to_dict
from con360av_jax.config.settings import Config
from con360av_jax.errors import some
from con360av_jax.runtime.packaged import find_model
from con360av_jax.train.cluster import Cluster, join

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train the control of a base on a dataset.

    A config gives the settings of training, sampling and devices; the base decides model, mel and noise schedules, the
    dataset the size of a clip. Every setting is an option, such as --config.train.steps 100. Defaults below are those
    that the other options lead to, or of the config published. SIGTERM and Ctrl-C save a checkpoint; the same command
    with --resume goes on and gives the same weights as a run that was not stopped.
    """

    if_interrupted: ClassVar = "run the same command again, with --resume if the run has a checkpoint"

    base: Path
    """Folder of frozen weights, made by `con360av init` or `export`, or by `python -m convert base`, or the name of a
    packaged model."""
    dataset: Path
    """Folder of records, made by `python -m preprocess run` or `con360av synth-dataset`."""
    validation: Path | None = None
    """Folder of held-out records, such as the validation split: their loss is measured every train.validate_every
    steps, and clips of them are sampled every train.sample_every steps."""
    out: Path
    """Folder of the run: checkpoints, metrics and the config."""
    config: str = ""
    """Name of a config (configs/NAME.py) or path to a .py or .json file. Left out: the config of the base, or with
    --resume that of the run. Its model, mel, schedule and clip give way to those of base and dataset."""
    resume: bool = False
    """Go on from the newest checkpoint of the run."""
    allow: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """With --resume, the path of a setting that may differ from the run's, such as train.learning_rate, or "dataset":
    go on with a dataset that has grown or is another."""
    cluster: tyro.conf.OmitArgPrefixes[Cluster] = Cluster()
    """Options by which the processes of one run find each other."""

    def starting_config(self) -> Config:
        """The config whose settings are options: that of the run to resume, or one on this base and dataset.

        Raises:
            CheckpointError: the base or the run has no config.
            DatasetError: there is no dataset.
            ConfigError: the base's networks cannot take the dataset's clips.
        """
        if self.resume and not self.config:
            return load_run_config(self.out)

        from con360av_jax.data.source import open_dataset

        base = config_of(self.base)
        given = load_config(self.config) if self.config else base
        return given.on_base(base, open_dataset(self.dataset, verify="sizes").config.clip)

    def execute(self, config: Config) -> None:
        """Trains; raises KeyboardInterrupt after Ctrl-C, when the checkpoint is saved."""
        from con360av_jax.runtime.compile_cache import enable_compile_cache
        from con360av_jax.runtime.host_memory import keep_freed_memory
        from con360av_jax.train.loop import train

        enable_compile_cache()
        keep_freed_memory()
        join(self.cluster)
        self._say_what_is_not_used()
        stopped_by = train(
            config,
            find_model(self.base),
            self.dataset,
            self.out,
            validation=self.validation,
            resume=self.resume,
            allowed=self.allow,
        )
        if stopped_by is signal.SIGINT:
            # A shell stops a chain of commands only at an exit code other than 0.
            raise KeyboardInterrupt("the run is saved; the same command with --resume goes on")

    def _say_what_is_not_used(self) -> None:
        """Says on stderr, once, which settings of --config gave way to those of base and dataset."""
        import jax

        if not self.config or jax.process_index() != 0:
            return
        given, used = (to_dict(config) for config in (load_config(self.config), self.starting_config()))
        if found := changes(given, used):
            taken = some([*found.values()], "; ")
            logger.warning(f"{self.config}: taken from {self.base} and {self.dataset} instead: {taken}")
