"""Batches across requests: what waits when the model is free, inside a budget of characters, on one thread.

Notable: there is no waiting time. While a batch runs, the sentences of other requests gather, so batches grow with the
load and a single client waits for nobody. A batch holds sentences of one model: a request that was accepted for a model
is answered by it, also if another one is served meanwhile. When a batch fails, its sentences run again one by one, so
only the request of the one that fails gets an error.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from .counters import Counters
from .limits import Limits
from .problems import ProblemError, place_of
from .served_model import Answer, ServedModel

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """The sentences of one request.

    Attributes:
        model: The model that answers them.
        texts: The texts.
        sizes: Number of characters of each.
        tasks: The tasks that the request is for.
        top_k: Number of labels, None for all.
        embeddings: Whether the request is for embeddings.
        future: Gets the answers.
        answers: The answers so far.
        taken: How many of the texts are no longer waiting.
    """

    model: ServedModel
    texts: Sequence[Any]
    sizes: Sequence[int]
    tasks: Sequence[str]
    top_k: int | None
    embeddings: bool
    future: asyncio.Future[list[Answer]]
    answers: dict[int, Answer] = field(default_factory=dict)
    taken: int = 0


_Batch = list[tuple[Job, int]]  # (job, number of its text)


class Batcher:
    """The queue in front of the model.

    Args:
        limits: Limits of a batch and of the queue.
        counters: Counts batches.

    Attributes:
        waiting: Number of sentences in the queue.
    """

    def __init__(self, limits: Limits, counters: Counters) -> None:
        self.limits = limits
        self.counters = counters
        self.waiting = 0
        self._jobs: deque[Job] = deque()
        self._began: float | None = None  # when the running batch began
        self._seconds = 0.01  # of a sentence, a running mean
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to answer; called in the event loop, and again after `close`."""
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End after the running batch. Sentences that still wait are not answered."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await asyncio.to_thread(self._thread.shutdown)

    @property
    def is_well(self) -> bool:
        """Whether sentences are being answered: the loop runs, and no batch is older than a request may be."""
        if self._task is None or self._task.done():
            return False
        return self._began is None or time.monotonic() - self._began < self.limits.seconds

    def submit(
        self,
        model: ServedModel,
        texts: Sequence[Any],
        sizes: Sequence[int],
        *,
        tasks: Sequence[str] = (),
        top_k: int | None = 1,
        embeddings: bool = False,
    ) -> Job:
        """Put the sentences of a request into the queue.

        Raises:
            ProblemError: The queue is full (503, with `Retry-After`).
        """
        if self.waiting + len(texts) > self.limits.queue:
            seconds = max(1, math.ceil(self.waiting * self._seconds))
            raise ProblemError(
                503, f"{self.waiting} sentences are waiting: try again later.", headers={"Retry-After": str(seconds)}
            )
        future: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        job = Job(model, texts, sizes, tasks, top_k, embeddings, future)
        self._jobs.append(job)
        self.waiting += len(texts)
        self._arrived.set()
        return job

    def drop(self, job: Job) -> None:
        """Forget a request that nobody waits for any more."""
        job.future.cancel()
        if job.taken < len(job.texts):
            self._jobs.remove(job)
            self.waiting -= len(job.texts) - job.taken
            job.taken = len(job.texts)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._take()
            if not self._jobs:
                self._arrived.clear()
            if batch:
                await self._answer(batch)

    def _take(self) -> _Batch:
        """The next sentences in the queue that fit into one batch."""
        batch: _Batch = []
        longest = 0
        while self._jobs and len(batch) < self.limits.batch:
            job = self._jobs[0]
            longest = max(longest, job.sizes[job.taken])
            if batch and (job.model is not batch[0][0].model or (len(batch) + 1) * longest > self.limits.budget):
                break
            batch.append((job, job.taken))
            job.taken += 1
            self.waiting -= 1
            if job.taken == len(job.texts):
                self._jobs.popleft()
        return batch

    async def _answer(self, batch: _Batch) -> None:
        loop = asyncio.get_running_loop()
        self._began = time.monotonic()
        running = loop.run_in_executor(self._thread, _predict, batch)
        await asyncio.wait([running])  # which raises nothing
        seconds, self._began = time.monotonic() - self._began, None
        self._seconds += 0.1 * (seconds / len(batch) - self._seconds)
        error = running.exception()
        if error is None:
            answers, cpu_seconds = running.result()
            self.counters.count_batch(len(batch), seconds, cpu_seconds, sum(answer.cut for answer in answers))
            for (job, number), answer in zip(batch, answers, strict=True):
                job.answers[number] = answer
                if len(job.answers) == len(job.texts) and not job.future.done():
                    job.future.set_result([job.answers[number] for number in range(len(job.texts))])
            return
        if len(batch) > 1:
            for job, number in batch:
                if not job.future.done():
                    await self._answer([(job, number)])
            return
        ((job, number),) = batch
        self.counters.failed.inc()
        logger.error("The model failed for a sentence: %s.", place_of(error))
        if not job.future.done():
            job.future.set_exception(
                ProblemError(500, "the model failed for this sentence.", field=f"sentences.{number}")
            )
            job.future.exception()  # retrieved, also if the client has left
            self.drop(job)


def _predict(batch: _Batch) -> tuple[list[Answer], float]:
    """The answers of a batch, each with what its request is for, and the CPU seconds of this thread."""
    began = time.thread_time()
    model = batch[0][0].model
    needed = {name for job, _ in batch for name in job.tasks}
    found = model.predict(
        [job.texts[number] for job, number in batch],
        tasks=[name for name in model.tasks if name in needed],
        top_k=[job.top_k for job, _ in batch],
        embeddings=any(job.embeddings for job, _ in batch),
    )
    answers = [
        Answer(
            {name: answer.tasks[name] for name in job.tasks if name in answer.tasks},
            answer.embedding if job.embeddings else None,
            answer.cut,
        )
        for (job, _), answer in zip(batch, found, strict=True)
    ]
    return answers, time.thread_time() - began
