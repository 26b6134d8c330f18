"""An exported model is its run rounded to float16, always the same bytes, and opens by path or by name."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import con360av_jax as c3
from con360av_jax import cli
from con360av_jax.base.exported import write_exported
from con360av_jax.base.parts import PARTS
from con360av_jax.base.pretrained import open_pretrained
from con360av_jax.base.tokenizer import tokenise
from con360av_jax.config.files import config_of
from con360av_jax.config.settings import Config, MeshConfig
from con360av_jax.data.source import open_dataset
from con360av_jax.errors import CheckpointError
from con360av_jax.evaluate.settings import find_weights
from con360av_jax.evaluate.training_data import trained_on
from con360av_jax.models.functional import Params, flatten
from con360av_jax.runtime import packaged
from con360av_jax.sharding import make_mesh
from convert.inspection import inspect_path
from tests.support import tiny_world
from tests.support.damage import flip

pytestmark = pytest.mark.usefixtures("quick_compiles")

WEIGHTS = ("base.safetensors", "control.safetensors")


def export(source: Path, out: Path) -> Path:
    assert cli.main(["export", str(source), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def exported(lean: Config) -> Path:
    return export(tiny_world.run(lean), tiny_world.world() / "exported")


@pytest.fixture
def shipped(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without models, and a package that has this one under the name small."""
    (tmp_path / "packaged").mkdir()
    (tmp_path / "packaged" / "small").symlink_to(exported)
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "packaged")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def rounded(tree: Params) -> Params:
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16).astype(np.float32), tree)


def test_an_exported_run_is_its_moving_average_and_base_rounded_to_float16(exported: Path, lean: Config):
    source, found = c3.load(tiny_world.run(lean)), c3.load(exported)
    assert (found.config, found.step) == (source.config, 7)
    tiny_world.assert_same(jax.device_get(found.params), rounded(source.params))
    before, after = source.codecs.pretrained, open_pretrained(exported, verify=True)
    for part in set(PARTS) - {"joint"}:
        tiny_world.assert_same(jax.device_get(after.params(part)), rounded(before.params(part)))
    for name, tokenizer in after.tokenizers.items():
        captions = ["a bell rings", "Unheard-of wörds!"]
        wanted = tokenise(before.tokenizers[name], captions, 77)[0]
        np.testing.assert_array_equal(tokenise(tokenizer, captions, 77)[0], wanted)


def test_the_same_weights_give_the_same_bytes_also_from_an_export(exported: Path, lean: Config, tmp_path: Path):
    wanted = tiny_world.files_below(exported)
    assert tiny_world.files_below(export(tiny_world.run(lean), tmp_path / "again")) == wanted
    assert tiny_world.files_below(export(exported, tmp_path / "twice")) == wanted


def test_another_control_leaves_the_file_of_the_base_as_it_is(exported: Path, lean: Config, tmp_path: Path):
    before = export(tiny_world.base(lean), tmp_path / "base")
    base, control = ((before / name).read_bytes() == (exported / name).read_bytes() for name in WEIGHTS)
    assert base and not control
    assert c3.load(before).step == 0


def test_weights_take_two_bytes_a_parameter(exported: Path):
    totals = json.loads((exported / "report.json").read_text())["totals"].values()
    parameters, tensors = (sum(part[name] for part in totals) for name in ("parameters", "tensors"))
    size = sum((exported / name).stat().st_size for name in WEIGHTS)
    assert 2 * parameters < size < 2 * parameters + 200 * tensors


def test_the_report_says_what_the_weights_were_trained_on_and_names_no_place(exported: Path, lean: Config):
    text = (exported / "report.json").read_text()
    assert str(tiny_world.world()) not in text
    report = json.loads(text)
    run = json.loads((tiny_world.run(lean) / "run.json").read_text())
    assert (report["origin"], report["step"]) == ("random weights, seed 3", 7)
    assert report["trained"] == [{
        "part": "joint",
        "trainable": "control",
        "run": "run-lean",
        "step": 7,
        "batch_size": 4,
        "seed": 0,
        "data": {"dataset": "dataset-lean", "sha256": run["dataset"]["sha256"]},
        "base_sha256": run["base"]["sha256"],
        "commit": run["commit"],
    }]  # fmt: skip


def test_an_evaluation_on_the_training_data_is_told(exported: Path, lean: Config):
    weights = find_weights(exported, ema=True)
    told = "this is a dataset that these weights were trained on"
    for folder, wanted in ((tiny_world.dataset(lean), told), (tiny_world.held_out(lean), "")):
        dataset = open_dataset(folder)
        assert trained_on(weights, dataset, dataset.samples) == wanted


