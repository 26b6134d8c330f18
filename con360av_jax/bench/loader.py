"""Benchmark of the loader: records per second from a local disk, ready as batches, without a model."""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.progress import track

from con360av_jax.bench.results import Json, environment
from con360av_jax.config.settings import Config, require
from con360av_jax.data.fake import fake_sample
from con360av_jax.data.loader import make_loader
from con360av_jax.data.schema import ENCODED_FIELDS, MAP_FIELDS, sample_key
from con360av_jax.data.source import Dataset, open_dataset
from con360av_jax.data.writer import write_dataset

PACKAGES = ("grain", "array-record", "safetensors", "opencv-python-headless")
ROUNDS = 5
# Records of a procedural dataset: far more than a processor's cache holds; 2.5 GB at published width.
FAKE_RECORDS = 1024
# Number of different records among them: drawing random numbers takes longer than writing them.
DIFFERENT_RECORDS = 32


def bench_loader(config: Config, dataset: Path | None, records: int, batch_size: int) -> Json:
    """Measures records/s and MB/s of the loader, as the median of ROUNDS rounds that read `records` records in total.

    Three batches per thread are read before the clock starts. Without `dataset`, a temporary dataset of random
    latents is written; its files are then in the page cache, whereas a dataset that was not read lately is
    measured together with its disk.

    Raises:
        ConfigError: `records` is less than a batch per round.
        DatasetError: the dataset is missing, corrupt, not encoded or of another config.
    """
    require(
        batch_size >= 1 and records >= ROUNDS * batch_size,
        f"{records} records are less than {ROUNDS} batches of {batch_size}: give more records or a smaller batch",
    )
    with open_or_make(config, dataset, min(records, FAKE_RECORDS)) as (name, found):
        return _measure_loader(config, found, name, records, batch_size)


@contextmanager
def open_or_make(config: Config, dataset: Path | None, records: int) -> Iterator[tuple[str, Dataset]]:
    """Yields name and content of `dataset`, or else of a temporary dataset of `records` random latents."""
    if dataset is not None:
        yield str(dataset), open_dataset(dataset, verify="sizes")
        return
    with tempfile.TemporaryDirectory(prefix="con360av-bench-") as folder:
        path = Path(folder) / "data"
        _write_fake(path, config, records)
        yield "procedural", open_dataset(path, verify="sizes")


def _write_fake(path: Path, config: Config, records: int) -> None:
    fields = ENCODED_FIELDS + MAP_FIELDS
    drawn = [fake_sample(config, number, fields=fields) for number in range(min(records, DIFFERENT_RECORDS))]
    numbers = track(range(records), description="writing records", console=Console(stderr=True))
    samples = (
        replace(drawn[number % len(drawn)], key=sample_key("fake", number, 0), clip="fake", segment=number)
        for number in numbers
    )
    write_dataset(path, samples, config, fields, [], {})
    # Otherwise the system would write them while the clock runs.
    for file in path.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())


def _measure_loader(config: Config, dataset: Dataset, name: str, records: int, batch_size: int) -> Json:
    steps = records // (ROUNDS * batch_size)
    record_bytes = sum(shard.bytes for shard in dataset.manifest.shards) / len(dataset)
    with closing(make_loader(dataset, config, batch_size, config.train.seed)) as loader:
        for _ in range(3 * max(config.train.loader_threads, 1)):
            next(loader)
        ticks, busy = [time.perf_counter()], time.process_time()
        for _ in track(range(ROUNDS), description="reading", console=Console(stderr=True)):
            for _ in range(steps):
                next(loader)
            ticks.append(time.perf_counter())
        busy = time.process_time() - busy
        corrupt = len(loader.corrupt)
    speeds = [steps * batch_size / (after - before) for before, after in pairwise(ticks)]
    return {
        "benchmark": "loader",
        **environment(config, PACKAGES),
        "dataset": {"name": name, "records": len(dataset), "bytes_per_record": record_bytes, "damaged": corrupt},
        "batch_size": batch_size,
        "threads": config.train.loader_threads,
        "records_per_second": {"median": statistics.median(speeds), "rounds": speeds},
        "megabytes_per_second": statistics.median(speeds) * record_bytes / 1e6,
        "processor_ms_per_record": 1e3 * busy / (ROUNDS * steps * batch_size),
    }
