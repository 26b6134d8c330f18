"""Options that con360av evaluate and con360av table1 share: choice of records, networks, sampling, devices."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from con360av_jax.config.settings import Dtype, MeshConfig, Solver
from con360av_jax.errors import ConfigError
from con360av_jax.train.cluster import Cluster, join

if TYPE_CHECKING:
    from con360av_jax.evaluate.extraction import Extraction
    from con360av_jax.evaluate.protocols import Protocol
    from con360av_jax.evaluate.settings import Making


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Options of every evaluation."""

    count: int | None = None
    """Number of records, chosen by their keys and --seed. Left out: all."""
    scenes: int | None = None
    """Number of segments, chosen likewise, each with the records of all its viewpoints; in place of --count."""
    weights: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=PATH ...")] = ()
    """Files of the protocol's networks fastgaze, yamnet, tempsal, i3d and clap, such as fastgaze=fastgaze.vxm; runs or
    files of judge_video and judge_audio."""
    seed: int = 0
    """Seed of the choice of records, the noise and the bootstrap draws."""
    steps: int | None = None
    """Sampling steps. Left out: the config's sampler.steps."""
    solver: Solver | None = None
    """Solver: ddim, dpmpp_2m or unipc; the latter two need fewer steps. Left out: the config's sampler.solver."""
    guidance_least: float | None = None
    """Noise level sqrt((1 - alpha_bar) / alpha_bar) below which nothing is guided. Left out: the config's."""
    guidance_most: float | None = None
    """Noise level above which nothing is guided. Left out: the config's."""
    text_guidance: str = ""
    """Guidance scale of the caption: NUMBER, or audio=NUMBER,video=NUMBER. Left out: the config's."""
    map_guidance: str = ""
    """Guidance scale of the maps: NUMBER, or audio=NUMBER,video=NUMBER. Left out: the config's."""
    saliency_guidance: str = ""
    """Guidance scale of saliency, given likewise; --map-guidance is then that of BASD. Left out: the config's, or that
    of the maps."""
    negative_caption: str | None = None
    """Description of what clips should not contain, for audio and video. Left out: the protocol's, which is "bad
    quality, worse quality" for paper and styleganv and "" for others."""
    batch_size: int | None = None
    """Clips generated at once. Left out: 4, rounded up to a multiple of the mesh's devices. With another number, arrays
    are the same within float32 rounding; files may differ more, for encoders round to whole pixel values and bits."""
    dtype: Dtype | None = None
    """Data type that U-Nets, connectors and VAEs compute in. Left out: float32 on CPUs, bfloat16 on GPUs and TPUs."""
    mesh: MeshConfig = MeshConfig()
    """Devices of each process to sample on. Clips are the same on any mesh, within float32 rounding."""
    raw_weights: bool = False
    """Use the trained weights instead of their moving average."""
    device: str = "cpu"
    """Device of the feature extraction: cpu or cuda. JAX holds most of a GPU's memory: with cuda, extract in a second
    call after all clips are generated, or set XLA_PYTHON_CLIENT_PREALLOCATE=false."""
    allow_code: bool = False
    """Allow i3d=FILE in the weights to be TorchScript, which runs code from that file."""
    draws: int = 1000
    """Bootstrap draws of each 95 % interval."""
    cluster: tyro.conf.OmitArgPrefixes[Cluster] = Cluster()
    """Options by which the processes of one run find each other."""

    def check(self) -> None:
        """Raises ConfigError for values that otherwise would fail only after hours of generating."""
        from con360av_jax.evaluate.feature_metrics import check_draws

        check_draws(self.draws)
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed}: give 0 or more")
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"--batch-size {self.batch_size}: give 1 or more")

    def extraction(self, given: tuple[Path, Path] | None = None) -> "Extraction":
        """Settings of the feature extraction, or the folders of features `given`; raises as `Extraction.check`."""
        from con360av_jax.evaluate.extraction import Extraction, weights_by_name

        weights = weights_by_name(self.weights)
        found = Extraction(weights=weights, device=self.device, allow_code=self.allow_code, given=given)
        found.check()
        return found

    def making(self, run: Path, dataset: Path, protocol: "Protocol") -> "Making":
        """Settings of the clips of a run, by the options and the protocol's negative caption.

        Asks JAX for its devices: `start` comes before.
        Raises CheckpointError or DatasetError if one of them cannot be opened or does not fit the other.
        """
        from con360av_jax.data.source import open_dataset
        from con360av_jax.evaluate.settings import Making, find_weights, require_pair, sampler_of
        from con360av_jax.model import default_dtype

        opened = open_dataset(dataset, verify="sizes")
        weights = find_weights(run, ema=not self.raw_weights)
        require_pair(weights, opened)
        scales = self.text_guidance, self.map_guidance, self.saliency_guidance
        given = weights.config.sampler.given(
            solver=self.solver, guidance_least=self.guidance_least, guidance_most=self.guidance_most
        )
        sampler = sampler_of(given, self.steps, *scales)
        negative = protocol.negative_caption if self.negative_caption is None else self.negative_caption
        return Making(
            weights=weights,
            dataset=opened,
            seed=self.seed,
            dtype=self.dtype or default_dtype(),
            sampler=sampler,
            negative_caption=negative,
        )

    def clips_at_once(self) -> int:
        """Number of clips that are generated at once on the mesh."""
        from con360av_jax.evaluate.run import CLIPS_AT_ONCE

        parts = self.mesh.data * self.mesh.fsdp
        return math.ceil(CLIPS_AT_ONCE / parts) * parts if self.batch_size is None else self.batch_size

    def start(self) -> None:
        """Enables the compile cache and joins the other processes, if any."""
        from con360av_jax.runtime.compile_cache import enable_compile_cache

        enable_compile_cache()
        join(self.cluster)


def option_words(options: object, prefix: str = "--") -> Iterator[str]:
    """The options of a command that differ from their default, as a user would type them."""
    for option in fields(options):  # pyright: ignore[reportArgumentType]
        value, flag = getattr(options, option.name), f"{prefix}{option.name.replace('_', '-')}"
        if value == option.default:
            continue
        if is_dataclass(value):
            yield from option_words(value, f"{flag}." if isinstance(value, MeshConfig) else prefix)
        else:
            yield flag
            if value is not True:
                yield from map(str, value if isinstance(value, tuple) else (value,))
