"""con360av synth-dataset: a dataset of clips of procedural scenes, rendered without recordings."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class SynthDataset:
    """Make a dataset of clips of procedural scenes, without 360° recordings and their preprocessing.

    Scenes are those of version 2, as long as their clips, with two records of still viewpoints per scene. The same
    command goes on where it was stopped.
    """

    if_interrupted: ClassVar = "the same command goes on from here"

    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the dataset. A dataset that exists, also an unfinished one, is continued."""
    records: int
    """Number of records; two consecutive ones show the same scene."""
    config: str = ""
    """Name of a config (configs/NAME.py) or path to a .py or .json file. Left out: the base's config, or debug without
    a base. With a base, only the clip is taken from it: model and mel are those of the base."""
    base: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = "none"
    """Base (folder or name of a packaged model) whose encoders make latents and embeddings, or none to keep raw video
    and audio."""
    keep_raw: bool = False
    """Keep video, audio and mel beside their encodings."""
    seed: int = 0
    """Seed of the scenes; the number of workers does not change them."""
    split: Literal["train", "validation"] = "train"
    """Split of the scenes. The splits share no scene; each class is in one place in validation scenes only."""
    shard_records: int = 256
    """Number of records per file of the dataset; a stopped command makes the records of an unfinished file again."""
    workers: int = 1
    """Number of processes that render."""

    def execute(self) -> None:
        """Writes the dataset; raises a Con360Error for options that make none."""
        from rich.console import Console
        from rich.progress import Progress

        from con360av_jax.base.record_encoder import open_encoder
        from con360av_jax.config.files import dataset_config
        from con360av_jax.config.settings import require
        from con360av_jax.scenes.records import SceneSet, write_scene_records

        for name in ("records", "workers", "shard_records"):
            value = getattr(self, name)
            require(value > 0, f"--{name.replace('_', '-')} must be positive, but is {value}")
        config = dataset_config(self.config, self.base)
        scenes = SceneSet(records=self.records, seed=self.seed, split=self.split)
        bar = Progress(console=Console(stderr=True))
        task = bar.add_task("synth-dataset", total=self.records)
        with ExitStack() as shown:

            def show(done: int) -> None:
                # Only now, so that a dataset that is refused shows no bar above the error.
                if not bar.live.is_started:
                    shown.enter_context(bar)
                bar.update(task, completed=done)

            write_scene_records(
                self.out,
                config,
                scenes,
                open_encoder(self.base, config),
                keep_raw=self.keep_raw,
                base_sha256=self._base_hash(),
                workers=self.workers,
                shard_records=self.shard_records,
                progress=show,
            )

    def _base_hash(self) -> str:
        if self.base == "none":
            return ""
        from con360av_jax.base.pretrained import base_hash
        from con360av_jax.runtime.compile_cache import enable_compile_cache
        from con360av_jax.runtime.packaged import find_model

        enable_compile_cache()
        return base_hash(find_model(self.base))
