"""Configs to and from dicts, JSON and Python files; an unknown or wrong setting is named with its full path."""

import hashlib
import importlib.util
import json
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import cattrs
from cattrs.errors import BaseValidationError, ForbiddenExtraKeysError

from con360av_jax.config.settings import Config
from con360av_jax.errors import CheckpointError, Con360Error, ConfigError
from con360av_jax.runtime.files import write_text
from con360av_jax.runtime.packaged import find_model

T = TypeVar("T")
HASH_DIGITS = 12
# Settings of training that runs were made before, with the value that then was the only one.
YOUNGER_THAN_SOME_RUNS: Mapping[str, object] = {"saliency_dropout": 0.0, "basd_dropout": 0.0}


def _exactly(value: object, wanted: type[T]) -> T:
    if type(value) is not wanted:
        raise TypeError(f"{value!r} is {type(value).__name__}, wanted {wanted.__name__}")
    return value


def _number(value: object, _: type[float]) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{value!r} is {type(value).__name__}, wanted a number")
    return float(value)  # pyright: ignore[reportArgumentType]


# A strict converter: no field is dropped, no text becomes a number, tuples become lists as in JSON.
_CONVERTER = cattrs.Converter(forbid_extra_keys=True, unstruct_collection_overrides={tuple: list})
for _kind in (bool, int, str):
    _CONVERTER.register_structure_hook(_kind, _exactly)
_CONVERTER.register_structure_hook(float, _number)
# An int given where a float belongs must hash like the float it is read back as.
_CONVERTER.register_unstructure_hook(float, float)
_CONVERTER.register_structure_hook_func(lambda kind: kind is object, lambda value, _: value)


def _explain(error: BaseException, kind: type | None) -> str:
    if isinstance(error, ForbiddenExtraKeysError):
        names = ", ".join(sorted(error.extra_fields))
        known = ", ".join(sorted(getattr(error.cl, "__dataclass_fields__", {})))
        return f"unknown setting {names} (known: {known})"
    if isinstance(error, KeyError):
        return f"setting {error.args[0]} is missing"
    if isinstance(error, Con360Error | TypeError | ValueError):
        return str(error)
    return f"{error!r} (wanted {kind})"


def problems(error: BaseValidationError) -> str:
    """Returns all problems of a failed `structure` on one line, each with the path of its setting."""
    lines = cattrs.transform_error(error, path="", format_exception=_explain)
    return "; ".join(_path_first(line) for line in lines)


def _path_first(line: str) -> str:
    text, _, path = line.rpartition(" @ ")
    return f"{path.lstrip('.')}: {text}" if path else text


def structure(data: object, kind: type[T]) -> T:
    """Converts JSON data to a dataclass `kind`; raises cattrs' BaseValidationError, which `problems` explains."""
    return _CONVERTER.structure(data, kind)


def unstructure(value: object) -> dict[str, object]:
    """Converts a dataclass to nested dicts and lists that JSON can hold."""
    return _CONVERTER.unstructure(value)


def to_dict(config: Config) -> dict[str, object]:
    """Converts `config`, defaults included, to nested dicts, lists and scalars."""
    return unstructure(config)


def from_dict(data: Mapping[str, object]) -> Config:
    """Converts the output of `to_dict` to a Config; missing settings take their defaults.

    Raises ConfigError naming the full path of every unknown, missing or wrong setting.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"a config is a mapping of settings, but {type(data).__name__} was given")
    try:
        return structure(data, Config)
    except BaseValidationError as error:
        raise ConfigError(problems(error)) from error


def config_hash(config: Config) -> str:
    """Returns twelve hex digits that depend on every value of `config` and are the same in every process."""
    text = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def save_config(config: Config, path: str | Path) -> None:
    """Writes `config` as JSON, atomically."""
    write_text(Path(path), json.dumps(to_dict(config), indent=2) + "\n")


def load_config_json(path: str | Path) -> Config:
    """Reads a config from JSON; raises ConfigError naming the file and the setting."""
    return _from_json(Path(path), {})


def load_run_config(run: str | Path) -> Config:
    """Reads RUN/config.json; settings that are younger than the run have the value that it was trained with.

    Raises ConfigError naming the file and the setting.
    """
    return _from_json(Path(run) / "config.json", YOUNGER_THAN_SOME_RUNS)


def _from_json(path: Path, missing: Mapping[str, object]) -> Config:
    """Reads a config whose settings of training are `missing` where the file has none."""
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"config file {path} is not JSON: {error}") from error
    if isinstance(data, dict) and isinstance(train := data.get("train"), dict):
        data["train"] = {**missing, **train}
    try:
        return from_dict(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def config_of(folder: str | Path) -> Config:
    """Reads the config of a base, a folder or a packaged model.

    Raises CheckpointError if there is none, ConfigError if it is not valid.
    """
    path = find_model(folder) / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: is {folder} the right folder?")
    return load_config_json(path)


def load_config(name_or_path: str | Path) -> Config:
    """Reads a config by name, such as "debug" (configs/debug.py), or by path to a .py or .json file.

    A Python file must define `config`. Raises ConfigError if there is no such config or it is not valid.
    """
    path = Path(name_or_path)
    if path.suffix not in (".py", ".json"):
        path = _named(str(name_or_path))
    return load_config_json(path) if path.suffix == ".json" else _load_python(path)


def dataset_config(name: str, base: str) -> Config:
    """Returns the config of a dataset to make, from the name or path of a config and the folder of a base.

    With a base, only the clip is taken from the config, model and mel are those of the base, and without a name its
    config is returned. For base "none" it is the named config, or debug. Raises as `load_config` and `config_of` do,
    and ConfigError if the base's networks cannot take the clips.
    """
    if base == "none":
        return load_config(name or "debug")
    given = config_of(base)
    if not name:
        return given
    named = load_config(name)
    return named.on_base(given, named.clip)


def _named(name: str) -> Path:
    spec = importlib.util.find_spec("configs")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    known = sorted(file.stem for folder in folders for file in folder.glob("[!_]*.py"))
    for folder in folders:
        if name in known and (folder / f"{name}.py").is_file():
            return folder / f"{name}.py"
    raise ConfigError(f"no config is called {name!r}: give one of {', '.join(known)} or a path to a .py or .json file")


def _load_python(path: Path) -> Config:
    if not path.is_file():
        raise ConfigError(f"config file {path} does not exist")
    try:
        config = runpy.run_path(str(path)).get("config")
    except (Con360Error, TypeError, NameError, AttributeError, ImportError, SyntaxError) as error:
        # An unknown setting in a Python config is a TypeError of the dataclass that names both.
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(config, Config):
        raise ConfigError(f"{path} must hold a value `config` of type Config, but has {type(config).__name__}")
    return config


def leaves(value: object, path: str = "") -> dict[str, object]:
    """Flattens nested dicts and lists to {"a.b.0": scalar}."""
    if isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    else:
        return {path: value}
    return {k: v for name, child in children for k, v in leaves(child, f"{path}.{name}" if path else f"{name}").items()}


def changes(old: object, new: object) -> dict[str, str]:
    """Each path of `leaves` at which two nested values differ, as {"a.b.0": "a.b.0: 1 -> 2"} in order of paths."""
    before, after = leaves(old), leaves(new)
    absent = object()

    def shown(values: Mapping[str, object], path: str) -> object:
        found = values.get(path, "not given")
        return '""' if found == "" else found

    return {
        path: f"{path}: {shown(before, path)} -> {shown(after, path)}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path, absent) != after.get(path, absent)
    }
