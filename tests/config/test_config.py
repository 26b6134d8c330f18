"""Configs: cross-field checks, JSON round trips, hashes and errors that name the setting and the file."""

import dataclasses
import json
import subprocess
import sys

import pytest

from con360av_jax.base.parts import PARTS, part_factory
from con360av_jax.config.files import (
    changes,
    config_hash,
    from_dict,
    load_config,
    load_config_json,
    save_config,
    to_dict,
)
from con360av_jax.config.settings import ClipConfig, Config, MelConfig, NoiseSchedule
from con360av_jax.errors import ConfigError
from con360av_jax.models import functional
from con360av_jax.models.functional import flatten
from tests.support.tiny_config import TINY
from tests.support.tiny_world import with_part


def settings(config: Config) -> dict:
    """A copy of all settings that a test may break."""
    return json.loads(json.dumps(to_dict(config)))


@pytest.mark.parametrize(
    ("part", "values", "said"),
    [
        ("clip", {"map_width": 33}, "map_width=33"),
        ("clip", {"seconds": 0}, "seconds"),
        ("mel", {"high_hz": 9000.0}, "high_hz=9000"),
        ("clip", {"height": 20}, "20x16"),
        ("clip", {"frames_per_second": 64}, "64 frames"),
        ("mel", {"bands": 40}, "40 mel bands"),
        ("model.unet_audio", {"latent_channels": 4}, "audio U-Net has 4 latent channels"),
        ("model.unet_video", {"context_width": 24}, "width 24"),
        ("model.unet_audio", {"class_width": 24}, "embedding of 24"),
        ("model.vocoder", {"mel_bands": 80}, "80 mel bands"),
        ("model.unet_audio", {"levels": TINY.model.unet_audio.levels[:3]}, "3 levels"),
        ("model.unet_video", {"norm_groups": 5}, "width 16 is not divisible by norm_groups=5"),
        ("model.map_encoder", {"widths": (8, 8), "strides": (2,)}, "differ in length"),
        ("pretrain.vae_video", {"crop": 0}, "crop=0"),
        ("pretrain.vae_video", {"object_share": 1.5}, "object_share=1.5"),
    ],
)
def test_a_setting_that_does_not_fit_the_others_is_refused(tiny, part, values, said):
    with pytest.raises(ConfigError, match=said):
        with_part(tiny, part, **values)


def test_the_small_config_has_as_many_parameters_as_a_small_model_may_have():
    config = load_config("small")
    _, joint = functional.abstract(part_factory("joint", config))
    counts = {part: functional.count(functional.abstract(part_factory(part, config))[1]) for part in PARTS}
    motion = {path: leaf for path, leaf in flatten(joint).items() if "motion_modules" in path}
    millions = {
        **{name: functional.count(joint["unet"][name]) for name in ("audio", "video")},
        "motion": functional.count(motion),
        **{name: functional.count(joint[name]) for name in ("connector", "environment_encoder")},
        "control": functional.count(joint["map_encoder"]) + functional.count(joint["film"]),
        **{name: counts[name] for name in ("vae_video", "vae_audio", "vocoder")},
        "text": counts["text_audio"] + counts["text_video"],
    }
    assert {name: round(count / 1e6, 2) for name, count in millions.items()} == {
        "audio": 1.35, "video": 2.59, "motion": 0.77, "connector": 0.70, "environment_encoder": 1.28, "control": 0.07,
        "vae_video": 0.69, "vae_audio": 0.25, "vocoder": 0.45, "text": 0.29,
    }  # fmt: skip
    # As float16 it fits into 16 MB.
    assert 2 * sum(counts.values()) < 16_000_000


def test_a_recipe_replaces_the_training_settings_that_it_has():
    config = load_config("small")
    train = config.pretrain.vae_audio.recipe.within(config.train)
    assert (train.steps, train.decay_steps, train.trainable, train.schedule) == (8000, 8000, "all", "cosine")
    assert train.checkpoint_every == config.train.checkpoint_every


def test_json_round_trip_gives_the_same_config(tmp_path):
    config = load_config("debug")
    path = tmp_path / "config.json"
    save_config(config, path)
    assert load_config_json(path) == config
    assert load_config(path) == config
    assert from_dict(to_dict(config)) == config
    assert json.loads(path.read_text()) == to_dict(config)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


def test_settings_left_out_take_their_defaults(tiny):
    data = settings(tiny)
    del data["mesh"]
    assert from_dict(data) == tiny


