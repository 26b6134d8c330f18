"""Order of the distances from real 360° clips to themselves, their other views, other clips and noise.

S_KL (FastGaze)  0 to itself, because equal maps have no divergence. Other views of a clip have other content but the
                 same light, textures and level of detail; other clips share none of these, and noise has no content.
                 Over all views and clips together: 0 < other views < other clips, and < noise
FAD (YAMNet)     0 to itself. Increasing distances: the other channel of the recording (same time and place), its second
                 half (same place), another recording, white noise of equal power
AV-Align         1 for clicks at the motion peaks of the video, the largest possible agreement; 0 for audio without
                 onsets; the clip's own audio is between (0 for one clip with steady noise)
The tests check only orders; no threshold was tuned.
"""
# ruff: noqa: E402 -- imports that need torch come after asking for it

from collections.abc import Iterator
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.config.settings import MelConfig
from con360av_jax.evaluate.features import FeatureCard, FeatureSet, write_features
from con360av_jax.evaluate.metrics.av_align import av_align, flow_magnitude, flow_peaks
from con360av_jax.evaluate.metrics.bootstrap import RecordingMoments, bootstrap_frechet
from con360av_jax.evaluate.metrics.frechet import accumulate, frechet_distance
from con360av_jax.evaluate.metrics.saliency import compare_saliency
from con360av_jax.media.files import read_audio, read_frames
from con360av_jax.media.mel import log_mel
from con360av_jax.sphere.viewpoint import Viewpoint

pytest.importorskip("torch", reason="FastGaze runs in PyTorch: pip install -e '.[torch]'")
pytest.importorskip("ai_edge_litert", reason="YAMNet needs ai-edge-litert: pip install -e '.[features]'")

from preprocess.features.fastgaze import open_fastgaze
from preprocess.features.yamnet import WINDOW, open_yamnet
from preprocess.stages.views import render_tracks

pytestmark = pytest.mark.usefixtures("one_thread")

CLIPS = ("alcatraz_mono_t00", "congo_stereo_t00", "overpass_stereo_4s")
YAWS = (0.0, 90.0, 180.0, -90.0)
FRAMES, SIZE = 3, 128
RATE = 16_000
MEL = MelConfig()
Maps = dict[tuple[str, float], np.ndarray]
Heard = dict[str, dict[str, np.ndarray]]


def views(path: Path, yaw: float, frames_per_second: float = 1.0, frames: int = FRAMES) -> np.ndarray:
    panoramas = read_frames(path, frames_per_second, seconds=frames / frames_per_second)
    return render_tracks(panoramas, [Viewpoint(yaw=yaw).track(frames)], SIZE, SIZE)[0]


@pytest.fixture(scope="module")
def maps(shared_data: Path, shared_models: Path) -> Maps:
    """FastGaze maps of each view of each clip, and of white noise called "noise"."""
    gaze = open_fastgaze(shared_models / "fastgaze.vxm")
    found = {(clip, yaw): gaze(views(shared_data / f"{clip}.mp4", yaw)) for clip, yaw in product(CLIPS, YAWS)}
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    return found | {("noise", 0.0): gaze(noise)}


