"""SalViT360 in its two published variants: maps windows of panoramas to the saliency of each window's last frame.

frame -> tangent images -> ResNet-18 -> one token per tangent -> transformer over 8 frames --+-> decoder -> panorama
                               \\-> its map of 7x7 cells, normed, of the last frame ----------/

VSTA has one set of tangent images. VAC has two, processed by the same encoder and transformer, and averages the two
panoramas. Attribute names are those of the published weights, which have no other buffers.

Source: Cokelek et al., BMVC 2023, and the published code (MIT), whose deviations from the paper are kept.
"""

from typing import Literal, NamedTuple, TypeAlias

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate

from preprocess.saliency.salvit360.geometry import (
    MAP_SIZE,
    NARROW,
    WIDE,
    TangentLayout,
    back_projection,
    position_input,
    sampling_grid,
)
from preprocess.saliency.salvit360.resnet import resnet18
from preprocess.saliency.salvit360.transformer import WIDTH, Transformer

Variant: TypeAlias = Literal["vsta", "vac"]
LAYOUTS: dict[Variant, tuple[TangentLayout, ...]] = {"vsta": (NARROW,), "vac": (NARROW, WIDE)}
# Channels between the decoder's convolutions: the last two channels are learnt, the first is used.
DECODER_WIDTHS: dict[Variant, tuple[int, ...]] = {"vsta": (WIDTH, 128, 32, 8, 2), "vac": (WIDTH, 128, 32, 2)}
# Height and width of ResNet-18's map of a tangent image.
CELLS = 7
# Height and width of panoramas: input of the network, projection of its maps, output.
INPUT_SIZE = (960, 1920)
BACK_SIZE = (240, 480)
OUTPUT_SIZE = (480, 960)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class Encoded(NamedTuple):
    """Encoded frames for one set of tangent images."""

    tokens: Float[Tensor, "frame tangent width"]
    maps: Float[Tensor, "frame width row column tangent"]


class Tangents(nn.Module):
    """Projection of a panorama to one set of tangent images and back; has tables, but no weights."""

    def __init__(self, layout: TangentLayout):
        super().__init__()
        self.count = layout.count
        # Tables are on the CPU even if the weights are built on the meta device.
        back = back_projection(layout, *BACK_SIZE).tocoo()
        taps = torch.sparse_coo_tensor(
            torch.stack([torch.from_numpy(axis).long() for axis in back.coords]),
            torch.from_numpy(back.data).float(),
            back.shape,
            device="cpu",
            is_coalesced=True,
            check_invariants=True,
        )
        grid = rearrange(sampling_grid(layout), "tangent row column angle -> 1 (tangent row) column angle")
        for name, table in (("grid", torch.from_numpy(grid)), ("position", torch.from_numpy(position_input(layout)))):
            self.register_buffer(name, table, persistent=False)
        self.register_buffer("taps", taps, persistent=False)
        self.grid: Tensor
        self.position: Tensor
        self.taps: Tensor

    def look(self, panoramas: Float[Tensor, "frame 3 height width"]) -> Float[Tensor, "image 3 row column"]:
        """Tangent images of all frames, frame by frame."""
        grid = self.grid.expand(len(panoramas), -1, -1, -1)
        images = grid_sample(panoramas, grid, mode="bilinear", padding_mode="border", align_corners=True)
        return rearrange(
            images, "frame channel (tangent row) column -> (frame tangent) channel row column", tangent=self.count
        )

    def panorama(self, maps: Float[Tensor, "window row column tangent"]) -> Float[Tensor, "window height width"]:
        """Projects the maps of the tangent images to a panorama of BACK_SIZE.

        Kept from the published model, whose weights were trained so: the decoder of VSTA gives 56x56 pixels, of which
        only the upper left quarter is used, as if it were the whole map. VAC's maps have 28x28 pixels.
        """
        quarter = rearrange(maps[:, :MAP_SIZE, :MAP_SIZE], "window row column tangent -> (row column tangent) window")
        height, width = BACK_SIZE
        return rearrange(
            torch.sparse.mm(self.taps, quarter), "(row column) window -> window row column", row=height, column=width
        )


