"""The HTML report of a training run: losses, generated clips beside their targets, speed, settings."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from con360av_jax.config.files import config_hash, to_dict
from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import MODALITIES
from con360av_jax.data.schema import Sample
from con360av_jax.data.source import PREVIEWS, Dataset, open_dataset, preview_name
from con360av_jax.errors import MediaError
from con360av_jax.evaluate.metric_format import FILTERS
from con360av_jax.evaluate.results import METRICS, read_results
from con360av_jax.evaluate.settings import EVALUATIONS
from con360av_jax.media.files import probe, read_audio, write_clip
from con360av_jax.media.mel import log_mel
from con360av_jax.pages import figures, plots
from con360av_jax.pages.environment import page_environment
from con360av_jax.report import history
from con360av_jax.report.history import PACKAGES, History, read_history
from con360av_jax.report.pretraining import write_pretraining_report
from con360av_jax.report.samples import sample_grid
from con360av_jax.runtime.files import write_text
from con360av_jax.runtime.provenance import processor, versions
from con360av_jax.sphere.geometry import basd
from con360av_jax.train.run_folder import PretrainingRun, find_base, open_any


class Video(NamedTuple):
    """A clip as a data URI, with the audio for its plots."""

    uri: str
    audio: np.ndarray
    mel: np.ndarray


def write_report(
    run: Path,
    out: Path,
    *,
    clips: Sequence[Path] = (),
    dataset: Path | None = None,
    timings: Path | None = None,
) -> Path:
    """Writes one self-contained HTML page about a run of training or, without clips, of pretraining.

    Args:
        run: folder of a training run (config.json, metrics.jsonl).
        out: the page to write; replaced in one step.
        clips: generated clips, each with its card (`.json`) and its conditioning arrays (`.npz`) beside it.
        dataset: dataset folder of the clips' maps; without it no targets and panoramas are shown.
        timings: JSON list of {name, command, seconds} to show as a table.

    Raises:
        CheckpointError: `run` holds no run, has no logged step or a corrupt log, or its frozen base is missing.
        MetricError: an evaluation in the run's folder is corrupt.
        MediaError: a clip, its card or its arrays are missing.
        DatasetError: the dataset is corrupt.
    """
    opened = open_any(run)
    if isinstance(opened, PretrainingRun):
        return write_pretraining_report(opened, out)
    past = read_history(run)
    config, origin = opened.config, json.loads((find_base(opened) / "report.json").read_text())["origin"]
    records = open_dataset(dataset, verify="sizes") if dataset else None
    views = [_view(clip, number, config, records) for number, clip in enumerate(clips)]
    template = page_environment("con360av_jax.report", **FILTERS).get_template("report.html")
    html = template.render(
        run=run.resolve().name,
        config=config,
        origin=origin,
        steps=past.steps[-1],
        past=past,
        facts=_facts(past, config),
        loss_curves=history.loss_curves(past, config),
        held_out_curves=history.held_out_curves(past, config),
        best=history.best_line(past),
        samples=sample_grid(run),
        loss_table=history.loss_table(past, config),
        timestep_ranges=history.timestep_ranges(config),
        speed_curves=history.speed_curves(past),
        speed_table=history.speed_table(past),
        incidents=history.incidents(past),
        evaluations=_evaluations(run, out),
        scenes=_scenes(views, dataset),
        views=views,
        timings=json.loads(timings.read_text()) if timings else [],
        settings=to_dict(config),
        config_hash=config_hash(config),
        places={"base": find_base(opened), "dataset": opened.dataset},
        versions=versions(PACKAGES) | {"processor": processor()},
    )
    write_text(out, html)
    return out


def _evaluations(run: Path, out: Path) -> list[dict]:
    """Results and pages of the evaluations in the run's folder, in order of protocol name."""
    return [
        {
            "results": read_results(path),
            "page": os.path.relpath(page, out.parent) if (page := path.with_suffix(".html")).is_file() else "",
        }
        for path in sorted((run / EVALUATIONS).glob(f"*/{METRICS}"))
    ]


