"""Studies: each variant is an evaluation, targets are shared, and viewpoints are compared."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from con360av_jax import cli
from con360av_jax.config.settings import Config, PerModality
from con360av_jax.data.fake import ALL_FIELDS, fake_sample
from con360av_jax.data.schema import Sample, sample_key
from con360av_jax.data.source import open_dataset
from con360av_jax.data.writer import write_dataset
from con360av_jax.evaluate import run, settings
from con360av_jax.evaluate.features import open_features
from con360av_jax.evaluate.metrics.frechet import accumulate, frechet_distance
from con360av_jax.evaluate.results import read_results
from con360av_jax.evaluate.selection import read_clips
from con360av_jax.evaluate.settings import Making
from con360av_jax.evaluate.study import study_variants
from tests.support import tiny_world
from tests.support.evaluation_stand_ins import Extractor

pytestmark = pytest.mark.usefixtures("quick_compiles")

SCENES = 3


@pytest.fixture(scope="module")
def dataset(lean: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes, each seen from two viewpoints, and one that is seen from one only."""

    def seen(number: int) -> Sample:
        sample = fake_sample(lean, number)
        clip, viewpoint = f"scene_{number // 2}", number % 2
        return replace(sample, clip=clip, viewpoint_index=viewpoint, key=sample_key(clip, 0, viewpoint))

    folder = tmp_path_factory.mktemp("study") / "dataset"
    samples = (seen(number) for number in range(2 * SCENES + 1))
    write_dataset(folder, samples, lean, ALL_FIELDS, [], {"made by": "tests"})
    return folder


@pytest.fixture
def given(lean: Config, dataset: Path, tmp_path: Path, one_model: None) -> list[str]:
    """The options of a study without those that tests vary."""
    folders = ["--run", str(tiny_world.run(lean)), "--dataset", str(dataset), "--out", str(tmp_path / "study")]
    return ["evaluate", *folders, "--draws", "20", "--batch-size", "2"]


def told(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "study" / "study.json").read_text())


def test_viewpoints_of_one_scene_share_noise_and_caption_and_are_set_apart(
    given: list[str], extractor: Extractor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert cli.main([*given, "--study", "viewpoints"]) == 0
    shown = capsys.readouterr().out
    arms = [tmp_path / "study" / f"viewpoint_{number}" for number in (0, 1)]
    first, second = (read_clips(arm) for arm in arms)
    assert [clip.seed for clip in first] == [clip.seed for clip in second] and len(first) == SCENES
    assert len({clip.seed for clip in first}) == SCENES
    assert [clip.clip[:-1] for clip in first] == [clip.clip[:-1] for clip in second]
    (between,) = told(tmp_path)["between"]
    assert (between["arm"], between["from"], between["name"]) == ("viewpoint_1", "viewpoint_0", "fad_to_viewpoint_0")
    for side, name in (("generated", "value"), ("targets", "target")):
        one, other = (accumulate(open_features(arm / "features" / side / "sound")) for arm in arms)
        assert between[name] == pytest.approx(frechet_distance(one, other, "unbiased"), rel=1e-6)
        assert between[name] == pytest.approx(told(tmp_path)["between_all"][0][name], rel=1e-6)
    assert between["low"] < between["value"] < between["high"] and between["clips"] == 2 * SCENES
    assert "FAD (YAMNet) between the samples of viewpoint_1 and viewpoint_0: " in shown
    assert "FAD (YAMNet) between the samples of all viewpoints: " in shown
    assert (tmp_path / "study" / "study.html").is_file()


def test_an_ablation_has_five_arms_over_the_same_targets(
    given: list[str], extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert cli.main([*given, "--study", "ablation", "--count", "2"]) == 0
    names = ["full", "without_saliency", "without_basd", "without_caption", "without_control"]
    results = {name: read_results(tmp_path / "study" / name) for name in names}
    clips = {tuple(clip.clip for clip in found.clips) for found in results.values()}
    assert len(clips) == 1 and [one["name"] for one in told(tmp_path)["evaluations"]] == names
    files = {
        name: [path.read_bytes() for path in sorted((tmp_path / "study" / name / "generated").iterdir())]
        for name in names
    }
    assert len({tuple(content) for content in files.values()}) == 5
    target = f"targets/{results['full'].clips[0].clip}.mp4"
    assert len({(tmp_path / "study" / name / target).stat().st_ino for name in names}) == 1
    assert extractor.calls.count("target") == 1 and extractor.calls.count("generated") == 5
    assert {one["second"] for one in told(tmp_path)["differences"] if one["name"] == "s_kl"} == set(names[1:])

    before = told(tmp_path)
    monkeypatch.setattr(run, "load", lambda *_, **__: pytest.fail("the model was read again"))
    assert cli.main([*given, "--study", "ablation", "--count", "2"]) == 0
    assert told(tmp_path) == before and len(extractor.calls) == 6


def test_guidance_is_every_pair_of_scales(lean: Config, dataset: Path):
    weights = settings.find_weights(tiny_world.run(lean), ema=True)
    making = Making(weights=weights, dataset=open_dataset(dataset), dtype="float32", sampler=lean.sampler)
    arms = study_variants("guidance", making, 2, ("2", "audio=1,video=4"), ("1", "3"))
    assert list(arms) == [
        "text_2_map_1", "text_2_map_3", "text_audio1_video4_map_1", "text_audio1_video4_map_3",
    ]  # fmt: skip
    sampler = arms["text_audio1_video4_map_3"][0].sampler
    assert (sampler.text_guidance.audio, sampler.text_guidance.video, sampler.map_guidance.video) == (1, 4, 3)
    apart = settings.sampler_of(lean.sampler, None, "", "2", "audio=1,video=4")
    assert apart.map_guidance == PerModality(audio=2.0, video=2.0)
    assert apart.saliency_guidance == PerModality(audio=1.0, video=4.0)
    (chosen,) = {entries for _, entries in arms.values()}
    assert len(chosen) == 2
    ((name, (only, _)),) = study_variants("guidance", making, 2, (), ("3",)).items()
    assert name == "map_3" and only.sampler.text_guidance == lean.sampler.text_guidance
