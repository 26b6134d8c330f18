"""`python -m convert`: published PyTorch weights to this system's and back, as one command per direction."""

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import tyro
from rich.console import Console

from con360av_jax.commands.options import parse
from con360av_jax.errors import Con360Error, ConfigError
from con360av_jax.runtime.compile_flags import choose_fast_run

if TYPE_CHECKING:
    from convert.torch_files.folders import Sources

USER_ERROR = 2
INTERRUPTED = 130

Dtype: TypeAlias = Literal["stored", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class _FromPublished:
    """Where published weights lie."""

    baseline: Path | None = None
    """The audio-video baseline's saved pipeline (unet_a, unet_v, unet_svg, vae_a, ...)."""
    audioldm: Path | None = None
    """diffusers' AudioLDM folder (unet, vae, text_encoder, tokenizer, vocoder, scheduler)."""
    stable_diffusion: Path | None = None
    """diffusers' Stable Diffusion 1.5 folder (unet, vae, text_encoder, tokenizer, scheduler)."""
    motion: Path | None = None
    """diffusers' motion adapter folder, or AnimateDiff's motion module file (.ckpt, .safetensors)."""
    connectors: Path | None = None
    """The baseline's unet_svg folder or weights file. Left out: connectors start as initialised."""
    from_hub: bool = False
    """Sources that are no paths are Hugging Face ids: download them. Nothing is downloaded without this."""

    def sources(self) -> "Sources":
        """Opens them; raises ConfigError if they are no full set, CheckpointError if one is missing or damaged."""
        from convert.torch_files.folders import baseline, published
        from convert.torch_files.hub import local

        paths = (self.baseline, self.audioldm, self.stable_diffusion, self.motion, self.connectors)
        pipeline, sound, picture, motion, connectors = (
            None if path is None else local(path, self.from_hub) for path in paths
        )
        if pipeline is not None and not any((sound, picture, motion, connectors)):
            return baseline(pipeline)
        if pipeline is None and sound and picture and motion:
            return published(sound, picture, motion, connectors)
        raise ConfigError("give either --baseline, or all of --audioldm, --stable-diffusion and --motion")


@dataclass(frozen=True, kw_only=True)
class Base(_FromPublished):
    """Make a pretrained folder from published weights: --baseline, or --audioldm, --stable-diffusion and --motion."""

    out: Path
    """Folder to make."""
    config: str = ""
    """Name or path of a config that gives what is not about these networks: clip, Map Encoder, training."""
    dtype: Dtype = "stored"
    """Type of the parameters; stored keeps what the files hold."""

    def execute(self, console: Console) -> int:
        """Converts and says what was made."""
        from con360av_jax.config.files import load_config
        from convert.base import convert_base

        sources = self.sources()
        given = load_config(self.config) if self.config else None
        convert_base(sources, self.out, None if self.dtype == "stored" else _dtype(self.dtype), given)
        console.print(f"{self.out}: {sources.origin}", highlight=False, soft_wrap=True)
        return 0


@dataclass(frozen=True, kw_only=True)
class Verify(_FromPublished):
    """Run the originals and a pretrained folder made from them side by side on random inputs; exit 1 if they differ."""

    base: Path
    """The pretrained folder."""
    parts: tuple[str, ...] = ()
    """Networks to compare (unet_a, unet_v, vae_a, vae_v, text_encoder_a, text_encoder_v, vocoder); all if left out."""
    tolerance: float | None = None
    """Largest relative L2 error of a network; 1e-4 if left out, 2e-2 where the folder's weights were rounded."""
    seed: int = 0
    """Seed of the inputs."""
    html: Path | None = None
    """A page to write, with every layer's error."""
    json: Path | None = None
    """The same as JSON."""

    def execute(self, console: Console) -> int:
        """Compares, prints the table, writes page and JSON; 1 if anything is above its tolerance."""
        from con360av_jax.runtime.compile_cache import enable_compile_cache
        from convert.verify.compare import passed, verify
        from convert.verify.report import environment, render, write_html, write_json

        enable_compile_cache()
        sources = self.sources()
        results = verify(sources, self.base, self.seed, self.parts or None, self.tolerance)
        console.print(render(results))
        for path, write in ((self.html, write_html), (self.json, write_json)):
            if path is not None:
                write(results, path, environment(sources, self.base))
        return 0 if passed(results) else 1


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a pretrained folder or a training run as PyTorch folders that diffusers and transformers load."""

    source: Annotated[Path, tyro.conf.Positional]
    """A pretrained folder, a training run, or one of its checkpoints."""
    out: Path
    """Folder to make."""
    dtype: Dtype = "stored"
    """Type of the tensors; stored keeps what the folder holds."""
    weights: Literal["ema", "last"] = "ema"
    """Of a run: the moving average of the trained weights, or the weights of the last step."""

    def execute(self, console: Console) -> int:
        """Exports and says where."""
        from convert.export import export

        export(self.source, self.out, None if self.dtype == "stored" else _dtype(self.dtype), self.weights == "ema")
        console.print(f"{self.out}: unet_a, unet_v, unet_svg, control, ...", highlight=False, soft_wrap=True)
        return 0


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Say what a file or folder of weights holds, without loading tensors."""

    path: Annotated[Path, tyro.conf.Positional]
    """A weights file, a network's or pipeline's folder, a pretrained folder or a checkpoint."""

    def execute(self, console: Console) -> int:
        """Prints one row per network."""
        from convert.inspection import inspect_path, render

        console.print(render(inspect_path(self.path)))
        return 0


Verb: TypeAlias = (
    Annotated[Base, tyro.conf.subcommand("base")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0, 1 if `verify` found a difference, 2 for an error that the user can mend,
    130 after Ctrl-C.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in ("absl", "jax", "orbax"):
        logging.getLogger(name).setLevel(logging.ERROR)
    choose_fast_run()
    try:
        verb = parse(
            lambda: tyro.cli(
                Verb,  # pyright: ignore[reportArgumentType]
                prog="python -m convert",
                description=__doc__,
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
        )
        if verb is not None:
            return verb.execute(Console())
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except (Con360Error, OSError) as error:
        _complain(f"error: {error}")
        return USER_ERROR
    return 0


def _dtype(name: str):
    import jax.numpy as jnp

    return jnp.dtype(name)


def _complain(message: str) -> None:
    sys.stderr.write(f"convert: {' '.join(message.split())}\n")