def _facts(past: History, config: Config) -> dict[str, str]:
    """Key facts at the top of the page."""
    clips = past.steps[-1] * config.train.batch_size
    told = {
        "steps": f"{past.steps[-1]:,} of {config.train.steps:,}",
        "clips seen": f"{clips:,}",
        **{
            f"loss, {name}": f"{past.at_the_end(lambda line, name=name: line[f'loss_{name}']):.3f}"
            for name in MODALITIES
        },
        "time in steps": _duration(history.seconds_in_steps(past)),
    }
    for row in history.speed_table(past):
        if (median := row["numbers"][0]) is not None:
            told[row["short"]] = f"{median:,.3g}"
    return told


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _view(clip: Path, number: int, config: Config, records: Dataset | None) -> dict:
    """Template values of one generated clip, with its target if the dataset has the same view."""
    card_file, arrays_file = clip.with_suffix(".json"), clip.with_suffix(".npz")
    for file in (clip, card_file, arrays_file):
        if not file.is_file():
            raise MediaError(f"{file} is missing: a report needs each clip with its .json card and its .npz arrays")
    card = json.loads(card_file.read_text())
    with np.load(arrays_file) as arrays:
        saliency, track = arrays["saliency"], arrays["viewpoint"]
    middle = len(track) // 2
    height, width = saliency.shape[1:3]
    record = records.find(key=card["maps_key"]) if records and card.get("maps_key") else None
    audio = read_audio(clip, config.mel.sample_rate, seconds=probe(clip).duration)[:, 0]
    videos = {"generated": _video(clip, audio, config)}
    if record is not None and "video" in record.arrays and np.allclose(record.arrays["viewpoint"], track, atol=1e-4):
        videos["target"] = _target(record, config)
    audio_rate, mel_rate = config.mel.sample_rate, config.mel.frames_per_second
    return {
        "number": number,
        "colour": figures.viewpoint_colour(number),
        "file": clip.name,
        "card": card,
        "angles": dict(zip(("yaw", "pitch", "width", "height"), np.rad2deg(track[middle]).tolist(), strict=True)),
        "moves": bool(np.ptp(track, axis=0).max() > 1e-4),
        "track": track[middle],
        "saliency": saliency[middle, ..., 0],
        "record": record,
        "videos": {name: video.uri for name, video in videos.items()},
        "waveforms": plots.waveforms({name: video.audio for name, video in videos.items()}, audio_rate),
        "mels": plots.mels({name: video.mel for name, video in videos.items()}, mel_rate),
        "basd": figures.image_uri(
            figures.basd_image(basd(track[middle : middle + 1], height, width)[0], track[middle], number)
        ),
    }


def _video(path: Path, audio: np.ndarray, config: Config) -> Video:
    return Video(figures.data_uri(path.read_bytes(), "video/mp4"), audio, log_mel(audio, config.mel))


def _target(record: Sample, config: Config) -> Video:
    audio = record.arrays["sound"].astype(np.float32) / 32768.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "target.mp4"
        write_clip(path, record.arrays["video"], config.clip.frames_per_second, audio, config.mel.sample_rate)
        return _video(path, audio, config)


def _scenes(views: list[dict], dataset: Path | None) -> list[dict]:
    """Template values of each segment behind the clips: its panorama, also with saliency and viewpoints."""
    segments: dict[tuple[str, int], list[dict]] = {}
    for view in views:
        if view["record"] is not None:
            segments.setdefault((view["record"].clip, view["record"].segment), []).append(view)
    scenes = []
    for (clip, segment), members in segments.items():
        preview = dataset / PREVIEWS / preview_name(clip, segment) if dataset else None
        marked = [(view["number"], view["track"]) for view in members]
        panorama, overlay = figures.scene_images(preview, members[0]["saliency"], marked)
        scenes.append(
            {
                "clip": clip,
                "start": members[0]["record"].start,
                "caption": members[0]["record"].caption,
                "panorama": panorama,
                "overlay": overlay,
            }
        )
    return scenes
