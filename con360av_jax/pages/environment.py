"""The Jinja environment of all HTML pages: templates extend base.html, which holds style.css; text is escaped."""

import json
from collections.abc import Callable

from jinja2 import ChoiceLoader, Environment, PackageLoader


def page_environment(package: str, **filters: Callable[..., str]) -> Environment:
    """Environment that loads templates from `package` and from this one.

    Besides `filters`, templates have `thousands` (12,345), `count("clip")` (1 clip, 2 clips) and `json`.
    """
    loader = ChoiceLoader([PackageLoader(package, "."), PackageLoader("con360av_jax.pages", ".")])
    environment = Environment(loader=loader, autoescape=True)
    environment.filters |= {"thousands": "{:,}".format, "count": _count, "json": _json, **filters}
    return environment


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
