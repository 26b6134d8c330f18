"""Features come back from disk as they were written; corrupt or inconsistent folders are refused with the reason."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.errors import MetricError
from con360av_jax.evaluate.features import (
    FeatureCard,
    card_differences,
    open_features,
    require_same_card,
    write_features,
)

CARD = FeatureCard(
    kind="sound",
    model="clap",
    weights_sha256="ab12",
    settings={"sample_rate": 48_000, "window": {"seconds": 10.0, "padding": "zeros"}},
    packages={"numpy": "2.0"},
)
Clip = tuple[str, str, np.ndarray]


def clips() -> Iterator[Clip]:
    random = np.random.default_rng(0)
    for name, rows in (("a", 2), ("b\u2028c", 1), ("d", 3)):
        yield name, f"{name}.wav", random.normal(size=(rows, 5)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_features(tmp_path / "features", CARD, clips(), [{"file": "e.wav", "reason": "silent"}]).folder


def test_features_come_back_as_written(folder: Path):
    found = open_features(folder)
    assert isinstance(found.values, np.memmap)
    for (name, file, rows), entry, read in zip(clips(), found.clips, found, strict=True):
        assert (entry.clip, entry.file) == (name, file)
        np.testing.assert_array_equal(read, rows)
    assert found.card == replace(CARD, clips=3, rows=6)
    assert found.rejected == ({"file": "e.wav", "reason": "silent"},)
    np.testing.assert_array_equal(np.load(folder / "features.npy"), np.concatenate([rows for _, _, rows in clips()]))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["features"]


def test_saliency_maps_have_three_axes(tmp_path: Path):
    maps = np.random.default_rng(0).random((4, 3, 6)).astype(np.float32)
    found = write_features(tmp_path / "maps", replace(CARD, kind="saliency"), [("a", "a.mp4", maps)])
    np.testing.assert_array_equal(found.values, maps)


def test_a_stopped_writing_leaves_nothing_and_can_start_again(tmp_path: Path):
    def stopping() -> Iterator[Clip]:
        yield from clips()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_features(tmp_path / "features", CARD, stopping())
    assert not list(tmp_path.iterdir())
    assert len(write_features(tmp_path / "features", CARD, clips()).clips) == 3
    with pytest.raises(MetricError, match="not empty"):
        write_features(tmp_path / "features", CARD, clips())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no clip to write .* because: silent"),
        ([("a", "a", np.ones((1, 2)))], "are float64"),
        ([("a", "a", np.ones((1, 2, 3), np.float32))], "wanted float32 with 2 axes"),
        ([("a", "a", np.ones((0, 2), np.float32))], "at least one row"),
        ([("a", "a", np.full((1, 2), np.nan, np.float32))], "features of a are not all finite"),
        ([("a", "a", np.ones((1, 2), np.float32)), ("b", "b", np.ones((1, 3), np.float32))], "those before it"),
        ([("a", "a", np.ones((1, 2), np.float32))] * 2, "two clips are called a"),
    ],
)
def test_wrong_rows_are_refused_and_leave_nothing(tmp_path: Path, given: list[Clip], message: str):
    with pytest.raises(MetricError, match=message):
        write_features(tmp_path / "features", CARD, given, [{"file": "e", "reason": "silent"}])
    assert not list(tmp_path.iterdir())


def rewritten(name: str, change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))


def values(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / "features.npy", change(np.load(folder / "features.npy")))


def with_nan(rows: np.ndarray) -> np.ndarray:
    rows[2, 3] = np.nan
    return rows


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "card.json").unlink(), "card.json cannot be read"),
        (lambda folder: (folder / "clips.jsonl").unlink(), "clips.jsonl cannot be read"),
        (lambda folder: (folder / "features.npy").unlink(), "missing or corrupt"),
        (lambda folder: (folder / "features.npy").write_bytes(b""), "missing or corrupt"),
        (rewritten("card.json", lambda text: text[:-9]), "card.json is corrupt"),
        (rewritten("card.json", lambda text: "[]"), "holds list"),
        (rewritten("card.json", lambda text: text.replace('"clap"', "3")), "model"),
        (rewritten("card.json", lambda text: text.replace('"model"', '"net"')), "net"),
        (rewritten("card.json", lambda text: text.replace('"sound"', '"smell"')), "smell"),
        (rewritten("card.json", lambda text: text.replace('version": 1', 'version": 2')), "schema_version 2"),
        (rewritten("card.json", lambda text: text.replace('"rows": 6', '"rows": 7')), "contradicts itself"),
        (rewritten("clips.jsonl", lambda text: text.rpartition("{")[0]), "contradicts itself"),
        (rewritten("clips.jsonl", lambda text: text.replace('"d"', '"a"')), "names a clip twice"),
        (rewritten("clips.jsonl", lambda text: text.replace('"first": 2', '"first": 1')), "wanted some from 2"),
        (values(lambda rows: rows[:-1]), "contradicts itself"),
        (values(lambda rows: rows.astype(np.float64)), "float64"),
        (values(lambda rows: rows[..., None]), "sound features have 2 axes"),
        (values(with_nan), "row 2, of clip b.c, is not finite"),
    ],
)
def test_corrupt_folders_are_refused(folder: Path, damage: Callable[[Path], object], message: str):
    damage(folder)
    with pytest.raises(MetricError, match=message):
        open_features(folder)


def test_every_difference_between_cards_is_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    settings = {"sample_rate": 16_000, "window": {"seconds": 10.0}, "mono": True}
    other = replace(CARD, weights_sha256="cd34", settings=settings)
    assert card_differences(CARD, other) == [
        "settings.mono: not given -> True",
        "settings.sample_rate: 48000 -> 16000",
        "settings.window.padding: zeros -> not given",
        "weights_sha256: ab12 -> cd34",
    ]
    sets = [
        write_features(tmp_path / name, card, [(name, name, np.ones((1, 2), np.float32))])
        for name, card in (("one", CARD), ("two", other), ("three", replace(CARD, packages={"numpy": "2.1"})))
    ]
    with pytest.raises(
        MetricError, match="one and .*two were extracted differently: .*mono.*sample_rate.*weights_sha256"
    ):
        require_same_card(sets[0], sets[1])
    with caplog.at_level(logging.WARNING):
        require_same_card(sets[0], sets[2])
    assert "other package versions" in caplog.text


def test_the_card_is_plain_json(folder: Path):
    assert json.loads((folder / "card.json").read_text())["settings"] == dict(CARD.settings)
