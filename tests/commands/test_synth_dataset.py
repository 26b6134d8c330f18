"""con360av synth-dataset: what it writes is encoded by the base, survives kills, and is accepted by other commands."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import preprocess.cli
from con360av_jax.base.codecs import Codecs
from con360av_jax.base.pretrained import base_hash, open_pretrained
from con360av_jax.cli import main
from con360av_jax.config.files import save_config
from con360av_jax.config.settings import Config
from con360av_jax.data.schema import ENCODED_FIELDS, MAP_FIELDS, RAW_FIELDS
from con360av_jax.data.source import Dataset, open_dataset
from con360av_jax.evaluate.settings import find_weights
from con360av_jax.evaluate.training_data import trained_on
from tests.support import tiny_world
from tests.support.killed_command import run_killed

pytestmark = pytest.mark.usefixtures("quick_compiles")


def synth(out: Path, *options: object) -> int:
    return main(["synth-dataset", "--out", str(out), "--seed", "3", *map(str, options)])


@pytest.fixture(scope="module")
def encoded(lean: Config, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four records with raw and encoded fields."""
    out = tmp_path_factory.mktemp("synth") / "train"
    with tiny_world.quick_compiles():
        assert synth(out, "--records", 4, "--base", tiny_world.base(lean), "--keep-raw") == 0
    return open_dataset(out)


def test_encoded_fields_equal_those_of_the_codecs(lean: Config, encoded: Dataset):
    base = tiny_world.base(lean)
    codecs = Codecs(open_pretrained(base))
    assert encoded.manifest.fields == (*RAW_FIELDS, *ENCODED_FIELDS, *MAP_FIELDS)
    assert encoded.manifest.settings == {
        "scenes": {"records": 4, "seed": 3, "split": "train", "version": 2},
        "encoded": True,
        "base_sha256": base_hash(base),
    }
    for sample in encoded:
        arrays = sample.arrays
        text = codecs.encode_text([sample.caption])
        wanted = [*codecs.encode_mel(arrays["mel"]), *codecs.encode_video(arrays["video"])]
        wanted += [text["audio"][0], text["video"][0]]
        for name, value in zip(ENCODED_FIELDS, wanted, strict=True):
            np.testing.assert_array_equal(arrays[name], value, err_msg=name)


def test_training_takes_the_records(lean: Config, encoded: Dataset, tmp_path: Path):
    held_out = tmp_path / "validation"
    assert synth(held_out, "--records", 2, "--base", tiny_world.base(lean), "--split", "validation") == 0
    inputs = ["--base", tiny_world.base(lean), "--dataset", encoded.folder, "--validation", held_out]
    options = ["--out", tmp_path / "run", "--config.train.steps", 2, "--config.train.validate-every", 2]
    with tiny_world.without_network():
        assert main(["train", *map(str, [*inputs, *options])]) == 0
    assert [line["step"] for line in tiny_world.metrics(tmp_path / "run")] == [1, 2]
    weights = find_weights(tmp_path / "run", ema=True)
    assert "the dataset that the run was trained on" in trained_on(weights, encoded, encoded.samples)
    other = open_dataset(held_out)
    assert trained_on(weights, other, other.samples) == ""


def test_the_doctor_finds_nothing_wrong(lean: Config, encoded: Dataset, tmp_path: Path):
    save_config(lean, tmp_path / "lean.json")
    assert synth(tmp_path / "other", "--records", 3, "--config", tmp_path / "lean.json", "--split", "validation") == 0
    assert preprocess.cli.main(["doctor", str(encoded.folder), str(tmp_path / "other")]) == 0


@pytest.mark.parametrize(
    ("function", "call"), [("con360av_jax.data.writer.DatasetWriter.add", 4), ("os.replace", 8)], ids=["adding", "end"]
)
def test_a_killed_command_goes_on_to_the_same_bytes(function: str, call: int, lean: Config, tmp_path: Path):
    save_config(lean, tmp_path / "lean.json")
    options = ["--records", 5, "--config", tmp_path / "lean.json", "--shard-records", 2]
    assert synth(tmp_path / "whole" / "records", *options) == 0
    out = tmp_path / "killed" / "records"
    given = ["synth-dataset", "--out", str(out), "--seed", "3", *map(str, options)]
    run_killed(function, call, given, program="con360av_jax.cli")
    assert out.with_name("records.partial").is_dir() and not out.exists()
    assert synth(out, *options) == 0
    assert tiny_world.files_below(out.parent) == tiny_world.files_below(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--records 0", "--records must be positive, but is 0"),
        ("--records -8", "--records must be positive, but is -8"),
        ("--records 2 --workers 0", "--workers must be positive, but is 0"),
        ("--records 2 --seed -1", "a seed from 0 on"),
        ("--records 2 --config nothing", "no config is called 'nothing'"),
        ("--records 2 --base nothing", "nothing does not exist"),
        ("--records 2 --base BASE --config odd.json", "cannot take these clips"),
        ("--records 6 --base BASE --keep-raw", "settings.scenes.records: 4 -> 6"),
        ("--records 4 --base BASE", "other settings"),
        ("--records 4 --base BASE --keep-raw --seed 4", "settings.scenes.seed: 3 -> 4"),
    ],
)
def test_wrong_use_is_one_line_and_changes_nothing(
    options: str, words: str, lean: Config, encoded: Dataset, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    vae = replace(lean.model.vae, video=replace(lean.model.vae.video, widths=(8,)))
    odd = replace(lean, model=replace(lean.model, vae=vae), clip=replace(lean.clip, height=24))
    save_config(odd, tmp_path / "odd.json")
    before = tiny_world.files_below(encoded.folder)
    base = str(tiny_world.base(lean))
    given = [base if word == "BASE" else word for word in options.split()]
    assert main(["synth-dataset", "--out", str(encoded.folder), "--seed", "3", *given]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1 and error.startswith("con360av: error: ")
    assert tiny_world.files_below(encoded.folder) == before
