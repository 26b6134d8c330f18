"""The command line: chooses a verb, and turns every error a user can cause into one line and exit code 2."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, TypeAlias

import tyro

from con360av_jax.commands.bench import Bench
from con360av_jax.commands.evaluate import Evaluate
from con360av_jax.commands.init import Init
from con360av_jax.commands.options import parse
from con360av_jax.commands.plan import Plan
from con360av_jax.commands.report import Report
from con360av_jax.commands.sample import Sample
from con360av_jax.commands.synth import Synth
from con360av_jax.commands.train import Train
from con360av_jax.errors import Con360Error, ConfigError
from con360av_jax.runtime.compile_flags import choose_fast_run

Verb: TypeAlias = (
    Annotated[Synth, tyro.conf.subcommand("synth")]
    | Annotated[Init, tyro.conf.subcommand("init")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
)

ABOUT = "Controllable audio-visual generation from 360° video: the picture and the sound of one viewpoint."
USER_ERROR = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code (0, 2 for an error that the user can mend, 130 after Ctrl-C)."""
    _quiet_libraries()
    choose_fast_run()
    try:
        parsed = parse(lambda: _read(sys.argv[1:] if arguments is None else list(arguments)))
        if parsed is None:
            return 0
        verb, settings = parsed
        if isinstance(verb, Init | Train | Plan | Bench):
            verb.execute(settings)
        elif settings:
            raise ConfigError(f"unknown option {settings[0]}: see con360av --help")
        else:
            verb.execute()
    except KeyboardInterrupt as stop:
        _complain(f"interrupted: {stop}" if stop.args else "interrupted")
        return INTERRUPTED
    except (Con360Error, OSError) as error:
        _complain(f"error: {error}")
        return USER_ERROR
    return 0


def _read(arguments: list[str]) -> tuple[Synth | Init | Train | Plan | Sample | Evaluate | Report | Bench, list[str]]:
    """The chosen verb, and the options that are not its own: settings of the config."""
    return tyro.cli(
        Verb,  # pyright: ignore[reportArgumentType]
        prog="con360av",
        description=ABOUT,
        args=arguments,
        return_unknown_args=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _complain(message: str) -> None:
    sys.stderr.write(f"con360av: {' '.join(message.split())}\n")


def _quiet_libraries() -> None:
    """Keeps the notes of XLA, Orbax and others off the terminal; comes before any of them is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in ("absl", "jax", "orbax", "grain"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
