"""Segments: views come from the recording's own resolution, whatever saliency and captions are reduced to."""

import gc
import pickle
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from con360av_jax.config.settings import Config
from con360av_jax.media.files import read_frames
from preprocess.stages.segment import Cutter, Segment, cut, windows
from preprocess.stages.standardise import standardise
from preprocess.stages.views import render_tracks
from tests.support.panorama_files import hiss, write_panorama
from tests.support.tiny_world import with_part

HEIGHT = 256
TIMES = tuple(np.arange(0, 2.9, 0.25))
AHEAD = np.radians(np.array([0.0, 0.0, 45.0, 45.0]))


def striped() -> np.ndarray:
    """A panorama of vertical stripes of two columns each, 1.4 degrees: a column of 64 rows covers two of them."""
    columns = np.where(np.arange(2 * HEIGHT) // 2 % 2, 200, 50)
    return np.broadcast_to(columns[None, :, None], (HEIGHT, 2 * HEIGHT, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("striped") / "a.mkv"
    return write_panorama(path, times=TIMES, pictures=[striped()] * len(TIMES), sound=hiss(3.0))


def segment_of(path: Path, config: Config, panorama_height: int, view_height: int = 1920) -> Segment:
    clip = standardise(path, "a", config, panorama_height, view_height=view_height)
    return cut(windows(clip, config.clip)[0], config)


def view(segment: Segment, config: Config) -> np.ndarray:
    """Middle row of the view ahead in the first frame."""
    panoramas = np.stack(list(segment.view_panoramas(config)))
    return render_tracks(panoramas[:1], [AHEAD[None]], 64, 64)[0][0, 32, :, 0].astype(float)


def test_a_view_shows_what_only_the_recordings_own_resolution_holds(recording: Path, tiny: Config):
    segment = segment_of(recording, tiny, panorama_height=64)
    assert segment.frames.shape[1:3] == (64, 128)
    stripes = view(segment, tiny)
    assert stripes.max() > 180 and stripes.min() < 70
    longitude = np.degrees(np.arctan((2 * (np.arange(64) + 0.5) / 64 - 1) * np.tan(np.pi / 8)))
    bright = (longitude / 360 + 0.5) * 2 * HEIGHT // 2 % 2 == 1
    assert np.mean((stripes > 125) == bright) > 0.85
    reduced = view(segment_of(recording, tiny, panorama_height=64, view_height=64), tiny)
    assert reduced.max() - reduced.min() < 60


def test_larger_recordings_are_reduced_to_the_height_of_views(recording: Path, tiny: Config):
    segment = segment_of(recording, tiny, panorama_height=64, view_height=128)
    found = list(segment.view_panoramas(tiny))
    assert {panorama.shape for panorama in found} == {(128, 256, 3)}
    wanted = read_frames(recording, tiny.clip.frames_per_second, 0, tiny.clip.seconds, (128, 256))
    np.testing.assert_array_equal(found, wanted)


def test_smaller_recordings_are_decoded_to_one_size(recording: Path, tiny: Config):
    segment = segment_of(recording, tiny, panorama_height=512)
    assert not segment.sources
    np.testing.assert_array_equal(list(segment.view_panoramas(tiny)), segment.frames)


@pytest.mark.parametrize("view_height", [128, 1920])
def test_another_process_renders_the_same_views(recording: Path, tiny: Config, view_height: int):
    segment = segment_of(recording, tiny, panorama_height=64, view_height=view_height)
    sent = pickle.loads(pickle.dumps(segment))
    assert segment.sources and not sent.sources
    np.testing.assert_array_equal(list(sent.view_panoramas(tiny)), list(segment.view_panoramas(tiny)))


def test_windows_that_share_frames_are_those_cut_alone(recording: Path, tiny: Config):
    config = with_part(tiny, "clip", seconds=2, hop_seconds=1)
    clip = standardise(recording, "a", config, 64)
    other = replace(clip, name="b")
    parts = [*windows(clip, config.clip), windows(other, config.clip)[1]]
    assert len(parts) == 3
    with Cutter(config) as cutter:
        for window in parts:
            found, wanted = cutter(window), cut(window, config)
            np.testing.assert_array_equal(found.frames, wanted.frames)
            np.testing.assert_array_equal(found.audio, wanted.audio)
            np.testing.assert_array_equal(list(found.view_panoramas(config)), list(wanted.view_panoramas(config)))


def test_memory_does_not_grow_with_the_number_of_segments(recording: Path, tiny: Config):
    clip = standardise(recording, "a", tiny, 64)
    parts, counts = windows(clip, tiny.clip), []
    with Cutter(tiny) as cutter:
        for window in (*parts, *parts, *parts):
            assert cutter(window).sources
            counts.append(sum(type(thing) is av.VideoFrame for thing in gc.get_objects()))
    # Those of the last segment, and what the decoder holds.
    assert max(counts) <= 2 * tiny.clip.frames
