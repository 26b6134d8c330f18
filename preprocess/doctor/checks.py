"""Table of the doctor's checks: the wanted property, the severity of a finding, and the remedy."""

from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]


class Check(NamedTuple):
    """One property that a dataset should have."""

    severity: Severity
    """error: training would stop, learn from wrong data or be evaluated on its training data; warning: worth a look."""
    unit: str
    """Unit in which checked items are counted."""
    wanted: str
    """The property that should hold."""
    what_to_do: str
    """Remedy if it does not hold."""


_COPY = "copy the dataset again from an intact copy, or write it again"
_WRITE = "write the dataset again"

CHECKS: dict[str, Check] = {
    "manifest": Check("error", "datasets", "manifest.json can be read and its counts agree with each other", _COPY),
    "files": Check("error", "files", "every file is there with the size and the sha256 of the manifest", _COPY),
    "index": Check("error", "lines", "every line of the index agrees with its record", _WRITE),
    "ledger": Check(
        "error", "ledgers", "rejected.jsonl can be read and has as many lines as the manifest says", _COPY
    ),
    "records": Check(
        "error", "records", "every record can be read", f"{_COPY}; training skips such records and counts them"
    ),
    "keys": Check("error", "records", "no two samples have the same key", "give every clip its own name"),
    "schema": Check(
        "error", "fields", "every field is there, with the shape and dtype of the manifest's config", _WRITE
    ),
    "finite numbers": Check(
        "error", "fields", "no field holds NaN or infinity", "find its cause, or leave the clip out"
    ),
    "saliency range": Check("error", "records", "saliency lies in [0, 1]", "stretch the maps to [0, 1] over a segment"),
    "viewpoint angles": Check(
        "error",
        "records",
        "yaw lies in ±180°, pitch in ±90°, both fields of view between 0° and 180°",
        "check that angles are in radians, and in the order yaw, pitch, horizontal, vertical field of view",
    ),
    "latent spread": Check(
        "error", "records", "no standard deviation of a latent is negative", "store the deviation, not its logarithm"
    ),
    "latent size": Check(
        "error",
        "records",
        "no latent mean is beyond ±100, a hundred times its usual spread",
        "check the VAE's scaling factor and its weights",
    ),
    "caption vector": Check(
        "error", "records", "the CLAP vector has length 1", "normalise it, or encode with the base's own text encoder"
    ),
    "mel floor": Check(
        "error",
        "records",
        "no mel lies below the logarithm of its floor",
        "make mels with the config's floor, as natural logarithms",
    ),
    "silent sound": Check(
        "warning", "records", "audio is louder than -70 dBFS", "leave the clip out, or check its audio track"
    ),
    "clipped sound": Check(
        "warning",
        "records",
        "less than 0.1 % of the audio samples are at full scale",
        "use a quieter copy, or leave the clip out",
    ),
    "frozen picture": Check(
        "warning", "records", "the video changes during the segment", "leave the clip out if it shows a still image"
    ),
    "black picture": Check(
        "warning", "records", "no frame is black", "leave the clip out, or cut off its beginning and end"
    ),
    "saliency contrast": Check(
        "warning", "records", "saliency is not the same everywhere", "look at the maps; try another --saliency"
    ),
    "joined edges": Check(
        "warning",
        "previews",
        "the left and right edge of every panorama meet",
        "look at the panoramas: they may be cropped or of another projection; convert them or leave the clip out",
    ),
    "captions": Check(
        "warning", "records", "no caption is empty, and they are not all the same", "give captions: see --captions"
    ),
    "viewpoints": Check(
        "error",
        "segments",
        "every segment has all of its viewpoints, numbered from 0",
        _WRITE,
    ),
    "equal viewpoints": Check(
        "warning", "segments", "the viewpoints of a segment differ", "ask for fewer --viewpoints"
    ),
    "segments": Check(
        "warning",
        "clips",
        "segments are numbered without gaps, or the ledger names those that are missing",
        _WRITE,
    ),
    "duplicate clips": Check(
        "warning", "records", "no two clips of a dataset have equal audio or video", "leave one of them out"
    ),
    "split": Check(
        "error",
        "clips",
        "every clip belongs to the split that the manifest names",
        "write the split again; source videos are split by name",
    ),
    "shared videos": Check(
        "error",
        "source videos",
        "no source video is in two of the datasets",
        "split by source video, with --split; datasets of the same split may share videos",
    ),
    "shared content": Check(
        "error",
        "records",
        "no two datasets have clips of equal audio or video under different names",
        "leave the clip out of one of them",
    ),
}  # fmt: skip
