"""Where numbers and files come from: commit, packages, processor, and the hash of a file."""

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
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


def package_version(package: str) -> str:
    """Of an installed package; "not installed" for a missing one, as for this one where it runs from a checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def processor() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
