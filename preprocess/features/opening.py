"""Opens the networks of a protocol from the user's weight files, set to do exactly what the protocol says."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from con360av_jax.config.settings import require
from con360av_jax.errors import CheckpointError, ConfigError, MetricError
from con360av_jax.evaluate.protocols import MODELS, ModelName, Protocol, SaliencyProtocol
from preprocess.features.audio import audio_settings, chosen, rounded_features, windows_of
from preprocess.features.material import Clip, Frames
from preprocess.features.networks import Found, Network, Wanted, make_card, model_of

T = TypeVar("T")

WINDOW_SEED = 0
"""Seed of the first frame taken from a longer target, for protocols that draw it at random."""


def open_networks(wanted: Wanted) -> tuple[Network, ...]:
    """The networks that make the wanted parts.

    Raises:
        ConfigError: weights are missing, or given for an unknown network.
        CheckpointError: weights are unusable.
    """
    by_model: dict[ModelName, list[str]] = {}
    for part in wanted.parts:
        by_model.setdefault(model_of(wanted.protocol, part), []).append(part)
    missing, strange = by_model.keys() - wanted.weights.keys(), wanted.weights.keys() - set(MODELS.values())
    require(not strange, f"weights of {_listed(strange)}: no such network; there are {_listed(MODELS.values())}")
    if missing:
        raise ConfigError(
            f"protocol {wanted.protocol.name} needs weights of {_listed(missing)}: give "
            f"{' '.join(f'{name}=PATH' for name in sorted(missing))} to --weights, or choose parts with --parts or "
            "--model"
        )
    return tuple(_OPENERS[model](wanted, tuple(names)) for model, names in by_model.items())


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def window_start(clip: str, length: int, frames: int) -> int:
    """Index of the first of `frames` frames taken from a target of `length`; uniform, drawn by the clip's name."""
    drawn = int.from_bytes(hashlib.sha256(f"{WINDOW_SEED}:{clip}".encode()).digest()[:8], "big")
    return drawn % (length - frames + 1)


def _defined(protocol: Protocol, settings: T | None, kind: str) -> T:
    if settings is None:
        raise MetricError(f"protocol {protocol.name} defines no {kind} metric")
    return settings


def _require_size(said: int, built: int, network: str) -> None:
    if said != built:
        raise MetricError(f"the protocol gives {network} frames of {said} pixels; it is built for {built}")


def _open_i3d(wanted: Wanted, names: tuple[str, ...]) -> Network:
    from preprocess.features.clips import SIDE, Convention, open_i3d
    from preprocess.features.i3d_files import is_torchscript

    video, path = _defined(wanted.protocol, wanted.protocol.video, "video"), wanted.weights["i3d"]
    conventions: dict[str, Convention] = {"to 224x224": "stylegan-v", "shorter side to 224": "videogpt"}
    convention = chosen(conventions, video.resize, "resize")
    _require_size(video.size, SIDE, "I3D")
    random = video.window == "random"
    require(
        not random or wanted.side is not None,
        f"protocol {wanted.protocol.name} takes frames of targets at random, of generated clips the first ones: say "
        "--side target or --side generated",
    )
    scripted = wanted.allow_code and is_torchscript(path)
    network = open_i3d(path, convention, wanted.device, allow_code=scripted)
    more: dict[str, object] = {"network": "the file's own program" if scripted else "rebuilt, float32"}
    if random:
        more |= {"window_seed": WINDOW_SEED, "window_drawn": "of targets, by SHA-256 of seed:clip; else the first"}
    lengths = {f"video_{frames}": frames for frames in video.frames if f"video_{frames}" in names}

    def rows(clip: Clip) -> Found:
        return {name: one(clip, frames) for name, frames in lengths.items()}

    def one(clip: Clip, frames: int):
        count = len(clip.video)
        if count < frames:
            return f"has {count} frames, the protocol takes {frames}: give a longer clip"
        first = window_start(clip.name, count, frames) if random and wanted.side == "target" else 0
        return network(clip.video[None, first : first + frames])

    return Network(
        name="i3d",
        cards={name: make_card(wanted, "i3d", "video", video, more | {"frames": n}) for name, n in lengths.items()},
        reads="video",
        rows=rows,
        frames_per_second=video.frames_per_second,
        side=wanted.side or "" if random else "",
        most=0 if video.clips == "all" else video.clips,
    )


