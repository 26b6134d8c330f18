"""Distances between features: time against SciPy's square root of a matrix, interleaved, and memory against clips.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.distances --out benchmarks/results/distances_cpu.json

jax package   con360av_jax.evaluate, in NumPy: programs of this project begin with "jax" in all benchmarks
SciPy sqrtm   means, numpy.cov and scipy.linalg.sqrtm of the covariances' product, as published programs compute it

Fréchet distances take two sets of N rows, from the rows to the number; `one set` is the part spent on the moments of
one set. Our bootstrap draws sums of clips; SciPy's draws their rows and computes anew, with other draws of the sample.
Memory is measured in a new process that opens features on disk and reads them once: `resident` includes the pages of
the mapped files, which the system can reclaim; `own` is the largest value of all others, sampled every 2 ms. Opening
checks blocks of 2^24 values, which are up to 16 MiB of `own`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.linalg import sqrtm

from benchmarks import harness
from con360av_jax.config.files import load_config
from con360av_jax.evaluate.features import FeatureCard, open_features, write_features
from con360av_jax.evaluate.metrics.bootstrap import RecordingMoments, bootstrap_frechet
from con360av_jax.evaluate.metrics.frechet import accumulate, frechet_distance, frechet_infinity, moments
from con360av_jax.evaluate.metrics.saliency import compare_saliency, frame_divergence
from con360av_jax.runtime.provenance import package_version

DIMS = (400, 512, 1024)
"""Dimensions of I3D's scores, LAION-CLAP's and YAMNet's embeddings."""
ROWS = (2048, 20480)
DRAWS = 10
CLIPS, ROWS_PER_CLIP, BOOTSTRAP_DIM = 256, 4, 512
MAP, FRAMES = 30, 32
"""Cells per side of FastGaze's maps of square frames, and frames per clip."""
OURS = "jax package"
PEER = "SciPy sqrtm"


