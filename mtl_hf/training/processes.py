"""Several processes: means over processes, and a clear exception if another process dies.

Notable: there is no handler for SIGTERM, which a launcher sends to the remaining processes: Python would not run it
while a collective operation waits for the dead process, so the process would hang instead of stopping.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, distributed


def mean_over_processes(tensor: Tensor) -> Tensor:
    """Average a tensor over all processes of the run, in place."""
    if in_several_processes():
        distributed.all_reduce(tensor)
        tensor /= distributed.get_world_size()
    return tensor


def is_first_process() -> bool:
    """Whether this is the only process of a run or rank 0; works before the process group is initialized."""
    ranks = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")  # the variables that accelerate reads
    return next((int(os.environ[name]) for name in ranks if name in os.environ), 0) == 0


def in_several_processes() -> bool:
    """Whether a launcher started this process as one of several."""
    return distributed.is_available() and distributed.is_initialized()


@contextmanager
def report_lost_process() -> Iterator[None]:
    """Convert a backend's error about a lost connection into a `ConnectionError`; other errors pass unchanged.

    Raises:
        ConnectionError: Another process of the run has died or can no longer be reached.
    """
    try:
        yield
    except RuntimeError as error:
        if not (in_several_processes() and _is_connection(error)):
            raise
        # gloo: "[/.../pair.cc:553] Connection closed by peer [127.0.0.1]:27310. This is typically caused by ..."
        reason = re.sub(r"^\[\S+\] ", "", str(error)).splitlines()[0].split(". ")[0]
        raise ConnectionError(
            f"rank {distributed.get_rank()} lost the connection to another of the {distributed.get_world_size()}"
            f" processes ({reason}): the run stops. That process died or was killed, for example because memory ran"
            " out; see its messages above."
        ) from error


def _is_connection(error: RuntimeError) -> bool:
    # gloo raises a plain RuntimeError whose message starts with a file name.
    return isinstance(error, distributed.DistError) or bool(re.search(r"gloo[\\/]transport[\\/]", str(error)))
