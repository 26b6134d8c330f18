"""Named protocols have the published settings and list the choices that their sources leave open."""

import pytest

from con360av_jax.errors import MetricError
from con360av_jax.evaluate.protocols import FADTK, PAPER, PROTOCOLS, SMALL, STYLEGANV, VIDEOGPT, named_protocol


def test_published_numbers():
    assert STYLEGANV.video is not None
    assert VIDEOGPT.video is not None
    assert (STYLEGANV.video.frames, STYLEGANV.video.clips) == ((16,), 2048)  # fvd2048_16f
    assert (STYLEGANV.video.covariance, VIDEOGPT.video.covariance) == ("biased", "unbiased")
    assert STYLEGANV.video.size == VIDEOGPT.video.size == 224
    assert FADTK.sound is not None
    assert (FADTK.sound.sample_rate, FADTK.sound.window_seconds, FADTK.sound.hop_seconds) == (48_000, 10.0, 1.0)
    assert (FADTK.sound.infinity_points, FADTK.sound.infinity_smallest) == (25, 500)
    assert SMALL.sound is not None
    assert SMALL.sound.window_seconds * SMALL.sound.sample_rate == 15_600


def test_the_paper_has_all_three_and_says_what_it_leaves_open():
    assert PAPER.video is not None
    assert PAPER.sound is not None
    assert PAPER.saliency is not None
    assert PAPER.video.frames == (16, 32)
    assert len(PAPER.left_open) >= 5


def test_the_baseline_s_own_protocols_sample_with_its_negative_caption():
    told = {name: protocol.negative_caption for name, protocol in PROTOCOLS.items() if protocol.negative_caption}
    assert told == dict.fromkeys(("paper", "styleganv"), "bad quality, worse quality")


def test_protocols_are_found_by_name():
    assert sorted(PROTOCOLS) == ["fadtk", "paper", "plain", "scenes", "small", "styleganv", "videogpt"]
    assert all(named_protocol(name).name == name for name in PROTOCOLS)
    with pytest.raises(MetricError, match="give one of paper, styleganv, videogpt, fadtk, small, scenes"):
        named_protocol("fvd")
