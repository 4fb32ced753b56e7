"""The torch device that a name stands for."""

from ..exceptions import ParameterError


def as_device(device="auto"):
    """Check the name of a device; ``"auto"`` is the GPU if there is one, else the CPU. Returns a torch.device."""
    import torch

    if str(device) == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError):
        raise ParameterError(f"Unknown device {device!r}; choose 'cpu', 'cuda', 'cuda:1', ..., or 'auto'.") from None
    if device.type == "meta":
        raise ParameterError("device='meta' holds no weights; choose 'cpu', 'cuda' or 'auto'.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count() or "no"
        raise ParameterError(f"device={str(device)!r}: torch finds {found} GPU here; use another one, or 'cpu'.")
    try:
        torch.empty(1, device=device).cpu()
    except (RuntimeError, NotImplementedError, ImportError, AttributeError, AssertionError) as error:
        raise ParameterError(f"device={str(device)!r} cannot be used here; choose 'cpu', 'cuda' or 'auto'.") from error
    if device.type == "cpu" and device.index:
        raise ParameterError(f"device={str(device)!r}: there is one CPU device, 'cpu'.")
    return device
