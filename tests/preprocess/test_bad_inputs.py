"""Every kind of bad input ends as its own line in the ledger, and never takes a good one with it."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.config.settings import Config
from con360av_jax.errors import ConfigError, MediaError
from con360av_jax.media.files import write_clip
from preprocess.captions.template import template_caption
from preprocess.inputs import search
from preprocess.running.pipeline import Ledger, Pipeline
from preprocess.saliency.contrast import ContrastSaliency
from preprocess.stages.encode import NoEncoder
from preprocess.stages.quality import Limits
from preprocess.stages.segment import cut, windows
from preprocess.stages.standardise import standardise
from preprocess.stages.viewpoints import ViewpointSettings
from tests.support.panorama_files import EVENLY, RATE, hiss, panorama, write_panorama

MEND = "give a video that a player can open"
AUDIO = "give a 360° video with audio"


def changed(where: slice, value: float | np.ndarray) -> np.ndarray:
    sound = hiss()
    sound[where] = value
    return sound


def noise_bytes(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def cut_off(path: Path) -> None:
    write_clip(path, np.stack([panorama(number) for number in range(16)]), 8, hiss(), RATE, lossless_audio=True)
    path.write_bytes(path.read_bytes()[:-20_000])


def cut_off_before_its_header(path: Path) -> None:
    """QuickTime's header comes last."""
    write_panorama(path, sound=hiss())
    path.write_bytes(path.read_bytes()[:-3000])


def square(path: Path) -> None:
    write_panorama(path, sound=hiss(), pictures=[panorama(number, 48) for number in range(16)])


def unknown_sound(path: Path) -> None:
    write_panorama(path, sound=hiss())
    path.write_bytes(path.read_bytes().replace(b"fl32", b"zzzz"))


def moved(path: Path) -> None:
    path.symlink_to(path.with_name("moved away"))


# Of each kind: how its file is made; its name's ending; the stage; the segment or None; the reason after the name.
Kind = tuple[Callable[[Path], object], str, str, int | None, str]
KINDS: dict[str, Kind] = {
    "not a video": (noise_bytes, ".mp4", "standardise", None, f"is not a media file, or is corrupt; {MEND}"),
    "truncated": (
        cut_off,
        ".mp4",
        "standardise",
        None,
        "is corrupt or cut off; give a complete file",
    ),
    "truncated before its header": (
        cut_off_before_its_header,
        ".mov",
        "standardise",
        None,
        f"is not a media file, or is corrupt; {MEND}",
    ),
    "no pictures": (
        lambda path: write_panorama(path, times=(), sound=hiss()),
        ".mkv",
        "standardise",
        None,
        "its video stream is empty; give a complete file",
    ),
    "no sound": (write_panorama, ".mkv", "standardise", None, f"has no audio stream; {AUDIO}"),
    "unknown sound": (unknown_sound, ".mov", "standardise", None, f"its audio is in an unknown codec; {MEND}"),
    "silent": (
        lambda path: write_panorama(path, sound=changed(slice(RATE, None), 0)),
        ".mkv",
        "segment",
        1,
        "the audio from 1 s on is silent (digital silence, the limit is -80 dBFS); give a video with audible sound",
    ),
    "not a number": (
        lambda path: write_panorama(path, sound=changed(slice(RATE + 5, RATE + 8), np.nan)),
        ".mkv",
        "segment",
        1,
        "3 samples of the audio from 1 s on are NaN or infinite; decode or record it again",
    ),
    "clipped": (
        lambda path: write_panorama(path, sound=changed(slice(0, RATE, 5), 1)),
        ".mkv",
        "segment",
        0,
        "the audio from 0 s on is clipped: 20.0% of it is at full scale, more than 1.0%; "
        "give a recording at a lower level",
    ),
    "channels": (
        lambda path: write_panorama(path, sound=hiss(channels=3), layout="3.0"),
        ".mkv",
        "standardise",
        None,
        "has 3 audio channels; give mono, stereo or ambisonics (4, 9 or 16 channels)",
    ),
    "square": (
        square,
        ".mkv",
        "standardise",
        None,
        "is 64x48, which is no 2:1 panorama (--stereo auto); give an equirectangular video, 2:1 or stretched to 16:9",
    ),
    "gap": (
        lambda path: write_panorama(path, times=(*EVENLY[:8], 1.0, 1.125, 1.75, 1.875), sound=hiss()),
        ".mkv",
        "segment",
        1,
        "has no new frame from 1.12 s to 1.75 s, a gap of more than 0.5 s; give a video without missing frames",
    ),
    "moved": (
        moved,
        ".mp4",
        "standardise",
        None,
        "is a link to a file that is not there; correct the link",
    ),
    "folder": (Path.mkdir, ".mp4", "standardise", None, "is not a file; give a video file such as an mp4"),
    "deleted": (lambda path: None, ".mp4", "standardise", None, "no such file; check the path"),
}


def pipeline(config: Config) -> Pipeline:
    return Pipeline(
        config=config,
        saliency=ContrastSaliency(),
        captions=template_caption,
        encoder=NoEncoder(),
        viewpoints=ViewpointSettings(count=1),
    )


