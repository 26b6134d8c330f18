"""Memory of preprocessing against the number of videos: the same clip under many names, in one process.

A run's largest resident memory, as the system tells it of each finished process, must not grow with the clips.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from con360av_jax.bench.results import environment, publish
from con360av_jax.config.files import load_config
from con360av_jax.scenes.synthetic import write_scene_clips

PACKAGES = ("av", "opencv-python-headless", "array-record")


def peak_mib(videos: Path, out: Path) -> float:
    """Largest resident memory of a run over `videos`, MiB."""
    command = [sys.executable, "-m", "preprocess", "run", str(videos), "--output", str(out), "--workers", "0"]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(run.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed with status {status}")
    return used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=[20, 200], help="sizes of the sets")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    arguments = parser.parse_args()
    config = load_config("debug")
    peaks = {}
    with tempfile.TemporaryDirectory(prefix="con360av-bench-") as folder:
        scenes = Path(folder) / "scenes"
        write_scene_clips(scenes, 1, seed=7)
        for clips in arguments.clips:
            videos = Path(folder) / f"videos{clips}"
            videos.mkdir()
            for number in range(clips):
                os.link(scenes / "scene_000000.mp4", videos / f"scene_{number:06d}.mp4")
            peaks[str(clips)] = peak_mib(videos, Path(folder) / f"data{clips}")
    command = shlex.join(["python", *sys.argv])
    result = environment(config, PACKAGES) | {"command": command, "peak_mib_by_clips": peaks}
    publish({"benchmark": "preprocess_memory", **result}, arguments.out)


if __name__ == "__main__":
    main()
