"""Object class that a clip's audio is nearest to, by nearest class mean of YAMNet scores.

For a clip with YAMNet scores s of 521 classes in each window:
(1) embedding  z = mean over windows of log(s / (1 - s)),  s clipped to [1/512, 511/512], the network's rounding
(2) class      c_k = mean of z over target clips in which k is the loudest object, without the clip's own scene
(3) predicted  the class k whose c_k is nearest to z
(4) agreement  share of clips with predicted class = visible class, over clips whose visible object is the loudest

The audio of a scene contains all of its objects, so (4) counts only clips whose visible object is the loudest. The own
scene is left out of (2) because a target is near itself and a generated clip near the target that it imitates. A class
needs targets from three scenes, so that two remain.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from con360av_jax.evaluate.features import FeatureSet
from con360av_jax.scenes.scene import CLASSES

FEWEST_SCENES = 3
_ROUNDING = 1 / 512

Embedding = Float[np.ndarray, "score"]


@dataclass(frozen=True)
class RowsByClip:
    """Feature rows by clip name, read from disk on access."""

    features: FeatureSet
    places: Mapping[str, int]

    @classmethod
    def of(cls, features: FeatureSet) -> "RowsByClip":
        """Rows of all clips of a feature set."""
        return cls(features, {line.clip: number for number, line in enumerate(features.clips)})

    def __contains__(self, clip: str) -> bool:
        return clip in self.places

    def __getitem__(self, clip: str) -> Float[np.ndarray, "row ..."]:
        line = self.features.clips[self.places[clip]]
        return self.features.values[line.first : line.first + line.rows]

    def reason(self, clip: str) -> str:
        """Reason why a clip has no features."""
        lines = (line for line in self.features.rejected if line.get("clip") == clip)
        return next((str(line.get("reason", "rejected")) for line in lines), "was not extracted")


def audio_embedding(scores: Float[np.ndarray, "window score"]) -> Embedding:
    """Embedding of a clip's audio from YAMNet scores (equation 1)."""
    kept = np.clip(np.asarray(scores, np.float64), _ROUNDING, 1 - _ROUNDING)
    return np.log(kept / (1 - kept)).mean(axis=0)


@dataclass(frozen=True)
class AudioClassifier:
    """Class sums of target embeddings, and the clips of each scene that are part of them."""

    totals: Mapping[str, Embedding]
    counts: Mapping[str, int]
    members: Mapping[str, Sequence[tuple[str, str]]]
    """Clips of each scene with the class of their loudest object."""
    targets: RowsByClip

    @classmethod
    def fit(cls, targets: RowsByClip, loudest: Sequence[tuple[str, str, str]]) -> "AudioClassifier":
        """Fits class sums to target clips, each given as clip, scene and class of the loudest object.

        Classes with clips from fewer than FEWEST_SCENES scenes are dropped.
        """
        scenes: dict[str, set[str]] = defaultdict(set)
        for _, scene, name in loudest:
            scenes[name].add(scene)
        totals: dict[str, Embedding] = {}
        counts: dict[str, int] = defaultdict(int)
        members: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for clip, scene, name in loudest:
            if len(scenes[name]) >= FEWEST_SCENES:
                embedding = audio_embedding(targets[clip])
                totals[name] = totals[name] + embedding if name in totals else embedding
                counts[name] += 1
                members[scene].append((clip, name))
        return cls(totals, counts, members, targets)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that can be predicted, in the order of CLASSES."""
        return tuple(name for name in CLASSES if name in self.totals)

    def predict(self, scores: Float[np.ndarray, "window score"], scene: str) -> str:
        """Predicted class of a clip of `scene` (equation 3)."""
        totals, counts = dict(self.totals), dict(self.counts)
        for clip, name in self.members.get(scene, ()):
            totals[name] = totals[name] - audio_embedding(self.targets[clip])
            counts[name] -= 1
        embedding = audio_embedding(scores)
        return min(self.classes, key=lambda name: float(np.linalg.norm(totals[name] / counts[name] - embedding)))
