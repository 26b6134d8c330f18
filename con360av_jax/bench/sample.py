"""Benchmark of sampling: a batch of clips with control, from captions to video and audio."""

import resource
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from con360av_jax.bench.results import Json, device, environment
from con360av_jax.config.settings import Config, Dtype, require
from con360av_jax.config.shapes import MODALITIES
from con360av_jax.diffusion.guidance import pass_weights
from con360av_jax.model import Con360AV, load
from con360av_jax.sample import decode
from con360av_jax.sphere.viewpoint import Viewpoint
from con360av_jax.train.throughput import memory_peak_gib

PACKAGES = ("jax", "jaxlib", "flax")
CAPTION = "a scene"


def bench_sample(config: Config, checkpoint: Path, batch_size: int, rounds: int, dtype: Dtype | None) -> Json:
    """Measures `rounds` batches of clips that a model generates with the sampler of `config`.

    The first clips count the time from opening the model, compilation included; the batches after it are timed in two
    parts, sampling of latents and decoding. Sampler and mesh are those of `config`, networks those of the model.

    Raises:
        ConfigError: a count is too small.
        CheckpointError, ShardingError: as `model.load` does.
    """
    require(batch_size >= 1, f"--batch-size {batch_size}: give 1 or more")
    require(rounds >= 1, f"--rounds {rounds}: give 1 or more")
    began = time.perf_counter()
    model = load(checkpoint, mesh=config.mesh, dtype=dtype)
    model.config = replace(model.config, sampler=config.sampler)
    loaded = time.perf_counter()
    generate(model, batch_size)
    first = time.perf_counter()
    times = np.array([generate(model, batch_size) for _ in range(rounds)])
    sampling, decoding = np.median(times, axis=0).tolist()
    weights = pass_weights(config.sampler).values()
    return {
        "benchmark": "sample",
        **environment(config, PACKAGES),
        **device(),
        "checkpoint": str(checkpoint),
        "batch_size": batch_size,
        "solver": config.sampler.solver,
        "steps": config.sampler.steps,
        "predictions_per_step": {name: sum(name in by_name for by_name in weights) for name in MODALITIES},
        "open_seconds": loaded - began,
        "first_clip_seconds": first - began,
        "sampling_seconds": {"median": sampling, "rounds": times[:, 0].tolist()},
        "decoding_seconds": {"median": decoding, "rounds": times[:, 1].tolist()},
        "clips_per_second": batch_size / float(np.median(times.sum(axis=1))),
        "memory": {
            "device_peak_gib": memory_peak_gib(),
            "host_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        },
    }


def generate(model: Con360AV, batch_size: int) -> tuple[float, float]:
    """Generates a batch with control; returns the seconds of sampling its latents and of decoding them."""
    clip, seeds = model.config.clip, list(range(batch_size))
    saliency = np.full((clip.frames, clip.map_height, clip.map_width), 0.5, np.float32)
    maps, track = model.control(Viewpoint(yaw=30.0, pitch=0.0, fov=60.0), saliency)
    start = time.perf_counter()
    text, negative = (model.encode_text([caption] * batch_size) for caption in (CAPTION, ""))
    latents = jax.device_get(model.sample_latents(model.noise(seeds), text, negative, np.stack([maps] * batch_size)))
    sampled = time.perf_counter()
    for number, seed in enumerate(seeds):
        own = {name: latent[number] for name, latent in latents.items()}
        decode(model.codecs, own, CAPTION, seed, track, maps)
    return sampled - start, time.perf_counter() - sampled
