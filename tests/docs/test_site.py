"""The documentation as a site."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytest.importorskip("mkdocs")


def test_the_site_builds_without_a_warning(tmp_path: Path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr[-3000:]
    pages = {page: page.read_text() for page in (tmp_path / "site").rglob("*.html")}
    loaded = [page for page, text in pages.items() if 'src="http' in text or 'rel="stylesheet" href="http' in text]
    assert not loaded, "these pages load files from other servers"
