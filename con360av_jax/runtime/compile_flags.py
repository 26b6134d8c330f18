"""XLA flags for CPUs: one set for runs that mostly compile (the demo, the tests), one for long runs.

Set XLA_FLAGS before JAX is imported; `python -m con360av_jax.runtime.compile_flags` prints the flags for a shell.
"""

import os
import sys
from importlib.metadata import version

# In jaxlib 0.10 a library for small matrices plans anew in every first step, which takes longer than the steps of a
# short run. Only for 0.10, because XLA ends a process that gives it an unknown flag.
LIBRARY_KINDS = ("INDIVIDUAL_CONVOLUTION", "INDIVIDUAL_DOT", "DOT", "ELTWISE", "REDUCE")
WITHOUT_LIBRARY = "--xla_cpu_experimental_ynn_fusion_type=" + ",".join(
    f"-LIBRARY_FUSION_TYPE_{kind}" for kind in LIBRARY_KINDS
)

# It also builds each fused group of operations with a second compiler (MLIR) before LLVM. The older way takes half the
# time for a training step (22 s instead of 40 s of processor time for the tests' lean config on eight devices).
WITHOUT_EMITTERS = "--xla_cpu_use_fusion_emitters=false"


def quick_compile_flags(optimization_level: int) -> str:
    """Returns flags for short runs; `optimization_level` is LLVM's: 0 if nothing runs twice, 1 for dozens of steps."""
    # Splitting every large sum in two makes one fusion in eight of the train step, for accuracy no short run needs.
    flags = [
        f"--xla_backend_optimization_level={optimization_level}",
        "--xla_disable_hlo_passes=tree_reduction_rewriter",
    ]
    if version("jaxlib").startswith("0.10."):
        flags += [WITHOUT_LIBRARY, WITHOUT_EMITTERS]
    return " ".join(flags)


def fast_run_flags() -> str:
    """Returns flags for long runs of the published networks: convolutions use Eigen, which is faster there."""
    if not version("jaxlib").startswith("0.10."):
        return ""
    return "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"


def user_flags() -> str:
    """XLA_FLAGS as the user set them: empty if `choose_fast_run` did."""
    flags = os.environ.get("XLA_FLAGS", "")
    return "" if flags == fast_run_flags() else flags


def choose_fast_run() -> None:
    """Sets XLA_FLAGS to `fast_run_flags` unless it is set; call it before the first computation of JAX."""
    if flags := fast_run_flags():
        os.environ.setdefault("XLA_FLAGS", flags)


if __name__ == "__main__":
    sys.stdout.write(quick_compile_flags(1) + "\n")
