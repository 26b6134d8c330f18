"""Evaluations to write pages of, and a reader of pages."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from con360av_jax.config.files import unstructure
from con360av_jax.evaluate.compare import Difference
from con360av_jax.evaluate.features import FeatureCard, write_features
from con360av_jax.evaluate.protocols import SMALL
from con360av_jax.evaluate.results import ClipScores, Metric, Results
from con360av_jax.media.files import write_clip

EVIL = '<script>alert("x")</script>'
CARD = FeatureCard(kind="saliency", model="FastGaze", weights_sha256="ab" * 32, settings={"size": 480}, packages={})
S_KL = Metric(
    name="s_kl",
    title="S_KL (FastGaze)",
    unit="nats",
    lower_is_better=True,
    value=0.5,
    low=0.4,
    high=0.6,
    clips=30,
    recordings=30,
)
NOTHING = Metric(name="fad", title="FAD (YAMNet)", unit="", lower_is_better=True, value=None, note="1 row only")


class Read(HTMLParser):
    """Every attribute of every element, and every text, as a browser would have them."""

    def __init__(self, page: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str):
        self.text += f" {data}"

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def addresses(self) -> list[str]:
        found = [given.get(name) for _, given in self.elements for name in ("src", "href", "poster")]
        return [address for address in found if address]

    def files(self) -> list[str]:
        return [address for address in self.addresses() if not address.startswith(("data:", "https://arxiv.org/"))]


def clip(number: int, **changed) -> ClipScores:
    """One of several clips; the higher its number, the worse."""
    name = f"scene_{number}"
    plain = ClipScores(
        clip=name,
        generated=f"generated/{name}.mp4",
        target=f"targets/{name}.mp4",
        caption=f"A dog barks at {number} ducks.",
        viewpoint=(0.5, -0.25, 1.5, 1.5),
        scores={"s_kl": float(number)},
    )
    return replace(plain, **changed)


def results(count: int, **changed) -> Results:
    """An evaluation of so many clips."""
    plain = Results(
        protocol=unstructure(SMALL),
        made_from={"run": {"path": "/r/first/checkpoints/5", "step": 5, "config_hash": "0123456789ab"}, "seed": 3},
        metrics=(S_KL, NOTHING),
        clips=tuple(clip(number) for number in range(count)),
        cards={"saliency": CARD},
        versions={"commit": "abc1234", "jax": "0.10"},
        command="con360av evaluate --run /r/first",
    )
    return replace(plain, **changed)


def difference(metric: Metric, **changed) -> Difference:
    """Difference "b minus a" with the name, value and interval of a metric."""
    shared = ("name", "title", "unit", "lower_is_better", "low", "high", "clips", "recordings")
    plain = {name: getattr(metric, name) for name in shared} | {"value": metric.value, "first": "a", "second": "b"}
    return Difference(**plain, first_value=0.0, second_value=0.0, **changed)


def write_videos(folder: Path, found: Results, side: int = 16, seconds: float = 0.5) -> None:
    """Noise to see and to hear, which no codec makes small."""
    random = np.random.default_rng(0)
    sound = random.uniform(-0.5, 0.5, round(seconds * 16_000)).astype(np.float32)
    for one in found.clips:
        for file in (one.generated, one.target):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            write_clip(folder / file, random.integers(0, 255, (4, side, side, 3)).astype(np.uint8), 8, sound, 16_000)


def write_maps(folder: Path, found: Results) -> None:
    """Random saliency of both sides."""
    random = np.random.default_rng(1)
    for side in ("generated", "targets"):
        rows = [(one.clip, side, random.random((4, 6, 6), dtype=np.float32)) for one in found.clips]
        write_features(folder / "features" / side / "saliency", CARD, rows)
