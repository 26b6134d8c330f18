"""Eight simulated devices, strict numerics and the shared tiny config; set before any test imports jax."""

import os
from collections.abc import Iterator
from pathlib import Path

from con360av_jax.runtime.compile_flags import quick_compile_flags

os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {quick_compile_flags(0)}")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import pytest

from con360av_jax.config.settings import Config
from tests.support.paths import SHARED
from tests.support.tiny_config import TINY

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real 360° clips, or a skip that says what is missing."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real 360° clips are not here: {SHARED / 'data'}")
    return SHARED / "data"


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of small real models, or a skip that says what is missing."""
    if not (SHARED / "models").is_dir():
        pytest.skip(f"small real models are not here: {SHARED / 'models'}")
    return SHARED / "models"


@pytest.fixture(scope="session")
def tiny() -> Config:
    """The smallest config with every part."""
    return TINY


@pytest.fixture(scope="session")
def lean(tiny: Config) -> Config:
    """`tiny` with the least to compile."""
    from tests.support import tiny_world

    return tiny_world.lean(tiny)


@pytest.fixture(scope="module")
def quick_compiles() -> Iterator[None]:
    """Compiles with little optimisation, and no program twice."""
    from tests.support import tiny_world

    with tiny_world.quick_compiles():
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: the suite has as many processes as there are cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
