"""Named protocols: all choices that change FVD, FAD or S_KL.

Values of different protocols are not comparable. `left_open` lists the choices that a protocol's sources do not
specify, with the value taken here. Sources:
AV    the audio-video baseline's public code, SonyResearch/SVG_baseline
SG    StyleGAN-V's calc_metrics_for_dataset, fvd2048_16f, as the audio-video baseline calls it
CM    common_metrics_on_video_quality, VideoGPT's FVD
FK    fadtk
FA    frechet-audio-distance
TS    TempSAL's code
CP    the Con360-AV paper, arXiv 2510.06060
BASE  this project's base config: views of 256x256, 32 frames at 8 per second, audio of 4 s at 16 kHz
"""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from con360av_jax.config.pretraining import JUDGES
from con360av_jax.errors import MetricError
from con360av_jax.evaluate.metrics.frechet import POINTS, SMALLEST, Covariance
from con360av_jax.evaluate.metrics.saliency import EPSILON, Weighting


@dataclass(frozen=True, kw_only=True)
class VideoProtocol:
    """Feature extraction and distance of the FVD."""

    extractor: str
    features: str
    """Output of the network that is used, and its width."""
    frames: tuple[int, ...]
    """Numbers of frames per clip; each gives one distance."""
    frames_per_second: float
    window: Literal["random", "first"]
    """Position of the frames in a longer target; generated clips always use their first frames.
    Shorter videos are excluded."""
    size: int
    """Side of the network's square input, pixels."""
    resize: str
    covariance: Covariance
    clips: int | Literal["all"]
    """Largest number of clips per side."""


@dataclass(frozen=True, kw_only=True)
class AudioProtocol:
    """Feature extraction and distance of the FAD."""

    extractor: str
    features: str
    sample_rate: int
    """Sample rate of the network's input, Hz."""
    resampler: str
    window_seconds: float
    hop_seconds: float
    """Time between window starts, s."""
    padding: str
    rounding: str
    """Rounding of the audio and of the features."""
    covariance: Covariance
    infinity_points: int = POINTS
    infinity_smallest: int = SMALLEST


@dataclass(frozen=True, kw_only=True)
class SaliencyProtocol:
    """Saliency extraction and divergence of S_KL."""

    extractor: str
    size: int
    """Shorter side of the network's input, pixels."""
    resize: str
    weighting: Weighting
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class JudgeProtocol:
    """Judgement of clips of procedural scenes, whose truth is known (judge_metrics.py)."""

    threshold: float
    """Mean probability over frames, or probability of a clip, from which a class counts as in view or heard."""
    features: str
    covariance: Covariance


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One named set of choices; a metric that its sources do not define is None."""

    name: str
    video: VideoProtocol | None = None
    sound: AudioProtocol | None = None
    saliency: SaliencyProtocol | None = None
    judge: JudgeProtocol | None = None
    negative_caption: str = ""
    """Negative caption that every evaluated model is sampled with; the only choice here that is not about measuring.
    It belongs to the protocol, not to a model, so that two models are sampled alike."""
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
_BASELINE_NEGATIVE = "bad quality, worse quality"  # AV: for audio and video, in all of its sampling
YAMNET = "YAMNet"
"""The only audio network here that also classifies sounds."""
_CLAP = "LAION-CLAP HTSAT-tiny, 630k-audioset"

PAPER = Protocol(
    name="paper",
    video=replace(_STYLEGANV, frames=(16, 32), window="first", clips="all"),
    sound=AudioProtocol(
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
    negative_caption=_BASELINE_NEGATIVE,
    sources=("CP", "BASE", "AV", "SG", "FA", "TS"),
    left_open=(
        "FVD with 16 or 32 frames: both are reported",
        "FVD's code, weights and covariance: those of the audio-video baseline, StyleGAN-V's",
        "number of clips for FVD, and which frames: all, and from the first on, so that nothing is random",
        "CLAP's checkpoint, padding and windows: frechet-audio-distance's, one row per clip",
        "negative caption: the audio-video baseline's, for all models",
        "S_KL's map: TempSAL's single image map of each frame; zeros as in TempSAL's code",
    ),
)
STYLEGANV = Protocol(
    name="styleganv",
    video=_STYLEGANV,
    negative_caption=_BASELINE_NEGATIVE,
    sources=("SG", "AV", "BASE"),
    left_open=("frame rate: frames are taken as stored, here 8 per second",),
)
VIDEOGPT = Protocol(
    name="videogpt",
    video=replace(
        _STYLEGANV,  # CM: the same file, 224
        frames=(16, 32),
        window="first",
        clips="all",
        resize="shorter side to 224, bilinear between pixel centres, middle cut out, [0, 1] to [-1, 1]",  # CM
        covariance="unbiased",  # CM
    ),
    sources=("CM", "BASE"),
    left_open=("number of frames: any from 10 on; 16 and 32 are taken, as in the protocol paper",),
)
FADTK = Protocol(
    name="fadtk",
    sound=AudioProtocol(
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
    sound=AudioProtocol(
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
SCENES = Protocol(
    name="scenes",
    judge=JudgeProtocol(
        threshold=0.5,
        features="mean over time and mean absolute change of the last features, one row per clip",
        covariance="unbiased",
    ),
    sources=("judges that con360av pretrain trains on procedural scenes of other seeds",),
    left_open=("all of it is this project's choice: its distances are no FVD and no FAD",),
)
PLAIN = Protocol(
    name="plain",
    sources=("AV-Align and the counts of silent and black clips, which every protocol has",),
    left_open=(),
)
ModelName: TypeAlias = Literal["fastgaze", "yamnet", "tempsal", "i3d", "clap"]
MODELS: dict[str, ModelName] = {
    "i3d_torchscript": "i3d",
    "LAION-CLAP": "clap",
    "TempSAL": "tempsal",
    "FastGaze": "fastgaze",
    "YAMNet": "yamnet",
}
"""Name of a network in `--weights` by the beginning of a protocol's `extractor`."""
PROTOCOLS = {protocol.name: protocol for protocol in (PAPER, STYLEGANV, VIDEOGPT, FADTK, SMALL, SCENES, PLAIN)}


def named_protocol(name: str) -> Protocol:
    """The protocol of this name; raises MetricError that lists them all."""
    if name not in PROTOCOLS:
        raise MetricError(f"no protocol is called {name!r}: give one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def models(protocol: Protocol) -> tuple[str, ...]:
    """Names of the networks of a protocol, in the order of MODELS, or those of the judges."""
    if protocol.judge is not None:
        return JUDGES
    used = [each.extractor for each in (protocol.video, protocol.saliency, protocol.sound) if each is not None]
    return tuple(name for beginning, name in MODELS.items() if any(text.startswith(beginning) for text in used))


def parts(protocol: Protocol) -> tuple[str, ...]:
    """Names of a protocol's feature sets, each a folder.

    "video_16", "video_32": one for each number of frames; "saliency"; "sound"; "classes": class scores of each audio
    window, if the audio network is YAMNet. Those of the judges: judging.py.
    """
    if protocol.judge is not None:
        return ("view", "sounds", "video_judge", "audio_judge")
    found = [f"video_{frames}" for frames in protocol.video.frames] if protocol.video else []
    found += ["saliency"] if protocol.saliency else []
    found += ["sound"] if protocol.sound else []
    found += ["classes"] if protocol.sound and protocol.sound.extractor == YAMNET else []
    return tuple(found)
