"""TempSAL a second time: the tensors of its published file, and the network as functions that look them up by key."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, interpolate, max_pool2d, pad

from tests.support.torch_weights import norm_shapes

Shapes = dict[str, tuple[int, ...]]
State = Mapping[str, Tensor]
# A cell's ten operations in the file's order: a kernel's size, a pool or a copy; and which state each reads.
OPERATIONS = (5, "pool", 7, "pool", 5, 3, 3, "pool", 3, "copy")
READS = (0, 0, 1, 1, 1, 1, 4, 1, 0, 1)
HALVING_CELLS, AFTER_HALVING, TAPPED_CELLS = (4, 8), (0, 5, 9), (3, 7, 11)


def published_shapes(width: int = 216) -> Shapes:
    """Every key of multilevel_tempsal.pt and its shape, written from what is known of it and not from our network."""
    shapes: Shapes = {}
    for branch, readout in (("pnas_vol", (64, 32, 5)), ("pnas_sal", (128, 1))):
        place = f"{branch}.module.module"
        shapes |= _encoder(f"{place}.pnas", width)
        steps = ((20 * width, 512), (512 + 10 * width, 256), (256 + 5 * width, 270), (270 + 5 * (width // 4), 96),
                 (96 + 96, 128))  # fmt: skip
        for number, step in enumerate(steps):
            shapes |= _biased(f"{place}.deconv_layer{number}.0", *step)
        for number, step in enumerate(zip((128, *readout), readout, strict=False)):
            shapes |= _biased(f"{place}.deconv_layer5.{2 * number}", *step)
    steps = ((518 + 10 * width, 256), (262 + 5 * width, 270), (276 + 5 * (width // 4), 96), (198, 128))
    for number, step in enumerate(steps, start=1):
        shapes |= _biased(f"deconv_layer{number}.0", *step)
    for number, step in enumerate(((134, 16), (16, 32), (32, 1))):
        shapes |= _biased(f"deconv_mix.{2 * number}", *step)
    return shapes


def _biased(name: str, before: int, after: int) -> Shapes:
    return {f"{name}.weight": (after, before, 3, 3), f"{name}.bias": (after,)}


def _pointwise(conv: str, bn: str, before: int, after: int) -> Shapes:
    return {f"{conv}.weight": (after, before, 1, 1)} | norm_shapes(bn, after)


def _encoder(name: str, width: int) -> Shapes:
    shapes: Shapes = {f"{name}.conv0.weight": (96, 3, 3, 3)} | norm_shapes(f"{name}.conv0_bn", 96)
    shapes |= _cell(f"{name}.stem1", 96, 96, width // 4, True, "none")
    inputs = [5 * (width // 4), 5 * (width // 2)]
    shapes |= _cell(f"{name}.stem2", 96, inputs[0], width // 2, True, "halved")
    for number in range(12):
        channels = width * (1 + (number >= 4)) * (1 + (number >= 8))
        before = "halved" if number in AFTER_HALVING else "same"
        shapes |= _cell(f"{name}.cells.{number}", *inputs, channels, number in HALVING_CELLS, before)
        inputs = [inputs[1], 5 * channels]
    return shapes | {f"{name}.classifier.weight": (1001, inputs[1]), f"{name}.classifier.bias": (1001,)}


def _cell(name: str, before_last: int, last: int, width: int, halves: bool, before: str) -> Shapes:
    shapes: Shapes = {}
    if before == "halved":
        shapes = {f"{name}.preprocess0.conv_{half}.weight": (width // 2, before_last, 1, 1) for half in (1, 2)}
        shapes |= norm_shapes(f"{name}.preprocess0.bn", width)
    elif before == "same":
        shapes = _pointwise(f"{name}.preprocess0.op.1", f"{name}.preprocess0.op.2", before_last, width)
    shapes |= _pointwise(f"{name}.preprocess1.op.1", f"{name}.preprocess1.op.2", last, width)
    for number, (kind, read) in enumerate(zip(OPERATIONS, READS, strict=True)):
        source, place = before_last if before == "none" and read == 0 else width, f"{name}._ops.{number}"
        if isinstance(kind, int):
            shapes |= {f"{place}.op.1.weight": (source, 1, kind, kind), f"{place}.op.5.weight": (width, 1, kind, kind)}
            shapes |= _pointwise(f"{place}.op.2", f"{place}.op.3", source, width)
            shapes |= _pointwise(f"{place}.op.6", f"{place}.op.7", width, width)
        elif kind == "copy" and halves:
            shapes |= _pointwise(f"{place}.op.1", f"{place}.op.2", width, width)
        elif kind == "pool" and source != width:
            shapes |= _pointwise(f"{place}.1", f"{place}.2", source, width)
    return shapes


def image_saliency(state: State, pictures: Tensor) -> Tensor:
    """Maps (picture, row, column) of pictures in [-1, 1], each by itself."""
    at_all, _, _ = _branch(state, "pnas_sal.module.module", pictures, 2)
    seconds, taps, x = _branch(state, "pnas_vol.module.module", pictures, 3)
    seconds = torch.stack([one / one.max() for one in seconds])
    predictions = torch.cat([at_all, seconds], dim=1)
    for number, tap in enumerate(taps[-2::-1], start=1):
        beside = interpolate(predictions, size=tap.shape[2:], mode="bicubic", align_corners=False)
        x = _step(state, f"deconv_layer{number}.0", torch.cat([x, tap, beside], dim=1))
    return _readout(state, "deconv_mix", torch.cat([x, predictions], dim=1), 3)[:, 0]


def _branch(state: State, name: str, pictures: Tensor, readout: int) -> tuple[Tensor, list[Tensor], Tensor]:
    taps = encoder_taps(state, f"{name}.pnas", pictures)
    x = begun = _step(state, f"{name}.deconv_layer0.0", taps[-1])
    for number, tap in enumerate(taps[-2::-1], start=1):
        x = _step(state, f"{name}.deconv_layer{number}.0", torch.cat([x, tap], dim=1))
    return _readout(state, f"{name}.deconv_layer5", x, readout), taps, begun


def _step(state: State, name: str, x: Tensor) -> Tensor:
    x = conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1).relu()
    return interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def _readout(state: State, name: str, x: Tensor, convolutions: int) -> Tensor:
    for number in range(convolutions):
        x = x.relu() if number else x
        x = conv2d(x, state[f"{name}.{2 * number}.weight"], state[f"{name}.{2 * number}.bias"], padding=1)
    return x.sigmoid()


def encoder_taps(state: State, name: str, pictures: Tensor) -> list[Tensor]:
    """The five maps that decoders read, largest first."""
    x = _normed(state, f"{name}.conv0_bn", conv2d(pictures, state[f"{name}.conv0.weight"], stride=2))
    stem = _ran(state, f"{name}.stem1", x, x, True)
    taps, states = [pad(x, (0, 1, 0, 1)), stem], (stem, _ran(state, f"{name}.stem2", x, stem, True))
    for number in range(12):
        states = (states[1], _ran(state, f"{name}.cells.{number}", *states, number in HALVING_CELLS))
        taps += [states[1]] if number in TAPPED_CELLS else []
    return taps


def _ran(state: State, name: str, before_last: Tensor, last: Tensor, halves: bool) -> Tensor:
    if f"{name}.preprocess0.bn.weight" in state:
        x = before_last.relu()
        odd = torch.zeros_like(x)
        odd[:, :, :-1, :-1] = x[:, :, 1:, 1:]
        pair = [conv2d(half[:, :, ::2, ::2], state[f"{name}.preprocess0.conv_{number}.weight"])
                for number, half in ((1, x), (2, odd))]  # fmt: skip
        before_last = _normed(state, f"{name}.preprocess0.bn", torch.cat(pair, dim=1))
    elif f"{name}.preprocess0.op.1.weight" in state:
        before_last = _reduced(state, f"{name}.preprocess0.op.1", f"{name}.preprocess0.op.2", before_last.relu())
    states = [before_last, _reduced(state, f"{name}.preprocess1.op.1", f"{name}.preprocess1.op.2", last.relu())]
    for number in range(0, 10, 2):
        one, other = (_operated(state, f"{name}._ops.{n}", OPERATIONS[n], states[READS[n]],
                                2 if halves and READS[n] < 2 else 1) for n in (number, number + 1))  # fmt: skip
        states.append(one + other)
    return torch.cat(states[2:], dim=1)


def _operated(state: State, name: str, kind: int | str, x: Tensor, stride: int) -> Tensor:
    if isinstance(kind, int):
        for alone, mixed, step in ((1, 2, stride), (5, 6, 1)):
            kernel = state[f"{name}.op.{alone}.weight"]
            x = conv2d(x.relu(), kernel, stride=step, padding=kind // 2, groups=len(kernel))
            x = _reduced(state, f"{name}.op.{mixed}", f"{name}.op.{mixed + 1}", x)
        return x
    if kind == "pool":
        x = max_pool2d(x, 3, stride, padding=1)
        return _reduced(state, f"{name}.1", f"{name}.2", x) if f"{name}.1.weight" in state else x
    return x if stride == 1 else _reduced(state, f"{name}.op.1", f"{name}.op.2", x.relu()[:, :, ::2, ::2])


def _reduced(state: State, conv: str, bn: str, x: Tensor) -> Tensor:
    return _normed(state, bn, conv2d(x, state[f"{conv}.weight"]))


def _normed(state: State, name: str, x: Tensor) -> Tensor:
    mean, variance, weight, bias = (
        state[f"{name}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias")
    )
    return batch_norm(x, mean, variance, weight, bias, eps=1e-3)
