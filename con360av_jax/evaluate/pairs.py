"""Both sides of extracted features restricted to the same clips; a clip is left out only for a fault of its target."""

from collections.abc import Sequence
from dataclasses import replace

from con360av_jax.errors import MetricError
from con360av_jax.evaluate.extraction import Pair
from con360av_jax.evaluate.features import FeatureSet, require_same_card
from con360av_jax.evaluate.results import Exclusion

_NAMED = 5
_SIDES = ("generated", "target")


def pair_up(pair: Pair, clips: Sequence[str], metric: str, most: int | None = None) -> tuple[Pair, list[Exclusion]]:
    """Both sides restricted to the same clips in the order of `clips`, and exclusions of clips with a rejected target.

    Raises MetricError if the sides were extracted differently, a clip is missing on a side without a reason, or only
    its generated side was rejected: a model must not gain by its own faulty clips. Where a protocol takes at most
    `most` clips, the generated side may end before the targets do.
    """
    require_same_card(*pair)
    reasons: dict[str, dict[str, str]] = {}
    for side, features in zip(_SIDES, pair, strict=True):
        there = {clip.clip for clip in features.clips}
        rejected = {str(line.get("clip")): str(line.get("reason", "rejected")) for line in features.rejected}
        missing = [clip for clip in clips if clip not in there]
        unexplained = [clip for clip in missing if clip not in rejected]
        if unexplained:
            raise MetricError(
                f"{features.folder} lacks {', '.join(unexplained[:_NAMED])} ({len(unexplained)} of {len(clips)} "
                "clips): extract the features of all clips, generated and targets"
            )
        for clip in missing:
            reasons.setdefault(clip, {})[side] = rejected[clip]
    at_fault = [clip for clip, sides in reasons.items() if _SIDES[1] not in sides]
    if at_fault and (most is None or len(pair[0].clips) < most):
        raise MetricError(
            f"{pair[0].folder} leaves out {len(at_fault)} generated clips, the first, {at_fault[0]}, because: "
            f"{reasons[at_fault[0]][_SIDES[0]]}; generated clips always count: delete the features, and a clip that is "
            "corrupt, and evaluate again"
        )
    kept = [clip for clip in clips if clip not in reasons]
    generated, target = (select_clips(features, kept) for features in pair)
    words = {clip: "; ".join(f"{side}: {reason}" for side, reason in sides.items()) for clip, sides in reasons.items()}
    left_out = [Exclusion(clip=clip, metric=metric, reason=words[clip]) for clip in clips if clip in words]
    return (generated, target), left_out


def select_clips(features: FeatureSet, names: Sequence[str]) -> FeatureSet:
    """The feature set restricted to these clips, in this order."""
    by_name = {clip.clip: clip for clip in features.clips}
    return replace(features, clips=tuple(by_name[name] for name in names))
