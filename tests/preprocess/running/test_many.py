"""Fifty clips with one in ten bad: every file is accounted for, exactly once."""

import json
from collections import Counter
from pathlib import Path

from con360av_jax.data.source import open_dataset
from con360av_jax.media.files import write_clip
from con360av_jax.scenes.synthetic import render_clip
from preprocess.cli import main
from tests.support.bad_recordings import made

RATE = 16_000


def test_fifty_clips_with_five_bad_ones_come_out_with_exact_counts(config_path: Path, tmp_path: Path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for index in range(45):
        clip = render_clip(3, 2.0, 32, 64, 4.0, RATE, index)
        write_clip(videos / f"scene_{index:02d}.mp4", clip.video, 4, clip.sound, RATE, lossless_audio=True)
    bad = [made(kind, videos)[1] for kind in ("not a video", "truncated", "no sound", "square", "moved")]
    options = ["--out", str(tmp_path / "data"), "--config", str(config_path), "--viewpoints", "2"]
    assert main(["run", str(videos), *options, "--workers", "0", "--max-rejected", "5"]) == 0

    dataset = open_dataset(tmp_path / "data")
    manifest = dataset.manifest
    assert (manifest.clips, manifest.samples, manifest.rejected) == (45, 45 * 2 * 2, 5)
    assert Counter(entry.clip for entry in dataset.samples) == {f"scene_{index:02d}": 4 for index in range(45)}
    lines = [json.loads(line) for line in (tmp_path / "data" / "rejected.jsonl").read_text().splitlines()]
    assert sorted(lines, key=str) == sorted(bad, key=str)
