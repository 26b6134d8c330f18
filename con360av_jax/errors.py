"""The errors a user can cause: each says what was given, what was wanted and what to do."""


class Con360Error(ValueError):
    """Base of every error that the command line prints as one line with exit code 2."""


class ConfigError(Con360Error):
    """A setting is unknown, out of range or contradicts another one."""


class GeometryError(Con360Error):
    """A direction, field of view or panorama shape that no sphere has."""


class MediaError(Con360Error):
    """A video or sound file is missing, unreadable or not of the kind that is needed."""


class DatasetError(Con360Error):
    """A dataset folder, shard or record is missing, corrupt or of another schema."""


class CheckpointError(Con360Error):
    """A checkpoint or pretrained folder is missing, corrupt or belongs to another config."""


class DivergenceError(Con360Error):
    """The loss or its gradient became infinite or no number."""


class MetricError(Con360Error):
    """Features are missing, corrupt, too few or made otherwise than those they are compared with."""


class ShardingError(Con360Error):
    """A parameter has no sharding rule, or a dimension does not divide over the mesh."""
