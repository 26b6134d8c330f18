"""config.json files from which the original libraries build our networks again, and both sides at published width."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from con360av_jax.diffusion.schedule import alphas_cumprod, sampling_timesteps
from con360av_jax.errors import ConfigError
from convert.config_json import from_settings, to_settings
from convert.rules import place
from convert.tables.motion import MOTION_ADAPTER
from tests.support.original_networks import (
    ADAPTER,
    AUDIO_UNET,
    AUDIO_VAE,
    CLAP,
    CLIP,
    DDIM,
    HIFIGAN,
    IMAGE_UNET,
    LIBRARY,
    PNDM,
    PUBLISHED,
    Json,
    as_lists,
    motion_unet,
    original,
    part,
    torch,
    wanted,
)
from tests.support.published_folders import image_unet_json, motion_adapter_json


@pytest.mark.parametrize(("config", "millions"), PUBLISHED.values(), ids=PUBLISHED)
def test_at_published_width_counts_are_the_published_ones_and_rules_fit_completely(config: Json, millions: float):
    paths = wanted(config)
    count = sum(int(np.prod(shape)) for shape in paths.values()) / 1e6
    assert abs(count - millions) < 0.01, count
    with torch.device("meta"):
        state = original(config).state_dict()
    placed, problems = place(state, part(config).table)
    assert problems == []
    assert len({path for path, _ in placed.values()}) == len(placed)
    # Views of a single zero: layouts only move axes, so that no memory is needed.
    shapes = {
        path: layout.to_jax(np.broadcast_to(np.float32(0), tuple(state[name].shape))).shape
        for name, (path, layout) in placed.items()
    }
    assert shapes == paths


@pytest.mark.parametrize(("middle", "tensors"), [(True, 567), (False, 540)])
def test_a_published_adapter_fills_the_motion_modules_and_nothing_else(middle: bool, tensors: int):
    with torch.device("meta"):
        names = original({**ADAPTER, "use_motion_mid_block": middle}).state_dict()
    assert len(names) == tensors
    placed, problems = place(names, MOTION_ADAPTER)
    assert problems == []
    config = motion_unet(use_motion_mid_block=middle)
    motion = {f"unet/video/{path}" for path in wanted(config) if "motion_modules" in path}
    assert sorted(path for path, _ in placed.values()) == sorted(motion)


VARIED = {
    "audio": {**AUDIO_UNET, "layers_per_block": [1, 2, 3, 1], "attention_head_dim": [2, 4, 6, 8], "norm_eps": 1e-4},
    "video": motion_unet(motion_num_attention_heads=[4] * 4, use_motion_mid_block=False, norm_num_groups=16),
    "VAE": {**AUDIO_VAE, "layers_per_block": 1, "norm_num_groups": 8},
    "CLIP": {**CLIP, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_attention_heads": 8},
    "CLAP": {**CLAP, "max_position_embeddings": 100, "pad_token_id": 3},
    "vocoder": {**HIFIGAN, "normalize_before": True, "leaky_relu_slope": 0.2, "upsample_rates": [4, 4, 2, 2, 2]},
}


@pytest.mark.parametrize(
    "config", [*(config for config, _ in PUBLISHED.values()), *VARIED.values()], ids=[*PUBLISHED, *VARIED]
)
def test_the_way_back_gives_a_file_from_which_the_original_builds_the_same_network(config: Json):
    settings_of = part(config)
    written = settings_of.write(settings_of.read(config))
    assert settings_of.read(written) == settings_of.read(config)
    with torch.device("meta"):
        first, second = original(config), original(written)
    assert _shapes(second) == _shapes(first)
    assert _deciding(second) == _deciding(first)


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _deciding(model: Any) -> dict[str, object]:
    """A model's own options but those that decide no number; per level, also where one number is given for all."""
    options = model.config.to_dict() if hasattr(model.config, "to_dict") else dict(model.config)
    known = LIBRARY[type(model).__name__]
    found = {name: options.get(name) for name in (*known.read, *known.fixed)}
    levels = len(options.get("block_out_channels", ()))
    return {
        name: [value] * levels if isinstance(value, int) and not isinstance(value, bool) else as_lists(value)
        for name, value in found.items()
        if name not in ("model_type", "position_embedding_type")  # transformers 5 no longer reads the latter
    }


def test_an_image_unet_and_an_adapter_come_back_too():
    config = replace(to_settings.video_unet(IMAGE_UNET, ADAPTER), motion_heads=4, motion_mid_block=False)
    image, adapter = image_unet_json(config), motion_adapter_json(config)
    assert to_settings.video_unet(image, adapter) == config
    with torch.device("meta"):
        assert _shapes(original(image)) == _shapes(original(IMAGE_UNET))
        assert _shapes(original(adapter)) == _shapes(original({**ADAPTER, "use_motion_mid_block": False}))


def test_what_an_original_has_no_option_for_cannot_be_written():
    with pytest.raises(ConfigError, match="motion_norm_groups=16 and norm_groups=32"):
        from_settings.video_unet_json(replace(to_settings.video_unet(motion_unet(), None), motion_norm_groups=16))
    with pytest.raises(ConfigError, match="AutoencoderKL's norm_eps is 1e-06, but norm_eps=1e-05"):
        from_settings.vae_json(replace(to_settings.vae(AUDIO_VAE), norm_eps=1e-5))


@pytest.mark.parametrize(
    "config",
    [
        DDIM,
        PNDM,
        {**PNDM, "timestep_spacing": "linspace", "beta_schedule": "linear"},
        {**DDIM, "prediction_type": "v_prediction"},
    ],
)
def test_schedules_are_those_of_diffusers_both_ways(config: Json):
    schedule = to_settings.schedule(config)
    written = from_settings.schedule_json(schedule)
    assert to_settings.schedule(written) == schedule
    theirs, again = _scheduler(config), _scheduler(written)
    # diffusers multiplies a thousand float32, ours are float64 until the end.
    np.testing.assert_allclose(alphas_cumprod(schedule), theirs.alphas_cumprod.numpy(), rtol=1e-5)
    np.testing.assert_array_equal(theirs.alphas_cumprod, again.alphas_cumprod)
    assert theirs.final_alpha_cumprod == again.final_alpha_cumprod
    assert theirs.config["prediction_type"] == again.config["prediction_type"]
    again.set_timesteps(20)
    np.testing.assert_array_equal(sampling_timesteps(schedule, 20), again.timesteps)


def _scheduler(config: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing diffusers warns about its own dependencies
        import diffusers
    return getattr(diffusers, config["_class_name"]).from_config(config)
