"""The autoencoders: diffusers' AutoencoderKL, with the attention names that published files have and those of today."""

from convert.rules import Rule, Table, conv2d, pointwise

# Files from before diffusers 0.18 call the projections query, key, value and proj_attn; some store them as 1x1
# convolutions, which `pointwise` reads like dense layers.
_PROJECTIONS = {"to_q": "to_q|query", "to_k": "to_k|key", "to_v": "to_v|value", r"to_out.0": r"to_out\.0|proj_attn"}

VAE: Table = (
    Rule(r"(.*norm(?:[12]|_out)?)\.weight", r"\1.scale"),
    Rule(r"(.*\bconv(?:_in|_out|1|2)?)\.weight", r"\1.kernel", conv2d),
    Rule(r"(.*(?:conv_shortcut|quant_conv))\.weight", r"\1.kernel", pointwise),
    *(
        Rule(rf"(.*\battentions\.\d+)\.(?:{names})\.weight", rf"\1.{ours}.kernel", pointwise)
        for ours, names in _PROJECTIONS.items()
    ),
    *(Rule(rf"(.*\battentions\.\d+)\.(?:{names})\.bias", rf"\1.{ours}.bias") for ours, names in _PROJECTIONS.items()),
    Rule(r"(.*(?:norm(?:[12]|_out)?|\bconv(?:_in|_out|_shortcut|1|2)?|quant_conv))\.bias", r"\1.bias"),
)
