"""The networks of a protocol, opened from the files that the user gives, to do exactly what the protocol says."""

import hashlib
from collections.abc import Callable, Iterable

import numpy as np

from con360av_jax.config.settings import require
from con360av_jax.errors import CheckpointError, ConfigError, MetricError
from con360av_jax.evaluate.protocols import Protocol, SaliencyProtocol, SoundProtocol, VideoProtocol
from preprocess.features.material import Clip, Pictures
from preprocess.features.networks import MODELS, Found, ModelName, Network, Wanted, make_card, model_of
from preprocess.features.sounds import chosen, rounded_features, sound_settings, windows_of

WINDOW_SEED = 0
"""Of the frames that are taken of a longer target, where a protocol takes them at random."""


def open_networks(wanted: Wanted) -> tuple[Network, ...]:
    """Every network that the parts need.

    Raises ConfigError if weights are not given or are of none of them; CheckpointError if they cannot be used.
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


def window_start(clip: str, pictures: int, frames: int) -> int:
    """Which picture of a target is the first that is taken, any with equal chance; the clip's name decides."""
    drawn = int.from_bytes(hashlib.sha256(f"{WINDOW_SEED}:{clip}".encode()).digest()[:8], "big")
    return drawn % (pictures - frames + 1)


def _video(wanted: Wanted) -> VideoProtocol:
    if wanted.protocol.video is None:
        raise MetricError(f"protocol {wanted.protocol.name} says nothing about videos")
    return wanted.protocol.video


def _sound(wanted: Wanted) -> SoundProtocol:
    if wanted.protocol.sound is None:
        raise MetricError(f"protocol {wanted.protocol.name} says nothing about sound")
    return wanted.protocol.sound


def _saliency(wanted: Wanted) -> SaliencyProtocol:
    if wanted.protocol.saliency is None:
        raise MetricError(f"protocol {wanted.protocol.name} says nothing about saliency")
    return wanted.protocol.saliency


def _rate(protocol: Protocol) -> float:
    """Of pictures; a protocol that has no videos takes them at any."""
    return protocol.video.frames_per_second if protocol.video else 0.0


def _require_size(said: int, built: int, network: str) -> None:
    if said != built:
        raise MetricError(f"the protocol gives {network} pictures of {said} pixels; it is built for {built}")


def _open_i3d(wanted: Wanted, names: tuple[str, ...]) -> Network:
    from preprocess.features.clips import SIDE, Convention, open_i3d
    from preprocess.features.i3d_files import is_torchscript

    video, path = _video(wanted), wanted.weights["i3d"]
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
        count = len(clip.pictures)
        if count < frames:
            return f"has {count} pictures, the protocol takes {frames}: give a longer clip"
        first = window_start(clip.name, count, frames) if random and wanted.side == "target" else 0
        return network(clip.pictures[None, first : first + frames])

    return Network(
        name="i3d",
        cards={name: make_card(wanted, "i3d", "video", video, more | {"frames": n}) for name, n in lengths.items()},
        reads="pictures",
        rows=rows,
        frames_per_second=video.frames_per_second,
        side=wanted.side or "" if random else "",
        most=0 if video.clips == "all" else video.clips,
    )


def _saliency_network(
    wanted: Wanted, name: ModelName, maps: Callable[[Pictures], np.ndarray], more: dict[str, object]
) -> Network:
    # A protocol without videos asks for no frame rate.
    rate = _rate(wanted.protocol)
    card = make_card(wanted, name, "saliency", _saliency(wanted), more | {"frames_per_second": rate or "any"})
    return Network(
        name=name,
        cards={"saliency": card},
        reads="pictures",
        rows=lambda clip: {"saliency": maps(clip.pictures)},
        frames_per_second=rate,
    )


def _open_fastgaze(wanted: Wanted, names: tuple[str, ...]) -> Network:
    from preprocess.features.fastgaze import SHORT_SIDE, STRIDE, open_fastgaze

    saliency = _saliency(wanted)
    chosen({"shorter side to 480": None}, saliency.resize, "resize")
    _require_size(saliency.size, SHORT_SIDE, "FastGaze")
    more: dict[str, object] = {"interpolation": "OpenCV, INTER_AREA where pictures shrink, else INTER_LINEAR",
                               "cells": f"{STRIDE} pixels"}  # fmt: skip
    return _saliency_network(wanted, "fastgaze", open_fastgaze(wanted.weights["fastgaze"], wanted.device), more)


def _open_clap(wanted: Wanted, names: tuple[str, ...]) -> Network:
    from preprocess.features.clap import open_clap

    sound, path = _sound(wanted), wanted.weights["clap"]
    network = open_clap(path, wanted.device)
    window = round(sound.window_seconds * sound.sample_rate)
    own = (network.sample_rate, int(network.extractor.nb_max_samples))
    if own != (sound.sample_rate, window):
        raise CheckpointError(
            f"{path}: hears windows of {own[1]} samples at {own[0]} Hz, the protocol wants {window} at "
            f"{sound.sample_rate} Hz; give {sound.extractor}"
        )

    def rows(clip: Clip) -> Found:
        windows = windows_of(clip.sound, clip.sample_rate, sound)
        return {"sound": rounded_features(network(list(windows)), sound)}

    card = make_card(wanted, "clap", "sound", sound, sound_settings(sound))
    return Network(name="clap", cards={"sound": card}, reads="sound", rows=rows)


def _open_yamnet(wanted: Wanted, names: tuple[str, ...]) -> Network:
    from preprocess.features.yamnet import SAMPLE_RATE, WINDOW, open_yamnet

    sound = _sound(wanted)
    if (sound.sample_rate, round(sound.window_seconds * sound.sample_rate)) != (SAMPLE_RATE, WINDOW):
        raise MetricError(f"YAMNet hears windows of {WINDOW} samples at {SAMPLE_RATE} Hz; the protocol wants others")
    network = open_yamnet(wanted.weights["yamnet"])
    text = "\n".join(network.class_names)
    more = sound_settings(sound)
    classes = more | {
        "features": f"scores of {len(network.class_names)} classes, 0 to 1, of each window",
        "class_names_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "class_names": list(network.class_names),
    }
    settings = {"sound": more, "classes": classes}

    def rows(clip: Clip) -> Found:
        heard = network(windows_of(clip.sound, clip.sample_rate, sound))
        found = {"sound": rounded_features(heard.embeddings, sound), "classes": heard.scores}
        return {name: found[name] for name in names}

    cards = {name: make_card(wanted, "yamnet", "sound", sound, settings[name]) for name in names}
    return Network(name="yamnet", cards=cards, reads="sound", rows=rows)


def _open_tempsal(wanted: Wanted, names: tuple[str, ...]) -> Network:
    from preprocess.features.tempsal import SIDE, open_tempsal

    saliency = _saliency(wanted)
    chosen({"to 256x256": None}, saliency.resize, "resize")
    _require_size(saliency.size, SIDE, "TempSAL")
    more: dict[str, object] = {
        "interpolation": "Pillow, BILINEAR",
        "seconds_divided_by": "their largest value of each picture",
    }
    return _saliency_network(wanted, "tempsal", open_tempsal(wanted.weights["tempsal"], wanted.device), more)


_OPENERS: dict[ModelName, Callable[[Wanted, tuple[str, ...]], Network]] = {
    "i3d": _open_i3d,
    "fastgaze": _open_fastgaze,
    "clap": _open_clap,
    "yamnet": _open_yamnet,
    "tempsal": _open_tempsal,
}
