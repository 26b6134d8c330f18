"""Benchmark of sampling: a batch of clips with control, from captions to video and audio."""

import resource
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from con360av_jax.bench.results import Json, device, environment
from con360av_jax.config.settings import Config, Dtype, require
from con360av_jax.diffusion.guidance import pass_weights
from con360av_jax.model import load
from con360av_jax.sample import decode
from con360av_jax.sphere.viewpoint import Viewpoint
from con360av_jax.train.throughput import memory_peak_gib

PACKAGES = ("jax", "jaxlib", "flax")


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
    saliency = np.full((config.clip.frames, config.clip.map_height, config.clip.map_width), 0.5, np.float32)
    maps, track = model.control(Viewpoint(yaw=30.0, pitch=0.0, fov=60.0), saliency)
    captions, seeds = ["a scene"] * batch_size, list(range(batch_size))

    def generate() -> tuple[float, float]:
        """Seconds of sampling and of decoding one batch."""
        start = time.perf_counter()
        latents = jax.device_get(
            model.sample_latents(
                model.noise(seeds),
                model.encode_text(captions),
                model.encode_text([""] * batch_size),
                np.stack([maps] * batch_size),
            )
        )
        sampled = time.perf_counter()
        for number, seed in enumerate(seeds):
            own = {name: latent[number] for name, latent in latents.items()}
            decode(model.codecs, own, captions[number], seed, track, maps)
        return sampled - start, time.perf_counter() - sampled

    generate()
    first = time.perf_counter()
    times = np.array([generate() for _ in range(rounds)])
    sampling, decoding = np.median(times, axis=0).tolist()
    return {
        "benchmark": "sample",
        **environment(config, PACKAGES),
        **device(),
        "checkpoint": str(checkpoint),
        "batch_size": batch_size,
        "solver": config.sampler.solver,
        "steps": config.sampler.steps,
        "predictions_per_step": {
            name: sum(1 for weights in pass_weights(config.sampler).values() if weights[name])
            for name in ("audio", "video")
        },
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
