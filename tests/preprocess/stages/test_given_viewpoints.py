"""Viewpoints of a CSV file become tracks on each window's own clock."""

from pathlib import Path

import numpy as np
import pytest

from con360av_jax.config.settings import ClipConfig
from con360av_jax.errors import DatasetError, GeometryError
from preprocess.stages.given_viewpoints import GivenViewpoints
from preprocess.stages.segment import Window
from tests.support.panorama_files import standard_clip

HEADER = "clip,viewpoint,time,yaw,pitch,fov"


def window(name: str, index: int = 0, start: float = 0.0) -> Window:
    return Window(clip=standard_clip(Path(f"{name}.mp4"), duration=10.0), index=index, start=start)


def given(folder: Path, *lines: str, header: str = HEADER) -> GivenViewpoints:
    path = folder / "viewpoints.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return GivenViewpoints.read(path)


def test_every_viewpoint_of_a_clip_is_a_track_in_the_order_of_the_file(tmp_path: Path):
    viewpoints = given(tmp_path, "street,stage,0,30,-10,90", "park,tree,0,0,0,60", "street,audience,0,180,0,75")
    stage, audience = viewpoints(window("street"), ClipConfig())
    assert stage.shape == audience.shape == (32, 4) and stage.dtype == np.float32
    np.testing.assert_allclose(np.rad2deg(stage), np.broadcast_to([30, -10, 90, 90], (32, 4)), rtol=1e-6)
    np.testing.assert_allclose(np.rad2deg(audience), np.broadcast_to([180, 0, 75, 75], (32, 4)), rtol=1e-6)
    assert len(viewpoints(window("park"), ClipConfig())) == 1


def test_a_window_continues_where_its_clip_is_and_yaw_takes_the_short_way(tmp_path: Path):
    lines = ["a,x,0,171.3,0,60,50", "a,y,5,0,0,90,90", "a,x,10,-148.7,20,100,90"]
    viewpoints = given(tmp_path, *lines, header=f"{HEADER},vertical_fov")
    clip = ClipConfig()
    for start in (0.0, 3.0, 6.0):
        share = (start + np.arange(clip.frames) / clip.frames_per_second) / 10
        moving = np.rad2deg(viewpoints(window("a", 0, start), clip)[0])
        yaw = (171.3 + 40 * share + 180) % 360 - 180
        np.testing.assert_allclose(moving, np.stack([yaw, 20 * share, 60 + 40 * share, 50 + 40 * share], 1), atol=1e-4)


def test_a_clip_without_lines_is_named(tmp_path: Path):
    with pytest.raises(DatasetError, match="viewpoints.csv: has no viewpoint of clip 'b'; add a line"):
        given(tmp_path, "a,x,0,0,0,90")(window("b"), ClipConfig())


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((), "no line below its header"),
        (("a,x,0,0,0",), "line 2: 5 values for the columns clip,viewpoint,time"),
        (("a,x,0,0,0,90", "", "a,x,1,200,0,90"), "line 4: yaw=200 is out of range"),
        (("a,,0,0,0,90",), "line 2: clip and viewpoint must not be empty"),
        (("a,x,0,north,0,90",), "line 2: yaw='north' is not a number"),
        (("a,x,1,0,0,90", "a,y,0,0,0,90", "a,x,0,0,0,90"), "a, x: times must increase"),
    ],
)
def test_a_damaged_file_is_refused_with_the_line(tmp_path: Path, lines: tuple[str, ...], words: str):
    with pytest.raises(GeometryError, match=words) as refusal:
        given(tmp_path, *lines)
    assert "\n" not in str(refusal.value) and "viewpoints.csv" in str(refusal.value)
