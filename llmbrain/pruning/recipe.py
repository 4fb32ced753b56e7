"""Recipes: score, allocation, compensation and options in one object."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral

import numpy as np

from ..exceptions import ParameterError, check_count, is_number
from ..registry import Registry, choose
from .allocation import ALLOCATIONS
from .compensation import COMPENSATIONS
from .heads import HEAD_SCORES, HEAD_UNITS
from .published import NETWORK_FINDERS
from .scores import SCORES, reads_networks
from .survey import TOKEN_WEIGHTS

# Each member returns a Recipe.
RECIPES = Registry("recipe")
# smallest values of options that are whole numbers
_LEAST = {
    "context": 2, "batch_size": 1, "max_tokens": 2, "block_steps": 0, "block_span": 1, "lookahead": 0,
    "curve_tokens": 2, "n_evaluations": 1, "network_tokens": 4,
}  # fmt: skip


def _choice(default, choices):
    return field(default=default, metadata={"choices": tuple(choices)})


def _reading(default):
    """An option that sets how much text is read. It does not change what a recipe does."""
    return field(default=default, metadata={"reading": True})


@dataclass(frozen=True, repr=False)
class Options:
    """Settings of a :class:`Recipe` beyond score, allocation and compensation.

    Attributes
    ----------
    context : int
        Tokens of a calibration window.
    max_tokens : int or None
        Most calibration tokens to use.
    bos : {"auto", True, False}
        Special tokens at the head of every calibration window, see :func:`llmbrain.text.leading_tokens`.
    batch_size : int
        Windows that pass through a layer together.
    exempt : tuple of int
        Layers that keep every unit; negative numbers count from the end.
    floor : float
        Smallest share of units that a layer keeps.
    round_to : int
        Widths become multiples of this.
    propagation : {"sequential", "one-shot"}
        Whether the statistics of a layer are measured after earlier layers were pruned, or in the dense model.
    target : {"stream", "layer"}
        What a refitted linear approximates: the residual stream of the dense model (which corrects errors of earlier
        layers), or its own dense output. One-shot always uses the layer.
    ridge : float or "auto"
        Penalty of least squares; "auto" chooses it for each layer on held-out calibration windows.
    held_out : float
        Share of calibration windows held out to choose the ridge and to measure curves.
    exponent : float or None
        How strongly the allocations "power" and "schur" distinguish layers, from 0 (not at all) to 1 (in proportion).
        None means 1 for "power" and 0.3 for "schur".
    token_weights : {"equal", "stream"}
        Weight of tokens in every statistic: equal, or one over the power of their residual stream.
    refit_attention : bool
        Whether the output projection of each attention after the first cut is refitted towards the dense stream.
    block_steps : int
        Gradient steps by which all linears of each block are fitted to the residual stream of the dense model after the
        cut, see :func:`llmbrain.pruning.blockwise.fit_blocks`; 0 takes none.
    block_span : int
        Blocks that are fitted together: the one that was cut last and those before it.
    lookahead : int
        Layers after the block at whose end the stream is compared in these steps.
    curve_tokens : int or None
        Most held-out tokens on which the allocation "trial" measures its curves; None means 8192 on an accelerator, and
        on a CPU a sixteenth of the calibration text, but at least 512.
    n_evaluations : int
        Divergences that the allocation "search" measures.
    extremes : float
        Penalty on emptied layers in the allocations "curves" and "search".
    heads : bool
        Whether attention heads are pruned too.
    head_unit : {"group", "query"}
        Whole key/value groups, or the same number of query heads of every group.
    head_score : str or None
        How heads are ranked: random, magnitude, wanda, flap or obs. None uses the counterpart of the recipe's score.
    recover : float
        Minutes for which the cut model is trained to predict what the dense model predicts on the calibration text; 0
        does not train.
    network_tokens : int or None
        Most tokens on which ``networks="joint"`` are found: the neurons of all layers are held in memory for all of
        them at once (8,192 tokens of 46,080 neurons take 1.5 GB). None sets no limit.
    """

    context: int = _reading(1024)
    max_tokens: int | None = _reading(None)
    bos: bool | str = _reading("auto")
    batch_size: int = _reading(8)
    exempt: tuple = ()
    floor: float = 0.05
    round_to: int = 1
    propagation: str = _choice("sequential", ("sequential", "one-shot"))
    target: str = _choice("stream", ("stream", "layer"))
    ridge: float | str = "auto"
    held_out: float = 0.125
    exponent: float | None = None
    token_weights: str = _choice("equal", TOKEN_WEIGHTS)
    refit_attention: bool = False
    block_steps: int = 0
    block_span: int = 1
    lookahead: int = 3
    curve_tokens: int | None = _reading(None)
    n_evaluations: int = 150
    extremes: float = 0.3
    heads: bool = False
    head_unit: str = _choice("group", HEAD_UNITS)
    head_score: str | None = None
    recover: float = 0.0
    network_tokens: int | None = _reading(8192)

    def __post_init__(self):
        for f in fields(self):
            if "choices" in f.metadata:
                choose(f.name, getattr(self, f.name), f.metadata["choices"])
        for name in ("floor", "held_out"):
            if not is_number(getattr(self, name)) or not 0 <= getattr(self, name) < 1:
                raise ParameterError(f"{name}={getattr(self, name)!r} must be a share from 0 to below 1.")
        if isinstance(self.recover, bool) or not (isinstance(self.recover, (int, float)) and 0 <= self.recover < 1e6):
            raise ParameterError(f"recover={self.recover!r} must be a number of minutes from 0 (no training).")
        if self.ridge != "auto" and not (isinstance(self.ridge, (int, float)) and self.ridge >= 0):
            raise ParameterError(f"ridge={self.ridge!r} must be a number from 0, or 'auto'.")
        if self.round_to not in range(1, 257):
            raise ParameterError(f"round_to={self.round_to!r} must be a whole number from 1 to 256.")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            check_count(name, value, least, optional=name.endswith("_tokens"))
            object.__setattr__(self, name, value and int(value))  # numpy's numbers cannot be written as JSON
        if self.block_steps and (self.propagation, self.target) != ("sequential", "stream"):
            raise ParameterError(
                f"block_steps={self.block_steps} fits blocks to the stream of the dense model, one after the other. "
                "Set propagation='sequential' and target='stream', or block_steps=0."
            )
        if self.head_score is not None:
            HEAD_SCORES.check(self.head_score)
        if not isinstance(self.exempt, (list, tuple)) or not all(isinstance(i, Integral) for i in self.exempt):
            raise ParameterError(f"exempt={self.exempt!r} must be a list of numbers of layers.")
        object.__setattr__(self, "exempt", tuple(int(i) for i in self.exempt))

    def with_(self, **changes):
        """Options with some of them changed.

        Raises
        ------
        ParameterError
            For an unknown name or a value out of range.
        """
        names = [f.name for f in fields(self)]
        for name in changes:
            choose("option", name, names)
        return replace(self, **changes)

    def __repr__(self):
        changed = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"Options({', '.join(changed)})"

    def to_dict(self):
        """Plain values, by name."""
        return asdict(self)


@dataclass(frozen=True, eq=False, repr=False)
class Recipe:
    """How a model is pruned: which neurons are removed, how many of each layer, and what the others do for them.

    Parameters
    ----------
    score : str, list of array, or callable
        Which neurons are kept: a name of :data:`llmbrain.pruning.SCORES`, one array per layer, or
        ``score(part, moments)``.
    allocation : str or array of int
        How many each layer keeps: a name of :data:`llmbrain.pruning.ALLOCATIONS`, or the counts.
    compensation : str
        What the kept neurons do for the removed ones: a name of :data:`llmbrain.pruning.COMPENSATIONS`.
    options : Options or dict
        A dictionary changes the default options.
    networks : NetworkSet, array of shape (n_networks, n_neurons), LayerMaps, or {"published", "layers", "joint"}
        Maps for the scores ``network`` and ``network_flap`` and for the allocation ``networks``. A name finds them on
        the calibration windows: as in the paper (:func:`llmbrain.pruning.published_networks`), in each layer, or in all
        layers together (on the first ``network_tokens`` tokens).
    name : str
        A name of :data:`llmbrain.pruning.RECIPES`, from which the description starts, or a label for tables.

    Examples
    --------
    >>> Recipe.named("best").with_(score="wanda", block_steps=0).describe()
    'best, changed: score=wanda, block_steps=0'
    >>> Recipe("flap", "global", "bias").describe()
    'flap + global + bias'
    """

    score: object = "flap"
    allocation: object = "uniform"
    compensation: str = "affine"
    options: Options = field(default_factory=Options)
    networks: object = None
    name: str = ""

    def __post_init__(self):
        if isinstance(self.options, dict):
            object.__setattr__(self, "options", Options().with_(**self.options))
        if not isinstance(self.options, Options):
            raise ParameterError(f"options is {type(self.options).__name__}; it must be a dict or Options.")
        for name in ("score", "allocation"):
            value = getattr(self, name)
            if not (callable(value) or hasattr(value, "__len__")):
                raise ParameterError(f"{name}={value!r} must be a name, a function, or one value or array per layer.")
        if isinstance(self.score, str):
            SCORES.check(self.score)
        if isinstance(self.allocation, str):
            ALLOCATIONS.check(self.allocation)
        COMPENSATIONS.check(self.compensation)
        if isinstance(self.networks, str):
            NETWORK_FINDERS.check(self.networks)
        if self.options.heads and self.head_score is None:
            raise ParameterError(
                f"The score {self.names()[0]!r} ranks neurons only. With heads=True, set the option head_score to one "
                f"of {', '.join(map(repr, HEAD_SCORES))}."
            )

    def __repr__(self):
        name = f"{self.name!r}: " if self.name else ""
        return f"Recipe({name}{' + '.join(self.names())}, {self.options!r})"

    @classmethod
    def named(cls, recipe):
        """A recipe of :data:`llmbrain.pruning.RECIPES` by name; a :class:`Recipe` is returned as it is."""
        return recipe if isinstance(recipe, Recipe) else replace(RECIPES[recipe](), name=recipe)

    def with_(self, **changes):
        """A recipe with parts or single options changed.

        Parameters
        ----------
        **changes
            Parts of the recipe or fields of :class:`Options`, by name. A dictionary as ``options`` changes the options
            that it names; an :class:`Options` replaces all of them.

        Returns
        -------
        Recipe
        """
        parts = {f.name for f in fields(self)}
        mine = {k: v for k, v in changes.items() if k in parts}
        single = {k: v for k, v in changes.items() if k not in parts}
        options = mine.pop("options", None) or {}
        if not isinstance(options, (Options, dict)):
            raise ParameterError(f"options is {type(options).__name__}; it must be a dict or Options.")
        whole = options if isinstance(options, Options) else self.options.with_(**options)
        return replace(self, options=whole.with_(**single), **mine)

    @property
    def head_score(self):
        """Name of the score of heads, or None if the score has no counterpart for heads."""
        own = self.options.head_score
        return own or (SCORES[self.score].heads if isinstance(self.score, str) else None)

    @property
    def allocating_score(self):
        """The score that the allocation reads: the recipe's own unless the allocation declares another."""
        other = ALLOCATIONS[self.allocation].score if isinstance(self.allocation, str) else None
        return other or self.score

    @property
    def reads_networks(self):
        """Whether the score or the allocation reads networks."""
        needs = ALLOCATIONS[self.allocation].needs if isinstance(self.allocation, str) else ()
        return reads_networks(self.score) or reads_networks(self.allocating_score) or "maps" in needs

    @property
    def random(self):
        """Whether the result depends on the seed."""
        members = [(SCORES, self.score), (ALLOCATIONS, self.allocation)]
        return any(isinstance(name, str) and family[name].random for family, name in members)

    def names(self):
        """Names of score, allocation and compensation; "given" for numbers and functions."""
        return tuple(n if isinstance(n, str) else "given" for n in (self.score, self.allocation, self.compensation))

    def describe(self):
        """Describe the recipe in words: its name and what was changed, apart from how much text is read."""
        if self.name not in RECIPES:
            return self.name or " + ".join(self.names())
        own = Recipe.named(self.name)
        parts = zip(("score", "allocation", "compensation"), self.names(), own.names())
        changed = [f"{name}={mine}" for name, mine, theirs in parts if mine != theirs]
        for f in fields(Options):
            value = getattr(self.options, f.name)
            if "reading" not in f.metadata and value != getattr(own.options, f.name):
                changed.append(f"{f.name}={value}")
        return f"{self.name}, changed: {', '.join(changed)}" if changed else self.name

    def settings_hash(self, networks=None):
        """Hash all options, and the networks if they are read, into a short text that begins with a letter.

        Parameters
        ----------
        networks : bool, optional
            Whether the networks are read; by default whether this recipe reads them.

        Examples
        --------
        >>> hashes = [r.settings_hash() for r in (Recipe("wanda"), Recipe("flap"), Recipe(options={"floor": 0.1}))]
        >>> hashes[0] == hashes[1], hashes[1] == hashes[2]
        (True, False)
        """
        networks = self.reads_networks if networks is None else networks
        text = json.dumps([self.options.to_dict(), networks_id(self.networks) if networks else None], sort_keys=True)
        return "s" + hashlib.sha256(text.encode()).hexdigest()[:15]


