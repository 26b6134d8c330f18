"""Named protocols: every choice that changes FVD, FAD or S_KL, so that a number can be quoted with what it means.

Numbers of two protocols cannot be compared. Where a source leaves a choice open, `left_open` says so and what is taken
here. Sources:
SG    StyleGAN-V's calc_metrics_for_dataset, fvd2048_16f, as the audio-video baseline calls it
CM    common_metrics_on_video_quality, VideoGPT's FVD
FK    fadtk
FA    frechet-audio-distance
TS    TempSAL's code
CP    the Con360-AV paper, arXiv 2510.06060
BASE  this project's base config: views of 256x256, 32 frames at 8 per second, sound of 4 s at 16 kHz
"""

from dataclasses import dataclass
from typing import Literal

from con360av_jax.errors import MetricError
from con360av_jax.evaluate.metrics.frechet import POINTS, SMALLEST, Covariance
from con360av_jax.evaluate.metrics.saliency import EPSILON, Weighting


@dataclass(frozen=True, kw_only=True)
class VideoProtocol:
    """How videos become rows, and rows a distance."""

    extractor: str
    features: str
    """Which of the network's outputs, and how wide."""
    frames: tuple[int, ...]
    """Frames in a clip; several: one distance is reported for each."""
    frames_per_second: float
    window: Literal["random", "first"]
    """Which consecutive frames of a longer target are taken; of generated ones always the first.
    Shorter videos are left out."""
    size: int
    """Side of the square picture that enters the network, pixels."""
    resize: str
    covariance: Covariance
    clips: int | Literal["all"]
    """Most clips of either side."""


@dataclass(frozen=True, kw_only=True)
class SoundProtocol:
    """How sounds become rows, and rows a distance."""

    extractor: str
    features: str
    sample_rate: int
    """That enters the network, Hz."""
    resampler: str
    window_seconds: float
    hop_seconds: float
    """From one window to the next; equal to the window: one row per clip."""
    padding: str
    rounding: str
    """What values are rounded to on their way: of the sound, of the features."""
    covariance: Covariance
    infinity_points: int = POINTS
    infinity_smallest: int = SMALLEST


