"""Published config.json files, and the networks that the original libraries build from them."""

import inspect
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from con360av_jax.models import functional
from con360av_jax.models.text import ClapTextModel, ClipTextModel
from con360av_jax.models.unet import UNet
from con360av_jax.models.vae import AutoencoderKL
from con360av_jax.models.vocoder import HiFiGAN
from convert.config_json import from_settings, library_classes, to_settings
from convert.rules import Table
from convert.tables.joint import UNET
from convert.tables.text import CLAP_TEXT, CLIP_TEXT
from convert.tables.vae import VAE
from convert.tables.vocoder import VOCODER

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

torch = pytest.importorskip("torch", reason="the originals are PyTorch models")

Json = dict[str, Any]


def audio_unet(*widths: int, **options: object) -> Json:
    """AudioLDM's U-Net (s-full-v2's file; m and l differ in their widths)."""
    return {
        "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.15.0.dev0", "act_fn": "silu",
        "addition_embed_type": None, "attention_head_dim": 8, "block_out_channels": list(widths),
        "center_input_sample": False, "class_embed_type": "simple_projection", "class_embeddings_concat": True,
        "conv_in_kernel": 3, "conv_out_kernel": 3, "cross_attention_dim": list(widths),
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3, "downsample_padding": 1,
        "dual_cross_attention": False, "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 8,
        "layers_per_block": 2, "mid_block_scale_factor": 1, "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-05, "norm_num_groups": 32, "num_class_embeds": None, "only_cross_attention": False,
        "out_channels": 8, "projection_class_embeddings_input_dim": 512, "resnet_time_scale_shift": "default",
        "sample_size": 128, "time_cond_proj_dim": None, "time_embedding_type": "positional", "timestep_post_act": None,
        "up_block_types": ["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"], "upcast_attention": False,
        "use_linear_projection": False, **options,
    }  # fmt: skip


