"""Procedural scenes: bit-identical for equal seeds; video, audio and ground truth agree."""

import dataclasses
import json

import numpy as np
import pytest
from einops import rearrange

from con360av_jax.errors import DatasetError
from con360av_jax.media.files import read_audio, read_frames
from con360av_jax.scenes.panorama import render_frame, render_scene_background
from con360av_jax.scenes.scene import CLASSES, Motion, Note, Scene, SceneObject, make_scene
from con360av_jax.scenes.synthetic import captions_corpus, render_clip, render_scene, write_scene_clips
from con360av_jax.scenes.textures import PALETTES, Background, render_background
from con360av_jax.scenes.timbres import object_sound
from con360av_jax.sphere.geometry import direction_from_angles, directions

HEIGHT, WIDTH, RATE = 120, 240, 16_000
NOTES = tuple(Note(onset=onset, seconds=0.1, pitch=1.0) for onset in (0.2, 0.85, 1.6))


def thing(
    name: str, longitude: float = 0.0, latitude: float = 0.0, distance: float = 2.0, **path: float
) -> SceneObject:
    """One object at rest (degrees), or on a path with other `Motion` fields."""
    settings = {"speed": 0.0, "heading": 0.0, "bob": 0.0, "bob_phase": 0.0, "end_distance": distance, **path}
    motion = Motion(
        kind="drift",
        longitude=np.radians(longitude),
        latitude=np.radians(latitude),
        start_distance=distance,
        **settings,
    )
    return SceneObject(name=name, radius=0.5, hue=0.2, pitch=1.0, motion=motion, notes=NOTES, noise_seed=3)


def scene_of(*objects: SceneObject) -> Scene:
    background = Background(palette="meadow", sun_longitude=2.5, sun_latitude=0.9, noise_seed=1)
    return Scene(seconds=2.0, background=background, objects=objects, reverberation=0.0, noise_seed=2, caption="")


def footprint(scene: Scene, time: float) -> np.ndarray:
    """Difference of each pixel from the scene without objects, 0..255."""
    background = render_scene_background(scene, HEIGHT, WIDTH)
    picture = render_frame(scene, time, HEIGHT, WIDTH, background)
    return np.abs(picture.astype(int) - background).max(axis=-1)


def angles_to(longitude: float, latitude: float) -> np.ndarray:
    """Angle in degrees of every pixel from a direction in degrees."""
    centre = direction_from_angles(np.radians(longitude), np.radians(latitude))
    return np.degrees(np.arccos(np.clip(directions(HEIGHT, WIDTH) @ centre, -1, 1)))


def test_a_seed_and_a_number_decide_every_bit():
    first, again = (render_clip(5, seconds=1, height=48, width=96, index=2) for _ in range(2))
    np.testing.assert_array_equal(first.video, again.video)
    np.testing.assert_array_equal(first.sound, again.sound)
    assert (first.caption, first.truth) == (again.caption, again.truth)
    assert first.video.shape == (8, 48, 96, 3) and first.video.dtype == np.uint8
    assert first.sound.shape == (RATE, 4) and first.sound.dtype == np.int16
    other = render_clip(5, seconds=1, height=48, width=96, index=3)
    assert (first.video != other.video).any() and (first.sound != other.sound).any()


def test_two_workers_write_the_same_files_as_one(tmp_path):
    reports: list[tuple[int, int]] = []
    settings = {"clips": 2, "seed": 4, "height": 32, "width": 64, "seconds": 0.5}
    write_scene_clips(tmp_path / "one", **settings, progress=lambda done, total: reports.append((done, total)))
    write_scene_clips(tmp_path / "two", **settings, workers=2)
    assert reports == [(1, 2), (2, 2)]
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert sorted(tmp_path.iterdir()) == [tmp_path / "one", tmp_path / "two"]


