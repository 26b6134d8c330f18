"""Published PyTorch weights into the networks that they belong to: every tensor fits, or one error lists all."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from con360av_jax.errors import CheckpointError

Network = TypeVar("Network", bound=nn.Module)

# A count of training steps, which evaluation never reads; files of PyTorch before 0.4 have none.
UNREAD = ".num_batches_tracked"


def require_named(path: Path, content: object, wanted: str, place: str = "") -> dict[str, object]:
    """`content` as a dict; raises CheckpointError, which says "give {wanted}", if it is not weights by name."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"{path}: holds no weights by name{place}; give {wanted}")
    return dict(content)


def with_weights(
    build: Callable[[], Network],
    weights: Mapping[str, object],
    path: Path,
    title: str,
    published: Callable[[str], str] = lambda name: name,
) -> Network:
    """The network that `build` makes, with `weights`, in eval mode, float32, on the CPU.

    Args:
        build: makes the network.
        weights: contents of a weight file, by their published names.
        path: that file, for messages.
        title: name of the network, for messages.
        published: the published name of a tensor of the network.

    Raises:
        CheckpointError: a tensor is missing, unexpected, not finite or of another shape or kind; lists all of them.
    """
    # On the meta device, so that no random weights are drawn only to be replaced.
    with torch.device("meta"):
        network = build()
    wanted = {published(name): (name, tensor) for name, tensor in network.state_dict().items()}
    if not any(name.endswith(UNREAD) for name in weights):
        weights = dict(weights) | {name: torch.zeros((), dtype=torch.int64) for name in wanted if name.endswith(UNREAD)}
    problems = []
    tensors = {}
    for name in sorted({*weights, *wanted}):
        if name not in weights:
            problems.append(f"{name} is missing")
        elif name not in wanted:
            problems.append(f"{name} is unexpected")
        elif problem := _problem(given := weights[name], wanted[name][1]):
            problems.append(f"{name} {problem}")
        elif isinstance(given, Tensor):
            own, tensor = wanted[name]
            tensors[own] = given.to(tensor.dtype)
    if problems:
        raise CheckpointError(f"{path}: is not {title}, {len(problems)} problems: {'; '.join(problems)}")
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)


def _problem(given: object, wanted: Tensor) -> str:
    """The difference between a given weight and the wanted one, or ""."""
    if not isinstance(given, Tensor) or given.layout != torch.strided or given.device.type != "cpu":
        return f"is a {type(given).__name__}, not a plain tensor"
    if given.shape != wanted.shape:
        return f"has shape {tuple(given.shape)}, wanted {tuple(wanted.shape)}"
    if given.is_complex() or given.is_floating_point() != wanted.is_floating_point():
        return f"is {given.dtype}, wanted {wanted.dtype}"
    return "" if given.isfinite().all() else "holds NaN or infinity"
