"""The audio-video baseline without maps, on four A100: every sample drops its maps, and only connectors learn.

A sample without maps gets exactly the model without Map Encoder and FiLM, so these neither act nor get a gradient.
"""

from dataclasses import replace

from configs.paper_a100x4 import config as paper

config = replace(
    paper,
    name="baseline",
    train=replace(paper.train, trainable="(connector|environment_encoder)/.*", map_dropout=1.0),
)
