"""Sample clips of a run: the same held-out records and seeds each time, from the moving average of the weights.

RUN/samples/STEP/NAME.mp4, .npz, .json   clip, its control (if training uses any) and card, as `con360av sample` writes
                                         them; NAME is the key of the record with "_" for "/"

Every process takes part in sampling, over the run's mesh, and reads the decoders, because a part of a base is read by
all processes together; process 0 decodes on its own device and writes.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from con360av_jax.base.codecs import Codecs
from con360av_jax.base.pretrained import Pretrained
from con360av_jax.config.settings import Config
from con360av_jax.data.schema import Sample
from con360av_jax.data.transforms import stack_maps
from con360av_jax.denoiser import Text
from con360av_jax.models.functional import Params
from con360av_jax.sample import BatchSampler, decode, noise_from_seeds, write_card
from con360av_jax.train.optimizer import merge
from con360av_jax.train.state import TrainState

SAMPLES = "samples"


class SampleClips:
    """Writer of the clips; the guided sampler compiles once, at the first set."""

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        pretrained: Pretrained,
        records: Sequence[Sample],
        dataset: Path,
        frozen: Params,
        run: Path,
    ):
        self._config, self._pretrained, self._records, self._frozen = config, pretrained, records, frozen
        self._dataset, self._run = dataset, run
        self._sampler = BatchSampler(config, mesh, config.train.compute_dtype)
        codecs = Codecs(pretrained)
        self._seeds = range(len(records))
        captions = [record.caption for record in records]
        self._text: Text = jax.tree.map(jnp.asarray, codecs.encode_text(captions))
        self._negative_text: Text = jax.tree.map(jnp.asarray, codecs.encode_text([""] * len(records)))
        tracks = [(record.arrays["saliency"], record.arrays["viewpoint"]) for record in records]
        maps = np.stack([stack_maps(saliency, viewpoint) for saliency, viewpoint in tracks])
        # A map that training drops always, as the baseline's does, means nothing to the model.
        settings = config.train
        kept = np.array([settings.saliency_dropout < 1, settings.basd_dropout < 1], np.float32)
        self._maps = None if settings.map_dropout == 1 else maps * kept

    def __call__(self, step: int, state: TrainState) -> None:
        """Writes RUN/samples/STEP; clips that are there already are replaced."""
        params: Params = merge(state.ema, self._frozen)
        noise = noise_from_seeds(self._config, self._seeds)
        latents = self._sampler(params, noise, self._text, self._negative_text, self._maps, self._config.sampler)
        # Opened anew for every set: between two of them the decoders hold no device memory.
        codecs = Codecs(self._pretrained, vae_dtype=self._config.train.compute_dtype)
        codecs.read_decoders()
        if jax.process_index() != 0:
            return
        for row, (record, seed) in enumerate(zip(self._records, self._seeds, strict=True)):
            one = {name: latent[row] for name, latent in latents.items()}
            control = {} if self._maps is None else {"viewpoint": record.arrays["viewpoint"], "maps": self._maps[row]}
            clip = decode(codecs, one, record.caption, seed, **control)
            path = self._run / SAMPLES / str(step) / f"{record.key.replace('/', '_')}.mp4"
            clip.save(path)
            if control:
                clip.save_control(path.with_suffix(".npz"))
            write_card(
                path.with_suffix(".json"),
                self._config,
                self._config.sampler,
                caption=record.caption,
                negative_caption="",
                viewpoint="of the maps" if control else "none",
                seed=seed,
                maps=f"{self._dataset}#{record.key}",
                maps_key=record.key,
                checkpoint=str(self._run),
                trained_steps=step,
                weights="moving average",
                dtype=self._config.train.compute_dtype,
            )
