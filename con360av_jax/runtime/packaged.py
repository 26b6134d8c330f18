"""Models that are part of this package: folders below con360av_jax/packaged/, found by their names."""

from pathlib import Path

from con360av_jax.errors import CheckpointError

FOLDER = Path(__file__).resolve().parents[1] / "packaged"


def packaged_models() -> list[str]:
    """Returns the names of the packaged models."""
    return sorted(report.parent.name for report in FOLDER.glob("*/report.json"))


def find_model(given: str | Path) -> Path:
    """Returns the path `given`, or the folder of the packaged model of that name if no such path exists.

    Raises CheckpointError, which lists the packaged models, for a bare name of neither. Longer paths that do not exist
    are returned, for the reader of their files to refuse.
    """
    path = Path(given)
    if path.exists() or len(path.parts) != 1 or path.is_absolute():
        return path
    names = packaged_models()
    if path.name not in names:
        raise CheckpointError(
            f"{path} does not exist: give a base, a run, RUN/checkpoints/STEP or the name of a packaged model "
            f"(packaged: {', '.join(names) or 'none'})"
        )
    return FOLDER / path
