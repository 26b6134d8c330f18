"""The doctor finds exactly what is wrong with a dataset, goes on after damage, and shows it without trusting it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from con360av_jax.config.settings import Config
from con360av_jax.data import writer
from con360av_jax.data.fake import ALL_FIELDS, fake_sample
from con360av_jax.data.schema import ENCODED_FIELDS, MAP_FIELDS, Sample
from con360av_jax.data.writer import DatasetWriter, write_dataset
from con360av_jax.errors import ConfigError, DatasetError
from preprocess.commands.doctor import Doctor
from preprocess.doctor.across import source_video
from preprocess.doctor.checks import CHECKS
from preprocess.doctor.examine import Examination, examine
from preprocess.doctor.findings import KEPT, Findings
from tests.support.flawed_records import DEFECTS, changed, named, only, with_array

RECORDS = 4
LATENTS = ENCODED_FIELDS + MAP_FIELDS


@pytest.fixture
def write(tiny: Config, tmp_path: Path):
    """Writes samples past the writer's own checks."""

    def write(samples: list[Sample], name: str = "data", fields=ALL_FIELDS, rejected=(), settings=None) -> Path:
        add = DatasetWriter.add

        def add_anything(self: DatasetWriter, sample: Sample) -> None:
            self.__dict__["_added"].clear()
            add(self, sample)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writer, "validate", lambda sample, config, fields: None)
            patch.setattr(DatasetWriter, "add", add_anything)
            write_dataset(tmp_path / name, samples, tiny, fields, rejected, settings or {}, shard_records=2)
        return tmp_path / name

    return write


@pytest.fixture
def fakes(tiny: Config) -> list[Sample]:
    return [named(fake_sample(tiny, number), f"video{number}_000000") for number in range(RECORDS)]


def look(*folders: Path, samples: int = 1) -> Examination:
    return examine(folders, samples, lambda name, done, total: None)


def found(*folders: Path) -> list[tuple[str, str]]:
    return [(finding.check, finding.where) for finding in look(*folders).findings.listed()]


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_of_one_record_is_the_only_finding(write, fakes, defect):
    check, damage = DEFECTS[defect]
    damaged = damage(fakes[3])
    folder = write([*fakes[:3], damaged])
    assert found(folder) == [(check, f"{damaged.key} (number 1 of samples-00001.arrayrecord)")]


def test_a_sound_dataset_gives_no_finding(write, fakes, tmp_path):
    folder = write(fakes, rejected=[{"file": "x.mp4", "stage": "segment", "reason": "x.mp4: cut off after 3 s"}])
    assert Doctor(datasets=(folder,), samples=2).execute() == 0
    examination = look(folder)
    assert not examination.findings.listed()
    looked = {name for name, tally in examination.findings.tallies.items() if tally.looked_at}
    assert set(CHECKS) - looked == {"split", "shared videos", "shared content", "joined edges"}
    assert {path.name for path in tmp_path.iterdir()} == {"data", "data.doctor.html"}


def test_what_latents_cannot_tell_is_not_looked_at(write, tiny):
    samples = [named(fake_sample(tiny, number, fields=LATENTS), f"video{number}") for number in range(RECORDS)]
    still = changed("video_latent_mean", lambda mean: mean[:1].repeat(len(mean), axis=0))(samples[1])
    examination = look(write([samples[0], still, *samples[2:]], fields=LATENTS))
    assert [finding.check for finding in examination.findings.listed()] == ["frozen picture"]
    for name in ("silent sound", "clipped sound", "black picture", "mel floor"):
        assert examination.findings.tallies[name].looked_at == 0


def test_a_mel_at_its_floor_is_silence_where_no_sound_is_kept(write, fakes, tiny):
    fields = ("video", "mel", *MAP_FIELDS)
    samples = [only(fake, fields) for fake in fakes]
    samples[2] = changed("mel", lambda mel: np.full_like(mel, np.log(tiny.mel.floor)))(samples[2])
    assert [check for check, _ in found(write(samples, fields=fields))] == ["silent sound"]