def test_written_clips_hold_the_rendered_arrays(tmp_path):
    write_scene_clips(tmp_path / "out", clips=1, seed=9, height=64, width=128, seconds=1)
    clip = render_clip(9, seconds=1, height=64, width=128)
    video = tmp_path / "out" / "scene_000000.mp4"
    np.testing.assert_array_equal((read_audio(video, RATE) * 32768).astype(np.int16), clip.sound)
    difference = np.abs(read_frames(video, 8).astype(int) - clip.video).mean()
    assert difference < 6
    assert json.loads(video.with_suffix(".json").read_text()) == clip.truth
    line = (tmp_path / "out" / "captions.jsonl").read_text()
    assert json.loads(line) == {"file": "scene_000000.mp4", "caption": clip.caption}


def test_a_folder_with_other_content_is_not_overwritten(tmp_path):
    settings = {"clips": 1, "height": 16, "width": 32, "seconds": 0.25}
    out = tmp_path / "out"
    out.mkdir()
    write_scene_clips(out, seed=1, **settings)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    write_scene_clips(out, seed=1, **settings)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(DatasetError, match="choose another folder"):
        write_scene_clips(out, seed=2, **settings)
    with pytest.raises(DatasetError, match="twice the height"):
        write_scene_clips(tmp_path / "square", clips=1, seed=1, height=16, width=16)
    with pytest.raises(DatasetError, match="cannot be written"):
        write_scene_clips(out / "captions.jsonl" / "inside", seed=1, **settings)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("place", [(40, 10), (-120, -35), (179.5, 0), (10, 74)])
def test_an_object_is_seen_at_its_true_direction_and_size(name, place):
    scene = scene_of(thing(name, *place))
    changed = footprint(scene, 0.1)
    weight = changed * np.cos(np.radians(90 - (np.arange(HEIGHT) + 0.5) / HEIGHT * 180))[:, None]
    centroid = np.einsum("yx,yxc->c", weight, directions(HEIGHT, WIDTH))
    expected = direction_from_angles(*np.radians(place))
    size = np.degrees(np.arctan(0.5 / 2))
    assert np.degrees(np.arccos(centroid @ expected / np.linalg.norm(centroid))) < size / 2
    assert not changed[angles_to(*place) > 1.6 * size].any()
    assert (changed[angles_to(*place) < size / 2] > 8).mean() > 0.5


