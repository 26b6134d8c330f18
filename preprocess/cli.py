"""`python -m preprocess`: a folder of 360° videos becomes a dataset, with progress, a summary and a ledger."""

import logging
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from con360av_jax.commands.options import parse
from con360av_jax.config import Config, require
from con360av_jax.config_io import load_config
from con360av_jax.data.schema import Manifest, Sample
from con360av_jax.data.writer import write_dataset
from con360av_jax.errors import CheckpointError, Con360Error, DatasetError
from con360av_jax.quick_compile import choose_fast_run
from preprocess.captions import CaptionName, CaptionSettings, caption_sources, open_captions
from preprocess.encode import open_encoder
from preprocess.inputs import Input, SplitName, find_inputs
from preprocess.pipeline import Ledger, Pipeline
from preprocess.previews import preview_folder
from preprocess.saliency import SaliencyDevice, SaliencyName, open_saliency
from preprocess.standardise import Stereo
from preprocess.viewpoints import ViewpointSettings

USER_ERROR = 2
INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Options:
    """Turn 360° videos into a dataset of viewpoints with sound, saliency and captions."""

    videos: tuple[Path, ...]
    """Files, or folders that are searched for videos."""
    out: Path
    """Folder of the new dataset; must not exist or be empty."""
    config: str = ""
    """Name of a config in configs/, or path of one (.py, .json). Left out: the base's own."""
    base: str = "none"
    """Pretrained folder whose encoders make latents and embeddings; "none" keeps raw pictures and sound."""
    captions: CaptionName = "template"
    """file: <video>.txt or captions.jsonl beside the video; template: a sentence of measured facts; blip2+llama: BLIP-2
    describes the cube's faces once per second and a chat model joins its texts."""
    caption_faces: str = ""
    """Folder or Hugging Face id of the BLIP-2 of --captions blip2+llama."""
    caption_join: str = ""
    """Folder or Hugging Face id of its chat model, such as Llama 3.2 Instruct."""
    caption_prompts: Path | None = None
    """What the two are told: an edited copy of preprocess/captioning/prompts.toml."""
    caption_texts: Path | None = None
    """Folder that keeps every text they write, so that a second run need not write them again. Left out:
    <out>.captions."""
    caption_device: str = "auto"
    """Where they run: auto, cpu, cuda, cuda:1 .."""
    caption_batch: int = 24
    """Faces in one call of BLIP-2."""
    from_hub: bool = False
    """Download caption models given by their Hugging Face id."""
    saliency: SaliencyName = "contrast"
    """contrast: no weights; file: your own maps, see --saliency-folder; salvit360: see --saliency-weights."""
    saliency_folder: Path = Path("saliency")
    """Where --saliency file finds <clip>.npy, .npz or .mp4."""
    saliency_weights: Path | None = None
    """SalViT360's published checkpoint, VAC (better) or VSTA, for --saliency salvit360."""
    saliency_device: SaliencyDevice = "cpu"
    """Where --saliency salvit360 computes."""
    viewpoints: int = 3
    """Viewpoints per segment."""
    moving: bool = False
    """Viewpoints follow their region through the segment instead of standing still."""
    keep_raw: bool = False
    """Keep pictures, sound and mel beside their encodings."""
    panorama_height: int = 512
    """Rows that panoramas are reduced to while they are worked on."""
    stereo: Stereo = "auto"
    """How two eyes share the picture; auto judges by its aspect, which cannot see 3D that is squeezed into 16:9."""
    split: SplitName = "all"
    """A share of the source videos: 85 % train, 15 % validation."""
    split_list: Path | None = None
    """Text file of clip names, one per line, such as a published split: only these are used."""
    max_clips: int | None = None
    """Use at most this many videos."""
    previews: bool = False
    """Also write one panorama per segment to <out>/previews."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 2 for an error that the user can mend, 130 after Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    choose_fast_run()
    try:
        options = parse(
            lambda: tyro.cli(
                Options,
                prog="python -m preprocess",
                args=None if arguments is None else list(arguments),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
        )
        if options is not None:
            run(options)
    except KeyboardInterrupt:
        sys.stderr.write("preprocess: interrupted; nothing was written\n")
        return INTERRUPTED
    except (Con360Error, OSError) as error:
        sys.stderr.write(f"preprocess: error: {' '.join(str(error).split())}\n")
        return USER_ERROR
    return 0


def run(options: Options) -> Manifest:
    """Writes the dataset and returns its manifest; raises a Con360Error and writes nothing if no input is usable."""
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise DatasetError(f"{options.out} exists and is not empty: give another folder or delete it")
    require(options.max_clips is None or options.max_clips > 0, f"--max-clips is {options.max_clips}; give 1 or more")
    require(options.panorama_height >= 64, f"--panorama-height is {options.panorama_height}; give 64 or more")
    config = _config(options)
    pipeline = Pipeline(
        config=config,
        saliency=open_saliency(
            options.saliency, options.saliency_folder, options.saliency_weights, options.saliency_device
        ),
        captions=open_captions(options.captions, _caption_settings(options), config.clip.frames_per_second),
        viewpoints=ViewpointSettings(count=options.viewpoints, moving=options.moving),
        encoder=open_encoder(options.base, config),
        keep_raw=options.keep_raw,
        panorama_height=options.panorama_height,
        stereo=options.stereo,
    )
    inputs = find_inputs(options.videos, options.split, options.split_list, options.max_clips)
    ledger, console = Ledger(), Console(stderr=True)
    with ExitStack() as stack:
        if options.previews:
            pipeline = replace(pipeline, previews=stack.enter_context(preview_folder(options.out)))
        samples = stack.enter_context(_shown(pipeline, inputs, ledger, console))
        first = next(samples, None)
        if first is None:
            raise _nothing(ledger)
        manifest = write_dataset(
            options.out, chain([first], samples), config, pipeline.fields, ledger.rejected, _settings(options, pipeline)
        )
    _summarise(console, options.out, manifest, ledger)
    return manifest


def _config(options: Options) -> Config:
    if options.config:
        return load_config(options.config)
    require(options.base != "none", "without --base there is no config: give --config debug, for example")
    own = Path(options.base) / "config.json"
    if not own.is_file():
        raise CheckpointError(f"{options.base} is no pretrained folder: {own} does not exist; check --base")
    return load_config(str(own))


@contextmanager
def _shown(
    pipeline: Pipeline, inputs: Sequence[Input], ledger: Ledger, console: Console
) -> Generator[Iterator[Sample]]:
    """The pipeline's samples, with a bar that counts inputs."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("preprocess", total=len(inputs))

        def done(given: Input) -> None:
            progress.update(task, advance=1, description=given.name)

        yield pipeline.samples(inputs, ledger, done)


