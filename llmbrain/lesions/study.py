"""Lesion each network, and matched controls of each, and compare."""

import time

import pandas as pd

from .plan import Plan
from .result import LesionResult, effects_table

__all__ = ["LesionStudy"]


class LesionStudy:
    """Lesion every network and, for each, sets of other neurons, on text that the networks were not found on.

    Parameters
    ----------
    masks : list of NeuronMask, or NetworkSet
        The networks. A NetworkSet is cut at its threshold (3 where :meth:`~llmbrain.NetworkSet.set_threshold` named
        none), brings its maps, and knows the text it was found on.
    tasks : list, optional
        :class:`LossTask`, :class:`MinimalPairTask`, :class:`MultipleChoiceTask`, a Corpus (its loss), any callable
        ``f(model, tokenizer)``. Default: the loss on the held-out demo corpus, over all and by kind of text.
    n_controls : int
        Control sets a network and family. With N of them the smallest p is 1 / (N + 1).
    controls : sequence
        Families of controls, see :data:`llmbrain.masks.CONTROLS`. Default: matched by layer, and matched by layer
        and importance.
    how : str
        Kind of lesion, see :func:`llmbrain.lesion`. With "retain" the network alone is kept, or its control alone.
    reference : NeuronStatistics, Recording, Corpus or list of str, optional
        The text that importances (and the values of ``mean`` and ``resample``) come from. Default: the training part of
        the demo corpus. Not the text of the tasks.
    random_state : int
        Decides controls and bootstrap; equal seeds give equal results.
    options : dict, optional
        ``value``, ``strength`` : of the lesion. ``positions`` : at which it acts ("all", "prompt", "generated", "last",
        or a callable on token ids; what is scored as a whole has no prompt). ``importance`` : a name, or an array
        ``(n_neurons,)``. ``n_nearest`` : for matching by importance. ``maps`` : (n_networks, n_neurons), for the family
        "anti". ``fitted_on`` : the Corpus that the networks were found on, where they do not know it themselves; a test
        on it is warned of. ``alternative`` : "greater" (more harm than the controls; the default), "less" (the default
        of ``how="retain"``), "two-sided". ``n_bootstrap``, ``level`` : of the interval. ``max_tokens`` : in a
        forward pass, all rows together; bounds the memory. ``mode``, ``autocast`` : see
        :class:`llmbrain.lesions.running.Runner`; "bfloat16" is twice as fast on many processors. ``check_model``.

    Examples
    --------
    >>> study = LesionStudy(masks, n_controls=20, random_state=0)  # doctest: +SKIP
    >>> result = study.run(model, tokenizer)                         # doctest: +SKIP
    >>> result.table.query("family == 'layer' and task == 'loss'")   # doctest: +SKIP
    """

    def __init__(
        self,
        masks,
        tasks=None,
        n_controls=20,
        controls=("layer", ("layer", "importance")),
        how="zero",
        reference=None,
        random_state=0,
        options=None,
    ):
        self.masks = masks
        self.tasks = tasks
        self.n_controls = n_controls
        self.controls = controls
        self.how = how
        self.reference = reference
        self.random_state = random_state
        self.options = options

    # -- what it will cost ----------------------------------------------------------------------------------------
    def forecast(self, model, tokenizer):
        """Say what :meth:`run` will cost, without running anything long.

        Returns
        -------
        dict
            ``n_conditions`` (networks and controls), ``n_tokens`` (of the tasks made of likelihoods),
            ``n_token_forwards`` (their product: an upper bound, for layers before a lesion are shared), ``n_calls``
            (runs of callable tasks), ``text``.
        """
        plan = Plan(self, model, tokenizer)
        n = 1 + plan.n_conditions
        tokens = sum(len(s) for task in plan.tasks for s in task.sequences)
        calls = n * sum(task.call is not None for task in plan.tasks)
        controls = plan.n_conditions - len(plan.masks)
        text = (
            f"{len(plan.masks)} networks and {controls} controls on {tokens:,} tokens: at most {n * tokens:,} tokens "
            "through the model"
        )
        text += f", and {calls} calls of functions." if calls else "."
        return {"n_conditions": n, "n_tokens": tokens, "n_token_forwards": n * tokens, "n_calls": calls, "text": text}

    def run(self, model, tokenizer, *, progress=True, checkpoint=None):
        """Run the study.

        Parameters
        ----------
        model : transformers causal language model
        tokenizer : transformers tokenizer
        progress : bool
            Show a progress bar.
        checkpoint : path-like, optional
            A ``.npz`` file that keeps what is done, so that an interrupted study goes on where it stopped.

        Returns
        -------
        LesionResult

        Raises
        ------
        MaskError
            If a mask is empty or two networks share a name.
        GeometryMismatchError
            If a mask belongs to another model.
        ParameterError
            If an option, task or family is not known. All of these before any long work.
        """
        begin = time.perf_counter()
        plan = Plan(self, model, tokenizer)
        warned = plan.warn_of_double_dipping()
        values = plan.execute(progress, checkpoint)
        items, draws = plan.tables(values)
        options = plan.options
        networks = pd.DataFrame(
            {
                "network": [m.name for m in plan.masks],
                "n_neurons": [m.count for m in plan.masks],
                "share": [m.share for m in plan.masks],
            }
        )
        table = effects_table(
            networks,
            items,
            draws,
            alternative=options["alternative"],
            n_bootstrap=options["n_bootstrap"],
            level=options["level"],
            random_state=self.random_state,
        )
        info = {**plan.describe(), "warnings": warned, "seconds": round(time.perf_counter() - begin, 1)}
        return LesionResult(table, draws, items, info)
