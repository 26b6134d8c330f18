"""Joining several processes, one or more per machine, to one training run."""

from dataclasses import dataclass

import jax

from con360av_jax.errors import ShardingError


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """How the processes of a run find each other."""

    detect: bool = False
    """Take everything from the environment: SLURM, Open MPI, Kubernetes jobs and cloud TPUs are known to JAX."""
    coordinator: str = ""
    """HOST:PORT on which process 0 listens."""
    processes: int = 0
    """How many processes take part."""
    process_id: int = -1
    """Which of them this is, from 0."""
    timeout: int = 300
    """Longest wait for the others, s."""


def join(cluster: Cluster) -> None:
    """Joins the run's other processes, if there are any; comes before JAX is asked for its devices.

    Raises:
        ShardingError: the options are incomplete, no cluster is found, or the others do not come in time.
    """
    given = [cluster.coordinator != "", cluster.processes != 0, cluster.process_id != -1]
    if not cluster.detect and not any(given):
        return
    if cluster.detect and any(given):
        raise ShardingError("give either --distributed or --coordinator with --processes and --process-id, not both")
    if any(given) and not all(given):
        raise ShardingError("--coordinator, --processes and --process-id belong together: give all three")
    if not cluster.detect and not 0 <= cluster.process_id < cluster.processes:
        raise ShardingError(f"--process-id {cluster.process_id} is not one of --processes {cluster.processes}")
    # CPU devices of several processes talk through Gloo; GPUs through NCCL, whatever stands here.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    explicit = {} if cluster.detect else {
        "coordinator_address": cluster.coordinator,
        "num_processes": cluster.processes,
        "process_id": cluster.process_id,
    }  # fmt: skip
    try:
        jax.distributed.initialize(**explicit, initialization_timeout=cluster.timeout)
    except (ValueError, RuntimeError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0][:160]
        raise ShardingError(
            f"the processes of this run did not come together ({reason}): start one per machine or GPU within "
            f"{cluster.timeout} s of each other, with one --coordinator HOST:PORT that all can reach"
        ) from error
