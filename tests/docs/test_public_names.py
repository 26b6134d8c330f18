"""Public names have docstrings, and the documentation lists what the package exports."""

from collections.abc import Iterator

import griffe
import pytest

import con360av_jax
from tests.support.paths import ROOT

PACKAGES = ("con360av_jax", "convert", "preprocess")
# Whose fields are read alone, too: settings, options, and what the package exports.
FIELDS = (
    *("con360av_jax.config.", "con360av_jax.commands.", "convert.cli.", "preprocess.commands."),
    *(f"{getattr(con360av_jax, name).__module__}.{name}." for name in con360av_jax.__all__),
)


def undocumented(parent: griffe.Object | griffe.Alias) -> Iterator[str]:
    """Public modules, classes and functions without a docstring, and fields of settings and options."""
    for name, member in parent.members.items():
        if member.is_alias or name.startswith("_"):
            continue
        is_field = "dataclass" in parent.labels and member.path.startswith(FIELDS)
        if isinstance(member, griffe.Attribute) and (not is_field or "ClassVar" in str(member.annotation)):
            continue
        # PyTorch says what `forward` is, the class what it computes.
        if not member.has_docstring and name != "forward":
            yield member.path
        if member.is_module or member.is_class:
            yield from undocumented(member)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_docstring(package: str):
    assert sorted(undocumented(griffe.load(package, search_paths=[str(ROOT)], allow_inspection=False))) == []


def test_the_reference_lists_what_the_package_exports():
    text = (ROOT / "docs" / "api" / "index.md").read_text(encoding="utf-8")
    assert [name for name in con360av_jax.__all__ if f"[`{name}`]" not in text] == []
