"""Viewpoints without a peak of their own are marked in their records and can be left out."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.config.settings import Config
from con360av_jax.data.fake import ALL_FIELDS, fake_sample
from con360av_jax.data.schema import describe, from_bytes, to_bytes
from con360av_jax.data.source import open_dataset
from con360av_jax.data.writer import write_dataset
from con360av_jax.errors import ConfigError, MediaError
from con360av_jax.sphere.geometry import directions
from preprocess.commands.run import config_to_use
from preprocess.stages.viewpoints import ViewpointSettings, find_viewpoints


def saliency(*peaks: tuple[int, int]) -> np.ndarray:
    """Three equal frames with a round bump at each of these pixels (row, column)."""
    rays = directions(32, 64)
    bumps = sum((np.exp(40 * (rays @ rays[place] - 1)) for place in peaks), np.zeros((32, 64)))
    return np.stack([bumps] * 3)


@pytest.mark.parametrize("moving", [False, True])
def test_viewpoints_that_only_fill_up_have_no_peak_and_can_be_left_out(moving: bool):
    maps = saliency((16, 10), (16, 40))
    settings = ViewpointSettings(count=4, moving=moving)
    found = find_viewpoints(maps, 8, settings)
    assert [viewpoint.peak > 1 for viewpoint in found] == [True, True, False, False]
    assert [viewpoint.peak for viewpoint in found[2:]] == [0.0, 0.0]
    kept = find_viewpoints(maps, 8, replace(settings, min_peak=1.0))
    for one, other in zip(kept, found[:2], strict=True):
        np.testing.assert_array_equal(one.track, other.track)


def test_a_segment_without_any_peak_is_rejected_only_if_one_is_asked_for():
    flat = np.ones((3, 16, 32))
    assert [viewpoint.peak for viewpoint in find_viewpoints(flat, 8, ViewpointSettings(count=2))] == [0.0, 0.0]
    with pytest.raises(MediaError, match=r"no viewpoint has a peak of 2 standard deviations .* the highest has 0"):
        find_viewpoints(flat, 8, ViewpointSettings(count=2, min_peak=2.0))
    with pytest.raises(ConfigError, match="min_peak is -1"):
        ViewpointSettings(min_peak=-1)


def test_the_peak_stands_in_record_and_index_and_is_unknown_in_those_of_earlier_versions(tiny: Config, tmp_path: Path):
    filler, given = replace(fake_sample(tiny, 0), peak=0.0), fake_sample(tiny, 1)
    assert from_bytes(to_bytes(filler)).peak == 0.0
    assert from_bytes(to_bytes(given)).peak is None
    assert "peak" not in describe(given.entry)
    write_dataset(tmp_path / "dataset", [filler, given], tiny, ALL_FIELDS, [], {})
    opened = open_dataset(tmp_path / "dataset")
    assert [entry.peak for entry in opened.samples] == [0.0, None]
    assert [sample.peak for sample in opened] == [0.0, None]
    lines = (tmp_path / "dataset" / "index.jsonl").read_text().splitlines()
    assert ["peak" in json.loads(line) for line in lines] == [True, False]


def test_without_base_the_sizes_of_the_paper_are_taken_and_said(
    tiny: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    assert config_to_use("", "none", tmp_path / "dataset").name == "published"
    assert "config published: the sizes of the paper, as neither --base nor --config says others" in caplog.text
    caplog.clear()
    assert config_to_use("debug", "none", tmp_path / "dataset").name == "debug"
    assert caplog.text == ""
    write_dataset(tmp_path / "dataset", [fake_sample(tiny, 0)], tiny, ALL_FIELDS, [], {})
    assert config_to_use("", "none", tmp_path / "dataset") == tiny
    assert f"config tiny: that of {tmp_path / 'dataset'}, which is continued" in caplog.text
