"""How a file is read: its metadata, the stretch to 2:1, one eye, channel W, and one clock for picture and sound."""

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from con360av_jax.config.settings import Config
from con360av_jax.errors import MediaError
from con360av_jax.media.files import probe, read_audio
from preprocess.inputs import search
from preprocess.listing import describe
from preprocess.stages.quality import FULL_SCALE, Limits
from preprocess.stages.segment import cut, windows
from preprocess.stages.standardise import check_streams, read_mono, standardise
from tests.support.panorama_files import RATE, hiss, read_panoramas, standard_clip, write_panorama
from tests.support.spherical_boxes import PART, WHOLE, add_metadata, first_version, projection, stereo
from tests.support.turned_files import TURNS, corners, display_matrix, quarters

EQUIRECTANGULAR = projection(b"equi", WHOLE)


def squeezed(path: Path) -> Path:
    """A 16:9 picture whose upper half alone has a patch: two eyes if one above the other, and if not, one."""
    return write_panorama(path, sound=hiss(), height=36)


@pytest.mark.parametrize(
    ("picture", "track", "projected", "packed"),
    [
        (b"", b"", "", ""),
        (EQUIRECTANGULAR, b"", "equirectangular", ""),
        (stereo(0) + EQUIRECTANGULAR, b"", "equirectangular", "mono"),
        (stereo(1) + EQUIRECTANGULAR, b"", "equirectangular", "top-bottom"),
        (stereo(2) + EQUIRECTANGULAR, b"", "equirectangular", "side-by-side"),
        (b"", first_version("mono"), "equirectangular", "mono"),
        (b"", first_version("top-bottom"), "equirectangular", "top-bottom"),
        (b"", first_version("left-right"), "equirectangular", "side-by-side"),
        (projection(b"equi", PART), b"", "equirectangular part", ""),
        (projection(b"equi", WHOLE, (0.1, 0, -0.1)), b"", "equirectangular", ""),
        (
            projection(b"equi", WHOLE, (-90, 0, 180)),
            b"",
            "equirectangular posed at yaw -90°, pitch 0°, roll 180°",
            "",
        ),
        (projection(b"cbmp", bytes(8)), b"", "cubemap", ""),
        (projection(b"mshp", bytes(12)), b"", "mesh", ""),
        (projection(b"mshp", bytes(12)), first_version("mono"), "mesh", "mono"),
        (projection(b"abcd", b""), b"", "abcd", ""),
        (b"", first_version("mono", ProjectionType="cubemap"), "cubemap", ""),
        (
            b"",
            first_version("mono", CroppedAreaImageWidthPixels="960", FullPanoWidthPixels="1920"),
            "equirectangular part",
            "mono",
        ),
        (
            b"",
            first_version("mono", CroppedAreaImageWidthPixels="1920", FullPanoWidthPixels="1920"),
            "equirectangular",
            "mono",
        ),
    ],
)
def test_spherical_metadata_of_mp4_are_read_in_both_versions(tmp_path: Path, picture, track, projected, packed):
    path = squeezed(tmp_path / "a.mov")
    add_metadata(path, picture, track)
    info = probe(path)
    assert (info.projection, info.stereo) == (projected, packed)


def test_stereo_modes_of_matroska_and_h264_are_read(tmp_path: Path):
    given = write_panorama(tmp_path / "a.mkv", sound=hiss(), metadata={"stereo_mode": "top_bottom"})
    assert probe(given).stereo == "top-bottom"
    given = write_panorama(tmp_path / "b.mkv", sound=hiss(), x264="frame-packing=3")
    assert probe(given).stereo == "side-by-side"


def test_probe_tells_the_streams_and_the_layout_of_channels(tmp_path: Path):
    # FFmpeg knows no loudspeakers of Matroska's PCM and only says how many channels there are.
    info = probe(write_panorama(tmp_path / "a.mkv", sound=hiss(channels=4), layout="quad"))
    assert (info.streams, info.layout, info.channels) == (("video", "audio"), "4 channels", 4)
    info = probe(write_panorama(tmp_path / "b.mkv"))
    assert (info.streams, info.layout, info.channels) == (("video",), "", 0)


def test_metadata_tell_what_the_aspect_cannot_and_an_option_overrules_them(tiny: Config, tmp_path: Path):
    path = squeezed(tmp_path / "a.mov")
    assert standardise(path, "a", tiny).packing == "mono"
    add_metadata(path, stereo(1) + EQUIRECTANGULAR)
    clip = standardise(path, "a", tiny)
    assert (clip.packing, clip.height) == ("top-bottom", 18)
    frames = cut(windows(clip, tiny.clip)[0], tiny).frames
    assert frames.shape[1:3] == (18, 36)
    # The patch covers the upper half of the upper eye.
    assert frames[0, 2:7, 2:7].mean() > 200
    assert frames[0, 11:].mean() < 60
    assert standardise(path, "a", tiny, stereo="mono").packing == "mono"