class DecoderBlock(nn.Module):
    """Convolution within each tangent image, layer norm over the whole set, ReLU, upsampling by 2.

    The output is never negative, so that the published decoder's last ReLU, left out here, changes nothing.
    """

    def __init__(self, in_channels: int, channels: int, size: int, tangents: int, upsample: bool):
        super().__init__()
        conv = nn.Conv3d(in_channels, channels, (3, 3, 1), padding=(1, 1, 0))
        self.block = nn.Sequential(conv, nn.LayerNorm([channels, size, size, tangents], eps=1e-5))
        self.upsample = upsample

    def forward(
        self, x: Float[Tensor, "window channel row column tangent"]
    ) -> Float[Tensor, "window out_channel height width tangent"]:
        x = torch.relu_(self.block(x))
        return interpolate(x, scale_factor=(2, 2, 1), mode="trilinear", align_corners=False) if self.upsample else x


def _decoder(variant: Variant, tangents: int) -> nn.Sequential:
    widths = DECODER_WIDTHS[variant]
    blocks = [DecoderBlock(widths[0], widths[1], CELLS, tangents, upsample=False)]
    for number in range(1, len(widths) - 1):
        size = CELLS * 2 ** (number - 1)
        blocks.append(DecoderBlock(widths[number], widths[number + 1], size, tangents, upsample=True))
    return nn.Sequential(*blocks)


class UnusedPosition(nn.Module):
    """Kept from the published model, which builds and stores these weights and never calls them."""

    def __init__(self):
        super().__init__()
        self.posemb = nn.Sequential(
            nn.Conv2d(5, 16, 3, stride=2, padding=1, bias=False),
            nn.LayerNorm([16, 7, 7], eps=1e-5),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            nn.LayerNorm([32, 4, 4], eps=1e-5),
        )


class SalViT360(nn.Module):
    """The network: `encode` each frame once, then `predict` from windows of encoded frames."""

    def __init__(self, variant: Variant):
        super().__init__()
        self.variant = variant
        layouts = LAYOUTS[variant]
        self.feature_extractor = resnet18()
        self.resnet_layernorm = nn.LayerNorm([WIDTH, CELLS, CELLS], eps=1e-5)
        self.posemb = UnusedPosition()
        decoders = [_decoder(variant, layout.count) for layout in layouts]
        if variant == "vsta":
            (self.decoder,) = decoders
        else:
            self.decoders = nn.ModuleList(decoders)
        self.transformer = Transformer()
        self.tangents = nn.ModuleList(Tangents(layout) for layout in layouts)
        for name, values in (("mean", IMAGENET_MEAN), ("deviation", IMAGENET_DEVIATION)):
            self.register_buffer(name, torch.tensor(values, device="cpu")[:, None, None], persistent=False)
        self.mean: Tensor
        self.deviation: Tensor

    def encode(self, panoramas: Float[Tensor, "frame 3 height width"]) -> list[Encoded]:
        """Tokens and maps of frames of INPUT_SIZE, RGB in [0, 1], for each set of tangent images."""
        encoded = []
        for tangents in self._sets():
            # Normalised after sampling, which gives the same values with fewer pixels: its weights sum to 1.
            images = (tangents.look(panoramas) - self.mean) / self.deviation
            maps = self.feature_extractor(images.contiguous(memory_format=torch.channels_last))
            pooled = reduce(maps, "image width row column -> image width", "mean")
            tokens = rearrange(pooled, "(frame tangent) width -> frame tangent width", tangent=tangents.count)
            maps = rearrange(
                self.resnet_layernorm(maps.contiguous()),
                "(frame tangent) width row column -> frame width row column tangent",
                tangent=tangents.count,
            )
            encoded.append(Encoded(tokens, maps))
        return encoded

    def predict(
        self,
        tokens: list[Float[Tensor, "window frame tangent width"]],
        maps: list[Float[Tensor, "window width row column tangent"]],
    ) -> Float[Tensor, "window height width"]:
        """Saliency, 0 or more, of OUTPUT_SIZE for the last frame of each window.

        Args:
            tokens: tokens of the windows' frames, for each set of tangent images.
            maps: maps of the windows' last frames, for each set.
        """
        decoders = self.decoders if self.variant == "vac" else (self.decoder,)
        panoramas = []
        for tangents, decoder, window, last in zip(self._sets(), decoders, tokens, maps, strict=True):
            x = self.transformer(window, tangents.position)[:, -1]
            x = decoder(rearrange(x, "window tangent width -> window width 1 1 tangent") + last)
            panoramas.append(tangents.panorama(x[:, 0]))
        mean = torch.stack(panoramas).mean(dim=0)
        return interpolate(mean[:, None], size=OUTPUT_SIZE, mode="bilinear", align_corners=False)[:, 0]

    def _sets(self) -> list[Tangents]:
        return [tangents for tangents in self.tangents if isinstance(tangents, Tangents)]
