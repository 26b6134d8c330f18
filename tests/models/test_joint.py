"""Several predictions of every row in one call of the joint model equal as many calls."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from con360av_jax.config import shapes
from con360av_jax.config.settings import Config, PerModality
from con360av_jax.denoiser import DenoiserInputs
from con360av_jax.models import functional
from con360av_jax.models.joint import JointModel
from tests.support.passes import alone
from tests.support.tiny_world import acting_connectors

BATCH, MAPS = 2, 2
PASSES: PerModality[tuple[int, ...]] = PerModality(audio=(1,), video=(0, 1, 1))


def test_passes_of_one_call_equal_calls_of_one_pass(tiny: Config):
    random = np.random.default_rng(0)

    def normal(rows: int, shape: tuple[int, ...]) -> jax.Array:
        return jnp.asarray(random.standard_normal((rows, *shape)), jnp.float32)

    latents, clean = (
        {name: normal(BATCH, shape) for name, shape in shapes.latent_shapes(tiny).items()} for _ in range(2)
    )
    rows = {name: BATCH * len(passes) for name, passes in vars(PASSES).items()}
    inputs = DenoiserInputs(
        latents=latents,
        timesteps={name: jnp.asarray([500, 37], jnp.int32) for name in shapes.MODALITIES},
        text={name: normal(rows[name], shape) for name, shape in shapes.text_shapes(tiny).items()},
        clean_estimates=clean,
        maps=jax.nn.sigmoid(normal(BATCH * MAPS, shapes.maps_shape(tiny))),
        map_mask=jnp.asarray([True, True, True, False]),
        passes=PASSES,
    )
    with acting_connectors():
        build = partial(JointModel, tiny.model)
        graphdef, params = (
            functional.abstract(lambda rngs: build(rngs=rngs))[0],
            functional.init(lambda rngs: build(rngs=rngs), jax.random.key(0)),
        )
    params |= {"film": jax.tree.map(lambda leaf: 0.5 * normal(1, leaf.shape)[0], params["film"])}
    run = jax.jit(partial(functional.apply, graphdef), compiler_options={"xla_backend_optimization_level": 0})
    found = run(params, inputs)
    for name, passes in vars(PASSES).items():
        assert found[name].shape == (rows[name], *latents[name].shape[1:])
        together = found[name].reshape(BATCH, len(passes), *latents[name].shape[1:])
        for number in range(len(passes)):
            wanted = run(params, alone(inputs, name, number))[name]
            np.testing.assert_allclose(together[:, number], wanted, rtol=1e-5, atol=1e-5)
    # The passes differ, so that one in the place of another would be found.
    video = found["video"].reshape(BATCH, 3, -1)
    assert min(float(jnp.abs(video[:, a] - video[:, b]).max()) for a, b in ((0, 1), (0, 2), (1, 2))) > 1e-3
