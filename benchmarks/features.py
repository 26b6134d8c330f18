"""Feature extraction in clips/s, each network by itself, and the command's memory against the number of clips.

python -m benchmarks.features --fastgaze fastgaze.vxm --yamnet yamnet.tflite --out benchmarks/results/features_cpu.json

A clip has 32 pictures of 256x256 and 4 s of sound at 16 kHz. FastGaze looks at all pictures (protocol small), YAMNet
hears 4 windows (small), I3D looks at 16 pictures (styleganv), CLAP hears one window of 10 s (paper). I3D and CLAP, of
its published size (HTSAT-tiny), have random weights, which takes the same time; "read" is the file, both its streams.

Memory is the most that `python -m preprocess features` with protocol small holds over the same clip of one second under
many names, each set in a process of its own (Linux only).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from benchmarks import harness
from con360av_jax.evaluate.protocols import named_protocol
from con360av_jax.media.files import write_clip
from con360av_jax.runtime.host_memory import keep_freed_memory
from preprocess.features.i3d import InceptionI3d
from preprocess.features.material import find_clips, read_clip
from preprocess.features.networks import ModelName, Wanted
from preprocess.features.opening import open_networks

FRAMES_PER_SECOND, SECONDS, SIDE, RATE = 8, 4, 256, 16_000
# The command, which in the end says its memory. What the system tells of a finished process counts its parent's, too:
# that is this one, with all networks.
MEASURED = """
import sys
from pathlib import Path
from preprocess.cli import main
code = main(sys.argv[1:])
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
sys.exit(code)
"""
CASES: dict[ModelName, tuple[str, str]] = {
    "fastgaze": ("small", "saliency"),
    "yamnet": ("small", "sound"),
    "i3d": ("styleganv", "video_16"),
    "clap": ("paper", "sound"),
}


def make_clip(path: Path, seconds: int) -> Path:
    """Noise in blocks and noise to hear; networks take the same time for anything."""
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (seconds * FRAMES_PER_SECOND, SIDE // 16, SIDE // 16, 3), dtype=np.uint8)
    sound = random.uniform(-0.3, 0.3, seconds * RATE).astype(np.float32)
    write_clip(path, blocks.repeat(16, axis=1).repeat(16, axis=2), FRAMES_PER_SECOND, sound, RATE)
    return path


def random_weights(folder: Path) -> dict[str, Path]:
    """I3D and CLAP in their published sizes, saved as their publishers do."""
    i3d, clap = folder / "i3d.pt", folder / "clap"
    torch.manual_seed(0)
    torch.save(InceptionI3d().state_dict(), i3d)
    # What reads text is not run.
    text = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    ClapModel(ClapConfig(text_config={**text, "intermediate_size": 8}, audio_config={})).save_pretrained(clap)
    ClapFeatureExtractor(
        feature_size=64, sampling_rate=48_000, hop_length=480, max_length_s=10, fft_window_size=1024,
        frequency_min=50, frequency_max=14_000, truncation="rand_trunc", padding="repeatpad",
    ).save_pretrained(clap)  # fmt: skip
    return {"i3d": i3d, "clap": clap}


def contestants(path: Path, weights: dict[str, Path], device: str) -> dict[str, Callable[[], object]]:
    """What is timed, by name; each does the work of one clip."""
    (source,), _ = find_clips(path)
    read = partial(read_clip, source, pictures=True, sound=True, frames_per_second=FRAMES_PER_SECOND)
    clip = read()
    runs: dict[str, Callable[[], object]] = {"read": read}
    for model, (protocol, part) in CASES.items():
        wanted = Wanted(
            protocol=named_protocol(protocol), parts=(part,), weights=weights, side="generated", device=device
        )
        (network,) = open_networks(wanted)
        runs[model] = partial(network.rows, clip)
    return runs


def peak_mib(videos: Path, out: Path, weights: dict[str, Path]) -> float:
    """Largest resident memory of the command over `videos`, MiB."""
    given = [f"{model}={weights[model]}" for model in ("fastgaze", "yamnet")]
    command = [sys.executable, "-c", MEASURED, "features", "--videos", str(videos), "--output", str(out)]
    run = subprocess.run([*command, "--protocol", "small", "--weights", *given], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {run.stderr[-500:]}")
    return int(run.stdout.split()[-2]) / 1024


def peaks(folder: Path, counts: list[int], weights: dict[str, Path]) -> dict[str, float]:
    """Memory by number of clips."""
    clip, found = make_clip(folder / "second.mp4", 1), {}
    for count in counts:
        videos = folder / f"videos{count}"
        videos.mkdir()
        for number in range(count):
            os.link(clip, videos / f"clip{number:05d}.mp4")
        found[str(count)] = peak_mib(videos, folder / f"features{count}", weights)
    return found


def main() -> None:
    """Times every network, measures memory and publishes the result."""
    parser = harness.options(__doc__)
    parser.add_argument("--fastgaze", type=Path, required=True, help="fastgaze.vxm")
    parser.add_argument("--yamnet", type=Path, required=True, help="yamnet.tflite")
    parser.add_argument("--clips", type=int, nargs="+", default=[8, 64], help="sizes of the sets for memory")
    parser.add_argument("--device", default="cpu", help="where PyTorch computes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch")
    publish(parser.parse_args())


def publish(arguments: argparse.Namespace) -> None:
    """The result, as JSON and on the terminal."""
    harness.prepare()
    keep_freed_memory()  # as the command does
    torch.set_num_threads(arguments.threads)
    about = f"{SECONDS} s, {SECONDS * FRAMES_PER_SECOND} pictures of {SIDE}x{SIDE}"
    with tempfile.TemporaryDirectory(prefix="con360av-bench-") as place:
        folder = Path(place)
        weights = random_weights(folder) | {"fastgaze": arguments.fastgaze, "yamnet": arguments.yamnet}
        runs = contestants(make_clip(folder / "clip.mp4", SECONDS), weights, arguments.device)
        seconds = harness.interleaved(runs, arguments.rounds, about)
        memory = peaks(folder, arguments.clips, weights)
    case = {
        "clips_per_second": {name: 1 / statistics.median(row) for name, row in seconds.items()},
        "seconds": {name: {"median": statistics.median(row), "rounds": row} for name, row in seconds.items()},
        "ratios": {},
        "errors": {},
        "compiled": {},
    }
    packages = ("av", "ai-edge-litert", "opencv-python-headless", "scipy")
    result = harness.environment(harness.configured(arguments))
    result |= {"more_versions": {name: harness.installed(name) for name in packages}, "torch_device": arguments.device,
               "torch_threads": arguments.threads, "peak_mib_by_clips": memory, "cases": {about: case}}  # fmt: skip
    harness.publish(result, arguments.out)


if __name__ == "__main__":
    main()
