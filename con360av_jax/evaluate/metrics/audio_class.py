"""Class heard against class seen: what a clip's sound is closest to, among the sounds of scenes' classes.

Of a clip with YAMNet's scores s of 521 classes in each window:
(1) sound      z = mean over windows of log(s / (1 - s)),  s kept 1/512 away from 0 and 1, where the network rounds
(2) class      c_k = mean of z over target clips in which k is the loudest object, the clip's own scene left out
(3) heard      the k whose c_k is nearest to z
(4) agreement  share of clips with heard = seen,  over those whose seen object is also the loudest of its scene

A scene's sound holds all of its objects, so (4) asks only where the right answer is the one that is seen. Leaving the
own scene out serves both sides: a target would otherwise be near itself, a generated clip near what it imitates.
Classes need targets of three scenes, so that two are left.
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

Sound = Float[np.ndarray, "score"]


@dataclass(frozen=True)
class Rows:
    """Features by name of a clip, read when they are asked for."""

    features: FeatureSet
    places: Mapping[str, int]

    @classmethod
    def of(cls, features: FeatureSet) -> "Rows":
        """Those of a whole set."""
        return cls(features, {line.clip: number for number, line in enumerate(features.clips)})

    def __contains__(self, clip: str) -> bool:
        return clip in self.places

    def __getitem__(self, clip: str) -> Float[np.ndarray, "row ..."]:
        line = self.features.clips[self.places[clip]]
        return self.features.values[line.first : line.first + line.rows]

    def reason(self, clip: str) -> str:
        """Why a clip is not here."""
        lines = (line for line in self.features.rejected if line.get("clip") == clip)
        return next((str(line.get("reason", "rejected")) for line in lines), "was not extracted")


def sound_of(scores: Float[np.ndarray, "window score"]) -> Sound:
    """Equation 1."""
    kept = np.clip(np.asarray(scores, np.float64), _ROUNDING, 1 - _ROUNDING)
    return np.log(kept / (1 - kept)).mean(axis=0)


@dataclass(frozen=True)
class HeardClasses:
    """Sums of target sounds by class, and which clips of each scene are in them."""

    totals: Mapping[str, Sound]
    counts: Mapping[str, int]
    members: Mapping[str, Sequence[tuple[str, str]]]
    """By scene: clip and its loudest class."""
    targets: Rows

    @classmethod
    def of(cls, targets: Rows, loudest: Sequence[tuple[str, str, str]]) -> "HeardClasses":
        """From target clips, each given as clip, scene and the class of the loudest object.

        Only classes with clips of enough scenes are kept.
        """
        scenes: dict[str, set[str]] = defaultdict(set)
        for _, scene, name in loudest:
            scenes[name].add(scene)
        totals: dict[str, Sound] = {}
        counts: dict[str, int] = defaultdict(int)
        members: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for clip, scene, name in loudest:
            if len(scenes[name]) >= FEWEST_SCENES:
                sound = sound_of(targets[clip])
                totals[name] = totals[name] + sound if name in totals else sound
                counts[name] += 1
                members[scene].append((clip, name))
        return cls(totals, counts, members, targets)

    @property
    def classes(self) -> tuple[str, ...]:
        """That can be heard."""
        return tuple(name for name in CLASSES if name in self.totals)

    def heard(self, scores: Float[np.ndarray, "window score"], scene: str) -> str:
        """Equation 3 for a clip of a scene."""
        totals, counts = dict(self.totals), dict(self.counts)
        for clip, name in self.members.get(scene, ()):
            totals[name] = totals[name] - sound_of(self.targets[clip])
            counts[name] -= 1
        sound = sound_of(scores)
        return min(self.classes, key=lambda name: float(np.linalg.norm(totals[name] / counts[name] - sound)))
