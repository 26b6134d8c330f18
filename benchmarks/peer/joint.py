"""The joint model in PyTorch: diffusers' U-Nets, with the modules of parts.py between their blocks.

Latents and maps are in PyTorch's layout: audio "batch channel time mel", video "batch channel frame height width",
maps "batch 2 frame height width".
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peer.parts import Connector, EnvironmentEncoder, FiLM, MapEncoder
from con360av_jax.config.settings import AudioUNetConfig, Config, VideoUNetConfig
from con360av_jax.config.shapes import MODALITIES, padded_time
from con360av_jax.models.film import time_shares
from con360av_jax.models.joint import OTHER, SITES, TIME_AXIS
from convert.rules import Rule, Table, conv2d, linear, pointwise, under
from convert.tables.joint import ATTENTION, FEED_FORWARD, UNET

Tensors = dict[str, Tensor]
AtSite = Callable[[str, Tensor], Tensor]

_CONNECTOR: Table = (
    Rule(r"(norm[123]?|sequence_norm)\.weight", r"\1.scale"),
    Rule(r"(proj_in|proj_out)\.weight", r"\1.kernel", linear),
    Rule(r"(norm[123]?|sequence_norm|proj_in|proj_out)\.bias", r"\1.bias"),
    *(entry for name in ("attn1", "attn2") for entry in under(name, name, ATTENTION)),
    *(entry for name in ("sequence_ff", "ff") for entry in under(name, name, FEED_FORWARD)),
)
_ENCODER: Table = (
    Rule(r"(conv_in|conv_out|resnets\.\d\.conv[12]|temporal\.\d\.conv)\.weight", r"\1.kernel", conv2d),
    Rule(r"downsample\.weight", r"downsample.conv.kernel", conv2d),
    Rule(r"downsample\.bias", r"downsample.conv.bias"),
    Rule(r"(resnets\.\d\.time_emb_proj|temporal\.\d\.attn\.(?:to_\w+|bias\.\d))\.weight", r"\1.kernel", linear),
    Rule(r"(resnets\.\d\.conv_shortcut)\.weight", r"\1.kernel", pointwise),
    Rule(r"(norm_out|resnets\.\d\.norm[12]|temporal\.\d\.norm)\.weight", r"\1.scale"),
    Rule(r"(conv_in|conv_out|norm_out|resnets\.\d\.\w+|temporal\.\d\.(?:norm|conv|attn\.bias\.\d))\.bias", r"\1.bias"),
    Rule(r"(temporal\.\d\.attn\.norm)\.g", r"\1.scale"),
    Rule(r"(temporal\.\d)\.ff_in\.weight", r"\1.ff.proj_in.proj.kernel", linear),
    Rule(r"(temporal\.\d)\.ff_norm\.g", r"\1.ff.norm.scale"),
    Rule(r"(temporal\.\d)\.ff_out\.weight", r"\1.ff.proj_out.kernel", linear),
)
_MAPS: Table = (
    Rule(r"(convs\.\d)\.weight", r"\1.kernel", conv2d),
    Rule(r"(norms\.\d)\.weight", r"\1.scale"),
    Rule(r"((?:convs|norms)\.\d)\.bias", r"\1.bias"),
    Rule(r"lstm\.weight_ih_l0", r"lstm.input.kernel", linear),
    Rule(r"lstm\.bias_ih_l0", r"lstm.input.bias"),
    Rule(r"lstm\.weight_hh_l0", r"lstm.hidden.kernel", linear),
)
_FILM: Table = (Rule(r"linear\.weight", r"linear.kernel", linear), Rule(r"linear\.bias", r"linear.bias"))

TABLE: Table = (
    *(entry for name in MODALITIES for entry in under(f"unet.{name}", f"unet.{name}", UNET)),
    *(
        entry
        for name in MODALITIES
        for entry in under(f"environment_encoder.{name}", f"environment_encoder.{name}", _ENCODER)
    ),
    *(
        entry
        for kind, table in (("connector", _CONNECTOR), ("film", _FILM))
        for name in MODALITIES
        for site in SITES
        for entry in under(f"{kind}.{name}.{site}", f"{kind}.{name}.{site}", table)
    ),
    *under("map_encoder", "map_encoder", _MAPS),
)
"""Names in `JointPeer` to paths in our parameters."""


class JointPeer(nn.Module):
    """PyTorch counterpart of con360av_jax.models.joint.JointModel: noise predictions of both modalities."""

    def __init__(self, config: Config, unets: Mapping[str, nn.Module]):
        """Freezes `unets`: diffusers' UNet2DConditionModel ("audio") and UNetMotionModel ("video")."""
        super().__init__()
        model = config.model
        sizes: dict[str, AudioUNetConfig | VideoUNetConfig] = {"audio": model.unet_audio, "video": model.unet_video}
        self.unet = nn.ModuleDict(dict(unets)).requires_grad_(False)
        self.environment_encoder = nn.ModuleDict(
            {name: EnvironmentEncoder(size, model.connector) for name, size in sizes.items()}
        )

        def at_sites(make: Callable[[int, int], nn.Module]) -> nn.ModuleDict:
            return nn.ModuleDict(
                {
                    name: nn.ModuleDict(
                        {site: make(size.levels[level].width, size.norm_groups) for site, level in SITES.items()}
                    )
                    for name, size in sizes.items()
                }
            )

        self.connector = at_sites(lambda width, groups: Connector(width, model.connector, groups))
        self.map_encoder = MapEncoder(model.map_encoder)
        self.film = at_sites(lambda width, groups: FiLM(model.map_encoder.lstm_width, width))
        self.mixed = False
        """Whether the trained modules compute in bfloat16 by autocast; their weights stay float32."""

    def place(self, device: str, dtype: torch.dtype) -> None:
        """Moves everything to `device`; the U-Nets' weights become `dtype`, trained modules compute in it."""
        self.to(device)
        self.unet.to(dtype)
        self.mixed = dtype == torch.bfloat16

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and values of all trained parameters."""
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)

    def forward(
        self,
        latents: Tensors,
        timesteps: Tensors,
        text: Tensors,
        clean_estimates: Tensors,
        connector_timesteps: Tensors,
        connector_latents: Tensors,
        maps: Tensor,
        map_mask: Tensor,
    ) -> Tensors:
        """Float32 noise predictions; the arguments are those of JointModel."""
        with self._autocast(maps):
            sequences = {
                name: self.environment_encoder[name](
                    _clip(torch.cat([connector_latents[name], clean_estimates[name]], dim=1)),
                    self._time(name, connector_timesteps[name]),
                )
                for name in MODALITIES
            }
            features = self.map_encoder(maps)
        return {
            name: self._denoise(name, latents[name], timesteps[name], text[name], sequences, features, map_mask)
            for name in MODALITIES
        }

    def _autocast(self, like: Tensor) -> Any:
        return torch.autocast(like.device.type, torch.bfloat16, enabled=self.mixed)

    def _time(self, name: str, timesteps: Tensor) -> Tensor:
        unet: Any = self.unet[name]
        return unet.time_embedding(unet.time_proj(timesteps).to(unet.dtype))

    def _at(self, name: str, site: str) -> tuple[nn.Module, nn.Module]:
        films: Any = self.film[name]
        connectors: Any = self.connector[name]
        return films[site], connectors[site]

    def _denoise(
        self,
        name: str,
        x: Tensor,
        timesteps: Tensor,
        text: Tensor,
        sequences: Tensors,
        features: Tensor,
        map_mask: Tensor,
    ) -> Tensor:
        frames = x.shape[2] if x.ndim == 5 else 1

        def at_site(site: str, y: Tensor) -> Tensor:
            if site not in SITES:
                return y
            with self._autocast(y):
                y = rearrange(y, "(b f) c h w -> b c f h w", f=frames)
                film, connector = self._at(name, site)
                if name == "audio":
                    # Audio has no position in the view: it gets the average over the panorama at each time.
                    shares = torch.tensor(time_shares(features.shape[2], y.shape[3], x.shape[2])).to(features)
                    pooled = torch.einsum("bcf,nf->bcn", features.mean((3, 4)), shares)[:, :, None, :, None]
                else:
                    pooled = F.adaptive_avg_pool3d(features, (frames, y.shape[3], y.shape[4]))
                y = connector(y, sequences[OTHER[name]], TIME_AXIS[name], film(pooled, map_mask))
            return rearrange(y, "b c f h w -> (b f) c h w")

        unet: Any = self.unet[name]
        embedding, context = self._time(name, timesteps), None
        if name == "audio":
            embedding = torch.cat([embedding, unet.class_embedding(text.to(unet.dtype))], dim=-1)
        else:
            # diffusers wants both once per frame.
            embedding = embedding.repeat_interleave(frames, dim=0)
            context = text.to(unet.dtype).repeat_interleave(frames, dim=0)
        y = rearrange(_clip(x), "b c f h w -> (b f) c h w").to(unet.dtype)
        y = walk(unet, y, embedding, context, frames, at_site).float()
        return y[:, :, : x.shape[2]] if name == "audio" else rearrange(y, "(b f) c h w -> b c f h w", f=frames)


def _clip(x: Tensor) -> Tensor:
    """Reshapes to "batch channel frame height width": audio is one frame whose time is padded with zeros."""
    if x.ndim == 5:
        return x
    return F.pad(x, (0, 0, 0, padded_time(x.shape[2]) - x.shape[2]))[:, :, None]


def walk(unet: Any, x: Tensor, embedding: Tensor, context: Tensor | None, frames: int, at_site: AtSite) -> Tensor:
    """Runs diffusers' forward pass over its own blocks; `at_site` may replace each block's output.

    `x` is "(batch frame) channel height width".
    """
    motion = {"num_frames": frames} if hasattr(unet.down_blocks[0], "motion_modules") else {}

    def options(block: Any) -> dict[str, Any]:
        cross = {"encoder_hidden_states": context} if hasattr(block, "attentions") else {}
        return {"temb": embedding, **cross, **(motion if hasattr(block, "motion_modules") else {})}

    x = unet.conv_in(x)
    skips = [x]
    for number, block in enumerate(unet.down_blocks):
        x, outputs = block(hidden_states=x, **options(block))
        x = at_site(f"down_{number}", x)
        skips += [*outputs[:-1], x]
    x = unet.mid_block(x, **options(unet.mid_block))
    for number, block in enumerate(unet.up_blocks):
        taken = len(block.resnets)
        x = block(hidden_states=x, res_hidden_states_tuple=tuple(skips[-taken:]), **options(block))
        del skips[-taken:]
        x = at_site(f"up_{number}", x)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
