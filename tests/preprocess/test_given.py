"""What users give beside their videos: saliency maps, captions, folders, splits; and the caption made without any."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.config.settings import Config
from con360av_jax.errors import DatasetError, MediaError
from preprocess.captions.given import file_caption
from preprocess.captions.template import template_caption
from preprocess.inputs import search, split_of
from preprocess.saliency.given import FileSaliency
from preprocess.stages.segment import Segment, Window
from tests.support.panorama_files import standard_clip


@pytest.fixture
def segment() -> Segment:
    window = Window(clip=standard_clip(Path("walk.mp4")), index=1, start=1.0)
    return Segment(window=window, frames=np.full((4, 32, 64, 3), 90, np.uint8), audio=np.zeros(16_000, np.float32))


def test_users_maps_are_cut_at_the_segments_time(tiny: Config, segment: Segment, tmp_path: Path):
    maps = np.random.default_rng(0).uniform(size=(8, 16, 32)).astype(np.float32)
    np.save(tmp_path / "walk.npy", maps)
    given = FileSaliency(tmp_path)(segment, tiny)
    wanted = maps[4:8]
    np.testing.assert_allclose(given, (wanted - wanted.min()) / np.ptp(wanted), atol=1e-6)
    np.savez(tmp_path / "walk.npz", saliency=maps)
    (tmp_path / "walk.npy").unlink()
    np.testing.assert_array_equal(FileSaliency(tmp_path)(segment, tiny), given)


@pytest.mark.parametrize(
    ("maps", "reason"),
    [
        (None, "no saliency for clip 'walk'"),
        (np.zeros((5, 16, 32)), "has 5 maps"),
        (np.zeros((8, 16, 16)), "shape"),
        (np.full((8, 16, 32), np.nan), "NaN"),
        (np.array(["a"], dtype=object), "no array file"),
    ],
)
def test_users_maps_that_do_not_fit_say_why(tiny: Config, segment: Segment, tmp_path: Path, maps, reason: str):
    if maps is not None:
        np.save(tmp_path / "walk.npy", maps)
    with pytest.raises(DatasetError, match=reason):
        FileSaliency(tmp_path)(segment, tiny)


def test_captions_come_from_the_text_beside_the_video_or_the_listing(segment: Segment, tmp_path: Path):
    clip = standard_clip(tmp_path / "walk.mp4")
    segment = replace(segment, window=replace(segment.window, clip=clip))
    with pytest.raises(DatasetError, match="has no caption"):
        file_caption(segment, [])
    (tmp_path / "captions.jsonl").write_text('{"file": "walk.mp4", "caption": "A walk  in town."}\n')
    assert file_caption(segment, []) == "A walk in town."
    (tmp_path / "walk.txt").write_text("A walk at night.\n")
    assert file_caption(segment, []) == "A walk at night."


def test_a_damaged_listing_of_captions_names_its_line(segment: Segment, tmp_path: Path):
    segment = replace(segment, window=replace(segment.window, clip=standard_clip(tmp_path / "walk.mp4")))
    (tmp_path / "captions.jsonl").write_text('{"file": "walk.mp4", "caption": "A walk."}\n{"file": 3}\n')
    with pytest.raises(DatasetError, match="line 2"):
        file_caption(segment, [])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_captions_are_the_same_however_they_were_saved(segment: Segment, tmp_path: Path, encoding: str):
    segment = replace(segment, window=replace(segment.window, clip=standard_clip(tmp_path / "walk.mp4")))
    other, own = "One.\u2028Two.\x85", "\ufeffA\u2028walk.\x85"
    lines = f'{{"file": "a.mp4", "caption": "{other}"}}\r\n{{"file": "walk.mp4", "caption": "{own}"}}\r\n'
    (tmp_path / "captions.jsonl").write_text(lines, encoding=encoding, newline="")
    assert file_caption(segment, []) == "A walk."
    (tmp_path / "walk.txt").write_text("A child’s\r\nvoice.", encoding=encoding, newline="")
    assert file_caption(segment, []) == "A child’s voice."


def test_captions_in_another_encoding_are_refused_by_name(segment: Segment, tmp_path: Path):
    segment = replace(segment, window=replace(segment.window, clip=standard_clip(tmp_path / "walk.mp4")))
    for name in ("captions.jsonl", "walk.txt"):
        (tmp_path / name).write_text('{"file": "walk.mp4", "caption": "A child’s voice."}', encoding="cp1252")
        with pytest.raises(DatasetError, match=f"{name}: is not text in UTF-8 .*; save it as UTF-8"):
            file_caption(segment, [])


def test_the_template_states_what_was_measured(segment: Segment):
    left = np.tile(np.radians([-95.0, 0, 90, 90]), (4, 1))
    up = np.tile(np.radians([0.0, 70, 90, 90]), (4, 1))
    dark = replace(segment, frames=np.zeros((4, 32, 64, 3), np.uint8))
    assert template_caption(dark, [left, up, left]) == (
        "A dark 360° scene with little motion and no sound; the eye is drawn to the left and above."
    )
    flicker = np.zeros((4, 32, 64, 3), np.uint8)
    flicker[::2] = 255
    loud = replace(segment, frames=flicker, audio=np.ones(16_000, np.float32))
    assert "strong motion and loud sound" in template_caption(loud, [left])


def test_clips_of_one_video_share_a_split_and_the_shares_are_as_promised():
    assert len({split_of(f"abc_{start}") for start in range(0, 100, 10)}) == 1
    share = np.mean([split_of(f"video{number}_0") == "validation" for number in range(2000)])
    assert share == pytest.approx(0.15, abs=0.03)


def test_inputs_are_sorted_named_apart_and_limited_to_the_list(tmp_path: Path):
    for name in ("b/a.mp4", "a.MOV", "c.mp4", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [given.name for given in search([tmp_path]).inputs] == ["a", "a~2", "c"]
    listing = tmp_path / "list.txt"
    listing.write_text("c\nunknown\n")
    assert [given.name for given in search([tmp_path], listed=listing).inputs] == ["c"]
    assert len(search([tmp_path], most=1).inputs) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="holds no video"):
        search([tmp_path / "empty"])
