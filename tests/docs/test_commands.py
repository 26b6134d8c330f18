"""Commands and Python in README and docs: each is read by its own program's parser, and marked ones are run."""

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import pytest

import con360av_jax as c3
import con360av_jax.cli
import convert.cli
import preprocess.cli
from con360av_jax import model, sample
from con360av_jax.commands.options import read_command
from con360av_jax.config.files import save_config
from con360av_jax.config.settings import Config
from con360av_jax.denoiser import DenoiserInputs, Latents
from con360av_jax.models.functional import Params
from con360av_jax.models.joint import each_pass, joint_model
from con360av_jax.train import program
from tests.support import tiny_world
from tests.support.doc_blocks import Block, blocks, commands, extras, make_targets

PROGRAMS = {"con360av": con360av_jax.cli, "convert": convert.cli, "preprocess": preprocess.cli}
# Not ours: nothing to check.
FOREIGN = {"cd", "git", "hf", "printf", "python3", ".", ".venv/bin/pre-commit", "nvidia-smi"}
SHELL, PYTHON = blocks("sh"), blocks("python")


@pytest.fixture(scope="module", autouse=True)
def quick_compiles() -> Iterator[None]:
    """Little to compile: what the network itself predicts is for other tests."""
    with tiny_world.quick_compiles(), pytest.MonkeyPatch.context() as patch:
        for module in (program, model, sample):
            patch.setattr(module, "joint_model", lambda *given: (stand_in, joint_model(*given)[1]))
        yield


def stand_in(params: Params, inputs: DenoiserInputs) -> Latents:
    """A network that compiles at once."""
    return {name: jnp.tanh(each_pass(inputs, name, latent)) for name, latent in inputs.latents.items()}


@pytest.fixture(scope="module")
def small(tiny: Config) -> Config:
    """Stands in for the config debug: two segments of a recording of 10 s."""
    # What `con360av init` makes has connectors that must be trained.
    lean = tiny_world.with_train(tiny_world.lean(tiny), trainable="connectors")
    return replace(lean, name="small", clip=replace(tiny.clip, hop_seconds=8))


@pytest.fixture
def folder(tmp_path: Path, small: Config, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory but for small.json."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CON360AV_CACHE", "off")
    save_config(small, tmp_path / "small.json")
    return tmp_path


@pytest.fixture
def named(folder: Path, small: Config) -> Path:
    """The same with the config of what is called base and run, whose settings are options, and with datasets."""
    for name in ("base", "run"):
        save_config(small, folder / name / "config.json")
    for name in ("dataset", "train"):
        (folder / name).symlink_to(tiny_world.dataset(small))
    return folder


@pytest.fixture
def made(folder: Path, small: Config) -> Path:
    """The working directory with a run."""
    (folder / "run").symlink_to(tiny_world.run(small))
    return folder


def called_program(words: list[str]) -> tuple[str, list[str]] | None:
    """Our program that a command line calls, and its arguments."""
    if words[0] == "con360av":
        return "con360av", words[1:]
    if words[:2] == ["python", "-m"] and words[2] in PROGRAMS:
        return words[2], words[3:]
    return None


def check(words: list[str]) -> None:
    """Fails unless the command can be understood, without running it."""
    if called := called_program(words):
        name, arguments = called
        assert read_command(name, "", PROGRAMS[name].COMMANDS, arguments) is not None
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None
    elif words[0] == "make":
        targets = {word for word in words[1:] if "=" not in word}
        assert targets <= make_targets(), targets
    elif words[:2] == ["pip", "install"]:
        wanted = {extra for word in words for found in re.findall(r"\.\[(.*)\]", word) for extra in found.split(",")}
        assert wanted <= extras(), wanted
    elif words[0].startswith(".venv/bin/"):
        assert words[0].removeprefix(".venv/bin/") in {"python", "pytest", "ruff", "basedpyright", "pre-commit"}
    else:
        assert words[0] in FOREIGN, f"unknown program {words[0]}"


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_every_command_is_understood_by_its_program(block: Block, named: Path):
    for words in commands(block):
        check(words)


@pytest.mark.parametrize("block", [block for block in SHELL if block.runs], ids=str)
def test_marked_commands_run(block: Block, folder: Path):
    for words in commands(block):
        if called := called_program(words):
            name, arguments = called
            arguments = ["small.json" if word == "debug" else word for word in arguments]
            assert PROGRAMS[name].main(arguments) == 0, " ".join(words)
        else:
            check(words)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_compiles_and_names_exist(block: Block):
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "c3":
            assert hasattr(c3, node.attr), node.attr


@pytest.mark.parametrize("block", [block for block in PYTHON if block.runs], ids=str)
def test_marked_python_runs(block: Block, made: Path):
    exec(compile(block.text, str(block.page), "exec"), {})