def test_one_eye_by_metadata_in_a_picture_of_two_is_left_out_unless_an_option_settles_it(tiny: Config, tmp_path: Path):
    path = write_panorama(tmp_path / "a.mov", sound=hiss(), height=64)
    assert standardise(path, "a", tiny).packing == "top-bottom"
    add_metadata(path, stereo(0) + EQUIRECTANGULAR)
    with pytest.raises(MediaError, match=r"64x64, which is no 2:1 panorama \(mono, by its metadata\)"):
        standardise(path, "a", tiny)
    assert standardise(path, "a", tiny, stereo="top-bottom").packing == "top-bottom"


@pytest.mark.parametrize(
    ("given", "named", "command"),
    [
        (projection(b"equi", PART), "equirectangular part", "hequirect"),
        (projection(b"cbmp", bytes(8)), "cubemap", "c3x2"),
        (projection(b"equi", WHOLE, (0, 180, 0)), "equirectangular posed at yaw 0°, pitch 180°, roll 0°", "e"),
        (projection(b"mshp", bytes(12)), "mesh", "eac"),
    ],
)
def test_what_is_not_the_whole_sphere_in_equirectangular_projection_is_left_out_by_name(
    tiny: Config, tmp_path: Path, given, named: str, command: str
):
    path = write_panorama(tmp_path / "a.mov", sound=hiss())
    add_metadata(path, given)
    wanted = f"its projection is {named}, by its metadata; convert it to an equirectangular panorama .*v360={command}:e"
    with pytest.raises(MediaError, match=wanted):
        standardise(path, "a", tiny)
    (row,) = (describe(given, tmp_path, "auto") for given in search([path]).inputs)
    assert re.search(wanted, str(row["problem"]))


def test_a_mesh_in_matroska_is_named(tmp_path: Path):
    path = write_panorama(tmp_path / "a.mkv", sound=hiss(), matrix=display_matrix(*TURNS["180"][0]))
    assert probe(path).projection in ("", "rectilinear")
    # The muxer writes ProjectionPoseRoll, eleven bytes, whose place ProjectionType 3 and an element Void take.
    data = path.read_bytes()
    at = data.index(b"\x76\x75\x88")
    path.write_bytes(data[:at] + b"\x76\x71\x81\x03" + b"\xec\x85" + bytes(5) + data[at + 11 :])
    assert probe(path).projection == "mesh"


@pytest.mark.parametrize("turn", list(TURNS))
def test_a_panorama_is_judged_and_decoded_as_it_is_shown(tiny: Config, tmp_path: Path, turn: str):
    matrix, undone = TURNS[turn]
    stored = np.ascontiguousarray(undone(corners()))
    path = write_panorama(tmp_path / "a.mov", pictures=[stored] * 16, sound=hiss(), matrix=display_matrix(*matrix))
    clip = standardise(path, "a", tiny)
    assert (clip.packing, clip.height) == ("mono", 32)
    frame = cut(windows(clip, tiny.clip)[0], tiny).frames[0]
    np.testing.assert_array_equal(quarters(frame), quarters(corners()))


@pytest.mark.parametrize(
    ("eyes", "size", "pixel_aspect", "packing", "height"),
    [
        ("one", (48, 48), Fraction(2), "mono", 48),
        ("one", (48, 64), Fraction(3, 2), "mono", 48),
        ("one", (36, 64), Fraction(9, 8), "mono", 36),
        ("above", (36, 64), Fraction(9, 16), "top-bottom", 32),
        ("beside", (36, 64), Fraction(9, 4), "side-by-side", 36),
    ],
)
def test_eyes_are_counted_in_square_pixels(tiny: Config, tmp_path: Path, eyes, size, pixel_aspect, packing, height):
    whole = {"one": corners(), "above": np.tile(corners(), (2, 1, 1)), "beside": np.tile(corners(), (1, 2, 1))}[eyes]
    stored = cv2.resize(whole, size[::-1])
    path = write_panorama(tmp_path / "a.mp4", pictures=[stored] * 16, pixel_aspect=pixel_aspect)
    info = replace(probe(path), channels=1, audio_codec="aac")
    assert check_streams(info, "auto") == packing
    clip = replace(standard_clip(path, height), packing=packing)
    frame = read_panoramas(clip, 0, 0.125, 8)[0]
    assert frame.shape == (height, 2 * height, 3)
    np.testing.assert_array_equal(quarters(frame), quarters(corners()))


