"""The published training on 64 A100: each GPU has a copy of the model, so only gradients are communicated.

Networks, mel and schedules are those of the base that it is trained on, or else those of configs/published.py. The
trained parameters and their optimizer fit on one GPU. For trainable="all", split the parameters within each machine:
MeshConfig(data=8, fsdp=8).
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
        steps=0,
        epochs=500,
        # As many epochs as published, with 64 times the batch and so a 64th of the updates. The published rate, 1e-5,
        # times sqrt(64): the square-root rule for Adam (Malladi et al. 2022, arXiv 2205.10287). Warm-up: half of the
        # 1,000 updates over which Adam averages squared gradients. The average's horizon is as many samples as with
        # the published batch (Busbridge et al. 2023, arXiv 2307.13813): 0.9999 ** 64.
        learning_rate=8e-5,
        warmup_steps=500,
        ema_decay=0.9936,
        compute_dtype="bfloat16",
        remat="none",
        loader_threads=4,
        sample_every=1000,
    ),
    mesh=MeshConfig(data=64),
)
