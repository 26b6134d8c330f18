"""python -m preprocess features: extracts features of media files for `con360av evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Features:
    """Extract the features of a protocol from media files, one folder per part.

    Parts that exist are kept if their files and settings are the same; the same command goes on where it was stopped.
    """

    if_interrupted: ClassVar = "the same command goes on from here"

    videos: Annotated[Path, tyro.conf.arg(metavar="FOLDER|FILE")]
    """Media files: a file, or a folder that is searched with those below. A file without video has audio parts only."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder that receives one folder per part."""
    protocol: str
    """Protocol of the evaluation: paper, styleganv, videogpt, fadtk or small."""
    weights: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=PATH ...")] = ()
    """Files of the networks fastgaze, yamnet, tempsal and i3d, and folder of clap, such as fastgaze=fastgaze.vxm."""
    parts: tuple[str, ...] = ()
    """Parts to extract, such as saliency, sound, classes or video_16. Left out: all of the protocol."""
    model: tyro.conf.UseAppendAction[tuple[Literal["fastgaze", "yamnet", "tempsal", "i3d", "clap"], ...]] = ()
    """Network whose parts are extracted. Left out: all of the protocol."""
    side: Literal["target", "generated"] | None = None
    """Kind of the clips, for protocols that take random frames of targets."""
    device: str = "cpu"
    """Device of PyTorch: cpu, cuda, cuda:1, ..."""
    batch_size: int = 4
    """Number of files that are read, and held in memory, at once; does not change the features."""
    allow_code: bool = False
    """Allow weights to be TorchScript, which runs code from that file."""
    check_only: bool = False
    """Open the networks and stop: says whether weights and device can be used."""

    def execute(self) -> None:
        """Writes the folders.

        Raises a Con360Error if a setting, weights or the output do not fit, or if no clip is usable.
        """
        from rich.progress import Progress

        from con360av_jax.evaluate.extraction import weights_by_name
        from con360av_jax.evaluate.protocols import named_protocol
        from con360av_jax.runtime.host_memory import keep_freed_memory
        from con360av_jax.runtime.terminal import plain_console
        from preprocess.features.extraction import extract
        from preprocess.features.material import find_clips
        from preprocess.features.networks import Wanted, wanted_parts
        from preprocess.features.opening import open_networks
        from preprocess.features.terminal import summarise

        protocol = named_protocol(self.protocol)
        wanted = Wanted(
            protocol=protocol,
            parts=wanted_parts(protocol, self.parts, self.model),
            weights=weights_by_name(self.weights),
            side=self.side,
            device=self._device(),
            allow_code=self.allow_code,
        )
        keep_freed_memory()  # networks ask for the same megabytes picture by picture
        networks = open_networks(wanted)
        if self.check_only:
            return
        sources, rejected = find_clips(self.videos)
        console = plain_console(stderr=True)
        with Progress(console=console) as bar:
            task = bar.add_task("features", total=len(sources))
            extracted = extract(
                sources, rejected, networks, self.out, self.batch_size, lambda source: bar.advance(task)
            )
        summarise(console, self.out, wanted.parts, extracted)

    def _device(self) -> str:
        import torch

        from con360av_jax.errors import ConfigError, first_line

        try:
            torch.zeros(1, device=self.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = first_line(error)
            raise ConfigError(f"--device {self.device}: PyTorch cannot use it ({reason}); give cpu or cuda") from error
        return self.device
