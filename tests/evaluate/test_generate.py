"""Generated clips: selection by key, resuming, independence of existing files, and one model per folder."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import con360av_jax as c3
from con360av_jax.config.settings import Config
from con360av_jax.data.schema import SampleEntry
from con360av_jax.data.source import open_dataset
from con360av_jax.errors import CheckpointError, ConfigError, DatasetError, MetricError
from con360av_jax.evaluate import generate, settings
from con360av_jax.evaluate.generate import Share
from con360av_jax.evaluate.selection import choose, choose_scenes, clip_seed, complete_scenes, read_clips
from con360av_jax.evaluate.settings import ABLATION, Making
from con360av_jax.media.files import read_audio, read_frames
from con360av_jax.model import Con360AV
from tests.support import tiny_world

pytestmark = pytest.mark.usefixtures("quick_compiles")

ROUNDING = 1e-3  # as in test_pipeline: float32 sums in another order, through three guided steps


@pytest.fixture(scope="module")
def making(lean: Config) -> Making:
    weights = settings.find_weights(tiny_world.run(lean), ema=True)
    return Making(
        weights=weights, dataset=open_dataset(tiny_world.dataset(lean)), dtype="float32", sampler=lean.sampler
    )


@pytest.fixture(scope="module")
def model(making: Making) -> Con360AV:
    return c3.load(making.weights.path)


@pytest.fixture(scope="module")
def whole(making: Making, model: Con360AV, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All five clips, generated in one run in batches of two."""
    folder = tmp_path_factory.mktemp("whole")
    generate.generate(folder, entries(making), making, lambda: model, 2)
    return folder


def entries(making: Making, count: int | None = None) -> tuple[SampleEntry, ...]:
    return choose(making.dataset.samples, count, making.seed)


def clips_of(folder: Path) -> dict[str, bytes]:
    return tiny_world.files_below(folder / "generated")


def refuse() -> Con360AV:
    raise AssertionError("the model was loaded although every clip is there")


def entry(clip: str, segment: int = 0, viewpoint: int = 0) -> SampleEntry:
    return SampleEntry(f"{clip}/{segment}/{viewpoint}", clip, 0.0, segment, viewpoint, "a bell")


def test_the_choice_depends_on_keys_and_seed_alone_and_grows():
    made = [entry(f"clip_{number}") for number in range(20)]
    ten = choose(made, 10, seed=3)
    assert choose(made[::-1], 10, seed=3) == ten
    assert choose(made, 6, seed=3) == ten[:6]
    assert set(choose(made, 10, seed=4)) != set(ten)
    assert len(choose(made, None, seed=3)) == 20


def test_noise_belongs_to_the_clip_or_to_the_scene():
    one, other = entry("a", viewpoint=0), entry("a", viewpoint=1)
    assert clip_seed(one, 0, "clip") != clip_seed(other, 0, "clip")
    assert clip_seed(one, 0, "scene") == clip_seed(other, 0, "scene") != clip_seed(entry("b"), 0, "scene")
    assert clip_seed(one, 0, "clip") != clip_seed(one, 1, "clip")
    assert all(0 <= clip_seed(entry(f"c{n}"), 0, "clip") < 2**32 for n in range(50))


def test_impossible_choices_are_refused():
    made = [entry("a"), entry("b")]
    with pytest.raises(ConfigError, match="--count 3, but there are 2 records to choose from: give 1 to that many"):
        choose(made, 3, 0)
    with pytest.raises(ConfigError, match="--count 0"):
        choose(made, 0, 0)
    with pytest.raises(DatasetError, match="no records"):
        choose([], None, 0)
    with pytest.raises(DatasetError, match="would both be called a_b_0_0"):
        choose([entry("a/b"), entry("a_b")], None, 0)


def test_scenes_without_all_viewpoints_are_left_out_of_the_viewpoints():
    made = [entry("a", 0, 0), entry("a", 0, 1), entry("b", 0, 0), entry("c", 2, 0), entry("c", 2, 1)]
    views = choose_scenes(complete_scenes(made), None, 0)
    assert {one.clip for one in views[0]} == {"a", "c"}
    assert [one.clip for one in views[0]] == [one.clip for one in views[1]]
    assert choose_scenes(complete_scenes(made), 1, 0)[1] == views[1][:1]
    with pytest.raises(DatasetError, match="one viewpoint index"):
        complete_scenes(made[:1])
    with pytest.raises(DatasetError, match="no segment is seen from all 2 viewpoints"):
        complete_scenes([entry("a", 0, 0), entry("b", 0, 1)])


