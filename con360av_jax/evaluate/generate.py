"""Generated clips and their targets on disk: what is there already is not made again, and all is as if made in one go.

Clips are generated in batches of one shape, each clip always in the same row beside the same others: what a clip looks
like does not even in its last bit depend on what was there before. Another batch size or mesh changes rounding only.

Sound is stored without loss: AAC puts a tenth of it wrong and turns the rounding of another mesh into a difference of
as much, and distances between sounds would measure the codec. Both sides' pictures go through the same H.264.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from con360av_jax.config.settings import SamplerConfig
from con360av_jax.data.schema import Sample, SampleEntry
from con360av_jax.data.source import Dataset
from con360av_jax.evaluate.selection import CLIPS, EvaluatedClip, clip_name, clip_seed, read_clips, write_clips
from con360av_jax.evaluate.settings import Conditions, Making
from con360av_jax.media.files import write_clip
from con360av_jax.model import Con360AV
from con360av_jax.runtime.files import remove_leftovers
from con360av_jax.sample import Clip

GENERATED, TARGETS = "generated", "targets"
_LOOK_EVERY = 1.0  # s
write = partial(write_clip, lossless_sound=True)


@dataclass(frozen=True)
class Share:
    """Which of several processes this is; each has whole batches of its own."""

    index: int = 0
    count: int = 1

    def wait_for(self, paths: Sequence[Path]) -> None:
        """Returns once all files are there; process 0 of a run whose others died is ended by JAX."""
        missing = [path for path in paths if not path.is_file()]
        while missing:
            threading.Event().wait(_LOOK_EVERY)
            missing = [path for path in missing if not path.is_file()]


def progress(quiet: bool = False) -> Progress:
    """A bar on standard error for steps that can be counted."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet,
    )


def write_targets(folder: Path, entries: Sequence[SampleEntry], making: Making) -> tuple[EvaluatedClip, ...]:
    """Writes each record's own view to FOLDER/targets, then FOLDER/clips.jsonl; records that are there are not read.

    Raises DatasetError if a record is damaged, MediaError if a file cannot be written.
    """
    known = {clip.key: clip for clip in read_clips(folder)} if (folder / CLIPS).is_file() else {}
    positions = {key: position for position, key in enumerate(making.dataset.keys)}
    clips: list[EvaluatedClip] = []
    there = {entry.key for entry in entries if entry.key in known and _file(folder, TARGETS, entry).is_file()}
    with progress(quiet=len(there) == len(entries)) as bar:
        for entry in bar.track(entries, description="targets"):
            path = _file(folder, TARGETS, entry)
            if entry.key in there:
                clips.append(known[entry.key])
                continue
            record = making.dataset[positions[entry.key]]
            if not path.is_file():
                config = making.dataset.config
                rates = config.clip.frames_per_second, config.mel.sample_rate
                write(path, record.arrays["video"], rates[0], record.arrays["sound"], rates[1])
            clips.append(_described(record, making))
    write_clips(folder, clips)
    return tuple(clips)


def _described(record: Sample, making: Making) -> EvaluatedClip:
    track = [tuple(map(float, frame)) for frame in record.arrays["viewpoint"]]
    return EvaluatedClip(
        clip=clip_name(record.key),
        key=record.key,
        caption=record.caption if making.conditions.caption else "",
        start=float(record.start),
        segment=record.segment,
        viewpoint_index=record.viewpoint_index,
        seed=clip_seed(record.entry, making.seed, making.noise),
        viewpoint=tuple(track),  # pyright: ignore[reportArgumentType]
    )


def generate(
    folder: Path,
    entries: Sequence[SampleEntry],
    making: Making,
    load: Callable[[], Con360AV],
    batch_size: int,
    share: Share | None = None,
) -> None:
    """Writes the clips of this process's share that FOLDER/generated lacks; `load` is called only if there are any.

    Raises as `sample_latents` and `write_clip` do.
    """
    share = share or Share()
    batches = [entries[start : start + batch_size] for start in range(0, len(entries), batch_size)]
    todo = [
        batch
        for batch in batches[share.index :: share.count]
        if any(not _file(folder, GENERATED, entry).is_file() for entry in batch)
    ]
    if not todo:
        return
    model = load()
    positions = {key: position for position, key in enumerate(making.dataset.keys)}
    with progress(quiet=share.index > 0) as bar:
        task = bar.add_task("generated clips", total=sum(map(len, todo)))
        for batch in todo:
            records = _records(making.dataset, [positions[entry.key] for entry in batch], batch_size)
            for record, clip in zip(batch, sample_clips(model, records, making), strict=False):
                path = _file(folder, GENERATED, record)
                if not path.is_file():
                    write(path, clip.video, clip.frames_per_second, clip.sound, clip.sample_rate)
                bar.advance(task)


def _records(dataset: Dataset, positions: Sequence[int], batch_size: int) -> list[Sample]:
    """A whole batch: the last record fills up the places that are left."""
    records = [dataset[position] for position in positions]
    return records + [records[-1]] * (batch_size - len(records))


def sample_clips(model: Con360AV, records: Sequence[Sample], making: Making) -> Iterator[Clip]:
    """Generated clips of the records, decoded one by one."""
    captions = [record.caption if making.conditions.caption else "" for record in records]
    seeds = [clip_seed(record.entry, making.seed, making.noise) for record in records]
    maps = [_maps(model, record, making.conditions) for record in records] if making.conditions.control else None
    latents = model.sample_latents(
        model.noise(seeds),
        model.encode_text(captions),
        model.encode_text([""] * len(records)),
        None if maps is None else np.stack(maps),
        **_scales(making.sampler),
    )
    latents = jax.device_get(latents)
    for row, (record, caption, seed) in enumerate(zip(records, captions, seeds, strict=True)):
        yield Clip(
            video=model.codecs.decode_video(latents["video"][row]),
            sound=model.codecs.decode_sound(latents["audio"][row]),
            frames_per_second=model.config.clip.frames_per_second,
            sample_rate=model.config.mel.sample_rate,
            caption=caption,
            seed=seed,
            viewpoint=None if maps is None else record.arrays["viewpoint"],
            maps=None if maps is None else maps[row],
        )


def _maps(model: Con360AV, record: Sample, conditions: Conditions) -> np.ndarray:
    maps, _ = model.control(record.arrays["viewpoint"], record.arrays["saliency"] if conditions.saliency else None)
    if not conditions.basd:
        maps[..., 1] = 0
    return maps


def _scales(sampler: SamplerConfig) -> dict:
    """A sampler's settings as `sample_latents` takes them."""
    text, maps = sampler.text_guidance, sampler.map_guidance
    return {
        "steps": sampler.steps,
        "guidance": {"audio": text.audio, "video": text.video},
        "map_guidance": {"audio": maps.audio, "video": maps.video},
        "timestep_gamma": sampler.timestep_gamma,
    }


def files(folder: Path, side: str, entries: Sequence[SampleEntry]) -> list[Path]:
    """The clips' files of one side, "generated" or "targets"."""
    return [_file(folder, side, entry) for entry in entries]


def tidy(folder: Path) -> None:
    """Removes what files that were being written when a run was killed have left behind."""
    for side in (GENERATED, TARGETS):
        remove_leftovers(folder / side)


def _file(folder: Path, side: str, entry: SampleEntry) -> Path:
    return folder / side / f"{clip_name(entry.key)}.mp4"
