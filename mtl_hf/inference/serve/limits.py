"""Limits of requests. Without heavy imports, because the command line shows them."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of requests.

    Attributes:
        body: Bytes of a body.
        sentences: Sentences of a request.
        characters: Characters of a sentence that the encoder reads.
        batch: Sentences in an encoder pass.
        budget: Characters in an encoder pass, padding included.
        queue: Sentences that wait for the model.
        seconds: Seconds to read a body, and to answer a request.
    """

    body: int = 2**20
    sentences: int = 256
    characters: int = 10_000
    batch: int = 32
    budget: int = 16_384
    queue: int = 1024
    seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not value > 0:
                raise ValueError(f"the limit of `{name}` is {value}; it should be above 0.")
        if self.queue < self.sentences:
            raise ValueError(
                f"`--max-queue` is {self.queue}; it should be at least `--max-sentences` ({self.sentences}), or such a"
                " request could never be answered."
            )
