"""Lesion each network and its matched controls, and compare the effects."""

import dataclasses
import time

from ..exceptions import ParameterError, check_count
from ..models.lesioned import refuse_lesioned
from ..parallel import Share
from ..registry import choose
from ..stats import ALTERNATIVES
from .design import Design
from .dose import dose_result
from .sources import lesioned_networks
from .statistics import IMPORTANCES
from .tables import study_result


@dataclasses.dataclass(frozen=True, eq=False)
class StudyOptions:
    """Options of a lesion study; a dict with some of them works as well.

    Parameters
    ----------
    value, strength
        Of the lesion, see :class:`llmbrain.lesions.Edit`.
    doses : str or dict, optional
        Measure curves over one of :data:`llmbrain.lesions.DOSES` instead of one lesion per network: a name, such as
        ``"strength"``, or a dict, such as ``{"gain": (0.5, 1, 2)}``. The study then has one task (of which the first
        group of items is used) and one control family, and its result is a :class:`DoseResponse`.
    positions : {"all", "prompt", "generated", "last"}, list of int, or callable
        At which tokens the lesions act, see :func:`llmbrain.lesion`. Texts that are scored as a whole have no prompt.
    importance : str or array of shape (n_neurons,)
        A name in :data:`llmbrain.lesions.IMPORTANCES`, or values.
    n_nearest : int
        For matching by importance, see :func:`llmbrain.masks.controls.importance_matched`.
    maps : array of shape (n_networks, n_neurons), optional
        For the control family ``"anti"`` and for doses that change the size; a NetworkSet has its own.
    fitted_on : Corpus or list of str, optional
        The text that the networks were found on, or its hashes, if the networks do not contain them. A test on this
        text raises a warning.
    alternative : {"greater", "less", "two-sided"}, optional
        ``greater``: more harm than the controls. Default: what the lesion kind declares (``less`` for ``retain``).
    n_bootstrap, level : int, float
        Of the confidence intervals.
    max_batch_tokens : int, optional
        Tokens in a forward pass, all rows together; bounds the memory.
    mode : {"auto", "prefix", "rows", "single"}
        How conditions share forward passes, see :mod:`llmbrain.lesions.batched`; all modes give the same numbers.
    autocast : {None, "bfloat16", "float16"}
        Matrix products in half precision: about twice as fast on processors that support it. Losses change by some
        thousandths of a nat, equally for networks and controls.
    check_model : bool
        Refuse masks that were made on other weights.
    """

    value: object = None
    strength: float = 1.0
    doses: object = None
    positions: object = "all"
    importance: object = "fluctuation"
    n_nearest: int = 10
    maps: object = None
    fitted_on: object = None
    alternative: str = None
    n_bootstrap: int = 2000
    level: float = 0.95
    max_batch_tokens: int = None
    mode: str = "auto"
    autocast: str = None
    check_model: bool = True

    def __post_init__(self):
        if self.alternative is not None:
            choose("alternative", self.alternative, ALTERNATIVES)
        if isinstance(self.importance, str):
            IMPORTANCES.check(self.importance)
        for name in ("n_nearest", "n_bootstrap", "max_batch_tokens"):
            check_count(name, getattr(self, name), optional=name == "max_batch_tokens")
        if not 0 < self.level < 1:
            raise ParameterError(f"level must be a coverage between 0 and 1, for example 0.95; got {self.level!r}.")

    @classmethod
    def of(cls, options):
        """Make options from a dict, options or None."""
        if isinstance(options, cls):
            return options
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(options or {}) - set(known))
        if unknown:
            raise ParameterError(f"Unknown options {unknown}; a lesion study has {', '.join(known)}.")
        return cls(**(options or {}))


