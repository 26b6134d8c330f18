"""A random pretrained folder opens, behaves like a trained one to diffusion, and damage to it is told in one line."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from con360av_jax.base.codecs import Codecs, pixel_bytes
from con360av_jax.base.networks import pixels
from con360av_jax.base.parts import PARTS
from con360av_jax.base.pretrained import Pretrained, base_hash, open_pretrained, write_pretrained
from con360av_jax.base.random import create_random
from con360av_jax.base.tokenizer import tokenise, train_tokenizers
from con360av_jax.config.settings import Config, MeshConfig
from con360av_jax.config.shapes import latent_shapes, mel_frames, text_shapes
from con360av_jax.errors import CheckpointError, ConfigError
from con360av_jax.models.functional import flatten
from con360av_jax.scenes.synthetic import captions_corpus
from con360av_jax.sharding import make_mesh
from tests.support import tiny_world


@pytest.fixture(scope="module")
def pretrained(tiny: Config) -> Pretrained:
    return open_pretrained(tiny_world.base(tiny), verify=True)


@pytest.fixture(scope="module")
def codecs(pretrained: Pretrained) -> Codecs:
    return Codecs(pretrained)


@pytest.fixture
def corrupt(pretrained: Pretrained, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(pretrained.folder, tmp_path / "base"))


def smooth_frames(config: Config, frames: int) -> np.ndarray:
    """Colour gradients that differ from frame to frame."""
    rows, columns = np.mgrid[0 : config.clip.height, 0 : config.clip.width] / config.clip.height
    waves = [np.sin(3 * rows + 2 * columns * channel + frame) for frame in range(frames) for channel in range(3)]
    return pixel_bytes(0.7 * np.stack(waves).reshape(frames, 3, *rows.shape).transpose(0, 2, 3, 1).astype(np.float32))


def test_opening_gives_back_config_and_all_parts(pretrained: Pretrained, tiny: Config):
    assert pretrained.config == tiny
    for part in PARTS:
        rows = [row for row in json.loads((pretrained.folder / "report.json").read_text())["tensors"]
                if row["part"] == part]  # fmt: skip
        leaves = flatten(pretrained.params(part))
        assert sorted(leaves) == sorted(row["path"] for row in rows)
        assert all(np.isfinite(leaf).all() for leaf in leaves.values())


def test_a_part_loads_straight_into_shardings(pretrained: Pretrained):
    mesh = make_mesh(MeshConfig(data=8))
    plain = pretrained.params("text_video")
    spread = pretrained.params("text_video", jax.tree.map(lambda _: NamedSharding(mesh, P()), plain))
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(spread), strict=True):
        assert len(other.devices()) == 8
        np.testing.assert_array_equal(one, other)


def test_latents_have_unit_variance_and_decode_to_the_range_of_the_inputs(codecs: Codecs, tiny: Config):
    mean, std = codecs.encode_video(smooth_frames(tiny, 4))
    assert 0.3 < mean.std() < 3 and std.max() < 0.5
    noise = np.random.default_rng(0).standard_normal((4, *latent_shapes(tiny)["video"][1:]))
    assert 20 < codecs.decode_video(noise).std() < 100
    mel = codecs.decode_mel(np.random.default_rng(1).standard_normal(latent_shapes(tiny)["audio"]))
    assert -7 < mel.mean() < -3 and 1 < mel.std() < 4


def test_codecs_have_the_shapes_of_the_contract(codecs: Codecs, tiny: Config):
    video, audio = latent_shapes(tiny)["video"], latent_shapes(tiny)["audio"]
    assert [moment.shape for moment in codecs.encode_video(smooth_frames(tiny, 4))] == [video, video]
    mel = np.full((mel_frames(tiny), tiny.mel.bands), -5, np.float32)
    assert [moment.shape for moment in codecs.encode_mel(mel)] == [audio, audio]
    assert codecs.decode_video(np.zeros(video)).shape == (4, tiny.clip.height, tiny.clip.width, 3)
    waveform = codecs.decode_audio(np.zeros(audio, np.float32))
    assert waveform.shape == (tiny.clip.seconds * tiny.mel.sample_rate,)
    assert 1e-5 < np.abs(waveform).max() <= 1
    text = codecs.encode_text(["a bell rings", "a drum beats behind"])
    assert {name: array.shape[1:] for name, array in text.items()} == text_shapes(tiny)


def test_a_frame_s_latent_does_not_depend_on_the_frames_around_it(codecs: Codecs, tiny: Config):
    frames = smooth_frames(tiny, 11)
    together = codecs.encode_video(frames)[0]
    alone = codecs.encode_video(frames[10:])[0]
    assert together.shape[0] == 11
    np.testing.assert_allclose(together[10:], alone, atol=1e-5)
    decoded = codecs.decode_video(together)
    np.testing.assert_allclose(decoded[10:].astype(int), codecs.decode_video(alone).astype(int), atol=1)


def test_a_caption_s_embedding_does_not_depend_on_its_batch_but_on_its_words(codecs: Codecs):
    many = codecs.encode_text(["a bell rings in front"] + ["a drum beats"] * 9)
    alone = codecs.encode_text(["a bell rings in front"])
    for name, embedding in alone.items():
        np.testing.assert_allclose(many[name][:1], embedding, atol=1e-5)
        assert np.abs(many[name][1] - many[name][0]).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(many["audio"], axis=-1), 1, rtol=1e-5)


def test_bytes_survive_the_way_to_unit_range_and_back():
    every = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    np.testing.assert_array_equal(pixel_bytes(pixels(every)), every)


def test_tokenizers_are_the_same_for_the_same_seed_and_after_loading(pretrained: Pretrained, tiny: Config):
    captions = [*captions_corpus(3, seed=9), "", "Unheard-of wörds!"]
    for name, tokenizer in train_tokenizers(tiny, seed=3).items():
        given, mask = tokenise(tokenizer, captions, 77)
        loaded, _ = tokenise(pretrained.tokenizers[name], captions, 77)
        np.testing.assert_array_equal(given, loaded)
        assert given.max() < getattr(tiny.model.text, name).vocabulary
        assert given.shape == (5, 77) and list(mask.sum(1)[3:4]) == [2]


def test_tokenizers_have_the_original_s_special_tokens_and_case(pretrained: Pretrained):
    clip, roberta = pretrained.tokenizers["video"], pretrained.tokenizers["audio"]
    ids, _ = tokenise(clip, ["A BELL", "a bell"], 8)
    assert ids[0, 0] == clip.bos_token_id == len(clip) - 2
    assert ids[0, -1] == clip.eos_token_id == clip.pad_token_id == len(clip) - 1
    np.testing.assert_array_equal(ids[0], ids[1])
    ids, mask = tokenise(roberta, ["a bell"], 8)
    assert [roberta.convert_tokens_to_ids(token) for token in ("<s>", "<pad>", "</s>", "<unk>")] == [0, 1, 2, 3]
    assert ids[0, 0] == 0 and ids[0, -1] == 1 and ids[0, mask[0]][-1] == 2
    assert clip.decode(tokenise(clip, ["a bell rings"], 8)[0][0], skip_special_tokens=True) == "a bell rings"


def test_most_words_of_the_scenes_are_few_tokens(tiny: Config):
    """At a vocabulary with room for them."""
    roomy = tiny_world.with_part(tiny, "model.text.video", vocabulary=1024)
    roomy = tiny_world.with_part(roomy, "model.text.audio", vocabulary=1024)
    captions = captions_corpus(20, seed=8)
    for tokenizer in train_tokenizers(roomy, seed=0).values():
        words = sum(len(caption.replace(",", " ,").replace(".", " .").split()) for caption in captions)
        tokens = sum(len(tokenizer.tokenize(caption)) for caption in captions)
        assert tokens < 1.15 * words


def test_a_vocabulary_without_room_for_all_bytes_is_refused(tiny: Config):
    with pytest.raises(ConfigError, match="raise model.text"):
        train_tokenizers(tiny_world.with_part(tiny, "model.text.video", vocabulary=300), seed=0)


def test_base_hash_follows_the_weights(pretrained: Pretrained, tiny: Config, tmp_path: Path):
    def write(name: str, weight: float) -> str:
        parts = (
            (part, {"b": np.full(1, weight, np.float32), "a": {"kernel": np.ones((2, 3), np.float32)}})
            for part in PARTS
        )
        write_pretrained(tmp_path / name, tiny, parts, pretrained.tokenizers, origin="a test")
        return base_hash(tmp_path / name)

    assert write("one", 1.0) == write("same", 1.0) != write("other", 2.0)


def test_an_existing_folder_is_not_overwritten(pretrained: Pretrained, tiny: Config):
    before = base_hash(pretrained.folder)
    with pytest.raises(CheckpointError, match="exists already"):
        create_random(pretrained.folder, tiny, seed=0)
    assert base_hash(pretrained.folder) == before


def test_a_failure_leaves_nothing_behind(pretrained: Pretrained, tiny: Config, tmp_path: Path):
    def parts():
        yield "vocoder", pretrained.params("vocoder")
        raise OSError("disk full")

    with pytest.raises(CheckpointError, match="disk full"):
        write_pretrained(tmp_path / "base", tiny, parts(), pretrained.tokenizers, origin="a test")
    assert list(tmp_path.iterdir()) == []


def test_a_part_in_several_chunks_is_read_as_one(
    pretrained: Pretrained, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("con360av_jax.base.chunks.CHUNK_BYTES", 40_000)
    parts = [(part, pretrained.params(part)) for part in PARTS]
    write_pretrained(tmp_path / "base", tiny, parts, pretrained.tokenizers, origin="a test")
    again = open_pretrained(tmp_path / "base", verify=True)
    assert len([path for path in (tmp_path / "base" / "params" / "vocoder").iterdir() if path.is_dir()]) > 2
    for part, params in parts:
        jax.tree.map(np.testing.assert_array_equal, again.params(part), params)


@pytest.mark.parametrize("name", ["report.json", "config.json", "params/vocoder", "tokenizer_audio"])
def test_a_missing_piece_is_named(corrupt: Path, name: str):
    path = corrupt / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match=name) as caught:
        open_pretrained(corrupt)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_one_clear_line(tmp_path: Path):
    for use in (open_pretrained, base_hash):
        with pytest.raises(CheckpointError, match="is no pretrained folder"):
            use(tmp_path / "nothing")


def test_corrupt_weights_are_found(corrupt: Path):
    chunks = sorted((corrupt / "params" / "vocoder").rglob("d/*"), key=lambda path: path.stat().st_size)
    chunks[-1].write_bytes(chunks[-1].read_bytes()[:100])
    with pytest.raises(CheckpointError, match="params/vocoder is corrupt"):
        open_pretrained(corrupt).params("vocoder")
    for content in ("{", None):
        listing = corrupt / "params" / "joint.json"
        listing.unlink() if content is None else listing.write_text(content)
        with pytest.raises(CheckpointError, match="params/joint is corrupt"):
            open_pretrained(corrupt).params("joint")


def test_changed_weights_and_files_are_found_by_their_hash(corrupt: Path):
    report = json.loads((corrupt / "report.json").read_text())
    report["tensors"][-1]["sha256"] = "0" * 64
    (corrupt / "report.json").write_text(json.dumps(report))
    with pytest.raises(CheckpointError, match="differs from report.json"):
        open_pretrained(corrupt, verify=True)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_video/tokenizer.json"])
def test_a_changed_config_or_tokenizer_is_refused_when_the_folder_opens(corrupt: Path, name: str):
    (corrupt / name).write_text((corrupt / name).read_text().replace("1", "2", 1))
    with pytest.raises(CheckpointError, match=f"{name} is missing or was changed"):
        open_pretrained(corrupt)
