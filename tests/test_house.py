"""The house rules that a machine can check: one-way imports, no torch in the JAX package, short files and functions."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("con360av_jax", "convert", "preprocess", "configs")

# Lower rooms first; a module may import from its own floor and from lower ones. `models` and `diffusion` share a floor
# but must not know each other (checked apart).
FLOORS = (
    ("errors", "provenance"),
    ("model_config", "config", "shapes", "config_io"),
    ("distance", "geometry", "viewpoint", "ambisonics", "containers", "excerpt", "spherical", "media", "mel", "data"),
    ("models", "diffusion"),
    ("denoiser", "tokenizer", "pretrained", "codecs", "random_base", "sharding", "flops"),
    ("train", "sample", "pipeline", "evaluate", "report", "bench", "plan"),
    ("compile_cache", "quick_compile", "host_memory", "commands", "cli", "__main__"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


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


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "con360av_jax" and len(parts) > 1 and parts[1] in FLOOR else None


def test_every_module_has_a_floor():
    modules = {
        path.relative_to(ROOT / "con360av_jax").parts[0].removesuffix(".py") for path in python_files("con360av_jax")
    } - {"__init__"}
    assert modules <= set(FLOOR), f"without a floor: {sorted(modules - set(FLOOR))}"


@pytest.mark.parametrize("path", python_files("con360av_jax"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path: Path):
    if path == ROOT / "con360av_jax" / "__init__.py":
        return
    own = path.relative_to(ROOT / "con360av_jax").parts[0].removesuffix(".py")
    rooms = {room for name in imported_modules(path) if (room := room_of(name))}
    upward = {room for room in rooms if FLOOR[room] > FLOOR[own]}
    assert not upward, f"{own} imports from above: {sorted(upward)}"
    assert {own, *rooms} & {"models", "diffusion"} != {"models", "diffusion"} or own not in ("models", "diffusion")


def test_the_jax_package_names_no_foreign_package():
    foreign = {"torch", "diffusers", "librosa", "convert", "preprocess", "configs"}
    for path in python_files("con360av_jax"):
        found = {name.split(".")[0] for name in imported_modules(path)} & foreign
        assert not found, f"{path.relative_to(ROOT)} imports {sorted(found)}"


def test_convert_and_preprocess_do_not_know_each_other():
    for own, other in (("convert", "preprocess"), ("preprocess", "convert")):
        for path in python_files(own):
            assert other not in {name.split(".")[0] for name in imported_modules(path)}, path


def test_every_room_imports_without_torch_convert_or_preprocess():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in python_files("con360av_jax")
        if path.name != "__main__.py"
    ]
    script = (
        "import importlib, importlib.machinery\n"
        "find = importlib.machinery.PathFinder.find_spec\n"
        # As if the foreign packages were not installed: an import fails, and who asks first is told so.
        "foreign = {'torch', 'diffusers', 'librosa', 'convert', 'preprocess', 'configs'}\n"
        "def without_foreign(name, path=None, target=None):\n"
        "    return None if name.split('.')[0] in foreign else find(name, path, target)\n"
        "importlib.machinery.PathFinder.find_spec = without_foreign\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr[-2000:]


@pytest.mark.parametrize(
    "path", python_files(*PACKAGES, "tests", "benchmarks"), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_files_and_functions_are_short_and_say_what_they_are_for(path: Path):
    text = path.read_text()
    tree = ast.parse(text)
    assert text.count("\n") <= 300
    assert ast.get_docstring(tree) or path.name == "__init__.py", "the module lacks its sentence of purpose"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{node.name} is {length} lines"
