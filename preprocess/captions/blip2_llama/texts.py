"""Store of the texts that caption models wrote, one JSONL file per clip, so that no text is generated twice."""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from con360av_jax.errors import DatasetError
from con360av_jax.runtime.files import file_stem


@dataclass(frozen=True, kw_only=True)
class FaceText:
    """Text of BLIP-2 on one cube face at one time."""

    time: float
    """Time in the clip, s."""
    face: str
    text: str
    """May be empty."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """A segment's texts on all faces and times."""

    clip: str
    segment: int
    texts: tuple[FaceText, ...]


@dataclass(frozen=True)
class CaptionTexts:
    """Store in `<folder>/<clip>.jsonl`: a line per face and time, and a line per caption.

    `made_from` on each line states what its text depends on: model, revision, prompt, and panoramas or face texts. A
    text is found only if all of it is the same. Several processes may write at once.
    """

    folder: Path

    def path(self, clip: str) -> Path:
        """Path of a clip's file."""
        return self.folder / f"{file_stem(clip)}.jsonl"

    def find_faces(self, clip: str, segment: int, made_from: dict[str, str]) -> tuple[FaceText, ...]:
        """Face texts of a segment in the order in which they were written; empty if there are none."""
        found: dict[tuple[float, str], FaceText] = {}
        for line in self._lines(clip):
            if line["segment"] == segment and "face" in line and line["made_from"] == made_from:
                text = FaceText(time=line["time"], face=line["face"], text=line["text"])
                found[text.time, text.face] = text
        return tuple(found.values())

    def keep_faces(self, described: Described, made_from: dict[str, str]) -> None:
        """Appends a line per face text."""
        self._append(described, [asdict(text) | {"made_from": made_from} for text in described.texts])

    def find_caption(self, clip: str, segment: int, made_from: dict[str, str]) -> str | None:
        """Caption of a segment, which may be empty, or None if there is no caption."""
        for line in self._lines(clip):
            if line["segment"] == segment and "caption" in line and line["made_from"] == made_from:
                return line["caption"]
        return None

    def keep_caption(self, described: Described, caption: str, answer: str, made_from: dict[str, str]) -> None:
        """Appends a line with the caption and the model's full answer."""
        self._append(described, [{"caption": caption, "answer": answer, "made_from": made_from}])

    def _append(self, described: Described, lines: Iterable[Mapping[str, object]]) -> None:
        head = {"clip": described.clip, "segment": described.segment}
        text = "".join(json.dumps(head | dict(line), ensure_ascii=False) + "\n" for line in lines)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path(described.clip).open("a+b") as file:
            # Several processes may work on segments of one clip.
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
                raise _corrupt(path, number) from error
            if not (kept and {"segment", "made_from"} <= set(line)):
                raise _corrupt(path, number)
            lines.append(line)
        return lines


def _whole_lines(content: bytes) -> bytes:
    """`content` without an incomplete last line, which a killed run leaves."""
    return content[: content.rfind(b"\n") + 1]


def _corrupt(path: Path, number: int) -> DatasetError:
    return DatasetError(f"{path}: line {number} is no text of a caption model; delete the line or the file")
