"""Media: frames follow timestamps, audio channels stay raw, corrupt files are told apart."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from con360av_jax.errors import MediaError
from con360av_jax.media import containers
from con360av_jax.media.files import probe, read_audio, read_frames, write_clip
from tests.support.audio_files import write_wav
from tests.support.panorama_files import write_panorama

REAL_CLIPS = ("alcatraz_mono_t00.mp4", "congo_stereo_t00.mp4", "overpass_stereo_4s.mp4")


def grey_ramp(frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Frame k is an even grey of 8 (k + 1), far enough apart to be recognised after H.264."""
    levels = 8 * (np.arange(frames) + 1)
    return np.broadcast_to(levels[:, None, None, None], (frames, height, width, 3)).astype(np.uint8)


def numbers_of(video: np.ndarray) -> list[int]:
    """Which frame of `grey_ramp` each picture is."""
    return [round(float(picture.mean()) / 8) - 1 for picture in video]


def tone(seconds: float, sample_rate: int, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * sample_rate)) / sample_rate)).astype("f4")


@pytest.fixture(scope="module")
def ramp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2.5 s: 25 grey frames at 10 per second with four different int16 channels at 16 kHz."""
    path = tmp_path_factory.mktemp("media") / "ramp.mp4"
    write_clip(path, grey_ramp(25), 10, ambisonic(2.5), 16_000, lossless_audio=True)
    return path


def ambisonic(seconds: float) -> np.ndarray:
    generator = np.random.default_rng(1)
    return generator.integers(-32768, 32768, (round(seconds * 16_000), 4)).astype(np.int16)


def test_probe_tells_what_was_written(ramp):
    info = probe(ramp)
    assert (info.width, info.height, info.frames_per_second) == (48, 32, 10)
    assert (info.sample_rate, info.channels, info.audio_codec, info.video_codec) == (16_000, 4, "flac", "h264")
    assert info.duration == pytest.approx(2.5, abs=0.01)
    assert info.has_video and info.has_audio


def test_tags_in_any_encoding_leave_a_file_usable(tmp_path: Path):
    given = write_panorama(tmp_path / "a.mkv", times=(0, 0.125), metadata={"title": "xxxxxxx"})
    given.write_bytes(given.read_bytes().replace(b"xxxxxxx", "колокол".encode("cp1251")))
    assert probe(given).has_video
    assert len(read_frames(given, 8)) == 2


@pytest.mark.parametrize(("name", "form"), [("a.MP4", "isom"), ("a.mov", "qt  ")])
def test_the_container_is_that_of_the_ending(tmp_path: Path, name: str, form: str):
    write_clip(tmp_path / name, grey_ramp(4), 4, tone(1, 16_000), 16_000)
    assert (tmp_path / name).read_bytes()[8:12] == form.encode()
    assert numbers_of(read_frames(tmp_path / name, 4)) == [0, 1, 2, 3]


def test_lossless_sound_comes_back_bit_for_bit_in_channel_order(ramp):
    read = read_audio(ramp, 16_000)
    assert read.dtype == np.float32
    np.testing.assert_array_equal((read * 32768).astype(np.int16), ambisonic(2.5))


def test_an_excerpt_of_sound_equals_the_whole_sliced(ramp):
    whole = read_audio(ramp, 16_000)
    np.testing.assert_array_equal(read_audio(ramp, 16_000, start=1.75, seconds=0.5), whole[28_000:36_000])


@pytest.mark.parametrize("sample_rate", [8_000, 22_050, 48_000])
def test_a_resampled_excerpt_equals_the_whole_resampled(ramp, sample_rate):
    whole = read_audio(ramp, sample_rate)
    excerpt = read_audio(ramp, sample_rate, start=0.8, seconds=1.0)
    start = round(0.8 * sample_rate)
    np.testing.assert_allclose(excerpt, whole[start : start + sample_rate], atol=1e-6)


def test_resampling_keeps_each_channel_to_itself(tmp_path):
    sound = np.stack([tone(1, 16_000, frequency) for frequency in (300, 500, 700, 1100)], axis=1)
    write_clip(tmp_path / "clip.mp4", grey_ramp(4), 4, sound, 16_000, lossless_audio=True)
    read = read_audio(tmp_path / "clip.mp4", 24_000)
    for channel, frequency in enumerate((300, 500, 700, 1100)):
        expected = tone(1, 24_000, frequency)
        np.testing.assert_allclose(read[1000:-1000, channel], expected[1000:-1000], atol=2e-3)


def test_sound_is_padded_with_silence_to_the_length_asked_for(ramp):
    read = read_audio(ramp, 16_000, start=2.0, seconds=1.0)
    assert read.shape == (16_000, 4)
    assert not read[8_000:].any() and read[:8_000].any()


def test_aac_keeps_length_and_waveform(tmp_path):
    sound = tone(2, 16_000)
    write_clip(tmp_path / "clip.mp4", grey_ramp(16), 8, sound, 16_000)
    assert probe(tmp_path / "clip.mp4").duration == pytest.approx(2, abs=0.1)
    read = read_audio(tmp_path / "clip.mp4", 16_000, seconds=2)
    assert read.shape == (32_000, 1)
    assert np.corrcoef(read[500:-500, 0], sound[500:-500])[0, 1] > 0.99


def test_frames_are_the_most_recent_at_each_instant(ramp):
    assert numbers_of(read_frames(ramp, 10)) == list(range(25))
    # At t = k / 4 of a video of 10 frames per second: floor(10 t).
    assert numbers_of(read_frames(ramp, 4)) == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]
    assert numbers_of(read_frames(ramp, 20, start=0.5, seconds=0.3)) == [5, 5, 6, 6, 7, 7]


def test_an_excerpt_behind_a_seek_equals_the_whole_sliced(ramp):
    np.testing.assert_array_equal(read_frames(ramp, 10, start=2.0), read_frames(ramp, 10)[20:])


def test_the_last_frame_is_held_to_the_length_asked_for(ramp):
    assert numbers_of(read_frames(ramp, 10, start=2.2, seconds=0.6)) == [22, 23, 24, 24, 24, 24]


def test_frames_are_stretched_to_the_size_asked_for(ramp):
    assert read_frames(ramp, 1, seconds=1, size=(20, 64)).shape == (1, 20, 64, 3)


def write_offset_clip(path: Path, video_delay: int) -> None:
    """Ten frames at 10 per second that start `video_delay` tenths after the sound's first sample."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        sound = container.add_stream("flac", rate=16_000, layout="mono")
        samples = np.full((1, 16_000), 1000, np.int16)
        audio = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        audio.sample_rate, audio.pts, audio.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux(sound.encode(audio))
        for number, picture in enumerate(grey_ramp(10)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number + video_delay, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        container.mux(sound.encode(None))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_late_video_stream_stays_aligned_with_the_sound(tmp_path, suffix):
    path = tmp_path / f"late{suffix}"
    write_offset_clip(path, video_delay=3)
    assert numbers_of(read_frames(path, 10, seconds=0.7)) == [0, 0, 0, 0, 1, 2, 3]
    assert read_audio(path, 16_000, seconds=0.5).all()


@pytest.mark.parametrize("size", [(31, 48), (32, 47), (31, 47)])
def test_odd_sizes_gain_one_repeated_row_or_column(tmp_path, size):
    write_clip(tmp_path / "odd.mp4", grey_ramp(3, *size), 8, None, 16_000)
    video = read_frames(tmp_path / "odd.mp4", 8)
    assert video.shape == (3, 32, 48, 3)
    assert numbers_of(video) == [0, 1, 2]


def test_colours_survive_the_round_trip(tmp_path):
    colours = np.array([[230, 30, 30], [30, 230, 30], [30, 30, 230], [200, 100, 50]], np.uint8)
    bars = np.broadcast_to(colours.repeat(16, axis=0), (4, 32, 64, 3)).copy()
    write_clip(tmp_path / "bars.mp4", bars, 4, None, 16_000)
    read = read_frames(tmp_path / "bars.mp4", 4)[:, :, 8::16]
    np.testing.assert_allclose(read.astype(int), np.broadcast_to(colours, read.shape), atol=6)


def test_the_same_arrays_give_the_same_bytes(tmp_path, ramp):
    write_clip(tmp_path / "again.mp4", grey_ramp(25), 10, ambisonic(2.5), 16_000, lossless_audio=True)
    assert (tmp_path / "again.mp4").read_bytes() == ramp.read_bytes()


def test_the_bytes_do_not_depend_on_the_processors_vector_code(tmp_path, monkeypatch):
    cpu = Path("/proc/cpuinfo")
    if not cpu.is_file() or "avx2" not in cpu.read_text():
        pytest.skip("needs a processor with AVX2")
    row, column = np.mgrid[:480, :960]
    noise = np.random.default_rng(1).normal(0, 6, (4, 480, 960, 1))
    waves = 128 + 60 * np.sin(column / 37 + row / 23)[..., None] + noise + [0, 10, -10]
    video = np.clip(waves, 0, 255).astype(np.uint8)
    write_clip(tmp_path / "one.mp4", video, 8, None, 16_000)
    monkeypatch.setitem(containers.H264_OPTIONS, "x264-params", "asm=AVX2")
    write_clip(tmp_path / "two.mp4", video, 8, None, 16_000)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_a_wav_is_read_back_exactly(tmp_path):
    write_wav(tmp_path / "sound.wav", ambisonic(0.2), 16_000)
    read = read_audio(tmp_path / "sound.wav", 16_000)
    np.testing.assert_array_equal((read * 32768).astype(np.int16), ambisonic(0.2))


def truncated(ramp: Path, folder: Path) -> Path:
    path = folder / "truncated.mp4"
    path.write_bytes(ramp.read_bytes()[: ramp.stat().st_size // 2])
    return path


def test_unusable_files_give_one_clear_line(tmp_path, ramp):
    (tmp_path / "text.mp4").write_text("time,yaw\n0,1\n" * 50)
    (tmp_path / "empty.mp4").touch()
    write_clip(tmp_path / "silent.mp4", grey_ramp(3), 8, None, 16_000)
    write_wav(tmp_path / "blind.wav", tone(0.5, 16_000), 16_000)
    cut = truncated(ramp, tmp_path)
    cases = [
        (lambda: probe(tmp_path / "missing.mp4"), "no such file"),
        (lambda: probe(tmp_path), "not a file"),
        (lambda: probe(tmp_path / "text.mp4"), "not a media file"),
        (lambda: probe(tmp_path / "empty.mp4"), "not a media file"),
        (lambda: read_frames(tmp_path / "blind.wav", 8), "no video stream"),
        (lambda: read_audio(tmp_path / "silent.mp4", 16_000), "no audio stream"),
        (lambda: read_frames(cut, 10), "cut off or corrupt|is corrupt|cannot be decoded"),
        (lambda: read_audio(cut, 16_000), "cut off or corrupt|is corrupt|cannot be decoded"),
        (lambda: read_frames(ramp, 10, start=2.5), "start inside the file"),
        (lambda: read_audio(ramp, 16_000, start=1, seconds=0), "positive length"),
        (lambda: read_frames(ramp, 0), "positive rate"),
    ]
    for call, pattern in cases:
        with pytest.raises(MediaError, match=pattern) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_overwritten_media_data_do_not_pass_as_pictures(tmp_path, ramp):
    data = bytearray(ramp.read_bytes())
    media = data.index(b"mdat")
    data[media + 8 :] = bytes(len(data) - media - 8)
    (tmp_path / "zeroed.mp4").write_bytes(data)
    with pytest.raises(MediaError):
        read_frames(tmp_path / "zeroed.mp4", 10)
    with pytest.raises(MediaError):
        read_audio(tmp_path / "zeroed.mp4", 16_000)


def test_wrong_arrays_leave_no_file(tmp_path):
    video = grey_ramp(2)
    cases = [
        (video.astype(np.float32), tone(1, 16_000), "uint8"),
        (video, np.zeros((100, 3), np.int16), "3 channels"),
        (video, np.zeros((100, 4), np.int16), "lossless_audio=True"),
        (video, np.full(100, np.nan, np.float32), "finite"),
    ]
    for pictures, sound, pattern in cases:
        with pytest.raises(MediaError, match=pattern):
            write_clip(tmp_path / "clip.mp4", pictures, 8, sound, 16_000)
    with pytest.raises(MediaError, match="cannot be written"):
        write_clip(tmp_path / "clip.mp4", video, 8, tone(1, 16_000), sample_rate=12_345)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", REAL_CLIPS)
def test_real_clips_are_read_in_full(shared_data, name):
    info = probe(shared_data / name)
    seconds = int(info.duration)
    video = read_frames(shared_data / name, 8, seconds=seconds, size=(120, 240))
    sound = read_audio(shared_data / name, 16_000, seconds=seconds)
    assert video.shape == (8 * seconds, 120, 240, 3) and sound.shape == (16_000 * seconds, info.channels)
    assert video.std() > 10 and sound.std() > 1e-4
    excerpt = read_frames(shared_data / name, 8, start=2, seconds=1, size=(120, 240))
    np.testing.assert_array_equal(excerpt, video[16:24])
    heard = read_audio(shared_data / name, 16_000, start=2, seconds=1)
    # AAC decoders fill noise bands with random numbers, so that a seek changes samples but not their place.
    assert np.corrcoef(heard[:, 0], sound[32_000:48_000, 0])[0, 1] > 0.99
