"""Folders of the checkout, of stored references, and of real recordings beside the checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "tests" / "reference"
SHARED = ROOT.parent / "shared"
