"""Every text the caption models wrote, kept in one JSONL file per clip, so that nothing is written twice."""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from con360av_jax.errors import DatasetError


@dataclass(frozen=True, kw_only=True)
class FaceText:
    """What BLIP-2 wrote on one face of the cube."""

    time: float
    """In the clip, s."""
    face: str
    text: str
    """May be empty."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """One segment's texts on all faces and times, and their segment."""

    clip: str
    segment: int
    texts: tuple[FaceText, ...]


@dataclass(frozen=True)
class CaptionTexts:
    """`<folder>/<clip>.jsonl`: a line per face and time, and a line per caption.

    What a text depends on (model, revision, prompt, picture or face texts) stands on its line as `made_from`; a text
    is found again only if all of that is the same. Several processes may write.
    """

    folder: Path

    def path(self, clip: str) -> Path:
        """The clip's file."""
        return self.folder / f"{clip}.jsonl"

    def find_faces(self, clip: str, segment: int, made_from: dict[str, str]) -> tuple[FaceText, ...]:
        """The segment's face texts in the order they were written, none if there are none."""
        found: dict[tuple[float, str], FaceText] = {}
        for line in self._lines(clip):
            if line["segment"] == segment and "face" in line and line["made_from"] == made_from:
                text = FaceText(time=line["time"], face=line["face"], text=line["text"])
                found[text.time, text.face] = text
        return tuple(found.values())

    def keep_faces(self, described: Described, made_from: dict[str, str]) -> None:
        """Adds a line per face text."""
        self._append(described, [asdict(text) | {"made_from": made_from} for text in described.texts])

    def find_caption(self, clip: str, segment: int, made_from: dict[str, str]) -> str | None:
        """The segment's caption, which may be empty, or None if there is none."""
        for line in self._lines(clip):
            if line["segment"] == segment and "caption" in line and line["made_from"] == made_from:
                return line["caption"]
        return None

    def keep_caption(self, described: Described, caption: str, answer: str, made_from: dict[str, str]) -> None:
        """Adds a line with the caption and with the model's full answer."""
        self._append(described, [{"caption": caption, "answer": answer, "made_from": made_from}])

    def _append(self, described: Described, lines: Iterable[Mapping[str, object]]) -> None:
        head = {"clip": described.clip, "segment": described.segment}
        text = "".join(json.dumps(head | dict(line), ensure_ascii=False) + "\n" for line in lines)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path(described.clip).open("a+b") as file:
            # Segments of one clip may be at work in several processes.
            fcntl.flock(file, fcntl.LOCK_EX)
            whole = _whole_lines(self.path(described.clip).read_bytes())
            file.truncate(len(whole))
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def _lines(self, clip: str) -> Sequence[dict]:
        path = self.path(clip)
        if not path.is_file():
            return []
        lines = []
        for number, text in enumerate(_whole_lines(path.read_bytes()).splitlines(), start=1):
            try:
                line = json.loads(text)
                kept = "caption" in line or {"time", "face", "text"} <= set(line)
            except (ValueError, TypeError) as error:
                raise _damaged(path, number) from error
            if not (kept and {"segment", "made_from"} <= set(line)):
                raise _damaged(path, number)
            lines.append(line)
        return lines


def _whole_lines(content: bytes) -> bytes:
    """Without a last line that a run which was killed did not finish."""
    return content[: content.rfind(b"\n") + 1]


def _damaged(path: Path, number: int) -> DatasetError:
    return DatasetError(f"{path}: line {number} is no text of a caption model; delete the line or the file")
