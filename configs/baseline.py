"""The audio-video baseline without maps, trained as its public code (SonyResearch/SVG_baseline) does.

Trained: the connectors, the environment encoders (called connector_out there) and the motion modules, which are the
parameters whose names contain "connector" or "motion" there. Eight GPUs, one clip each, two batches per update, 1,000
epochs, AdamW with a constant 1e-5, a warmed-up moving average with decay 0.9999.

Networks, mel and schedules are those of the base that it is trained on, or else those of configs/published.py.

The maps of every sample are dropped: for such a sample the model equals one without Map Encoder and FiLM. These get no
gradient and are frozen, because weight decay alone would shrink them.

Differences from that code: bfloat16 in place of float16, which needs loss scaling because its small gradients vanish;
the average covers motion modules too; captions are dropped at its rate of 0.1, which its code never does with one clip
per GPU.
"""

from dataclasses import replace

from con360av_jax.config.settings import MeshConfig, TrainConfig
from configs.published import config as published

config = replace(
    published,
    name="baseline",
    train=TrainConfig(
        trainable="(connector|environment_encoder)/.*|.*/motion_modules/.*",
        batch_size=16,
        accumulate=2,
        steps=0,
        epochs=1000,
        learning_rate=1e-5,
        ema_decay=0.9999,
        text_dropout=0.1,
        map_dropout=1.0,
        compute_dtype="bfloat16",
    ),
    mesh=MeshConfig(data=8),
)
