"""`con360av bench` writes its numbers with the conditions of the measurement and leaves no files."""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from con360av_jax.bench import loader, train
from con360av_jax.cli import main
from con360av_jax.config.files import config_hash, save_config
from con360av_jax.config.settings import MeshConfig
from con360av_jax.data.fake import batch_spec
from con360av_jax.sharding import make_mesh
from con360av_jax.train.program import abstract_start
from tests.support import tiny_world


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    tiny_world.world()  # a temporary folder as well, but one that stays
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_bench_loader_counts_what_it_reads_and_says_on_what(tiny, tmp_path, temporary, capsys, monkeypatch):
    out, config = tmp_path / "results" / "loader.json", tmp_path / "tiny.json"
    save_config(tiny, config)
    options = ["bench", "loader", str(config), "--records", "40", "--batch-size", "4", "--threads", "0"]
    monkeypatch.setattr("sys.argv", ["con360av", *options, "--out", str(out)])
    assert main() == 0
    result = json.loads(out.read_text())
    assert result["command"] == f"con360av {' '.join(options)} --out {out}"
    assert result["commit"] and result["device"] and result["cores"] >= 1 and result["versions"]["grain"]
    assert result["config"] == {"name": "tiny", "hash": config_hash(tiny_world.with_train(tiny, loader_threads=0))}
    assert (result["benchmark"], result["batch_size"], result["threads"]) == ("loader", 4, 0)
    speed = result["records_per_second"]
    assert len(speed["rounds"]) == loader.ROUNDS and speed["median"] == statistics.median(speed["rounds"]) > 0
    size = result["dataset"]["bytes_per_record"]
    assert result["dataset"]["records"] == 40 and result["dataset"]["name"] == "procedural" and size > 1000
    assert result["megabytes_per_second"] == pytest.approx(speed["median"] * size / 1e6)
    assert "records per second" in capsys.readouterr().out
    assert not any(temporary.iterdir())


def test_bench_loader_reads_a_dataset_that_is_given_with_its_own_config(tiny, tmp_path):
    folder, out = tiny_world.dataset(tiny), tmp_path / "loader.json"
    options = ["--dataset", str(folder), "--records", "20", "--batch-size", "4", "--out", str(out)]
    assert main(["bench", "loader", *options]) == 0
    result = json.loads(out.read_text())
    assert result["dataset"]["name"] == str(folder) and result["dataset"]["records"] == tiny_world.RECORDS
    assert result["config"]["name"] == tiny.name


def test_bench_train_reports_numbers_that_follow_from_each_other(tiny, tmp_path, capsys):
    lean, config, out = tiny_world.lean(tiny), tmp_path / "lean.json", tmp_path / "train.json"
    save_config(lean, config)
    with tiny_world.quick_compiles():
        options = ["--steps", "4", "--config.train.seed", "5", "--out", str(out)]
        assert main(["bench", "train", str(config), *options]) == 0
    result = json.loads(out.read_text())
    assert result["config"]["hash"] == config_hash(tiny_world.with_train(lean, seed=5))
    assert result["commit"] and result["versions"]["jax"] and (result["batch_size"], result["steps"]) == (4, 4)
    assert result["mesh"] == {"data": 1, "fsdp": 1, "tensor": 1} and result["devices"] == 1
    step = result["step_seconds"]
    assert len(step["rounds"]) == 4 and step["median"] == pytest.approx(statistics.median(step["rounds"]))
    assert min(step["rounds"]) <= step["median"] <= step["p90"] <= max(step["rounds"])
    assert result["clips_per_second"] == pytest.approx(4 / step["median"])
    assert result["flops_per_clip"] == result["flops_per_step"] / 4 > 1e6
    assert 0 <= result["data_stall"] < 1 and result["compile_seconds"] > 0
    assert result["memory"]["parameters_gib"] > 0 and result["memory"]["temporaries_gib"] > 0
    assert result["mfu"] is None and "clips per second" in capsys.readouterr().out


def test_batches_of_bench_train_are_as_the_loader_makes_them(tiny, temporary):
    folder = tiny_world.dataset(tiny)
    for name, dataset, records in (("batches made ahead", None, 0), ("procedural", None, 3), (str(folder), folder, 0)):
        with train.open_batches(tiny, dataset, records) as (data, batches):
            assert data["name"] == name
            for _ in range(6):
                batch = next(batches)
                specs = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), batch)
                assert specs == batch_spec(tiny, tiny.train.batch_size)
    assert not any(temporary.iterdir())


