"""Text files as other programs write them: byte order marks, line ends, and encodings other than UTF-8."""

import codecs
from pathlib import Path

from con360av_jax.errors import Con360Error

# Programs that write UTF-16 put a mark in front; UTF-8 may have one.
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def read_text(path: Path, error: type[Con360Error]) -> str:
    """Text of a user's file in UTF-8, or in UTF-16 with a byte order mark; without the mark, lines end with "\\n".

    Raises:
        Con360Error: of type `error`: the file cannot be read, or is in another encoding, which is not guessed at.
    """
    try:
        content = path.read_bytes()
    except OSError as failure:
        raise error(f"{path}: cannot be read ({failure.strerror}); check the path") from failure
    mark = next((mark for mark in MARKS if content.startswith(mark)), b"")
    try:
        text = content[len(mark) :].decode(MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError as failure:
        raise error(
            f"{path}: is not text in UTF-8 (byte {failure.start + len(mark)} is not); save it as UTF-8"
        ) from None
    if "\0" in text:
        raise error(f"{path}: is not text in UTF-8 (it holds zero bytes); save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def split_lines(text: str) -> list[str]:
    """Lines of a text, which end at "\\n" alone.

    `str.splitlines` would also cut at U+2028, U+0085 and others, which JSON leaves as they are inside its strings.
    """
    return text.removesuffix("\n").split("\n") if text else []
