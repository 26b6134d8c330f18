"""The program `con360av`."""

import sys
from collections.abc import Sequence

from con360av_jax.commands.bench import Bench
from con360av_jax.commands.demo import Demo
from con360av_jax.commands.demo_train import DemoTrain
from con360av_jax.commands.evaluate import Evaluate
from con360av_jax.commands.export import Export
from con360av_jax.commands.gallery import Gallery
from con360av_jax.commands.init import Init
from con360av_jax.commands.plan import Plan
from con360av_jax.commands.pretrain import Pretrain
from con360av_jax.commands.program import run_program
from con360av_jax.commands.report import Report
from con360av_jax.commands.sample import Sample
from con360av_jax.commands.study import Study
from con360av_jax.commands.synth import Synth
from con360av_jax.commands.synth_dataset import SynthDataset
from con360av_jax.commands.table1 import Table1
from con360av_jax.commands.train import Train

ABOUT = "Controllable audio-visual generation from 360° video: audio and video of one viewpoint."
COMMANDS = {
    "demo": Demo,
    "demo-train": DemoTrain,
    "synth": Synth,
    "synth-dataset": SynthDataset,
    "init": Init,
    "pretrain": Pretrain,
    "train": Train,
    "plan": Plan,
    "sample": Sample,
    "evaluate": Evaluate,
    "table1": Table1,
    "study": Study,
    "gallery": Gallery,
    "report": Report,
    "export": Export,
    "bench": Bench,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code (0, 2 for an error that the user can mend, 130 after Ctrl-C)."""
    return run_program("con360av", ABOUT, COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
