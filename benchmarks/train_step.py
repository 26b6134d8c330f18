"""One training step of the joint model, compared with the same step in PyTorch with the original modules.

    python -m benchmarks.train_step --out benchmarks/results/train_step_cpu.json

"jax" is the compiled program of `con360av train`; "torch eager" is diffusers' two U-Nets, frozen, with connectors,
environment encoders, Map Encoder and FiLM between their blocks (peer/joint.py), trained by torch's fused AdamW. Both
train the published set, `connectors`, from the same weights and the same batch, which is on the device already; each
draws its own noise. In bfloat16 the U-Nets' weights are bfloat16 on both sides; trained weights are float32 and compute
in bfloat16.

Errors of our loss and gradients are relative to the PyTorch step in float32 on the CPU, for the same draws, over one
clip of CHECK_FRAMES frames: the whole batch at published width would take a CPU many minutes and its memory.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import comparison, harness
from benchmarks.peer.joint import TABLE, JointPeer, Tensors
from benchmarks.peer.step import Objective, TrainStep, same_draws, to_torch_layout
from con360av_jax.config.files import load_config
from con360av_jax.config.settings import Config, MeshConfig
from con360av_jax.data.fake import fake_batch
from con360av_jax.diffusion.loss import Draws, denoising_loss, draw, dropout_rates
from con360av_jax.models.functional import Params, flatten, unflatten
from con360av_jax.models.joint import joint_model
from con360av_jax.sharding import make_mesh, replicate
from con360av_jax.train.loop import on_mesh
from con360av_jax.train.optimizer import make_optimizer, merge
from con360av_jax.train.program import abstract_start, compile_step
from con360av_jax.train.state import TrainState, init_state
from convert.rules import to_jax
from convert.torch_files.weights import cast_floating

UNETS = {"audio": "unet_a", "video": "unet_v"}
# One frame per second.
CHECK_FRAMES = 4
Gradients = tuple[float, Mapping[str, np.ndarray]]
"""Loss, and gradients under our paths."""
# nn.LSTM's second bias stays zero and has no counterpart.
WITHOUT_COUNTERPART = "map_encoder.lstm.bias_hh_l0"


def build(config: Config, seed: int = 0) -> JointPeer:
    """Builds the PyTorch model on the CPU in float32, with the libraries' random weights."""
    unets = {name: comparison.build(component, config, seed) for name, component in UNETS.items()}
    torch.manual_seed(seed)
    return JointPeer(config, unets)


def converted(config: Config, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, np.ndarray]:
    """PyTorch parameters or their gradients under our paths; raises CheckpointError if the table does not fit."""
    wanted = {path: leaf.shape for path, leaf in flatten(joint_model(config, "float32")[1]).items()}
    arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items() if name != WITHOUT_COUNTERPART}
    return to_jax(arrays, TABLE, wanted, optional=".*")


def start(config: Config, model: JointPeer) -> tuple[TrainState, Params]:
    """Our initial state and frozen parameters with the PyTorch model's weights, sharded as `compile_step` wants."""
    state, frozen = abstract_start(config, make_mesh(config.mesh))
    tensors = converted(config, model.state_dict())

    def placed(shapes: Params) -> Params:
        return unflatten(
            {
                path: jax.device_put(cast_floating(tensors[path], np.dtype(leaf.dtype)), leaf.sharding)
                for path, leaf in flatten(shapes).items()
            }
        )

    begin = jax.jit(
        partial(init_state, optimizer=make_optimizer(config.train)),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, state),
    )
    return begin(placed(state.params)), placed(frozen)


def null_text(config: Config) -> dict[str, np.ndarray]:
    """Zeros in place of the empty caption's embeddings."""
    return {name: np.zeros(text.shape[1:], np.float32) for name, text in fake_batch(config, 1)["text"].items()}


def peer_batch(config: Config, device: str) -> dict[str, Any]:
    """The batch in PyTorch's layout."""
    batch = fake_batch(config, config.train.batch_size)
    return {
        "moments": {
            name: {kind: to_torch_layout(name, array, device) for kind, array in moment.items()}
            for name, moment in batch["moments"].items()
        },
        "text": {name: torch.tensor(text, device=device) for name, text in batch["text"].items()},
        "maps": to_torch_layout("maps", batch["maps"], device),
    }


