"""Replay: work that repeats on tensors of the same shapes runs on a GPU as one recorded graph.

A gradient step through a few layers is hundreds of small kernels, which take longer to start than to run.
"""

import torch

_PLAIN = 3  # calls of a shape before it is recorded: libraries choose their kernels and allocate in them


class Replay:
    """``function(*inputs)``, recorded once for tensors of the same shapes and then replayed.

    Inputs are tensors, plain values, and lists, tuples and dicts of them. Results are overwritten by the next call. On
    a CPU, and where a function cannot be recorded, it is called.
    """

    def __init__(self, function):
        self.function, self.n_calls, self.recorded, self.works = function, {}, {}, True

    def __call__(self, *inputs):
        """Return what the function returns for these inputs."""
        tensors, kinds = [], []
        _take_apart(inputs, tensors, {}, kinds)
        key = tuple(kinds)
        n_calls = self.n_calls[key] = self.n_calls.get(key, 0) + 1
        if not self.works or n_calls <= _PLAIN or not all(t.is_cuda for t in tensors):
            return self.function(*inputs)
        if key not in self.recorded:
            try:
                self.recorded[key] = _record(self.function, inputs)
            except RuntimeError:  # something in the layers waits for the GPU
                self.works = False
                return self.function(*inputs)
        graph, own, results = self.recorded[key]
        for mine, given in zip(own, tensors):
            mine.copy_(given)
        graph.replay()
        return results


def _record(function, inputs):
    """Graph of a call, the tensors that it reads, and those that it writes."""
    own, known = [], {}
    inputs = _copied(inputs, own, known)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        results = function(*inputs)
    return graph, own, results


def _place(tensor):
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _take_apart(value, tensors, known, kinds):
    """Collect the tensors of nested inputs, each once, and describe everything else."""
    if isinstance(value, torch.Tensor):
        number = known.setdefault(_place(value), len(known))
        if number == len(tensors):
            tensors.append(value)
        kinds.append((number, tuple(value.shape), value.dtype))
    elif isinstance(value, dict):
        for key, item in value.items():
            kinds.append(key)
            _take_apart(item, tensors, known, kinds)
    elif isinstance(value, (tuple, list)):
        kinds.append(len(value))
        for item in value:
            _take_apart(item, tensors, known, kinds)
    else:
        kinds.append(value if isinstance(value, (int, float, str, type(None))) else type(value))


def _copied(value, own, known):
    """The same inputs with copies of the tensors, in the order of :func:`_take_apart`."""
    if isinstance(value, torch.Tensor):
        if _place(value) not in known:
            known[_place(value)] = value.detach().clone()
            own.append(known[_place(value)])
        return known[_place(value)]
    if isinstance(value, dict):
        return {key: _copied(item, own, known) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_copied(item, own, known) for item in value)
    return value
