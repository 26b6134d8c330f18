"""Panoramas whose edges meet pass, also of real recordings; parts of them and other projections do not."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from con360av_jax.config.settings import Config
from con360av_jax.data.fake import ALL_FIELDS, fake_sample
from con360av_jax.data.source import PREVIEWS, preview_name
from con360av_jax.data.writer import write_dataset
from con360av_jax.media.files import read_frames
from preprocess.doctor.edges import edge_fault
from preprocess.doctor.examine import examine
from tests.support.flawed_records import named


def written(path: Path, picture: np.ndarray) -> Path:
    cv2.imwrite(str(path), cv2.resize(picture, (1024, 512)))
    return path


def around() -> np.ndarray:
    """One wave of grey around the viewer."""
    azimuth = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    return np.tile(128 + 100 * np.sin(azimuth), (128, 1)).astype(np.uint8)


def test_a_closed_panorama_passes_wherever_it_is_cut_and_a_part_of_it_does_not(tmp_path: Path):
    for turn in (0, 20, 111):
        assert edge_fault(written(tmp_path / "a.png", np.roll(around(), turn, axis=1))) == ""
    fault = edge_fault(written(tmp_path / "a.png", around()[:, 30:130]))
    assert "its left and right edge differ by" in fault
    (tmp_path / "a.png").write_text("no picture")
    assert edge_fault(tmp_path / "a.png") == ""


def test_the_doctor_names_the_segment(tiny: Config, tmp_path: Path):
    fakes = [named(fake_sample(tiny, number), f"video{number}_000000") for number in range(2)]
    write_dataset(tmp_path / "data", fakes, tiny, ALL_FIELDS, [], {})
    folder = tmp_path / "data" / PREVIEWS
    folder.mkdir()
    written(folder / preview_name("video0_000000", 0), around())
    written(folder / preview_name("video1_000000", 0), around()[:, 30:130])
    findings = examine([tmp_path / "data"], 0, lambda name, done, total: None).findings
    (found,) = findings.kept["joined edges"]
    assert (found.severity, findings.tallies["joined edges"].looked_at) == ("warning", 2)
    assert found.where.startswith("video1_000000/0/0")


@pytest.mark.parametrize("name", ["alcatraz_mono_t00", "congo_stereo_t00", "overpass_stereo_4s"])
def test_real_recordings_pass_and_nine_tenths_of_them_do_not(shared_data: Path, tmp_path: Path, name: str):
    frame = read_frames(shared_data / f"{name}.mp4", 1, start=1, seconds=1)[0]
    assert edge_fault(written(tmp_path / "a.jpg", frame)) == ""
    assert edge_fault(written(tmp_path / "a.jpg", frame[:, : frame.shape[1] * 9 // 10]))
