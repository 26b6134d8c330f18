"""Reading options with tyro: complaints become one line, and any setting of a config can be changed by its path."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tyro

from con360av_jax.config.settings import Config
from con360av_jax.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Overrides:
    config: Config


def parse(read: Callable[[], T]) -> T | None:
    """Calls `read`, which calls tyro; None if it only showed help.

    Raises:
        ConfigError: an option is unknown or its value does not fit, in one line.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return read()
    except SystemExit as stop:
        if not stop.code:
            return None
        raise ConfigError(_one_line(complaint.getvalue())) from stop


def override(config: Config, options: list[str]) -> Config:
    """`config` with every `--config.path.to.setting value` of `options` applied.

    Raises:
        ConfigError: an option is no setting, or its value does not fit; the message names it.
    """
    if not options:
        return config
    changed = parse(
        lambda: tyro.cli(_Overrides, args=options, default=_Overrides(config=config), add_help=False).config
    )
    return config if changed is None else changed


def _one_line(box: str) -> str:
    """The message inside one of tyro's framed complaints."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()]
    message = []
    for line in lines[1:]:
        if line.startswith("──"):
            break
        message.append(line)
    return " ".join(message).strip() or " ".join(lines).strip()
