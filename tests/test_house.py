"""Rules of the code base that a machine can check: imports, short files and functions, places of tests, language."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGES = ("con360av_jax", "convert", "preprocess", "configs")

# Lower layers first; a module may import from its own layer and from lower ones. `models` and `diffusion` share a layer
# but must not import each other.
LAYERS = (
    ("errors", "runtime"),
    ("config",),
    ("sphere", "media"),
    ("scenes", "data"),
    ("denoiser",),
    ("models", "diffusion"),
    ("base", "sharding"),
    ("train", "sample", "model"),
    ("pages", "evaluate", "report", "plan", "bench"),
    ("commands",),
    ("cli", "__main__"),
)
LAYER = {entry: number for number, entries in enumerate(LAYERS) for entry in entries}
MOST_ENTRIES = 23  # directly under con360av_jax/
# A docstring is read alone, in a hover or in --help: it is no fragment of a sentence.
FRAGMENT = re.compile(r"(Of|What|Which|That|Whose|How) ")
# Words that mean nothing to a reader of the code alone, and files that only its authors have.
FOREIGN_WORDS = re.compile(r"\b([Cc]ontestants?|house style|DESIGN|FACTS|STYLE)\b|\.\./shared")
TEXTS = {".py", ".md", ".html", ".css", ".js"}


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def entry_of(module: str) -> str | None:
    """The file or folder directly under con360av_jax/ that a module belongs to."""
    parts = module.split(".")
    return parts[1] if parts[0] == "con360av_jax" and len(parts) > 1 and parts[1] in LAYER else None


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def import_graph() -> dict[str, set[str]]:
    """Which of the project's modules each of them imports, at the top or inside functions."""
    paths = [path for path in python_files(*PACKAGES, "benchmarks") if path != ROOT / "con360av_jax" / "__init__.py"]
    modules = {module_of(path) for path in paths}
    return {module_of(path): imported_modules(path) & modules - {module_of(path)} for path in paths}


def test_no_files_import_each_other_in_a_circle():
    TopologicalSorter(import_graph()).prepare()  # raises CycleError, which names the circle


def test_no_folders_import_each_other_in_a_circle():
    graph = import_graph()
    for folder in {module.rpartition(".")[0] for module in graph} - {""}:
        inside = {module: module.removeprefix(f"{folder}.").split(".")[0] for module in graph if f"{folder}." in module}
        entries: dict[str, set[str]] = {}
        for module, entry in inside.items():
            found = {inside[other] for other in graph[module] if other in inside}
            entries.setdefault(entry, set()).update(found - {entry})
        TopologicalSorter(entries).prepare()


def test_the_package_has_few_entries_and_every_one_has_a_layer():
    folder = ROOT / "con360av_jax"
    modules = {path.relative_to(folder).parts[0].removesuffix(".py") for path in python_files("con360av_jax")}
    assert len(modules) <= MOST_ENTRIES, sorted(modules)
    assert modules - {"__init__"} <= set(LAYER), f"without a layer: {sorted(modules - set(LAYER))}"


@pytest.mark.parametrize("path", python_files("con360av_jax"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path: Path):
    if path == ROOT / "con360av_jax" / "__init__.py":
        return
    own = path.relative_to(ROOT / "con360av_jax").parts[0].removesuffix(".py")
    entries = {entry for name in imported_modules(path) if (entry := entry_of(name))}
    upward = {entry for entry in entries if LAYER[entry] > LAYER[own]}
    assert not upward, f"{own} imports from above: {sorted(upward)}"
    assert {own, *entries} & {"models", "diffusion"} != {"models", "diffusion"} or own not in ("models", "diffusion")


def test_the_jax_package_names_no_foreign_package():
    foreign = {"torch", "diffusers", "librosa", "convert", "preprocess", "configs"}
    for path in python_files("con360av_jax"):
        found = {name.split(".")[0] for name in imported_modules(path)} & foreign
        assert not found, f"{path.relative_to(ROOT)} imports {sorted(found)}"


def test_convert_and_preprocess_do_not_import_each_other():
    for own, other in (("convert", "preprocess"), ("preprocess", "convert")):
        for path in python_files(own):
            assert other not in {name.split(".")[0] for name in imported_modules(path)}, path


def test_every_module_imports_without_torch_convert_or_preprocess():
    modules = [module_of(path) for path in python_files("con360av_jax") if path.name != "__main__.py"]
    script = (
        "import importlib, importlib.machinery\n"
        "find = importlib.machinery.PathFinder.find_spec\n"
        # As if the foreign packages were not installed: importing them fails.
        "foreign = {'torch', 'diffusers', 'librosa', 'convert', 'preprocess', 'configs'}\n"
        "def without_foreign(name, path=None, target=None):\n"
        "    return None if name.split('.')[0] in foreign else find(name, path, target)\n"
        "importlib.machinery.PathFinder.find_spec = without_foreign\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr[-2000:]


def test_tests_lie_where_their_subject_lies_and_do_not_import_each_other():
    for path in python_files("tests"):
        folder = path.relative_to(ROOT / "tests").parent
        subject = ROOT / folder, ROOT / "con360av_jax" / folder, (ROOT / "con360av_jax" / folder).with_suffix(".py")
        assert folder.parts[:1] == ("support",) or any(place.exists() for place in subject), path
        others = {name for name in imported_modules(path) if re.match(r"tests\.(?!support\b)", name)}
        assert not others and "sys.path.insert" not in path.read_text() or path.name == "test_house.py", path


def test_docstrings_are_read_alone():
    fragments = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value.value[:60]}"
        for path in python_files(*PACKAGES, "benchmarks")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if FRAGMENT.match(node.value.value)
    ]
    assert not fragments, "\n".join(fragments)


def test_no_text_has_words_or_files_that_its_readers_lack():
    folders = (*PACKAGES, "benchmarks", "docs", "tests")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in TEXTS]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in [*paths, *ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "pyproject.toml"]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (match := FOREIGN_WORDS.search(line)) and path != ROOT / "tests" / "test_house.py"
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "path", python_files(*PACKAGES, "tests", "benchmarks"), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_files_and_functions_are_short_and_say_what_they_are_for(path: Path):
    text = path.read_text()
    tree = ast.parse(text)
    assert text.count("\n") <= 300
    assert ast.get_docstring(tree) or path.name == "__init__.py", "the module lacks a docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{node.name} is {length} lines"
