"""Sources of rendered scenes: samples depend on their number alone and equal the records of written scenes."""

import itertools
import pickle

import grain
import numpy as np
import pytest

from con360av_jax.config.settings import ClipConfig, MelConfig
from con360av_jax.errors import DatasetError
from con360av_jax.media.mel import log_mel
from con360av_jax.scenes.captions_2 import words
from con360av_jax.scenes.sources import (
    CLIPS_PER_SCENE,
    STILLS_PER_SCENE,
    SceneAudio,
    SceneClips,
    SceneStills,
    SceneVideos,
)
from con360av_jax.sphere.geometry import basd

CLIP = ClipConfig(seconds=1, frames_per_second=4, height=16, width=24, map_height=16, map_width=32)
SOURCES = {
    "stills": lambda seed, split: SceneStills(seed, 16, 24, split=split),
    "clips": lambda seed, split: SceneClips(CLIP, MelConfig(), seed, split),
    "audio": lambda seed, split: SceneAudio(MelConfig(), seed, 1.0, split),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_sample_depends_on_its_number_alone(kind: str):
    forward = [SOURCES[kind](4, "train")[number] for number in range(6)]
    again = SOURCES[kind](4, "train")
    for number in (5, 2, 0, 3):
        for name, value in again[number].items():
            np.testing.assert_array_equal(value, forward[number][name], err_msg=name)
    first = "video" if kind != "audio" else "sound"
    for other in (SOURCES[kind](5, "train")[0], SOURCES[kind](4, "validation")[0], forward[1]):
        assert kind == "audio" or other["view_caption"] and (other["viewpoint"] != forward[0]["viewpoint"]).any()
        assert (other[first] != forward[0][first]).any()
    for outside in (-1, len(again)):
        with pytest.raises(IndexError, match="sample"):
            again[outside]


def test_a_sample_may_be_changed_without_changing_the_next_one():
    source = SceneClips(CLIP, MelConfig(), 4)
    first, before = source[0], source[1]
    for array in first.values():
        if isinstance(array, np.ndarray):
            array[...] = 0
    for name, value in source[1].items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_stills_have_the_arrays_of_a_record_of_one_frame():
    stills = [SceneStills(4, 16, 24)[number] for number in range(2 * STILLS_PER_SCENE)]
    for still in stills:
        assert still["video"].shape == (1, 16, 24, 3) and still["video"].dtype == np.uint8
        assert still["objects"].shape == (1, 16, 24) and still["viewpoint"].shape == (1, 4)
        assert bool(still["seen"]) != bool({"only", "nothing"} & words([still["view_caption"]]))
        assert not still["seen"] or still["objects"].any()
    captions = [still["scene_caption"] for still in stills]
    assert len(set(captions)) == 2 and len(set(captions[:STILLS_PER_SCENE])) == 1
    assert all((a["viewpoint"] != b["viewpoint"]).any() for a, b in itertools.pairwise(stills))


def test_clips_have_the_arrays_of_a_record():
    source, mel = SceneClips(CLIP, MelConfig(), 4), MelConfig()
    clips = [source[number] for number in range(CLIPS_PER_SCENE)]
    for clip in clips:
        assert clip["video"].shape == (4, 16, 24, 3) and clip["objects"].shape == (4, 16, 24)
        assert clip["sound"].shape == (16_000,) and clip["sound"].dtype == np.int16
        np.testing.assert_array_equal(clip["mel"], log_mel(clip["sound"].astype(np.float32) / 32768, mel))
        assert clip["saliency"].shape == (4, 16, 32, 1) and clip["saliency"].dtype == np.float32
        assert clip["saliency"].min() == 0 and clip["saliency"].max() == 1
        np.testing.assert_array_equal(clip["maps"][..., :1], clip["saliency"])
        np.testing.assert_array_equal(clip["maps"][..., 1], basd(clip["viewpoint"], 16, 32))
    np.testing.assert_array_equal(clips[0]["sound"], clips[1]["sound"])
    audio = SceneAudio(mel, 4, 1.0)[0]
    np.testing.assert_array_equal(audio["sound"], clips[0]["sound"])
    assert audio["scene_caption"] == clips[0]["scene_caption"] and len(audio["classes"]) >= 2


def test_the_video_of_a_clip_can_be_had_alone():
    video, clip = SceneVideos(CLIP, 4)[3], SceneClips(CLIP, MelConfig(), 4)[3]
    for name, value in video.items():
        np.testing.assert_array_equal(value, clip[name], err_msg=name)


def test_threads_and_processes_of_grain_get_the_same_samples_in_order():
    source = SceneStills(4, 8, 8)
    wanted = np.stack([source[number]["video"] for number in range(12)])
    frames = grain.MapDataset.source(SceneStills(4, 8, 8))[:12].map(lambda still: still["video"])
    threads = frames.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=4))
    np.testing.assert_array_equal(np.stack(list(threads)), wanted)
    # What another process gets.
    sent = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(sent[7]["video"], wanted[7])


def test_a_negative_seed_and_an_unknown_split_are_refused():
    with pytest.raises(DatasetError, match="seed -1"):
        SceneStills(-1)
    with pytest.raises(DatasetError, match="one of train, validation"):
        SceneAudio(MelConfig(), 0, split="test")  # pyright: ignore[reportArgumentType]
