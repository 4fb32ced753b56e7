"""Products of float32 matrices: how exact they are, and how to make them exact."""

from contextlib import contextmanager


def full_precision():
    """Multiply float32 matrices in float32 inside the block, whatever is set: TF32 keeps 10 bits of the mantissa.

    With TF32 a covariance cannot be inverted and the criterion of FastICA never meets its tolerance.
    """
    return _products("highest")


def reduced_precision():
    """Multiply float32 matrices in TF32 inside the block, where a GPU can: enough for gradients, and much faster."""
    return _products("high")


@contextmanager
def half_products(device):
    """Multiply in bfloat16 on a GPU inside the block, where float32 is not needed. Sums keep their precision."""
    import torch

    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False):
        yield


@contextmanager
def _products(precision):
    import torch

    # the switch of torch 2.9; once it was used, torch refuses to answer the older question
    newer = torch.backends.cuda.matmul
    kept = getattr(newer, "fp32_precision", None)
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        before = "highest"
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        if kept is not None:
            newer.fp32_precision = kept


def exact_products(dtype):
    """Return whether products of different shapes agree to float32: half precision and TF32 keep only 8 to 11 bits."""
    import torch

    if dtype not in (torch.float32, torch.float64):
        return False
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # set by the switch of torch 2.9
        return torch.backends.cuda.matmul.fp32_precision == "ieee"
