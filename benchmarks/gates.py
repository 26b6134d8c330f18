"""Gates of the small model: what the judges see and hear in what its parts make of held-out scenes, before the next
stage of training starts from them.

    python -m benchmarks.gates stills --base base --run unet_video --judge judge_video --guidance 1 2 4
    python -m benchmarks.gates motion --base base --run motion --judge judge_video
    python -m benchmarks.gates captions --base base --run unet_video
    python -m benchmarks.gates codecs --base base --run vocoder --judge judge_audio
    python -m benchmarks.gates audio --base base --run unet_audio --judge judge_audio

Each measure also for the targets. Of stills and clips, which are sampled from view captions:
class      share of those with an object in view whose nearest object to the centre the judge sees
empty      share of those with none in which the judge sees no object
place      share in which the judge sees the right place, which is the palette
flicker    mean absolute difference of neighbouring frames of views of no object, in values of 0 to 255 (clips)
captions: the held-out error of the video U-Net on stills, by quarter of the timesteps, and with other captions.
Of audio: F1 over clips and classes of the classes heard; codecs: the target's log-mel through VAE, and through VAE and
vocoder; audio: sampled from captions.
"""

import argparse
import collections
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from benchmarks import harness
from con360av_jax.base.pretrained import Pretrained, open_pretrained
from con360av_jax.config.pretraining import Part
from con360av_jax.config.settings import Config, PerModality
from con360av_jax.data.transforms import collate
from con360av_jax.evaluate.judges import Judge, open_judge
from con360av_jax.evaluate.judging import judge_frames, judge_mel, sounds_of, view_of
from con360av_jax.media.mel import log_mel
from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.runtime.compile_cache import enable_compile_cache
from con360av_jax.scenes.scene import CLASSES
from con360av_jax.scenes.sources import SceneAudio, SceneStills, SceneVideos
from con360av_jax.scenes.textures import PALETTES
from con360av_jax.train.encode import caption_tokens
from con360av_jax.train.objectives.choose import make_objective
from con360av_jax.train.pretraining_data import SceneData
from con360av_jax.train.trained_parts import open_trained

SEED = 4
"""Seed of the scenes, which are of the validation split."""

Batch = Mapping[str, Any]
Measures = dict[str, Any]
"""Measures by their names, or those of each kind of output."""


def main() -> None:
    """Measures one gate."""
    options = parser().parse_args()
    enable_compile_cache()
    base = open_pretrained(options.base)
    params = trained(base, options.run)
    gates = {"stills": views, "motion": views, "captions": captions, "codecs": codecs, "audio": audio}
    measure = gates[options.gate]
    found = measure(options, base, params)
    harness.publish({"environment": harness.environment(base.config), options.gate: found}, options.out)


