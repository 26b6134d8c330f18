"""The published networks on 64 A100: a copy of the model on each, so that only gradients cross the wire.

What learns fits on one GPU with its optimizer, so nothing has to be split; for `trainable="all"` split the parameters
within a machine: MeshConfig(data=8, fsdp=8).
"""

from dataclasses import replace

from con360av_jax.config.settings import MeshConfig, TrainConfig
from configs.published import config as published

config = replace(
    published,
    name="a100x64",
    train=TrainConfig(
        trainable="connectors",
        # Four clips for each GPU, one after the other: all at once they would take 131 GiB by `con360av plan`.
        batch_size=256,
        accumulate=4,
        learning_rate=1e-5,
        # A batch 64 times the published one: the first updates are made small.
        warmup_steps=500,
        compute_dtype="bfloat16",
        remat="none",
        loader_threads=4,
    ),
    mesh=MeshConfig(data=64),
)
