"""`python -m convert`: published PyTorch weights to this system's and back, as one command per direction."""

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import tyro
from rich.console import Console

from con360av_jax.commands.options import parse
from con360av_jax.errors import Con360Error, ConfigError

USER_ERROR = 2
INTERRUPTED = 130

Dtype: TypeAlias = Literal["stored", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Base:
    """Make a pretrained folder from published weights: --baseline, or --audioldm, --stable-diffusion and --motion."""

    out: Path
    """Folder to make."""
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
    config: str = ""
    """Name or path of a config that gives what is not about these networks: clip, Map Encoder, training."""
    dtype: Dtype = "stored"
    """Type of the parameters; stored keeps what the files hold."""
    from_hub: bool = False
    """Sources that are no paths are Hugging Face ids: download them. Nothing is downloaded without this."""

    def execute(self, console: Console) -> None:
        """Converts and says what was made."""
        from con360av_jax.config_io import load_config
        from convert.base import convert_base
        from convert.hub import local
        from convert.sources import Sources, baseline, published

        given_paths = (self.baseline, self.audioldm, self.stable_diffusion, self.motion, self.connectors)
        pipeline, sound, picture, motion, connectors = (
            None if path is None else local(path, self.from_hub) for path in given_paths
        )
        sources: Sources
        if pipeline is not None and not any((sound, picture, motion, connectors)):
            sources = baseline(pipeline)
        elif pipeline is None and sound and picture and motion:
            sources = published(sound, picture, motion, connectors)
        else:
            raise ConfigError("give either --baseline, or all of --audioldm, --stable-diffusion and --motion")
        given = load_config(self.config) if self.config else None
        convert_base(sources, self.out, None if self.dtype == "stored" else _dtype(self.dtype), given)
        console.print(f"{self.out}: {sources.origin}", highlight=False, soft_wrap=True)


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

    def execute(self, console: Console) -> None:
        """Exports and says where."""
        from convert.export import export

        export(self.source, self.out, None if self.dtype == "stored" else _dtype(self.dtype), self.weights == "ema")
        console.print(f"{self.out}: unet_a, unet_v, unet_svg, control, ...", highlight=False, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Say what a file or folder of weights holds, without loading tensors."""

    path: Annotated[Path, tyro.conf.Positional]
    """A weights file, a network's or pipeline's folder, a pretrained folder or a checkpoint."""

    def execute(self, console: Console) -> None:
        """Prints one row per network."""
        from convert.inspection import inspect_path, render

        console.print(render(inspect_path(self.path)))


Verb: TypeAlias = (
    Annotated[Base, tyro.conf.subcommand("base")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code (0, 2 for an error that the user can mend, 130 after Ctrl-C)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in ("absl", "jax", "orbax"):
        logging.getLogger(name).setLevel(logging.ERROR)
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
            verb.execute(Console())
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