@pytest.mark.parametrize("name", [*WEIGHTS, "config.json", "tokenizer_video/tokenizer.json"])
@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_changed_truncated_or_missing_file_is_one_line(exported: Path, tmp_path: Path, name: str, damage):
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    damage(copy / name)
    with pytest.raises(CheckpointError, match=name) as caught:
        c3.load(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"form": "float16 safetensors", "version": 2}'])
def test_a_corrupt_or_newer_report_is_one_line(exported: Path, tmp_path: Path, text: str):
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    (copy / "report.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"report.json is (not JSON|of another version than [12])"):
        c3.load(copy)


@pytest.mark.parametrize("value", [70_000.0, np.inf, np.nan])
def test_a_value_that_float16_cannot_hold_is_refused(exported: Path, lean: Config, tmp_path: Path, value: float):
    parts = [("vocoder", {"conv_pre/bias": np.array([0.5, value], np.float32)})]
    with pytest.raises(CheckpointError, match="vocoder/conv_pre/bias holds values that float16 cannot"):
        write_exported(tmp_path / "out", lean, parts, exported, {})
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(exported: Path, capsys: pytest.CaptureFixture[str]):
    before = tiny_world.files_below(exported)
    assert cli.main(["export", str(exported), "--out", str(exported)]) == 2
    assert capsys.readouterr().err == (
        f"con360av: error: {exported} exists already: remove it or choose another folder\n"
    )
    assert tiny_world.files_below(exported) == before


def test_weights_of_the_last_step_are_not_in_an_export(exported: Path):
    for opened in (c3.load, find_weights):
        with pytest.raises(CheckpointError, match="holds only the moving average"):
            opened(exported, ema=False)


def test_parameters_go_straight_into_shardings_and_below_a_path(exported: Path):
    opened, everywhere = open_pretrained(exported), NamedSharding(make_mesh(MeshConfig(data=8)), P())
    plain = opened.params("joint", below=("film",))
    assert flatten(plain).keys() == {
        name.removeprefix("film/") for name in flatten(opened.params("joint")) if name.startswith("film/")
    }
    spread = opened.params("joint", jax.tree.map(lambda _: everywhere, plain), ("film",))
    assert {leaf.sharding for leaf in jax.tree.leaves(spread)} == {everywhere}
    tiny_world.assert_same(jax.device_get(spread), jax.device_get(plain))
    with pytest.raises(CheckpointError, match="has no parameters below stranger/"):
        opened.params("joint", below=("stranger",))


def test_a_packaged_model_opens_by_its_name(shipped: Path, exported: Path, lean: Config):
    assert packaged.packaged_models() == ["small"]
    tiny_world.assert_same(jax.device_get(c3.load("small").params), jax.device_get(c3.load(exported).params))
    weights = find_weights(Path("small"), ema=True)
    assert (weights.step, weights.kind) == (7, "pretrained")
    assert config_of("small") == lean
    with tiny_world.without_network():
        arguments = ["sample", "--checkpoint", "small", "--out", "view.mp4", "--caption", "a bell"]
        assert cli.main([*arguments, "--viewpoint", "yaw=30"]) == 0
    assert json.loads((shipped / "view.json").read_text())["trained_steps"] == 7


def test_a_folder_of_that_name_comes_before_the_packaged_model(shipped: Path, lean: Config):
    (shipped / "small").symlink_to(tiny_world.base(lean))
    assert find_weights(Path("small"), ema=True).step == 0


def test_an_unknown_name_lists_the_packaged_models(shipped: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["sample", "--checkpoint", "large", "--out", "x.mp4", "--caption", "a bell"]) == 2
    assert capsys.readouterr().err == (
        "con360av: error: large does not exist: give a base, a run, RUN/checkpoints/STEP or the name of a packaged "
        "model (packaged: small)\n"
    )


def test_the_converter_shows_what_an_export_holds(exported: Path):
    totals = json.loads((exported / "report.json").read_text())["totals"]
    shown = {part.name: part for part in inspect_path(exported)}
    assert {name: {"tensors": part.tensors, "parameters": part.parameters} for name, part in shown.items()} == totals
    assert all(part.dtypes == {"float16": part.tensors} for part in shown.values())
    assert [file.name for file in shown["joint"].files] == list(WEIGHTS)


def test_training_goes_on_from_a_packaged_model(shipped: Path, lean: Config):
    config = replace(lean, train=replace(lean.train, steps=1, checkpoint_every=1))
    arguments = ["train", "--base", "small", "--dataset", str(tiny_world.dataset(lean)), "--out", "run"]
    with tiny_world.without_network():
        assert cli.main([*arguments, "--config.train.steps", "1", "--config.train.checkpoint-every", "1"]) == 0
    found = c3.load(shipped / "run")
    assert (found.step, found.config.model) == (1, config.model)