def test_a_damaged_shard_is_named_and_the_others_are_still_checked(write, fakes):
    silent = changed("sound", np.zeros_like)(fakes[3])
    folder = write([*fakes[:3], silent])
    shard = folder / "samples-00000.arrayrecord"
    data = bytearray(shard.read_bytes())
    data[500:700] = bytes(200)
    shard.write_bytes(data)
    place = "number {} of samples-0000{}.arrayrecord"
    assert found(folder) == [
        ("files", shard.name),
        ("records", place.format(0, 0)),
        ("silent sound", f"{silent.key} ({place.format(1, 1)})"),
    ]
    shard.write_bytes(data[: len(data) // 2])
    assert [check for check, _ in found(folder)] == ["files", "records", "silent sound"]
    shard.unlink()
    assert [check for check, _ in found(folder)] == ["files", "silent sound"]


def test_an_index_that_says_something_else_is_named(write, fakes):
    folder = write(fakes)
    path = folder / "index.jsonl"
    path.write_text(path.read_text().replace("fake scene 2", "fake scene 9"))
    place = f"{fakes[2].key} (number 0 of samples-00001.arrayrecord)"
    assert found(folder) == [("files", path.name), ("index", place)]
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{", json.dumps({"key": 1})]) + "\n")
    places = [where for check, where in found(folder) if check == "index"]
    assert places == ["index.jsonl line 2", "index.jsonl line 3", "index.jsonl"]


def test_a_damaged_manifest_ends_one_dataset_and_not_the_others(write, fakes):
    broken, other = write(fakes[:2], "broken"), write([changed("sound", np.zeros_like)(fakes[2])], "other")
    (broken / "manifest.json").write_text("{")
    assert [check for check, _ in found(broken, other)] == ["manifest", "silent sound"]
    assert Doctor(datasets=(broken, other), samples=0).execute() == 1
    assert "Its manifest is corrupt" in broken.with_name("broken.doctor.html").read_text()
    edit_manifest(other, config={"smell": True})
    assert [check for check, _ in found(other)] == ["manifest"]


def test_counts_that_do_not_agree_are_named(write, fakes):
    folder = write(fakes, rejected=[{"reason": "no sound"}])
    edit_manifest(folder, samples=5, clips=9, rejected=3)
    assert [check for check, _ in found(folder)] == ["manifest", "manifest", "ledger"]
    (folder / "rejected.jsonl").write_text("{\n[]\n")
    edit_manifest(folder, samples=4, clips=4, rejected=2)
    assert found(folder) == [("ledger", "rejected.jsonl line 1"), ("ledger", "rejected.jsonl line 2")]
    (folder / "rejected.jsonl").unlink()
    assert found(folder) == [("ledger", "rejected.jsonl")]


def test_equal_keys_are_named(write, fakes):
    twin = dataclasses.replace(fakes[1], **vars(fakes[0].entry))
    assert [check for check, _ in found(write([fakes[0], twin, fakes[2]]))] == ["keys"]


def test_numbers_and_ledger_lines_that_mean_nothing_do_not_stop_the_doctor(write, fakes):
    far = named(fakes[0], "video", 10**15, 10**15)
    assert [check for check, _ in found(write([far], rejected=[{"segment": [1], "file": 3}]))] == [
        "viewpoints",
        "segments",
    ]


def test_missing_and_equal_viewpoints_and_missing_segments_are_named(write, fakes):
    names = [(0, 0), (0, 1), (2, 0), (2, 2)]
    samples = [named(fake, "video", *name) for fake, name in zip(fakes, names, strict=True)]
    samples[1] = with_array(samples[1], "viewpoint", samples[0].arrays["viewpoint"])
    expected = [
        ("viewpoints", "video, segment 2"),
        ("equal viewpoints", "video/0/1 (number 1 of samples-00000.arrayrecord)"),
    ]
    assert found(write(samples)) == [*expected, ("segments", "video")]
    excused = [{"file": "/films/video.mp4", "stage": "segment", "reason": "damaged", "segment": 1}]
    assert found(write(samples, "excused", rejected=excused)) == expected
    fewer = write(samples[:1], "fewer", settings={"viewpoints": 2})
    assert found(fewer) == [("viewpoints", "video, segment 0")]


def test_captions_that_are_all_the_same_are_one_finding(write, fakes):
    samples = [dataclasses.replace(fake, caption="a street") for fake in fakes]
    assert found(write(samples)) == [("captions", "all samples")]


def test_equal_clips_under_other_names_are_named_once(write, fakes):
    copy = named(fakes[0], "copy")
    examination = look(write([*fakes, copy]))
    (finding,) = examination.findings.listed()
    assert (finding.check, finding.where) == ("duplicate clips", "copy")
    assert f"equal to clip {fakes[0].clip}" in finding.what
    sound_only = with_array(fakes[1], "sound", fakes[0].arrays["sound"])
    assert [check for check, _ in found(write([fakes[0], sound_only], "sound"))] == ["duplicate clips"]
    silent = [changed("sound", np.zeros_like)(fake) for fake in fakes[:2]]
    assert {check for check, _ in found(write(silent, "silent"))} == {"silent sound"}


def test_datasets_that_share_videos_or_content_leak(write, tiny, fakes):
    others = [fake_sample(tiny, number) for number in (7, 8)]
    train = write([*fakes[:2], named(others[0], "film_000010")], "train")
    validation = write([fakes[2], named(others[1], "film_000020"), named(fakes[1], "renamed")], "validation")
    examination = look(train, validation)
    assert [(finding.check, finding.dataset, finding.where) for finding in examination.findings.listed()] == [
        ("shared videos", "validation", "film"),
        ("shared content", "validation", "renamed"),
    ]
    assert Doctor(datasets=(train, validation), samples=0).execute() == 1
    assert source_video("film_000020~2") == "film"


def test_clips_of_the_other_split_are_named(write, fakes):
    folder = write(fakes, settings={"split": "validation"})
    assert {check for check, _ in found(folder)} == {"split"}


def test_the_page_is_self_contained_and_trusts_no_text(write, fakes, tmp_path):
    evil = '<script>alert("caption")</script>'
    samples = [dataclasses.replace(fakes[0], caption=evil), changed("viewpoint", np.zeros_like)(fakes[1]), *fakes[2:]]
    folder = write(samples, rejected=[{"file": "<b>", "stage": "<i>", "reason": "<img src=x>"}], settings={"a": "<u>"})
    out, findings = tmp_path / "page.html", tmp_path / "findings.json"
    assert Doctor(datasets=(folder,), html=out, json=findings, samples=RECORDS).execute() == 1
    page = out.read_text()
    for raw in (evil, "<b>", "<img src=x>", "<u>"):
        assert raw not in page
    assert "&lt;script&gt;" in page and "&lt;img src=x&gt;" in page
    assert page.count('src="data:audio/wav;base64,') == RECORDS
    assert 'src="http' not in page and "<link" not in page and "url(" not in page
    written = json.loads(findings.read_text())
    assert (written["errors"], written["warnings"]) == (1, 0)
    assert written["findings"][0]["check"] == "viewpoint angles"
    assert {"severity", "where", "what", "what_to_do"} <= written["findings"][0].keys()


def test_findings_are_counted_without_end_and_kept_up_to_a_limit():
    findings = Findings()
    for number in range(KEPT + 5):
        findings.add("schema", "data", str(number), "wrong")
    assert findings.count("error") == KEPT + 5
    assert len(findings.listed()) == KEPT and findings.unlisted() == {"schema": 5}


def test_what_is_no_dataset_is_refused(write, fakes, tmp_path):
    folder = write(fakes[:1])
    for folders, said in (
        ((tmp_path / "nowhere",), "does not exist"),
        ((tmp_path,), r"has no manifest\.json"),
        ((folder, folder), "given twice"),
    ):
        with pytest.raises(DatasetError, match=said):
            look(*folders)
    with pytest.raises(ConfigError, match="--samples is -1"):
        Doctor(datasets=(folder,), samples=-1).execute()
