"""Converts the full set at published width, random weights in published files, and measures time, speed and memory.

    python -m benchmarks.conversion --folder DISK_WITH_40_GB --out conversion.json

The networks are built and saved by diffusers and transformers (unet_svg, which neither knows, by our export's names),
then converted by the command that users type, in a process of its own; a plain copy of the same files is timed beside.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np

from con360av_jax.base.tokenizer import train_tokenizers
from con360av_jax.config.files import config_hash, load_config
from con360av_jax.config.settings import Config
from con360av_jax.models.functional import flatten
from con360av_jax.models.joint import joint_model
from con360av_jax.runtime.provenance import commit, processor
from convert.config_json import from_settings
from convert.export import DIFFUSERS, connectors_json, names_and_shapes
from convert.tables.joint import CONNECTORS
from convert.torch_files.weights import write_weights


def networks(config: Config) -> dict[str, dict[str, object]]:
    """config.json of every network that a public library builds, by folder."""
    model = config.model
    return {
        "unet_a": from_settings.audio_unet_json(model.unet_audio),
        "unet_v": from_settings.video_unet_json(model.unet_video),
        "vae_a": from_settings.vae_json(model.vae.audio),
        "vae_v": from_settings.vae_json(model.vae.video),
        "text_encoder_a": from_settings.clap_text_json(model.text.audio),
        "text_encoder_v": from_settings.clip_text_json(model.text.video),
        "vocoder": from_settings.vocoder_json(model.vocoder, config.mel.sample_rate),
    }


class Noise(Mapping[str, np.ndarray]):
    """Random tensors of given shapes, made when they are asked for: all of them would fill the memory."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        self.shapes = shapes
        self.numbers = {name: number for number, name in enumerate(shapes)}

    def __getitem__(self, name: str) -> np.ndarray:
        shape = self.shapes[name]
        fan_in = max(int(np.prod(shape[1:])), 1)
        draws = np.random.default_rng(self.numbers[name]).standard_normal(shape, np.float32)
        return draws / np.float32(fan_in**0.5)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def make_pipeline(config: Config, folder: Path) -> None:
    """Writes the baseline's pipeline with random weights; one network is in memory at a time."""
    import diffusers
    import transformers

    for name, settings in networks(config).items():
        if "_class_name" in settings:
            model: Any = getattr(diffusers, str(settings["_class_name"])).from_config(settings)
        else:
            # The library's types do not know that a configuration is made from any of its JSON files.
            options: Any = transformers.AutoConfig.for_model(**cast(Mapping[str, Any], settings))
            model = getattr(transformers, options.architectures[0])(options)
        model.save_pretrained(folder / name, max_shard_size="20GB")
        del model
    (folder / "unet_svg").mkdir(parents=True)
    (folder / "unet_svg" / "config.json").write_text(json.dumps(connectors_json(config.model)))
    shapes = names_and_shapes(CONNECTORS, flatten(joint_model(config)[1]))
    write_weights(folder / "unet_svg" / DIFFUSERS, Noise(shapes), {"format": "pt"})
    for suffix, tokenizer in zip("av", train_tokenizers(config, 0).values(), strict=True):
        tokenizer.save_pretrained(folder / f"tokenizer_{suffix}")
    for suffix, schedule in (("a", config.schedule.audio), ("v", config.schedule.video)):
        path = folder / f"scheduler_{suffix}" / "scheduler_config.json"
        path.parent.mkdir()
        path.write_text(json.dumps(from_settings.schedule_json(schedule)))


def timed(command: list[str]) -> dict[str, float]:
    """Runs a command and brings what it wrote to the disk; seconds, and the most memory that it held, GiB."""
    start = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {child.returncode}")
    os.sync()
    return {"seconds": time.perf_counter() - start, "peak_gib": usage.ru_maxrss / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder to work in; 40 GB of disk")
    parser.add_argument("--out", type=Path, required=True, help="JSON file with the results")
    parser.add_argument("--config", default="published", help="config whose networks are converted")
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    pipeline, base, copy = (arguments.folder / name for name in ("pipeline", "base", "copy"))
    if not pipeline.exists():
        # In a process of its own: Linux counts the memory of whoever starts a process as that process's own peak.
        maker = multiprocessing.get_context("spawn").Process(target=make_pipeline, args=(config, pipeline))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise SystemExit(f"{pipeline} could not be made: exit code {maker.exitcode}")
    size = sum(path.stat().st_size for path in pipeline.rglob("*") if path.is_file())
    for folder in (base, copy):
        shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "convert", "base", "--baseline", str(pipeline), "--out", str(base)]
    results: dict[str, object] = {
        "command": "python -m convert base --baseline pipeline --out base",
        "commit": commit(),
        "config": {"name": config.name, "hash": config_hash(config)},
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "jax": version("jax"),
        },
        "bytes": size,
    }
    results["copy"] = timed(["cp", "-r", str(pipeline), str(copy)])
    shutil.rmtree(copy)
    results["convert"] = timed(command)
    for name in ("copy", "convert"):
        row = cast(dict[str, float], results[name])
        row["mb_per_second"] = size / row["seconds"] / 1e6
    report = json.loads((base / "report.json").read_text())
    results["parameters"] = {part: total["parameters"] for part, total in report["totals"].items()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    sys.stdout.write(arguments.out.read_text())


if __name__ == "__main__":
    main()
