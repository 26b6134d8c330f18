"""Errors of other libraries, and lists of words, shortened to one line."""

from con360av_jax.errors import LONGEST_LINE, first_line, some


def test_the_first_line_says_what_happened_and_why():
    assert first_line(ValueError("\n no such key\n at line 3")) == "no such key"
    assert first_line(KeyError()) == "KeyError()"
    line = first_line(OSError(f"write failed: {'x' * 300}: No space left on device\nmore"))
    assert len(line) == LONGEST_LINE and line.startswith("write failed: ") and line.endswith("No space left on device")


def test_some_words_are_named_and_the_rest_is_counted():
    assert some(["a", "b"]) == "a, b"
    assert some([*"abcdefghij"], "; ") == "a; b; c; d; e; f; g; h; and 2 more"
