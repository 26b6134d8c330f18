"""Extraction of feature folders from media files, one batch in memory, with its rows on disk before the next batch.

The files of a batch are read in parallel; a network processes one clip at a time, in the order of the clips' names.
Rows therefore depend only on the clip, and a stopped run continues to the same bytes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from con360av_jax.errors import ConfigError, MediaError, MetricError
from con360av_jax.evaluate.features import FeatureSet
from preprocess.features.material import Clip, Line, Source, digest, read_clip
from preprocess.features.networks import Found, Network
from preprocess.features.store import PartStore


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """Result of an extraction."""

    features: Mapping[str, FeatureSet]
    """Features by part, without parts for which no clip was usable."""
    rejected: Mapping[str, Sequence[Line]]
    """Rejected files by part, including parts that are not in `features`."""


@dataclass(frozen=True)
class _Task:
    """A network and the stores of its parts."""

    network: Network
    stores: Mapping[str, PartStore]
    taken: dict[str, int]
    """Number of usable clips so far, by part."""

    @property
    def full(self) -> bool:
        """Whether every part has as many clips as the protocol takes."""
        return bool(self.network.most) and all(count >= self.network.most for count in self.taken.values())

    def lacks(self, source: Source, sha256: str) -> bool:
        """Whether the network still has to process a file."""
        return not self.full and not all(store.holds(source, sha256) for store in self.stores.values())


def extract(
    sources: Sequence[Source],
    rejected: Sequence[Line],
    networks: Sequence[Network],
    output: Path,
    batch: int = 4,
    done: Callable[[Source], None] = lambda source: None,
) -> Extracted:
    """Writes `output`/PART for every part of the networks; leaves a folder that is already the same untouched.

    Args:
        sources: files with unique clip names, in the order of these names.
        rejected: files that were rejected before reading.
        networks: networks, each of which makes one or more parts.
        output: folder of the parts' folders.
        batch: number of files that are read, and in memory, at once.
        done: called after each file.

    Raises MetricError if existing folders were made with other settings, or if no part has a usable clip.
    """
    if batch < 1:
        raise ConfigError(f"--batch-size is {batch}; give 1 or more")
    with ExitStack() as stack:
        tasks = [
            _Task(network, _stores(network, output, stack), dict.fromkeys(network.cards, 0)) for network in networks
        ]
        pool = stack.enter_context(ThreadPoolExecutor(batch))
        remaining = iter(sources)
        while some := list(islice(remaining, batch)):
            for source, sha256, clip in _read(some, tasks, pool):
                for task in tasks:
                    _add(task, source, sha256, clip)
                done(source)
        features, told = {}, {}
        for task in tasks:
            for part, store in task.stores.items():
                found, told[part] = store.finish(sources, rejected, task.network.most)
                features |= {part: found} if found else {}
    if not features:
        first = next((lines[0] for lines in told.values() if lines), {})
        raise MetricError(
            f"none of {len(sources) + len(rejected)} clips is usable; the first, {first.get('file')}, because: "
            f"{first.get('reason')}"
        )
    return Extracted(features=features, rejected=told)


def _stores(network: Network, output: Path, stack: ExitStack) -> dict[str, PartStore]:
    stores = {part: PartStore(output / part, card, network.side) for part, card in network.cards.items()}
    for store in stores.values():
        stack.callback(store.close)
    return stores


def _read(
    sources: Sequence[Source], tasks: Sequence[_Task], pool: ThreadPoolExecutor
) -> Iterator[tuple[Source, str, Clip | None]]:
    """Yields each file with its SHA-256 and its content, or None if no network has to process it."""
    digests = list(pool.map(lambda source: digest(source.path), sources))

    def read(source: Source, sha256: str) -> Clip | None:
        needing = [task.network for task in tasks if task.lacks(source, sha256)]
        if not needing:
            return None
        video, audio = (any(network.reads == kind for network in needing) for kind in ("video", "audio"))
        return read_clip(source, video, audio, max(network.frames_per_second for network in needing))

    return zip(sources, digests, list(pool.map(read, sources, digests)), strict=True)


def _add(task: _Task, source: Source, sha256: str, clip: Clip | None) -> None:
    """Adds a clip's rows, or the reason why there are none, to the stores of one network's parts."""
    if task.full:
        return
    if clip is not None and task.lacks(source, sha256):
        found = _found(task.network, clip)
        for part, store in task.stores.items():
            if not store.holds(source, sha256):
                store.add(source, sha256, found[part])
    for part, store in task.stores.items():
        task.taken[part] += store.take(source)


def _found(network: Network, clip: Clip) -> Found:
    reason = clip.no_video if network.reads == "video" else clip.no_audio
    if not reason:
        try:
            return network.rows(clip)
        except MediaError as error:
            reason = " ".join(str(error).split())
    return dict.fromkeys(network.cards, reason)
