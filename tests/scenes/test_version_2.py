"""Version 2 of procedural scenes keeps its rules; its captions are true, short and of few words."""

import colorsys
from itertools import pairwise

import numpy as np
import pytest

from con360av_jax.base.tokenizer import train_tokenizers
from con360av_jax.config.files import load_config
from con360av_jax.errors import DatasetError
from con360av_jax.scenes.captions import PLACES, region
from con360av_jax.scenes.captions_2 import NOUNS, Said, background_parts, vocabulary, words
from con360av_jax.scenes.scene import CLASSES, make_scene
from con360av_jax.scenes.sprites import COLOURS, DRAWINGS, Canvas, Moment
from con360av_jax.scenes.synthetic import captions_corpus
from con360av_jax.scenes.textures import PALETTES
from con360av_jax.scenes.version_2 import FARTHEST, HELD_OUT, NEAREST, make_scene_2, smallest_angle

MANY = 60
TIMES = np.linspace(0, 2, 33)
# Limits of hue (degrees), saturation and value (0 to 1) of each colour name in daylight, from pictures of such colours.
LIMITS = {
    "golden": ((38, 55), (0.5, 1), (0.7, 1)), "copper": ((18, 36), (0.5, 1), (0.5, 0.9)),
    "silver": ((180, 240), (0, 0.25), (0.5, 1)), "red": ((345, 375), (0.5, 1), (0.5, 1)),
    "blue": ((200, 230), (0.3, 1), (0.3, 1)), "green": ((90, 165), (0.2, 1), (0.3, 1)),
    "turquoise": ((170, 195), (0.5, 1), (0.5, 1)), "orange": ((10, 35), (0.7, 1), (0.7, 1)),
    "purple": ((265, 300), (0.4, 1), (0.4, 1)), "brown": ((10, 40), (0.3, 0.7), (0.25, 0.6)),
    "yellow": ((40, 60), (0.6, 1), (0.8, 1)), "pale": ((15, 40), (0.1, 0.4), (0.8, 1)),
    "tan": ((15, 40), (0.4, 0.7), (0.6, 0.85)),
}  # fmt: skip


@pytest.fixture(scope="module")
def scenes():
    return [make_scene_2(5, index) for index in range(MANY)]


def test_a_seed_a_number_and_a_split_decide_a_scene():
    assert make_scene_2(5, 3) == make_scene_2(5, 3)
    others = [make_scene_2(5, 4), make_scene_2(6, 3), make_scene_2(5, 3, split="validation"), make_scene_2(5, 3, 4.0)]
    assert all(other != make_scene_2(5, 3) for other in others)


def test_scenes_of_version_1_are_as_they_were():
    scene = make_scene(7, 0)
    assert scene.caption == (
        "On a town square, a voice sings on the left, coming closer, while a bell rings behind, a bird chirps on the "
        "right, moving to the front, a drum beats on the right, and an engine runs on the left, moving to the right."
    )
    longitudes = [float(item.motion.longitude) for item in scene.objects]
    np.testing.assert_allclose(longitudes, [-1.5402, 2.898753, 1.02068, 1.907994, -1.301108], atol=1e-6)
    assert scene.background.noise_seed == 2684764585


def test_objects_are_near_far_apart_and_in_quarters_of_their_own(scenes):
    for scene in scenes:
        assert 2 <= len(scene.objects) <= 4
        assert smallest_angle(scene, TIMES) >= np.radians(60)
        quarters = [{region(float(turn)) for turn in item.motion.angles(TIMES)[0]} for item in scene.objects]
        assert all(len(own) == 1 for own in quarters) and len(set.union(*quarters)) == len(scene.objects)
        for item in scene.objects:
            distances = item.motion.distance(TIMES, scene.seconds)
            assert distances.min() >= NEAREST - 1e-9 and distances.max() <= FARTHEST + 1e-9
    assert {len(scene.objects) for scene in scenes} == {2, 3, 4}


@pytest.mark.parametrize("seconds", [1.0, 2.0, 4.0])
def test_every_object_sounds_and_onsets_of_different_objects_are_apart(seconds: float):
    for index in range(MANY):
        scene = make_scene_2(8, index, seconds)
        assert all(item.notes for item in scene.objects)
        onsets = sorted((onset, item.name) for item in scene.objects for onset in item.onsets)
        assert onsets[0][0] >= 0 and onsets[-1][0] <= seconds - 0.25
        gaps = [later[0] - earlier[0] for earlier, later in pairwise(onsets) if earlier[1] != later[1]]
        assert min(gaps) >= 0.4 - 1e-9


def test_scenes_too_short_for_two_notes_are_refused():
    with pytest.raises(DatasetError, match="at least 1 s"):
        make_scene_2(0, 0, 0.5)


