"""What a measured number has to be quoted with: the commit and the processor it was measured on."""

import platform
import subprocess
from pathlib import Path


def commit() -> str:
    """Of the checkout this package runs from, marked if it is changed; "unknown" for an installed package."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
        )
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def processor() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