@pytest.mark.parametrize(
    ("path", "key", "value", "said"),
    [
        (("model", "unet_audio", "levels", 1), "widht", 3, r"model\.unet_audio\.levels\[1\]: unknown setting widht"),
        (("model", "vae", "video"), "factor", 8, r"model\.vae\.video: unknown setting factor"),
        ((), "modle", {}, "unknown setting modle"),
        (("train",), "batch_size", "4", r"train\.batch_size: '4' is str, wanted int"),
        (("train",), "batch_size", 4.5, r"train\.batch_size: 4\.5 is float, wanted int"),
        (("train",), "learning_rate", "fast", r"train\.learning_rate: 'fast' is str, wanted a number"),
        (("train",), "remat", "some", r"train\.remat: .*some"),
        (("sampler", "text_guidance"), "audio", True, r"sampler\.text_guidance\.audio: True is bool"),
        (("clip",), "map_width", 7, "twice as wide as high"),
    ],
)
def test_a_wrong_nested_setting_is_named_with_its_path_and_file(tiny, tmp_path, path, key, value, said):
    data = settings(tiny)
    place = data
    for step in path:
        place = place[step]
    place[key] = value
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_setting_is_named(tiny):
    data = settings(tiny)
    del data["model"]["vae"]["audio"]["widths"]
    with pytest.raises(ConfigError, match=r"model\.vae\.audio.*widths"):
        from_dict(data)


def test_all_wrong_settings_are_named_at_once(tiny):
    data = settings(tiny)
    data["clip"]["hieght"] = 3
    data["train"]["stesp"] = 3
    with pytest.raises(ConfigError, match=r"hieght.*stesp"):
        from_dict(data)


def test_hash_is_the_same_in_another_process_and_changes_with_any_value(tiny):
    code = "from con360av_jax.config.files import *; print(config_hash(load_config('debug')))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    debug = load_config("debug")
    assert config_hash(debug) == other
    assert len(other) == 12 and int(other, 16) >= 0
    variants = [
        debug,
        tiny,
        dataclasses.replace(debug, name="other"),
        with_part(debug, "train", seed=1),
        with_part(debug, "sampler.map_guidance", video=2.0),
    ]
    assert len({config_hash(variant) for variant in variants}) == len(variants)


def test_hash_survives_json_when_a_float_was_given_as_an_int(tiny):
    config = with_part(with_part(tiny, "train", weight_decay=0), "sampler.text_guidance", audio=2, video=7)
    assert config_hash(from_dict(settings(config))) == config_hash(config)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("value = 3\n", "must hold a value `config`"),
        ("from con360av_jax.config.settings import ClipConfig\nconfig = ClipConfig(hieght=3)\n", "hieght"),
        ("from con360av_jax.config.settings import ClipConfig\nconfig = ClipConfig(seconds=0)\n", "seconds"),
        ("config = (\n", "never closed"),
        ("config = Config()\n", "Config"),
    ],
)
def test_a_wrong_python_config_is_named(tmp_path, text, said):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(file)
    assert str(caught.value).startswith(str(file))


def test_a_python_config_by_path_equals_the_one_by_name(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from configs.debug import config as base\n\nconfig = base\n")
    assert load_config(file) == load_config("debug")


def test_missing_configs_say_what_exists(tmp_path):
    with pytest.raises(ConfigError, match="no config is called 'debgu'.*debug"):
        load_config("debgu")
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.py")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        load_config(tmp_path / "broken.json")
    with pytest.raises(ConfigError, match="mapping"):
        from_dict([])  # pyright: ignore[reportArgumentType]


def test_derived_values_follow_the_settings():
    assert ClipConfig(seconds=4, frames_per_second=8).frames == 32
    assert MelConfig().frames_per_second == 100
    schedule = NoiseSchedule(beta_start=0.1, beta_end=0.2, kind="linear")
    assert schedule.train_steps == 1000


def test_changes_name_every_path_that_differs_also_where_one_side_has_none():
    old = {"a": {"b": [1, 2.0], "gone": None}, "same": {"c": True}}
    new = {"a": {"b": [1, 3.0, 4]}, "same": {"c": True}}
    lines = ["a.b.1: 2.0 -> 3.0", "a.b.2: not given -> 4", "a.gone: None -> not given"]
    assert [*changes(old, new).values()] == lines
    assert changes(old, old) == {}
