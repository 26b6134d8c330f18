"""The published setting: 500 epochs on four A100, AdamW with 1e-5; Map Encoder, FiLM and connectors train.

Networks, mel and schedules are those of the base that it is trained on, or else those of configs/published.py. Other
values are the defaults of con360av_jax/config/training.py. The batch of one sample per GPU is an assumption.
"""

from dataclasses import replace

from con360av_jax.config.settings import MeshConfig, TrainConfig
from configs.published import config as published

config = replace(
    published,
    name="paper_a100x4",
    train=TrainConfig(
        trainable="connectors",
        batch_size=4,
        steps=0,
        epochs=500,
        learning_rate=1e-5,
        sample_every=10_000,
        compute_dtype="bfloat16",
    ),
    mesh=MeshConfig(data=4),
)
