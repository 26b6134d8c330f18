"""python -m preprocess run: makes a dataset from 360° videos."""

import hashlib
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from con360av_jax.config.files import dataset_config, load_config
from con360av_jax.config.settings import Config, require
from con360av_jax.data.source import MANIFEST, open_dataset
from preprocess.choices import CaptionName, SaliencyDevice, SaliencyName, SplitName, Stereo
from preprocess.stages.quality import Limits

if TYPE_CHECKING:
    from preprocess.captions.contract import CaptionSettings
    from preprocess.running.pipeline import Pipeline

TOO_MANY_REJECTED = 1
# Config without base: records of it fit bases that are converted from published weights.
WITHOUT_BASE = "published"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Make a dataset of viewpoints with audio, saliency and captions from 360° videos.

    The same command goes on where it was stopped, or adds recordings to a finished dataset.
    """

    if_interrupted: ClassVar = "the same command goes on from here"

    videos: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="VIDEOS ...")]
    """Files, folders that are searched for videos, or CSV files as `list` writes them."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the dataset. A dataset that exists, also an unfinished one, is continued."""
    config: str = ""
    """Name of a config (configs/NAME.py) or path to a .py or .json file. Left out: the base's config; without a base,
    that of the dataset in --out, if it exists, or else published, the sizes of the paper. With a base, only the clip is
    taken from it: model and mel are those of the base."""
    base: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = "none"
    """Base whose encoders make latents and embeddings, or none to keep raw video and audio."""
    captions: CaptionName = "template"
    """file reads <video>.txt or captions.jsonl beside the video; template writes a sentence of measured facts;
    blip2+llama has BLIP-2 describe the faces of the cube once per second and a chat model join its texts."""
    caption_faces: str = ""
    """BLIP-2 of blip2+llama: folder or Hugging Face id."""
    caption_join: str = ""
    """Chat model of blip2+llama, such as Llama 3.2 Instruct: folder or Hugging Face id."""
    caption_prompts: Path | None = None
    """Prompts of both models: an edited copy of preprocess/captions/blip2_llama/prompts.toml. Left out: that file."""
    caption_texts: Path | None = None
    """Folder that keeps every text of both models for later runs. Left out: <out>.captions."""
    caption_device: str = "auto"
    """Device of both models: auto, cpu, cuda, cuda:1, ..."""
    caption_batch: int = 24
    """Number of faces in one call of BLIP-2."""
    from_hub: bool = False
    """Download caption models that are given as Hugging Face ids. Nothing is downloaded without this."""
    saliency: SaliencyName = "contrast"
    """contrast needs no weights; file reads maps from --saliency-folder; salvit360 needs --saliency-weights."""
    saliency_folder: Path = Path("saliency")
    """Folder with <clip>.npy, .npz or .mp4, for --saliency file."""
    saliency_weights: Path | None = None
    """Published checkpoint of SalViT360, VAC (better) or VSTA, for --saliency salvit360."""
    saliency_device: SaliencyDevice = "cpu"
    """Device of SalViT360."""
    viewpoints: int = 3
    """Number of viewpoints per segment."""
    min_peak: float = 0.0
    """Leave out viewpoints whose saliency rises less than this above its mean over the sphere, in standard deviations.
    0 keeps all; anything more leaves out those that only fill up the number of viewpoints, whose records say peak 0."""
    moving: bool = False
    """Let viewpoints follow their region through the segment instead of standing still."""
    trajectories: Path | None = None
    """CSV file of viewpoints to use instead of chosen ones: clip,viewpoint,time,yaw,pitch,fov (time in s from the start
    of the recording, angles in degrees)."""
    keep_raw: bool = False
    """Keep video, audio and mel beside their encodings."""
    panorama_height: int = 512
    """Height to which panoramas are reduced for saliency and captions, pixels."""
    view_height: int = 1920
    """Height to which panoramas are reduced for views, pixels, if it is more than that for saliency and captions; views
    of smaller recordings are as sharp as these."""
    stereo: Stereo = "auto"
    """Layout of the two eyes in the video; auto uses the file's metadata, or else the aspect ratio."""
    limits: Limits = Limits()
    """Limits of a segment's audio and video beyond which it is rejected."""
    split: SplitName = "all"
    """Part of the recordings to use: 85 % are train, 15 % validation."""
    split_seed: int = 0
    """Seed of the train/validation split."""
    published_split: Path | None = None
    """Folder with train.txt and test.txt of Sphere360, which then define the split; validation means test."""
    split_list: Path | None = None
    """Text file of clip names, one per line, to use only these."""
    max_clips: int | None = None
    """Largest number of recordings to use. Left out: all."""
    previews: bool = False
    """Also write one panorama per segment to <out>/previews."""
    shard_records: int = 256
    """Number of records per file of the dataset."""
    workers: int | None = None
    """Number of processes. Left out: one per core. 0 runs everything in this process, without Ray."""
    ray_address: str = ""
    """Address of a Ray cluster, or auto; all its machines must see the same files. Left out: Ray starts here."""
    gpus_per_stage: float = 0.0
    """GPUs (or share of one) of each process of the stages saliency, captions and encoding."""
    max_rejected: int | None = None
    """Number of rejections in the dataset's ledger above which the exit code is 1. Left out: no limit."""

    def execute(self) -> int:
        """Writes the dataset; returns 1 if more was rejected than `max_rejected`, else 0.

        Raises a Con360Error if no input is usable.
        """
        from con360av_jax.runtime.terminal import plain_console
        from preprocess.inputs import search
        from preprocess.listing import without_file
        from preprocess.running.assemble import make_dataset
        from preprocess.running.engine import Engine
        from preprocess.running.terminal import RecordingProgress, summarise

        require(bool(self.videos), "no videos were given: name files, folders or CSV files")
        require(self.max_clips is None or self.max_clips > 0, f"--max-clips is {self.max_clips}; give 1 or more")
        for name in ("panorama_height", "view_height"):
            height = getattr(self, name)
            require(height >= 64, f"--{name.replace('_', '-')} is {height}; give 64 or more")
        engine = Engine(
            workers=(os.cpu_count() or 1) if self.workers is None else self.workers,
            address=self.ray_address,
            gpus_per_stage=self.gpus_per_stage,
        )
        pipeline, console = self._pipeline(), plain_console(stderr=True)
        found = search(self.videos, self.split, self.split_list, self.max_clips, self.split_seed, self.published_split)
        with RecordingProgress(console) as bar:
            made = make_dataset(
                self.out,
                pipeline,
                found.inputs,
                self._settings(pipeline),
                engine,
                previews=self.previews,
                shard_records=self.shard_records,
                begin=bar.begin,
                done=bar.done,
            )
        summarise(console, self.out, made, pipeline.config)
        if self.published_split is not None:
            console.print(f"{found.absent} clips of the published split are not here, {found.unlisted} of "
                          "the files are not in it")  # fmt: skip
        for line in without_file(found):
            console.print(line, highlight=False)
        too_many = self.max_rejected is not None and made.manifest.rejected > self.max_rejected
        return TOO_MANY_REJECTED if too_many else 0

    def _pipeline(self) -> "Pipeline":
        from con360av_jax.base.record_encoder import open_encoder
        from preprocess.captions.choose import open_captions
        from preprocess.running.pipeline import Pipeline
        from preprocess.saliency.choose import open_saliency
        from preprocess.stages.given_viewpoints import GivenViewpoints
        from preprocess.stages.viewpoints import ViewpointSettings

        config = config_to_use(self.config, self.base, self.out)
        return Pipeline(
            config=config,
            saliency=open_saliency(self.saliency, self.saliency_folder, self.saliency_weights, self.saliency_device),
            captions=open_captions(self.captions, self._caption_settings(), config.clip.frames_per_second),
            viewpoints=GivenViewpoints.read(self.trajectories)
            if self.trajectories
            else ViewpointSettings(count=self.viewpoints, moving=self.moving, min_peak=self.min_peak),
            encoder=open_encoder(self.base, config),
            keep_raw=self.keep_raw,
            panorama_height=self.panorama_height,
            view_height=self.view_height,
            stereo=self.stereo,
            limits=self.limits,
        )

    def _caption_settings(self) -> "CaptionSettings":
        from preprocess.captions.contract import CaptionSettings

        return CaptionSettings(
            faces=self.caption_faces,
            join=self.caption_join,
            prompts=self.caption_prompts,
            texts=self.caption_texts or self.out.with_name(f"{self.out.name}.captions"),
            device=self.caption_device,
            batch_size=self.caption_batch,
            from_hub=self.from_hub,
        )

    def _settings(self, pipeline: "Pipeline") -> dict[str, object]:
        """Settings for the manifest: options that change the records, without places, devices and processes."""
        from preprocess.captions.contract import caption_sources

        places = (
            "videos",
            "out",
            "saliency_folder",
            "saliency_weights",
            "split_list",
            "published_split",
            "base",
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
            if name not in (*places, *ways)
            and not name.startswith("caption_")
            # Datasets of earlier versions lack it: without a smallest peak they are continued.
            and (name != "min_peak" or value)
        } | {
            "encoded": self.base != "none",
            "caption_models": caption_sources(pipeline.captions),
            "viewpoints": 0 if self.trajectories else self.viewpoints,
            "trajectories": _digest(self.trajectories) if self.trajectories else "",
            "published_split": self.published_split is not None,
            "split_list": self.split_list.name if self.split_list else "",
            "saliency_weights": self.saliency_weights.name if self.saliency_weights else "",
        }


def config_to_use(name: str, base: str, out: Path) -> Config:
    """Returns the config of the records; says on stderr which one it is and why if neither name nor base tell.

    Raises as `dataset_config` does, and DatasetError if the dataset `out` is corrupt.
    """
    if name or base != "none":
        return dataset_config(name, base)
    if (out / MANIFEST).is_file():
        config, why = open_dataset(out, verify="sizes").config, f"that of {out}, which is continued"
    else:
        config, why = load_config(WITHOUT_BASE), "the sizes of the paper, as neither --base nor --config says others"
    clip = config.clip
    logger.warning(
        f"config {config.name}: {why} (views of {clip.width}x{clip.height} at {clip.frames_per_second} frames per "
        f"second, segments of {clip.seconds} s)"
    )
    return config


def _digest(path: Path) -> str:
    """Name of a file and the beginning of the hash of its content."""
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
