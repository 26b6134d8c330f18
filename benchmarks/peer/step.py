"""The training step in PyTorch: draws, loss, gradients, clipping, AdamW and moving average.

Equations (1) to (4) of con360av_jax/diffusion/loss.py, over joint.JointPeer.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from benchmarks.peer.joint import JointPeer, Tensors
from con360av_jax.config.settings import Config
from con360av_jax.config.shapes import MODALITIES
from con360av_jax.diffusion.schedule import alphas_cumprod, by_modality

LAYOUTS = {"audio": "b t m c -> b c t m", "video": "b f h w c -> b c f h w", "maps": "b f h w c -> b c f h w"}


class Draws(NamedTuple):
    """All random draws of one batch, as in con360av_jax.diffusion.loss.Draws."""

    clean: Tensors
    noise: Tensors
    timestep: Tensor
    connector_timesteps: Tensors
    uses_estimate: Tensors
    text: Tensors
    maps: Tensor
    map_mask: Tensor


def to_torch_layout(name: str, array: np.ndarray, device: str = "cpu") -> Tensor:
    """Converts our latent of modality `name`, or "maps", to the PyTorch layout."""
    return torch.tensor(rearrange(np.asarray(array), LAYOUTS[name]), device=device)


def same_draws(drawn: Any, device: str = "cpu") -> Draws:
    """Converts our draws to the PyTorch layout."""

    def plain(array: Any) -> Tensor:
        return torch.tensor(np.asarray(array), device=device)

    def latents(arrays: Mapping[str, Any]) -> Tensors:
        return {name: to_torch_layout(name, array, device) for name, array in arrays.items()}

    return Draws(
        clean=latents(drawn.clean),
        noise=latents(drawn.noise),
        timestep=plain(drawn.timestep).long(),
        connector_timesteps={name: plain(steps).long() for name, steps in drawn.connector_timesteps.items()},
        uses_estimate={name: plain(mask) for name, mask in drawn.uses_estimate.items()},
        text={name: plain(text) for name, text in drawn.text.items()},
        maps=to_torch_layout("maps", drawn.maps, device),
        map_mask=plain(drawn.map_mask),
    )


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


class Objective:
    """Loss by equations (1) to (4) for one model and config."""

    def __init__(self, config: Config, forward: Callable[..., Tensors], device: str):
        """Takes a JointPeer, or its compiled form, as `forward`."""
        self.train, self.forward, self.device = config.train, forward, device
        schedules = by_modality(config.schedule)
        self.alpha_bar = {
            name: torch.tensor(alphas_cumprod(schedule), device=device) for name, schedule in schedules.items()
        }

    def draw(self, batch: Mapping[str, Any], null_text: Tensors) -> Draws:
        """Latents from moments, noise, timesteps and dropped conditions, from torch's own generator."""
        moments, size = batch["moments"], batch["maps"].shape[0]

        def steps() -> Tensor:
            return torch.randint(len(self.alpha_bar["video"]), (size,), device=self.device)

        def chance(share: float) -> Tensor:
            return torch.rand(size, device=self.device) < share

        drop_text, drop_both = chance(self.train.text_dropout), chance(self.train.map_dropout)
        drop_one = torch.stack([chance(self.train.saliency_dropout), chance(self.train.basd_dropout)], dim=1)
        return Draws(
            clean={
                name: moment["mean"] + moment["std"] * torch.randn_like(moment["mean"])
                for name, moment in moments.items()
            },
            noise={name: torch.randn_like(moment["mean"]) for name, moment in moments.items()},
            timestep=steps(),
            connector_timesteps={name: steps() for name in moments},
            uses_estimate={name: chance(self.train.clean_estimate_share) for name in moments},
            text={
                name: torch.where(_per_sample(drop_text, given), null_text[name], given)
                for name, given in batch["text"].items()
            },
            maps=batch["maps"].masked_fill(rearrange(drop_one, "b map -> b map 1 1 1"), 0.0),
            map_mask=~(drop_both | drop_one.all(dim=1)),
        )

    def loss(self, drawn: Draws) -> Tensor:
        """Loss by equation (4)."""
        t, s = dict.fromkeys(MODALITIES, drawn.timestep), drawn.connector_timesteps
        a_t = {name: _per_sample(self.alpha_bar[name][t[name]], drawn.clean[name]) for name in MODALITIES}
        a_s = {name: _per_sample(self.alpha_bar[name][s[name]], drawn.clean[name]) for name in MODALITIES}
        x_t, x_s = (
            {name: a[name].sqrt() * drawn.clean[name] + (1 - a[name]).sqrt() * drawn.noise[name] for name in a}
            for a in (a_t, a_s)
        )
        c = {name: torch.zeros_like(x) for name, x in x_t.items()}
        if self.train.clean_estimate_share > 0:
            with torch.no_grad():
                eps = self.forward(x_t, t, drawn.text, c, s, x_s, drawn.maps, drawn.map_mask)
            for name, a in a_t.items():
                found = (x_t[name] - (1 - a).sqrt() * eps[name]) / a.sqrt()
                c[name] = torch.where(_per_sample(drawn.uses_estimate[name], found), found, c[name])
        eps = self.forward(x_t, t, drawn.text, c, s, x_s, drawn.maps, drawn.map_mask)
        errors = [(eps[name] - drawn.noise[name]).square().mean() for name in MODALITIES]
        return torch.stack(errors).sum()


class TrainStep:
    """One update of all trained parameters."""

    def __init__(self, config: Config, model: JointPeer, objective: Objective):
        self.objective, self.train = objective, config.train
        self.parameters = [parameter for _, parameter in model.trained()]
        self.average = [parameter.detach().clone() for parameter in self.parameters] if self.train.ema_decay else []
        self.updates = 0
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.train.learning_rate,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=self.train.weight_decay,
            fused=True,
        )

    def __call__(self, batch: Mapping[str, Any], null_text: Tensors) -> Tensor:
        """Runs one step; returns its loss on the device."""
        return self.update(self.objective.draw(batch, null_text))

    def update(self, drawn: Draws) -> Tensor:
        """Updates the parameters for given draws; returns the loss before the update."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective.loss(drawn)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.train.clip_norm)
        self.optimizer.step()
        if self.average:
            now: list[Tensor] = [parameter.detach() for parameter in self.parameters]
            # Decay of a young average as in con360av_jax/train/step.py.
            s = self.updates
            decay = min((1 + s) / (10 + s), self.train.ema_decay) if s else 0.0
            get_ema_multi_avg_fn(decay)(self.average, now, None)
        self.updates += 1
        return loss.detach()
