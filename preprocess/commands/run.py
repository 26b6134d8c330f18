"""`python -m preprocess run`: 360° videos become a dataset, with progress, a summary and a ledger."""

import hashlib
import os
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from con360av_jax.config.files import load_config
from con360av_jax.config.settings import Config, require
from con360av_jax.data.writer import SHARD_RECORDS
from con360av_jax.errors import CheckpointError
from preprocess.captions.choose import open_captions
from preprocess.captions.contract import CaptionName, CaptionSettings, caption_sources
from preprocess.inputs import Input, SplitName, search
from preprocess.running.assemble import Made, make_dataset
from preprocess.running.engine import Engine
from preprocess.running.pipeline import Pipeline
from preprocess.saliency.choose import open_saliency
from preprocess.saliency.contract import SaliencyDevice, SaliencyName
from preprocess.stages.encode import open_encoder
from preprocess.stages.given_viewpoints import GivenViewpoints
from preprocess.stages.quality import Limits
from preprocess.stages.standardise import Stereo
from preprocess.stages.viewpoints import ViewpointSettings

TOO_MANY_REJECTED = 1
# Lines of the ledger that the summary shows.
SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Run:
    """Turn 360° videos into a dataset of viewpoints with sound, saliency and captions."""

    videos: tyro.conf.Positional[tuple[Path, ...]]
    """Files, folders that are searched for videos, or CSV files as the verb list writes them."""
    output: Annotated[Path, tyro.conf.arg(aliases=("--out",), metavar="FOLDER")]
    """The dataset. One that is there, or was begun, goes on: what it holds is not made again."""
    config: str = ""
    """Name of a config in configs/, or path of one (.py, .json). Left out: the base's own, or without one debug."""
    encode: Annotated[str, tyro.conf.arg(aliases=("--base",), metavar="BASE")] = "none"
    """Pretrained folder whose encoders make latents and embeddings; "none" keeps raw pictures and sound."""
    captions: CaptionName = "template"
    """file: <video>.txt or captions.jsonl beside the video; template: a sentence of measured facts; blip2+llama: BLIP-2
    describes the cube's faces once per second and a chat model joins its texts."""
    caption_faces: str = ""
    """Folder or Hugging Face id of the BLIP-2 of --captions blip2+llama."""
    caption_join: str = ""
    """Folder or Hugging Face id of its chat model, such as Llama 3.2 Instruct."""
    caption_prompts: Path | None = None
    """What the two are told: an edited copy of preprocess/captions/blip2_llama/prompts.toml."""
    caption_texts: Path | None = None
    """Folder that keeps every text they write, so that a second run need not write them again. Left out:
    <output>.captions."""
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
    trajectories: Path | None = None
    """CSV of viewpoints instead of found ones: clip,viewpoint,time,yaw,pitch,fov (seconds of the clip, degrees)."""
    keep_raw: bool = False
    """Keep pictures, sound and mel beside their encodings."""
    panorama_height: int = 512
    """Rows that panoramas are reduced to while they are worked on."""
    stereo: Stereo = "auto"
    """How two eyes share the picture; auto believes the file's metadata, or else judges by the picture's aspect."""
    limits: Limits = Limits()
    """What a segment's sound and picture must be worth."""
    split: SplitName = "all"
    """A share of the source videos: 85 % train, 15 % validation."""
    split_seed: int = 0
    """Of that division."""
    published_split: Path | None = None
    """Folder with Sphere360's train.txt and test.txt, which then divide; "validation" means "test"."""
    split_list: Path | None = None
    """Text file of clip names, one per line: only these are used."""
    max_clips: int | None = None
    """Use at most this many videos."""
    previews: bool = False
    """Also write one panorama per segment to <output>/previews."""
    shard_records: int = SHARD_RECORDS
    """Records in a file of the dataset."""
    workers: int | None = None
    """Processes. Left out: one per core. 0 runs everything in one process and needs no Ray."""
    ray_address: str = ""
    """Of a Ray cluster, such as auto; all its machines must see the same files. Left out: Ray starts by itself."""
    gpus_per_stage: float = 0.0
    """GPUs, or share of one, of each process of a stage that wants one: saliency, captions, encoding."""
    max_rejected: int | None = None
    """Exit code 1 if more lines than this are in the dataset's ledger. Left out: rejections never change it."""

    def execute(self) -> int:
        """Writes the dataset; returns 1 if more was rejected than `max_rejected`, else 0.

        Raises a Con360Error if no input is usable.
        """
        require(bool(self.videos), "no videos were given: name files, folders or CSV files")
        require(self.max_clips is None or self.max_clips > 0, f"--max-clips is {self.max_clips}; give 1 or more")
        require(self.panorama_height >= 64, f"--panorama-height is {self.panorama_height}; give 64 or more")
        engine = Engine(
            workers=(os.cpu_count() or 1) if self.workers is None else self.workers,
            address=self.ray_address,
            gpus_per_stage=self.gpus_per_stage,
        )
        pipeline, console = self._pipeline(), Console(stderr=True)
        found = search(self.videos, self.split, self.split_list, self.max_clips, self.split_seed, self.published_split)
        with _Bar(console) as bar:
            made = make_dataset(
                self.output,
                pipeline,
                found.inputs,
                self._settings(pipeline),
                engine,
                previews=self.previews,
                shard_records=self.shard_records,
                begin=bar.begin,
                done=bar.done,
            )
        _summarise(console, self.output, made, pipeline.config)
        if self.published_split is not None:
            console.print(f"{found.absent} clips of the published split are not here, {found.unlisted} of "
                          "the files are not in it")  # fmt: skip
        too_many = self.max_rejected is not None and made.manifest.rejected > self.max_rejected
        return TOO_MANY_REJECTED if too_many else 0

    def _pipeline(self) -> Pipeline:
        config = self._config()
        return Pipeline(
            config=config,
            saliency=open_saliency(self.saliency, self.saliency_folder, self.saliency_weights, self.saliency_device),
            captions=open_captions(self.captions, self._caption_settings(), config.clip.frames_per_second),
            viewpoints=GivenViewpoints.read(self.trajectories)
            if self.trajectories
            else ViewpointSettings(count=self.viewpoints, moving=self.moving),
            encoder=open_encoder(self.encode, config),
            keep_raw=self.keep_raw,
            panorama_height=self.panorama_height,
            stereo=self.stereo,
            limits=self.limits,
        )

    def _config(self) -> Config:
        if self.config or self.encode == "none":
            return load_config(self.config or "debug")
        own = Path(self.encode) / "config.json"
        if not own.is_file():
            raise CheckpointError(f"{self.encode} is no pretrained folder: {own} does not exist; check --encode")
        return load_config(str(own))

    def _caption_settings(self) -> CaptionSettings:
        return CaptionSettings(
            faces=self.caption_faces,
            join=self.caption_join,
            prompts=self.caption_prompts,
            texts=self.caption_texts or self.output.with_name(f"{self.output.name}.captions"),
            device=self.caption_device,
            batch_size=self.caption_batch,
            from_hub=self.from_hub,
        )

    def _settings(self, pipeline: Pipeline) -> dict[str, object]:
        """What the manifest says about the run: every option except where things lie and run, but which models."""
        places = (
            "videos",
            "output",
            "saliency_folder",
            "saliency_weights",
            "split_list",
            "published_split",
            "encode",
            "config",
        )
        ways = (
            "from_hub",
            "saliency_device",
            "workers",
            "ray_address",
            "gpus_per_stage",
            "max_rejected",
            "max_clips",
            "shard_records",
        )
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in (*places, *ways) and not name.startswith("caption_")
        } | {
            "encoded": self.encode != "none",
            "caption_models": caption_sources(pipeline.captions),
            "viewpoints": 0 if self.trajectories else self.viewpoints,
            "trajectories": _digest(self.trajectories) if self.trajectories else "",
            "published_split": self.published_split is not None,
            "split_list": self.split_list.name if self.split_list else "",
            "saliency_weights": self.saliency_weights.name if self.saliency_weights else "",
        }


