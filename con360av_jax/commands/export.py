"""con360av export: a run or a base as one small folder of float16 weights, or a judge as one file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from con360av_jax.base.pretrained import Pretrained
    from con360av_jax.evaluate.settings import Weights


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run or a base as one small folder to share: float16 weights in two safetensors files.

    The folder is a checkpoint and a base for every command. It holds the moving average of a run's weights, its frozen
    base, both tokenizers, the config, and a report on every training that the weights come from. The same weights give
    the same bytes. `python -m convert export` writes folders for PyTorch instead. Of a run that trained a judge, it
    writes one file for `con360av evaluate --weights`.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Training run (its newest checkpoint), RUN/checkpoints/STEP or RUN/checkpoints/best, or a base."""
    out: Path
    """Folder to write; for a judge, a file such as judge_video.safetensors."""

    def execute(self) -> None:
        """Exports the weights and shows the sizes of the files; raises CheckpointError if `out` exists."""
        import numpy as np
        from rich.filesize import decimal

        from con360av_jax.base.exported import FILES, write_exported
        from con360av_jax.base.parts import PARTS
        from con360av_jax.base.pretrained import refuse_existing
        from con360av_jax.evaluate.judges import trained_judge, write_judge
        from con360av_jax.evaluate.settings import find_weights
        from con360av_jax.model import load
        from con360av_jax.models.functional import flatten
        from con360av_jax.runtime.terminal import plain_console

        refuse_existing(self.out)
        if (judge := trained_judge(self.source)) is not None:
            write_judge(judge, self.out)
            size = decimal(self.out.stat().st_size)
            plain_console().print(f"{self.out}: {judge.card.name}, {size}", highlight=False, soft_wrap=True)
            return
        weights = find_weights(self.source, ema=True)
        model = load(weights.path)
        pretrained = model.codecs.pretrained
        trees = ((part, model.params if part == "joint" else pretrained.params(part)) for part in PARTS)
        parts = ((part, {path: np.asarray(leaf) for path, leaf in flatten(tree).items()}) for part, tree in trees)
        write_exported(self.out, model.config, parts, pretrained.folder, provenance(weights, pretrained))
        sizes = {name: (self.out / name).stat().st_size for name in FILES}
        total = sum(path.stat().st_size for path in self.out.rglob("*") if path.is_file())
        shown = ", ".join(f"{name} {decimal(size)}" for name, size in sizes.items())
        plain_console().print(f"{self.out}: {shown}, {decimal(total)} in all", highlight=False, soft_wrap=True)


def provenance(weights: "Weights", pretrained: "Pretrained") -> dict[str, object]:
    """The first fields of an exported model's report.json: origin, step, and trainings in their order, without places.

    Args:
        weights: weights of the run, or of the folder `pretrained` itself.
        pretrained: frozen base of the run.
    """
    from con360av_jax.train.run_datasets import EARLIER
    from con360av_jax.train.run_folder import open_run

    report = pretrained.report
    stages, step = report.get("trained", []), pretrained.step
    trained = [*stages] if isinstance(stages, list) else []
    if weights.kind != "pretrained":
        run, step = open_run(weights.folder), weights.step
        earlier = {EARLIER: [dataset.entry() for dataset in run.earlier]} if run.earlier else {}
        trained.append({
            "part": "joint",
            "trainable": run.config.train.trainable,
            "run": str(weights.folder.resolve()),
            "step": step,
            "batch_size": run.config.train.batch_size,
            "seed": run.config.train.seed,
            "data": {"dataset": str(run.dataset.path), "sha256": run.dataset.sha256, **earlier},
            "base_sha256": run.base_sha256,
            "commit": run.commit,
        })  # fmt: skip
    return {"origin": report["origin"], "step": step, "trained": [without_places(stage) for stage in trained]}


def without_places(value: object) -> object:
    """Returns a JSON value with only the last name of every absolute path, which means nothing on other machines."""
    if isinstance(value, Mapping):
        return {name: without_places(inside) for name, inside in value.items()}
    if isinstance(value, list):
        return [without_places(inside) for inside in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value
