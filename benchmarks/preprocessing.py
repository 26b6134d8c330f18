"""Speed of preprocessing on one core, in clips/s: from a file to records, and each stage alone.

python -m benchmarks.preprocessing --out benchmarks/results/preprocess_cpu.json

The clip is a procedural scene of 10 s, rendered and encoded at 30 frames/s (H.264, 1920 x 960, mono AAC at 48 kHz), so
three segments of 4 s; two viewpoints each, no learned model. Its frames are smooth: videos with many more bits/s take
longer to decode. A stage's time covers all three segments, and all six viewpoints for views and records.

whole way    Pipeline.samples and DatasetWriter: everything that `python -m preprocess` runs
standardise  the file is read to its end, nothing is decoded
write        records as bytes, and as a dataset on disk

The process keeps to one core. Seconds are given on the clock and of the processor (harness.with_processor_time).
"""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import harness
from con360av_jax.base.record_encoder import open_encoder
from con360av_jax.config.files import load_config
from con360av_jax.config.settings import Config
from con360av_jax.data.schema import Sample
from con360av_jax.data.writer import write_dataset
from con360av_jax.media.files import write_clip
from con360av_jax.media.mel import log_mel
from con360av_jax.scenes.synthetic import render_clip
from preprocess.captions.template import template_caption
from preprocess.inputs import search
from preprocess.running.pipeline import Ledger, Pipeline
from preprocess.saliency.contrast import segment_contrast
from preprocess.stages.segment import Cutter, Segment, Window, windows
from preprocess.stages.standardise import read_mono, standardise
from preprocess.stages.viewpoints import ViewpointSettings, find_viewpoints
from preprocess.stages.views import render_tracks

WHOLE = "whole way"
SECONDS, FRAMES_PER_SECOND, SAMPLE_RATE, SEED = 10.0, 30.0, 48_000, 3


def make_clip(path: Path, height: int) -> Path:
    """Renders and writes the clip that is processed."""
    scene = render_clip(SEED, SECONDS, height, 2 * height, FRAMES_PER_SECOND, SAMPLE_RATE)
    write_clip(path, scene.video, FRAMES_PER_SECOND, scene.sound[:, 0], SAMPLE_RATE)
    return path


def write(samples: Sequence[Sample], pipeline: Pipeline, folder: Path) -> None:
    """Writes a dataset and deletes it."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        write_dataset(Path(place) / "dataset", samples, pipeline.config, pipeline.fields, (), {})


def cut_all(config: Config, parts: Sequence[Window]) -> list[Segment]:
    """All segments of a clip, in one pass."""
    with Cutter(config) as cutter:
        return [cutter(window) for window in parts]


def stages(pipeline: Pipeline, wanted: ViewpointSettings, path: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """The timed programs by name; each does the work of the whole clip."""
    config, (given,) = pipeline.config, search([path]).inputs
    settings, rate = config.clip, config.mel.sample_rate
    read = partial(standardise, path, given.name, config, pipeline.panorama_height, view_height=pipeline.view_height)
    clip = read()
    parts = windows(clip, settings)
    segments = cut_all(config, parts)
    maps = [pipeline.saliency(segment, config) for segment in segments]
    tracked = partial(find_viewpoints, frames_per_second=settings.frames_per_second, settings=wanted)
    tracks = [tuple(viewpoint.track for viewpoint in tracked(saliency)) for saliency in maps]
    seen = list(zip(segments, tracks, strict=True))
    samples = list(pipeline.samples([given], Ledger()))
    return {
        WHOLE: lambda: write(list(pipeline.samples([given], Ledger())), pipeline, folder),
        "standardise": read,
        "decode": lambda: cut_all(config, parts),
        "decode sound": lambda: [
            read_mono(clip, window.start, settings.seconds, rate, pipeline.limits) for window in parts
        ],
        "saliency": lambda: [pipeline.saliency(segment, config) for segment in segments],
        "viewpoints": lambda: [tracked(saliency) for saliency in maps],
        "views": lambda: [
            render_tracks(segment.view_panoramas(config), found, settings.height, settings.width)
            for segment, found in seen
        ],
        "captions": lambda: [pipeline.captions(segment, found) for segment, found in seen],
        "mel": lambda: [log_mel(segment.audio, config.mel) for segment in segments],
        "write": lambda: write(samples, pipeline, folder),
    }


def case(seconds: dict[str, list[float]], spent: dict[str, list[float]]) -> harness.Json:
    """All rounds and clips/s, by the clock and by the processor."""
    named = seconds | {f"{name}, processor": row[1:] for name, row in spent.items()}
    return harness.case(named, clips_per_second={name: 1 / statistics.median(row) for name, row in named.items()})


def main() -> None:
    """Times everything and publishes."""
    parser = harness.parser(__doc__)
    parser.add_argument("--height", type=int, default=960, help="height of the clip's frames; the width is twice that")
    parser.add_argument("--panorama-height", type=int, default=512, help="height for saliency and captions")
    parser.add_argument("--view-height", type=int, default=1920, help="height for views")
    parser.add_argument("--moving", action="store_true", help="viewpoints follow their regions")
    arguments = parser.parse_args()
    harness.prepare()
    core = harness.one_core()
    config = load_config(arguments.config)
    wanted = ViewpointSettings(count=2, moving=arguments.moving)
    pipeline = Pipeline(
        config=config,
        saliency=segment_contrast,
        captions=template_caption,
        encoder=open_encoder("none", config),
        viewpoints=wanted,
        panorama_height=arguments.panorama_height,
        view_height=arguments.view_height,
    )
    with tempfile.TemporaryDirectory() as place:
        path = make_clip(Path(place) / "scene.mp4", arguments.height)
        size, spent = path.stat().st_size, {}
        runs = harness.with_processor_time(stages(pipeline, wanted, path, Path(place)), spent)
        name = f"a clip of {SECONDS:g} s, {2 * arguments.height} x {arguments.height}"
        seconds = harness.interleaved(runs, arguments.rounds, name)
    heights = {"panorama_height": arguments.panorama_height, "view_height": arguments.view_height}
    about = heights | {"core": core, "bytes": size, "viewpoints": wanted.count, "moving": arguments.moving}
    harness.publish(
        harness.environment(config) | about | {"cases": {name: case(seconds, spent)}},
        arguments.out,
    )


if __name__ == "__main__":
    main()
