"""Speed of the salvit360 saliency backend in frames/s, compared with its ResNet-18 alone; weights are random.

python -m benchmarks.salvit360 --threads 1 --out benchmarks/results/salvit360_cpu.json

backend             everything from a segment's frames to its maps
ResNet-18           the encoder on all tangent images, as in the backend: norms folded into convolutions, channels-last
ResNet-18 as built  the encoder with its norms, channels-first, as the published code runs it

Seconds are given on the clock and of the processor (harness.with_processor_time).
"""

import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks import harness
from con360av_jax.config.files import load_config
from con360av_jax.config.settings import Config
from preprocess.saliency.salvit360.backend import FRAMES_AT_ONCE, SalViT360Saliency
from preprocess.saliency.salvit360.geometry import VIEW_SIZE
from preprocess.saliency.salvit360.network import LAYOUTS, SalViT360, Variant
from preprocess.saliency.salvit360.resnet import fold_norms, resnet18
from preprocess.stages.segment import Segment, Window
from preprocess.stages.standardise import StandardClip

# Default of `python -m preprocess`.
PANORAMA_HEIGHT = 512


def programs(variant: Variant, config: Config, frames: int, device: str) -> dict[str, Callable[[], object]]:
    """The timed programs by name; each waits for the device."""
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
    """Runs the encoder over as many frames as the backend, in equal batches."""
    with torch.inference_mode():
        for _ in range(frames // FRAMES_AT_ONCE):
            encoder(images).sum().item()


def noise(frames: int) -> Segment:
    """A segment of random frames; the network takes the same time for any."""
    clip = StandardClip(
        name="noise",
        path=Path("noise.mp4"),
        packing="mono",
        height=PANORAMA_HEIGHT,
        view_height=PANORAMA_HEIGHT,
        duration=1.0,
        channels=1,
    )
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (frames, PANORAMA_HEIGHT, 2 * PANORAMA_HEIGHT, 3), dtype=np.uint8)
    window = Window(clip=clip, index=0, start=0.0)
    return Segment(window=window, frames=pictures, audio=np.zeros(1, np.float32))


def case(seconds: dict[str, list[float]], spent: dict[str, list[float]], frames: int) -> harness.Json:
    """All rounds, frames/s, and the backend's time over each encoder's in the same round, by clock and processor."""
    named = seconds | {f"{name}, processor": row for name, row in spent.items()}
    ratios = {
        f"backend / {encoder}{clock}": harness.ratio_row(named[f"backend{clock}"], named[f"{encoder}{clock}"])
        for clock in ("", ", processor")
        for encoder in ("ResNet-18", "ResNet-18 as built")
    }
    speeds = {name: frames / statistics.median(row) for name, row in named.items()}
    return harness.case(named, ratios=ratios, frames=frames, frames_per_second=speeds)


def main() -> None:
    """Times both variants and publishes the result."""
    parser = harness.parser(__doc__)
    harness.torch_options(parser)
    parser.add_argument("--frames", type=int, default=8, help=f"frames of the segment, a multiple of {FRAMES_AT_ONCE}")
    arguments = parser.parse_args()
    if arguments.frames < 1 or arguments.frames % FRAMES_AT_ONCE:
        parser.error(f"--frames is {arguments.frames}; give a multiple of {FRAMES_AT_ONCE}")
    harness.prepare()
    torch.set_num_threads(arguments.threads)
    config = load_config(arguments.config)
    cases = {}
    for variant in LAYOUTS:
        name, spent = f"{variant}, {arguments.frames} frames", {}
        runs = harness.with_processor_time(programs(variant, config, arguments.frames, arguments.device), spent)
        seconds = harness.interleaved(runs, arguments.rounds, name)
        counted = {program: row[1:] for program, row in spent.items()}
        cases[name] = case(seconds, counted, arguments.frames)
    harness.publish(
        harness.environment(config)
        | {"torch_device": arguments.device, "torch_threads": arguments.threads, "cases": cases},
        arguments.out,
    )


if __name__ == "__main__":
    main()
