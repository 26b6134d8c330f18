"""Memory of preprocessing against the number of videos: the same clip under many names, in one process.

The largest resident memory of a run must not grow with the number of clips.
"""

import sys
import tempfile
from pathlib import Path

from benchmarks import harness
from con360av_jax.config.files import load_config
from con360av_jax.scenes.synthetic import write_scene_clips

PACKAGES = ("av", "opencv-python-headless", "array-record")


def peak_mib(videos: Path, out: Path) -> float:
    """Largest resident memory of a run over `videos`, MiB."""
    command = [sys.executable, "-m", "preprocess", "run", str(videos), "--out", str(out), "--workers", "0"]
    return harness.measured_command(command)[1]


def main() -> None:
    """Measures sets of several sizes and publishes."""
    parser = harness.parser(__doc__, config="debug")
    parser.add_argument("--clips", type=int, nargs="+", default=[20, 200], help="sizes of the sets")
    arguments = parser.parse_args()
    peaks = {}
    with tempfile.TemporaryDirectory(prefix="con360av-bench-") as folder:
        scenes = Path(folder) / "scenes"
        write_scene_clips(scenes, 1, seed=7)
        for clips in arguments.clips:
            videos = harness.link_copies(scenes / "scene_000000.mp4", clips, Path(folder) / f"videos{clips}")
            peaks[str(clips)] = peak_mib(videos, Path(folder) / f"data{clips}")
    environment = harness.environment(load_config(arguments.config), PACKAGES)
    harness.publish({"benchmark": "preprocess_memory", **environment, "peak_mib_by_clips": peaks}, arguments.out)


if __name__ == "__main__":
    main()
