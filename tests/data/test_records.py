"""Records: bytes and back, equal samples give equal bytes, and every wrong field is named."""

import dataclasses

import numpy as np
import pytest
import safetensors.numpy

from con360av_jax.config.shapes import latent_shapes, maps_shape, text_shapes
from con360av_jax.data.fake import ALL_FIELDS, fake_sample
from con360av_jax.data.schema import (
    ENCODED_FIELDS,
    MAP_FIELDS,
    field_specs,
    from_bytes,
    to_bytes,
    validate,
)
from con360av_jax.errors import DatasetError
from tests.support.flawed_records import equal, with_array

FIELDS = ENCODED_FIELDS + MAP_FIELDS


def test_a_sample_survives_its_bytes(tiny):
    sample = fake_sample(tiny, 3)
    sample = dataclasses.replace(sample, start=2.5, caption='A bell — "ding", 鐘\nrings.')
    assert equal(from_bytes(to_bytes(sample)), sample)


def test_equal_samples_give_equal_bytes_whatever_their_memory_layout(tiny):
    sample = fake_sample(tiny, 3)
    reordered = dict(reversed([(name, np.asfortranarray(array)) for name, array in sample.arrays.items()]))
    assert to_bytes(dataclasses.replace(sample, arrays=reordered)) == to_bytes(sample)
    assert to_bytes(dataclasses.replace(sample, caption="other")) != to_bytes(sample)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-7], lambda b: b[:40], lambda b: b"x" * 64])
def test_bytes_that_are_no_sample_are_refused(tiny, damage):
    with pytest.raises(DatasetError, match="not a sample"):
        from_bytes(damage(to_bytes(fake_sample(tiny, 0, fields=FIELDS))))


def test_a_safetensors_file_without_description_is_refused():
    with pytest.raises(DatasetError, match="not a sample.*metadata"):
        from_bytes(safetensors.numpy.save({"mel": np.zeros(3, np.float32)}))


def test_field_shapes_follow_the_one_table(tiny):
    specs = field_specs(tiny)
    assert specs["audio_latent_mean"].shape == latent_shapes(tiny)["audio"] == (25, 8, 8)
    assert specs["video_latent_std"].shape == latent_shapes(tiny)["video"] == (4, 8, 8, 4)
    assert specs["clap_text"].shape == text_shapes(tiny)["audio"]
    assert specs["clip_text"].shape == text_shapes(tiny)["video"]
    assert (*specs["saliency"].shape[:-1], 2) == maps_shape(tiny)
    assert (specs["video"].shape, specs["video"].dtype) == ((4, 16, 16, 3), np.uint8)
    assert (specs["sound"].shape, specs["sound"].dtype) == ((16000,), np.int16)
    assert specs["mel"].shape == (100, 32)
    assert set(specs) == set(ALL_FIELDS)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("saliency", lambda a: a[:, :, :-1], r"'saliency' is float32\[4, 16, 31, 1\], wanted float32\[4, 16, 32, 1\]"),
        ("video", lambda a: a.astype(np.float32), r"'video' is float32\[4, 16, 16, 3\], wanted uint8"),
        ("viewpoint", lambda a: a.astype(np.float64), r"'viewpoint' is float64\[4, 4\], wanted float32"),
        ("mel", lambda a: np.where(np.arange(32) == 5, np.float32("nan"), a), "'mel' holds NaN or infinity in 100"),
        ("clap_text", lambda a: a / np.float32(0), "'clap_text' holds NaN or infinity"),
        ("saliency", lambda a: a * np.float32(255), r"saliency lies in .*wanted \[0, 1\]"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # one case makes its infinities by dividing
def test_a_wrong_array_is_named_with_its_sample_and_field(tiny, name, change, said):
    sample = fake_sample(tiny, 0)
    validate(sample, tiny, ALL_FIELDS)
    with pytest.raises(DatasetError, match=said) as caught:
        validate(with_array(sample, name, change(sample.arrays[name])), tiny, ALL_FIELDS)
    assert sample.key in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_undeclared_and_unknown_fields_and_false_keys_are_refused(tiny):
    sample = fake_sample(tiny, 0, fields=FIELDS)
    with pytest.raises(DatasetError, match="fake_000000/0/0 lacks the field 'mel'"):
        validate(sample, tiny, (*FIELDS, "mel"))
    with pytest.raises(DatasetError, match="holds clap_text, which the dataset does not declare"):
        validate(sample, tiny, tuple(name for name in FIELDS if name != "clap_text"))
    with pytest.raises(DatasetError, match="'depth' is not a field"):
        validate(sample, tiny, (*FIELDS, "depth"))
    with pytest.raises(DatasetError, match="must be called 'fake_000000/1/0'"):
        validate(dataclasses.replace(sample, segment=1), tiny, FIELDS)