def parser() -> argparse.ArgumentParser:
    """Returns the options."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("gate", choices=("stills", "motion", "captions", "codecs", "audio"))
    found.add_argument("--base", type=Path, required=True)
    found.add_argument("--run", type=Path, nargs="*", default=(), help="runs whose parts take those of the base")
    found.add_argument("--judge", type=Path, help="run or file of the judge; left out: the packaged one")
    found.add_argument("--count", type=int, default=128, help="scenes' samples")
    found.add_argument("--batch", type=int, default=16)
    found.add_argument("--guidance", type=float, nargs="*", default=(2.0,))
    found.add_argument("--steps", type=int, default=25, help="sampling steps")
    found.add_argument(
        "--pictures", type=Path, help="file for the first targets and samples, one row for each guidance"
    )
    found.add_argument("--out", type=Path, help="JSON file with the results")
    return found


def trained(base: Pretrained, runs: Sequence[Path]) -> Params:
    """Parameters of the base, those that `runs` trained in their place."""
    config = base.config
    names = ("joint", "text_audio", "text_video", "vae_audio", "vae_video", "vocoder")
    params: Params = flatten({name: base.params(name) for name in names})
    for run in runs:
        params |= flatten(open_trained(run, config).params)
    return unflatten(params)


def views(options: argparse.Namespace, base: Pretrained, params: Params) -> Measures:
    """Gate of stills or clips, by guidance."""
    config, judge = base.config, open_judge("judge_video", options.judge)
    part: Part = "unet_video" if options.gate == "stills" else "motion"
    clip = config.clip
    source = (
        SceneStills(SEED, clip.height, clip.width, float(clip.seconds), "validation")
        if part == "unet_video"
        else SceneVideos(clip, SEED, "validation")
    )
    scenes: list[Any] = [source[number] for number in track(range(options.count), "rendering")]
    rows = captioned(part, base, "video", scenes, "view_caption")
    targets = np.stack([scene["video"] for scene in scenes])
    found = {"targets": judged_views(judge, targets, scenes)}
    shown = [targets]
    for scale in options.guidance:
        made = sampled(part, with_sampler(config, options.steps, scale), params, rows, options.batch)["output_frames"]
        # Clips come as strips.
        made = np.stack(np.split(made, clip.frames, axis=2), axis=1) if part == "motion" else made[:, None]
        shown.append(made)
        found[f"guidance {scale:g}"] = judged_views(judge, made, scenes)
    if options.pictures:
        write_pictures(options.pictures, shown)
    return found


def captions(options: argparse.Namespace, base: Pretrained, params: Params) -> Measures:
    """Held-out measures of the video U-Net on stills (train/objectives/denoising.py)."""
    objective = make_objective("unet_video", base.config)
    rows, _ = SceneData(SEED).held_out(objective, base.config, caption_tokens(base))
    measure, totals = jax.jit(objective.measure), collections.Counter[str]()
    for first in track(range(0, options.count, options.batch), "measuring"):
        batch = collate([rows(number) for number in range(first, first + options.batch)])
        sums, _ = measure(params, {**batch, "sample_id": batch["sample_id"].astype(np.int32)})
        totals.update({name: float(value) for name, value in sums.items()})
    return objective.summarise(totals)


def codecs(options: argparse.Namespace, base: Pretrained, params: Params) -> Measures:
    """Classes heard in targets, in what the VAE makes of them, and in the vocoder's audio of that."""
    config = base.config
    source = SceneAudio(config.mel, SEED, float(config.clip.seconds), "validation")
    scenes: list[Any] = [source[number] for number in track(range(options.count), "rendering")]
    vae, vocoder = make_objective("vae_audio", config), make_objective("vocoder", config)
    mels = np.stack([scene["mel"] for scene in scenes])
    decoded = in_batches(lambda batch: vae.measure(params, batch)[1]["output_mel"], {"mel": mels}, options.batch)

    def vocoded(batch: Batch) -> jax.Array:
        silence = jnp.zeros((len(batch["mel"]), batch["mel"].shape[1] * config.mel.hop), jnp.int16)
        return vocoder.measure(params, {**batch, "sound": silence})[1]["output_audio"]

    sound = in_batches(vocoded, {"mel": decoded}, options.batch)
    again = np.stack([log_mel(row, config.mel) for row in sound])
    judge = open_judge("judge_audio", options.judge)
    return {
        "targets": judged_audio(judge, mels, scenes),
        "vae": judged_audio(judge, decoded, scenes) | {"mel_l1": float(np.abs(decoded - mels).mean())},
        "vae and vocoder": judged_audio(judge, again, scenes) | {"mel_l1": float(np.abs(again - mels).mean())},
    }


def audio(options: argparse.Namespace, base: Pretrained, params: Params) -> Measures:
    """Classes heard in targets and in log-mels sampled from captions, by guidance."""
    config, judge = base.config, open_judge("judge_audio", options.judge)
    source = SceneAudio(config.mel, SEED, float(config.clip.seconds), "validation")
    scenes: list[Any] = [source[number] for number in track(range(options.count), "rendering")]
    rows = captioned("unet_audio", base, "audio", scenes, "scene_caption")
    found = {"targets": judged_audio(judge, np.stack([scene["mel"] for scene in scenes]), scenes)}
    for scale in options.guidance:
        made = sampled("unet_audio", with_sampler(config, options.steps, scale), params, rows, options.batch)
        found[f"guidance {scale:g}"] = judged_audio(judge, made["output_mel"], scenes)
    return found


