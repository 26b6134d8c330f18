"""`con360av bench` measures what it says, writes it down with all it has to be quoted with, and leaves no files."""

import json
import statistics
import tempfile
from pathlib import Path

import pytest
import tiny_world

from con360av_jax import bench
from con360av_jax.cli import main
from con360av_jax.config_io import config_hash, save_config


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
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
    assert result["config"] == {"name": "tiny", "hash": config_hash(bench.with_threads(tiny, 0))}
    assert (result["benchmark"], result["batch_size"], result["threads"]) == ("loader", 4, 0)
    speed = result["records_per_second"]
    assert len(speed["rounds"]) == bench.ROUNDS and speed["median"] == statistics.median(speed["rounds"]) > 0
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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--records", "9", "--batch-size", "2"], "9 records are less than 5 batches of 2"),
        (["--dataset", "nowhere"], "dataset folder nowhere does not exist"),
        (["--threads", "-1"], "loader_threads=-1 is negative"),
        (["--speed", "1"], "unknown option --speed"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, said, capsys):
    assert main(["bench", "loader", "debug", *options]) == 2
    assert said in capsys.readouterr().err
