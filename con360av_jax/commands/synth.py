"""con360av synth: procedural 360° recordings with ambisonic audio, captions and ground truth."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Synth:
    """Make procedural 360° recordings with ambisonic audio, captions and ground truth.

    Each is 10 s long, with 960x480 pixels at 8 frames per second.
    """

    out: Path
    """Folder that receives scene_000000.mp4, ..., their truth (.json) and captions.jsonl."""
    clips: int = 1
    """Number of recordings."""
    seed: int = 0
    """Seed of the recordings; the number of workers does not change them."""
    workers: int = 1
    """Number of processes."""

    def execute(self) -> None:
        """Writes the recordings."""
        from rich.console import Console
        from rich.progress import Progress

        from con360av_jax.config.settings import require
        from con360av_jax.scenes.synthetic import write_scene_clips

        require(self.clips > 0, f"--clips must be positive, but is {self.clips}")
        require(self.workers > 0, f"--workers must be positive, but is {self.workers}")
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("synth", total=self.clips)
            write_scene_clips(
                self.out,
                self.clips,
                self.seed,
                workers=self.workers,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
