"""Con360-AV's own parts in PyTorch's conventions; no one has published them, so this table is their definition.

map_encoder.convs.N.{weight,bias}     torch.nn.Conv2d(in, out, 3, stride), inputs saliency and BASD; padded by hand:
                                      wrapped in longitude, replicated at the poles
map_encoder.norms.N.{weight,bias}     torch.nn.GroupNorm, followed by SiLU
map_encoder.lstm.{weight_ih,weight_hh,bias_ih}_l0  torch.nn.LSTM over time (gates i, f, g, o); bias_hh_l0 is zero
film.MODALITY.SITE.{weight,bias}      torch.nn.Linear(lstm width, 2 x channels): scale, then shift
"""

from con360av_jax.models.joint import SITES
from convert.rules import Rule, Table, conv2d, linear

_SITES = "|".join(SITES)

CONTROL: Table = (
    Rule(r"map_encoder\.convs\.([0123456789])\.weight", r"map_encoder.convs.\1.kernel", conv2d),
    Rule(r"map_encoder\.convs\.([0123456789])\.bias", r"map_encoder.convs.\1.bias"),
    Rule(r"map_encoder\.norms\.([0123456789])\.weight", r"map_encoder.norms.\1.scale"),
    Rule(r"map_encoder\.norms\.([0123456789])\.bias", r"map_encoder.norms.\1.bias"),
    Rule(r"map_encoder\.lstm\.weight_ih_l0", r"map_encoder.lstm.input.kernel", linear),
    Rule(r"map_encoder\.lstm\.bias_ih_l0", r"map_encoder.lstm.input.bias"),
    Rule(r"map_encoder\.lstm\.weight_hh_l0", r"map_encoder.lstm.hidden.kernel", linear),
    Rule(rf"film\.(audio|video)\.({_SITES})\.weight", r"film.\1.\2.linear.kernel", linear),
    Rule(rf"film\.(audio|video)\.({_SITES})\.bias", r"film.\1.\2.linear.bias"),
)
