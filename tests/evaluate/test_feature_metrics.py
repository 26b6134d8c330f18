"""Metrics from features: known values, independence of order, and a reason for each missing value."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.errors import ConfigError, MetricError
from con360av_jax.evaluate.extraction import Pair
from con360av_jax.evaluate.feature_metrics import Found, check_draws, compute, measures
from con360av_jax.evaluate.features import open_features, write_features
from con360av_jax.evaluate.metrics.frechet import accumulate, frechet_distance
from con360av_jax.evaluate.metrics.saliency import frame_divergence
from con360av_jax.evaluate.protocols import PAPER, PROTOCOLS, SMALL, STYLEGANV, Protocol
from tests.support.evaluation_stand_ins import card

SOUND_ONLY = replace(SMALL, saliency=None)
NAMES = [f"clip_{number:02d}_0_0" for number in range(12)]
Clips = Mapping[str, np.ndarray]
Write = Callable[..., Pair]


def sounds(seed: int, shift: float = 0.0, rows: int = 4, dim: int = 5) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: (random.random((rows, dim)) + shift).astype(np.float32) for name in NAMES}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes generated and target features of one part and opens them."""
    count = iter(range(100))

    def written(
        part: str,
        generated: Clips,
        target: Clips,
        rejected: Sequence[Sequence[str]] = ((), ()),
        settings: Sequence[Mapping[str, object]] = ({}, {}),
    ) -> Pair:
        sides = []
        for side, clips, left_out, said in zip(
            ("generated", "targets"), (generated, target), rejected, settings, strict=True
        ):
            lines = [{"clip": name, "file": name, "reason": "silent"} for name in left_out]
            folder = tmp_path / f"{next(count)}-{side}"
            files = [(name, name, rows) for name, rows in clips.items() if name not in left_out]
            sides.append(write_features(folder, card(part, **said), files, lines))
        return sides[0], sides[1]

    return written


def metric(found: Found, name: str):
    return next(one for one in found.metrics if one.name == name)


def measured(pair: Pair, clips: Sequence[str] = NAMES, protocol: Protocol = SOUND_ONLY) -> Found:
    return compute(protocol, {"sound": pair, "saliency": pair, "video_16": pair}, clips, seed=1, draws=20)


def test_a_set_against_itself_has_no_distance(write: Write):
    found = measured(write("sound", sounds(1), sounds(1)))
    assert metric(found, "fad").value == pytest.approx(0, abs=1e-12)
    assert metric(found, "sound_distance").value == pytest.approx(0, abs=1e-12)


def test_fad_is_the_frechet_distance_of_all_rows_with_an_interval_around_it(write: Write):
    pair = write("sound", sounds(1), sounds(2, shift=1))
    fad = metric(measured(pair), "fad")
    assert fad.value == pytest.approx(frechet_distance(accumulate(pair[0]), accumulate(pair[1]), "unbiased"), rel=1e-12)
    assert fad.value is not None and fad.low is not None and fad.high is not None and fad.low < fad.value < fad.high
    assert (fad.clips, fad.rows, fad.title) == (12, 48, "FAD (YAMNet)")
    infinite = metric(measured(pair), "fad_infinity")
    assert infinite.value == pytest.approx(5, abs=0.5) and "from 24 rows" in infinite.note


def test_a_second_record_of_each_recording_narrows_no_interval(write: Write):
    """Segments and viewpoints of one recording are alike, here equal: they are no further evidence."""
    one, other = sounds(1), sounds(2, shift=1)
    again = {name: name.removesuffix("0") + "1" for name in NAMES}
    twice = [{**side, **{again[name]: rows for name, rows in side.items()}} for side in (one, other)]
    single = measured(write("sound", one, other))
    double = measured(write("sound", *twice), [*NAMES, *again.values()])
    for name, equal in (("sound_distance", 1e-12), ("fad", 0.03)):  # fad: n - 1 changes with the number of rows
        found, wanted = metric(double, name), metric(single, name)
        assert (found.clips, found.recordings, wanted.recordings) == (24, 12, 12)
        assert found.low is not None and found.high is not None
        assert wanted.low is not None and wanted.high is not None
        assert found.high - found.low == pytest.approx(wanted.high - wanted.low, rel=equal)
        assert found.value == pytest.approx(wanted.value, rel=equal)


