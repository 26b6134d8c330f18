"""Text of other programs is read or refused by name, never misread."""

from pathlib import Path

import pytest

from con360av_jax.errors import MediaError
from con360av_jax.runtime.text_files import read_text, split_lines

TEXT = "bells ring – a child’s voice"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-with-mark"])
def test_utf_8_and_utf_16_are_read_without_mark_and_carriage_returns(tmp_path: Path, encoding: str):
    path, text = tmp_path / "a.txt", f"{TEXT}\r\nsecond\r\n"
    marked = encoding.endswith("with-mark")
    path.write_bytes(("\ufeff" + text).encode("utf-16-be") if marked else text.encode(encoding))
    assert read_text(path, MediaError) == f"{TEXT}\nsecond\n"


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le", "utf-32", "cp1251"])
def test_other_encodings_are_refused_with_the_file_and_what_to_do(tmp_path: Path, encoding: str):
    path = tmp_path / "a.txt"
    path.write_text(TEXT if encoding != "cp1251" else "колокол", encoding=encoding)
    with pytest.raises(MediaError, match=f"^{path}: is not text in UTF-8 .*; save it as UTF-8$"):
        read_text(path, MediaError)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(MediaError, match="gone.txt: cannot be read"):
        read_text(tmp_path / "gone.txt", MediaError)


def test_lines_end_at_line_feeds_alone():
    assert split_lines("a\u2028b\x85c\x0bd\x1ce\n\nf\n") == ["a\u2028b\x85c\x0bd\x1ce", "", "f"]
    assert split_lines("") == []
    assert split_lines("a") == ["a"]
