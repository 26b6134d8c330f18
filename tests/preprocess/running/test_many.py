"""Fifty clips with one in ten bad: every file is accounted for, exactly once."""

import json
from collections import Counter
from pathlib import Path

import numpy as np

from con360av_jax.config.files import save_config
from con360av_jax.config.settings import Config
from con360av_jax.data.source import open_dataset
from con360av_jax.media.files import write_clip
from con360av_jax.scenes.synthetic import render_clip
from preprocess.cli import main

RATE = 16_000


def bad_files(folder: Path, good: Path) -> dict[str, str]:
    """Five files of different kinds; the stage that finds each."""
    whole = good.read_bytes()
    (folder / "bad0_text.mp4").write_text("this is no video")
    (folder / "bad1_truncated.mp4").write_bytes(whole[: len(whole) // 2])
    frames = np.random.default_rng(0).integers(0, 255, (16, 32, 64, 3)).astype(np.uint8)
    write_clip(folder / "bad2_mute.mp4", frames, 8, None, RATE)
    sound = np.random.default_rng(1).integers(-9000, 9000, 2 * RATE).astype(np.int16)
    write_clip(folder / "bad3_portrait.mp4", frames[:, :, :24], 8, sound, RATE)
    (folder / "bad4_gone.mp4").symlink_to(folder / "nowhere.mp4")
    return dict.fromkeys(sorted(path.name for path in folder.glob("bad*")), "standardise")


def test_fifty_clips_with_five_bad_ones_come_out_with_exact_counts(tiny: Config, tmp_path: Path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for index in range(45):
        clip = render_clip(3, 2.0, 32, 64, 4.0, RATE, index)
        write_clip(videos / f"scene_{index:02d}.mp4", clip.video, 4, clip.sound, RATE, lossless_audio=True)
    stages = bad_files(videos, videos / "scene_00.mp4")
    save_config(tiny, tmp_path / "tiny.json")
    arguments = [str(videos), *(str(path) for path in sorted(videos.glob("bad4*")))]
    options = ["--out", str(tmp_path / "data"), "--config", str(tmp_path / "tiny.json"), "--viewpoints", "2"]
    assert main(["run", *arguments, *options, "--workers", "0", "--max-rejected", "5"]) == 0

    dataset = open_dataset(tmp_path / "data")
    manifest = dataset.manifest
    assert (manifest.clips, manifest.samples, manifest.rejected) == (45, 45 * 2 * 2, 5)
    assert Counter(entry.clip for entry in dataset.samples) == {f"scene_{index:02d}": 4 for index in range(45)}
    lines = [json.loads(line) for line in (tmp_path / "data" / "rejected.jsonl").read_text().splitlines()]
    assert {Path(line["file"]).name: line["stage"] for line in lines} == stages
    assert len(lines) == 5 and all(line["reason"] for line in lines)
