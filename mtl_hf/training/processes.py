"""Several processes: means over them, and one clear exception instead of a backend's own when another one dies.

Notable: no handler of SIGTERM, which a launcher sends to the processes that are left: Python would not get to it while
a collective operation waits for the dead one, and the process would hang where it now stops.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, distributed


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of a tensor over all processes of the run, the same on each; the tensor itself becomes it."""
    if in_several_processes():
        distributed.all_reduce(tensor)
        tensor /= distributed.get_world_size()
    return tensor


def is_first_process() -> bool:
    """Whether this is the only process of a run, or rank 0 of a launcher's; known before they have met."""
    ranks = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")  # as accelerate reads them
    return next((int(os.environ[name]) for name in ranks if name in os.environ), 0) == 0


def in_several_processes() -> bool:
    """Whether this process is one of those of a launcher."""
    return distributed.is_available() and distributed.is_initialized()


@contextmanager
def report_lost_process() -> Iterator[None]:
    """Turn a backend's error about a lost connection into a `ConnectionError`; leave every other error alone.

    Raises:
        ConnectionError: Another process of the run has died, or cannot be reached any more.
    """
    try:
        yield
    except RuntimeError as error:
        if not (in_several_processes() and _is_connection(error)):
            raise
        # gloo: "[/.../pair.cc:553] Connection closed by peer [127.0.0.1]:27310. This is typically caused by ..."
        said = re.sub(r"^\[\S+\] ", "", str(error)).splitlines()[0].split(". ")[0]
        raise ConnectionError(
            f"rank {distributed.get_rank()} has lost another of the {distributed.get_world_size()} processes ({said}):"
            " the run stops. That process has died or was killed, as the system does when memory runs out; what it had"
            " to say is above."
        ) from error


def _is_connection(error: RuntimeError) -> bool:
    # gloo raises a bare RuntimeError that begins with the file in which it happened.
    return isinstance(error, distributed.DistError) or bool(re.search(r"gloo[\\/]transport[\\/]", str(error)))
