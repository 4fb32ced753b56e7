"""Progress bars of long computations: on stderr, on a terminal only, and only where a caller turns them on."""

from contextlib import contextmanager
from contextvars import ContextVar

from tqdm import tqdm

DELAY = 1.0  # seconds before a bar appears, so that quick steps show none

_SHOWN = ContextVar("shown", default=False)


@contextmanager
def show_progress(shown=True):
    """Show the bars of everything that runs inside the ``with`` block; False leaves them as they are."""
    token = _SHOWN.set(shown or _SHOWN.get())
    try:
        yield
    finally:
        _SHOWN.reset(token)


def progress_bar(what, total=None):
    """Bar to update by hand, which disappears at the end."""
    return tqdm(desc=what, total=total, leave=False, delay=DELAY, disable=None if _SHOWN.get() else True)


def track(items, what, total=None):
    """Iterate over items and show how many are done."""
    total = len(items) if total is None and hasattr(items, "__len__") else total
    with progress_bar(what, total) as bar:
        for item in items:
            yield item
            bar.update()
