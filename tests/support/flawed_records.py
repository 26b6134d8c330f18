"""Changed and compared records; records with one defect each, and the check of the doctor that should find it."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from con360av_jax.data.fake import ALL_FIELDS
from con360av_jax.data.schema import Sample, sample_key


def named(sample: Sample, clip: str, segment: int = 0, viewpoint: int = 0) -> Sample:
    key = sample_key(clip, segment, viewpoint)
    return dataclasses.replace(sample, key=key, clip=clip, segment=segment, viewpoint_index=viewpoint)


def with_array(sample: Sample, name: str, array: np.ndarray) -> Sample:
    return dataclasses.replace(sample, arrays=sample.arrays | {name: array})


def equal(one: Sample, other: Sample) -> bool:
    """Whether two samples are equal, dtypes included."""
    return (
        one.entry == other.entry
        and one.arrays.keys() == other.arrays.keys()
        and all(
            one.arrays[name].dtype == other.arrays[name].dtype and np.array_equal(one.arrays[name], other.arrays[name])
            for name in one.arrays
        )
    )


def only(sample: Sample, fields: Sequence[str]) -> Sample:
    return dataclasses.replace(sample, arrays={name: sample.arrays[name] for name in fields})


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Sample], Sample]:
    """Change that a defect makes to one array of a sample."""

    def apply(sample: Sample) -> Sample:
        array = sample.arrays[name].copy()
        return with_array(sample, name, np.asarray(change(array)).astype(array.dtype))

    return apply


def column(number: int, value: float) -> Callable[[Sample], Sample]:
    """A viewpoint with one of its four angles replaced."""
    return changed("viewpoint", lambda track: np.where(np.arange(4) == number, value, track))


def first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """The first of an array's values replaced."""
    return lambda array: np.where(np.arange(array.size).reshape(array.shape) == 0, value, array)


DEFECTS = {
    "a NaN": ("finite numbers", changed("clip_text", first(np.nan))),
    "infinity": ("finite numbers", changed("video_latent_std", first(np.inf))),
    "saliency above 1": ("saliency range", changed("saliency", first(1.5))),
    "saliency without contrast": ("saliency contrast", changed("saliency", np.zeros_like)),
    "yaw in degrees": ("viewpoint angles", column(0, 90.0)),
    "pitch over the pole": ("viewpoint angles", column(1, 2.0)),
    "no field of view": ("viewpoint angles", column(2, 0.0)),
    "a field of view of half the sphere": ("viewpoint angles", column(3, np.pi)),
    "a logarithm of the deviation": ("latent spread", changed("audio_latent_std", first(-3.0))),
    "latents that were not scaled": ("latent size", changed("video_latent_mean", lambda array: array * 1000)),
    "a CLAP vector of length 2": ("caption vector", changed("clap_text", lambda array: 2 * array)),
    "a mel below its floor": ("mel floor", changed("mel", first(-20.0))),
    "silence": ("silent sound", changed("sound", np.zeros_like)),
    "nearly silence": ("silent sound", changed("sound", lambda array: array // 2**14)),
    "clipping": ("clipped sound", changed("sound", lambda array: np.where(array > 16384, 32767, array))),
    "a still picture": ("frozen picture", changed("video", lambda array: array[:1].repeat(len(array), axis=0))),
    "a black picture": ("black picture", changed("video", np.zeros_like)),
    "one black frame": ("black picture", changed("video", lambda a: np.concatenate([0 * a[:1], a[1:]]))),
    "another shape": ("schema", lambda sample: with_array(sample, "mel", sample.arrays["mel"][1:])),
    "an empty array": ("schema", lambda sample: with_array(sample, "saliency", sample.arrays["saliency"][:0])),
    "another dtype": ("schema", lambda sample: with_array(sample, "mel", sample.arrays["mel"].astype(np.int16))),
    "a field that is not declared": ("schema", lambda sample: with_array(sample, "smell", np.zeros(3, np.float32))),
    "a missing field": ("schema", lambda sample: only(sample, [name for name in ALL_FIELDS if name != "saliency"])),
    "a wrong name": ("schema", lambda sample: dataclasses.replace(sample, key="somebody else")),
    "no caption": ("captions", lambda sample: dataclasses.replace(sample, caption="  ")),
}
