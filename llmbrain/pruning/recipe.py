"""Everything about a pruning run that is not the ratio: defaults, checks, and what it needs to measure."""

from dataclasses import asdict, dataclass, fields, replace

from ..exceptions import ParameterError
from .allocation import ALLOCATIONS
from .compensation import COMPENSATIONS
from .scores import SCORES

__all__ = ["Options", "RATIO_OF", "RECIPES", "check_ratio", "choose_recipe", "make_options"]

RATIO_OF = ("neurons", "decoder", "all", "bytes", "latency")
_PUBLISHED = {"propagation": "one-shot", "floor": 0.0}
RECIPES = {
    "best": {
        "score": "flap",
        "allocation": "search",
        "compensation": "affine",
        "options": {
            "token_weights": "stream",
            "reconstruct": "all",
            "refit_attention": True,
            "held_out": 0.2,
            "n_evaluations": 300,
        },
    },
    "fast": {
        "score": "flap",
        "allocation": "power",
        "compensation": "affine",
        "options": {"token_weights": "stream"},
    },
    "flap": {"score": "flap", "allocation": "global", "compensation": "bias", "options": _PUBLISHED},
    "wanda": {"score": "wanda", "allocation": "uniform", "compensation": "none", "options": _PUBLISHED},
}
_CHOICES = {
    "propagation": ("sequential", "one-shot"),
    "target": ("stream", "layer"),
    "head_unit": ("group", "query"),
    "token_weights": ("equal", "stream"),
    "reconstruct": ("none", "up", "all"),
}


@dataclass(frozen=True)
class Options:
    """Settings of :func:`llmbrain.prune` beyond its arguments.

    Attributes
    ----------
    context : int
        Tokens of a calibration window.
    n_tokens : int or None
        Calibration tokens to use at most.
    batch_size : int
        Windows that pass through a layer together.
    exempt : tuple of int
        Layers that keep every unit; negative numbers count from the end.
    floor : float
        Smallest share of units that a layer keeps.
    round_to : int
        Widths become multiples of this.
    propagation : {"sequential", "one-shot"}
        Whether the statistics of a layer are taken behind the layers that are pruned already, or in the dense model.
    target : {"stream", "layer"}
        What a refitted linear should give: the residual stream of the dense model (which makes good for errors made
        earlier), or its own dense output. One-shot always uses the layer.
    ridge : float or "auto"
        Penalty of least squares; "auto" chooses it for each layer on held-out calibration windows.
    held_out : float
        Share of calibration windows that are held out to choose the ridge and to measure curves.
    exponent : float or None
        How strongly the allocations "power" and "schur" tell layers apart: 0 not at all, 1 in
        proportion. None is 1 for "power" and 0.3 for "schur".
    token_weights : {"equal", "stream"}
        What tokens count in every statistic: all the same, or one over the power of their residual stream.
    refit_attention : bool
        Whether the output projection of each attention behind the first cut is refitted towards the dense stream.
    reconstruct : {"none", "up", "all"}
        Whether the rows of kept neurons are refitted too, by least squares on what the dense MLP writes: the linear
        that is multiplied in ("up"), or the gate as well ("all").
    n_steps : int
        Most conjugate-gradient steps for one of these refits.
    n_evaluations : int
        Divergences that the allocation "search" measures.
    extremes : float
        Penalty on emptied layers in the allocations "curves" and "search".
    heads : bool
        Whether attention heads are pruned too.
    head_unit : {"group", "query"}
        Whole key/value groups, or equally many query heads of every group.
    network_tokens : int or None
        A cap for memory: ``networks="joint"`` are found on the first so many calibration tokens, because the neurons of
        all layers are held for all of them at once (8,192 tokens of 46,080 neurons are 1.5 GB). None is no cap.
    """

    context: int = 1024
    n_tokens: int | None = None
    batch_size: int = 8
    exempt: tuple = ()
    floor: float = 0.05
    round_to: int = 1
    propagation: str = "sequential"
    target: str = "stream"
    ridge: float | str = "auto"
    held_out: float = 0.125
    exponent: float | None = None
    token_weights: str = "equal"
    refit_attention: bool = False
    reconstruct: str = "none"
    n_steps: int = 8
    n_evaluations: int = 150
    extremes: float = 0.3
    heads: bool = False
    head_unit: str = "group"
    network_tokens: int | None = 8192

    def to_dict(self):
        """Plain values, for provenance."""
        return asdict(self)


