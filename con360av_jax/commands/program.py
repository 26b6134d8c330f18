"""The `main` of all three programs: reads one command, runs it, and turns errors into one line and an exit code."""

import logging
import os
import sys
from collections.abc import Mapping, Sequence

from con360av_jax.commands.options import Command, read_command
from con360av_jax.errors import Con360Error
from con360av_jax.runtime.compile_flags import choose_fast_run

USER_ERROR = 2
INTERRUPTED = 130


def run_program(
    program: str, about: str, commands: Mapping[str, type[Command]], arguments: Sequence[str] | None
) -> int:
    """Runs the command that `arguments` (sys.argv if None) choose.

    Returns:
        The exit code: the command's own, 2 for an error that the user can mend, 130 after Ctrl-C. Either error is one
        line on stderr; after Ctrl-C it ends with the command's `if_interrupted`, which says how to go on.
    """
    _quiet_libraries()
    choose_fast_run()
    words = sys.argv[1:] if arguments is None else list(arguments)
    name = program.removeprefix("python -m ")
    try:
        command = read_command(program, about, commands, words)
        return 0 if command is None else command.execute() or 0
    except KeyboardInterrupt as stop:
        way_on = getattr(commands.get(words[0] if words else ""), "if_interrupted", "run the same command again")
        _complain(f"{name}: interrupted: {stop if stop.args else way_on}")
        return INTERRUPTED
    except (Con360Error, OSError, UnicodeError, MemoryError) as error:
        # The last two: names and sizes in a user's files that no encoding and no memory holds.
        _complain(f"{name}: error: {str(error) or 'not enough memory'}")
        return USER_ERROR


def _complain(message: str) -> None:
    sys.stderr.write(" ".join(message.split()) + "\n")


def _quiet_libraries() -> None:
    """Keeps the notes of XLA, Orbax and others off the terminal; comes before any of them is imported."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for library in ("absl", "jax", "orbax", "grain"):
        logging.getLogger(library).setLevel(logging.ERROR)
