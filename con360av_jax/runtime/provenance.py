"""Origin of numbers and files: commit, package versions, processor, and the hash of a file."""

import hashlib
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def commit() -> str:
    """Returns the git commit of the checkout, marked "dirty" if it is changed; "unknown" for an installed package."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
        )
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def package_version(package: str) -> str:
    """Returns the version of a package, or "not installed", as for this one in a checkout that is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of Python, this package (its commit) and `packages`."""
    return {"python": platform.python_version(), "commit": commit(), **{one: package_version(one) for one in packages}}


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, read in blocks; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def processor() -> str:
    """Returns the name of the processor, or "unknown"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