def test_a_deleted_clip_is_made_again_with_the_same_bytes_and_nothing_else_is(
    making: Making, model: Con360AV, whole: Path, tmp_path: Path
):
    for name, data in clips_of(whole).items():
        (tmp_path / "generated").mkdir(exist_ok=True)
        (tmp_path / "generated" / name).write_bytes(data)
    kept, gone = entries(making)[0], entries(making)[1]
    generate.files(tmp_path, "generated", [gone])[0].unlink()
    generate.files(tmp_path, "generated", [kept])[0].write_bytes(b"as it is")
    generate.generate(tmp_path, entries(making), making, lambda: model, 2)
    name = generate.files(tmp_path, "generated", [gone])[0].name
    assert clips_of(tmp_path)[name] == clips_of(whole)[name]
    assert generate.files(tmp_path, "generated", [kept])[0].read_bytes() == b"as it is"
    generate.generate(tmp_path, entries(making), making, refuse, 2)


def test_stopped_anywhere_it_goes_on_to_the_same_bytes_as_uninterrupted(
    making: Making, model: Con360AV, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved: list[Path] = []

    def dies(path: Path, *content) -> None:
        if len(saved) == 3:
            raise KeyboardInterrupt
        saved.append(path)
        write(path, *content)

    write = generate.write
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generate, "write", dies)
        generate.generate(tmp_path, entries(making), making, lambda: model, 2)
    assert len(clips_of(tmp_path)) == 3
    generate.generate(tmp_path, entries(making), making, lambda: model, 2)
    assert clips_of(tmp_path) == clips_of(whole)


def test_fewer_clips_and_several_processes_give_the_same_bytes(
    making: Making, model: Con360AV, whole: Path, tmp_path: Path
):
    wanted = clips_of(whole)
    generate.generate(tmp_path, entries(making, 3), making, lambda: model, 2)
    few = clips_of(tmp_path)
    assert len(few) == 3 and all(wanted[name] == data for name, data in few.items())
    for index in (1, 0):
        generate.generate(tmp_path, entries(making), making, lambda: model, 2, Share(index, 2))
        Share(index, 2).wait_for(generate.files(tmp_path, "generated", entries(making, 3)))
    assert clips_of(tmp_path) == wanted


def test_eight_devices_and_another_batch_change_rounding_only(making: Making, model: Con360AV):
    spread = c3.load(making.weights.path, mesh=c3.MeshConfig(data=4, fsdp=2), local=True)
    records = [making.dataset[number] for number in range(4)]
    alone = [*generate.sample_clips(model, records[:2], making), *generate.sample_clips(model, records[2:], making)]
    for one, eight in zip(alone, generate.sample_clips(spread, records * 2, making), strict=False):
        assert np.abs(one.video.astype(int) - eight.video).max() <= 1
        np.testing.assert_allclose(one.audio, eight.audio, atol=ROUNDING)


