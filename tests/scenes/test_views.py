"""Views of procedural scenes: viewpoints, what they show, their captions, and painting without a panorama."""

from dataclasses import replace

import numpy as np
import pytest

from con360av_jax.scenes.captions_2 import NOUNS, vocabulary, words
from con360av_jax.scenes.panorama import render_frame, render_views
from con360av_jax.scenes.version_2 import make_scene_2
from con360av_jax.scenes.views import draw_viewpoints, position_directions, seen_objects, view_caption
from con360av_jax.sphere.geometry import direction_from_angles
from preprocess.stages.views import render_tracks

MANY = 300


@pytest.fixture(scope="module")
def drawn():
    """Scenes with a viewpoint each, at 1 s."""
    generator = np.random.default_rng(0)
    scenes = [make_scene_2(3, index) for index in range(MANY)]
    return [(scene, draw_viewpoints(scene, 1.0, generator)[0]) for scene in scenes]


def test_viewpoints_look_at_an_object_or_at_none(drawn):
    angles = []
    for scene, viewpoint in drawn:
        assert viewpoint.dtype == np.float32 and viewpoint[2] == viewpoint[3]
        assert 45 <= np.degrees(viewpoint[2]) <= 70 and abs(viewpoint[0]) <= np.pi and abs(viewpoint[1]) <= np.pi / 2
        centre = direction_from_angles(*viewpoint[:2])
        rays = [direction_from_angles(*item.motion.angles(np.array(1.0))) for item in scene.objects]
        angles.append(np.degrees(np.arccos(max(float(ray @ centre) for ray in rays))))
    empty = [not seen_objects(scene, 1.0, viewpoint) for scene, viewpoint in drawn]
    assert 0.14 <= np.mean(empty) <= 0.26
    assert max(angle for angle, none in zip(angles, empty, strict=True) if not none) <= 15.01
    assert min(angle for angle, none in zip(angles, empty, strict=True) if none) > 25


def test_an_empty_view_shows_no_part_of_an_object_and_another_one_does(drawn):
    times = np.array([0.0, 0.6, 1.0, 1.9])
    checked = [0, 0]
    for scene, viewpoint in drawn[:60]:
        seen = bool(seen_objects(scene, 1.0, viewpoint))
        bare = replace(scene, objects=())
        pictures = [render_views(each, times, viewpoint, 24, 24)[0] for each in (bare, scene)]
        # Flashes end softly, beyond the drawings.
        different = np.abs(np.diff(np.array(pictures, int), axis=0)[0]).max(axis=-1) > 24
        checked[seen] += 1
        assert different[2].mean() > 0.02 if seen else not different.any()
    assert min(checked) > 5


def test_a_view_caption_names_what_is_in_view_and_nothing_else(drawn):
    generator = np.random.default_rng(1)
    used = set[str]()
    for scene, viewpoint in drawn:
        shown = seen_objects(scene, 1.0, viewpoint)
        text = view_caption(scene, shown, viewpoint, generator, moves=True).lower()
        used |= words([text])
        seen = {item.name: item.colour for item in shown}
        for name, noun in NOUNS.items():
            assert (f" {noun} " in text) == (name in seen), text
            assert name not in seen or f"{seen[name]} {noun}" in text
        assert any(word in text for word in ("nothing but", "only")) == (not seen)
    assert used <= set(vocabulary()) and "nothing" in used


def test_views_without_a_panorama_look_like_views_cut_from_one(drawn):
    noises = []
    for scene, viewpoint in drawn[:12]:
        panorama = render_frame(scene, 0.7, 480, 960)
        cut = render_tracks([panorama], [viewpoint[None]], 64, 64)[0][0]
        direct = render_views(scene, np.array([0.7]), viewpoint, 64, 64)[0][0]
        noises.append(10 * np.log10(255**2 / np.square(cut.astype(float) - direct).mean()))
    # Two panoramas whose resolutions differ by a factor of two differ more than that.
    assert min(noises) > 35 and np.median(noises) > 40, noises


def test_the_direction_of_a_position_is_the_object_s_and_the_centre_s_is_the_viewpoint_s():
    for index in range(6):
        scene = make_scene_2(9, index)
        for viewpoint in draw_viewpoints(scene, 1.0, np.random.default_rng(index), 3):
            for item in seen_objects(scene, 1.0, viewpoint):
                motion = next(each.motion for each in scene.objects if each.name == item.name)
                wanted = direction_from_angles(*motion.angles(np.array(1.0)))
                found = position_directions(np.array(item.position), viewpoint)
                np.testing.assert_allclose(found, wanted, atol=1e-6)
            centre = position_directions(np.zeros((2, 2)), viewpoint)
            np.testing.assert_allclose(centre, [direction_from_angles(*map(float, viewpoint[:2]))] * 2, atol=1e-6)