def test_bench_train_counts_waiting_for_batches_and_nothing_before_the_first_counted_step(monkeypatch):
    now = [0.0]

    def passes(seconds: float) -> None:
        now[0] += seconds

    def batches() -> Any:
        passes(100.0)
        while True:
            passes(1.0)
            yield {}

    def advance(state: Any, batch: Any) -> Any:
        passes(3.0)
        return state, {"loss": np.zeros(())}

    start: Any = None

    monkeypatch.setattr(train.time, "perf_counter", lambda: now[0])
    ticks, waited = train.timed(advance, start, batches(), 5)
    assert np.diff(ticks).tolist() == [4.0] * 5 and waited == 5.0


def test_bench_train_starts_where_and_as_a_training_run_does(tiny):
    config = tiny_world.with_train(tiny_world.lean(tiny), compute_dtype="bfloat16")
    mesh = make_mesh(MeshConfig(data=2, fsdp=2))
    wanted = abstract_start(config, mesh)
    with tiny_world.quick_compiles():
        found = train.random_start(config, mesh)

    def same(array, spec):
        return array.shape == spec.shape and array.dtype == spec.dtype and array.sharding == spec.sharding

    assert all(jax.tree.leaves(jax.tree.map(same, found, wanted)))
    assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(
    ("part", "options", "said"),
    [
        ("loader", ["--records", "9", "--batch-size", "2"], "9 records are less than 5 batches of 2"),
        ("loader", ["--dataset", "nowhere"], "dataset folder nowhere does not exist"),
        ("loader", ["--threads", "-1"], "loader_threads=-1 is negative"),
        ("loader", ["--speed", "1"], "unknown option --speed"),
        ("loader", ["--steps", "3"], "--steps 3 is for bench train"),
        ("train", ["--steps", "0"], "--steps 0: give 1 or more"),
        ("train", ["--records", "-1"], "--records -1: give 0"),
        ("train", ["--batch-size", "0"], "a batch of 0 samples: give 1 or more"),
        ("train", ["--records", "5", "--dataset", "nowhere"], "are both given: choose one"),
        ("train", ["--dataset", "nowhere"], "dataset folder nowhere does not exist"),
        ("train", ["--config.mesh.data", "999"], "needs 999 devices"),
        ("train", ["--config.train.speed", "1"], "unknown option --config.train.speed"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(part, options, said, capsys):
    assert main(["bench", part, "debug", *options]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint and complaint.count("\n") == 1


def test_bench_sample_times_what_sample_does(tiny, tmp_path, capsys):
    base, out = tiny_world.base(tiny_world.lean(tiny)), tmp_path / "sample.json"
    with tiny_world.without_network(), tiny_world.quick_compiles():
        options = ["--config.sampler.steps", "2", "--config.sampler.solver", "unipc", "--batch-size", "2"]
        more = ["--config.sampler.map-guidance.video", "3", "--rounds", "2", "--out", str(out)]
        assert main(["bench", "sample", "--checkpoint", str(base), *options, *more]) == 0
    result = json.loads(out.read_text())
    assert (result["batch_size"], result["steps"], result["solver"]) == (2, 2, "unipc")
    assert result["predictions_per_step"] == {"audio": 2, "video": 3}
    sampling, decoding = result["sampling_seconds"], result["decoding_seconds"]
    assert len(sampling["rounds"]) == len(decoding["rounds"]) == 2
    assert 0 < result["open_seconds"] < result["first_clip_seconds"]
    totals = np.add(sampling["rounds"], decoding["rounds"])
    assert result["clips_per_second"] == pytest.approx(2 / np.median(totals))
    assert result["memory"]["host_peak_gib"] > 0 and "clips per second" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["sample"], "bench sample needs --checkpoint"),
        (["train", "--checkpoint", "run"], "bench sample needs --checkpoint, and nothing else takes it"),
        (["sample", "debug", "--checkpoint", "run"], "bench sample takes the config of --checkpoint"),
        (["sample", "--checkpoint", "nowhere"], "nowhere does not exist"),
    ],
)
def test_bench_sample_says_what_it_needs(options: list[str], message: str, capsys):
    assert main(["bench", *options]) == 2
    assert message in capsys.readouterr().err