def made(kind: str, folder: Path) -> tuple[Path, dict[str, object]]:
    """A file of that kind and the line it must leave."""
    make, ending, stage, segment, reason = KINDS[kind]
    path = folder / f"{kind}{ending}"
    make(path)
    line: dict[str, object] = {"file": str(path), "stage": stage, "reason": f"{path}: {reason}"}
    return path, line if segment is None else line | {"segment": segment}


def listing(folder: Path, names: list[str]) -> Path:
    path = folder / "clips.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["file"], *([name] for name in names)])
    return path


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_bad_file_leaves_one_line_that_says_where_and_why(tiny: Config, tmp_path: Path, kind: str):
    path, line = made(kind, tmp_path)
    inputs = search([listing(tmp_path, [path.name])]).inputs
    ledger = Ledger()
    samples = list(pipeline(tiny).samples(inputs, ledger))
    assert ledger.rejected == [line]
    # The other half of a file with one bad segment is used.
    assert [sample.segment for sample in samples] == ([] if "segment" not in line else [1 - int(str(line["segment"]))])


def test_among_all_kinds_of_bad_files_every_good_one_comes_out_and_nothing_is_lost(tiny: Config, tmp_path: Path):
    names, lines = [], []
    for number, kind in enumerate(KINDS):
        path, line = made(kind, tmp_path)
        write_panorama(tmp_path / f"good{number}.mkv", sound=hiss(channels=4), layout="quad")
        names += [path.name, f"good{number}.mkv"]
        lines.append(line)
    ledger = Ledger()
    done: list[str] = []
    inputs = search([listing(tmp_path, names)]).inputs
    samples = list(pipeline(tiny).samples(inputs, ledger, lambda given: done.append(given.name)))
    assert done == [Path(name).stem for name in names]
    assert ledger.rejected == lines
    halves = sum("segment" in line for line in lines)
    good = {f"good{number}": 2 for number in range(len(KINDS))}
    assert {clip: count for clip, count in ledger.segments.items() if clip in good} == good
    assert len(samples) == sum(ledger.segments.values()) == 2 * len(KINDS) + halves
    whole = {line["file"] for line in lines if "segment" not in line}
    assert len(whole) + len(ledger.segments) == len(inputs)


def test_a_file_that_vanishes_while_it_is_worked_on_loses_its_remaining_segments(tiny: Config, tmp_path: Path):
    path = write_panorama(tmp_path / "a.mkv", sound=hiss())
    ledger = Ledger()
    samples = pipeline(tiny).samples(search([path]).inputs, ledger)
    next(samples)
    path.unlink()
    assert list(samples) == []
    reason = f"{path}: no such file; check the path"
    assert ledger.rejected == [{"file": str(path), "stage": "segment", "reason": reason, "segment": 1}]


def test_a_folder_gives_its_dangling_links_too(tmp_path: Path):
    moved(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").mkdir()
    (tmp_path / "b.mp4" / "c.mp4").touch()
    assert [given.name for given in search([tmp_path]).inputs] == ["a", "c"]


@pytest.mark.parametrize(
    "times",
    [
        (0.03, *EVENLY[1:8], 1.0, 1.01, 1.3, 1.75, 1.8, 1.9),
        (*EVENLY[:8], 1.0, 1.45, 1.9),
        (*EVENLY[:5], *EVENLY[8:]),
    ],
)
def test_a_variable_rate_without_long_gaps_is_read_by_its_timestamps(tiny: Config, tmp_path: Path, times):
    path = write_panorama(tmp_path / "a.mkv", times=times, sound=hiss())
    clip = standardise(path, "a", tiny)
    for window in windows(clip, tiny.clip):
        shown = (cut(window, tiny).frames[:, 16:, 32:].mean(axis=(1, 2, 3)) - 20) / 5
        instants = window.start + np.arange(4) / 4
        wanted = [max(sum(time <= instant + 1e-6 for time in times) - 1, 0) for instant in instants]
        np.testing.assert_allclose(shown, wanted, atol=0.4)


def test_only_the_channels_that_are_used_are_judged(tiny: Config, tmp_path: Path):
    sound = hiss(channels=4)
    sound[:, 1:] = (1, np.nan, 0)
    clip = standardise(write_panorama(tmp_path / "a.mkv", sound=sound, layout="quad"), "a", tiny)
    np.testing.assert_array_equal(cut(windows(clip, tiny.clip)[1], tiny).audio, sound[RATE:, 0])


def test_stereo_whose_sides_cancel_is_silent(tiny: Config, tmp_path: Path):
    sound = hiss() * np.array([[1, -1]], np.float32)
    clip = standardise(write_panorama(tmp_path / "a.mkv", sound=sound, layout="stereo"), "a", tiny)
    with pytest.raises(MediaError, match="silent"):
        cut(windows(clip, tiny.clip)[0], tiny)


def test_limits_can_be_widened_and_must_make_sense(tiny: Config, tmp_path: Path):
    clip = standardise(write_panorama(tmp_path / "a.mkv", sound=hiss() / 10_000), "a", tiny)
    window = windows(clip, tiny.clip)[0]
    with pytest.raises(MediaError, match="-95 dBFS"):
        cut(window, tiny)
    assert cut(window, tiny, Limits(silence=-100)).audio.any()
    for wrong in ({"silence": 1.0}, {"clipped": 2.0}, {"picture_gap": 0.0}):
        with pytest.raises(ConfigError):
            Limits(**wrong)
