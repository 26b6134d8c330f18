"""The Jinja environment of all HTML pages: templates extend base.html, which holds style.css; text is escaped."""

import json
from collections.abc import Callable
from functools import partial

from jinja2 import ChoiceLoader, Environment, PackageLoader


def page_environment(package: str, **filters: Callable[..., str]) -> Environment:
    """Environment that loads templates from `package` and from this one.

    Besides `filters`, templates have `thousands` (12,345), `count("clip")` (1 clip, 2 clips) and `json`.
    """
    loader = ChoiceLoader([PackageLoader(package, "."), PackageLoader("con360av_jax.pages", ".")])
    environment = Environment(loader=loader, autoescape=True)
    to_json = partial(json.dumps, indent=2, ensure_ascii=False)
    environment.filters |= {"thousands": "{:,}".format, "count": _count, "json": to_json, **filters}
    return environment


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
