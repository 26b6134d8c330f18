"""AudioLDM, Stable Diffusion 1.5 and a motion adapter in small: random weights, saved by the libraries' pipelines."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from con360av_jax.base.tokenizer import train_tokenizers
from con360av_jax.config.networks import VideoUNetConfig
from con360av_jax.config.settings import Config
from convert.config_json.from_settings import video_unet_json
from tests.support.original_networks import (
    ADAPTER,
    AUDIO_VAE,
    CLAP,
    CLIP,
    DDIM,
    HIFIGAN,
    IMAGE_UNET,
    IMAGE_VAE,
    PNDM,
    Json,
    audio_unet,
    original,
    randomise,
)

AUDIO_WIDTHS, VIDEO_WIDTHS = (8, 16, 24, 40), (16, 32, 48, 48)


@dataclass(frozen=True, kw_only=True)
class PublishedFolders:
    """Folders for `python -m convert base`."""

    audioldm: Path
    stable_diffusion: Path
    motion: Path


def small_networks(config: Config) -> dict[str, Json]:
    """The published config.json files with small widths; captions, mels and frames as `config` has them."""
    audio, video = config.model.text.audio, config.model.text.video
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    blocks = {"layers_per_block": 1, "norm_num_groups": 8}
    vae = {"layers_per_block": 1, "norm_num_groups": 4}
    two = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return {
        "unet_a": audio_unet(*AUDIO_WIDTHS, projection_class_embeddings_input_dim=24, **blocks),
        "vae_a": {**AUDIO_VAE, "block_out_channels": [8, 8, 16], **vae},
        "text_encoder_a": {
            **CLAP, **text, "vocab_size": audio.vocabulary, "max_position_embeddings": audio.max_positions,
            "projection_dim": 24,
        },
        "vocoder": {**HIFIGAN, "model_in_dim": config.mel.bands, "upsample_initial_channel": 32},
        "unet_v": {**IMAGE_UNET, "block_out_channels": list(VIDEO_WIDTHS), "cross_attention_dim": 32, **blocks},
        "vae_v": {**IMAGE_VAE, "block_out_channels": [8, 16], **two, **vae},
        "text_encoder_v": {**CLIP, **text, "vocab_size": video.vocabulary},
        "motion": {
            **ADAPTER, "block_out_channels": list(VIDEO_WIDTHS), "motion_layers_per_block": 1,
            "motion_norm_num_groups": 8, "motion_max_seq_length": 8,
        },
    }  # fmt: skip


def write_published(folder: Path, config: Config) -> PublishedFolders:
    """Saves all three below `folder`, weights from fixed seeds and of non-trivial scale."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing diffusers, and AudioLDM's pipeline, which has come of age
        import diffusers

        library: Any = diffusers
        networks: dict[str, Any] = {}
        for seed, (name, settings) in enumerate(small_networks(config).items()):
            networks[name] = original(settings)
            randomise(networks[name], seed)
        tokenizers = train_tokenizers(config, 0)
        library.AudioLDMPipeline(
            vae=networks["vae_a"],
            text_encoder=networks["text_encoder_a"],
            tokenizer=tokenizers["audio"],
            unet=networks["unet_a"],
            scheduler=library.DDIMScheduler.from_config(DDIM),
            vocoder=networks["vocoder"],
        ).save_pretrained(folder / "audioldm")
        library.StableDiffusionPipeline(
            vae=networks["vae_v"],
            text_encoder=networks["text_encoder_v"],
            tokenizer=tokenizers["video"],
            unet=networks["unet_v"],
            scheduler=library.PNDMScheduler.from_config(PNDM),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder / "sd15")
        networks["motion"].save_pretrained(folder / "motion")
    return PublishedFolders(audioldm=folder / "audioldm", stable_diffusion=folder / "sd15", motion=folder / "motion")


def animatediff_name(name: str) -> str:
    """Name in AnimateDiff's own file of a motion module's tensor that diffusers calls `name`."""
    place, _, rest = name.partition(".motion_modules.")
    number, _, rest = rest.partition(".")
    for new, old in (("attn1", "attention_blocks.0"), ("attn2", "attention_blocks.1"), ("norm1", "norms.0"),
                     ("norm2", "norms.1"), ("norm3", "ff_norm")):  # fmt: skip
        rest = rest.replace(f"transformer_blocks.0.{new}", f"transformer_blocks.0.{old}")
    rest = rest.replace("pos_embed.pe", "attention_blocks.0.pos_encoder.pe")
    return f"{place}.motion_modules.{number}.temporal_transformer.{rest}"


def image_unet_json(config: VideoUNetConfig) -> Json:
    """The video U-Net without its motion modules, as Stable Diffusion's UNet2DConditionModel."""
    found = {name: value for name, value in video_unet_json(config).items() if "motion" not in name}
    found |= {"_class_name": "UNet2DConditionModel", "attention_head_dim": found.pop("num_attention_heads")}
    return json.loads(json.dumps(found).replace("BlockMotion", "Block2D"))


def motion_adapter_json(config: VideoUNetConfig) -> Json:
    """The motion modules alone as diffusers' MotionAdapter."""
    unet = video_unet_json(config)
    names = ("motion_num_attention_heads", "motion_max_seq_length", "use_motion_mid_block", "block_out_channels")
    return {name: unet[name] for name in names} | {
        "_class_name": "MotionAdapter",
        "motion_layers_per_block": unet["layers_per_block"],
        "motion_transformer_layers_per_block": 1,
        "motion_mid_block_layers_per_block": 1,
        "motion_transformer_layers_per_mid_block": 1,
        "motion_norm_num_groups": config.motion_norm_groups,
    }
