"""The program `python -m convert`: published PyTorch weights to the weights of this system, and back."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import tyro
from rich.console import Console

from con360av_jax.commands.program import run_program
from con360av_jax.errors import ConfigError
from con360av_jax.runtime.compile_flags import quick_compile_flags, user_flags

if TYPE_CHECKING:
    import numpy as np

    from convert.torch_files.folders import Sources

ABOUT = "Convert published PyTorch weights to the weights of this system, and back."

Dtype: TypeAlias = Literal["stored", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class _FromPublished:
    """Folders and files of published weights."""

    baseline: Path | None = None
    """Saved pipeline of the audio-video baseline: a folder with unet_a, unet_v, unet_svg, vae_a, ..."""
    audioldm: Path | None = None
    """AudioLDM in diffusers' layout: a folder (unet, vae, text_encoder, tokenizer, vocoder, scheduler)."""
    stable_diffusion: Path | None = None
    """Stable Diffusion 1.5 in diffusers' layout: a folder (unet, vae, text_encoder, tokenizer, scheduler)."""
    motion: Path | None = None
    """Motion adapter in diffusers' layout, or AnimateDiff's motion module (.ckpt, .safetensors)."""
    connectors: Path | None = None
    """The baseline's unet_svg folder or weights file. Left out: connectors get initial weights."""
    from_hub: bool = False
    """Download sources that are Hugging Face ids instead of paths. Nothing is downloaded without this."""

    def sources(self) -> "Sources":
        """Opens the weights; raises ConfigError if some are not given, CheckpointError if one is missing or corrupt."""
        from convert.torch_files.folders import baseline, published
        from convert.torch_files.hub import local

        paths = (self.baseline, self.audioldm, self.stable_diffusion, self.motion, self.connectors)
        pipeline, audio, video, motion, connectors = (
            None if path is None else local(path, self.from_hub) for path in paths
        )
        if pipeline is not None and not any((audio, video, motion, connectors)):
            return baseline(pipeline)
        if pipeline is None and audio and video and motion:
            return published(audio, video, motion, connectors)
        raise ConfigError("give either --baseline, or all of --audioldm, --stable-diffusion and --motion")


@dataclass(frozen=True, kw_only=True)
class Base(_FromPublished):
    """Make a base from published weights: --baseline, or --audioldm, --stable-diffusion and --motion."""

    out: Path
    """Folder of the base to write."""
    config: str = ""
    """Name of a config (configs/NAME.py) or path to a .py or .json file, for all settings that do not follow from the
    weights: clip, Map Encoder, training."""
    dtype: Dtype = "stored"
    """Type of the parameters; stored keeps the type of the files."""

    def execute(self) -> None:
        """Converts the weights and shows where they came from."""
        from con360av_jax.config.files import load_config
        from convert.base import convert_base

        sources = self.sources()
        given = load_config(self.config) if self.config else None
        convert_base(sources, self.out, _dtype(self.dtype), given)
        Console().print(f"{self.out}: {sources.origin}", highlight=False, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class Verify(_FromPublished):
    """Compare the PyTorch networks with a base made from them, on random inputs.

    The exit code is 1 if the error of a network is above the tolerance.
    """

    base: Path
    """Folder made by `python -m convert base`."""
    parts: tuple[str, ...] = ()
    """Networks to compare: unet_a, unet_v, vae_a, vae_v, text_encoder_a, text_encoder_v, vocoder. Left out: all."""
    tolerance: float | None = None
    """Largest relative L2 error of a network. Left out: 1e-4, or 2e-2 if the base's weights are rounded."""
    seed: int = 0
    """Seed of the inputs."""
    html: Path | None = None
    """Page to write, with the error of every layer."""
    json: Path | None = None
    """JSON file to write, with the error of every layer."""

    def execute(self) -> int:
        """Compares, shows the table, writes page and JSON; returns 1 if an error is above its tolerance, else 0."""
        # Every program runs twice only. Before JAX, which reads it once.
        os.environ["XLA_FLAGS"] = user_flags() or quick_compile_flags(0)

        from con360av_jax.runtime.compile_cache import enable_compile_cache
        from convert.verify.compare import passed, verify
        from convert.verify.report import environment, render, write_html, write_json

        enable_compile_cache()
        sources = self.sources()
        results = verify(sources, self.base, self.seed, self.parts or None, self.tolerance)
        Console().print(render(results))
        for path, write in ((self.html, write_html), (self.json, write_json)):
            if path is not None:
                write(results, path, environment(sources, self.base))
        return 0 if passed(results) else 1


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a base or a training run as PyTorch folders that diffusers and transformers load."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Training run (its newest checkpoint), RUN/checkpoints/STEP, a base, an exported model, or the name of a packaged
    model."""
    out: Path
    """Folder to write."""
    dtype: Dtype = "stored"
    """Type of the tensors; stored keeps the type of the source."""
    weights: Literal["ema", "last"] = "ema"
    """Weights of a training run: the moving average (ema), or those of the last step."""

    def execute(self) -> None:
        """Exports the weights."""
        from convert.export import export

        export(self.source, self.out, _dtype(self.dtype), self.weights == "ema")
        Console().print(f"{self.out}: unet_a, unet_v, unet_svg, control, ...", highlight=False, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show what a file or folder of weights holds, without loading tensors."""

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """Weights file, folder of a network or pipeline, base, checkpoint, exported model, or name of a packaged model."""

    def execute(self) -> None:
        """Prints one row per network."""
        from con360av_jax.runtime.packaged import find_model
        from convert.inspection import inspect_path, render

        Console().print(render(inspect_path(find_model(self.path))))


COMMANDS = {"base": Base, "verify": Verify, "export": Export, "inspect": Inspect}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 1 if `verify` found a difference, 2 for an error that the user can
    mend, 130 after Ctrl-C.
    """
    return run_program("python -m convert", ABOUT, COMMANDS, arguments)


def _dtype(name: Dtype) -> "np.dtype | None":
    if name == "stored":
        return None

    import jax.numpy as jnp

    return jnp.dtype(name)