class LesionStudy:
    """Lesion every network and matched control sets, on text that the networks were not found on.

    Parameters
    ----------
    masks : list of NeuronMask, or NetworkSet
        The networks; masks may be of different sites of the model. A NetworkSet is thresholded (at 3 unless
        :meth:`~llmbrain.NetworkSet.set_threshold` was called) and provides its maps and the text it was found on.
    tasks : list, optional
        :class:`LossTask`, :class:`MinimalPairTask`, :class:`MultipleChoiceTask`, a Corpus (its loss), or any callable
        ``f(model, tokenizer)``. Default: the loss on the held-out demo corpus, over all and by kind of text.
    n_controls : int
        Control sets per network and family. With N of them the smallest p is 1 / (N + 1).
    controls : sequence
        Control families, see :data:`llmbrain.masks.CONTROLS`. Default: matched by layer, and matched by layer and
        importance.
    how : str
        Lesion kind, see :data:`llmbrain.lesions.KINDS`. With ``"retain"`` only the network is kept, or only its
        control.
    reference : NeuronStatistics, Recording, Corpus or list of str, optional
        The text that importances (and the values of ``mean`` and ``resample``) come from; not the text of the tasks.
        For masks of several sites, a dict of the recordings of each. Default: the training part of the demo corpus.
    random_state : int
        Decides controls and bootstrap; equal seeds give equal results.
    options : dict or StudyOptions, optional
        See :class:`StudyOptions`.

    Examples
    --------
    >>> study = LesionStudy(masks, n_controls=20, random_state=0)  # doctest: +SKIP
    >>> result = study.run(model, tokenizer)                         # doctest: +SKIP
    >>> result.table.query("family == 'layer' and task == 'loss'")   # doctest: +SKIP

    Curves over the gain of an amplified network:

    >>> study = LesionStudy(masks[0], controls="layer", options={"doses": {"gain": (0.5, 1, 2)}})  # doctest: +SKIP
    >>> plot_dose_response(study.run(model, tokenizer))                                            # doctest: +SKIP
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

    def forecast(self, model, tokenizer):
        """Estimate what :meth:`run` will cost, without a long computation.

        Returns
        -------
        dict
            ``n_conditions`` (the intact model, networks and controls), ``n_tokens`` (of the likelihood tasks),
            ``n_token_forwards`` (their product: an upper bound, because the layers before a lesion are shared),
            ``n_calls`` (runs of callable tasks), ``text``.
        """
        design = self._design(model, tokenizer)
        n = 1 + design.n_conditions
        tokens = sum(len(s) for task in design.tasks for s in task.sequences)
        calls = n * sum(task.call is not None for task in design.tasks)
        n_networks = len(design.masks) * (1 if design.axis is None else len(design.axis.doses))
        what = "network" if lesioned_networks(design.masks) else "mask"
        text = f"{n_networks} lesions of {what}s" if n_networks > 1 else f"1 lesion of a {what}"
        text += f" and {design.n_conditions - n_networks} of controls"
        text += f" on {tokens:,} tokens: at most {n * tokens:,} tokens through the model" if tokens else ""
        text += f"{', and' if tokens else ':'} {calls} calls of functions." if calls else "."
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
            A ``.npz`` file for finished work. To resume an interrupted study, repeat the call. Files of shares
            (:meth:`run_share`) beside it are used as well.

        Returns
        -------
        LesionResult, or DoseResponse for a study over doses

        Raises
        ------
        MaskError
            If a mask is empty or two networks share a name.
        GeometryMismatchError
            If a mask belongs to another model.
        ParameterError
            If an option, task or family is unknown. All of these are raised before any long computation.
        """
        begin = time.perf_counter()
        design = self._design(model, tokenizer)
        warned = design.warn_of_double_dipping()
        values = design.measure(progress, checkpoint)
        result = study_result(design, values) if design.axis is None else dose_result(design, values)
        result.info |= {"warnings": warned, "seconds": round(time.perf_counter() - begin, 1)}
        return result

    def run_share(self, model, tokenizer, share, checkpoint, *, progress=True):
        """Measure one share of the conditions, as one job of an array.

        When all shares are measured, :meth:`run` with the same checkpoint has nothing left to measure: its tables are
        those of a single process, bit for bit. To resume an interrupted share, repeat the call.

        Parameters
        ----------
        model : transformers causal language model
        tokenizer : transformers tokenizer
        share : str or Share
            For example ``"3/40"``, the third of forty.
        checkpoint : path-like
            The ``.npz`` file of the whole study; the share gets a file of its own beside it.
        progress : bool
            Show a progress bar.

        Raises
        ------
        ParameterError
            If there are more shares than conditions, and as for :meth:`run`.
        DatasetError
            If another process is measuring this share now.
        """
        part = Share.parse(share)
        if part is None or checkpoint is None:
            raise ParameterError(f"share={share!r}, checkpoint={checkpoint!r}: a share needs both.")
        design = self._design(model, tokenizer)
        design.warn_of_double_dipping()
        design.measure_share(part, progress, checkpoint)

    def _design(self, model, tokenizer):
        refuse_lesioned(model, "studied: its losses would pass for those of the intact model")
        return Design(self, model, tokenizer, StudyOptions.of(self.options))