def captioned(part: Part, base: Pretrained, modality: str, scenes: Sequence[Any], caption: str) -> list[Batch]:
    """Held-out rows of an objective, each with the scene's caption of one kind."""
    whole, tokens = make_objective(part, base.config).whole, caption_tokens(base)
    null = tokens("")[modality]
    return [
        {
            **whole(scene, np.random.default_rng(0)),
            **tokens(scene[caption])[modality],
            "null_ids": null["ids"],
            "null_mask": null["mask"],
            "sample_id": np.asarray(number, np.int32),
        }
        for number, scene in enumerate(scenes)
    ]


def with_sampler(config: Config, steps: int, guidance: float) -> Config:
    """The config with a sampler of `steps` and the same guidance for both modalities."""
    both = PerModality(audio=guidance, video=guidance)
    return replace(config, sampler=replace(config.sampler, steps=steps, text_guidance=both))


def sampled(part: Part, config: Config, params: Params, rows: Sequence[Batch], size: int) -> dict[str, np.ndarray]:
    """Outputs that an objective samples from the captions of `rows`."""
    sample = make_objective(part, config).sample
    assert sample is not None
    compiled = jax.jit(sample)
    made = [
        jax.device_get(compiled(params, collate(rows[first : first + size])))
        for first in track(range(0, len(rows), size), "sampling")
    ]
    return {name: np.concatenate([batch[name] for batch in made]) for name in made[0]}


def in_batches(function: Any, arrays: Mapping[str, np.ndarray], size: int) -> np.ndarray:
    """The compiled function's output for all rows."""
    compiled, count = jax.jit(function), len(next(iter(arrays.values())))
    batches = [{name: array[k : k + size] for name, array in arrays.items()} for k in range(0, count, size)]
    return np.concatenate([jax.device_get(compiled(batch)) for batch in batches])


def judged_views(judge: Judge, videos: np.ndarray, scenes: Sequence[Mapping[str, Any]]) -> Measures:
    """Measures of views (row frame height width 3) against the truth of `scenes`."""
    shape = videos.shape[:2]
    seen = view_of(judge_frames(judge, videos.reshape(-1, *videos.shape[2:]))[0])
    in_view, places = (part.reshape(*shape, -1).mean(axis=1) for part in (seen.in_view, seen.place))
    there, place = in_view >= 0.5, places.argmax(axis=-1)
    nearest = [CLASSES.index(scene["seen"][0].name) if scene["seen"] else None for scene in scenes]
    objects = [there[row, name] for row, name in enumerate(nearest) if name is not None]
    empty = [not there[row].any() for row, name in enumerate(nearest) if name is None]
    right = [list(PALETTES)[number] == scene["place"] for number, scene in zip(place, scenes, strict=True)]
    found = {"class": float(np.mean(objects)), "empty": float(np.mean(empty)), "place": float(np.mean(right))}
    if shape[1] > 1:
        still = videos[[row for row, name in enumerate(nearest) if name is None]].astype(np.float32)
        found["flicker"] = float(np.abs(np.diff(still, axis=1)).mean())
    return found


def judged_audio(judge: Judge, mels: np.ndarray, scenes: Sequence[Mapping[str, Any]]) -> Measures:
    """F1 of the classes heard in log-mels (row time band)."""
    heard = np.array([sounds_of(judge_mel(judge, mel)[0]).heard >= 0.5 for mel in mels])
    there = np.array([[name in scene["classes"] for name in CLASSES] for scene in scenes])
    return {"heard_f1": float(2 * (heard & there).sum() / (heard.sum() + there.sum()))}


def write_pictures(path: Path, videos: Sequence[np.ndarray], columns: int = 12) -> None:
    """Writes the first rows' middle frames, one line for each of `videos`."""
    lines = [np.concatenate(list(rows[:columns, rows.shape[1] // 2]), axis=1) for rows in videos]
    cv2.imwrite(str(path), np.concatenate(lines)[..., ::-1])


if __name__ == "__main__":
    main()
