"""Joining several processes, one or more per machine, to one run."""

from dataclasses import dataclass

from con360av_jax.errors import ShardingError, first_line

# Longest wait of a process for the others, s.
TIMEOUT = 300


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Options of a run of several processes: each is started with the same command, one per machine or GPU."""

    distributed: bool = False
    """Find the other processes through SLURM, Open MPI, Kubernetes or a cloud TPU's environment."""
    coordinator: str = ""
    """HOST:PORT on which process 0 listens, where no such scheduler runs; requires --processes and --process-id."""
    processes: int = 0
    """Number of processes of the run; requires --coordinator."""
    process_id: int = -1
    """Rank of this process (0-based); requires --coordinator."""


def join(cluster: Cluster) -> None:
    """Joins the run's other processes, if there are any; comes before JAX is asked for its devices.

    Raises:
        ShardingError: the options are incomplete, no cluster is found, or the others do not come in time.
    """
    given = [cluster.coordinator != "", cluster.processes != 0, cluster.process_id != -1]
    if not cluster.distributed and not any(given):
        return
    if cluster.distributed and any(given):
        raise ShardingError("give either --distributed or --coordinator with --processes and --process-id, not both")
    if any(given) and not all(given):
        raise ShardingError("--coordinator, --processes and --process-id belong together: give all three")
    if not cluster.distributed and not 0 <= cluster.process_id < cluster.processes:
        raise ShardingError(f"--process-id {cluster.process_id} is not one of --processes {cluster.processes}")
    import jax

    # CPU devices of several processes talk through Gloo; GPUs through NCCL, whatever stands here.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    explicit = {} if cluster.distributed else {
        "coordinator_address": cluster.coordinator,
        "num_processes": cluster.processes,
        "process_id": cluster.process_id,
    }  # fmt: skip
    try:
        jax.distributed.initialize(**explicit, initialization_timeout=TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise ShardingError(
            f"the processes of this run did not come together ({first_line(error)}): start one per machine or GPU "
            f"within {TIMEOUT} s of each other, with one --coordinator HOST:PORT that all can reach"
        ) from error
