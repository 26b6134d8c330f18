"""The compiled training step: shardings of everything that goes in and comes out, from arrays or from shapes alone."""

import jax
import numpy as np
from jax.sharding import Mesh
from jax.stages import Compiled

from con360av_jax.config import Config
from con360av_jax.data.fake import batch_spec
from con360av_jax.denoiser import joint_model
from con360av_jax.models.functional import Params
from con360av_jax.sharding import batch_sharding, replicate
from con360av_jax.train.state import TrainState
from con360av_jax.train.step import make_train_step


def compile_step(config: Config, mesh: Mesh, state: TrainState, frozen: Params) -> Compiled:
    """The one compiled program of a run: (state, frozen, batch, null_text, key) -> (state, metrics).

    `state` and `frozen` are arrays, or jax.ShapeDtypeStruct with shardings: nothing is computed or allocated.
    """
    apply, _ = joint_model(config)
    everywhere, split = replicate(mesh), batch_sharding(mesh)
    here = jax.tree.map(lambda leaf: leaf.sharding, (state, frozen))
    step = jax.jit(
        make_train_step(apply, config.schedule, config.train),
        donate_argnums=0,
        in_shardings=(*here, split, everywhere, everywhere),
        out_shardings=(here[0], everywhere),
    )
    batch = batch_spec(config, config.train.batch_size)
    batch["sample_id"] = jax.ShapeDtypeStruct(batch["sample_id"].shape, np.int32)
    null_text = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), batch["text"])
    return step.lower(state, frozen, batch, null_text, jax.random.key(0)).compile()
