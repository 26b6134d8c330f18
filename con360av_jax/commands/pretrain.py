"""con360av pretrain: trains one part of a base on procedural scenes or on recordings."""

import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from con360av_jax.config.files import config_of, load_config
from con360av_jax.config.pretraining import Part
from con360av_jax.config.settings import Config
from con360av_jax.errors import ConfigError
from con360av_jax.runtime.packaged import find_model
from con360av_jax.train.cluster import Cluster, join


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train one part of a base (autoencoder, vocoder, text encoder, U-Net with its text encoder, motion modules), or a
    judge.

    The data are procedural scenes (--scenes) or a dataset with raw fields (--dataset). Every setting of the config is
    an option, such as --config.train.steps 100; defaults of steps, batch size and learning rate are those of the part's
    recipe in the config (pretrain.PART.recipe). `con360av init --part PART=RUN` puts the trained part into a base.
    SIGTERM and Ctrl-C save a checkpoint; the same command with --resume goes on and gives the same weights as a run
    that was not stopped.
    """

    if_interrupted: ClassVar = "run the same command again, with --resume if the run has a checkpoint"

    part: Annotated[Part, tyro.conf.Positional]
    """Part to train."""
    base: Path
    """Folder of the weights to start from and of the other parts, made by `con360av init`, or the name of a
    packaged model."""
    out: Path
    """Folder of the run: checkpoints, metrics and the config."""
    scenes: int | None = None
    """Seed of procedural scenes to train on; held-out scenes of the same seed are measured."""
    dataset: Path | None = None
    """Folder of records with raw fields to train on, made by `python -m preprocess run --keep-raw` or
    `con360av synth-dataset`."""
    validation: Path | None = None
    """With --dataset, folder of held-out records with raw fields, which are measured at every checkpoint."""
    config: str = ""
    """Name of a config (configs/NAME.py) or path to a .py or .json file. Left out: the config of the base, or with
    --resume that of the run."""
    resume: bool = False
    """Go on from the newest checkpoint of the run."""
    allow: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """With --resume, the path of a setting that may differ from the run's, such as train.learning_rate, or "dataset":
    go on with a dataset that has grown or is another."""
    cluster: tyro.conf.OmitArgPrefixes[Cluster] = Cluster()
    """Options by which the processes of one run find each other."""

    def starting_config(self) -> Config:
        """The config whose settings are options; raises CheckpointError if there is none."""
        config = load_config(self.config) if self.config else config_of(self.out if self.resume else self.base)
        if self.resume and not self.config:
            return config
        return replace(config, train=getattr(config.pretrain, self.part).recipe.within(config.train))

    def execute(self, config: Config) -> None:
        """Trains; raises KeyboardInterrupt after Ctrl-C, when the checkpoint is saved."""
        from con360av_jax.runtime.compile_cache import enable_compile_cache
        from con360av_jax.runtime.host_memory import keep_freed_memory
        from con360av_jax.train.pretrain import pretrain
        from con360av_jax.train.pretraining_data import RecordData, SceneData

        if (self.scenes is None) == (self.dataset is None):
            raise ConfigError("give the data to train on: either --scenes SEED or --dataset FOLDER")
        if self.validation is not None and self.dataset is None:
            raise ConfigError("--validation needs --dataset; with --scenes, held-out scenes are measured anyway")
        data = RecordData(self.dataset, self.validation) if self.dataset is not None else SceneData(self.scenes or 0)
        enable_compile_cache()
        keep_freed_memory()
        join(self.cluster)
        base = find_model(self.base)
        stopped_by = pretrain(config, self.part, base, data, self.out, resume=self.resume, allowed=self.allow)
        if stopped_by is signal.SIGINT:
            # A shell stops a chain of commands only at an exit code other than 0.
            raise KeyboardInterrupt("the run is saved; the same command with --resume goes on")
