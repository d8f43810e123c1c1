"""`mtl-hf serve`: load a model, listen, answer until a signal, finish what is in flight.

Notable: uvicorn raises the signal again after an orderly end; here that is a normal end, with exit code 0.
"""

import logging
import sys
from functools import partial
from typing import Any

import uvicorn

from .access import Access, is_loopback, listen
from .app import create_app
from .limits import Limits
from .models import Models, id_of, load
from .problems import NoMessages
from .training_routes import Runs

logger = logging.getLogger(__name__)


def serve(
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str | None = None,
    backend: str | None = None,
    limits: Limits | None = None,
    access: Access | None = None,
    runs: Runs | None = None,
) -> None:
    """Serve a model over HTTP until SIGTERM or a keyboard interrupt.

    Args:
        name: A run folder, one of its `checkpoint-N`, or a Hub id.
        host: The address to listen on.
        port: The port; 0 for any that is free.
        device: A device of torch. Default: an accelerator if there is one, else the CPU.
        backend: `onnx` or `torch`. Default: as of `models.load`.
        limits: Limits of requests.
        access: Who may use the server.
        runs: What trains models on demand.

    Raises:
        ValueError: There is no such model, or the address cannot be used.
    """
    limits, access = limits or Limits(), access or Access()
    with listen(host, port) as listening:
        loaded = load(name, id_of(name), device, backend)
        models = Models(loaded, name, partial(load, device=device, backend=backend), runs.models if runs else dict)
        app = create_app(models, limits=limits, access=access, runs=runs)
        _log_no_texts()
        config = uvicorn.Config(
            app, log_config=None, access_log=False, ws="none", server_header=False, lifespan="on",
            timeout_graceful_shutdown=int(limits.seconds) + 5, backlog=1024,
        )  # fmt: skip
        server = uvicorn.Server(config)
        address, used = listening.getsockname()[:2]
        shown = f"http://{f'[{address}]' if ':' in address else address}:{used}"
        logger.info("Serving %s at %s (%s).", name, shown, ", ".join(loaded.model.tasks) or "embeddings only")
        if not is_loopback(host) and access.token is None:
            logger.warning("Everybody who reaches %s can use this server: set a token (MTL_HF_TOKEN).", shown)
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:  # uvicorn raises the signals that it got again, after an orderly end
            if not server.should_exit:
                raise
    if not server.started:
        sys.exit("mtl-hf: the server could not be started.")
    logger.info("Stopped.")


def _log_no_texts() -> None:
    """Keep texts out of the log of this process, and lines that would be written for each request."""
    for name in ("uvicorn.error", "asyncio"):
        found: Any = logging.getLogger(name)
        found.addFilter(NoMessages())
    logging.getLogger("mtl_hf.modeling.texts").setLevel(logging.ERROR)  # truncated texts: in answers and `/metrics`