def test_an_object_on_the_seam_is_the_rolled_object_of_the_front():
    # The background is taken away: only it knows where the seam is.
    flat = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    seam = render_frame(scene_of(thing("bell", 180, 20)), 0.3, HEIGHT, WIDTH, flat)
    front = render_frame(scene_of(thing("bell", 0, 20)), 0.3, HEIGHT, WIDTH, flat)
    assert (seam[:, [0, -1]] != 90).any()
    np.testing.assert_allclose(np.roll(seam, WIDTH // 2, axis=1).astype(int), front.astype(int), atol=1)


def test_an_object_over_a_pole_covers_the_pole():
    assert (footprint(scene_of(thing("engine", 30, 88)), 0.1)[0] > 8).all()


@pytest.mark.parametrize("palette", sorted(PALETTES))
def test_backgrounds_join_at_the_seam_and_close_at_the_poles(palette):
    background = Background(palette=palette, sun_longitude=np.pi, sun_latitude=0.4, noise_seed=7)
    picture = render_background(background, directions(HEIGHT, WIDTH)).astype(int)
    steps = np.abs(np.diff(picture, axis=1, append=picture[:, :1])).mean(axis=(0, 2))
    assert steps[-1] < 2 * np.median(steps) + 1
    for row in (0, -1):
        assert np.ptp(picture[row], axis=0).max() < 40


@pytest.mark.parametrize("name", CLASSES)
def test_sound_arrives_from_where_the_object_is_seen(name):
    scene = scene_of(thing(name, -70, 25, speed=np.radians(30)))
    clip = render_scene(scene, 16, 32)
    truth = clip.truth["objects"][0]
    # The mean of W times each other channel, one block per frame, points to where the sound comes from.
    w, *velocity = rearrange(clip.sound / 32768, "(block sample) channel -> channel block sample", sample=RATE // 8)
    left, up, ahead = ((w * channel).mean(axis=1) for channel in velocity)
    azimuth, elevation = np.arctan2(left, ahead), np.arctan2(up, np.hypot(left, ahead))
    loud = np.array(truth["loudness"]) > 0.01
    assert loud.any()
    middle = np.array(truth["lon_deg"]) + 30 / 16
    np.testing.assert_allclose(np.degrees(azimuth[loud]), -middle[loud], atol=2)
    np.testing.assert_allclose(np.degrees(elevation[loud]), np.array(truth["lat_deg"])[loud], atol=2)


@pytest.mark.parametrize("name", CLASSES)
def test_every_onset_is_heard_and_seen_at_once(name):
    scene = scene_of(thing(name))
    clip = render_scene(scene, 16, 32)
    # The level of W in steps of 5 ms jumps where the truth has an onset, and nowhere as much before it.
    level = np.sqrt((clip.sound[:, 0].astype(float).reshape(-1, 80) ** 2).mean(axis=1))
    onsets = np.array(clip.truth["objects"][0]["onsets_s"])
    np.testing.assert_array_equal(onsets, [note.onset for note in NOTES])
    for onset in onsets:
        step = round(onset * 200)
        rise = level[step : step + 4].max() / level[step - 6 : step].max()
        assert rise > 1.4, f"{name} at {onset} s"
        before, after = (int(footprint(scene, onset + shift).sum()) for shift in (-0.02, 0.02))
        assert after > 1.2 * before


def test_nearer_is_larger_and_louder():
    near, far = thing("bell", distance=2.0), thing("bell", distance=4.0)
    loudness = [object_sound(item, 2.0, RATE).std() for item in (near, far)]
    assert loudness[0] == pytest.approx(2 * loudness[1])
    areas = [(footprint(scene_of(item), 0.1) > 8).sum() for item in (near, far)]
    tangents = [np.tan(item.angular_radius(np.zeros(1), 2.0))[0] for item in (near, far)]
    assert tangents[0] == pytest.approx(2 * tangents[1])
    assert 3 < areas[0] / areas[1] < 5


def test_an_approaching_object_grows_louder_and_larger_in_the_truth():
    scene = scene_of(thing("engine", distance=5.0, end_distance=2.0))
    truth = render_scene(scene, 16, 32).truth["objects"][0]
    assert (np.diff(truth["angular_radius_deg"]) >= 0).all()
    # The same throttle at the first and the last onset: only the distance differs.
    assert max(truth["loudness"][12:]) > 1.5 * max(truth["loudness"][:4])


def test_great_circle_keeps_its_speed_and_the_truth_follows_it():
    motion = dataclasses.replace(
        thing("chirp", 170, 40, speed=np.radians(20)).motion, kind="great circle", heading=np.radians(25)
    )
    longitude, latitude = motion.angles(np.arange(11) / 10)
    path = direction_from_angles(longitude, latitude)
    np.testing.assert_allclose(np.arccos(np.sum(path[1:] * path[:-1], axis=1)), np.radians(2), atol=1e-9)
    assert (longitude < np.pi).all() and longitude[-1] < 0 < longitude[0]


def test_a_caption_names_every_class_in_few_words():
    words = {name: name for name in CLASSES}
    for index in range(150):
        scene = make_scene(11, index)
        names = [item.name for item in scene.objects]
        assert 2 <= len(names) <= 5 and len(set(names)) == len(names)
        assert all(words[name] in scene.caption.lower() for name in names), scene.caption
        assert not any(words[name] in scene.caption.lower() for name in set(CLASSES) - set(names)), scene.caption
        assert len(scene.caption.split()) < 60
        assert scene.caption.count(".") == 1 and scene.caption[0].isupper()


def test_the_corpus_is_the_captions_of_the_scenes():
    corpus = captions_corpus(20, seed=3)
    assert corpus == [make_scene(3, index).caption for index in range(20)]
    assert len(set(corpus)) == 20
