"""Versions that are written beside measured numbers."""

import importlib.metadata

import pytest

from con360av_jax.bench import results
from con360av_jax.runtime.provenance import package_version


def test_a_checkout_that_is_not_installed_is_measured_all_the_same(tiny, monkeypatch: pytest.MonkeyPatch):
    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr("con360av_jax.runtime.provenance.version", missing)
    versions = results.environment(tiny, ["jax"])["versions"]
    assert versions == dict.fromkeys(("con360av-jax", "numpy", "jax"), "not installed")


def test_versions_are_those_of_the_packages():
    assert package_version("numpy") == importlib.metadata.version("numpy")
