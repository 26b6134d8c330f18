"""`--captions blip2+llama` from videos to datasets: every text kept, none written twice, nothing lost in silence."""

import json
import pickle
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from con360av_jax.config.files import save_config
from con360av_jax.config.settings import Config
from con360av_jax.data.source import open_dataset
from con360av_jax.errors import DatasetError
from con360av_jax.media.files import write_clip
from preprocess.captions.blip2_llama.backend import open_blip2_llama
from preprocess.captions.blip2_llama.faces import FACES
from preprocess.captions.blip2_llama.model_folders import open_model_folder
from preprocess.captions.blip2_llama.prompts import DEFAULT_PROMPTS
from preprocess.captions.blip2_llama.texts import CaptionTexts, Described, FaceText
from preprocess.captions.choose import open_captions
from preprocess.captions.contract import CaptionSettings
from preprocess.cli import main
from preprocess.stages.segment import Segment, cut, windows
from preprocess.stages.standardise import standardise
from tests.support.caption_networks import save_blip2, save_llama, silence

torch = pytest.importorskip("torch", reason="caption models are PyTorch's: pip install -e '.[torch]'")
pytestmark = pytest.mark.usefixtures("one_thread")
RATE = 16_000


@pytest.fixture(scope="module")
def place(tiny: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of two segments, a config, and one model of each kind."""
    folder = tmp_path_factory.mktemp("captions")
    random = np.random.default_rng(0)
    noise = random.integers(-9000, 9000, (2 * RATE, 1)).astype(np.int16)
    blocks = random.integers(0, 256, (16, 4, 8, 3)).astype(np.uint8)
    video = blocks.repeat(16, axis=1).repeat(16, axis=2)
    write_clip(folder / "clip.mp4", video, 8, noise, RATE, lossless_audio=True)
    save_config(tiny, folder / "tiny.json")
    save_blip2(folder / "blip2")
    save_llama(folder / "llama")
    save_llama(folder / "no-template", chat_template=None)
    return folder


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often each kind of model was asked to generate."""
    from transformers import Blip2ForConditionalGeneration, LlamaForCausalLM

    counts: Counter = Counter()

    def counted(name: str, generate: Callable) -> Callable:
        def wrapper(*arguments, **named):
            counts[name] += 1
            return generate(*arguments, **named)

        return wrapper

    models: dict[str, Any] = {"blip2": Blip2ForConditionalGeneration, "llama": LlamaForCausalLM}
    for name, model in models.items():
        monkeypatch.setattr(model, "generate", counted(name, model.generate))
    return counts


def command(place: Path, out: Path, **options: object) -> list[str]:
    given = {"captions": "blip2+llama", "caption-faces": place / "blip2", "caption-join": place / "llama"}
    given |= {"config": place / "tiny.json", "out": out, "workers": "0"}
    given |= {"viewpoints": 1, "caption-device": "cpu"} | {
        name.replace("_", "-"): value for name, value in options.items()
    }
    flag = ["--from-hub"] if given.pop("from-hub", None) else []
    return ["run", str(place / "clip.mp4"), *flag] + [
        text for name, value in given.items() if value for text in (f"--{name}", str(value))
    ]


def settings(place: Path, texts: Path) -> CaptionSettings:
    return CaptionSettings(faces=str(place / "blip2"), join=str(place / "llama"), texts=texts, device="cpu")


def segments(place: Path, tiny: Config) -> list[Segment]:
    clip = standardise(place / "clip.mp4", "clip", tiny)
    return [cut(window, tiny) for window in windows(clip, tiny.clip)]


def kept_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "clip.jsonl").read_text().splitlines()]


def test_a_dataset_has_the_captions_and_every_text_is_kept_and_written_once(
    place: Path, tmp_path: Path, generated: Counter
):
    assert main(command(place, tmp_path / "one")) == 0
    assert generated == {"blip2": 2, "llama": 2}
    lines = kept_lines(tmp_path / "one.captions")
    faces = [line for line in lines if "face" in line]
    assert [(line["segment"], line["time"], line["face"]) for line in faces] == [
        (number, number + 0.5, face) for number in range(2) for face in FACES
    ]
    captions = {line["segment"]: line["caption"] for line in lines if "caption" in line}
    dataset = open_dataset(tmp_path / "one")
    assert {dataset[number].segment: dataset[number].caption for number in range(2)} == captions
    assert len(set(captions.values())) == 2
    made_from = next(line["made_from"] for line in lines if "caption" in line)
    assert made_from["model"] == "llama" and {"revision", "prompt", "faces"} < set(made_from)

    texts = tmp_path / "one.captions"
    assert main(command(place, tmp_path / "two", caption_texts=texts)) == 0
    assert generated == {"blip2": 2, "llama": 2}, "the second run wrote texts that were there"
    one, two = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two"))
    assert one["settings"] == two["settings"] and one["shards"] == two["shards"]

    edited = tmp_path / "edited.toml"
    edited.write_text(DEFAULT_PROMPTS.read_text().replace("Describe the whole scene", "a dog runs"))
    assert main(command(place, tmp_path / "three", caption_texts=texts, caption_prompts=edited)) == 0
    assert generated == {"blip2": 2, "llama": 4}, "only the joining depends on the edited prompt"
    assert len({line["made_from"]["prompt"] for line in kept_lines(texts) if "caption" in line}) == 2


