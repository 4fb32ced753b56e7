"""What processes send each other. Alone, nothing is sent, and torch is not imported."""

import contextlib
import hashlib
import json
import platform
import re
import time
import uuid
from pathlib import Path

from ..exceptions import DatasetError, ParallelError, ParameterError
from .world import main_process, process_group, rank, world_size

_LOST = re.compile("gloo|nccl|closed by peer|reset by peer|broken pipe", re.IGNORECASE)
_SECONDS_UNTIL_VISIBLE = 15  # a network file system may show a new file late


def all_reduce(tensor):
    """Add up a tensor over all processes, in place; return it.

    All processes get the same bits. The tensor must have the same shape and type everywhere.
    """
    if process_group() is not None:
        import torch.distributed as dist

        with _translated():
            _contiguous(tensor, lambda t: dist.all_reduce(t, group=process_group()))
    return tensor


def reduce_to(tensor, owner):
    """Add up a tensor over all processes, in place, in the process ``owner``; return it.

    In the other processes its values are undefined afterwards.
    """
    if process_group() is not None:
        import torch.distributed as dist

        with _translated():
            _contiguous(tensor, lambda t: dist.reduce(t, group=process_group(), dst=owner))
    return tensor


def broadcast(tensor, owner=0):
    """Copy a tensor of the process ``owner`` to all others, in place; return it."""
    if process_group() is not None:
        import torch.distributed as dist

        with _translated():
            _contiguous(tensor, lambda t: dist.broadcast(t, group=process_group(), src=owner))
    return tensor


def barrier():
    """Wait until all processes are here."""
    if process_group() is not None:
        import torch

        all_reduce(torch.zeros(1))  # on the CPU, also in a world of GPUs


def gather(record):
    """Return the records of all processes, in their order; alone, a list with this one.

    Parameters
    ----------
    record : dict
        Arrays, and values that JSON can hold. The names and shapes may differ between processes.
    """
    if process_group() is None:
        return [record]
    import numpy as np
    import torch
    import torch.distributed as dist

    arrays = {name: value for name, value in record.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in record.items() if name not in arrays}
    forms = {name: [value.dtype.str, value.shape] for name, value in arrays.items()}
    head = np.frombuffer(json.dumps([plain, forms]).encode(), np.uint8)
    sizes = torch.zeros(world_size(), dtype=torch.int64)
    sizes[rank()] = len(head)
    heads = torch.zeros(world_size(), int(all_reduce(sizes).max()), dtype=torch.uint8)
    heads[rank(), : len(head)] = torch.from_numpy(head.copy())
    found, messages = [], []
    for owner, text in enumerate(all_reduce(heads)):
        plain, forms = json.loads(bytes(text[: sizes[owner]].numpy()))
        for name, (dtype, shape) in forms.items():
            mine = owner == rank()
            plain[name] = np.require(arrays[name], None, ["C", "W"]) if mine else np.empty(shape, dtype)
            if plain[name].size:
                messages.append((torch.from_numpy(plain[name].reshape(-1).view(np.uint8)), owner))
        found.append(plain)
    with _translated():  # in both directions at a time
        for sent in [dist.broadcast(t, owner, process_group(), async_op=True) for t, owner in messages]:
            sent.wait()
    return found


def gather_texts(text):
    """Return the texts of all processes, in their order; alone, a list with this one."""
    return [record["text"] for record in gather({"text": text})]


def agree(what, *parts):
    """Raise an error in every process unless all have the same ``parts`` (texts or bytes).

    Parameters
    ----------
    what : str
        Names the parts in the error, for example ``"settings"``.
    *parts : str or bytes

    Raises
    ------
    ParameterError
    """
    if process_group() is None:
        return
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little") + part)
    found = gather_texts(digest.hexdigest())
    differ = [k + 1 for k in range(1, world_size()) if found[k] != found[0]]
    if differ:
        raise ParameterError(
            f"The {what} of process{'es' * (len(differ) > 1)} {', '.join(map(str, differ))} of {world_size()} differ "
            "from those of process 1. Start all processes with the same command, text and model."
        )


def check_shared_folder(folder):
    """Raise an error in every process unless all processes see the same folder.

    Parameters
    ----------
    folder : path-like
        It need not exist; then its nearest parent is tested.

    Raises
    ------
    DatasetError
        With the name of a machine that does not see it.
    """
    if process_group() is None:
        return
    import torch

    folder = Path(folder).absolute()
    name = broadcast(torch.tensor(list(uuid.uuid4().bytes), dtype=torch.int64))
    name = f".shared-{bytes(name.tolist()).hex()}"
    with contextlib.ExitStack() as stack:
        if main_process():
            place = folder
            while not place.is_dir() and place != place.parent:
                place = place.parent
            (place / name).touch()
            stack.callback((place / name).unlink, missing_ok=True)
        barrier()
        seen = torch.zeros(world_size(), dtype=torch.int64)
        seen[rank()] = _appears(folder, name)
        all_reduce(seen)
    blind = [k + 1 for k in range(world_size()) if not seen[k]]
    if blind:
        mine = f" This one runs on {platform.node()}." if rank() + 1 in blind else ""
        raise DatasetError(
            f"{folder} is not one folder for all processes: {', '.join(map(str, blind))} of {world_size()} do not see "
            f"what process 1 writes there.{mine} Choose a folder on a file system that all machines share."
        )


def _appears(folder, name):
    places = [folder, *folder.parents]
    for _ in range(_SECONDS_UNTIL_VISIBLE * 5):
        if any((place / name).exists() for place in places):
            return True
        time.sleep(0.2)
    return False


def _contiguous(tensor, operation):
    """Run an operation in place, through a copy if the memory of the tensor has gaps."""
    if tensor.is_contiguous():
        operation(tensor)
        return
    copy = tensor.contiguous()
    operation(copy)
    tensor.copy_(copy)


@contextlib.contextmanager
def _translated():
    """Turn the errors of torch.distributed into one sentence; others pass through."""
    import torch.distributed as dist

    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not _LOST.search(str(error)):
            raise
        raise ParallelError(
            f"Process {rank() + 1} of {world_size()} has lost another one, which ended or cannot be reached "
            f"({str(error).splitlines()[0]}). Finished parts are kept: look for the message of the other process, then "
            "repeat the command to resume."
        ) from error
