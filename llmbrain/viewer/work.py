"""The one thread that runs the model: requests queue, and a newer request of a kind cancels the older ones."""

import threading
from concurrent.futures import ThreadPoolExecutor

from ..exceptions import LLMBrainError
from ..models.hooks import attached


class Replaced(LLMBrainError, RuntimeError):
    """A newer request of the same kind has arrived, so this one was cancelled."""


class Job:
    """One request to the model; ``check()`` raises :class:`Replaced` once a newer request of its kind has arrived."""

    def __init__(self):
        self._cancelled = threading.Event()

    def cancel(self):
        """Ask the work to stop at its next check."""
        self._cancelled.set()

    def check(self):
        """Raise :class:`Replaced` if the job was cancelled."""
        if self._cancelled.is_set():
            raise Replaced("A newer request replaced this one.")


class ModelThread:
    """Runs functions one after the other in a single thread.

    Examples
    --------
    >>> thread = ModelThread()
    >>> thread.submit("add", lambda job: 1 + 1).result()
    2
    >>> thread.close()
    """

    def __init__(self):
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="llmbrain-model")
        self._latest, self._lock = {}, threading.Lock()

    def submit(self, kind, work):
        """Run ``work(job)`` after the work before it; unfinished earlier jobs of the same kind are cancelled.

        Returns a concurrent.futures.Future.
        """
        job = Job()
        with self._lock:
            older = self._latest.get(kind)
            if older is not None:
                older.cancel()
            self._latest[kind] = job

        def run():
            job.check()
            return work(job)

        return self._pool.submit(run)

    def close(self):
        """Cancel everything and end the thread."""
        with self._lock:
            for job in self._latest.values():
                job.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)


def stops(model, job):
    """Make every forward pass of a model stop inside a ``with`` block once a job is cancelled.

    Generation is a long series of passes, so it ends after the current token.
    """
    return attached([(model.register_forward_pre_hook, lambda *_: job.check())])