def _nothing(ledger: Ledger) -> DatasetError:
    """The error for a run without a sample: the reason itself if there is only one."""
    reasons = [str(line["reason"]) for line in ledger.rejected]
    if len(reasons) == 1:
        return DatasetError(reasons[0])
    return DatasetError(f"every input was rejected ({len(reasons)} reasons), the first because {reasons[0]}")


def _caption_settings(options: Options) -> CaptionSettings:
    return CaptionSettings(
        faces=options.caption_faces,
        join=options.caption_join,
        prompts=options.caption_prompts,
        texts=options.caption_texts or options.out.with_name(f"{options.out.name}.captions"),
        device=options.caption_device,
        batch_size=options.caption_batch,
        from_hub=options.from_hub,
    )


def _settings(options: Options, pipeline: Pipeline) -> dict[str, object]:
    """What the manifest says about the run: every option except where things lie and run, but which models."""
    places = ("videos", "out", "saliency_folder", "saliency_weights", "split_list", "base", "config")
    ways = ("from_hub", "saliency_device")
    return {
        name: value
        for name, value in asdict(options).items()
        if name not in (*places, *ways) and not name.startswith("caption_")
    } | {
        "encoded": options.base != "none",
        "caption_models": caption_sources(pipeline.captions),
        "split_list": options.split_list.name if options.split_list else "",
        "saliency_weights": options.saliency_weights.name if options.saliency_weights else "",
    }


def _summarise(console: Console, out: Path, manifest: Manifest, ledger: Ledger) -> None:
    table = Table(title=str(out), title_justify="left")
    for column in ("clip", "segments", "left out because"):
        table.add_column(column, overflow="fold")
    for clip, segments in ledger.segments.items():
        table.add_row(clip, str(segments), "")
    for line in ledger.rejected:
        part = f" (segment {line['segment']})" if "segment" in line else ""
        table.add_row(f"{Path(str(line['file'])).name}{part}", "", f"{line['stage']}: {line['reason']}")
    console.print(table)
    size = sum(shard.bytes for shard in manifest.shards) / 2**20
    console.print(
        f"{manifest.samples} samples of {manifest.clips} clips, {size:.1f} MiB; {len(ledger.rejected)} left out"
    )
