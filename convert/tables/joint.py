"""The joint model: AudioLDM's and AnimateDiff's U-Nets (diffusers names) and the audio-video baseline's connectors."""

from dataclasses import replace

from con360av_jax.models.joint import SITES
from convert.rules import Rule, Table, conv2d, linear, pointwise, under, vector
from convert.tables.motion import computed

# The same numbers as `pointwise`, stored with three axes of length 1.
pointwise3d = replace(pointwise, name="pointwise3d")

ATTENTION: Table = (
    Rule(r"(to_[qkv])\.weight", r"\1.kernel", linear),
    Rule(r"to_out\.0\.weight", r"to_out.kernel", linear),
    Rule(r"to_out\.0\.bias", r"to_out.bias"),
)

FEED_FORWARD: Table = (
    Rule(r"net\.0\.proj\.weight", r"proj_in.proj.kernel", linear),
    Rule(r"net\.0\.proj\.bias", r"proj_in.proj.bias"),
    Rule(r"net\.2\.weight", r"proj_out.kernel", linear),
    Rule(r"net\.2\.bias", r"proj_out.bias"),
)

# UNet2DConditionModel and UNetMotionModel of diffusers; attribute names are the same here but for lists of one.
UNET: Table = (
    Rule(r"(.*norm(?:[123]|_out)?)\.weight", r"\1.scale"),
    Rule(r"(.*\bconv(?:_in|_out|1|2)?)\.weight", r"\1.kernel", conv2d),
    Rule(r"(.*(?:conv_shortcut|\battentions\.\d+\.proj_(?:in|out)))\.weight", r"\1.kernel", pointwise),
    Rule(r"(.*motion_modules\.\d+\.proj_(?:in|out))\.weight", r"\1.kernel", linear),
    Rule(r"(.*(?:linear_[12]|class_embedding|time_emb_proj|to_[qkv]))\.weight", r"\1.kernel", linear),
    Rule(r"(.*\.to_out)\.0\.weight", r"\1.kernel", linear),
    Rule(r"(.*\.to_out)\.0\.bias", r"\1.bias"),
    Rule(r"(.*\.ff)\.net\.0\.proj\.weight", r"\1.proj_in.proj.kernel", linear),
    Rule(r"(.*\.ff)\.net\.0\.proj\.bias", r"\1.proj_in.proj.bias"),
    Rule(r"(.*\.ff)\.net\.2\.weight", r"\1.proj_out.kernel", linear),
    Rule(r"(.*\.ff)\.net\.2\.bias", r"\1.proj_out.bias"),
    Rule(
        r"(.*(?:norm(?:[123]|_out)?|\bconv(?:_in|_out|_shortcut|1|2)?|linear_[12]|class_embedding|time_emb_proj"
        r"|proj_in|proj_out))\.bias",
        r"\1.bias",
    ),
    computed(r".*\.pos_embed\.pe"),
)

CONNECTOR: Table = (
    Rule(r"norm\.weight", r"norm.scale"),
    Rule(r"(proj_in|proj_out)\.weight", r"\1.kernel", pointwise),
    Rule(r"(norm|proj_in|proj_out)\.bias", r"\1.bias"),
    Rule(r"transformer_blocks\.0\.(norm[123])\.weight", r"\1.scale"),
    Rule(r"transformer_blocks\.0\.(norm[123])\.bias", r"\1.bias"),
    Rule(r"transformer_blocks\.0\.attn_c\.norm\.weight", r"sequence_norm.scale"),
    Rule(r"transformer_blocks\.0\.attn_c\.norm\.bias", r"sequence_norm.bias"),
    *under("transformer_blocks.0.attn_c.proj_c", "sequence_ff", FEED_FORWARD),
    *under("transformer_blocks.0.attn_c", "attn1", ATTENTION),
    *under("transformer_blocks.0.attn_s", "attn2", ATTENTION),
    *under("transformer_blocks.0.ff", "ff", FEED_FORWARD),
)

