"""Generated clips and their targets on disk; existing files are kept, and the result is that of one uninterrupted run.

Clips are generated in batches of one shape, each clip always in the same row beside the same other clips, so that its
bits do not depend on which clips existed before. Another batch size or mesh changes rounding only.

Audio is stored losslessly: AAC changes it by about a tenth and amplifies the rounding of another mesh to differences of
that size, so that distances between audio features would measure the codec. Both sides use the same H.264 for video.
"""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from con360av_jax.data.schema import Sample, SampleEntry
from con360av_jax.errors import MetricError
from con360av_jax.evaluate.selection import CLIPS, EvaluatedClip, clip_name, clip_seed, read_clips, write_clips
from con360av_jax.evaluate.settings import SETTINGS, Conditions, Making
from con360av_jax.media.files import write_clip
from con360av_jax.model import Con360AV
from con360av_jax.runtime.files import link_or_copy, replacing, write_text
from con360av_jax.sample import Clip, decode

GENERATED, TARGETS = "generated", "targets"
_LOOK_EVERY = 1.0  # s
write = partial(write_clip, lossless_audio=True)


@dataclass(frozen=True)
class Share:
    """Share of one process: its index and the number of processes. Each generates whole batches."""

    index: int = 0
    count: int = 1

    def wait_for(self, paths: Sequence[Path]) -> None:
        """Waits until all files exist; if another process dies, JAX ends this one."""
        missing = [path for path in paths if not path.is_file()]
        while missing:
            threading.Event().wait(_LOOK_EVERY)
            missing = [path for path in missing if not path.is_file()]


def progress(quiet: bool = False) -> Progress:
    """Progress bar on standard error for a known number of steps."""
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
    """Writes the view of each record to FOLDER/targets, then FOLDER/clips.jsonl; existing targets are not read again.

    Raises DatasetError if a record is corrupt, MediaError if a file cannot be written.
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


def share_clips(source: Path, folder: Path, protocol: str) -> None:
    """Gives `folder` the clips and targets of another evaluation, which was made alike but for its protocol.

    A folder that is already an evaluation stays as it is. Raises MetricError if `source` has no clips.
    """
    if (folder / SETTINGS).is_file():
        return
    if not (source / SETTINGS).is_file():
        raise MetricError(f"{source} is no evaluation (it has no {SETTINGS}): evaluate first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder, MetricError) as aside:
        aside.mkdir()
        for side in (GENERATED, TARGETS):
            shutil.copytree(source / side, aside / side, copy_function=link_or_copy)
        shutil.copy2(source / CLIPS, aside / CLIPS)
        settings = json.loads((source / SETTINGS).read_text(encoding="utf-8"))
        write_text(aside / SETTINGS, json.dumps(settings | {"protocol": protocol}, indent=2, ensure_ascii=False) + "\n")


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
    """Writes the missing clips of this process's share to FOLDER/generated; `load` is called only if there are any.

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
            records = [making.dataset[positions[entry.key]] for entry in batch]
            records += [records[-1]] * (batch_size - len(records))
            for record, clip in zip(batch, sample_clips(model, records, making), strict=False):
                path = _file(folder, GENERATED, record)
                if not path.is_file():
                    write(path, clip.video, clip.frames_per_second, clip.audio, clip.sample_rate)
                bar.advance(task)


def sample_clips(model: Con360AV, records: Sequence[Sample], making: Making) -> Iterator[Clip]:
    """Generates the clips of the records as one batch, decoded one by one."""
    captions = [record.caption if making.conditions.caption else "" for record in records]
    negative = making.negative_caption if making.conditions.caption else ""
    seeds = [clip_seed(record.entry, making.seed, making.noise) for record in records]
    maps = [_maps(model, record, making.conditions) for record in records] if making.conditions.control else None
    latents = model.sample_latents(
        model.noise(seeds),
        model.encode_text(captions),
        model.encode_text([negative] * len(records)),
        None if maps is None else np.stack(maps),
        steps=making.sampler.steps,
        guidance=asdict(making.sampler.text_guidance),
        map_guidance=asdict(making.sampler.map_guidance),
        saliency_guidance=asdict(making.sampler.saliency_guidance),
        timestep_gamma=making.sampler.timestep_gamma,
    )
    latents = jax.device_get(latents)
    for row, (record, caption, seed) in enumerate(zip(records, captions, seeds, strict=True)):
        yield decode(
            model.codecs,
            {name: latent[row] for name, latent in latents.items()},
            caption,
            seed,
            viewpoint=None if maps is None else record.arrays["viewpoint"],
            maps=None if maps is None else maps[row],
        )


def _maps(model: Con360AV, record: Sample, conditions: Conditions) -> np.ndarray:
    maps, _ = model.control(record.arrays["viewpoint"], record.arrays["saliency"] if conditions.saliency else None)
    if not conditions.basd:
        maps[..., 1] = 0
    return maps


def files(folder: Path, side: str, entries: Sequence[SampleEntry]) -> list[Path]:
    """Files of the clips of one side, "generated" or "targets"."""
    return [_file(folder, side, entry) for entry in entries]


def _file(folder: Path, side: str, entry: SampleEntry) -> Path:
    return folder / side / f"{clip_name(entry.key)}.mp4"