def test_records_of_one_recording_have_no_interval(write: Write):
    names = [f"clip_00_0_{number}" for number in range(len(NAMES))]
    sides = [dict(zip(names, sounds(seed).values(), strict=True)) for seed in (1, 2)]
    found = measured(write("sound", *sides), names)
    for name in ("fad", "sound_distance"):
        assert (metric(found, name).low, metric(found, name).note) == (None, "one recording has no interval")


def test_each_clip_s_distance_is_the_cosine_of_its_means(write: Write):
    one, other = sounds(1), sounds(2)
    found = measured(write("sound", one, other))
    for name in NAMES:
        a, b = (side[name].astype(np.float64).mean(axis=0) for side in (one, other))
        wanted = 1 - a @ b / np.sqrt((a @ a) * (b @ b))
        assert found.scores[name]["sound_distance"] == pytest.approx(wanted, rel=1e-9)
    mean = metric(found, "sound_distance")
    assert mean.value == pytest.approx(np.mean([found.scores[name]["sound_distance"] for name in NAMES]))


def test_the_order_of_files_changes_nothing(write: Write):
    one, other = sounds(1), sounds(2)
    backwards = dict(reversed(one.items())), dict(sorted(other.items(), key=lambda item: item[0][::-1]))
    first, second = measured(write("sound", one, other)), measured(write("sound", *backwards))
    assert first == second


def test_only_the_clips_asked_for_count(write: Write):
    one, other = sounds(1), sounds(2)
    some = NAMES[3:9]
    few = measured(write("sound", *({name: side[name] for name in some} for side in (one, other))), some)
    assert measured(write("sound", one, other), some) == few


def test_s_kl_is_the_mean_over_frames_and_black_targets_are_named(write: Write):
    random = np.random.default_rng(5)
    one, other = ({name: random.random((3, 4, 4)).astype(np.float32) for name in NAMES} for _ in range(2))
    other[NAMES[2]][1] = 0
    one[NAMES[3]][1] = 0
    pair = write("saliency", one, other)
    found = compute(replace(SMALL, sound=None), {"saliency": pair}, NAMES, seed=1, draws=20)
    every = np.concatenate(
        [
            frame_divergence(one[name][keep], other[name][keep])
            for name in NAMES
            for keep in [np.any(other[name], axis=(1, 2))]
        ]
    )
    s_kl = metric(found, "s_kl")
    assert s_kl.value == pytest.approx(every.mean(), rel=1e-12) and s_kl.title == "S_KL (FastGaze)"
    assert (s_kl.clips, s_kl.rows, s_kl.unit) == (12, 35, "nats")
    reason = "target: its saliency map is all zero"
    assert [(e.clip, e.frame, e.reason) for e in found.exclusions] == [(NAMES[2], 1, reason)]
    assert found.scores[NAMES[0]]["s_kl"] == pytest.approx(frame_divergence(one[NAMES[0]], other[NAMES[0]]).mean())


def test_rejected_targets_leave_both_sides_and_are_named(write: Write):
    one, other = sounds(1), sounds(2)
    found = measured(write("sound", one, other, ([NAMES[0]], [NAMES[0], NAMES[5]])))
    rest = [name for name in NAMES if name not in (NAMES[0], NAMES[5])]
    fad = [(e.clip, e.reason) for e in found.exclusions if e.metric == "fad"]
    assert fad == [(NAMES[0], "generated: silent; target: silent"), (NAMES[5], "target: silent")]
    assert metric(found, "fad") == metric(measured(write("sound", one, other), rest), "fad")
    assert NAMES[5] not in found.scores


def test_a_rejected_generated_clip_is_an_error(write: Write):
    """A model must not gain by clips that it spoils."""
    pair = write("sound", sounds(1), sounds(2), ([NAMES[0], NAMES[3]], [NAMES[0]]))
    with pytest.raises(
        MetricError,
        match=r"-generated leaves out 1 generated clips, the first, clip_03_0_0, because: silent; generated",
    ):
        measured(pair)


def test_a_missing_partner_is_an_error_that_names_it(write: Write):
    one, other = sounds(1), sounds(2)
    del other[NAMES[4]]
    with pytest.raises(MetricError, match=r"-targets lacks clip_04_0_0 \(1 of 12 clips\): extract the features of all"):
        measured(write("sound", one, other))


