"""Shares of a piece of work: which parts exist, where their files are, and whether they are complete."""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from ..arguments import finite
from ..exceptions import DatasetError, ParameterError, check_count


@dataclass(frozen=True)
class Share:
    """One of several equal parts of a piece of work, for job arrays: part ``index`` of ``count``, counted from 0.

    Examples
    --------
    >>> Share.parse("3/40")
    Share(index=2, count=40)
    >>> Share(0, 2).of(["a", "b", "c"])
    ['a', 'c']
    """

    index: int
    count: int

    def __post_init__(self):
        check_count("count", self.count)
        check_count("index", self.index, 0)
        if self.index >= self.count:
            raise ParameterError(f"index={self.index}: {self.count} shares are numbered from 0 to {self.count - 1}.")

    @classmethod
    def parse(cls, text):
        """Read ``"3/40"``, the third of forty shares; None and a Share pass through."""
        if text is None or isinstance(text, cls):
            return text
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", str(text))
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ParameterError(
                f"share {text!r} must be NUMBER/COUNT, counted from 1, for example 3/40 for the third of forty."
            )
        return cls(int(found[1]) - 1, int(found[2]))

    def of(self, items, costs=None):
        """Return the items of this share, see :func:`split`."""
        items = list(items)
        return [items[i] for i in split(len(items), self.count, costs)[self.index]]

    def __str__(self):
        return f"{self.index + 1}/{self.count}"

    def path(self, path):
        """Return the file of this share beside a file: ``grid.share-3-of-40.tsv`` for ``grid.tsv``."""
        path = Path(path)
        return path.with_name(f"{path.stem}.share-{self.index + 1}-of-{self.count}{path.suffix}")

    @staticmethod
    def find(path):
        """Return the files of shares beside a file, a dict by :class:`Share`, in order."""
        path = Path(path)
        name = re.compile(rf"{re.escape(path.stem)}\.share-(\d+)-of-(\d+){re.escape(path.suffix)}")
        files = path.parent.iterdir() if path.parent.is_dir() else ()
        found = {Share(int(m[1]) - 1, int(m[2])): file for file in files if (m := name.fullmatch(file.name))}
        return dict(sorted(found.items(), key=lambda item: (item[0].count, item[0].index)))


def split(n_items, count, costs=None):
    """Split items into shares of about equal cost; the result depends on the arguments alone.

    Parameters
    ----------
    n_items, count : int
    costs : sequence of float, optional
        Of each item. By default all items cost the same, and shares differ by at most one item.

    Returns
    -------
    list of list of int
        Positions of the items of each share, ascending. With more shares than items, some are empty.

    Examples
    --------
    >>> split(5, 2)
    [[0, 2, 4], [1, 3]]
    >>> split(4, 2, costs=[1, 9, 2, 3])
    [[1], [0, 2, 3]]
    """
    check_count("n_items", n_items, 0)
    check_count("count", count)
    if costs is None:
        return [list(range(k, n_items, count)) for k in range(count)]
    if len(finite("costs", costs)) != n_items:
        raise ParameterError(f"{len(costs)} costs for {n_items} items; pass one cost for each item.")
    shares, loads = [[] for _ in range(count)], [0.0] * count
    for i in sorted(range(n_items), key=lambda i: (-float(costs[i]), i)):  # the largest first, to the least loaded
        least = min(range(count), key=loads.__getitem__)
        shares[least].append(i)
        loads[least] += float(costs[i])
    return [sorted(part) for part in shares]


def check_complete(shares, where):
    """Raise an error that names what is missing in ``where``, unless they are all shares of one split."""
    counts = sorted({share.count for share in shares})
    if not counts:
        raise DatasetError(f"{where} holds no shares to merge. Run the command with --share 1/N to N/N first.")
    if len(counts) > 1:
        raise DatasetError(
            f"{where} holds shares of different splits: of {' and of '.join(map(str, counts))}. Remove the files of "
            "all but one."
        )
    missing = [str(share) for k in range(counts[0]) if (share := Share(k, counts[0])) not in set(shares)]
    if missing:
        raise DatasetError(
            f"{where} lacks the shares {', '.join(missing)}. Run these with --share, and then merge again."
        )


@contextlib.contextmanager
def only_launch(path):
    """Refuse a second launch that writes the same file, as long as the block runs.

    Raises
    ------
    DatasetError
        If another process holds the file.
    """
    from filelock import FileLock, Timeout

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name.lstrip('.')}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DatasetError(
            f"Another launch is writing {path} now. Wait for it, or stop it, and then repeat this one."
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()