def test_stages_run_one_after_the_other_give_the_same_captions_and_never_need_both_models(
    place: Path, tiny: Config, tmp_path: Path, generated: Counter
):
    both = open_captions("blip2+llama", settings(place, tmp_path / "both"), 4)
    wanted = [both(segment, []) for segment in segments(place, tiny)]
    apart = open_blip2_llama(settings(place, tmp_path / "apart"), 4)
    described = [apart.faces(segment) for segment in segments(place, tiny)]
    assert "joiner" not in vars(apart.join)
    again = pickle.loads(pickle.dumps(open_blip2_llama(settings(place, tmp_path / "apart"), 4)))
    assert again.join([again.faces(segment) for segment in segments(place, tiny)]) == wanted
    assert "captioner" not in vars(again.faces), "kept texts were not found"
    assert generated == {"blip2": 4, "llama": 3}, "two segments are joined in one call"
    assert described == [again.faces(segment) for segment in segments(place, tiny)]


def test_a_segment_whose_texts_are_unfinished_or_of_another_picture_is_described_again(
    place: Path, tiny: Config, tmp_path: Path, generated: Counter
):
    stage = open_blip2_llama(settings(place, tmp_path), 4).faces
    segment = segments(place, tiny)[0]
    described = stage(segment)
    content = stage.texts.path("clip").read_bytes()
    stage.texts.path("clip").write_bytes(content[:-30])
    assert stage(segment) == described
    assert generated["blip2"] == 2
    assert len(kept_lines(tmp_path)) == 5 + 6
    darker = Segment(window=segment.window, frames=segment.frames // 2, audio=segment.audio)
    stage(darker)
    assert generated["blip2"] == 3


def test_a_damaged_line_of_kept_texts_is_named(tmp_path: Path):
    texts = CaptionTexts(tmp_path)
    texts.keep_faces(Described(clip="a", segment=0, texts=(FaceText(time=0.5, face="up", text="sky"),)), {"model": "m"})
    with texts.path("a").open("a") as file:
        file.write('{"clip": "a"}\n')
    with pytest.raises(DatasetError, match="line 2"):
        texts.find_faces("a", 0, {"model": "m"})


@pytest.mark.parametrize(
    ("mute", "reason"), [("blip2", "wrote nothing on any of 6 faces"), ("llama", "wrote an empty caption")]
)
def test_a_model_that_writes_nothing_rejects_the_segments(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], mute: str, reason: str
):
    silent = silence({"blip2": save_blip2, "llama": save_llama}[mute](tmp_path / mute))
    option = "caption_faces" if mute == "blip2" else "caption_join"
    assert main(command(place, tmp_path / "out", **{option: silent})) == 2
    message = capfd.readouterr().err
    assert "every input was rejected (2 reasons; all of them in " in message
    assert f"the first because clip_0: {mute} {reason}" in message
    ledger = tmp_path / "out.rejected.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [line["segment"] for line in lines] == [0, 1]
    assert all(reason in line["reason"] for line in lines)
    assert not (tmp_path / "out").exists()
    assert main(command(place, tmp_path / "out")) == 0
    assert not ledger.exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"caption_faces": ""}, "needs --caption-faces"),
        ({"caption_join": ""}, "needs --caption-join"),
        ({"caption_faces": "/no/such/folder"}, "no such folder: /no/such/folder; give --caption-faces"),
        (
            {"caption_faces": "nobody/blip2"},
            "no such folder: nobody/blip2; if it is a Hugging Face id, give --from-hub",
        ),
        ({"caption_faces": "nobody/blip2", "from_hub": "yes"}, "nobody/blip2 cannot be downloaded"),
        ({"captions": "template"}, "--captions template uses no models"),
        ({"caption_faces": "llama"}, "is a 'llama' model; give a Blip2ForConditionalGeneration"),
        ({"caption_join": "blip2"}, "is a 'blip-2' model; give a chat model"),
        ({"caption_join": "no-template"}, "has no chat template"),
        ({"caption_prompts": "tiny.json"}, "the prompts cannot be read"),
        ({"caption_batch": "-1"}, "--caption-batch is -1"),
        ({"caption_device": "tpu"}, "--caption-device tpu: not on this machine"),
    ],
)
def test_what_cannot_caption_is_one_line_before_any_video_is_read(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: dict[str, str], reason: str
):
    found = {name: place / text if (place / text).exists() and text else text for name, text in options.items()}
    assert main(command(place, tmp_path / "out", **found)) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert reason in line
    assert not (tmp_path / "out").exists()


def test_without_torch_the_extra_is_named(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(command(place, tmp_path / "out")) == 2
    assert "needs torch: pip install -e '.[torch]'" in capfd.readouterr().err


def test_an_id_is_found_in_the_local_cache_without_the_hub(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cached = tmp_path / "models--someone--chat"
    shutil.copytree(place / "llama", cached / "snapshots" / "5f0b02c")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("5f0b02c")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = open_model_folder("someone/chat", "--caption-join")
    assert found.source == {"model": "someone/chat", "revision": "5f0b02c"}
    assert (found.path / "model.safetensors").is_file()
