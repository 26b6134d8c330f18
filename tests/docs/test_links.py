"""Files that README and docs name: links lead somewhere, and paths of source files exist."""

import re
from pathlib import Path

import pytest

from tests.support.doc_blocks import PAGES
from tests.support.paths import ROOT

_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)")
# Paths in backticks that begin with a folder of the checkout.
_PATH = re.compile(r"`((?:con360av_jax|convert|preprocess|configs|docs|tests|benchmarks)/[\w./-]*)`")
README_LINES = 150


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_paths_exist(page: Path):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [page.parent / link for link in _LINK.findall(text) if "://" not in link]
    missing = [str(path) for path in links + [ROOT / path for path in _PATH.findall(text)] if not path.exists()]
    assert not missing


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES
