"""How long a run will take: counted work, times what this machine needs for it, measured in a second or two."""

import time

from .inputs import input_device, longest_context

# Tokens of the passes, of which the last is timed. One short text would be too slow on several cores, and is not what
# the stations read at once.
ROWS, WARMUP, TOKENS = 4, 8, 64


class Speed:
    """Seconds that this machine needs: for a token through the model, through its layers, and for a billion products.

    The output embedding is more than half of a small model with a large vocabulary.
    """

    def __init__(self, token, products, layers=None):
        self.token, self.products = token, products
        self.layers = token if layers is None else min(layers, token)

    def of_tokens(self, n, head=True):
        """Seconds for ``n`` tokens through the model; without ``head`` no word is predicted."""
        return (self.token if head else self.layers) * n

    def of_products(self, n):
        """Seconds for ``n`` multiplications and additions of large matrices."""
        return self.products * n / 1e9


def measure_machine(model):
    """Time a short forward pass of a model, and a product of matrices on the same device."""
    import torch

    device, longest = input_device(model), longest_context(model, TOKENS)
    size = model.get_input_embeddings().num_embeddings
    with torch.no_grad():
        for n in (min(WARMUP, longest), min(TOKENS, longest)):
            ids = torch.arange(ROWS * n, device=device).reshape(ROWS, n) % size
            token, layers = (
                _seconds(lambda run=run, ids=ids: run(ids, use_cache=False), device) / ids.numel()
                for run in (model, model.base_model)
            )
        square = torch.ones(1024, 1024, device=device)
        products = _seconds(lambda: [square @ square for _ in range(4)], device) / (4 * 1024**3 / 1e9)
    return Speed(token, products, layers)


def _seconds(work, device):
    import torch

    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def duration(seconds):
    """A duration in words.

    Examples
    --------
    >>> duration(8.2), duration(75), duration(4000)
    ('8 s', '1 min 15 s', '1 h 7 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"
