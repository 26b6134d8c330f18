"""The terminal, on which text is shown as it is: a file may be called "[bold].mp4"."""

from rich.console import Console


def plain_console(stderr: bool = False) -> Console:
    """A console that reads no markup and no emoji codes in what it prints."""
    return Console(stderr=stderr, markup=False, emoji=False)
