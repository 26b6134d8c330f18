"""Fenced code blocks of the documentation, and the command lines in them."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
# A comment above a block, invisible on the page, says that a test runs it, "run slow" that a slow one does in a shell;
# all others are only checked.
_FENCE = re.compile(
    r"^(<!-- test: (?P<mark>run|run slow) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_COMMENT = re.compile(r"(?:^|\s)#.*")
_INSIDE = re.compile(r"\$\((.*?)\)")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    text: str
    runs: bool
    """Whether a quick test runs it."""
    runs_slow: bool
    """Whether a slow test runs it in a shell."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(language: str) -> list[Block]:
    """All blocks of a language, in order."""
    return [
        Block(
            page=page,
            line=text[: found.start()].count("\n") + 1,
            language=language,
            text=found["text"],
            runs=found["mark"] == "run",
            runs_slow=found["mark"] == "run slow",
        )
        for page in PAGES
        for text in [page.read_text(encoding="utf-8")]
        for found in _FENCE.finditer(text)
        if found["language"] == language
    ]


def commands(block: Block) -> Iterator[list[str]]:
    """The words of every command of a shell block, those inside $(...) as well; comments are left out."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for inside in _INSIDE.findall(line):
            yield shlex.split(inside)
        # Not shlex's own comments: they would begin inside of DATASET#KEY.
        words = shlex.split(_COMMENT.sub("", line))
        if words and words[0] != "export":
            yield words


def make_targets() -> set[str]:
    """Targets of the Makefile."""
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def extras() -> set[str]:
    """Extras of pyproject.toml."""
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