def _saliency_network(
    wanted: Wanted,
    name: ModelName,
    saliency: SaliencyProtocol,
    maps: Callable[[Frames], np.ndarray],
    more: dict[str, object],
) -> Network:
    # A protocol without a video metric accepts any frame rate.
    rate = wanted.protocol.video.frames_per_second if wanted.protocol.video else 0.0
    card = make_card(wanted, name, "saliency", saliency, more | {"frames_per_second": rate or "any"})
    return Network(
        name=name,
        cards={"saliency": card},
        reads="video",
        rows=lambda clip: {"saliency": maps(clip.video)},
        frames_per_second=rate,
    )


def _open_fastgaze(wanted: Wanted, names: tuple[str, ...]) -> Network:
    from preprocess.features.fastgaze import SHORT_SIDE, STRIDE, open_fastgaze

    saliency = _defined(wanted.protocol, wanted.protocol.saliency, "saliency")
    chosen({"shorter side to 480": None}, saliency.resize, "resize")
    _require_size(saliency.size, SHORT_SIDE, "FastGaze")
    more: dict[str, object] = {"interpolation": "OpenCV, INTER_AREA where pictures shrink, else INTER_LINEAR",
                               "cells": f"{STRIDE} pixels"}  # fmt: skip
    gaze = open_fastgaze(wanted.weights["fastgaze"], wanted.device)
    return _saliency_network(wanted, "fastgaze", saliency, gaze, more)


def _open_clap(wanted: Wanted, names: tuple[str, ...]) -> Network:
    from preprocess.features.clap import open_clap

    audio, path = _defined(wanted.protocol, wanted.protocol.sound, "audio"), wanted.weights["clap"]
    network = open_clap(path, wanted.device)
    window = round(audio.window_seconds * audio.sample_rate)
    own = (network.sample_rate, int(network.extractor.nb_max_samples))
    if own != (audio.sample_rate, window):
        raise CheckpointError(
            f"{path}: hears windows of {own[1]} samples at {own[0]} Hz, the protocol wants {window} at "
            f"{audio.sample_rate} Hz; give {audio.extractor}"
        )

    def rows(clip: Clip) -> Found:
        windows = windows_of(clip.audio, clip.sample_rate, audio)
        return {"sound": rounded_features(network(list(windows)), audio)}

    card = make_card(wanted, "clap", "sound", audio, audio_settings(audio))
    # Named by its own config, because the protocol's network may be another than the folder's.
    return Network(name="clap", cards={"sound": replace(card, model=network.described)}, reads="audio", rows=rows)


def _open_yamnet(wanted: Wanted, names: tuple[str, ...]) -> Network:
    from preprocess.features.yamnet import SAMPLE_RATE, WINDOW, open_yamnet

    audio = _defined(wanted.protocol, wanted.protocol.sound, "audio")
    if (audio.sample_rate, round(audio.window_seconds * audio.sample_rate)) != (SAMPLE_RATE, WINDOW):
        raise MetricError(f"YAMNet hears windows of {WINDOW} samples at {SAMPLE_RATE} Hz; the protocol wants others")
    network = open_yamnet(wanted.weights["yamnet"])
    text = "\n".join(network.class_names)
    more = audio_settings(audio)
    classes = more | {
        "features": f"scores of {len(network.class_names)} classes, 0 to 1, of each window",
        "class_names_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "class_names": list(network.class_names),
    }
    settings = {"sound": more, "classes": classes}

    def rows(clip: Clip) -> Found:
        heard = network(windows_of(clip.audio, clip.sample_rate, audio))
        found = {"sound": rounded_features(heard.embeddings, audio), "classes": heard.scores}
        return {name: found[name] for name in names}

    cards = {name: make_card(wanted, "yamnet", "sound", audio, settings[name]) for name in names}
    return Network(name="yamnet", cards=cards, reads="audio", rows=rows)


def _open_tempsal(wanted: Wanted, names: tuple[str, ...]) -> Network:
    from preprocess.features.tempsal import SIDE, open_tempsal

    saliency = _defined(wanted.protocol, wanted.protocol.saliency, "saliency")
    chosen({"to 256x256": None}, saliency.resize, "resize")
    _require_size(saliency.size, SIDE, "TempSAL")
    more: dict[str, object] = {
        "interpolation": "Pillow, BILINEAR",
        "seconds_divided_by": "their largest value of each picture",
    }
    tempsal = open_tempsal(wanted.weights["tempsal"], wanted.device)
    return _saliency_network(wanted, "tempsal", saliency, tempsal, more)


_OPENERS: dict[ModelName, Callable[[Wanted, tuple[str, ...]], Network]] = {
    "i3d": _open_i3d,
    "fastgaze": _open_fastgaze,
    "clap": _open_clap,
    "yamnet": _open_yamnet,
    "tempsal": _open_tempsal,
}