@RECIPES.register("best")
def best():
    """FLAP score, searched allocation, affine least squares, then blocks fitted to the dense residual stream."""
    steps = {"block_steps": 300, "block_span": 3, "lookahead": 3}
    options = Options(token_weights="stream", refit_attention=True, held_out=0.2, n_evaluations=300, **steps)
    return Recipe("flap", "search", "affine", options)


@RECIPES.register("fast")
def fast():
    """FLAP score, the best of three allocations that are tried, affine least squares on weighted tokens."""
    return Recipe("flap", "trial", "affine", Options(token_weights="stream"))


@RECIPES.register("flap")
def published_flap():
    """FLAP as published: one threshold for all layers, mean bias."""
    return Recipe("flap", "global", "bias", Options(propagation="one-shot", floor=0.0))


@RECIPES.register("wanda")
def published_wanda():
    """Wanda-sp as published: uniform, nothing refitted."""
    return Recipe("wanda", "uniform", "none", Options(propagation="one-shot", floor=0.0))


def networks_id(networks):
    """Identify networks: by name if they are found on the calibration text, else by a hash of their values.

    Examples
    --------
    >>> networks_id("joint")
    'joint'
    >>> networks_id([[0.0, 1.0]]) == networks_id(np.array([[0.0, 1.0]]))
    True
    """
    if networks is None or isinstance(networks, str):
        return networks
    layers = getattr(networks, "maps", None)
    if not isinstance(layers, list):
        layers = [networks.z if hasattr(networks, "z") else networks]
    digest = hashlib.sha256()
    for layer in layers:
        values = layer.detach().cpu().numpy() if hasattr(layer, "detach") else layer
        values = np.ascontiguousarray(values, dtype=np.float64)
        digest.update(str(values.shape).encode())
        digest.update(values)
    return digest.hexdigest()[:16]


def describe_networks(networks, info=None):
    """Describe networks as plain values: kind, hash of given maps, and the short entries of their ``info``."""
    if networks is None:
        return None
    if isinstance(networks, str):
        return {"kind": networks, **_plain(info)}
    kind = type(networks).__name__ if hasattr(networks, "z") else "maps"
    info = getattr(networks, "info", None) if info is None else info
    return {"kind": kind, "hash": networks_id(networks), **_plain(info)}


def _plain(info):
    """Keep the entries that JSON can hold and that are short."""
    found = {}
    for name, value in (info or {}).items():
        text = json.dumps(value, default=str)
        if len(text) <= 500:
            found[name] = json.loads(text)
    return found
