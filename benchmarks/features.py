"""Feature extraction in clips/s, each network by itself, and the command's memory against the number of clips.

python -m benchmarks.features --fastgaze fastgaze.vxm --yamnet yamnet.tflite --out benchmarks/results/features_cpu.json

A clip has 32 frames of 256x256 and 4 s of audio at 16 kHz. FastGaze reads all frames (protocol small), YAMNet 4
windows (small), I3D 16 frames (styleganv), CLAP one window of 10 s (paper). I3D and CLAP have their published sizes
(HTSAT-tiny) and random weights, which take the same time; "read" decodes both streams of the file.

Memory is the largest resident memory of `python -m preprocess features` with protocol small over hard links to one
clip of one second, each set in its own process (Linux only).
"""

import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from benchmarks import harness
from con360av_jax.config.files import load_config
from con360av_jax.evaluate.protocols import named_protocol
from con360av_jax.media.files import write_clip
from con360av_jax.runtime.host_memory import keep_freed_memory
from con360av_jax.runtime.provenance import package_version
from preprocess.features.i3d import InceptionI3d
from preprocess.features.material import find_clips, read_clip
from preprocess.features.networks import ModelName, Wanted
from preprocess.features.opening import open_networks

FRAMES_PER_SECOND, SECONDS, SIDE, RATE = 8, 4, 256, 16_000
CASES: dict[ModelName, tuple[str, str]] = {
    "fastgaze": ("small", "saliency"),
    "yamnet": ("small", "sound"),
    "i3d": ("styleganv", "video_16"),
    "clap": ("paper", "sound"),
}


def make_clip(path: Path, seconds: int) -> Path:
    """Writes a clip of blocky video noise and audio noise; networks take the same time for any input."""
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (seconds * FRAMES_PER_SECOND, SIDE // 16, SIDE // 16, 3), dtype=np.uint8)
    sound = random.uniform(-0.3, 0.3, seconds * RATE).astype(np.float32)
    write_clip(path, blocks.repeat(16, axis=1).repeat(16, axis=2), FRAMES_PER_SECOND, sound, RATE)
    return path


def random_weights(folder: Path) -> dict[str, Path]:
    """Saves I3D and CLAP in their published sizes and formats, with random weights."""
    i3d, clap = folder / "i3d.pt", folder / "clap"
    torch.manual_seed(0)
    torch.save(InceptionI3d().state_dict(), i3d)
    # The text encoder is not run.
    text = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    ClapModel(ClapConfig(text_config={**text, "intermediate_size": 8}, audio_config={})).save_pretrained(clap)
    ClapFeatureExtractor(
        feature_size=64, sampling_rate=48_000, hop_length=480, max_length_s=10, fft_window_size=1024,
        frequency_min=50, frequency_max=14_000, truncation="rand_trunc", padding="repeatpad",
    ).save_pretrained(clap)  # fmt: skip
    return {"i3d": i3d, "clap": clap}


def programs(path: Path, weights: dict[str, Path], device: str) -> dict[str, Callable[[], object]]:
    """The timed programs by name; each does the work of one clip."""
    (source,), _ = find_clips(path)
    read = partial(read_clip, source, video=True, audio=True, frames_per_second=FRAMES_PER_SECOND)
    clip = read()
    runs: dict[str, Callable[[], object]] = {"read": read}
    for model, (protocol, part) in CASES.items():
        wanted = Wanted(
            protocol=named_protocol(protocol), parts=(part,), weights=weights, side="generated", device=device
        )
        (network,) = open_networks(wanted)
        runs[model] = partial(network.rows, clip)
    return runs


def peaks(folder: Path, counts: list[int], weights: dict[str, Path]) -> dict[str, float]:
    """Largest resident memory of the command by number of clips, MiB."""
    clip, found = make_clip(folder / "second.mp4", 1), {}
    given = [f"{model}={weights[model]}" for model in ("fastgaze", "yamnet")]
    for count in counts:
        videos = harness.link_copies(clip, count, folder / f"videos{count}")
        command = [sys.executable, "-m", "preprocess", "features", "--videos", str(videos)]
        command += ["--out", str(folder / f"features{count}"), "--protocol", "small", "--weights", *given]
        found[str(count)] = harness.measured_command(command)[1]
    return found


def main() -> None:
    """Times every network, measures memory and publishes."""
    parser = harness.parser(__doc__)
    harness.torch_options(parser)
    parser.add_argument("--fastgaze", type=Path, required=True, help="fastgaze.vxm")
    parser.add_argument("--yamnet", type=Path, required=True, help="yamnet.tflite")
    parser.add_argument("--clips", type=int, nargs="+", default=[8, 64], help="sizes of the sets for memory")
    arguments = parser.parse_args()
    harness.prepare()
    keep_freed_memory()  # as the command does
    torch.set_num_threads(arguments.threads)
    name = f"{SECONDS} s, {SECONDS * FRAMES_PER_SECOND} pictures of {SIDE}x{SIDE}"
    with tempfile.TemporaryDirectory(prefix="con360av-bench-") as place:
        folder = Path(place)
        weights = random_weights(folder) | {"fastgaze": arguments.fastgaze, "yamnet": arguments.yamnet}
        runs = programs(make_clip(folder / "clip.mp4", SECONDS), weights, arguments.device)
        seconds = harness.interleaved(runs, arguments.rounds, name)
        memory = peaks(folder, arguments.clips, weights)
    speeds = {program: 1 / statistics.median(row) for program, row in seconds.items()}
    packages = ("av", "ai-edge-litert", "opencv-python-headless", "scipy")
    results: harness.Json = {
        **harness.environment(load_config(arguments.config)),
        "more_versions": {name: package_version(name) for name in packages},
        "torch_device": arguments.device,
        "torch_threads": arguments.threads,
        "peak_mib_by_clips": memory,
        "cases": {name: harness.case(seconds, clips_per_second=speeds)},
    }
    harness.publish(results, arguments.out)


if __name__ == "__main__":
    main()
