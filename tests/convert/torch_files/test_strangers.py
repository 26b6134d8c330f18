"""Files that are no network, and models that are not the wanted one, are refused by what they are."""

import json
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.errors import CheckpointError
from convert.base_config import motion_config
from convert.inspection import inspect_path
from convert.torch_files.folders import Sources, component, published
from convert.torch_files.weights import write_weights

MODULE = "motion_modules.0.temporal_transformer"
BLOCK = f"{MODULE}.transformer_blocks.0.attention_blocks"


def write(path: Path, *names: str) -> Path:
    write_weights(path, {name: np.zeros((1, 24, 2) if name.endswith(".pe") else 2, np.float32) for name in names}, {})
    return path


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (f"down_blocks.0.{BLOCK}.0.processor.to_q_lora.down.weight", "a motion LoRA"),  # AnimateDiff's v2_lora_*.ckpt
        ("unet.down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q.lora_A.weight", "a motion LoRA"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "a LoRA"),  # AnimateLCM's own, and kohya's
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight", "a LoRA"),
        (
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight",
            "a LoRA",
        ),  # v3's adapter
        ("base_model.model.down_blocks.0.attentions.0.proj_in.lora_B.default.weight", "a LoRA"),
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "a LoRA"),
        ("down_blocks.0.temporal_attentions.0.norm.weight", "a motion module of Hotshot-XL"),
        ("module.controlnet_cond_embedding.conv_in.weight", "a ControlNet"),
        ("model.diffusion_model.input_blocks.0.0.weight", "a whole model in one file"),
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "Stable Diffusion XL"),
    ],
)
def test_what_is_no_network_is_refused_by_what_it_is(tmp_path: Path, name: str, what: str):
    path = write(tmp_path / "file.safetensors", "alpha", name)
    with pytest.raises(CheckpointError) as caught:
        component(path)
    assert str(caught.value).startswith(f"{path} is {what}")
    assert f"(it holds {name})" in str(caught.value)
    (part,) = inspect_path(path)
    assert part.family.startswith(what)
    assert part.unmatched == ()


@pytest.mark.parametrize(
    ("index", "unet", "folder", "what"),
    [
        ("StableDiffusionXLPipeline", {}, "unet", "Stable Diffusion XL: its U-Net has three levels"),
        ("StableDiffusionPipeline", {}, "text_encoder_2", "Stable Diffusion XL: "),
        ("", {"addition_embed_type": "text_time"}, "unet", "Stable Diffusion XL: "),
        ("AudioLDM2Pipeline", {}, "unet", "AudioLDM 2: its U-Net attends to sequences"),
        ("", {"_class_name": "AudioLDM2UNet2DConditionModel"}, "unet", "AudioLDM 2: "),
        ("", {}, "language_model", "AudioLDM 2: "),
        ("FluxPipeline", {}, "transformer", "a diffusion transformer: "),
    ],
)
def test_another_model_is_refused_before_its_networks_are_opened(
    tmp_path: Path, index: str, unet: dict[str, object], folder: str, what: str
):
    given = tmp_path / "given"
    for name in ("unet", folder):
        (given / name).mkdir(parents=True, exist_ok=True)
    (given / "model_index.json").write_text(json.dumps({"_class_name": index}))
    (given / "unet" / "config.json").write_text(json.dumps(unet))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=f"given is {what}"):
        published(given, tmp_path / "empty", tmp_path / "mm.ckpt", None)
    with pytest.raises(CheckpointError, match=f"given is {what}"):
        published(tmp_path / "empty", given, tmp_path / "mm.ckpt", None)


def test_a_single_file_is_no_model_s_folder(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "v1-5.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="v1-5.safetensors is a file, wanted a model's folder"):
        published(tmp_path / "empty", tmp_path / "v1-5.safetensors", tmp_path / "mm.ckpt", None)


def with_motion(folder: Path, *names: str, levels: int = 4) -> Sources:
    """Motion modules whose files hold these names at every level, beside a U-Net of four levels."""
    unet = write(folder / "unet.safetensors", *(f"down_blocks.{level}.resnets.0.conv1.bias" for level in range(4)))
    places = [f"down_blocks.{level}." for level in range(levels)]
    motion = write(
        folder / "mm.safetensors",
        *(f"{place}{name}" for place in places for name in names if not name.startswith("mid_block")),
        *(name for name in names if name.startswith("mid_block")),
    )
    components = {"unet_v": component(unet), "motion": component(motion)}
    return Sources(components=components, tokenizers={}, schedulers={}, origin="")


@pytest.mark.parametrize(
    ("names", "frames", "middle"),
    [
        ((f"{BLOCK}.0.pos_encoder.pe", f"{BLOCK}.1.pos_encoder.pe"), 24, False),  # v1 (v3 is the same with 32)
        ((f"{BLOCK}.0.pos_encoder.pe", f"mid_block.{BLOCK}.0.pos_encoder.pe"), 24, True),  # v2
        ((f"{BLOCK}.0.to_q.weight", f"mid_block.{BLOCK}.0.to_q.weight"), 32, True),  # AnimateLCM's has no encodings
    ],
)
def test_motion_modules_of_every_version_tell_their_settings(
    tmp_path: Path, names: tuple[str, ...], frames: int, middle: bool
):
    assert motion_config(with_motion(tmp_path, *names)) == {
        "motion_num_attention_heads": 8, "motion_max_seq_length": frames, "use_motion_mid_block": middle,
    }  # fmt: skip


def test_motion_modules_for_sdxl_or_with_a_unet_are_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"mm.safetensors is made for Stable Diffusion XL, .* this one has 4"):
        motion_config(with_motion(tmp_path, f"{MODULE}.norm.weight", levels=3))
    for name in ("audioldm", "sd15"):
        for folder in ("unet", "vae", "text_encoder", "vocoder"):
            (tmp_path / name / folder).mkdir(parents=True)
            write(tmp_path / name / folder / "model.safetensors", "a")
            (tmp_path / name / folder / "config.json").write_text("{}")
    pia = write(tmp_path / "pia.safetensors", "module.conv_in.weight", f"module.down_blocks.0.{MODULE}.norm.weight")
    with pytest.raises(CheckpointError, match=r"pia.safetensors is a whole U-Net around motion modules \(PIA, "):
        published(tmp_path / "audioldm", tmp_path / "sd15", pia, None)


def test_settings_among_the_tensors_of_a_motion_module_are_left_out(tmp_path: Path):
    torch = pytest.importorskip("torch")
    content = {"animatediff_config": {"unet_use_cross_frame_attention": False}, f"mid_block.{MODULE}.norm.weight": 1}
    path = tmp_path / "v3_sd15_mm.ckpt"
    torch.save({name: value if isinstance(value, dict) else torch.ones(value) for name, value in content.items()}, path)
    assert list(component(path).weights) == [f"mid_block.{MODULE}.norm.weight"]