@dataclass(frozen=True, kw_only=True)
class SaliencyProtocol:
    """How frames become maps, and maps a divergence."""

    extractor: str
    size: int
    """Shorter side of the picture that enters the network, pixels."""
    resize: str
    weighting: Weighting
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One named set of choices; a part that its source says nothing about is None and has no number."""

    name: str
    video: VideoProtocol | None = None
    sound: SoundProtocol | None = None
    saliency: SaliencyProtocol | None = None
    sources: tuple[str, ...]
    left_open: tuple[str, ...]


_STYLEGANV = VideoProtocol(
    extractor="i3d_torchscript",
    features="class scores before softmax, 400",  # SG
    frames=(16,),  # SG: the name's 16f
    frames_per_second=8.0,  # BASE
    window="random",  # SG
    size=224,  # SG
    resize="to 224x224 and to [-1, 1] inside the network, from uint8",  # SG
    covariance="biased",  # SG
    clips=2048,  # SG: the name's 2048
)
YAMNET = "YAMNet"
"""The one sound network here that also names what it hears."""
_CLAP = "LAION-CLAP HTSAT-tiny, 630k-audioset"

PAPER = Protocol(
    name="paper",
    video=VideoProtocol(
        extractor=_STYLEGANV.extractor,
        features=_STYLEGANV.features,
        frames=(16, 32),
        frames_per_second=8.0,  # CP and BASE
        window="first",
        size=224,  # I3D
        resize=_STYLEGANV.resize,
        covariance="biased",  # SG
        clips="all",
    ),
    sound=SoundProtocol(
        extractor=_CLAP,
        features="joint embedding of unit length, 512",
        sample_rate=48_000,  # LAION-CLAP
        resampler="16 kHz to 48 kHz, targets too: above 8 kHz both are empty",  # BASE
        window_seconds=10.0,  # LAION-CLAP: 480,000 samples
        hop_seconds=10.0,
        padding="repeated as often as it fits, then zeros",  # FA
        rounding="none",  # FA
        covariance="unbiased",  # FA
    ),
    saliency=SaliencyProtocol(
        extractor="TempSAL, image saliency (0 to 5 s)",
        size=256,  # TS
        resize="to 256x256",  # TS
        weighting="pixel",
        epsilon=EPSILON,  # TS
    ),
    sources=("CP", "BASE", "SG", "FA", "TS"),
    left_open=(
        "FVD with 16 or 32 frames: both are reported",
        "FVD's code, weights and covariance: those of the audio-video baseline, StyleGAN-V's",
        "number of clips for FVD, and which frames: all, and from the first on, so that nothing is random",
        "CLAP's checkpoint, padding and windows: frechet-audio-distance's, one row per clip",
        "S_KL's map: TempSAL's single image map of each frame; zeros as in TempSAL's code",
    ),
)
STYLEGANV = Protocol(
    name="styleganv",
    video=_STYLEGANV,
    sources=("SG", "BASE"),
    left_open=("frame rate: frames are taken as stored, here 8 per second",),
)
VIDEOGPT = Protocol(
    name="videogpt",
    video=VideoProtocol(
        extractor=_STYLEGANV.extractor,  # CM: the same file
        features=_STYLEGANV.features,
        frames=(16, 32),
        frames_per_second=8.0,  # BASE
        window="first",
        size=224,  # CM
        resize="shorter side to 224, bilinear between pixel centres, middle cut out, [0, 1] to [-1, 1]",  # CM
        covariance="unbiased",  # CM
        clips="all",
    ),
    sources=("CM", "BASE"),
    left_open=("number of frames: any from 10 on; 16 and 32 are taken, as in the protocol paper",),
)
FADTK = Protocol(
    name="fadtk",
    sound=SoundProtocol(
        extractor=_CLAP,
        features="joint embedding of unit length, 512",  # FK
        sample_rate=48_000,  # FK
        resampler="sinc with a Kaiser window, width 64, roll-off 0.9475937, beta 14.769656",  # FK
        window_seconds=10.0,  # FK
        hop_seconds=1.0,  # FK: a clip of 4 s has 4 rows
        padding="zeros",  # FK
        rounding="sound to int16, features to float16",  # FK
        covariance="unbiased",  # FK
    ),
    sources=("FK",),
    left_open=("subsets for infinitely many rows: fadtk draws with replacement, which leaves part of the bias",),
)
SMALL = Protocol(
    name="small",
    sound=SoundProtocol(
        extractor=YAMNET,
        features="mean of the last layer, 1024, rounded to int8 by the network",
        sample_rate=16_000,  # YAMNet
        resampler="none: sound is at 16 kHz",  # BASE
        window_seconds=0.975,  # YAMNet: 15,600 samples
        hop_seconds=0.975,
        padding="none: a rest shorter than a window is left out",
        rounding="features to int8",
        covariance="unbiased",
    ),
    saliency=SaliencyProtocol(
        extractor="FastGaze",
        size=480,  # correlates best with human fixations from 480 to 512
        resize="shorter side to 480, the other in proportion; convolutions pad with zeros",
        weighting="pixel",
        epsilon=EPSILON,  # TS
    ),
    sources=("FastGaze and YAMNet, as published under Apache-2.0", "BASE", "TS"),
    left_open=("all of it is this project's choice: never call its numbers FAD or S_KL without naming the networks",),
)
PROTOCOLS = {protocol.name: protocol for protocol in (PAPER, STYLEGANV, VIDEOGPT, FADTK, SMALL)}


def named_protocol(name: str) -> Protocol:
    """The protocol of this name; raises MetricError that lists them all."""
    if name not in PROTOCOLS:
        raise MetricError(f"no protocol is called {name!r}: give one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def parts(protocol: Protocol) -> tuple[str, ...]:
    """The feature sets that a protocol's numbers are made of, each a folder of this name.

    "video_16", "video_32": one for each number of frames; "saliency"; "sound"; "classes", what is heard in each window
    of the sound, where its network says so.
    """
    found = [f"video_{frames}" for frames in protocol.video.frames] if protocol.video else []
    found += ["saliency"] if protocol.saliency else []
    found += ["sound"] if protocol.sound else []
    found += ["classes"] if protocol.sound and protocol.sound.extractor == YAMNET else []
    return tuple(found)
