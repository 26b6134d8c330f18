"""A command in a process of its own that is killed at a chosen moment."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

SCRIPT = """
import os, signal, sys
from pkgutil import resolve_name
main = resolve_name(sys.argv[1])
place, _, name = sys.argv[2].rpartition(".")
owner, left = resolve_name(place), int(sys.argv[3])
real = getattr(owner, name)
def counted(*given):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given)
setattr(owner, name, counted)
sys.exit(main(sys.argv[4:]))
"""


def run_killed(function: str, call: int, arguments: Sequence[str], program: str = "preprocess.cli") -> None:
    """Runs the command, which is killed instead of calling `function`, such as "os.replace", for the `call`-th time."""
    command = [sys.executable, "-c", SCRIPT, f"{program}:main", function, str(call), *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
