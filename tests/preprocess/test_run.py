"""Preprocessing from files to datasets: reading, segments, the ledger and every bad input."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.config.settings import ClipConfig, Config
from con360av_jax.data.schema import ENCODED_FIELDS, field_specs, validate
from con360av_jax.data.source import open_dataset
from con360av_jax.errors import MediaError
from con360av_jax.media.files import MediaInfo, write_clip
from con360av_jax.media.mel import log_mel
from preprocess.cli import main
from preprocess.inputs import search
from preprocess.running.pipeline import Ledger, Pipeline
from preprocess.stages.segment import cut, windows
from preprocess.stages.standardise import packing_of, standardise
from preprocess.stages.viewpoints import ViewpointSettings
from tests.support.bad_recordings import KINDS, made
from tests.support.panorama_files import standard_clip

RATE = 16_000


def picture(seconds: float = 2.0, height: int = 32, width: int = 64, frames_per_second: int = 8) -> np.ndarray:
    """Frames whose grey is 20 + 2 per frame, with a white patch that says up and left."""
    count = round(seconds * frames_per_second)
    video = np.empty((count, height, width, 3), np.uint8)
    video[...] = (20 + 2 * np.arange(count))[:, None, None, None]
    video[:, : height // 4, : width // 4] = 235
    return video


def noise(seconds: float = 2.0, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9000, 9000, (round(seconds * RATE), channels)).astype(np.int16)


def clip_file(path: Path, seconds: float = 2.0, height: int = 32, width: int = 64, channels: int = 1) -> Path:
    write_clip(path, picture(seconds, height, width), 8, noise(seconds, channels), RATE, lossless_audio=True)
    return path


def command(videos: Path, out: Path, *options: object) -> list[str]:
    """In this process alone."""
    return ["run", str(videos), "--out", str(out), "--workers", "0", *map(str, options)]


@pytest.mark.parametrize(
    ("duration", "starts"),
    [
        (10.0, [0, 3, 6]),
        (10.04, [0, 3, 6]),
        (9.9, [0, 3, 6]),
        (9.8, [0, 3]),
        (4.0, [0]),
        (3.9, [0]),
        (13.0, [0, 3, 6, 9]),
    ],
)
def test_windows_cover_the_clip_with_one_second_of_overlap(duration: float, starts: list[int]):
    found = windows(standard_clip(Path("a.mp4"), duration=duration), ClipConfig())
    assert [window.start for window in found] == starts
    assert [window.index for window in found] == list(range(len(starts)))


@pytest.mark.parametrize(
    ("width", "height", "stereo", "packing"),
    [
        (640, 320, "auto", "mono"),
        (1920, 1080, "auto", "mono"),
        (1920, 852, "auto", "mono"),
        (2048, 2048, "auto", "top-bottom"),
        (4096, 1024, "auto", "side-by-side"),
        (1920, 1080, "top-bottom", "top-bottom"),
        (1920, 1080, "side-by-side", "side-by-side"),
        (640, 480, "auto", None),
        (1080, 1920, "auto", None),
        (2400, 900, "auto", None),
        (2048, 2048, "mono", None),
    ],
)
def test_the_aspect_says_how_eyes_are_packed_or_that_it_is_no_panorama(width, height, stereo, packing):
    info = MediaInfo(
        path=Path("a.mp4"),
        duration=1.0,
        width=width,
        height=height,
        frames_per_second=8.0,
        video_codec="h264",
        sample_rate=RATE,
        channels=1,
        audio_codec="aac",
    )
    if packing is None:
        with pytest.raises(MediaError, match=f"{width}x{height}"):
            packing_of(info, stereo)
    else:
        assert packing_of(info, stereo) == packing


def test_pictures_are_chosen_by_timestamps_from_the_start_of_the_segment(tiny: Config, tmp_path: Path):
    path = tmp_path / "a.mp4"
    write_clip(path, picture(3, frames_per_second=30), 30, noise(3), RATE)
    window = windows(standardise(path, "a", tiny), tiny.clip)[1]
    frames = cut(window, tiny).frames
    assert frames.shape == (4, 32, 64, 3)
    shown = (frames[:, 16:, 32:].mean(axis=(1, 2, 3)) - 20) / 2
    wanted = [np.floor((1 + k / 4) * 30 + 1e-6) for k in range(4)]
    np.testing.assert_allclose(shown, wanted, atol=0.9)


def test_mono_is_exactly_channel_w_of_ambisonics_and_the_mean_of_stereo(tiny: Config, tmp_path: Path):
    for channels in (4, 2):
        path = clip_file(tmp_path / f"{channels}.mp4", channels=channels)
        segment = cut(windows(standardise(path, "a", tiny), tiny.clip)[1], tiny)
        sound = noise(channels=channels)[RATE : 2 * RATE].astype(np.float32) / 32768
        wanted = sound[:, 0] if channels == 4 else sound.mean(axis=1, dtype=np.float32)
        np.testing.assert_array_equal(segment.audio, wanted)


@pytest.mark.parametrize(("height", "width", "packing"), [(64, 64, "top-bottom"), (32, 128, "side-by-side")])
def test_one_eye_of_stereo_pictures_is_used_whole(tiny: Config, tmp_path: Path, height: int, width: int, packing: str):
    eye = picture(2)
    black = np.zeros_like(eye)
    path = tmp_path / "a.mp4"
    write_clip(path, np.concatenate([eye, black], axis=1 if packing == "top-bottom" else 2), 8, noise(), RATE)
    clip = standardise(path, "a", tiny)
    assert (clip.packing, clip.height) == (packing, 32)
    np.testing.assert_allclose(cut(windows(clip, tiny.clip)[0], tiny).frames[0].astype(int), eye[0], atol=12)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].segment is None and kind != "folder"])
def test_a_bad_input_gives_one_line_exit_code_2_and_nothing_half_written(kind, config_path, tmp_path, capfd):
    place = tmp_path / "videos"
    place.mkdir()
    path, line = made(kind, place)
    assert main(command(path, tmp_path / "deep" / "out", "--config", config_path, "--previews")) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert str(line["reason"]) in lines[0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["videos"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--viewpoints", "0"], "viewpoints is 0"),
        (["--panorama-height", "63"], "--panorama-height is 63; give 64 or more"),
        (["--view-height", "-5"], "--view-height is -5; give 64 or more"),
        (["--config", "no_such_config"], "no_such_config"),
        (["--colour", "red"], "--colour"),
        (["--split", "half"], "half"),
        (["--max-clips", "0"], "--max-clips"),
        (["--base", "no_such_folder"], "no_such_folder"),
    ],
)
def test_a_wrong_option_gives_one_line_and_exit_code_2(arguments, reason, config_path, tmp_path, capfd):
    (tmp_path / "a.mp4").touch()
    given = command(tmp_path / "a.mp4", tmp_path / "out")
    chosen = arguments if "--config" in arguments else [*arguments, "--config", str(config_path)]
    assert main([*given, *chosen]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert reason in line
    assert not (tmp_path / "out").exists()


def test_bad_inputs_of_a_folder_are_in_the_ledger_and_good_ones_in_the_dataset(tiny, config_path, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    clip_file(videos / "good.mp4", channels=4)
    bad = [made(kind, videos)[0] for kind in ("no sound", "square", "short", "not a video", "truncated")]
    for out in ("one", "two"):
        given = command(videos, tmp_path / out, "--config", config_path)
        assert main([*given, "--viewpoints", "2", "--previews"]) == 0
    dataset = open_dataset(tmp_path / "one")
    assert list(dataset.keys) == ["good/0/0", "good/0/1", "good/1/0", "good/1/1"]
    sample = dataset.find(clip="good", segment=1, viewpoint=0)
    assert sample.start == 1.0
    np.testing.assert_array_equal(sample.arrays["sound"], noise(channels=4)[RATE:, 0])
    mel = log_mel(sample.arrays["sound"].astype(np.float32) / 32768, tiny.mel)
    np.testing.assert_array_equal(sample.arrays["mel"], mel)
    assert sample.arrays["video"].shape == (4, 16, 16, 3)
    lines = [json.loads(line) for line in (tmp_path / "one" / "rejected.jsonl").read_text().splitlines()]
    assert {Path(line["file"]).name for line in lines} == {path.name for path in bad}
    assert all(line["stage"] in ("standardise", "segment") and line["reason"] for line in lines)
    assert sorted(path.name for path in (tmp_path / "one" / "previews").iterdir()) == ["good_0.jpg", "good_1.jpg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two", "videos"]
    assert dataset.manifest.shards == open_dataset(tmp_path / "two").manifest.shards


class CountingEncoder:
    """Encodings of the right shapes that say how often each caption came."""

    fields: tuple[str, ...] = ENCODED_FIELDS

    def __init__(self, config: Config):
        self.specs = field_specs(config)
        self.captions: list[str] = []

    def __call__(self, view: np.ndarray, mel: np.ndarray, caption: str) -> dict[str, np.ndarray]:
        self.captions.append(caption)
        return {name: np.full(self.specs[name].shape, len(self.captions), np.float32) for name in self.fields}


@pytest.mark.parametrize("keep_raw", [False, True])
def test_encoded_samples_hold_latents_and_maps_and_raw_arrays_only_if_kept(
    chain: Pipeline, tmp_path: Path, keep_raw: bool
):
    (given,) = search([clip_file(tmp_path / "a.mp4")]).inputs
    encoder = CountingEncoder(chain.config)
    viewpoints = ViewpointSettings(count=2, moving=True)
    pipeline = replace(chain, encoder=encoder, viewpoints=viewpoints, keep_raw=keep_raw)
    ledger = Ledger()
    samples = list(pipeline.samples([given], ledger))
    assert (len(samples), ledger.rejected, ledger.segments) == (4, [], {"a": 2})
    for number, sample in enumerate(samples, start=1):
        validate(sample, chain.config, pipeline.fields)
        assert ("video" in sample.arrays) == keep_raw
        assert sample.arrays["clap_text"][0] == number
    assert encoder.captions == [sample.caption for sample in samples]


def test_an_existing_dataset_is_never_overwritten(config_path, tmp_path, capfd):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    given = command(clip_file(tmp_path / "a.mp4"), tmp_path / "out", "--config", config_path)
    assert main(given) == 2
    assert "has no manifest.json" in capfd.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("name", "segments"), [("alcatraz_mono_t00", 3), ("congo_stereo_t00", 3), ("overpass_stereo_4s", 1)]
)
def test_real_clips_give_their_segments(shared_data: Path, tmp_path: Path, name: str, segments: int):
    given = command(shared_data / f"{name}.mp4", tmp_path / "out", "--panorama-height", "128")
    assert main([*given, "--config", "debug", "--viewpoints", "1"]) == 0
    dataset = open_dataset(tmp_path / "out")
    assert list(dataset.keys) == [f"{name}/{segment}/0" for segment in range(segments)]
    assert all(np.ptp(dataset[number].arrays["saliency"]) == 1 for number in range(segments))
