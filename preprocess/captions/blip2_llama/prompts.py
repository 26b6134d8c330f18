"""Prompts of the caption models: read from a TOML file that the user can edit, checked, and identified by a hash."""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from con360av_jax.errors import ConfigError
from con360av_jax.runtime.text_files import read_text
from preprocess.captions.blip2_llama.texts import FaceText

DEFAULT_PROMPTS = Path(__file__).with_name("prompts.toml")
# A face's text is a phrase. A joined sentence may exceed CLIP's 77 tokens, so that the model can end it.
FACE_TOKENS = 32
JOIN_TOKENS = 96
# Placeholders that each prompt may have, and those that it must have.
PLACEHOLDERS = {
    "face": (frozenset(), frozenset()),
    "line": (frozenset({"time", "face", "text"}), frozenset({"text"})),
    "join": (frozenset({"descriptions"}), frozenset({"descriptions"})),
}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Prompts of both models."""

    face: str
    """Beginning of the text that BLIP-2 continues."""
    line: str
    """Template of one face's line among the descriptions."""
    join: str
    """Template of the chat model's question."""

    @property
    def face_digest(self) -> str:
        """Digest of what determines face texts; they are kept when only the prompts of the chat model change."""
        return _digest(self.face, FACE_TOKENS)

    @property
    def join_digest(self) -> str:
        """Digest of what determines a caption, given its face texts."""
        return _digest(self.line, self.join, JOIN_TOKENS)

    def question(self, texts: Iterable[FaceText]) -> str:
        """The message to the chat model about one segment; faces with an empty text are left out."""
        lines = [
            _fill(self.line, {"time": f"{face.time:g}", "face": face.face, "text": face.text})
            for face in texts
            if face.text
        ]
        return _fill(self.join, {"descriptions": "\n".join(lines)}).strip()


def load_prompts(path: Path | None = None) -> Prompts:
    """Prompts in the file `path`, or those of the package.

    Raises ConfigError if the file is missing, is no TOML, or lacks a prompt or a placeholder.
    """
    path = path or DEFAULT_PROMPTS
    try:
        given = tomllib.loads(read_text(path, ConfigError))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: the prompts cannot be read ({error}); copy and edit {DEFAULT_PROMPTS}") from error
    wanted = {field.name for field in fields(Prompts)}
    if set(given) != wanted or not all(isinstance(text, str) for text in given.values()):
        raise ConfigError(f"{path}: has {sorted(given)}; give a text for each of {sorted(wanted)}")
    for name, text in given.items():
        found = set(_PLACEHOLDER.findall(text))
        allowed, needed = PLACEHOLDERS[name]
        if found - allowed or needed - found:
            raise ConfigError(
                f"{path}: {name} has placeholders {sorted(found)}; "
                f"it must have {sorted(needed)} and may have {sorted(allowed)}"
            )
    return Prompts(**given)


def _fill(template: str, values: dict[str, str]) -> str:
    # Not str.format, which would take braces in a model's answer or in a prompt for placeholders.
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), template)


def _digest(*parts: str | int) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