# Stable Diffusion 1.5's files.
IMAGE_UNET: Json = {
    "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu", "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": False, "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "downsample_padding": 1,
    "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1,
    "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # fmt: skip
IMAGE_VAE: Json = {
    "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4, "in_channels": 3, "latent_channels": 4, "layers_per_block": 2,
    "norm_num_groups": 32, "out_channels": 3, "sample_size": 512, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
CLIP: Json = {
    "architectures": ["CLIPTextModel"], "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2,
    "hidden_act": "quick_gelu", "hidden_size": 768, "initializer_factor": 1.0, "intermediate_size": 3072,
    "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "model_type": "clip_text_model", "num_attention_heads": 12,
    "num_hidden_layers": 12, "pad_token_id": 1, "projection_dim": 768, "torch_dtype": "float32", "vocab_size": 49408,
}  # fmt: skip
PNDM: Json = {
    "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
    "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
    "trained_betas": None, "clip_sample": False,
}  # fmt: skip
# AudioLDM's.
AUDIO_VAE: Json = {
    **IMAGE_VAE, "block_out_channels": [128, 256, 512], "down_block_types": ["DownEncoderBlock2D"] * 3,
    "in_channels": 1, "latent_channels": 8, "out_channels": 1, "up_block_types": ["UpDecoderBlock2D"] * 3,
    "scaling_factor": 0.9392935633659363,
}  # fmt: skip
CLAP: Json = {
    "architectures": ["ClapTextModelWithProjection"], "attention_probs_dropout_prob": 0.1, "bos_token_id": 0,
    "classifier_dropout": None, "eos_token_id": 2, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 768, "initializer_factor": 1.0, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
    "max_position_embeddings": 514, "model_type": "clap_text_model", "num_attention_heads": 12,
    "num_hidden_layers": 12, "pad_token_id": 1, "position_embedding_type": "absolute", "projection_dim": 512,
    "projection_hidden_act": "relu", "type_vocab_size": 1, "use_cache": True, "vocab_size": 50265,
}  # fmt: skip
HIFIGAN: Json = {
    "architectures": ["SpeechT5HifiGan"], "initializer_range": 0.01, "leaky_relu_slope": 0.1, "model_in_dim": 64,
    "model_type": "hifigan", "normalize_before": False, "resblock_dilation_sizes": [[1, 3, 5]] * 3,
    "resblock_kernel_sizes": [3, 7, 11], "sampling_rate": 16000, "upsample_initial_channel": 1024,
    "upsample_kernel_sizes": [16, 16, 8, 4, 4], "upsample_rates": [5, 4, 2, 2, 2],
}  # fmt: skip
DDIM: Json = {
    "_class_name": "DDIMScheduler", "beta_end": 0.0195, "beta_schedule": "scaled_linear", "beta_start": 0.0015,
    "clip_sample": False, "num_train_timesteps": 1000, "prediction_type": "epsilon", "set_alpha_to_one": False,
    "steps_offset": 1, "trained_betas": None,
}  # fmt: skip
# AnimateDiff v1-5-2's adapter.
ADAPTER: Json = {
    "_class_name": "MotionAdapter", "block_out_channels": [320, 640, 1280, 1280], "motion_layers_per_block": 2,
    "motion_max_seq_length": 32, "motion_mid_block_layers_per_block": 1, "motion_norm_num_groups": 32,
    "motion_num_attention_heads": 8, "use_motion_mid_block": True,
}  # fmt: skip


def motion_unet(**options: object) -> Json:
    """The U-Net that diffusers makes of Stable Diffusion's and an adapter."""
    return {
        "_class_name": "UNetMotionModel", "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlockMotion"] * 3 + ["DownBlockMotion"], "layers_per_block": 2,
        "norm_eps": 1e-05, "norm_num_groups": 32, "num_attention_heads": 8, "motion_num_attention_heads": 8,
        "motion_max_seq_length": 32, "up_block_types": ["UpBlockMotion"] + ["CrossAttnUpBlockMotion"] * 3,
        "use_motion_mid_block": True, **options,
    }  # fmt: skip


SMALL_AUDIO_UNET, AUDIO_UNET, LARGE_AUDIO_UNET = (
    audio_unet(*(width * factor for factor in (1, 2, 3, 5))) for width in (128, 192, 256)
)
# With their published counts, millions.
PUBLISHED: dict[str, tuple[Json, float]] = {
    "AudioLDM s": (SMALL_AUDIO_UNET, 185.04),
    "AudioLDM m": (AUDIO_UNET, 415.95),
    "AudioLDM l": (LARGE_AUDIO_UNET, 739.14),
    "AnimateDiff": (motion_unet(), 859.52 + 453.21),
    "AnimateDiff without mid block": (motion_unet(use_motion_mid_block=False), 1276.66),
    "video VAE": (IMAGE_VAE, 83.65),
    "audio VAE": (AUDIO_VAE, 55.38),
    "CLIP": (CLIP, 123.06),
    "CLAP": (CLAP, 125.3),
    "vocoder": (HIFIGAN, 55.26),
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One kind of network on both sides."""

    read: Callable[[Json], Any]
    write: Callable[[Any], dict[str, object]]
    factory: Callable[[Any], Callable[[nnx.Rngs], nnx.Module]]
    table: Table


def _unet(config: Any) -> Callable[[nnx.Rngs], nnx.Module]:
    return lambda rngs: UNet(config, rngs=rngs, dtype=jnp.float32)


PARTS: Mapping[str, Part] = {
    "UNet2DConditionModel": Part(
        read=to_settings.audio_unet, write=from_settings.audio_unet_json, factory=_unet, table=UNET
    ),
    "UNetMotionModel": Part(
        read=lambda config: to_settings.video_unet(config, None),
        write=from_settings.video_unet_json,
        factory=_unet,
        table=UNET,
    ),
    "AutoencoderKL": Part(
        read=to_settings.vae,
        write=from_settings.vae_json,
        factory=lambda config: lambda rngs: AutoencoderKL(config, rngs=rngs, dtype=jnp.float32),
        table=VAE,
    ),
    "CLIPTextModel": Part(
        read=to_settings.clip_text,
        write=from_settings.clip_text_json,
        factory=lambda config: lambda rngs: ClipTextModel(config, rngs=rngs, dtype=jnp.float32),
        table=CLIP_TEXT,
    ),
    "ClapTextModelWithProjection": Part(
        read=to_settings.clap_text,
        write=from_settings.clap_text_json,
        factory=lambda config: lambda rngs: ClapTextModel(config, rngs=rngs, dtype=jnp.float32),
        table=CLAP_TEXT,
    ),
    "SpeechT5HifiGan": Part(
        read=to_settings.vocoder,
        write=from_settings.vocoder_json,
        factory=lambda config: lambda rngs: HiFiGAN(config, rngs=rngs, dtype=jnp.float32),
        table=VOCODER,
    ),
}  # fmt: skip


def class_name(config: Mapping[str, object]) -> str:
    """The original's class that a config.json is of."""
    architectures = config.get("architectures")
    return str(architectures[0] if isinstance(architectures, list) else config["_class_name"])


def part(config: Mapping[str, object]) -> Part:
    """The part that a config.json is of."""
    return PARTS[class_name(config)]


def original(config: Mapping[str, object]) -> Any:
    """The original that its library builds from a config.json, on torch's current device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing diffusers warns about its own dependencies
        import diffusers
        import transformers

        name = class_name(config)
        if name in dir(diffusers):
            return getattr(diffusers, name).from_config(dict(config))
        kind = getattr(transformers, name)
        known = set(inspect.signature(kind.config_class.__init__).parameters)
        return kind(kind.config_class(**{key: config[key] for key in config if key in known or key[0] != "_"}))


def as_lists(value: object) -> object:
    """Tuples as lists, as JSON has them."""
    return [as_lists(entry) for entry in value] if isinstance(value, list | tuple) else value


def randomise(model: "Module", seed: int) -> dict[str, "Tensor"]:
    """Gives every weight a value far from its initial one, norms' around 1; encodings stay. Returns the state."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not name.endswith(".pe"):
                vector = tensor.ndim == 1
                spread = 0.2 if vector else int(np.prod(tensor.shape[1:])) ** -0.5
                around = 1.0 if vector and name.endswith(("weight", "scale")) else 0.0
                tensor.copy_(around + spread * torch.randn(tensor.shape, generator=generator))
    model.eval()
    return model.state_dict()


def arrays(state: Mapping[str, "Tensor"]) -> dict[str, np.ndarray]:
    """The same bytes in NumPy."""
    return {
        name: tensor.view(torch.uint16).numpy().view(jnp.bfloat16) if tensor.dtype == torch.bfloat16 else tensor.numpy()
        for name, tensor in state.items()
    }


def saved(model: Any, folder: Path) -> tuple[Json, dict[str, np.ndarray]]:
    """Saves `model` with the original library; returns its config.json and tensors, read back."""
    from safetensors.torch import load_file

    model.save_pretrained(folder)
    (weights,) = folder.glob("*.safetensors")
    return json.loads((folder / "config.json").read_text()), arrays(load_file(weights))


def wanted(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of our flat parameter tree for an original's config.json."""
    own = part(config)
    _, params = functional.abstract(own.factory(own.read(dict(config))))
    return {path: leaf.shape for path, leaf in functional.flatten(params).items()}


LIBRARY = {
    "UNet2DConditionModel": library_classes.UNET2D,
    "UNetMotionModel": library_classes.MOTION_UNET,
    "MotionAdapter": library_classes.MOTION_ADAPTER,
    "AutoencoderKL": library_classes.VAE,
    "CLIPTextModel": library_classes.CLIP_TEXT,
    "ClapTextModelWithProjection": library_classes.CLAP_TEXT,
    "SpeechT5HifiGan": library_classes.VOCODER,
    **library_classes.SCHEDULERS,
}
