"""The HTML report of a run of pretraining: losses, held-out measures, examples to look at and to hear, settings."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from markupsafe import Markup
from scipy.io import wavfile

from con360av_jax.config.files import config_hash, to_dict
from con360av_jax.config.settings import Config
from con360av_jax.evaluate.metric_format import FILTERS
from con360av_jax.pages import figures, plots
from con360av_jax.pages.environment import page_environment
from con360av_jax.pages.plots import Curve, curves
from con360av_jax.report import history
from con360av_jax.report.history import PACKAGES, History, read_history
from con360av_jax.runtime.files import write_text
from con360av_jax.runtime.provenance import processor, versions
from con360av_jax.train.metrics import read_lines
from con360av_jax.train.objectives.choose import make_objective
from con360av_jax.train.pretraining_measures import EXAMPLES
from con360av_jax.train.run_folder import PretrainingRun

# Columns of metrics.jsonl that are no terms of the loss.
OTHERS = ("step", "loss", "gradient_norm", "learning_rate", *history.SPEED_COLUMNS)


def write_pretraining_report(run: PretrainingRun, out: Path) -> Path:
    """Writes the page of a run, finished or not, to `out`, and returns it.

    Raises CheckpointError if no step was logged yet or a log is corrupt.
    """
    past, held_out = read_history(run.folder), read_lines(run.folder / "validation.jsonl")
    units = make_objective(run.part, run.config).units
    template = page_environment("con360av_jax.report", **FILTERS).get_template("pretraining.html")
    html = template.render(
        run=run.folder.resolve().name,
        part=run.part,
        data=run.data,
        config=run.config,
        facts=_facts(past, held_out, units, run.config),
        loss_curves=_loss_curves(past),
        measure_curves=_measure_curves(held_out, units),
        held_out=held_out,
        examples=_examples(run.folder / EXAMPLES, run.config),
        past=past,
        speed_curves=history.speed_curves(past),
        speed_table=history.speed_table(past),
        incidents=history.incidents(past),
        settings=to_dict(run.config),
        config_hash=config_hash(run.config),
        base=run.base_places[1],
        commit=run.commit,
        versions=versions(PACKAGES) | {"processor": processor()},
    )
    write_text(out, html)
    return out


def _facts(past: History, held_out: list[dict], units: Mapping[str, str], config: Config) -> dict[str, str]:
    told = {
        "steps": f"{past.steps[-1]:,} of {config.train.steps:,}",
        "samples seen": f"{past.steps[-1] * config.train.batch_size:,}",
        "time in steps": f"{history.seconds_in_steps(past) / 60:.1f} min",
        "loss": f"{past.at_the_end(lambda line: line['loss']):.3f}",
    }
    newest = held_out[-1] if held_out else {}
    return told | {f"held out: {name}": f"{newest[name]:.4g} {units[name]}" for name in units if name in newest}


def _loss_curves(past: History) -> list[Markup]:
    names = ["loss", *(name for name in past.lines[0] if name not in OTHERS), "gradient_norm"]
    values = {name: past.series(lambda line, name=name: line[name]) for name in names}
    return [
        curves(name, "", past.steps, [Curve(name=name, colour="ink", values=found)]) for name, found in values.items()
    ]


def _measure_curves(held_out: list[dict], units: Mapping[str, str]) -> list[Markup]:
    steps = [line["step"] for line in held_out]
    values = {name: np.array([line.get(name, np.nan) for line in held_out], np.float64) for name in units}
    return [
        curves(name, units[name], steps, [Curve(name=name, colour="video", values=found)])
        for name, found in values.items()
        if np.isfinite(found).any()
    ]


def _examples(path: Path, config: Config) -> list[dict]:
    """Template values of each held-out example: images, or a plot and, for audio, two sounds."""
    if not path.is_file():
        return []
    with np.load(path) as arrays:
        stored = dict(arrays)
    kinds = [name.removeprefix("input_") for name in stored if name.startswith("input_")]
    return [
        _SHOWN[kind](given, made, config)
        for kind in kinds
        for given, made in zip(stored[f"input_{kind}"], stored[f"output_{kind}"], strict=True)
    ]


def _frames(given: np.ndarray, made: np.ndarray, config: Config) -> dict:
    return {"images": [figures.image_uri(image) for image in (given, made)]}


def _mel(given: np.ndarray, made: np.ndarray, config: Config) -> dict:
    return {"plot": plots.mels({"target": given, "generated": made}, config.mel.frames_per_second)}


def _audio(given: np.ndarray, made: np.ndarray, config: Config) -> dict:
    pair, rate = {"target": given, "generated": made}, config.mel.sample_rate
    return {"plot": plots.waveforms(pair, rate), "audio": [_wave_uri(audio, rate) for audio in pair.values()]}


_SHOWN = {"frames": _frames, "mel": _mel, "audio": _audio}


def _wave_uri(audio: np.ndarray, sample_rate: int) -> str:
    file = io.BytesIO()
    wavfile.write(file, sample_rate, np.round(np.clip(audio, -1, 1) * 32767).astype(np.int16))
    return figures.data_uri(file.getvalue(), "audio/wav")