def _digest(path: Path) -> str:
    """A file whose content decides, by its name and the beginning of its hash."""
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


class _Rate(ProgressColumn):
    """Clips per minute, and the time left at that rate."""

    def render(self, task: Task) -> Text:
        """Empty until the first clip is done."""
        if not task.completed or not task.elapsed:
            return Text("")
        rate = task.completed / task.elapsed
        left = timedelta(seconds=round((task.total or 0) - task.completed) / rate)
        return Text(f"{60 * rate:.1f} clips/min, {timedelta(seconds=round(left.total_seconds()))} left")


class _Bar(Progress):
    """A bar over clips."""

    def __init__(self, console: Console):
        super().__init__(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), console=console)
        self._clips = self.add_task("preprocess", total=None)

    def begin(self, clips: int) -> None:
        """So many clips are to be done."""
        self.update(self._clips, total=clips)

    def done(self, given: Input) -> None:
        """One clip came to its end."""
        self.update(self._clips, advance=1, description=given.name)


def _summarise(console: Console, output: Path, made: Made, config: Config) -> None:
    rejected, manifest = made.ledger.rejected, made.manifest
    if rejected:
        table = Table(title="left out", title_justify="left")
        for column in ("file", "segment", "stage", "reason"):
            table.add_column(column, overflow="fold")
        for line in rejected[:SHOWN]:
            table.add_row(Path(str(line["file"])).name, str(line.get("segment", "all")), str(line["stage"]),
                          str(line["reason"]))  # fmt: skip
        console.print(table)
        counts = Counter(str(line["stage"]) for line in rejected)
        by_stage = ", ".join(f"{stage} {count}" for stage, count in counts.most_common())
        console.print(f"{len(rejected)} left out ({by_stage}); all of them in {output / 'rejected.jsonl'}")
    segments, size = sum(made.ledger.segments.values()), sum(shard.bytes for shard in manifest.shards) / 2**20
    console.print(
        f"{len(made.ledger.segments)} clips with {segments} segments taken, {made.passed_over} were there already"
    )
    console.print(
        f"{output}: {manifest.samples} samples of {manifest.clips} clips, {size:.1f} MiB, config {config.name}",
        highlight=False,
    )
