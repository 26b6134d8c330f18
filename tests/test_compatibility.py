"""Files of an older version open and give the same: a base, a dataset, a training run and an evaluation of it.

tests/reference/before_layout.tar.xz was written at commit c62034a, before the packages got their present layout: the
`lean` config of tests/support/tiny_world.py on one CPU device, every parameter of the base filled by repeating 61
numbers (they compress well), a run that stands at step 7, an evaluation of four of its clips, and one more clip of it.
"""

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from einops import rearrange
from jaxtyping import Array

import con360av_jax as c3
from con360av_jax import cli
from con360av_jax.base.pretrained import open_pretrained
from con360av_jax.commands.train import Train
from con360av_jax.data.loader import make_loader
from con360av_jax.data.source import open_dataset
from con360av_jax.data.writer import DatasetWriter, write_dataset
from con360av_jax.errors import ConfigError
from con360av_jax.evaluate.features import open_features
from con360av_jax.evaluate.results import read_results
from con360av_jax.evaluate.selection import read_clips
from con360av_jax.evaluate.settings import Making, find_weights, keep_to
from con360av_jax.models import joint
from con360av_jax.models.film import pool
from con360av_jax.train import checkpoint, run_folder
from con360av_jax.train.loop import train
from tests.support import tiny_world
from tests.support.paths import ROOT
from tests.support.tiny_config import TINY

METRICS = ("s_kl", "fad", "fad_infinity", "sound_distance", "av_align")
FEATURES = ("classes", "saliency", "sound")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked archive, elsewhere than it was written: the run finds its base by its relative path."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ROOT / "tests" / "reference" / "before_layout.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "before_layout"


def test_a_base_opens_and_every_tensor_has_its_recorded_hash(old: Path):
    base = open_pretrained(old / "base-lean", verify=True)
    assert base.config == tiny_world.lean(TINY)


def test_a_dataset_is_read_and_its_samples_are_written_as_the_same_bytes(old: Path, tmp_path: Path):
    dataset = open_dataset(old / "dataset-lean")
    assert dataset.config == tiny_world.lean(TINY)
    samples = [dataset[position] for position in range(len(dataset))]
    assert [sample.key for sample in samples] == list(dataset.keys) == [f"fake_00000{n}/0/0" for n in range(5)]
    again, made = tmp_path / "dataset-lean", dataset.manifest
    write_dataset(again, samples, dataset.config, made.fields, [], made.settings, shard_records=2)
    for entry in (made.index, *made.shards):
        assert (again / entry.file).read_bytes() == (dataset.folder / entry.file).read_bytes()


def test_recordings_can_be_added_to_a_dataset(old: Path, tmp_path: Path):
    """Its config lacks the settings that were added since."""
    folder = tmp_path / "dataset"
    shutil.copytree(old / "dataset-lean", folder)
    dataset = open_dataset(folder)
    made, keys = dataset.manifest, dataset.keys
    writer = DatasetWriter(folder, tiny_world.with_train(dataset.config, steps=3), made.fields, made.settings)
    writer.add(replace(dataset[0], key="another/0/0", clip="another"))
    writer.end_clip("another")
    writer.finish()
    assert open_dataset(folder).keys == (*keys, "another/0/0")


def test_the_loader_gives_the_same_batches(old: Path):
    dataset = open_dataset(old / "dataset-lean")
    loader = make_loader(dataset, dataset.config, batch_size=4, seed=0)
    batches = [next(loader) for _ in range(3)]
    loader.close()
    assert [batch["sample_id"].tolist() for batch in batches] == [[1, 2, 4, 0], [3, 0, 3, 1], [4, 2, 3, 0]]
    distances = [batch["maps"][0, 0, 3, 5, 1] for batch in batches]
    np.testing.assert_allclose(distances, [0.58839524, 0.48908377, 0.2220155], rtol=1e-6)


def test_a_run_generates_the_same_clip(old: Path, monkeypatch: pytest.MonkeyPatch):
    """With the maps pooled for audio as they then were: adaptively over the padded time, 32 steps for 25 of this clip.

    Since then they are pooled over the time that they show, which changes audio that is controlled, and nothing else.
    """

    def over_padding(features: Array, cells: int, steps: int) -> Array:
        return rearrange(pool(features, (cells, 1, 1)), "b n 1 1 c -> b 1 n 1 c")

    monkeypatch.setattr(joint, "pool_time", over_padding)
    with tiny_world.quick_compiles():
        model = c3.load(old / "run")
        clip = model.generate("a bell rings", viewpoint=c3.Viewpoint(yaw=30, pitch=0, fov=90), seed=5)
    with np.load(old / "clip.npz") as made:
        np.testing.assert_array_equal(clip.video, made["video"])
        np.testing.assert_allclose(clip.audio, made["sound"], atol=1e-5)


def test_an_evaluation_goes_on(old: Path):
    """Its settings lack those that were added since, and hash of all settings has changed with them."""
    weights = find_weights(old / "run" / "checkpoints" / "7", ema=True)
    making = Making(
        weights=weights,
        dataset=open_dataset(old / "dataset-lean"),
        seed=3,
        dtype=weights.config.train.compute_dtype,
        sampler=replace(weights.config.sampler, steps=3),
    )
    keep_to(old / "evaluation", making.settings("small"), unrecorded=making.unrecorded())
    with pytest.raises(ConfigError, match="seed: 3 -> 4"):
        keep_to(old / "evaluation", replace(making, seed=4).settings("small"), unrecorded=making.unrecorded())


def test_training_resumes_from_its_checkpoint(old: Path):
    run = run_folder.open_run(old / "run")
    assert run_folder.find_base(run) == (old / "base-lean").resolve()
    command = Train(base=old / "base-lean", dataset=old / "dataset-lean", out=run.folder, resume=True)
    assert command.starting_config() == run.config
    config = tiny_world.with_train(run.config, steps=11)
    with tiny_world.without_network():
        stopped = train(config, command.base, command.dataset, run.folder, resume=True)
    assert stopped is None and checkpoint.finished_steps(run.folder)[-1] == 11
    assert checkpoint.read_progress(run.folder / "checkpoints" / "11").next_batch == 11
    # As commit bc2f59c goes on with it: it left out both maps or none, so a run of its time leaves out none alone.
    losses = [line["loss"] for line in tiny_world.metrics(run.folder)]
    np.testing.assert_allclose(losses, [1.25179172, 0.98899633, 0.63881564, 1.78665709], rtol=1e-6)


def test_an_evaluation_is_read_and_compared(old: Path, tmp_path: Path):
    first, second = old / "evaluation", tmp_path / "second"
    results = read_results(first)
    assert tuple(metric.name for metric in results.metrics) == METRICS
    assert [clip.clip for clip in read_clips(first)] == [clip.clip for clip in results.clips]
    for part in FEATURES:
        assert open_features(first / "features" / "generated" / part).card == results.cards[part]
    second.mkdir()
    (second / "metrics.json").write_bytes((first / "metrics.json").read_bytes())
    page = tmp_path / "comparison.html"
    assert cli.main(["evaluate", "--compare", str(first), str(second), "--out", str(page), "--draws", "20"]) == 0
    differences = json.loads(page.with_suffix(".json").read_text())["differences"]
    assert {one["name"]: one["value"] for one in differences} == {
        metric.name: 0.0 for metric in results.metrics if metric.value is not None
    }