def test_targets_are_the_records_own_views_and_are_read_once(
    making: Making, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    chosen = entries(making, 2)
    clips = generate.write_targets(tmp_path, chosen, making)
    assert clips == read_clips(tmp_path)
    record = making.dataset.find(key=clips[1].key)
    assert clips[1].clip == clips[1].key.replace("/", "_") and clips[1].caption == record.caption
    np.testing.assert_array_equal(np.array(clips[1].middle, np.float32), record.arrays["viewpoint"][2])
    path = tmp_path / "targets" / f"{clips[1].clip}.mp4"
    assert read_frames(path, 4).shape == record.arrays["video"].shape
    sound = read_audio(path, 16_000, seconds=1.0)[:, 0]
    np.testing.assert_array_equal(sound, record.arrays["sound"].astype(np.float32) / 32768)
    monkeypatch.setattr(type(making.dataset), "__getitem__", lambda *_: pytest.fail("a record was read again"))
    assert generate.write_targets(tmp_path, chosen, making) == clips


def test_a_corrupt_list_of_clips_is_named(making: Making, tmp_path: Path):
    (tmp_path / "clips.jsonl").write_text('{"clip": 3}\n')
    with pytest.raises(MetricError, match="clips.jsonl is corrupt.*delete it and evaluate again"):
        generate.write_targets(tmp_path, entries(making), making)


def test_clips_are_sampled_with_the_negative_caption(making: Making, model: Con360AV, monkeypatch):
    seen = {}

    def sample_latents(noise, text, negative_text, maps, **rest):
        seen.update(negative=negative_text)
        return noise

    monkeypatch.setattr(model, "sample_latents", sample_latents)
    next(generate.sample_clips(model, [making.dataset[0]] * 2, replace(making, negative_caption="bad quality")))
    tiny_world.assert_same(seen["negative"], model.encode_text(["bad quality"] * 2))


@pytest.mark.parametrize("name", [name for name in ABLATION if name != "full"])
def test_an_ablation_leaves_out_what_it_says(name: str, making: Making, model: Con360AV, monkeypatch):
    seen = {}

    def sample_latents(noise, text, negative_text, maps, **rest):
        seen.update(text=text, negative=negative_text, maps=maps, **rest)
        return noise

    monkeypatch.setattr(model, "sample_latents", sample_latents)
    ablated = replace(making, conditions=ABLATION[name], negative_caption="bad quality")
    record = making.dataset[0]
    clip = next(generate.sample_clips(model, [record, record], ablated))
    full = model.control(record.arrays["viewpoint"], record.arrays["saliency"])[0]
    if name == "without_control":
        assert seen["maps"] is None
    else:
        channels = [0.0 if name == f"without_{one}" else full[..., i] for i, one in enumerate(("saliency", "basd"))]
        for channel, wanted in enumerate(channels):
            np.testing.assert_array_equal(seen["maps"][0, ..., channel], wanted)
    same = all(np.array_equal(seen["text"][modality], seen["negative"][modality]) for modality in ("audio", "video"))
    assert same == (name == "without_caption") == (clip.caption == "")


def test_a_folder_belongs_to_one_model_dataset_and_sampler(making: Making, tmp_path: Path):
    wanted = making.settings("small")
    settings.keep_to(tmp_path / "one", wanted)
    settings.keep_to(tmp_path / "one", wanted)
    moved = json.loads(json.dumps(wanted))
    moved["run"]["path"] = moved["dataset"]["path"] = "elsewhere"
    settings.keep_to(tmp_path / "one", moved)
    other = replace(making, seed=7, sampler=replace(making.sampler, steps=9))
    with pytest.raises(ConfigError) as error:
        settings.keep_to(tmp_path / "one", other.settings("fadtk"))
    assert str(error.value) == (
        f"{tmp_path / 'one'} holds clips that were made with other settings: protocol: small -> fadtk; sampler.steps: "
        "3 -> 9; seed: 0 -> 7; give those settings again, another --out, or delete that folder"
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and no evaluation"):
        settings.keep_to(tmp_path / "other", wanted)
    (tmp_path / "one" / "settings.json").write_text("[")
    with pytest.raises(ConfigError, match=r"settings.json cannot be read"):
        settings.keep_to(tmp_path / "one", wanted)


def test_what_earlier_versions_did_not_record_is_as_it_was_then(making: Making, tmp_path: Path):
    """They gave no negative caption, and computed in the dtype of training."""
    wanted, unrecorded = making.settings("small"), making.unrecorded()
    assert unrecorded == {"negative_caption": "", "dtype": making.weights.config.train.compute_dtype}
    settings.keep_to(tmp_path / "old", {name: value for name, value in wanted.items() if name not in unrecorded})
    settings.keep_to(tmp_path / "old", wanted, unrecorded=unrecorded)
    for other, said in (
        (replace(making, negative_caption="bad quality"), 'negative_caption: "" -> bad quality'),
        (replace(making, dtype="bfloat16"), "dtype: float32 -> bfloat16"),
    ):
        with pytest.raises(ConfigError, match=f"other settings: {said}; give those settings again"):
            settings.keep_to(tmp_path / "old", other.settings("small"), unrecorded=unrecorded)


def test_weights_are_told_apart_without_reading_them(lean: Config):
    run = tiny_world.run(lean)
    averaged, trained = (settings.find_weights(run, ema) for ema in (True, False))
    assert (averaged.step, averaged.kind, trained.kind) == (7, "moving average", "trained")
    assert settings.default_folder(averaged, run, "small") == run / "evaluation" / "small"
    assert settings.default_folder(averaged, averaged.path, "small") == run / "evaluation" / "small-7"
    base = settings.find_weights(tiny_world.base(lean), True)
    with pytest.raises(ConfigError, match="give the folder of the evaluation with --out"):
        settings.default_folder(base, base.path, "small")
    with pytest.raises(CheckpointError, match="nothing does not exist"):
        settings.find_weights(Path("nothing"), True)


@pytest.mark.parametrize(
    ("text", "wanted"), [("2", (2.0, 2.0)), ("audio=1.5,video=4", (1.5, 4.0)), ("video=4,audio=0", (0.0, 4.0))]
)
def test_scales_are_one_number_or_two(text: str, wanted: tuple[float, float]):
    found = settings.scales(text)
    assert (found.audio, found.video) == wanted


@pytest.mark.parametrize("text", ["big", "nan", "audio=1", "audio=1,sound=2", "audio=1,video=x", "audio=1,video=inf"])
def test_other_scales_are_refused(text: str):
    with pytest.raises(ConfigError, match="give one number, or audio=NUMBER,video=NUMBER"):
        settings.scales(text)
