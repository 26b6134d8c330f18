"""The audio-video baseline without maps, on four A100: the maps of every sample are dropped, only connectors train.

For a sample without maps the model equals one without Map Encoder and FiLM, which then get no gradient either.
"""

from dataclasses import replace

from configs.paper_a100x4 import config as paper

config = replace(
    paper,
    name="baseline",
    train=replace(paper.train, trainable="(connector|environment_encoder)/.*", map_dropout=1.0),
)