ENVIRONMENT_RESNET: Table = (
    Rule(r"in_layers\.0\.weight", r"norm1.scale"),
    Rule(r"in_layers\.0\.bias", r"norm1.bias"),
    Rule(r"in_layers\.2\.weight", r"conv1.kernel", conv2d),
    Rule(r"in_layers\.2\.bias", r"conv1.bias"),
    Rule(r"emb_layers\.1\.weight", r"time_emb_proj.kernel", linear),
    Rule(r"emb_layers\.1\.bias", r"time_emb_proj.bias"),
    Rule(r"out_layers\.0\.weight", r"norm2.scale"),
    Rule(r"out_layers\.0\.bias", r"norm2.bias"),
    Rule(r"out_layers\.3\.weight", r"conv2.kernel", conv2d),
    Rule(r"out_layers\.3\.bias", r"conv2.bias"),
    Rule(r"skip_connection\.weight", r"conv_shortcut.kernel", pointwise),
    Rule(r"skip_connection\.bias", r"conv_shortcut.bias"),
)

TEMPORAL: Table = (
    Rule(r"temporal_attn\.norm\.g", r"attn.norm.scale"),
    Rule(r"temporal_attn\.(to_q|to_kv|to_out)\.weight", r"attn.\1.kernel", linear),
    Rule(r"temporal_rel_pos_bias\.net\.([01])\.0\.weight", r"attn.bias.\1.kernel", linear),
    Rule(r"temporal_rel_pos_bias\.net\.([01])\.0\.bias", r"attn.bias.\1.bias"),
    Rule(r"temporal_rel_pos_bias\.net\.2\.weight", r"attn.bias.2.kernel", linear),
    Rule(r"temporal_rel_pos_bias\.net\.2\.bias", r"attn.bias.2.bias"),
    Rule(r"ff\.proj_in\.0\.weight", r"ff.proj_in.proj.kernel", pointwise3d),
    Rule(r"ff\.proj_out\.0\.g", r"ff.norm.scale", vector),
    Rule(r"ff\.proj_out\.1\.weight", r"ff.proj_out.kernel", pointwise3d),
    Rule(r"frameshiftblock\.out_layers\.0\.weight", r"norm.scale"),
    Rule(r"frameshiftblock\.out_layers\.0\.bias", r"norm.bias"),
    Rule(r"frameshiftblock\.out_layers\.2\.weight", r"conv.kernel", conv2d),
    Rule(r"frameshiftblock\.out_layers\.2\.bias", r"conv.bias"),
)

# Both modalities: a convolution, a block (1), a stride-2 convolution (2), a block (3), norm and convolution (4).
ENVIRONMENT: Table = (
    Rule(r"0\.0\.weight", r"conv_in.kernel", conv2d),
    Rule(r"0\.0\.bias", r"conv_in.bias"),
    Rule(r"2\.0\.op\.weight", r"downsample.conv.kernel", conv2d),
    Rule(r"2\.0\.op\.bias", r"downsample.conv.bias"),
    Rule(r"4\.0\.weight", r"norm_out.scale"),
    Rule(r"4\.0\.bias", r"norm_out.bias"),
    Rule(r"4\.2\.weight", r"conv_out.kernel", conv2d),
    Rule(r"4\.2\.bias", r"conv_out.bias"),
)

# The baseline's lists: connector_in_NAME.{0 down, 1 up}.BLOCK.0.
_SITE_LISTS = {"down_2": "0.2.0", "down_3": "0.3.0", "up_0": "1.0.0", "up_1": "1.1.0"}

CONNECTORS: Table = (
    *(
        entry
        for name in ("audio", "video")
        for site in SITES
        for entry in under(f"connector_in_{name}.{_SITE_LISTS[site]}", f"connector.{name}.{site}", CONNECTOR)
    ),
    *(
        entry
        for name in ("audio", "video")
        for entry in under(f"connector_out_{name}", f"environment_encoder.{name}", ENVIRONMENT)
    ),
    *(
        entry
        for stage, number in (("1", "0"), ("3", "1"))
        for source, target, table in (
            (f"connector_out_audio.{stage}.0", f"environment_encoder.audio.resnets.{number}", ENVIRONMENT_RESNET),
            (f"connector_out_video.{stage}.0.0", f"environment_encoder.video.resnets.{number}", ENVIRONMENT_RESNET),
            (f"connector_out_video.{stage}.0.1", f"environment_encoder.video.temporal.{number}", TEMPORAL),
        )
        for entry in under(source, target, table)
    ),
)

JOINT: Table = (
    *under("unet_a", "unet.audio", UNET),
    *under("unet_v", "unet.video", UNET),
    *under("unet_svg", "", CONNECTORS),
)