def make_options(options, **overrides):
    """Check options given as a dictionary.

    Raises
    ------
    ParameterError
        For an unknown name or a value out of range.
    """
    if isinstance(options, Options):
        options = options.to_dict()
    given = {**(options or {}), **overrides}
    known = {f.name for f in fields(Options)}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ParameterError(f"Unknown option {', '.join(unknown)}; choose from {', '.join(sorted(known))}.")
    made = replace(Options(), **given)
    for name, choices in _CHOICES.items():
        if getattr(made, name) not in choices:
            raise ParameterError(f"{name}={getattr(made, name)!r}; choose from {', '.join(choices)}.")
    if not 0 <= made.floor < 1 or not 0 <= made.held_out < 1:
        raise ParameterError("floor and held_out are shares from 0 to below 1.")
    if made.ridge != "auto" and not (isinstance(made.ridge, (int, float)) and made.ridge >= 0):
        raise ParameterError(f"ridge={made.ridge!r}; give a number from 0, or 'auto'.")
    cap = made.network_tokens
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 4):
        raise ParameterError(f"network_tokens={cap!r}; give a whole number from 4, or None for no cap.")
    if made.round_to not in range(1, 257):
        raise ParameterError(f"round_to={made.round_to!r}; give a whole number from 1 to 256.")
    return replace(made, exempt=tuple(int(i) for i in made.exempt))


def choose_recipe(recipe, score=None, allocation=None, compensation=None, options=None):
    """What a recipe says, with whatever is given besides it in its place.

    Parameters
    ----------
    recipe : {"best", "fast", "flap", "wanda"}
    score, allocation, compensation : optional
        As for :func:`llmbrain.prune`.
    options : dict or Options, optional
        Of an ``Options``, fields at their default give way to the recipe; to set one of them to its default against the
        recipe, give a dictionary that names it.

    Returns
    -------
    dict
        ``score, allocation, compensation, options``.

    Examples
    --------
    >>> choose_recipe("fast", allocation="uniform")["allocation"]
    'uniform'
    """
    if recipe not in RECIPES:
        raise ParameterError(f"Unknown recipe {recipe!r}; choose from {', '.join(RECIPES)}.")
    chosen = dict(RECIPES[recipe])
    for name, value in (("score", score), ("allocation", allocation), ("compensation", compensation)):
        if value is not None:
            chosen[name] = value
    if isinstance(options, Options):
        plain = Options().to_dict()
        options = {name: value for name, value in options.to_dict().items() if value != plain[name]}
    options = options or {}
    chosen["options"] = {**chosen["options"], **options}
    return chosen


def check_ratio(ratio, ratio_of):
    """A share that can be removed: from 0 (nothing, the model stays bit for bit) to below 1."""
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio < 1:
        raise ParameterError(f"ratio={ratio!r}; give the share to remove, above 0 and below 1 (0 removes nothing).")
    if ratio_of not in RATIO_OF:
        raise ParameterError(f"ratio_of={ratio_of!r}; choose from {', '.join(RATIO_OF)}.")
    return float(ratio)


def check_recipe(score, allocation, compensation):
    """Names that exist."""
    if isinstance(score, str) and score not in SCORES:
        raise ParameterError(f"Unknown score {score!r}; choose from {', '.join(SCORES)}, or give one array a layer.")
    if isinstance(allocation, str) and allocation not in ALLOCATIONS:
        raise ParameterError(
            f"Unknown allocation {allocation!r}; choose from {', '.join(ALLOCATIONS)}, or give counts."
        )
    if compensation not in COMPENSATIONS:
        raise ParameterError(f"Unknown compensation {compensation!r}; choose from {', '.join(COMPENSATIONS)}.")
