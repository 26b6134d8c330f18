"""Stages can be sent to other processes, alone or in groups, and do there what they do here."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.media.files import write_clip
from preprocess.inputs import search
from preprocess.running.engine import Engine, Workers
from preprocess.running.pipeline import Pipeline
from preprocess.stages.viewpoints import ViewpointSettings
from preprocess.stages.work import Stage, Work, chained


def folder_of_videos(folder: Path) -> Path:
    """Two clips of two segments, and a file that is none."""
    random = np.random.default_rng(0)
    for number in range(2):
        frames = random.integers(0, 255, (16, 32, 64, 3)).astype(np.uint8)
        sound = random.integers(-9000, 9000, 32_000).astype(np.int16)
        write_clip(folder / f"clip{number}.mp4", frames, 8, sound, 16_000, lossless_audio=True)
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


def test_groups_of_stages_in_processes_of_their_own_make_the_same_samples(chain: Pipeline, tmp_path: Path):
    videos = folder_of_videos(tmp_path)
    chain = replace(chain, viewpoints=ViewpointSettings(count=2))
    inputs = [Work(given=given, number=number) for number, given in enumerate(search([videos]).inputs)]
    stages = tuple(
        # As if saliency and captions wanted a GPU.
        replace(stage, on_gpu=stage.name in ("saliency", "captions"))
        for stage in chain.stages()
    )
    groups = Engine(workers=1, gpus_per_stage=1)._groups(stages)  # noqa: SLF001
    assert [on_gpu for on_gpu, _ in groups] == [False, True, False, True, False]
    rows = [{"work": pickle.dumps(work)} for work in inputs]
    for _, group in groups:
        workers = Workers()
        workers.stages = group
        rows = [{"work": batch["work"][0]} for row in rows for batch in workers({"work": [row["work"]]})]
    there = [pickle.loads(row["work"]) for row in rows]
    here = list(chained(chain.stages(), inputs))
    assert [(work.name, work.rejection) for work in there] == [(work.name, work.rejection) for work in here]
    for one, other in zip(there, here, strict=True):
        for left, right in zip(one.samples, other.samples, strict=True):
            assert left.entry == right.entry
            assert all(np.array_equal(left.arrays[name], right.arrays[name]) for name in right.arrays)


class StaysHere:
    """A backend that cannot be sent, as one on a GPU that another process does not have."""

    fields: tuple[str, ...] = ()

    def __call__(self, *_: object) -> np.ndarray:
        return np.zeros((4, 16, 32), np.float32)

    def __reduce__(self) -> tuple:
        raise TypeError("sent away")


def test_a_stage_takes_no_other_stages_backend_along(chain: Pipeline):
    cloudpickle = pytest.importorskip("cloudpickle")
    chain = replace(chain, saliency=StaysHere(), encoder=StaysHere())
    kept = {stage.name for stage in chain.stages() if not can_be_sent(cloudpickle, stage)}
    assert kept == {"saliency", "encode"}


def can_be_sent(cloudpickle, stage: Stage) -> bool:
    try:
        cloudpickle.dumps(stage)
    except TypeError:
        return False
    return True
