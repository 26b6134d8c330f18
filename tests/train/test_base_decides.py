"""A config gives training, sampler and devices; the base decides networks, mel and schedules, the dataset the clips."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from con360av_jax.cli import main
from con360av_jax.commands.bench import Bench
from con360av_jax.commands.plan import Plan
from con360av_jax.commands.train import Train
from con360av_jax.config.files import config_of, dataset_config, load_config, save_config
from con360av_jax.config.settings import AUDIO_SCHEDULE, Config, TrainConfig
from con360av_jax.errors import ConfigError
from tests.support import tiny_world
from tests.support.tiny_world import with_part

PUBLISHED = ("paper_a100x4", "a100x64", "baseline")


@pytest.fixture(scope="module")
def config(lean: Config) -> Config:
    """A base with its own VAE factor and noise schedule, and samples of another size than its config says."""
    scaled = with_part(lean, "model.vae.audio", scaling_factor=0.9)
    return replace(with_part(scaled, "schedule.audio", beta_end=0.02), name="own-factor")


@pytest.fixture(scope="module")
def large(config: Config) -> Config:
    return replace(with_part(config, "clip", height=32), name="large-clips")


@pytest.fixture(scope="module")
def folders(config: Config, large: Config) -> list[str]:
    return ["--base", str(tiny_world.base(config)), "--dataset", str(tiny_world.dataset(large))]


@pytest.fixture
def train(folders: list[str], tmp_path: Path) -> Callable[..., int]:
    def run(*options: str) -> int:
        with tiny_world.without_network(), tiny_world.quick_compiles():
            return main(["train", *folders, "--out", str(tmp_path / "run"), *options])

    return run


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_config_fits_a_base_with_another_vae_factor(name: str, config: Config, large: Config):
    base, dataset = tiny_world.base(config), tiny_world.dataset(large)
    found = Train(base=base, dataset=dataset, out=Path("run"), config=name).starting_config()
    given = load_config(name)
    assert (found.model, found.mel, found.schedule) == (config.model, config.mel, config.schedule)
    assert found.clip == large.clip != config.clip
    assert (found.name, found.train, found.sampler, found.mesh) == (name, given.train, given.sampler, given.mesh)


def test_a_run_records_all_settings_and_resumes_with_them(
    train: Callable[..., int], config: Config, large: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    options = ["--config.mesh.data", "1", "--config.train.steps", "1", "--config.train.trainable", "control"]
    assert train("--config", "paper_a100x4", *options) == 0
    (line,) = [record.getMessage() for record in caplog.records if "paper_a100x4" in record.getMessage()]
    assert "taken from" in line and "clip.frames_per_second: 8 -> 4" in line and "\n" not in line
    assert "train." not in line and "mesh." not in line
    recorded = config_of(tmp_path / "run")
    paper = load_config("paper_a100x4")
    assert (recorded.model, recorded.schedule, recorded.clip) == (config.model, config.schedule, large.clip)
    assert recorded.train == replace(paper.train, steps=1, epochs=0, trainable="control")
    caplog.clear()
    assert train("--resume", "--config.train.steps", "2") == 0
    assert config_of(tmp_path / "run") == with_part(recorded, "train", steps=2)
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
    assert not [record for record in caplog.records if "taken from" in record.getMessage()]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        (
            "model.connector.channels",
            "32",
            "model.connector.channels: 16 -> 32 (model: decided by the weights, leave out",
        ),
        (
            "schedule.audio.beta-end",
            "0.5",
            "schedule.audio.beta_end: 0.02 -> 0.5 (schedule: decided by the weights, leave",
        ),
        ("mel.floor", "0.1", "mel.floor is 1e-05 in the dataset, 0.1 in the config"),
        ("clip.height", "16", "clip.height is 32 in the dataset, 16 in the config"),
    ],
)
@pytest.mark.parametrize("name", ["", "paper_a100x4"])
def test_an_option_that_contradicts_base_or_dataset_is_refused(
    name: str, option: str, value: str, said: str, train: Callable[..., int], tmp_path: Path, capsys
):
    given = ["--config", name, "--config.mesh.data", "1"] if name else []
    assert train(*given, f"--config.{option}", value) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("con360av: error: ") == 1
    assert not (tmp_path / "run").exists()


def test_clips_that_the_base_cannot_take_are_refused(config: Config, tmp_path: Path):
    short = with_part(with_part(config, "clip", frames_per_second=3), "model.unet_video", motion_max_frames=3)
    save_config(short, tmp_path / "base" / "config.json")
    dataset = tiny_world.dataset(config)
    with pytest.raises(
        ConfigError, match="'own-factor' cannot take these clips: a segment has 4 frames, but motion_max"
    ):
        Train(base=tmp_path / "base", dataset=dataset, out=tmp_path / "run", config="paper_a100x4").starting_config()


def test_a_file_of_other_networks_gives_way_too(config: Config, large: Config, lean: Config, tmp_path: Path):
    file = tmp_path / "mine.json"
    mine = replace(with_part(lean, "model.connector", channels=32), train=TrainConfig(learning_rate=0.5))
    save_config(mine, file)
    base, dataset = tiny_world.base(config), tiny_world.dataset(large)
    found = Train(base=base, dataset=dataset, out=tmp_path / "run", config=str(file)).starting_config()
    assert (found.model, found.train) == (config.model, mine.train)


def test_planning_benchmarks_and_preprocessing_follow_the_same_rule(config: Config, large: Config):
    base, dataset = tiny_world.base(config), tiny_world.dataset(large)
    plan = Plan(config="a100x64", base=base, devices=4).starting_config()
    assert (plan.model, plan.clip, plan.train) == (config.model, config.clip, load_config("a100x64").train)
    bench = Bench(what="train", config="a100x64", dataset=dataset).starting_config()
    assert (bench.model, bench.clip, bench.train) == (large.model, large.clip, plan.train)
    run = dataset_config("debug", str(base))
    assert (run.model, run.mel, run.schedule.audio) == (
        config.model,
        config.mel,
        replace(AUDIO_SCHEDULE, beta_end=0.02),
    )
    assert run.clip == load_config("debug").clip
