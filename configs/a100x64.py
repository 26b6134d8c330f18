"""The published networks on 64 A100: each GPU has a copy of the model, so only gradients are communicated.

The trained parameters and their optimizer fit on one GPU. For trainable="all", split the parameters within each
machine: MeshConfig(data=8, fsdp=8).
"""

from dataclasses import replace

from con360av_jax.config.settings import MeshConfig, TrainConfig
from configs.published import config as published

config = replace(
    published,
    name="a100x64",
    train=TrainConfig(
        trainable="connectors",
        # Four samples per GPU, one after the other: at once they would take 131 GiB according to `con360av plan`.
        batch_size=256,
        accumulate=4,
        learning_rate=1e-5,
        # The batch is 64 times the published one, so the learning rate starts small.
        warmup_steps=500,
        compute_dtype="bfloat16",
        remat="none",
        loader_threads=4,
    ),
    mesh=MeshConfig(data=64),
)