@pytest.fixture(scope="module")
def heard(shared_data: Path, shared_models: Path) -> Heard:
    """YAMNet embeddings of each clip's left and right audio, and of white noise of equal power."""
    ear = open_yamnet(shared_models / "yamnet.tflite")

    def rows(sound: np.ndarray) -> np.ndarray:
        return ear(np.lib.stride_tricks.sliding_window_view(np.float32(sound), WINDOW)[:: WINDOW // 2]).embeddings

    found: Heard = {}
    for clip in CLIPS:
        sound = read_audio(shared_data / f"{clip}.mp4", RATE)
        noise = np.random.default_rng(0).normal(0, np.sqrt(np.mean(np.square(sound))), len(sound))
        found[clip] = {"left": rows(sound[:, 0]), "right": rows(sound[:, -1]), "noise": rows(noise)}
    return found


def stored(folder: Path, kind: str, clips: Iterator[tuple[str, np.ndarray]]) -> FeatureSet:
    card = FeatureCard(kind=kind, model="test", weights_sha256="", settings={}, packages={})
    return write_features(folder, card, ((name, name, rows) for name, rows in clips))


def test_saliency_differs_least_from_itself_then_from_other_views_then_from_other_clips_and_noise(
    tmp_path: Path, maps: Maps
):
    def divergence(name: str, pairs: list[tuple[tuple[str, float], tuple[str, float]]]) -> float:
        """S_KL of the first of each pair against the second."""
        sides = [[(str(number), maps[pair[side]]) for number, pair in enumerate(pairs)] for side in (0, 1)]
        generated = stored(tmp_path / name / "generated", "saliency", iter(sides[0]))
        target = stored(tmp_path / name / "target", "saliency", iter(sides[1]))
        return compare_saliency(generated, target).value

    targets = list(product(CLIPS, YAWS))
    own = divergence("own", [(target, target) for target in targets])
    views = divergence(
        "views", [((clip, one), (clip, other)) for clip in CLIPS for one, other in permutations(YAWS, 2)]
    )
    others = divergence("others", [((one, yaw), (other, yaw)) for one, other in permutations(CLIPS, 2) for yaw in YAWS])
    noise = divergence("noise", [(("noise", 0.0), target) for target in targets])
    assert abs(own) < 1e-9 < views < others
    assert views < noise


def distance(generated: np.ndarray, target: np.ndarray) -> float:
    return frechet_distance(accumulate([generated]), accumulate([target]), "unbiased")


@pytest.mark.parametrize("clip", CLIPS)
def test_sound_is_nearest_to_itself_then_its_other_ear_its_later_half_other_recordings_and_noise(
    clip: str, heard: Heard
):
    left, right, noise = (heard[clip][name] for name in ("left", "right", "noise"))
    half = len(left) // 2
    halves = distance(left[:half], left[half:])
    others = [distance(heard[other]["left"], left) for other in CLIPS if other != clip]
    assert distance(left, left) < 1e-9
    # A mono recording has one ear.
    assert clip == "alcatraz_mono_t00" or 1e-9 < distance(right, left) < halves
    assert halves < min(others) <= max(others) < distance(noise, left)


@pytest.mark.parametrize("clip", CLIPS)
def test_sound_agrees_most_with_the_motion_that_it_is_made_from_and_least_when_nothing_begins(
    clip: str, shared_data: Path
):
    path, frames_per_second, seconds = shared_data / f"{clip}.mp4", 8, 4
    pictures = views(path, 0.0, frames_per_second, frames_per_second * seconds)
    peaks = flow_peaks(flow_magnitude(pictures), frames_per_second)
    clicks = np.zeros(RATE * seconds, np.float32)
    clicks[np.round(peaks * RATE).astype(int)] = 0.5
    own = read_audio(path, RATE, seconds=seconds).mean(axis=1)

    def score(sound: np.ndarray) -> float:
        found = av_align(pictures, frames_per_second, log_mel(sound, MEL), MEL)
        assert found is not None
        return found

    assert 0 == score(np.zeros_like(clicks)) <= score(own) < score(clicks) == 1


def test_values_do_not_depend_on_the_order_of_clips_or_how_rows_are_cut(tmp_path: Path, maps: Maps, heard: Heard):
    """Varies the order of files, the size of blocks, and the order in which shards are joined."""
    names = [f"{clip} {yaw:g}" for clip, yaw in product(CLIPS, YAWS)]
    by_name = dict(zip(names, (maps[key] for key in product(CLIPS, YAWS)), strict=True))
    turned = dict(zip(names, np.roll([*by_name.values()], 1, axis=0), strict=True))
    first = compare_saliency(
        stored(tmp_path / "a", "saliency", iter(by_name.items())),
        stored(tmp_path / "b", "saliency", iter(turned.items())),
    )
    again = compare_saliency(
        stored(tmp_path / "c", "saliency", ((name, by_name[name]) for name in reversed(names))),
        stored(tmp_path / "d", "saliency", ((name, turned[name]) for name in sorted(names))),
    )
    assert again.value == pytest.approx(first.value, rel=1e-12)
    assert dict(zip(again.clips, again.sums, strict=True)) == dict(zip(first.clips, first.sums, strict=True))
    rows = np.concatenate([sides["left"] for sides in heard.values()])
    noise = accumulate([np.concatenate([sides["noise"] for sides in heard.values()])])
    wanted = frechet_distance(accumulate([rows]), noise, "unbiased")
    blocks = [rows[start : start + 7] for start in range(0, len(rows), 7)]
    shards = [accumulate(blocks[number::3][::-1]) for number in (2, 0, 1)]
    assert frechet_distance(sum(shards[1:], shards[0]), noise, "unbiased") == pytest.approx(wanted, rel=1e-9)
    intervals = [
        bootstrap_frechet(RecordingMoments.of(order), noise, "unbiased", seed=0, draws=10)
        for order in (blocks, blocks[::-1])
    ]
    assert intervals[0].value == pytest.approx(intervals[1].value, rel=1e-9)
