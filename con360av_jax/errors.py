"""The errors a user can cause: each says what was given, what was wanted and what to do."""

from collections.abc import Sequence

SHOWN = 8  # words, before the rest is only counted
LONGEST_LINE = 160


class Con360Error(ValueError):
    """Base of every error that the command line prints as one line with exit code 2."""


class ConfigError(Con360Error):
    """A setting is unknown, out of range or contradicts another one."""


class GeometryError(Con360Error):
    """A direction, field of view or panorama shape is not possible on a sphere."""


class MediaError(Con360Error):
    """A video or audio file is missing, unreadable or not of the kind that is needed."""


class DatasetError(Con360Error):
    """A dataset folder, shard or record is missing, corrupt or of another schema."""


class CheckpointError(Con360Error):
    """A checkpoint or pretrained folder is missing, corrupt or belongs to another config."""


class DivergenceError(Con360Error):
    """The loss or its gradient became NaN or infinite."""


class MetricError(Con360Error):
    """Features are missing, corrupt, too few or made with other settings than those they are compared with."""


class ShardingError(Con360Error):
    """A parameter has no sharding rule, or a dimension does not divide over the mesh."""


def first_line(error: BaseException) -> str:
    """First line of an error's message, shortened in the middle to about LONGEST_LINE characters."""
    line = (str(error).strip() or repr(error)).splitlines()[0]
    # Storage libraries say first what happened, and last why ("No space left on device").
    return line if len(line) <= LONGEST_LINE else f"{line[:60]} .. {line[-96:]}"


def some(words: Sequence[str], separator: str = ", ") -> str:
    """The first SHOWN words, and how many more there are."""
    more = [f"and {len(words) - SHOWN} more"] if len(words) > SHOWN else []
    return separator.join([*words[:SHOWN], *more])
