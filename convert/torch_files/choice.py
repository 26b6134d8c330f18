"""Choice of the weight file that is read of a folder: usual names, full precision and safetensors come first.

Libraries save the same network under several names: a variant ("fp16", "bf16") before the format, as .safetensors or as
a pickle, whole or in shards with an index. diffusers and transformers write the variant of an index before ".json".
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

# Full precision first; float16 keeps more digits than bfloat16.
VARIANTS = ("", ".fp16", ".bf16")
FILES = (
    ("diffusion_pytorch_model", ".safetensors"),
    ("model", ".safetensors"),
    ("diffusion_pytorch_model", ".bin"),
    ("pytorch_model", ".bin"),
)

# A network's folder is searched for these names, in this order ...
NAMED = tuple(
    dict.fromkeys(
        name
        for variant in VARIANTS
        for stem, format in FILES
        for name in (
            f"{stem}{variant}{format}",
            f"{stem}{format}.index{variant}.json",
            f"{stem}{variant}{format}.index.json",
        )
    )
)
# ... and then for a single network under any name with one of these endings, in this order.
LOOSE = (".safetensors", ".ckpt", ".bin")


def is_index(path: Path) -> bool:
    """Whether the file's name is that of an index of shards."""
    return re.search(r"\.index(\.\w+)?\.json$", path.name) is not None


def weight_files(folder: Path) -> list[Path]:
    """The file or index that holds a network's weights; if none has a usual name, one loose weight file per network."""
    named = [folder / name for name in NAMED if (folder / name).is_file()]
    # A download of "*.json" and one variant brings the indexes of the others.
    complete = [file for file in named if not is_index(file) or all(shard.is_file() for shard in _shards(file))]
    if named:
        return (complete or named)[:1]
    names = sorted(file.name for file in folder.iterdir() if file.is_file() and file.suffix in LOOSE)
    return [folder / name for name in one_of_each(names)]


def one_of_each(names: Iterable[str]) -> list[str]:
    """The first choice among the variants and formats of each name."""
    chosen: dict[str, str] = {}
    for name in sorted(names, key=_preference):
        chosen.setdefault(_stem(name), name)
    return sorted(chosen.values())


def wanted(names: Iterable[str]) -> list[str]:
    """The weight files of one folder to download: the first usual name with all its shards, or the loose ones."""
    whole = {name: re.sub(r"-\d+-of-\d+", "", name) for name in names}
    usual = next((name for name in NAMED if name in whole.values()), None)
    return [name for name in whole if whole[name] == usual] if usual else one_of_each(whole)


def _preference(name: str) -> tuple[bool, int, int]:
    variant = next((number for number, middle in enumerate(VARIANTS) if middle and f"{middle}." in name), 0)
    return ".non_ema." in name, variant, LOOSE.index(Path(name).suffix)


def _stem(name: str) -> str:
    """The name without variant and ending."""
    return re.sub(r"\.(fp16|bf16|non_ema)$", "", name.removesuffix(Path(name).suffix))


def _shards(index: Path) -> list[Path]:
    """Files that an index names; none if it cannot be read, which opening it reports."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return [index.parent / shard for shard in dict.fromkeys(places.values())]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