def test_sides_extracted_differently_are_refused(write: Write):
    pair = write("sound", sounds(1), sounds(2), settings=({"hop": 1}, {"hop": 2}))
    with pytest.raises(MetricError, match=r"were extracted differently: settings.hop: 1 -> 2"):
        measured(pair)


def test_features_that_are_not_numbers_are_an_error(write: Write):
    pair = write("sound", sounds(1), sounds(2))
    path = pair[0].folder / "features.npy"
    values = np.load(path)
    values[9, 2] = np.nan
    np.save(path, values)
    with pytest.raises(MetricError, match="row 9, of clip clip_02_0_0, is not finite"):
        open_features(pair[0].folder)


def test_silence_without_direction_counts_if_generated_and_is_left_out_of_the_targets(write: Write):
    one, other = sounds(1), sounds(2)
    one[NAMES[3]][:] = 0
    other[NAMES[4]][:] = 0
    found = measured(write("sound", one, other))
    assert [(e.clip, e.metric) for e in found.exclusions] == [(NAMES[4], "sound_distance")]
    assert found.exclusions[0].reason == "target: all features are 0, they have no direction"
    assert metric(found, "sound_distance").clips == 11 and found.scores[NAMES[3]]["sound_distance"] == 1


@pytest.mark.parametrize(
    ("clips", "rows", "value", "note"),
    [
        (1, 1, False, "1 row has no covariance"),
        (
            1,
            4,
            True,
            "one recording has no interval; 4 rows for 5 dimensions: far too large, compare only with equally",
        ),
        (1, 6, True, "one recording has no interval"),
        (3, 1, True, "3 rows for 5 dimensions: far too large, compare only with equally many clips"),
    ],
)
def test_too_few_rows_are_told(clips: int, rows: int, value: bool, note: str, write: Write):
    found = measured(write("sound", sounds(1, rows=rows), sounds(2, rows=rows)), NAMES[:clips])
    fad, infinite = metric(found, "fad"), metric(found, "fad_infinity")
    assert (fad.value is not None) is value and fad.note.startswith(note)
    assert infinite.value is None and infinite.note
    json.dumps([vars(one) for one in found.metrics], allow_nan=False)


def test_a_part_without_usable_clips_has_no_number_and_names_them_all():
    found = compute(SMALL, {}, NAMES, draws=20)
    assert {one.name: one.value for one in found.metrics} == {"s_kl": None, "fad": None, "sound_distance": None}
    assert all(one.note == "every clip is excluded" for one in found.metrics)
    assert len(found.exclusions) == 3 * len(NAMES)


def test_every_clip_rejected_on_some_side_leaves_no_number(write: Write):
    with pytest.raises(MetricError, match="leaves out 6 generated clips"):
        measured(write("sound", sounds(1), sounds(2), (NAMES[:6], NAMES[6:])))
    found = measured(write("sound", sounds(1), sounds(2), (NAMES[:6], NAMES[:11])), NAMES[:11])
    assert {one.value for one in found.metrics} == {None}
    assert {one.note for one in found.metrics} == {"every clip is excluded"}


def test_a_protocol_takes_no_more_clips_than_it_says(write: Write):
    pair = write("video_16", sounds(1), sounds(2))
    assert STYLEGANV.video is not None
    few = replace(STYLEGANV, video=replace(STYLEGANV.video, clips=7))
    assert metric(measured(pair, protocol=few), "fvd_16").clips == 7
    # Extraction takes the first seven of each side, and a faulty target moves those of the targets.
    moved = write("video_16", sounds(1), sounds(2), (NAMES[7:], [NAMES[2], *NAMES[8:]]))
    found = measured(moved, protocol=few)
    assert metric(found, "fvd_16").clips == 6 and (NAMES[7], "generated: silent") in [
        (e.clip, e.reason) for e in found.exclusions
    ]


def test_titles_name_the_networks_and_paper_has_both_frame_counts():
    titles = {name: [one.title for one in measures(protocol)] for name, protocol in PROTOCOLS.items()}
    assert titles["small"] == ["FAD (YAMNet)"]
    assert titles["paper"] == ["FAD (LAION-CLAP HTSAT-tiny)", "FVD (I3D, 16 frames)", "FVD (I3D, 32 frames)"]
    assert [one.name for one in measures(PAPER)] == ["fad", "fvd_16", "fvd_32"]


def test_too_few_draws_are_refused():
    with pytest.raises(ConfigError, match="--draws 5: give at least 10"):
        check_draws(5)