def features(seed: int, rows: int, dim: int) -> np.ndarray:
    """Random correlated rows of full rank."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(dim, dim)) / np.sqrt(dim)
    return (random.normal(size=(rows, dim)) @ mixing + random.normal(0, 0.2, dim)).astype(np.float32)


def ours(first: np.ndarray, second: np.ndarray) -> float:
    """Fréchet distance by this project."""
    return frechet_distance(moments(first), moments(second), "unbiased")


def by_square_root(first: np.ndarray, second: np.ndarray) -> float:
    """Fréchet distance as published programs compute it, in float64."""
    sides = [np.asarray(rows, np.float64) for rows in (first, second)]
    (first_mean, second_mean), (first_cov, second_cov) = (
        [one(rows) for rows in sides]
        for one in (lambda rows: rows.mean(axis=0), lambda rows: np.cov(rows, rowvar=False))
    )
    root = np.real(np.asarray(sqrtm(first_cov @ second_cov)))
    return float(np.square(first_mean - second_mean).sum() + np.trace(first_cov + second_cov - 2 * root))


def measured(about: str, runs: dict[str, Callable[[], float]], rounds: int) -> harness.Json:
    """Times one case; adds ratios and the relative difference of values where there is a peer."""
    values: dict[str, float] = {}

    def keeping(name: str) -> Callable[[], None]:
        return lambda: values.update({name: runs[name]()})

    seconds = harness.interleaved({name: keeping(name) for name in runs}, rounds, about)
    # The time of a part of ours is published without a ratio.
    ratios = harness.ratios({name: row for name, row in seconds.items() if name in (OURS, PEER)})
    errors = {PEER: abs(values[OURS] / values[PEER] - 1)} if PEER in values else {}
    return harness.case(seconds, ratios=ratios, errors=errors, value=values[OURS])


def distances(rounds: int) -> dict[str, harness.Json]:
    """Cases of Fréchet distances."""
    cases = {}
    for dim in DIMS:
        for rows in ROWS:
            first, second = features(0, rows, dim), features(1, rows, dim)
            runs = {OURS: lambda: ours(first, second), PEER: lambda: by_square_root(first, second)}  # noqa: B023
            runs |= {f"{OURS}, one set": lambda: float(moments(first).count)}  # noqa: B023
            name = f"Fréchet distance, {rows} rows of {dim}"
            cases[name] = measured(name, runs, rounds)
    return cases


def intervals(rounds: int) -> dict[str, harness.Json]:
    """Cases of the bootstrap and the extrapolation to infinitely many rows."""
    rows = features(0, CLIPS * ROWS_PER_CLIP, BOOTSTRAP_DIM)
    clips, other = rows.reshape(CLIPS, ROWS_PER_CLIP, -1), features(1, ROWS[0], BOOTSTRAP_DIM)
    reference = moments(other)

    def drawn() -> float:
        random = np.random.default_rng(0)
        chosen = random.integers(0, CLIPS, (DRAWS, CLIPS))
        return float(np.mean([by_square_root(clips[some].reshape(-1, BOOTSTRAP_DIM), other) for some in chosen]))

    def quick() -> float:
        interval = bootstrap_frechet(RecordingMoments.of(clips), reference, "unbiased", 0, DRAWS)
        return interval.value + interval.bias

    name = f"bootstrap, {DRAWS} draws of {CLIPS} clips of {ROWS_PER_CLIP} rows of {BOOTSTRAP_DIM}"
    cases = {name: measured(name, {OURS: quick, PEER: drawn}, rounds) | {"errors": {}}}
    many = features(0, ROWS[0], BOOTSTRAP_DIM)
    name = f"infinitely many rows, 25 sizes up to {ROWS[0]} rows of {BOOTSTRAP_DIM}"
    runs = {OURS: lambda: frechet_infinity(reference, many, "unbiased", 0, smallest=BOOTSTRAP_DIM + 1).value}
    return cases | {name: measured(name, runs, rounds)}


def divergences(rounds: int) -> dict[str, harness.Json]:
    """Case of S_KL, one clip at a time."""
    random = np.random.default_rng(0)
    pairs = random.gamma(0.3, size=(2, FRAMES, MAP, MAP)).astype(np.float32) + np.float32(1e-6)
    name = f"S_KL, {CLIPS} clips of {FRAMES} maps of {MAP}x{MAP}"
    runs = {OURS: lambda: sum(float(frame_divergence(*pairs).sum()) for _ in range(CLIPS))}
    return {name: measured(name, runs, rounds) | {"frames": CLIPS * FRAMES}}


def memory(clips_of: dict[str, tuple[int, ...]]) -> dict[str, harness.Json]:
    """Memory in MiB of processes that read features on disk, by kind and number of clips."""
    found: dict[str, harness.Json] = {}
    with tempfile.TemporaryDirectory(prefix="con360av-bench-") as folder:
        for kind, numbers in clips_of.items():
            for clips in numbers:
                sides = [str(write(Path(folder) / f"{kind}{clips}{side}", kind, clips, side)) for side in (0, 1)]
                command = [sys.executable, "-m", "benchmarks.distances", "--through", kind, *sides]
                ran = subprocess.run(command, check=True, capture_output=True, text=True)
                found[f"{kind}, {clips} clips"] = json.loads(ran.stdout.splitlines()[-1])
    return found


def write(folder: Path, kind: str, clips: int, seed: int) -> Path:
    """Writes random features of clips in the format of extraction."""
    random = np.random.default_rng(seed)
    shape = (FRAMES, MAP, MAP) if kind == "saliency" else (ROWS_PER_CLIP, DIMS[-1])
    card = FeatureCard(kind=kind, model="random", weights_sha256="", settings={}, packages={})
    write_features(folder, card, ((f"{k:06d}", "", random.random(shape, np.float32)) for k in range(clips)))
    return folder


def go_through(kind: str, sides: list[str]) -> None:
    """Prints the distance of two feature folders and the memory it took as JSON; runs in its own process."""
    largest, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.002):
            largest[0] = max(largest[0], _status("RssAnon"))

    before = _status("RssAnon")
    watcher = threading.Thread(target=look)
    watcher.start()
    generated, target = (open_features(side) for side in sides)
    if kind == "saliency":
        value = compare_saliency(generated, target).value
    else:
        value = frechet_distance(accumulate(generated), accumulate(target), "unbiased")
    done.set()
    watcher.join()
    size = 2 * generated.values.nbytes / 2**20
    told = {"features_mib": size, "own_mib": (largest[0] - before) / 1024, "resident_mib": _status("VmHWM") / 1024}
    sys.stdout.write(json.dumps(told | {"value": value}) + "\n")


def _status(name: str) -> int:
    """Value of a line of this process's status, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def main() -> None:
    """Times, measures and publishes."""
    parser = harness.parser(__doc__, config="debug", rounds=3)
    parser.add_argument("--through", nargs=3, metavar=("KIND", "FOLDER", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.through:
        go_through(arguments.through[0], arguments.through[1:])
        return
    threads = {"openblas_num_threads": os.environ.get("OPENBLAS_NUM_THREADS", "not set")}
    versions = {name: package_version(name) for name in ("numpy", "scipy")}
    environment = harness.environment(load_config(arguments.config))  # first: the commit is that of the measured code
    peaks = memory({"sound": (2048, 20480), "saliency": (512, 2048)})
    cases = divergences(arguments.rounds) | intervals(arguments.rounds) | distances(arguments.rounds)
    harness.publish(environment | threads | {"numpy_scipy": versions, "memory": peaks, "cases": cases}, arguments.out)


if __name__ == "__main__":
    main()
