"""`python -m preprocess`: chooses a verb, and turns every error a user can cause into one line and exit code 2."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, TypeAlias

import tyro

from con360av_jax.commands.options import parse
from con360av_jax.errors import Con360Error
from con360av_jax.runtime.compile_flags import choose_fast_run
from preprocess.commands.doctor import Doctor
from preprocess.commands.features import Features
from preprocess.commands.listing import List
from preprocess.commands.run import Run

Verb: TypeAlias = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Features, tyro.conf.subcommand("features")]
)

ABOUT = "From 360° videos to datasets of viewpoints with sound, saliency and captions."
USER_ERROR = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 for what the verb says, 2 for an error that the user can mend, 130 after Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    choose_fast_run()
    try:
        verb = parse(lambda: _read(sys.argv[1:] if arguments is None else list(arguments)))
        return 0 if verb is None else verb.execute()
    except KeyboardInterrupt:
        sys.stderr.write("preprocess: interrupted; the same command goes on from here\n")
        return INTERRUPTED
    except (Con360Error, OSError) as error:
        sys.stderr.write(f"preprocess: error: {' '.join(str(error).split())}\n")
        return USER_ERROR


def _read(arguments: list[str]) -> List | Run | Doctor | Features:
    return tyro.cli(
        Verb,  # pyright: ignore[reportArgumentType]
        prog="python -m preprocess",
        description=ABOUT,
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
