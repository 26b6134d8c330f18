"""Silent and black clips: those of a model count against it, those of the targets are left out for every model."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from con360av_jax import cli
from con360av_jax.config.settings import Config
from con360av_jax.data.fake import ALL_FIELDS, fake_sample
from con360av_jax.data.schema import Sample
from con360av_jax.data.writer import write_dataset
from con360av_jax.errors import MetricError
from con360av_jax.evaluate import extraction, generate, run
from con360av_jax.evaluate.extraction import Extraction
from con360av_jax.evaluate.faults import find_faults
from con360av_jax.evaluate.protocols import Protocol
from con360av_jax.evaluate.results import Results, read_results
from con360av_jax.evaluate.selection import read_clips
from con360av_jax.sample import Clip
from preprocess.features import material
from preprocess.features.extraction import extract
from preprocess.features.material import find_clips
from preprocess.features.networks import Found, Network
from tests.support import tiny_world
from tests.support.evaluation_pages import Read
from tests.support.evaluation_stand_ins import card

RECORDINGS = 8
Fault = Callable[[Clip], Clip]


def silent(clip: Clip) -> Clip:
    return replace(clip, audio=np.zeros_like(clip.audio))


def black(clip: Clip) -> Clip:
    return replace(clip, video=np.zeros_like(clip.video))


def intact(clip: Clip) -> Clip:
    return clip


def seen(clip: material.Clip) -> Found:
    return {"saliency": clip.video[:, ::4, ::4, 1].astype(np.float32)}


def heard(clip: material.Clip) -> Found:
    spectra = np.abs(np.fft.rfft(clip.audio.reshape(4, -1)))[:, 1:9].astype(np.float32)
    return {"sound": spectra, "classes": spectra}


def really_extracted(videos: Path, features: Path, side: str, protocol: Protocol, made: Extraction) -> None:
    """Extraction as it is, with two networks of a few numbers."""
    networks = (
        Network(name="eye", cards={"saliency": card("saliency")}, reads="video", rows=seen),
        Network(name="ear", cards={part: card(part) for part in ("sound", "classes")}, reads="audio", rows=heard),
    )
    extract(*find_clips(videos), networks, features)


@pytest.fixture(scope="module")
def dataset(lean: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight recordings of noise."""
    folder = tmp_path_factory.mktemp("faults") / "dataset"
    samples = [fake_sample(lean, number) for number in range(RECORDINGS)]
    write_dataset(folder, samples, lean, ALL_FIELDS, [], {"made by": "tests"})
    return folder


@pytest.fixture
def evaluate(lean: Config, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Evaluates a model that reproduces the targets with some noise, and half of them with a fault."""
    monkeypatch.setattr(run, "require_weights", lambda *_: None)
    monkeypatch.setattr(run, "load", lambda *_, **__: None)
    monkeypatch.setattr(extraction, "run_extractor", really_extracted)

    def sample_clips(fault: Fault, model: None, records: Sequence[Sample], making: object) -> Iterator[Clip]:
        for record in records:
            number = int(record.clip.removeprefix("fake_"))
            random = np.random.default_rng(number)
            video, sound = (record.arrays[name].astype(np.float64) for name in ("video", "sound"))
            clip = Clip(
                video=np.clip(video + random.normal(0, 20, video.shape), 0, 255).astype(np.uint8),
                audio=(sound / 32768 * 0.5 + random.normal(0, 0.05, sound.shape)).astype(np.float32),
                frames_per_second=lean.clip.frames_per_second,
                sample_rate=lean.mel.sample_rate,
                caption=record.caption,
                seed=0,
            )
            yield fault(clip) if number % 2 else clip

    def evaluated(fault: Fault, data: Path = dataset) -> Results:
        monkeypatch.setattr(generate, "sample_clips", partial(sample_clips, fault))
        folder = tmp_path / fault.__name__
        options = ["--run", str(tiny_world.run(lean)), "--dataset", str(data), "--out", str(folder), "--draws", "20"]
        assert cli.main(["evaluate", *options]) == 0
        return read_results(folder)

    return evaluated


def value(results: Results, name: str) -> float:
    metric = results.metric(name)
    assert metric is not None and metric.value is not None
    return metric.value


def test_a_model_that_is_silent_in_half_of_its_clips_scores_worse(
    evaluate: Callable[..., Results], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    good = evaluate(intact)
    capsys.readouterr()
    half = evaluate(silent)
    assert value(half, "fad") > 2 * value(good, "fad")
    assert value(half, "sound_distance") > 2 * value(good, "sound_distance")
    assert value(half, "av_align") < value(good, "av_align")
    assert value(half, "s_kl") == value(good, "s_kl")
    assert (value(good, "silent"), value(half, "silent"), value(half, "black")) == (0, 0.5, 0)
    assert {metric.clips for metric in half.metrics} == {RECORDINGS} and not half.exclusions
    assert "share of silent clips: 4 of 8 generated clips" in " ".join(capsys.readouterr().out.split())
    page = Read(tmp_path / "silent" / "metrics.html")
    assert "silent clips 4 of 8" in " ".join(page.text.split())
    compared = tmp_path / "page.html"
    folders = [str(tmp_path / name) for name in ("intact", "silent")]
    assert cli.main(["evaluate", "--compare", *folders, "--out", str(compared), "--draws", "200"]) == 0
    told = {one["name"]: one for one in json.loads(compared.with_suffix(".json").read_text())["differences"]}
    assert {told[name]["better"] for name in ("sound_distance", "silent")} == {folders[0]}
    assert told["sound_distance"]["clips"] == RECORDINGS


def test_a_model_that_is_black_in_half_of_its_clips_scores_worse(evaluate: Callable[..., Results]):
    good, half = evaluate(intact), evaluate(black)
    assert value(half, "s_kl") > 2 * value(good, "s_kl")
    assert value(half, "av_align") < value(good, "av_align")
    assert value(half, "fad") == value(good, "fad")
    assert (value(half, "black"), value(half, "silent")) == (0.5, 0)
    assert {metric.clips for metric in half.metrics} == {RECORDINGS} and not half.exclusions


def test_faulty_targets_are_left_out_for_every_model(lean: Config, evaluate: Callable[..., Results], tmp_path: Path):
    samples = [fake_sample(lean, number) for number in range(RECORDINGS)]
    for number, name in ((2, "sound"), (4, "video")):
        samples[number].arrays[name] = np.zeros_like(samples[number].arrays[name])
    write_dataset(tmp_path / "data", samples, lean, ALL_FIELDS, [], {"made by": "tests"})
    for fault in (intact, silent):
        results = evaluate(fault, tmp_path / "data")
        told = {(left.clip, left.metric): left.reason for left in results.exclusions}
        of_audio = dict.fromkeys(("fad", "sound_distance", "silent", "av_align"), "target: its audio is silent")
        of_video = dict.fromkeys(("s_kl", "black", "av_align"), "target: its video is black")
        assert told == {("fake_000002_0_0", name): reason for name, reason in of_audio.items()} | {
            ("fake_000004_0_0", name): reason for name, reason in of_video.items()
        }
        metric = results.metric("silent")
        assert metric is not None and metric.note.startswith(f"{4 * (fault is silent)} of 7 generated clips")


def test_a_generated_clip_that_cannot_be_read_is_an_error(
    lean: Config, evaluate: Callable[..., Results], tmp_path: Path
):
    evaluate(intact)
    folder = tmp_path / "intact"
    path = folder / "generated" / "fake_000003_0_0.mp4"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(MetricError, match=r"fake_000003_0_0.mp4.*generated clips are never left out: delete it"):
        find_faults(folder, read_clips(folder), lean)
