"""Excerpts that a reader gives in one pass are those of the file opened anew, and what they share is decoded once."""

from pathlib import Path

import av
import numpy as np
import pytest

from con360av_jax.errors import MediaError
from con360av_jax.media import containers
from con360av_jax.media.files import read_frames
from con360av_jax.media.frame_reader import FrameReader
from con360av_jax.media.presentation import rgb
from tests.support.panorama_files import write_panorama

SECONDS, RATE, HOP = 4.0, 8.0, 3.0
# Windows of the base config in ten seconds, in which frames come at irregular times.
STARTS = (0.0, 3.0, 6.0)
TIMES = tuple(np.cumsum(np.random.default_rng(0).uniform(0.02, 0.11, 160)).round(3))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(1)
    pictures = [np.full((16, 32, 3), value, np.uint8) for value in random.integers(0, 256, len(TIMES))]
    return write_panorama(tmp_path_factory.mktemp("reader") / "a.mkv", times=TIMES, pictures=pictures)


def reader(path: Path, **options: float) -> FrameReader[np.ndarray]:
    return FrameReader(path, RATE, lambda frame, shown: rgb(frame, path, *shown), **options)


def read(source: FrameReader[np.ndarray], start: float, hop: float = HOP) -> np.ndarray:
    return np.stack(list(source.excerpt(start, SECONDS, keep_from=start + hop)))


def test_excerpts_in_order_are_those_of_the_file_opened_anew_and_it_is_opened_once(
    recording: Path, monkeypatch: pytest.MonkeyPatch
):
    wanted = [read_frames(recording, RATE, start, SECONDS) for start in STARTS]
    passes, decoded, real = [], [], containers.video_frames

    def counted(*arguments):
        passes.append(arguments)
        for entry in real(*arguments):
            decoded.append(entry[0])
            yield entry

    monkeypatch.setattr(containers, "video_frames", counted)
    with reader(recording) as source:
        for start, frames in zip(STARTS, wanted, strict=True):
            np.testing.assert_array_equal(read(source, start), frames)
    assert len(passes) == 1 and len(decoded) == len(set(decoded))


@pytest.mark.parametrize(
    "starts",
    [
        pytest.param((6.0, 0.0, 3.0), id="backwards"),
        pytest.param((0.0, 3.05), id="off the grid of the first one"),
        pytest.param((0.0, 2.0), id="before what is kept"),
        pytest.param((0.0, 5.5), id="behind a part that nobody reads"),
    ],
)
def test_other_excerpts_are_right_too(recording: Path, starts: tuple[float, ...]):
    with reader(recording) as source:
        for start in starts:
            np.testing.assert_array_equal(read(source, start), read_frames(recording, RATE, start, SECONDS))


def test_the_last_frame_goes_on_beyond_the_end(recording: Path):
    with reader(recording) as source:
        read(source, 3.0)
        late = read(source, 8.0, hop=0.0)
        again = read(source, 8.0)
    np.testing.assert_array_equal(late, again)
    np.testing.assert_array_equal(late[-1], read_frames(recording, RATE, TIMES[-1] - 0.01, 0.1)[-1])


def test_a_gap_fails_its_own_excerpts_only(tmp_path: Path):
    times = [*np.arange(0, 3.5, 0.125), *np.arange(5, 12, 0.125)]
    path = write_panorama(tmp_path / "a.mkv", times=times, pictures=[np.zeros((16, 32, 3), np.uint8)] * len(times))
    with reader(path, longest_gap=0.5) as source:
        for start in (0.0, 3.0):
            with pytest.raises(MediaError, match=r"no new frame from 3\.38 s to "):
                read(source, start)
        assert len(read(source, 6.0)) == 32


def test_what_a_file_is_to_blame_for_names_it(recording: Path, tmp_path: Path):
    broken = tmp_path / "broken.mkv"
    broken.write_text("no video")
    with reader(broken) as source, pytest.raises(MediaError, match=f"{broken}: is not a media file"):
        read(source, 0.0)
    with pytest.raises(MediaError, match="positive rate"):
        FrameReader(recording, 0.0, lambda frame, shown: frame)


def test_pictures_are_made_once_for_each_decoded_frame(tmp_path: Path):
    path, made = write_panorama(tmp_path / "a.mkv", times=(0, 0.5, 1.0)), []

    def picture(frame: av.VideoFrame, shown: tuple[int, int]) -> float:
        made.append(frame.time)
        return float(frame.time or 0)

    with FrameReader(path, RATE, picture) as source:
        assert list(source.excerpt(0.0, 1.5)) == [0.0] * 4 + [0.5] * 4 + [1.0] * 4
    assert made == [0.0, 0.5, 1.0]
