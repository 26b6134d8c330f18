"""No damage to a user's file leads to anything but an answer or an error that says what is wrong with the file."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from con360av_jax.errors import Con360Error
from convert.inspection import inspect_path
from preprocess.captions.given import file_caption
from preprocess.features.material import find_clips, read_clip
from preprocess.inputs import search
from preprocess.listing import describe
from preprocess.running.pipeline import Ledger, Pipeline
from tests.support.fuzz import damaged, media_files, text_files, weight_files

QUICK = range(24)
QUICK_TEXTS = range(24, 30)
MANY = range(30, 330)


def used(chain: Pipeline, path: Path) -> Iterator[str]:
    """Uses a recording as `list`, `run` and `features` do; yields every reason that they give."""
    (given,) = search([path]).inputs
    yield str(describe(given, path.parent, "auto")["problem"])
    ledger = Ledger()
    list(chain.samples([given], ledger))
    yield from (str(line["reason"]) for line in ledger.rejected)
    (source,), _ = find_clips(path)
    clip = read_clip(source, video=True, audio=True, frames_per_second=0)
    yield from (f"{path}: {reason}" for reason in (clip.no_video, clip.no_audio) if reason)


def check_media(chain: Pipeline, folder: Path, cases: range) -> None:
    path = folder / "damaged.mp4"
    for case, data in zip(cases, damaged(media_files(folder), cases), strict=True):
        path.write_bytes(data)
        for reason in used(chain, path):
            assert not reason or reason.startswith(f"{path}: "), (case, reason)


def check_texts(chain: Pipeline, folder: Path, cases: range) -> None:
    table, listed = folder / "table.csv", folder / "list.txt"
    (folder / "walk.mp4").touch()
    (given,) = search([folder / "walk.mp4"]).inputs
    captioned = replace(chain, captions=file_caption)
    for data in damaged(text_files(), cases):
        for path in (table, listed, folder / "captions.jsonl", folder / "walk.txt"):
            path.write_bytes(data)
        for use in (
            lambda: search([table]),
            lambda: search([folder], listed=listed),
            lambda: search([folder], published=folder),
            lambda: list(captioned.samples([given], Ledger())),
        ):
            try:
                use()
            except Con360Error as error:
                assert str(folder) in str(error) or "none of 1 videos" in str(error)


def check_weights(folder: Path, cases: range) -> None:
    contents = weight_files(folder)
    for case, data in zip(cases, damaged(contents, cases), strict=True):
        path = folder / ("damaged.safetensors" if case % len(contents) == 0 else "damaged.bin")
        path.write_bytes(data)
        try:
            inspect_path(path)
        except Con360Error as error:
            assert str(path) in str(error), case


def test_damaged_recordings_end_in_the_ledger_and_never_in_a_traceback(chain: Pipeline, tmp_path: Path):
    check_media(chain, tmp_path, QUICK)


def test_damaged_texts_and_weights_are_refused_by_name(chain: Pipeline, tmp_path: Path):
    check_texts(chain, tmp_path, QUICK_TEXTS)
    check_weights(tmp_path, QUICK_TEXTS)


@pytest.mark.slow
def test_hundreds_of_damaged_files_are_refused_by_name(chain: Pipeline, tmp_path: Path):
    check_media(chain, tmp_path, MANY)
    check_texts(chain, tmp_path, MANY)
    check_weights(tmp_path, MANY)
