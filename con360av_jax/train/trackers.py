"""Destinations of metrics besides metrics.jsonl: TensorBoard files and Weights & Biases."""

import hashlib
import importlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from tensorboardX import SummaryWriter

from con360av_jax.config.files import to_dict
from con360av_jax.config.settings import Config
from con360av_jax.errors import ConfigError


class TensorBoard:
    """TensorBoard files in RUN/tensorboard; lines after step `start` of an earlier run are hidden."""

    def __init__(self, run: Path, start: int):
        self._writer = SummaryWriter(log_dir=str(run / "tensorboard"), purge_step=start + 1 if start else None)

    def log(self, step: int, line: Mapping[str, object]) -> None:
        """Keeps one line of metrics."""
        for name, value in scalars(line):
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is still waiting."""
        self._writer.close()


class WeightsAndBiases:
    """Weights & Biases run, one per run folder, continued on resume.

    Raises ConfigError if the package is not installed.
    """

    def __init__(self, run: Path, config: Config):
        try:
            wandb: Any = importlib.import_module("wandb")
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"train.wandb_project={config.train.wandb_project} asks for Weights & Biases: pip install wandb, or "
                "leave the setting empty"
            ) from error
        self._run = wandb.init(
            project=config.train.wandb_project,
            name=run.resolve().name,
            id=hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16],
            resume="allow",
            dir=str(run),
            config=to_dict(config),
        )

    def log(self, step: int, line: Mapping[str, object]) -> None:
        """Keeps one line of metrics."""
        self._run.log(dict(scalars(line)), step=step)

    def close(self) -> None:
        """Writes what is still waiting."""
        self._run.finish()


Tracker: TypeAlias = TensorBoard | WeightsAndBiases


def open_trackers(run: Path, config: Config, start: int) -> list[Tracker]:
    """Opens the trackers that the config asks for, from step `start` on; for one process of a run only.

    Raises ConfigError if the package of one is not installed.
    """
    logging.getLogger("tensorboardX").setLevel(logging.ERROR)
    trackers: list[Tracker] = [TensorBoard(run, start)] if config.train.tensorboard else []
    return trackers + ([WeightsAndBiases(run, config)] if config.train.wandb_project else [])


def scalars(line: Mapping[str, object], path: str = "") -> Iterator[tuple[str, float]]:
    """Yields the numbers of a line of metrics with their paths, such as "loss_by_timestep/audio/0"."""
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{path}{name}/")
        elif isinstance(value, list):
            yield from scalars({str(number): child for number, child in enumerate(value)}, f"{path}{name}/")
        elif isinstance(value, int | float):
            yield f"{path}{name}", float(value)
