"""What the rows of a grid share: one walk of the dense model serves all that read the calibration text alike."""

from .measured import Pruner
from .provenance import settings_hash
from .prune import check_budget
from .recipe import make_options
from .rules import check_networks, needs_maps, reads_networks, warn_unread

__all__ = ["Pruners", "draws"]

_RANDOM = ("random", "network", "network_flap")
_READS = {"networks": "network", "power": "flap"}  # allocations that read a score


def draws(score, allocation):
    """Whether a recipe draws at random: scores, moves of the search, or the rotation that networks are found from."""
    return score in _RANDOM or allocation in ("networks", "search")


class Pruners:
    """A pruner for each variant and seed; those that read the text alike share what they measure.

    Parameters
    ----------
    model, tokenizer, calibration
        See :func:`llmbrain.pruning.run_grid`.
    options : Options
        Of all variants.
    variants : dict of dict
    networks : optional
        Of variants that have none of their own.
    plan : list of tuple
        Every row to run: (score, allocation, compensation, variant, ratio, seed).
    """

    def __init__(self, model, tokenizer, calibration, options, variants, networks, plan):
        self.given = (model, tokenizer, calibration)
        self.options, self.variants, self.networks, self.plan = options, variants, networks, plan
        self.made = {}

    def __call__(self, variant, seed):
        key = (variant, seed)
        if key not in self.made:
            pruner = Pruner(*self.given, self._options(variant), self._maps(variant), seed)
            pruner.expected, pruner.expects_schur = self._expected(variant, seed)
            self._share(pruner, seed)
            self.made[key] = pruner
        return self.made[key]

    def check(self, ratio_of):
        """Refuse what cannot be run before anything is measured, and say if networks are of no use."""
        read = False
        for score, allocation, _, variant, *_ in self.plan:
            check_networks(self._maps(variant), score, allocation)
            read |= reads_networks(score, allocation)
        for variant, ratio in sorted({(row[3], row[4]) for row in self.plan}):
            check_budget(self.given[0], ratio, ratio_of, self._options(variant))
        if self.plan and not read and any(self._maps(variant) is not None for variant in self.variants):
            warn_unread(stacklevel=4)

    def settings(self, score, allocation, variant):
        """Hash of the options and networks of a row; None for one that reads networks, where this run has none."""
        options, maps = self._options(variant), self._maps(variant)
        reads = reads_networks(score, allocation)
        return None if reads and maps is None else settings_hash(options, maps if reads else None)

    def _options(self, variant):
        changes = {name: value for name, value in self.variants[variant].items() if name != "networks"}
        return make_options({**self.options.to_dict(), **changes})

    def _maps(self, variant):
        return self.variants[variant].get("networks", self.networks)

    def _expected(self, variant, seed):
        """Which scores will be asked for, and whether sensitivities will be: one walk then measures all of them."""
        own = self._options(variant)
        rows = [r for r in self.plan if r[5] == seed and _same_statistics(self._options(r[3]), own)]
        scores = {}
        for score, allocation, _, other, *_ in rows:
            for name in (score, _READS.get(allocation)):
                if name is not None and (not needs_maps(name) or self._maps(other) is self._maps(variant)):
                    scores[name] = None
        return tuple(scores), any(row[1] == "schur" for row in rows)

    def _share(self, new, seed):
        """Surveys do not depend on how the cut is made, and networks not on what tokens count in the statistics.

        Another seed changes neither the surveys nor the curves of scores that draw nothing.
        """
        for other in (p for (_, s), p in self.made.items() if s == seed and _same_text(p.options, new.options)):
            other._found.update(new._found)
            new._found = other._found
            break
        alike = [(s, p) for (_, s), p in self.made.items() if _same_statistics(p.options, new.options)]
        for _, other in (pair for pair in alike if pair[0] == seed):
            new._surveys = other._surveys
            if other.options.held_out == new.options.held_out:
                new._curves = other._curves
                return
        for _, other in (pair for pair in alike if pair[0] != seed):
            _copy_fixed(other._surveys, new._surveys)
            if other.options.held_out == new.options.held_out:
                _copy_fixed(other._curves, new._curves)


def _copy_fixed(source, target):
    """What was measured for scores that no seed changes."""
    target.update({key: v for key, v in source.items() if isinstance(key, str) and key not in _RANDOM})


def _same_text(a, b):
    """Whether networks are found on the same windows."""
    return all(getattr(a, n) == getattr(b, n) for n in ("context", "n_tokens", "network_tokens"))


def _same_statistics(a, b):
    """Whether two sets of options read the calibration text alike."""
    return _same_text(a, b) and a.batch_size == b.batch_size and a.token_weights == b.token_weights
