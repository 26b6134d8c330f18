"""config.json files of the originals and our settings: what is read from the published ones, and what is refused."""

import contextlib
import inspect
import warnings

import pytest

from con360av_jax.config.settings import AUDIO_SCHEDULE, NoiseSchedule, TextConfig, UNetLevel, VAEConfig, VocoderConfig
from con360av_jax.errors import ConfigError
from convert.config_json import library_classes, to_settings
from convert.config_json.options import Original
from tests.support.original_networks import (
    ADAPTER,
    AUDIO_UNET,
    AUDIO_VAE,
    CLAP,
    CLIP,
    DDIM,
    HIFIGAN,
    IMAGE_UNET,
    IMAGE_VAE,
    LIBRARY,
    PARTS,
    PNDM,
    Json,
    as_lists,
    class_name,
    motion_unet,
    part,
)


def test_published_files_give_the_settings_of_their_models():
    audio, video = to_settings.audio_unet(AUDIO_UNET), to_settings.video_unet(IMAGE_UNET, ADAPTER)
    assert audio.levels == tuple(UNetLevel(width=w, attention=w > 192) for w in (192, 384, 576, 960))
    assert (audio.latent_channels, audio.class_width, audio.norm_groups, audio.norm_eps) == (8, 512, 32, 1e-5)
    assert video.levels == tuple(UNetLevel(width=w, attention=n < 3) for n, w in enumerate((320, 640, 1280, 1280)))
    assert (video.context_width, video.motion_heads, video.motion_max_frames) == (768, 8, 32)
    assert to_settings.video_unet(motion_unet(), None) == video
    assert to_settings.vae(AUDIO_VAE) == VAEConfig(
        widths=(128, 256, 512), in_channels=1, latent_channels=8, scaling_factor=0.9392935633659363
    )
    # Stable Diffusion's file does not say it; it is the library's default.
    assert to_settings.vae(IMAGE_VAE).scaling_factor == 0.18215
    assert to_settings.clip_text(CLIP) == TextConfig(vocabulary=49408, projection=768)
    assert to_settings.clap_text(CLAP) == TextConfig(
        vocabulary=50265, tokens=512, norm_eps=1e-12, activation="gelu", max_positions=514
    )
    assert to_settings.vocoder(HIFIGAN) == VocoderConfig()
    assert to_settings.schedule(DDIM) == AUDIO_SCHEDULE
    assert to_settings.schedule({**DDIM, "_class_name": "DDIMSchedulerRev"}) == AUDIO_SCHEDULE
    assert to_settings.schedule(PNDM) == NoiseSchedule(beta_start=0.00085, beta_end=0.012, kind="scaled_linear")


def test_head_counts_are_read_per_level_and_the_clearer_name_wins():
    config = {**AUDIO_UNET, "attention_head_dim": [4, 8, 12, 16]}
    assert [level.heads for level in to_settings.audio_unet(config).levels] == [4, 8, 12, 16]
    config["num_attention_heads"] = 6
    assert [level.heads for level in to_settings.audio_unet(config).levels] == [6] * 4


def test_a_text_encoder_in_the_file_of_a_whole_clip_is_found():
    assert to_settings.clip_text({"model_type": "clip", "text_config": CLIP}) == to_settings.clip_text(CLIP)


def test_an_adapter_without_a_config_has_the_widths_and_groups_of_the_unet():
    wide = {**IMAGE_UNET, "norm_num_groups": 16, "layers_per_block": 1}
    found = to_settings.video_unet(wide, {"motion_max_seq_length": 24, "use_motion_mid_block": False})
    assert (found.motion_norm_groups, found.motion_max_frames, found.motion_mid_block) == (16, 24, False)


@pytest.mark.parametrize("known", LIBRARY.values(), ids=LIBRARY)
def test_missing_options_have_the_library_s_defaults_and_no_option_of_a_network_is_forgotten(known: Original):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers
        import transformers

        if theirs := getattr(diffusers, known.name, None):
            signature = inspect.signature(theirs.__init__).parameters
            defaults = {name: parameter.default for name, parameter in signature.items() if name != "self"}
            named = {*known.read, *known.fixed, *known.idle}
            assert defaults.keys() <= named
            assert not known.strict or named - defaults.keys() <= {*library_classes.EMA}
        else:
            kind = getattr(transformers, known.name).config_class
            defaults = kind().to_dict()
            assert {*vars(kind)["__annotations__"]} - {"base_config_key"} <= {*known.read, *known.fixed, *known.idle}
    for name, value in known.read.items():
        assert as_lists(defaults.get(name, value)) == as_lists(value), name
    for name, values in known.fixed.items():
        assert defaults.get(name, values[0]) == values[0], name


def _adapted(options: Json) -> object:
    return to_settings.video_unet(IMAGE_UNET, {**ADAPTER, **options})


