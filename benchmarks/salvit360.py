"""The salvit360 saliency backend in frames/s, beside the time that its ResNet-18 alone takes; weights are random.

python -m benchmarks.salvit360 --threads 1 --out benchmarks/results/salvit360_cpu.json

backend             everything from a segment's frames to its maps
ResNet-18           of all tangent images, as the backend has it: norms folded into convolutions, channels-last
ResNet-18 as built  the same with its norms, channels-first, as the published code runs it

Beside seconds on the clock stand seconds of the processor, which do not count those in which other programs had it.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import harness
from con360av_jax.config.settings import Config
from preprocess.saliency.salvit360.backend import FRAMES_AT_ONCE, SalViT360Saliency
from preprocess.saliency.salvit360.geometry import VIEW_SIZE
from preprocess.saliency.salvit360.network import LAYOUTS, SalViT360, Variant
from preprocess.saliency.salvit360.resnet import fold_norms, resnet18
from preprocess.stages.segment import Segment, Window
from preprocess.stages.standardise import StandardClip

# Rows of the panoramas that `python -m preprocess` works on where nothing else is asked for.
PANORAMA_HEIGHT = 512


def contestants(variant: Variant, config: Config, frames: int, device: str) -> dict[str, Callable[[], object]]:
    """What is timed, by name; each leaves nothing to do on the device."""
    network = SalViT360(variant).eval().requires_grad_(False)
    fold_norms(network.feature_extractor)
    backend = SalViT360Saliency(network.to(device), "cuda" if device == "cuda" else "cpu")
    segment = noise(frames)
    count = sum(layout.count for layout in LAYOUTS[variant])
    images = torch.randn(FRAMES_AT_ONCE * count, 3, VIEW_SIZE, VIEW_SIZE, device=device)
    built = resnet18().eval().to(device)
    last = images.contiguous(memory_format=torch.channels_last)
    return {
        "backend": lambda: backend(segment, config),
        "ResNet-18": lambda: repeated(network.feature_extractor, last, frames),
        "ResNet-18 as built": lambda: repeated(built, images, frames),
    }


def repeated(encoder: torch.nn.Module, images: torch.Tensor, frames: int) -> None:
    """The encoder over as many frames as the backend, in equal batches."""
    with torch.inference_mode():
        for _ in range(frames // FRAMES_AT_ONCE):
            encoder(images).sum().item()


def noise(frames: int) -> Segment:
    """Random frames; the network takes the same time for any."""
    clip = StandardClip(
        name="noise", path=Path("noise.mp4"), packing="mono", height=PANORAMA_HEIGHT, duration=1.0, channels=1
    )
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (frames, PANORAMA_HEIGHT, 2 * PANORAMA_HEIGHT, 3), dtype=np.uint8)
    window = Window(clip=clip, index=0, start=0.0)
    return Segment(window=window, frames=pictures, audio=np.zeros(1, np.float32))


def clocked(runs: dict[str, Callable[[], object]], spent: dict[str, list[float]]) -> dict[str, Callable[[], object]]:
    """The same, each call's seconds of the processor added to `spent`."""

    def run(name: str) -> None:
        start = time.process_time()
        runs[name]()
        spent.setdefault(name, []).append(time.process_time() - start)

    return {name: partial(run, name) for name in runs}


def case(seconds: dict[str, list[float]], spent: dict[str, list[float]], frames: int) -> harness.Json:
    """All rounds, frames/s, and the backend's time over each encoder's of the same round, by clock and processor."""
    ratios = {}
    for clock, rows in (("", seconds), (", processor", spent)):
        for encoder in ("ResNet-18", "ResNet-18 as built"):
            pairs = [one / other for one, other in zip(rows["backend"], rows[encoder], strict=True)]
            row = {"median": statistics.median(pairs), "lowest": min(pairs), "highest": max(pairs)}
            ratios[f"backend / {encoder}{clock}"] = row
    named = seconds | {f"{name}, processor": row for name, row in spent.items()}
    return {
        "frames": frames,
        "frames_per_second": {name: frames / statistics.median(row) for name, row in named.items()},
        "seconds": {name: {"median": statistics.median(row), "rounds": row} for name, row in named.items()},
        "ratios": ratios,
        "errors": {},
        "compiled": {},
    }


def main() -> None:
    """Times both variants and publishes the result."""
    parser = harness.options(__doc__)
    parser.add_argument("--frames", type=int, default=8, help=f"of the segment, a multiple of {FRAMES_AT_ONCE}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where PyTorch computes")
    parser.add_argument(
        "--threads",
        type=int,
        default=torch.get_num_threads(),
        help="of PyTorch; 1 on a machine with other work, where threads wait for each other",
    )
    arguments = parser.parse_args()
    if arguments.frames < 1 or arguments.frames % FRAMES_AT_ONCE:
        parser.error(f"--frames is {arguments.frames}; give a multiple of {FRAMES_AT_ONCE}")
    harness.prepare()
    torch.set_num_threads(arguments.threads)
    config = harness.configured(arguments)
    cases = {}
    for variant in LAYOUTS:
        name, spent = f"{variant}, {arguments.frames} frames", {}
        runs = clocked(contestants(variant, config, arguments.frames, arguments.device), spent)
        seconds = harness.interleaved(runs, arguments.rounds, name)
        counted = {contestant: row[1:] for contestant, row in spent.items()}
        cases[name] = case(seconds, counted, arguments.frames)
    harness.publish(
        harness.environment(config)
        | {"torch_device": arguments.device, "torch_threads": arguments.threads, "cases": cases},
        arguments.out,
    )


if __name__ == "__main__":
    main()
