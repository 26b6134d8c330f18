"""Time, speed and memory of converting the full set at published width, with random weights in published files.

    python -m benchmarks.conversion --folder DISK_WITH_40_GB --out conversion.json

The networks are built and saved by diffusers and transformers (unet_svg, which neither implements, under our export's
names), then converted by `python -m convert base` in its own process; a plain copy of the same files is timed too.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks import harness
from con360av_jax.base.tokenizer import train_tokenizers
from con360av_jax.config.files import load_config
from con360av_jax.config.settings import Config
from con360av_jax.models.functional import flatten
from con360av_jax.models.joint import joint_model
from con360av_jax.runtime.provenance import package_version
from convert.config_json import from_settings
from convert.export import DIFFUSERS, connectors_json, names_and_shapes
from convert.tables.joint import CONNECTORS
from convert.torch_files.weights import write_weights


def networks(config: Config) -> dict[str, dict[str, object]]:
    """config.json of every network that a public library implements, by folder."""
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


def library_network(settings: dict[str, object]) -> Any:
    """Builds the network of diffusers or transformers that a config.json describes, with random weights."""
    import diffusers
    import transformers

    if "_class_name" in settings:
        return getattr(diffusers, str(settings["_class_name"])).from_config(settings)
    # The library's types do not say that any of its JSON files makes a configuration.
    options: Any = transformers.AutoConfig.for_model(**cast(Mapping[str, Any], settings))
    return getattr(transformers, options.architectures[0])(options)


class Noise(Mapping[str, np.ndarray]):
    """Random tensors of given shapes, made on access: all of them together would fill the memory."""

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
    """Writes the baseline's pipeline with random weights, one network in memory at a time."""
    for name, settings in networks(config).items():
        model = library_network(settings)
        model.save_pretrained(folder / name, max_shard_size="20GB")
        del model
    (folder / "unet_svg").mkdir(parents=True)
    (folder / "unet_svg" / "config.json").write_text(json.dumps(connectors_json(config.model)))
    shapes = names_and_shapes(CONNECTORS, flatten(joint_model(config, "float32")[1]))
    write_weights(folder / "unet_svg" / DIFFUSERS, Noise(shapes), {"format": "pt"})
    for suffix, tokenizer in zip("av", train_tokenizers(config, 0).values(), strict=True):
        tokenizer.save_pretrained(folder / f"tokenizer_{suffix}")
    for suffix, schedule in (("a", config.schedule.audio), ("v", config.schedule.video)):
        path = folder / f"scheduler_{suffix}" / "scheduler_config.json"
        path.parent.mkdir()
        path.write_text(json.dumps(from_settings.schedule_json(schedule)))


def timed(command: list[str], size: int) -> dict[str, float]:
    """Runs a command over `size` bytes; returns seconds, largest memory in GiB and speed."""
    seconds, peak_mib = harness.measured_command(command)
    return {"seconds": seconds, "peak_gib": peak_mib / 1024, "mb_per_second": size / seconds / 1e6}


def main() -> None:
    """Makes the pipeline, unless it is there already, converts it and copies it."""
    parser = harness.parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder to work in; 40 GB of disk")
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    pipeline, base, copy = (arguments.folder / name for name in ("pipeline", "base", "copy"))
    if not pipeline.exists():
        make_pipeline(config, pipeline)
    size = sum(path.stat().st_size for path in pipeline.rglob("*") if path.is_file())
    for folder in (base, copy):
        shutil.rmtree(folder, ignore_errors=True)
    about = harness.environment(config)
    results: harness.Json = {
        "command": "python -m convert base --baseline pipeline --out base",
        "commit": about["commit"],
        "config": about["config"],
        "machine": {
            "processor": about["processor"],
            "cores": about["cores"],
            "python": about["python"],
            "jax": package_version("jax"),
        },
        "bytes": size,
        "copy": timed(["cp", "-r", str(pipeline), str(copy)], size),
    }
    shutil.rmtree(copy)
    command = [sys.executable, "-m", "convert", "base", "--baseline", str(pipeline), "--out", str(base)]
    results["convert"] = timed(command, size)
    report = json.loads((base / "report.json").read_text())
    results["parameters"] = {part: total["parameters"] for part, total in report["totals"].items()}
    harness.publish(results, arguments.out)


if __name__ == "__main__":
    main()