def check_config(config: Config) -> Config:
    """`config` for one clip of few frames, with maps, text and clean estimates in every sample."""
    clip = replace(config.clip, frames_per_second=max(CHECK_FRAMES // config.clip.seconds, 1))
    nothing = dict.fromkeys(("text_dropout", "map_dropout", "saliency_dropout", "basd_dropout"), 0.0)
    train = replace(config.train, batch_size=1, clean_estimate_share=1.0, **nothing)
    return replace(config, clip=clip, train=train)


def draws(config: Config) -> Draws:
    """Random draws of a batch."""
    batch: Any = fake_batch(config, config.train.batch_size)
    arrays = jax.tree.map(jnp.asarray, {**batch, "sample_id": batch["sample_id"].astype(np.int32)})
    empty = jax.tree.map(jnp.asarray, null_text(config))
    return draw(arrays, empty, dropout_rates(config.train), jax.random.key(1), config.schedule, config.train)


def our_gradients(config: Config, state: TrainState, frozen: Params, drawn: Draws) -> Gradients:
    """Our loss and gradients in the compute dtype."""
    denoiser, _ = joint_model(config, config.train.compute_dtype)

    @jax.jit
    def run(params: Params, frozen: Params, drawn: Draws) -> tuple[jax.Array, Params]:
        def loss(params: Params) -> jax.Array:
            return denoising_loss(denoiser, merge(params, frozen), drawn, config.schedule, config.train)[0]

        return jax.value_and_grad(loss)(params)

    loss, gradients = run(state.params, frozen, drawn)
    return float(loss), {path: np.asarray(leaf) for path, leaf in flatten(gradients).items()}


def peer_gradients(config: Config, model: JointPeer, device: str, drawn: Draws) -> Gradients:
    """PyTorch's loss and gradients, on `device`."""
    model.zero_grad(set_to_none=True)
    loss = Objective(config, model, device).loss(same_draws(drawn, device))
    loss.backward()
    gradients = {name: weight.grad.float().cpu() for name, weight in model.trained() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return float(loss.detach()), dict(converted(config, gradients))


def errors(found: Gradients, wanted: Gradients) -> dict[str, float]:
    """Relative error of the loss, and relative L2 error of all gradients together."""
    squares = [
        (float(np.sum(np.square(found[1][path] - array, dtype=np.float64))), float(np.sum(np.square(array))))
        for path, array in wanted[1].items()
    ]
    distance, length = (sum(column) ** 0.5 for column in zip(*squares, strict=True))
    return {"loss": abs(found[0] - wanted[0]) / abs(wanted[0]), "gradients": distance / length}


class OurStep:
    """The compiled program of a training run; calling it advances the state, which is donated."""

    def __init__(self, config: Config, state: TrainState, frozen: Params):
        mesh = make_mesh(config.mesh)
        began = time.perf_counter()
        self.program = compile_step(config, mesh, state, frozen, count=False).run
        self.compiled = harness.compiled_row(self.program, time.perf_counter() - began)
        self.state = state
        batch = on_mesh(fake_batch(config, config.train.batch_size), mesh)
        empty = jax.device_put(null_text(config), replicate(mesh))
        dropout = jax.device_put(dropout_rates(config.train), replicate(mesh))
        self.arguments = (frozen, batch, empty, dropout, jax.random.key(config.train.seed))

    def __call__(self) -> dict[str, jax.Array]:
        """Runs one step, waits for the new state and returns the metrics."""
        self.state, metrics = self.program(self.state, *self.arguments)
        return jax.block_until_ready((self.state, metrics))[1]


def peer_step(
    config: Config, model: JointPeer, device: str, forward: Callable[..., Tensors]
) -> Callable[[], torch.Tensor]:
    """PyTorch's step on its own batch; calling it waits for the update."""
    step = TrainStep(config, model, Objective(config, forward, device))
    batch = peer_batch(config, device)
    empty = {name: torch.tensor(text, device=device) for name, text in null_text(config).items()}

    def call() -> torch.Tensor:
        loss = step(batch, empty)
        if device == "cuda":
            torch.cuda.synchronize()
        return loss

    return call


def compare(config: Config, arguments: argparse.Namespace) -> harness.Json:
    """Computes errors relative to PyTorch in float32 on the CPU, then times both sides."""
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    model, small = build(config), check_config(config)
    given = draws(small)
    wanted = peer_gradients(small, model, "cpu", given)
    state, frozen = start(config, model)
    ours = errors(our_gradients(small, state, frozen, given), wanted)
    # XLA's default for float32 products and convolutions on a GPU.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    model.place(device, getattr(torch, config.train.compute_dtype))
    theirs = errors(peer_gradients(small, model, device, given), wanted)
    del wanted
    run = OurStep(config, state, frozen)
    del state
    programs: dict[str, Callable[[], object]] = {
        harness.OURS: run,
        "torch eager": peer_step(config, model, device, model),
    }
    if arguments.torch_compile:
        programs["torch.compile"] = peer_step(config, model, device, torch.compile(model))
    seconds = harness.interleaved(programs, arguments.rounds, "train")
    case = harness.case(
        seconds,
        ratios=harness.ratios(seconds),
        errors={f"{harness.OURS} {what}": error for what, error in ours.items()},
        compiled={harness.OURS: run.compiled},
    )
    return case | {"errors of the original in this dtype": theirs}


def main() -> None:
    """Times, compares and publishes."""
    parser = harness.comparison_parser(__doc__, config="debug")
    parser.add_argument("--batch", type=int, help="samples per step; the config's if left out")
    parser.add_argument("--frames", type=int, help="video frames of the clip; the config's if left out")
    arguments = parser.parse_args()
    harness.prepare()
    config = load_config(arguments.config)
    frames = arguments.frames or config.clip.frames
    if frames % config.clip.seconds:
        parser.error(f"--frames {frames} given, but a clip of {config.clip.seconds} s has whole frames a second")
    train = replace(
        config.train,
        trainable="connectors",
        batch_size=arguments.batch or config.train.batch_size,
        accumulate=1,
        compute_dtype=arguments.dtype,
    )
    clip = replace(config.clip, frames_per_second=frames // config.clip.seconds)
    config = replace(config, clip=clip, train=train, mesh=MeshConfig())
    results: harness.Json = {**harness.environment(config), "dtype": arguments.dtype}
    results["cases"] = {f"train step, {train.batch_size} x {frames} frames": compare(config, arguments)}
    harness.publish(results, arguments.out)


if __name__ == "__main__":
    main()