def test_training_scenes_lack_the_pairs_that_validation_scenes_have():
    pairs = {
        split: {
            (item.name, scene.background.palette)
            for scene in (make_scene_2(2, index, split=split) for index in range(300))
            for item in scene.objects
        }
        for split in ("train", "validation")
    }
    assert set(HELD_OUT) == set(CLASSES) and set(HELD_OUT.values()) <= set(PALETTES)
    assert len(pairs["validation"]) == len(CLASSES) * len(PALETTES)
    assert pairs["validation"] - pairs["train"] == set(HELD_OUT.items())


def test_a_caption_names_colour_class_quarter_and_motion_of_every_object(scenes):
    for scene in scenes:
        text = scene.caption.lower()
        assert PALETTES[scene.background.palette].place in text
        for item in scene.objects:
            noun = f"{item.colour} {NOUNS[item.name]} "
            assert text.count(noun) == 1
            clause = text.split(noun)[1].split(" a ")[0].split(" an ")[0]
            turn = float(item.motion.angles(np.array(0.0))[0])
            assert PLACES[region(turn)] in clause
            ends = item.motion.angles(np.array([0.0, 2.0]))[0]
            moved = np.degrees(np.angle(np.exp(1j * (ends[1] - ends[0]))))
            if "moving left" in clause or "moving right" in clause:
                assert moved >= 8 if "right" in clause.split("moving")[1] else moved <= -8
            if "coming closer" in clause:
                assert np.divide(*item.motion.distance(np.array([2.0, 0.0]), 2.0)) <= 0.8


def test_the_largest_motion_is_said():
    def motion(turn: float, ratio: float) -> str:
        ends = {"longitude": (3.1, 3.1 + np.radians(turn)), "latitude": (0.0, 0.0), "distance": (2.0, 2.0 * ratio)}
        return Said(name="bell", colour="golden", **ends).motion

    assert motion(10, 1) == "moving right" and motion(-10, 1.1) == "moving left"
    assert motion(9, 1.6) == "moving away" and motion(9, 1 / 1.6) == "coming closer"
    assert motion(5, 1.2) == ""


def test_captions_use_the_whole_vocabulary_and_nothing_else(scenes):
    named = words(scene.caption for scene in [*scenes, *(make_scene_2(9, index) for index in range(300))])
    assert named <= set(vocabulary())
    only_in_views = {"nothing", "but", "only", "no", "object", "hills", "ground", "water"}
    assert set(vocabulary()) - named == only_in_views


def test_captions_fit_into_the_tokens_of_both_text_encoders():
    # A tokenizer of this vocabulary makes one token of each word, comma and full stop.
    config = load_config("debug")
    tokenizers, text = train_tokenizers(config, seed=0), config.model.text
    for modality, limit in (("video", text.video.tokens), ("audio", text.audio.tokens)):
        tokenizer = tokenizers[modality]
        split = [word for word in vocabulary() if len(tokenizer.tokenize(f" {word}")) > 1]
        assert not split
        captions = captions_corpus(400, 1, version=2)
        lengths = [len(tokenizer(caption)["input_ids"]) for caption in captions]
        assert max(lengths) <= min(limit, 64)
        assert len(set(captions)) > 350


def test_background_parts_follow_the_horizon():
    def parts(low: float, high: float, palette: str = "snow") -> list[str]:
        return background_parts(palette, (np.radians(low), np.radians(high)))

    assert parts(20, 70) == ["sky"] and parts(-70, -20) == ["ground"] and parts(-70, -20, "sea") == ["water"]
    assert parts(-25, 25) == ["sky", "hills", "ground"] and parts(-40, 8) == ["hills", "ground"]


@pytest.mark.parametrize(("name", "choice"), [(name, choice) for name in CLASSES for choice in range(3)])
def test_colour_names_are_true_of_the_pixels(name: str, choice: int):
    side = np.linspace(-1, 1, 96, dtype=np.float32)
    drawn = []
    for hue in (0.1, 0.5, 0.9):
        canvas = Canvas(*np.meshgrid(side, -side), pixel=2 / 96)
        DRAWINGS[name](canvas, Moment(time=0.0, since=np.inf, loudness=0.0, hue=hue))
        drawn.append(np.moveaxis(canvas.layers[:3], 0, -1))
    # The pixels that the choice of the colour changes, brightest half: hair is chosen with the skin.
    changed = np.ptp(drawn, axis=0).max(axis=-1) > 30
    colours = drawn[choice][changed]
    bright = colours[colours.sum(axis=1) >= np.median(colours.sum(axis=1))]
    assert changed.mean() > 0.05
    hue, saturation, value = colorsys.rgb_to_hsv(*(np.median(bright, axis=0) / 255))
    limits = LIMITS[COLOURS[name][choice]]
    turns = [hue * 360, hue * 360 + 360]
    assert any(limits[0][0] <= turn <= limits[0][1] for turn in turns), turns
    assert limits[1][0] <= saturation <= limits[1][1], saturation
    assert limits[2][0] <= value <= limits[2][1], value