def test_eyes_that_alternate_cannot_be_separated(tiny: Config, tmp_path: Path):
    path = write_panorama(tmp_path / "a.mkv", sound=hiss(), height=36, x264="frame-packing=5")
    with pytest.raises(MediaError, match="frame sequence"):
        standardise(path, "a", tiny)


def test_a_message_of_two_eyes_left_over_from_before_one_was_cropped_is_not_believed(
    tiny: Config, tmp_path: Path, shared_data: Path
):
    path = write_panorama(tmp_path / "a.mkv", sound=hiss(), x264="frame-packing=4")
    assert (probe(path).stereo, standardise(path, "a", tiny).packing) == ("top-bottom", "mono")
    real = shared_data / "congo_stereo_t00.mp4"
    assert (probe(real).stereo, standardise(real, "a", tiny).packing) == ("top-bottom", "mono")


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (852, 1920)])
def test_real_sizes_are_stretched_to_two_to_one(tiny: Config, tmp_path: Path, height: int, width: int):
    columns = np.linspace(0, 255, width)[None, :] * np.ones((height, 1))
    rows = np.linspace(0, 255, height)[:, None] * np.ones((1, width))
    picture = np.stack([columns, rows, np.full((height, width), 128.0)], axis=-1).astype(np.uint8)
    path = write_panorama(tmp_path / "a.mkv", times=(0, 0.4, 0.8, 1), sound=hiss(1.2), pictures=[picture] * 4)
    frames = cut(windows(standardise(path, "a", tiny, panorama_height=128), tiny.clip)[0], tiny).frames
    assert frames.shape == (4, 128, 256, 3)
    # Both gradients run from edge to edge, so nothing was cropped and nothing padded.
    np.testing.assert_allclose(frames[0, 64, :, 0], np.linspace(0, 255, 256), atol=8)
    np.testing.assert_allclose(frames[0, :, 128, 1], np.linspace(0, 255, 128), atol=8)


@pytest.mark.parametrize("delay", [0.0, 0.03])
def test_picture_and_sound_stay_together_to_the_millisecond(tiny: Config, tmp_path: Path, delay: float):
    clap = 1.23
    times = [delay + number / 100 for number in range(int((2 - delay) * 100))]
    pictures = [np.full((32, 64, 3), 235 if time > clap - 1e-6 else 16, np.uint8) for time in times]
    sound = np.zeros((2 * RATE, 1), np.float32)
    sound[round(clap * RATE) :] = 0.5
    clip = standardise(write_panorama(tmp_path / "a.mkv", times=times, sound=sound, pictures=pictures), "a", tiny)
    frames = read_panoramas(clip, 1.0, 0.5, 1000)
    heard = read_mono(clip, 1.0, 0.5, RATE, Limits())
    seen_at = np.flatnonzero(frames[:, 16, 32, 0] > 128)[0] / 1000
    heard_at = np.flatnonzero(heard > 0.25)[0] / RATE
    assert seen_at == pytest.approx(clap - 1, abs=0.001)
    assert heard_at == pytest.approx(clap - 1, abs=0.001)


def test_sound_of_44100_hz_becomes_16000_hz_without_shift_or_aliases(tiny: Config, tmp_path: Path):
    time = np.arange(2 * 44_100) / 44_100
    low, high = np.sin(2 * np.pi * 1000 * time), np.sin(2 * np.pi * 12_000 * time)
    # W holds a tone to keep and one above 8 kHz; the other channels hold what must not be mixed in.
    sound = np.stack([0.4 * low + 0.4 * high, high, low, low], axis=1).astype(np.float32) * 0.9
    path = write_panorama(tmp_path / "a.mkv", sound=sound, rate=44_100, layout="quad")
    segment = cut(windows(standardise(path, "a", tiny), tiny.clip)[1], tiny)
    assert segment.audio.shape == (16_000,)
    wanted = 0.36 * np.sin(2 * np.pi * 1000 * (1 + np.arange(16_000) / 16_000))
    np.testing.assert_allclose(segment.audio[200:-200], wanted[200:-200], atol=2e-3)


def test_the_limit_of_clipping_lets_a_real_gusty_recording_pass(tiny: Config, shared_data: Path):
    path = shared_data / "overpass_stereo_4s.mp4"
    share = float((np.abs(read_audio(path, 48_000)) >= FULL_SCALE).mean())
    assert share == pytest.approx(0.0007, abs=0.0001)
    clip = standardise(path, "a", tiny)
    assert len([cut(window, tiny) for window in windows(clip, tiny.clip)]) == 4
