"""Evaluation in real processes: two that share the clips, and the small networks end to end."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import con360av_jax as c3
from con360av_jax import cli
from con360av_jax.config.settings import Config
from con360av_jax.data.source import open_dataset
from con360av_jax.evaluate import generate, settings
from con360av_jax.evaluate.results import read_results
from con360av_jax.evaluate.selection import choose
from con360av_jax.evaluate.settings import Making
from con360av_jax.media.files import read_audio, read_frames
from con360av_jax.runtime.compile_flags import quick_compile_flags
from tests.support import tiny_world

PATIENCE = 300


@pytest.mark.slow
def test_two_processes_share_the_clips_and_the_first_goes_on(tiny: Config, tmp_path: Path):
    lean = tiny_world.lean(tiny)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run, dataset, folder = tiny_world.run(lean), tiny_world.dataset(lean), tmp_path / "eval"
    arguments = ["evaluate", "--run", str(run), "--dataset", str(dataset), "--out", str(folder), "--batch-size", "2"]
    for name in ("fastgaze", "yamnet"):
        (tmp_path / name).write_bytes(b"no network")
    arguments += ["--weights", *(f"{name}={tmp_path / name}" for name in ("fastgaze", "yamnet"))]
    arguments += ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process-id"]
    environment = {**os.environ, "XLA_FLAGS": quick_compile_flags(0), "CON360AV_CACHE": "off"}
    script = "import sys; from con360av_jax.cli import main; sys.exit(main(sys.argv[1:]))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *arguments, str(number)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for number in range(2)
    ]
    try:
        errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    # The weights are no networks: the first process, alone, comes as far as extraction.
    assert [process.returncode for process in processes] == [2, 0], errors
    assert "features of" in errors[0] and "were not extracted: " in errors[0]

    making = Making(
        weights=settings.find_weights(run, True), dataset=open_dataset(dataset), dtype="float32", sampler=lean.sampler
    )
    with tiny_world.quick_compiles():
        entries, model = choose(making.dataset.samples, None, 0), c3.load(run)
        generate.generate(tmp_path, entries, making, lambda: model, 2)
    for alone, shared in zip(*(generate.files(at, "generated", entries) for at in (tmp_path, folder)), strict=True):
        assert np.abs(read_frames(alone, 4).astype(int) - read_frames(shared, 4)).mean() < 0.1
        np.testing.assert_allclose(read_audio(alone, 16_000), read_audio(shared, 16_000), atol=1e-3)


@pytest.mark.slow
def test_the_small_protocol_end_to_end(tiny: Config, shared_models: Path, tmp_path: Path, capsys, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setenv("CON360AV_CACHE", "off")
    lean = tiny_world.lean(tiny)
    weights = [f"fastgaze={shared_models / 'fastgaze.vxm'}", f"yamnet={shared_models / 'yamnet.tflite'}"]
    folders = ["--run", str(tiny_world.run(lean)), "--dataset", str(tiny_world.dataset(lean)), "--out", str(tmp_path)]
    with tiny_world.quick_compiles():
        assert cli.main(["evaluate", *folders, "--count", "3", "--draws", "20", "--weights", *weights]) == 0
    results = read_results(tmp_path)
    for name in ("s_kl", "fad", "sound_distance"):
        metric = results.metric(name)
        assert metric is not None and metric.value is not None and metric.value > 0
    assert results.cards["saliency"].weights_sha256.startswith("b76cefc218ec")
    assert results.cards["sound"].weights_sha256.startswith("10c95ea3eb9a")
    assert (tmp_path / "metrics.html").stat().st_size > 1000
    assert "Open" in capsys.readouterr().out
