"""The program `python -m preprocess`."""

from collections.abc import Sequence

from con360av_jax.commands.program import run_program
from preprocess.commands.doctor import Doctor
from preprocess.commands.features import Features
from preprocess.commands.listing import List
from preprocess.commands.run import Run

ABOUT = "Make datasets of viewpoints, with audio, saliency and captions, from 360° videos."
COMMANDS = {"list": List, "run": Run, "doctor": Doctor, "features": Features}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: the command's own, 2 for an error that the user can mend, 130 after
    Ctrl-C.
    """
    return run_program("python -m preprocess", ABOUT, COMMANDS, arguments)
