"""Information: versions and devices, and what can be recorded in a model."""

import platform
from importlib import metadata


def describe_environment():
    """Describe the versions of the libraries that results depend on, and the devices that torch sees.

    Returns
    -------
    str
    """
    import torch

    from .. import __version__

    names = ("nilearn", "scikit-learn", "torch", "transformers", "numpy", "scipy", "nibabel", "matplotlib", "gguf")
    lines = [f"llmbrain {__version__}, Python {platform.python_version()} on {platform.system()} {platform.machine()}"]
    for name in names:
        try:
            lines.append(f"  {name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"  {name} is not installed")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines.append(f"  devices: cpu ({torch.get_num_threads()} threads){''.join(', ' + name for name in gpus)}")
    return "\n".join(lines)


def describe_sites(model, max_tokens=10_000):
    """Describe what can be recorded in a model, its size, and the size of a recording.

    Parameters
    ----------
    model : str or torch.nn.Module
        See :func:`llmbrain.load_model`.
    max_tokens : int
        Number of tokens for the size of a recording.

    Returns
    -------
    str
    """
    from ..exceptions import UnsupportedArchitectureError
    from ..geometry import NeuronGeometry
    from ..models import SITES, describe_model, find_sites, load_model

    model, _ = load_model(model, device="cpu")
    about = describe_model(model)
    lines = [
        f"{about['id']}: {about['architecture']}, {about['n_layers']} layers, {about['n_parameters']:,} parameters, "
        f"weights hash {about['weights_hash']}",
        f"{'site':<11} {'neurons':>9}  {'volume':<16} {f'{max_tokens:,} tokens':>14}  first module",
    ]
    for site in SITES:
        try:
            found = find_sites(model, site)
        except UnsupportedArchitectureError as error:
            lines.append(f"{site:<11} {'-':>9}  {str(error).splitlines()[0]}")
            continue
        geometry = NeuronGeometry.from_sites(found, site)
        volume = " x ".join(map(str, geometry.shape))
        size = f"{4 * geometry.n_voxels * max_tokens / 2**30:.2f} GiB"
        lines.append(
            f"{site:<11} {geometry.n_neurons:>9,}  {volume:<16} {size:>14}  {found[0].where} of {found[0].name}"
        )
    return "\n".join(lines)
