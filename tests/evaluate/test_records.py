"""con360av evaluate --scenes takes all viewpoints of segments; protocol plain needs no network."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from con360av_jax import cli
from con360av_jax.config.settings import Config
from con360av_jax.data.fake import ALL_FIELDS, fake_sample
from con360av_jax.data.schema import sample_key
from con360av_jax.data.writer import write_dataset
from con360av_jax.errors import ConfigError
from con360av_jax.evaluate import run
from con360av_jax.evaluate.protocols import PLAIN
from con360av_jax.evaluate.results import read_results
from con360av_jax.evaluate.selection import choose_records
from tests.support import tiny_world
from tests.support.evaluation_pages import Read

pytestmark = pytest.mark.usefixtures("quick_compiles", "one_model")


@pytest.fixture(scope="module")
def dataset(lean: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes seen from two viewpoints, and one that is seen from one only."""

    def seen(number: int):
        clip, viewpoint = f"room_{number // 2}", number % 2
        key = sample_key(clip, 0, viewpoint)
        return replace(fake_sample(lean, number), clip=clip, viewpoint_index=viewpoint, key=key)

    folder = tmp_path_factory.mktemp("records") / "dataset"
    write_dataset(folder, (seen(number) for number in range(7)), lean, ALL_FIELDS, [], {})
    return folder


def test_scenes_have_all_their_viewpoints_and_no_network_is_needed(lean: Config, dataset: Path, tmp_path: Path, capsys):
    words = ["--run", str(tiny_world.run(lean)), "--dataset", str(dataset), "--draws", "20", "--batch-size", "2"]
    folder = tmp_path / "eval"
    assert cli.main(["evaluate", *words, "--out", str(folder), "--scenes", "2", "--protocol", "plain"]) == 0
    results = read_results(folder)
    names = [clip.clip for clip in results.clips]
    assert Counter(name[:6] for name in names).most_common() == [(names[0][:6], 2), (names[2][:6], 2)]
    assert [name[-1] for name in names] == ["0", "1"] * 2, "scene by scene"
    assert tuple(metric.name for metric in results.metrics) == run.metric_names(PLAIN, truth=False)
    assert results.metrics[0].name == "av_align" and not (folder / "features").exists()
    assert Read(folder / "metrics.html").count("video") == 8
    assert cli.main(["gallery", str(folder)]) == 0
    assert Read(folder / "gallery.html").count("video") == 8


def test_fewer_scenes_are_among_more_and_the_seed_decides(dataset: Path):
    from con360av_jax.data.source import open_dataset

    entries = open_dataset(dataset, verify="sizes").samples
    chosen = {count: choose_records(entries, None, count, 0) for count in (1, 2, 3)}
    assert chosen[1] == chosen[2][:2] and chosen[2] == chosen[3][:4]
    assert {choose_records(entries, None, 1, seed)[0].clip for seed in range(12)} == {"room_0", "room_1", "room_2"}
    with pytest.raises(ConfigError, match="--scenes 4, but 3 are seen from every viewpoint"):
        choose_records(entries, None, 4, 0)
    with pytest.raises(ConfigError, match="--count 2 and --scenes 1: give one"):
        choose_records(entries, 2, 1, 0)


def test_a_study_of_steps_has_an_evaluation_for_each_number(lean: Config, dataset: Path, tmp_path: Path, capsys):
    words = ["--run", str(tiny_world.run(lean)), "--dataset", str(dataset), "--draws", "20", "--batch-size", "2"]
    words += ["--out", str(tmp_path / "study"), "--scenes", "1", "--protocol", "plain", "--study", "steps"]
    assert cli.main(["evaluate", *words]) == 2
    assert "--study steps: give --step-counts" in capsys.readouterr().err
    assert cli.main(["evaluate", *words, "--step-counts", "1", "3"]) == 0
    for number in (1, 3):
        made_from = read_results(tmp_path / "study" / f"steps_{number}").made_from
        assert made_from["sampler"]["steps"] == number  # pyright: ignore[reportIndexIssue]
    assert (tmp_path / "study" / "study.html").is_file()
    assert cli.main(["evaluate", *words[:-1], "ablation", "--step-counts", "1"]) == 2
    assert "--step-counts are for --study steps" in capsys.readouterr().err