@pytest.mark.parametrize(
    ("config", "option", "value", "message"),
    [
        (AUDIO_UNET, "class_embed_type", "timestep", "supported is 'simple_projection'"),
        (AUDIO_UNET, "class_embeddings_concat", False, "supported is True"),
        (AUDIO_UNET, "cross_attention_dim", 1024, r"supported is \[192, 384, 576, 960\]"),
        (AUDIO_UNET, "act_fn", "gelu", "supported is 'silu' or 'swish'"),
        (AUDIO_UNET, "resnet_time_scale_shift", "scale_shift", "supported is 'default'"),
        (AUDIO_UNET, "dual_cross_attention", True, "supported is False"),
        (AUDIO_UNET, "only_cross_attention", [False, True, False, False], "supported is False"),
        (AUDIO_UNET, "upcast_attention", True, "supported is False"),
        (AUDIO_UNET, "center_input_sample", True, "supported is False"),
        (AUDIO_UNET, "flip_sin_to_cos", False, "supported is True"),
        (AUDIO_UNET, "freq_shift", 1, "supported is 0"),
        (AUDIO_UNET, "transformer_layers_per_block", [1, 1, 2, 1], "supported is 1"),
        (AUDIO_UNET, "mid_block_type", None, "supported is 'UNetMidBlock2DCrossAttn'"),
        (AUDIO_UNET, "down_block_types", ["AttnDownBlock2D"], "supported is 'CrossAttnDownBlock2D' or 'DownBlock2D'"),
        (AUDIO_UNET, "up_block_types", ["UpBlock2D"] * 4, "supported is attention where down blocks have it"),
        (AUDIO_UNET, "layers_per_block", [2, 2], "a list of 2, but there are 4 levels"),
        (AUDIO_UNET, "attention_head_dim", 0, "not a whole number from 1 on"),
        (AUDIO_UNET, "attention_head_dim", 7, "width 192 is not divisible by heads=7"),
        (AUDIO_UNET, "norm_num_groups", None, "not a whole number"),
        (AUDIO_UNET, "norm_eps", float("nan"), "not a finite number"),
        (AUDIO_UNET, "out_channels", 4, "supported is 8"),
        (AUDIO_UNET, "qk_norm", "rms", "unknown"),
        (motion_unet(), "motion_num_attention_heads", [8, 8, 4, 8], "the same number everywhere"),
        (motion_unet(), "temporal_transformer_layers_per_block", 2, "supported is 1"),
        (motion_unet(), "mid_block_layers", 2, "supported is 1"),
        (motion_unet(), "cross_attention_dim", [768, 768, 768, 1024], "the same width at all levels"),
        (IMAGE_VAE, "shift_factor", 0.1, "supported is None"),
        (IMAGE_VAE, "mid_block_add_attention", False, "supported is True"),
        (IMAGE_VAE, "norm_num_groups", 48, "no divisor"),
        (IMAGE_VAE, "down_block_types", ["DownEncoderBlock2D"] * 3, "a list of 3, but there are 4 levels"),
        (CLIP, "hidden_act", "relu", "supported is 'quick_gelu' or 'gelu'"),
        (CLIP, "model_type", "clap_text_model", "supported is 'clip_text_model'"),
        (CLAP, "projection_hidden_act", "gelu", "supported is 'relu'"),
        (CLAP, "type_vocab_size", 2, "supported is 1"),
        (HIFIGAN, "resblock_dilation_sizes", [[1, 3, 5], [1, 3, 5], [1, 2, 5]], "the same list 3 times"),
    ],
)  # fmt: skip
def test_what_our_networks_do_not_implement_is_refused(config: Json, option: str, value: object, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        part(config).read({**config, option: value})
    assert "is not divisible" in message or f"{class_name(config)}: option {option}=" in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("block_out_channels", [320, 640, 640, 1280], "not that of the U-Net"),
        ("motion_layers_per_block", 1, "not that of the U-Net"),
        ("motion_norm_num_groups", 16, "not that of the U-Net"),
        ("motion_transformer_layers_per_block", 2, "supported is 1"),
        ("conv_in_channels", 9, "supported is None"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(option: str, value: object, message: str):
    with pytest.raises(ConfigError, match=f"MotionAdapter: option {option}=.*{message}"):
        _adapted({option: value})


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("_class_name", "EulerDiscreteScheduler", "supported is DDIMScheduler or PNDMScheduler"),
        ("beta_schedule", "squaredcos_cap_v2", "supported is 'linear' or 'scaled_linear'"),
        ("prediction_type", "sample", "supported is 'epsilon' or 'v_prediction'"),
        ("clip_sample", True, "supported is False"),
        ("trained_betas", [0.1], "supported is None"),
        ("rescale_betas_zero_snr", True, "supported is False"),
    ],
)
def test_a_schedule_that_our_sampler_does_not_have_is_refused(option: str, value: object, message: str):
    with pytest.raises(ConfigError, match=message):
        to_settings.schedule({**DDIM, option: value})


@pytest.mark.parametrize("config", [AUDIO_UNET, motion_unet(), IMAGE_VAE, CLIP, CLAP, HIFIGAN], ids=class_name)
def test_nonsense_in_a_file_is_refused_in_words_or_decides_nothing(config: Json):
    for option in config:
        for value in (None, True, -1, 0, 1.5, float("inf"), "x", [], [1], ["x", None], [[1], 2], {"x": 1}):
            with contextlib.suppress(ConfigError):
                PARTS[class_name(config)].read({**config, option: value})
