"""The viewer without a server: a study, its model in one thread, and the answers to what the page asks."""

import itertools
import threading
from collections import OrderedDict

import numpy as np

from ..exceptions import LLMBrainError, ModelNotFoundError, ParameterError, check_count
from ..lesions.context import sites_of
from ..lesions.statistics import output_norms
from ..masks import CONTROLS, NeuronMask
from ..models.finite import check_weights
from ..models.inputs import longest_context
from ..plotting import style
from ..registry import choose
from ..text import describe_bos
from . import playground
from .contents import Contents, packed, rounded
from .reading import read_text, window_of
from .work import ModelThread, stops

MOST_TOKENS = 512  # of a text that the page sends
MOST_NEW_TOKENS = 100
KEPT_READINGS = 2
N_SAMPLES = 64  # recorded tokens from which the lesion kind resample draws


class Explorer:
    """A study, and the model that it was recorded from.

    Parameters
    ----------
    study : Study or path-like
    load : callable, optional
        Returns the model and its tokenizer; called in the thread of the model. Without it the study is shown without
        a model.
    masks : list of path-like
        Files of further masks for lesions, see :meth:`llmbrain.NeuronMask.load`.
    networks : str, optional
        Name of the networks, if the study holds several.

    Examples
    --------
    >>> explorer = Explorer("study", load=lambda: load_model("demo"))  # doctest: +SKIP
    >>> explorer.read("The old bridge was closed.").result()["tokens"]  # doctest: +SKIP
    ['The', ' old', ' bridge', ' was', ' closed', '.']
    """

    def __init__(self, study, load=None, masks=(), networks=None):
        self.contents = Contents(study, masks, networks)
        self.thread = ModelThread()
        self._load, self._model, self._sites, self._norms = load, None, None, None
        self.state, self.message = ("absent", "") if load is None else ("loading", "")
        self._readings, self._numbers = OrderedDict(), itertools.count(1)

    def start(self):
        """Load the model and measure the recording in the background; returns at once."""
        if self._load is not None:
            self.thread.submit("load", self._open)
        threading.Thread(target=self._prepare, daemon=True, name="llmbrain-prepare").start()
        return self

    def close(self):
        """End the thread of the model."""
        self.thread.close()

    def _prepare(self):
        if self.contents.recording is not None:
            try:
                _ = self.contents.yardstick
            except (LLMBrainError, OSError) as error:
                self.contents.messages.append(str(error))

    def _open(self, job):
        try:
            model, tokenizer = self._load()
            check_weights(model)
            geometry = self.contents.geometry
            if geometry is not None:
                everything = NeuronMask(np.ones(geometry.n_neurons, bool), geometry, name="the recorded neurons")
                self._sites = sites_of(model, everything, check_model=False)
                self._norms = output_norms(self._sites)
            self._model = (model, tokenizer)
            self.state = "ready"
        except Exception as error:  # the page shows why there is no model
            self.state, self.message = "failed", str(error)

    # -- what the page asks ---------------------------------------------------------------------------------------
    def describe(self):
        """Return everything that the page needs when it opens."""
        found = self.contents.describe()
        return {
            **found,
            "state": self.status(),
            "series": list(style.SERIES),
            "limits": {"tokens": MOST_TOKENS, "new_tokens": MOST_NEW_TOKENS},
            **playground.choices(),
        }

    def status(self):
        """Whether the model is absent, loading, ready or failed, and why."""
        return {"state": self.state, "message": self.message}

    def read(self, text):
        """Read a text; returns a future of what :meth:`Contents.run_view` returns, with ``id`` and ``cut``."""
        return self._submit("read", lambda job: self._read(text, job))

    def _read(self, text, job):
        model, tokenizer = self._ready()
        window, tokens, cut = self._window(text)
        yardstick = self.contents.yardstick
        job.check()
        with stops(model, job):
            reading = read_text(model, self._sites, window, tokens, cut)
        z = yardstick.z(reading.activity)
        number = next(self._numbers)
        self._readings[number] = np.frombuffer(packed(z), "<i2").reshape(z.shape)
        while len(self._readings) > KEPT_READINGS:
            self._readings.popitem(last=False)
        return {
            "id": number, "tokens": reading.tokens, "surprisal": rounded(reading.surprisal), "cut": cut,
            "courses": rounded(yardstick.courses(z).T), "documents": None,
        }  # fmt: skip

    def moment(self, number, token):
        """z-scored activity of all neurons at a token of a text that was read, packed."""
        reading = self._readings.get(number)
        if reading is None:
            raise ParameterError("This text is no longer in memory. Read it again.")
        check_count("token", token, 0)
        if token >= len(reading):
            raise ParameterError(f"The text has {len(reading)} tokens; there is no token {token}.")
        return reading[token].tobytes()

    def lesion(self, request):
        """Compare the intact model, a lesion and a matched control on a text; returns a future of a dict."""
        mask, control, about = self._sets(request)
        return self._submit("lesion", lambda job: self._lesion(request, mask, control, about, job))

    def _lesion(self, request, mask, control, about, job):
        model, tokenizer = self._ready()
        window, tokens, cut = self._window(request.get("text"))
        contexts = playground.contexts_of(model, mask, control, request, self._reference)
        with stops(model, job):
            found = playground.compare(model, tokenizer, window, tokens, contexts, job.check)
        losses = found["losses"]
        scored = ~np.isnan(losses["intact"])
        return {
            **about, "tokens": tokens, "words": playground.word_of(tokens), "cut": cut, "next": found["next"],
            "losses": {name: rounded(values) for name, values in losses.items()},
            "means": {name: round(float(values[scored].mean()), 4) for name, values in losses.items()},
            "n_scored": int(scored.sum()),
        }  # fmt: skip

    def write_on(self, request):
        """Let the model continue a text in one condition; returns a future of a dict."""
        condition = choose("condition", request.get("condition"), playground.CONDITIONS)
        n_new = request.get("new_tokens", 32)
        check_count("new_tokens", n_new)
        if n_new > MOST_NEW_TOKENS:
            raise ParameterError(f"new_tokens={n_new}: at most {MOST_NEW_TOKENS} are allowed.")
        mask, control, _ = self._sets(request)

        def work(job):
            model, tokenizer = self._ready()
            text = request.get("text")
            window, _, cut = self._window(text)
            if cut:
                text = tokenizer.decode(window.ids[window.kept])
            context = playground.contexts_of(model, mask, control, request, self._reference)[condition]
            options = {"max_new_tokens": n_new, "bos": self._bos(tokenizer)}
            with stops(model, job):
                return {"condition": condition, "text": playground.write_on(model, tokenizer, text, context, **options)}

        return self._submit(f"write {condition}", work)

    # -- parts ----------------------------------------------------------------------------------------------------
    def _submit(self, kind, work):
        if self.state in ("absent", "failed"):
            self._ready()  # raises
        return self.thread.submit(kind, work)

    def _ready(self):
        if self._model is None:
            if self.state == "failed":
                raise ModelNotFoundError(f"The model could not be opened: {self.message}")
            raise ModelNotFoundError("The page was started without a model (--no-model), so it cannot read new text.")
        if self._sites is None:
            raise ParameterError("The study has no networks and no recorded run yet, so there is nothing to read with.")
        return self._model

    def _window(self, text):
        model, tokenizer = self._model
        limit = longest_context(model, 10**9) - MOST_NEW_TOKENS - 8
        options = {"bos": self._bos(tokenizer), "max_tokens": max(2, min(MOST_TOKENS, limit))}
        return window_of(text, tokenizer, **options)

    def _bos(self, tokenizer):
        """The leading special tokens of the recording."""
        recorded = self.contents.study.info["recording"].get("bos")
        if recorded is None or recorded == describe_bos(tokenizer):
            return "auto"
        return recorded != "none"

    def _sets(self, request):
        """The lesioned neurons, one matched control, and a description of both."""
        if self.state in ("absent", "failed"):
            self._ready()  # raises
        mask = playground.chosen_mask(self.contents.networks, self.contents.masks, request)
        family = choose("control family", request.get("control", "layer"), playground.control_families())
        seed = request.get("seed", 0)
        check_count("seed", seed, 0)
        importance = self._importance() if "importance" in CONTROLS[family].needs else None
        control = mask.matched_control(family, importance=importance, random_state=seed)
        about = {
            "n_neurons": mask.count, "n_shared": (mask & control).count, "control": family, "seed": seed,
            "layers": [int(n) for n in mask.counts_per_layer],
        }  # fmt: skip
        return mask, control, about

    def _importance(self):
        """Variance in the recording times squared output norm."""
        if self._norms is None:
            raise ParameterError("The model is still loading; this control family needs its weights. Try again soon.")
        return self.contents.yardstick.sd.astype(float) ** 2 * self._norms**2

    def _reference(self, needed):
        """What a lesion kind needs of the recording, by the name of what it needs."""
        return {"mean": lambda: self.contents.yardstick.mean, "samples": self._samples}[needed]()

    def _samples(self):
        """Activity at some recorded tokens, spread evenly, ``(n_samples, n_neurons)``."""
        recording = self.contents.recording
        if recording is None:
            raise ParameterError("This kind of lesion needs recorded values, but the study holds no recorded run.")
        places = np.unique(np.linspace(0, recording.n_tokens - 1, N_SAMPLES).astype(int))
        starts = np.cumsum([0, *(run.n_tokens for run in recording)])
        rows = []
        for place in places:
            run = int(np.searchsorted(starts, place, side="right")) - 1
            at = int(place - starts[run])
            rows.append(recording[run].to_array(at, at + 1)[0])
        return np.stack(rows)
