"""A page of one evaluation that needs no other file: the first and the worst clips beside their targets, and numbers.

The first clips are those that `choose` puts first, which depends on keys and the seed only; the worst are those of
`ranked`. Nothing is picked by hand.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from con360av_jax.data.source import MANIFEST, PREVIEWS, Dataset, open_dataset, preview_name
from con360av_jax.errors import MetricError
from con360av_jax.evaluate.examples import SIDES, angles, clip_mel, mel_images, ranked
from con360av_jax.evaluate.faults import FAULTS
from con360av_jax.evaluate.metric_format import FILTERS, number
from con360av_jax.evaluate.results import ClipScores, Results, read_results
from con360av_jax.evaluate.selection import EvaluatedClip, read_clips
from con360av_jax.pages.environment import page_environment
from con360av_jax.pages.figures import basd_image, data_uri, image_uri, scene_images, viewpoint_colour
from con360av_jax.runtime.files import write_text
from con360av_jax.sphere.geometry import basd

TITLES = {"generated": "Generated", "target": "Target: this view of the scene, with its audio"}
YES_OR_NO = ("judge_in_view", "judge_empty_view", "judge_place", "share_in_view", "class_agreement")
"""Metrics whose score of a clip is 0 or 1."""


def write_gallery(
    folder: Path, out: Path, first: int = 16, worst: int = 0, *, note: str = "", timings: Path | None = None
) -> Path:
    """Writes the page `out` of an evaluation in one step.

    Args:
        folder: folder of a finished evaluation with its clips. Panoramas are shown if its dataset is still in its
            place and has previews.
        out: the page.
        first: number of clips from the first one on.
        worst: number of the worst clips.
        note: a sentence about the clips to show on top.
        timings: JSON list of {name, command, seconds} to show as a table.

    Raises MetricError if the evaluation or one of its clips is missing, MediaError if a clip is corrupt.
    """
    results, clips = read_results(folder), {clip.clip: clip for clip in read_clips(folder)}
    dataset = _dataset(results)
    ranking = ranked(results)
    last = [clip for clip in ranking.clips if ranking.metric and ranking.metric.name in clip.scores][:worst]
    shown = [_shown(one, number, clips[one.clip], results, folder) for number, one in enumerate(results.clips[:first])]
    scenes = _scenes(results.clips[:first], clips, dataset)
    html = (
        page_environment("con360av_jax.evaluate", **FILTERS)
        .get_template("gallery.html")
        .render(
            results=results,
            model=_model(results),
            facts=_facts(results),
            note=note,
            scenes=scenes,
            first=shown,
            worst=[_shown(one, first + number, clips[one.clip], results, folder) for number, one in enumerate(last)],
            ranking=ranking,
            timings=json.loads(timings.read_text()) if timings else [],
        )
    )
    write_text(out, html)
    return out


def _dataset(results: Results) -> Dataset | None:
    """The dataset of the evaluation, if it is still in its place."""
    told = results.made_from.get("dataset")
    path = Path(str(told.get("path", ""))) if isinstance(told, Mapping) else Path()
    return open_dataset(path, verify="sizes") if (path / MANIFEST).is_file() else None


def _model(results: Results) -> str:
    run = results.made_from.get("run")
    path = Path(str(run.get("path", "") if isinstance(run, Mapping) else ""))
    return (path.parent.parent if path.parent.name == "checkpoints" else path).name or "a model"


def _facts(results: Results) -> dict[str, str]:
    """Key facts at the top of the page."""
    run, sampler = (results.made_from.get(name) for name in ("run", "sampler"))
    told: dict[str, object] = {"clips evaluated": len(results.clips)}
    told |= {"trained steps": run.get("step")} if isinstance(run, Mapping) else {}
    if isinstance(sampler, Mapping):
        scales = {name: sampler.get(f"{name}_guidance") for name in ("text", "map")}
        told["sampling steps"] = sampler.get("steps")
        told |= {f"{name} guidance": _scales(value) for name, value in scales.items()}
    return {name: f"{value:,}" if isinstance(value, int) else str(value) for name, value in told.items() if value}


def _scales(value: object) -> str:
    """Guidance scales of both modalities, audio first, as one number if they are equal."""
    numbers = [f"{scale:g}" for scale in value.values()] if isinstance(value, Mapping) else []
    return " / ".join(dict.fromkeys(numbers))


def _shown(one: ClipScores, number_: int, clip: EvaluatedClip, results: Results, folder: Path) -> dict[str, object]:
    """Template values of a clip: both videos and their mel spectrograms, its viewpoint and its scores."""
    paths = {"target": folder / one.target, "generated": folder / one.generated}
    if missing := [str(path) for path in paths.values() if not path.is_file()]:
        raise MetricError(f"no such clip: {', '.join(missing)}; run the evaluation's command again")
    mels = mel_images({side: clip_mel(path) for side, path in paths.items()})
    track = np.array(clip.viewpoint)
    middle = track[len(track) // 2]
    map_ = basd(middle[None], 64, 128)[0]
    return {
        "number": number_,
        "colour": viewpoint_colour(number_),
        "clip": one,
        "angles": angles(one),
        "videos": [
            (side, TITLES[side], data_uri(paths[side].read_bytes(), "video/mp4"), mels[side])
            for side in reversed(SIDES)
        ],
        "basd": image_uri(basd_image(map_, middle, number_)),
        "scores": _scores(one, results),
    }


def _scores(one: ClipScores, results: Results) -> list[tuple[str, str]]:
    """Titles and scores of a clip, in the order of the metrics."""
    found = []
    for metric in results.metrics:
        if metric.name not in one.scores or metric.name in FAULTS:
            continue
        score = one.scores[metric.name]
        said = ("yes" if score else "no") if metric.name in YES_OR_NO else number(score, 0.1 if metric.unit else 0.0)
        found.append((metric.title, f"{said} {metric.unit}".strip()))
    return found


def _scenes(
    shown: Sequence[ClipScores], clips: Mapping[str, EvaluatedClip], dataset: Dataset | None
) -> list[dict[str, object]]:
    """Template values of each segment of the shown clips that has a preview of its panorama."""
    if dataset is None:
        return []
    segments: dict[Path, list[tuple[int, EvaluatedClip]]] = {}
    for position, one in enumerate(shown):
        clip = clips[one.clip]
        recording, segment, _ = clip.key.rsplit("/", 2)
        preview = dataset.folder / PREVIEWS / preview_name(recording, int(segment))
        if preview.is_file():
            segments.setdefault(preview, []).append((position, clip))
    scenes = []
    for preview, members in segments.items():
        saliency = dataset.find(key=members[0][1].key).arrays["saliency"]
        middle = saliency[len(saliency) // 2, ..., 0]
        marked = [(position, np.array(clip.middle)) for position, clip in members]
        panorama, overlay = scene_images(preview, middle, marked)
        scenes.append({"caption": members[0][1].caption, "panorama": panorama, "overlay": overlay})
    return scenes
