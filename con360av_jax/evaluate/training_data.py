"""Whether a run was trained on the recordings that it is evaluated on: numbers of such an evaluation flatter."""

import hashlib
from collections.abc import Sequence

from con360av_jax.base.pretrained import read_report
from con360av_jax.data.schema import SampleEntry
from con360av_jax.data.source import MANIFEST, Dataset, open_dataset
from con360av_jax.errors import DatasetError
from con360av_jax.evaluate.settings import Weights
from con360av_jax.train.run_datasets import EARLIER
from con360av_jax.train.run_folder import open_run


def trained_on(weights: Weights, dataset: Dataset, entries: Sequence[SampleEntry]) -> str:
    """A sentence if the run was trained on recordings of these records, or if that is not known; else "".

    The hash of the run's dataset is compared with that of `dataset`, then the names of recordings, if the run's
    dataset is still where it was. For a base or an exported model, the hashes in its report are compared.
    """
    digest = hashlib.sha256((dataset.folder / MANIFEST).read_bytes()).hexdigest()
    if weights.kind == "pretrained":
        stages = read_report(weights.folder).get("trained", [])
        data = [one for stage in stages for one in (stage["data"], *stage["data"].get(EARLIER, []))]
        known = digest in {one.get("sha256") for one in data}
        return "this is a dataset that these weights were trained on" if known else ""
    run = open_run(weights.folder)
    if digest in {one.sha256 for one in (run.dataset, *run.earlier)}:
        return "this is the dataset that the run was trained on"
    try:
        folders = {one.path for one in (run.dataset, *run.earlier)}
        known = {entry.clip for folder in folders for entry in open_dataset(folder, verify="sizes").samples}
    except DatasetError as error:
        return f"it is not known whether the run was trained on these recordings: {error}"
    here = {entry.clip for entry in entries}
    count = "1 recording" if len(here) == 1 else f"{len(here)} recordings"
    return f"the run was trained on {len(here & known)} of these {count}, by their names" if here & known else ""
