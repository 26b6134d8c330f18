"""Speed of rendering samples of procedural scenes straight into training, in samples/s on one core.

python -m benchmarks.scenes --out benchmarks/results/scenes_cpu.json

Clips are 64 x 64 pixels, 2 s at 4 frames/s, with maps of 32 x 64, 16 kHz audio and log-mel (scenes/sources.py). Each
round renders numbers that were not rendered before, in order.

stills            every number; four of them share a scene
stills, shuffled  every fourth number, so that none share a scene
clips             every number; two of them share a scene, its audio and its saliency
audio             audio and log-mel alone

The process keeps to one core. Seconds are given on the clock and of the processor (harness.with_processor_time).
"""

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count

from benchmarks import harness
from con360av_jax.config.files import load_config
from con360av_jax.config.settings import ClipConfig
from con360av_jax.scenes.sources import STILLS_PER_SCENE, SceneAudio, SceneClips, SceneSource, SceneStills

CLIP = ClipConfig(seconds=2, hop_seconds=2, frames_per_second=4, height=64, width=64, map_height=32, map_width=64)
SEED = 0
SHARES = {"stills": 1, "stills, shuffled": 1, "clips": 4, "audio": 2}
"""Divisors of the number of samples of a round."""


def render(source: SceneSource, samples: int, step: int, rounds: count) -> None:
    """Renders the next samples, every `step`th."""
    first = next(rounds) * samples * step
    for number in range(first, first + samples * step, step):
        source[number]


def case(seconds: dict[str, list[float]], spent: dict[str, list[float]], samples: int) -> harness.Json:
    """All rounds and samples/s, by the clock and by the processor."""
    named = seconds | {f"{name}, processor": row[1:] for name, row in spent.items()}
    rates = {
        name: samples // SHARES[name.removesuffix(", processor")] / statistics.median(row)
        for name, row in named.items()
    }
    return harness.case(named, samples_per_second=rates)


def main() -> None:
    """Times everything and publishes."""
    parser = harness.parser(__doc__, config="debug")
    parser.add_argument("--samples", type=int, default=60, help="stills of a round; a quarter as many clips")
    arguments = parser.parse_args()
    harness.prepare()
    core = harness.one_core()
    config = replace(load_config(arguments.config), clip=CLIP)
    sources: dict[str, tuple[SceneSource, int]] = {
        "stills": (SceneStills(SEED), 1),
        "stills, shuffled": (SceneStills(SEED + 1), STILLS_PER_SCENE),
        "clips": (SceneClips(CLIP, config.mel, SEED), 1),
        "audio": (SceneAudio(config.mel, SEED + 2), 1),
    }
    programs: dict[str, Callable[[], None]] = {
        name: partial(render, source, arguments.samples // SHARES[name], step, count())
        for name, (source, step) in sources.items()
    }
    spent: dict[str, list[float]] = {}
    seconds = harness.interleaved(harness.with_processor_time(programs, spent), arguments.rounds, "samples of scenes")
    results = harness.environment(config) | {
        "core": core,
        "cases": {"64 x 64": case(seconds, spent, arguments.samples)},
    }
    harness.publish(results, arguments.out)


if __name__ == "__main__":
    main()
