"""S_KL: divergence between the saliency of generated frames and of their targets, in numpy, float64.

For the saliency map g of a generated frame, t of its target, and pixel weights a ("pixel": 1; "solid_angle": the
pixel's solid angle on the sphere, for panoramas, whose rows near the poles would otherwise count too much):
(1) density    p = a g / sum a g,  q = a t / sum a t
(2) divergence KL(generated || target) = sum p log(epsilon + p / (q + epsilon)), nats
(3) S_KL       mean of (2) over all frames whose target has a density

The direction is the paper's, KL(Sal(generated) || Sal(target)); saliency benchmarks use the opposite one. The paper
does not specify the handling of zeros: epsilon, that of float64, and its place are those of TempSAL's evaluation. A
generated map of zeros counts as any other constant map, g = 1: p is uniform (on the sphere with "solid_angle"), so that
a model gains nothing by frames that draw no attention. A target map of zeros has no density: its frame is excluded from
(3) and listed.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from con360av_jax.errors import MetricError
from con360av_jax.evaluate.features import FeatureSet, require_same_card
from con360av_jax.sphere.geometry import solid_angle_weights

Maps: TypeAlias = Float[np.ndarray, "frame height width"]
Weighting: TypeAlias = Literal["pixel", "solid_angle"]

EPSILON = 2.0**-52
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """Frame excluded from the mean because its target map is all zero."""

    clip: str
    frame: int


@dataclass(frozen=True, kw_only=True)
class SaliencyDivergence:
    """S_KL with the contribution of each clip; clips without a usable frame have no entry."""

    value: float
    """Equation 3, nats."""
    clips: tuple[str, ...]
    sums: Float[np.ndarray, "clip"]
    """Sum of equation 2 over each clip's frames."""
    frames: Float[np.ndarray, "clip"]
    """Number of frames in each sum."""
    excluded: tuple[Excluded, ...]


def frame_divergence(
    generated: Maps, target: Maps, weighting: Weighting = "pixel", epsilon: float = EPSILON
) -> Float[np.ndarray, "frame"]:
    """KL(generated || target) of each frame, nats (equation 2), float64; maps may have any scale.

    Raises MetricError if shapes differ or are not (frame, height, width), if a map has a negative value or one that is
    not finite, or if a target map has only zeros (see `black_frames`).
    """
    for name, maps in (("generated", generated), ("target", target)):
        _check_maps(maps, name)
    if (black := black_frames(target)).any():
        raise MetricError(f"the target map of frame {black.argmax()} is all zero and has no density: leave it out")
    if generated.shape != target.shape:
        raise MetricError(f"generated maps of shape {generated.shape}, targets of {target.shape}: give the same shape")
    if not epsilon > 0:
        raise MetricError(f"epsilon={epsilon:g}: give a number above 0, such as {EPSILON:g}")
    p, q = _density(generated, weighting), _density(target, weighting)
    return np.sum(p * np.log(epsilon + p / (q + epsilon)), axis=(1, 2))


def black_frames(maps: Maps) -> Bool[np.ndarray, "frame"]:
    """Mask of the maps that are zero everywhere."""
    return ~np.any(maps, axis=(1, 2))


def compare_saliency(
    generated: FeatureSet, target: FeatureSet, weighting: Weighting = "pixel", epsilon: float = EPSILON
) -> SaliencyDivergence:
    """S_KL of generated clips against the targets of the same names (equation 3), one clip in memory at a time.

    Raises MetricError if the sets were extracted differently, do not hold saliency or hold different clips, if a clip's
    maps have different shapes, if every frame is excluded, or as `frame_divergence` does.
    """
    _check_sets(generated, target)
    targets = dict(zip((clip.clip for clip in target.clips), target, strict=True))
    clips: list[str] = []
    sums: list[float] = []
    frames: list[int] = []
    excluded: list[Excluded] = []
    for clip, maps in zip(generated.clips, generated, strict=True):
        wanted = targets[clip.clip]
        if maps.shape != wanted.shape:
            raise MetricError(f"{clip.clip} has generated maps of {maps.shape}, targets of {wanted.shape}")
        try:
            _check_maps(maps, "generated")
            _check_maps(wanted, "target")
        except MetricError as error:
            raise MetricError(f"clip {clip.clip}: {error}") from error
        black = black_frames(wanted)
        excluded += [Excluded(clip=clip.clip, frame=int(frame)) for frame in np.flatnonzero(black)]
        kept = ~black
        if kept.any():
            clips.append(clip.clip)
            sums.append(float(frame_divergence(maps[kept], wanted[kept], weighting, epsilon).sum()))
            frames.append(int(kept.sum()))
    if not clips:
        raise MetricError(f"all {len(excluded)} target maps are all zero: look at the saliency of {target.folder}")
    return SaliencyDivergence(
        value=sum(sums) / sum(frames),
        clips=tuple(clips),
        sums=np.array(sums),
        frames=np.array(frames, np.float64),
        excluded=tuple(excluded),
    )


def _check_maps(maps: Maps, name: str) -> None:
    if maps.ndim != 3 or not maps.size:
        raise MetricError(f"{name} maps of shape {maps.shape}: give (frame, height, width)")
    for word, wrong in (("not finite", ~np.isfinite(maps)), ("negative", maps < 0)):
        if wrong.any():
            frame = int(wrong.any(axis=(1, 2)).argmax())
            raise MetricError(f"the {name} map of frame {frame} is {word} somewhere: give a saliency map's own values")


def _density(maps: Maps, weighting: Weighting) -> Maps:
    exact = np.asarray(maps, np.float64)
    exact = np.where(black_frames(maps)[:, None, None], 1.0, exact)
    # Scaled to a maximum of 1, because sums of float64's largest values would overflow.
    exact = exact / exact.max(axis=(1, 2), keepdims=True)
    if weighting == "solid_angle":
        exact = exact * solid_angle_weights(*maps.shape[1:])
    return exact / exact.sum(axis=(1, 2), keepdims=True)


def _check_sets(generated: FeatureSet, target: FeatureSet) -> None:
    require_same_card(generated, target)
    if generated.card.kind != "saliency":
        raise MetricError(f"{generated.folder} holds {generated.card.kind} features: S_KL needs saliency maps")
    names = [{clip.clip for clip in features.clips} for features in (generated, target)]
    problems = [
        f"{features.folder} lacks {', '.join(sorted(missing)[:_NAMED])} ({len(missing)} clips)"
        for features, missing in ((generated, names[1] - names[0]), (target, names[0] - names[1]))
        if missing
    ]
    if problems:
        raise MetricError(f"each generated clip needs its target, by name: {'; '.join(problems)}")
