"""A resumed run has the dataset that it had, or is told what changed and goes on with another where that is allowed."""

import hashlib
import json
import logging
from pathlib import Path

import pytest

from con360av_jax.config.settings import Config
from con360av_jax.data.fake import ALL_FIELDS, fake_sample
from con360av_jax.data.writer import write_dataset
from con360av_jax.errors import CheckpointError, ConfigError
from con360av_jax.train import run_folder
from con360av_jax.train.pretraining_data import RecordData
from con360av_jax.train.run_datasets import with_earlier


def write(folder: Path, config: Config, *numbers: int) -> Path:
    """A dataset of random records with these seeds."""
    samples = (fake_sample(config, number) for number in numbers)
    write_dataset(folder, samples, config, ALL_FIELDS, [], {"made by": "tests"})
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "report.json").write_text("{}")
    return tmp_path / "base"


def test_growing_a_dataset_says_what_changed_and_what_to_do(
    tiny: Config, base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    dataset, out = write(tmp_path / "dataset", tiny, 0), tmp_path / "run"
    run_folder.write_run(out, tiny, base, dataset)
    first = run_folder.open_run(out)
    run_folder.require_same_run(first, tiny, base, dataset)
    dataset.rename(tmp_path / "old")
    write(dataset, tiny, 0, 1)
    line = rf"dataset {dataset} has changed since {out} was trained on it \(1 -> 2 samples\): add --allow dataset"
    with pytest.raises(CheckpointError, match=line):
        run_folder.require_same_run(first, tiny, base, dataset)
    with caplog.at_level(logging.WARNING):
        run_folder.require_same_run(first, tiny, base, dataset, ["dataset"])
    assert "(1 -> 2 samples): the run goes on with it" in caplog.text

    run_folder.write_run(out, tiny, base, dataset, before=first)
    second = run_folder.open_run(out)
    run_folder.require_same_run(second, tiny, base, dataset)
    assert (second.dataset.samples, [one.samples for one in second.earlier]) == (2, [1])
    third = write(tmp_path / "third", tiny, 2, 3)
    another = rf"third is not the dataset that {out} was trained on, {dataset} \(other contents, 2 samples as before\)"
    with pytest.raises(CheckpointError, match=another):
        run_folder.require_same_run(second, tiny, base, third)
    run_folder.write_run(out, tiny, base, third, before=second)
    run_folder.write_run(out, tiny, base, third, before=run_folder.open_run(out))
    assert [one.samples for one in run_folder.open_run(out).earlier] == [1, 2]


def test_a_held_out_dataset_that_changed_is_told_and_never_allowed(tiny: Config, base: Path, tmp_path: Path):
    dataset, held_out = write(tmp_path / "dataset", tiny, 0), write(tmp_path / "held_out", tiny, 1)
    run_folder.write_run(tmp_path / "run", tiny, base, dataset, held_out)
    run = run_folder.open_run(tmp_path / "run")
    held_out.rename(tmp_path / "old")
    write(held_out, tiny, 1, 2, 3)
    with pytest.raises(CheckpointError, match=r"was validated on another: .*held_out \(1 -> 3 samples\); give that"):
        run_folder.require_same_run(run, tiny, base, dataset, ["dataset"], held_out)
    with pytest.raises(ConfigError, match="--allow validation is not a setting"):
        run_folder.require_same_run(run, tiny, base, dataset, ["validation"], held_out)


def test_runs_that_did_not_record_the_number_of_samples_say_so(tiny: Config, base: Path, tmp_path: Path):
    out, dataset = tmp_path / "run", write(tmp_path / "dataset", tiny, 0)
    run_folder.write_run(out, tiny, base, dataset)
    content = json.loads((out / "run.json").read_text())
    content["dataset"] = {"path": str(dataset), "sha256": hashlib.sha256(b"another").hexdigest()}
    (out / "run.json").write_text(json.dumps(content))
    with pytest.raises(
        CheckpointError, match=r"\(1 samples now; the run did not record how many it had\): add --allow"
    ):
        run_folder.require_same_run(run_folder.open_run(out), tiny, base, dataset)


def test_pretraining_on_a_grown_dataset_is_the_same(tiny: Config, base: Path, tmp_path: Path):
    dataset, out = write(tmp_path / "dataset", tiny, 0), tmp_path / "run"
    before = RecordData(dataset).describe()
    run_folder.write_pretraining(out, tiny, base, "vae_video", before)
    dataset.rename(tmp_path / "old")
    now = RecordData(write(dataset, tiny, 0, 1)).describe()
    run = run_folder.open_pretraining(out)
    with pytest.raises(CheckpointError, match=r"\(1 -> 2 samples\): add --allow dataset"):
        run_folder.require_same_pretraining(run, tiny, base, "vae_video", now)
    run_folder.require_same_pretraining(run, tiny, base, "vae_video", now, ["dataset"])
    run_folder.write_pretraining(out, tiny, base, "vae_video", with_earlier(now, run.data))
    again = run_folder.open_pretraining(out)
    run_folder.require_same_pretraining(again, tiny, base, "vae_video", now)
    kept = with_earlier(now, again.data)["earlier"]
    assert [one["samples"] for one in kept] == [1]
    # A run of an earlier version recorded no number of samples.
    old = {name: value for name, value in before.items() if name != "samples"}
    run_folder.write_pretraining(out, tiny, base, "vae_video", old)
    run_folder.require_same_pretraining(
        run_folder.open_pretraining(out), tiny, base, "vae_video", RecordData(tmp_path / "old").describe()
    )
    with pytest.raises(CheckpointError, match="was trained on other data"):
        run_folder.require_same_pretraining(again, tiny, base, "vae_video", {"scenes": 1, "version": 2})
