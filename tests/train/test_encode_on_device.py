"""A dataset of raw video and audio trains on the same numbers as one with encoded records."""

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest

from con360av_jax.base.codecs import Codecs
from con360av_jax.base.pretrained import Pretrained, open_pretrained
from con360av_jax.base.tokenizer import tokenise
from con360av_jax.config.settings import Config, MeshConfig
from con360av_jax.data.fake import batch_spec, fake_sample
from con360av_jax.data.loader import make_loader
from con360av_jax.data.schema import ENCODED_FIELDS, MAP_FIELDS, RAW_FIELDS, Sample
from con360av_jax.data.source import open_dataset
from con360av_jax.data.writer import write_dataset
from con360av_jax.models.functional import flatten
from con360av_jax.sharding import batch_sharding, make_mesh
from con360av_jax.train.encode import caption_tokens, open_encode
from con360av_jax.train.loop import on_mesh, train
from tests.support import tiny_world

pytestmark = pytest.mark.usefixtures("quick_compiles")

CAPTIONS = ("a dog barks left of a fountain", "", "rain " * 200)
BATCH = 4


@pytest.fixture(scope="module")
def config(tiny) -> Config:
    """The tiny config with scaled latents, so that a forgotten factor shows."""
    scaled = tiny_world.with_part(tiny, "model.vae.audio", scaling_factor=0.9)
    return dataclasses.replace(tiny_world.with_part(scaled, "model.vae.video", scaling_factor=0.2), name="scaled")


@pytest.fixture(scope="module")
def pretrained(config) -> Pretrained:
    return open_pretrained(tiny_world.base(config))


@pytest.fixture(scope="module")
def folders(config, pretrained, tmp_path_factory) -> tuple[Path, Path]:
    """Two datasets of the same samples: one with raw fields only, one with the outputs of the codecs."""
    codecs, folder = Codecs(pretrained), tmp_path_factory.mktemp("encode")
    raw = [
        dataclasses.replace(fake_sample(config, number, fields=RAW_FIELDS + MAP_FIELDS), caption=caption)
        for number, caption in enumerate(CAPTIONS)
    ]
    for name, samples, fields in (
        ("raw", raw, RAW_FIELDS),
        ("encoded", [encoded(codecs, sample) for sample in raw], ENCODED_FIELDS),
    ):
        write_dataset(folder / name, samples, config, fields + MAP_FIELDS, [], {})
    return folder / "raw", folder / "encoded"


def encoded(codecs: Codecs, sample: Sample) -> Sample:
    arrays = {name: sample.arrays[name] for name in MAP_FIELDS}
    text = codecs.encode_text([sample.caption])
    arrays |= {"clap_text": text["audio"][0], "clip_text": text["video"][0]}
    for name, (mean, std) in {
        "audio": codecs.encode_mel(sample.arrays["mel"]),
        "video": codecs.encode_video(sample.arrays["video"]),
    }.items():
        arrays |= {f"{name}_latent_mean": mean, f"{name}_latent_std": std}
    return dataclasses.replace(sample, arrays=arrays)


@pytest.mark.parametrize("devices", [1, 2])
def test_batches_encoded_on_the_device_equal_those_of_encoded_records(config, pretrained, folders, devices):
    mesh = make_mesh(MeshConfig(data=devices))
    encode = open_encode(pretrained, mesh, "float32")
    raw, ready = (
        make_loader(open_dataset(folder), config, BATCH, 7, tokenise=caption_tokens(pretrained)) for folder in folders
    )
    with closing(raw), closing(ready):
        for given, expected in itertools.islice(zip(raw, ready, strict=True), 2):
            batch, wanted = encode(on_mesh(given, mesh)), on_mesh(expected, mesh)
            assert jax.tree.structure(batch) == jax.tree.structure(wanted)
            for path, leaf in flatten(batch).items():
                other = flatten(wanted)[path]
                assert leaf.sharding.is_equivalent_to(batch_sharding(mesh), leaf.ndim), path
                assert leaf.dtype == other.dtype, path
                # One frame at a time here, eight there: float32 sums in another order.
                np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-5, err_msg=path)
            shapes = {path: leaf.shape for path, leaf in flatten(batch).items()}
            assert shapes == {path: leaf.shape for path, leaf in flatten(batch_spec(config, BATCH)).items()}


def test_captions_are_embedded_in_float32_whatever_the_vaes_compute_in(config, pretrained, folders):
    mesh = make_mesh(MeshConfig())
    encode = open_encode(pretrained, mesh, "bfloat16")
    loader = make_loader(open_dataset(folders[0]), config, BATCH, 7, tokenise=caption_tokens(pretrained))
    with closing(loader):
        given = next(loader)
    batch = encode(on_mesh(given, mesh))
    captions = [CAPTIONS[number] for number in given["sample_id"]]
    for name, wanted in Codecs(pretrained).encode_text(captions).items():
        np.testing.assert_allclose(batch["text"][name], wanted, rtol=1e-5, atol=1e-5, err_msg=name)
    assert {leaf.dtype for leaf in jax.tree.leaves(batch["moments"])} == {np.dtype(np.float32)}


def test_captions_become_the_same_tokens_from_many_threads(config, pretrained):
    tokens_of = caption_tokens(pretrained)
    captions = [f"{caption} {number}" for number in range(40) for caption in CAPTIONS]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(tokens_of, captions))
    for name, text in vars(config.model.text).items():
        ids, mask = tokenise(pretrained.tokenizers[name], captions, text.tokens)
        np.testing.assert_array_equal(np.stack([tokens[name]["ids"] for tokens in found]), ids)
        np.testing.assert_array_equal(np.stack([tokens[name]["mask"] for tokens in found]), mask)


def test_a_run_on_raw_records_has_the_losses_of_one_on_encoded_records(config, pretrained, folders, tmp_path):
    recipe = tiny_world.with_train(config, trainable="control", clean_estimate_share=0.0, batch_size=2, steps=2)
    losses = []
    for folder in folders:
        train(recipe, pretrained.folder, folder, tmp_path / folder.name)
        losses.append([line["loss"] for line in tiny_world.metrics(tmp_path / folder.name)])
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
