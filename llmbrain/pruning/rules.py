"""From what the user calls a score to a rule that a walk can apply to a layer."""

import warnings

import numpy as np
import torch

from ..exceptions import LLMBrainWarning, ParameterError
from ..models.anatomy import weight_of
from . import by_networks as net
from . import scores as sc
from .allocation import NETWORK_ALLOCATIONS

__all__ = ["check_networks", "make_score", "needs_maps", "reads_networks", "warn_unread"]


def needs_maps(score):
    """Whether a score reads networks."""
    return isinstance(score, str) and sc.SCORES.get(score) == "networks"


def reads_networks(score, allocation):
    """Whether the score or the allocation reads networks."""
    return needs_maps(score) or (isinstance(allocation, str) and allocation in NETWORK_ALLOCATIONS)


def check_networks(networks, score, allocation):
    """Refuse a recipe that reads networks where there are none.

    Raises
    ------
    ParameterError
    """
    if networks is None and reads_networks(score, allocation):
        names = {"score": score, "allocation": allocation}
        what = ", ".join(f"{k}={v!r}" for k, v in names.items() if isinstance(v, str))
        raise ParameterError(
            f"{what} need networks=: the result of CanICA or DictLearning on this model, maps, or 'published', "
            "'layers' or 'joint' to find them on the calibration text."
        )


def warn_unread(stacklevel=3):
    """Say that networks were given which nothing reads."""
    warnings.warn(
        "networks= is given, but nothing reads it: use score='network' or 'network_flap', or allocation='networks'.",
        LLMBrainWarning,
        stacklevel=stacklevel,
    )


def make_score(score, maps, random_state):
    """A function ``(part, moments) -> scores`` for a score, and whether it needs covariances."""
    if callable(score):
        return score, True
    if not isinstance(score, str):
        arrays = [torch.from_numpy(np.array(s, dtype=np.float64)) for s in score]  # copies: theirs may change
        return (lambda part, m: arrays[part.layer]), False
    if needs_maps(score) and maps is None:
        raise ParameterError(f"score={score!r} needs networks=.")

    def by_name(part, m):
        weight = weight_of(part.writer).detach()
        generator = torch.Generator().manual_seed((int(random_state) * 1_000_003 + part.layer) % 2**63)
        maps_here = None if maps is None else maps[part.layer].to(weight.device)
        return {
            "random": lambda: sc.random(part.size, generator),
            "magnitude": lambda: sc.magnitude(weight),
            "wanda": lambda: sc.wanda_sp(weight, m.second_moment),
            "flap": lambda: sc.flap(weight, m.variance),
            "obs": lambda: sc.obs_column(weight, m.gram),
            "greedy_obs": lambda: sc.greedy_obs(weight, m.covariance),
            "leverage": lambda: sc.ridge_leverage(m.covariance, weight=weight),
            "network": lambda: net.union_z(maps_here),
            "network_flap": lambda: net.network_times(net.union_z(maps_here), sc.flap(weight, m.variance)),
        }[score]()

    return by_name, sc.SCORES[score] == "full"
