"""con360av synth: procedural 360° recordings with ambisonic audio, captions and ground truth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Synth:
    """Make procedural 360° recordings with ambisonic audio, captions and ground truth.

    Recordings of version 2 are meant to be as long as the clips made from them, such as --seconds 2.
    """

    out: Path
    """Folder that receives scene_000000.mp4, ..., their truth (.json) and captions.jsonl."""
    clips: int = 1
    """Number of recordings."""
    seed: int = 0
    """Seed of the recordings; the number of workers does not change them."""
    version: Literal[1, 2] = 1
    """Version of the scenes. In version 2, caption and viewpoint decide which object is asked for: captions name
    colours and objects are far apart."""
    split: Literal["train", "validation"] = "train"
    """Split of scenes of version 2, which share no scene; each class is in one place in validation scenes only."""
    viewpoints: int = 2
    """Number of viewpoints per recording in viewpoints.csv, which version 2 also writes, for python -m preprocess run
    --trajectories: 80 % look at an object, 20 % at none."""
    seconds: float = 10.0
    """Duration of a recording, s."""
    height: int = 480
    """Height of the panorama, pixels; it is twice as wide."""
    frames_per_second: float = 8.0
    """Frame rate of the video."""
    workers: int = 1
    """Number of processes."""

    def execute(self) -> None:
        """Writes the recordings; raises ConfigError for options that make none."""
        from rich.console import Console
        from rich.progress import Progress

        from con360av_jax.config.settings import require
        from con360av_jax.scenes.synthetic import write_scene_clips
        from con360av_jax.scenes.version_2 import LEAST_SECONDS

        for name in ("clips", "workers", "viewpoints", "seconds", "frames_per_second"):
            value = getattr(self, name)
            require(value > 0, f"--{name.replace('_', '-')} must be positive, but is {value}")
        require(self.height >= 16 and self.height % 2 == 0, f"--height {self.height}: give an even number from 16 on")
        require(
            self.version > 1 or self.split == "train",
            f"--split {self.split}: scenes of version 1 have no splits; add --version 2",
        )
        require(
            self.version == 1 or self.seconds >= LEAST_SECONDS,
            f"--seconds {self.seconds:g}: scenes of version 2 last at least {LEAST_SECONDS:g} s",
        )
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("synth", total=self.clips)
            write_scene_clips(
                self.out,
                self.clips,
                self.seed,
                height=self.height,
                width=2 * self.height,
                seconds=self.seconds,
                workers=self.workers,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
                frames_per_second=self.frames_per_second,
                version=self.version,
                split=self.split,
                viewpoints=self.viewpoints,
            )
