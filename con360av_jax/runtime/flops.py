"""FLOPs of a traced function: matrix products and convolutions, with loops counted in full.

XLA's own count takes the body of a loop once, whatever its length, and leaves out what runs in a library.
"""

import math
from collections.abc import Iterator, Mapping

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var


def count(jaxpr: Jaxpr) -> int:
    """Returns the floating-point operations of matrix products and convolutions, two per multiply-add.

    A convolution's taps in its padding count, as in the usual formula; those between the elements of a dilated input
    (a strided convolution's gradient) do not. A branch counts as its larger side, a loop of unknown length as one turn.
    """
    return sum(_one(equation) for equation in jaxpr.eqns)


def _one(equation: JaxprEqn) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = _shape(equation.invars[0])
        return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(shape[dim] for dim in contracted)
    if name == "conv_general_dilated":
        kernel = _shape(equation.invars[1])
        taps = math.prod(kernel) // kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(_shape(equation.outvars[0])) * taps // math.prod(equation.params["lhs_dilation"])
    inner = [count(jaxpr) for jaxpr in inner_jaxprs(equation.params)]
    if name == "cond":
        return max(inner, default=0)
    return sum(inner) * _times(equation)


def _times(equation: JaxprEqn) -> int:
    """Returns how often the inner function runs: turns of a loop, or devices that each compute one shard."""
    if equation.primitive.name == "shard_map":
        return math.prod(equation.params["mesh"].shape[name] for name in equation.params["newly_manual_axes"])
    return equation.params["length"] if equation.primitive.name == "scan" else 1


def _shape(variable: Var | Literal) -> tuple[int, ...]:
    return variable.aval.shape  # pyright: ignore[reportAttributeAccessIssue]


def inner_jaxprs(params: Mapping[str, object]) -> Iterator[Jaxpr]:
    """Yields the functions among the parameters of an equation, such as the body of a loop."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, Jaxpr):
                yield part
