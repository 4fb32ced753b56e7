"""A tiny model, a finished study of it, and the command line, for attacks that take seconds."""

import contextlib
import io
import shutil
import sys
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny import tiny_model, tiny_tokenizer

from llmbrain import cli
from llmbrain.exceptions import LLMBrainWarning

DAMAGE = "cannot be read|damaged|has changed|no longer"  # in warnings that count as an answer
WORDS = "the cat of a house that is on an island has other name than all those near the road to town"


class Broken(AssertionError):
    """An attack that did not hold."""


class Lost(Broken):
    """Data that a user had are gone."""


class Wrong(Broken):
    """A wrong result without a word."""


class Unclear(Broken):
    """A traceback, or an error that does not say what to do."""


class TooLong(BaseException):
    """An attack that does not end."""


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str
    error: BaseException | None = None

    @property
    def warned(self):
        """Whether llmbrain said anything besides progress."""
        return "llmbrain: " in self.err

    @property
    def perplexity(self):
        """The line of the output with the perplexity."""
        return next((line for line in self.out.splitlines() if "perplexity" in line), "")

    def refused(self, *words):
        """Check that the command ended with 2 and one sentence that holds the given words."""
        self.clear()
        if self.code != 2:
            raise Wrong(f"ended with {self.code}: {self.err or self.out}")
        for word in words:
            if str(word) not in self.err:
                raise Unclear(f"does not say {word!r}: {self.err}")
        return self

    def worked(self):
        """Check that the command ended well."""
        self.clear()
        if self.code != 0:
            raise Unclear(f"ended with {self.code}: {self.err}")
        return self

    def clear(self):
        """Check that there is no traceback and no unexpected error."""
        if self.error is not None:
            raise Unclear(f"traceback: {type(self.error).__name__}: {self.error}")
        if "Traceback" in self.err or "unexpected " in self.err:
            raise Unclear(self.err.strip())
        if self.code not in (0, 2) or (self.code and "llmbrain: " not in self.err):
            raise Unclear(f"ended with {self.code}: {self.err}")
        return self


def command(*args):
    """Run a command as a user types it, in this process."""
    out, err, code, error = io.StringIO(), io.StringIO(), 0, None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", f".*({DAMAGE})", LLMBrainWarning)
        try:
            cli.main([str(a) for a in args])
        except SystemExit as left:
            code = left.code
        except TooLong:
            raise
        except BaseException as left:
            error = left
    return Answer(code, out.getvalue(), err.getvalue(), error)


def texts(n, seed):
    """Sentences of common words, one text per entry."""
    import numpy as np

    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS.split(), 60)) + "." for _ in range(n)]


class Room:
    """A folder with everything that an attack needs.

    Attributes
    ----------
    model : pathlib.Path
        Folder of a tiny model of the Llama family, with its tokenizer.
    corpus, heldout : pathlib.Path
        Folders of texts.
    study : pathlib.Path
        Recording, networks, lesions and report of the model; attacks work on a :meth:`copy`.
    second : pathlib.Path
        Recording and networks of another model on the same texts, made when it is first needed.
    """

    def __init__(self, folder):
        import torch

        torch.set_num_threads(1)  # attacks fork this process, which other threads would not survive
        self.folder = Path(folder)
        self.model, self.study = self.folder / "model", self.folder / "study"
        self.corpus, self.heldout = self.folder / "corpus", self.folder / "heldout"
        self._n = 0
        tiny_model("llama").save_pretrained(self.model)
        tiny_tokenizer().save_pretrained(self.model)
        for path in self.model.iterdir():
            path.chmod(0o644)  # some attacks run as another user
        for where, n, seed in ((self.corpus, 8, 0), (self.heldout, 3, 1)):
            where.mkdir()
            for i, text in enumerate(texts(n, seed)):
                (where / f"text{i}.txt").write_text(text)
        for args in self.stations(self.study):
            command(*args).worked()

    @cached_property
    def second(self):
        """Recording and networks of another model on the same texts."""
        model, study = self.folder / "other", self.folder / "second"
        tiny_model("gpt2", seed=3).save_pretrained(model)
        tiny_tokenizer().save_pretrained(model)
        record, networks = self.stations(study)[:2]
        command(*(model if a == self.model else a for a in record)).worked()
        command(*networks).worked()
        return study

    def stations(self, study):
        """Commands that make a whole study, in order."""
        where = ("--model", self.model, "--text", self.heldout, "--device", "cpu")
        return [
            self.record(study),
            ("networks", study, "--n-components", 3, "--n-repeats", 0, "--threshold", 1.5),
            ("lesion", study, *where, "--n-controls", 2, "--max-tokens", 60, "--threshold", 1.5),
            ("report", study),
        ]

    def record(self, study, *more):
        """The command that records the study."""
        sizes = ("--tokens-per-run", 150, "--max-tokens", 600, "--dtype", "float32", "--device", "cpu")
        return ("record", "--model", self.model, "--text", self.corpus, "--out", study, *sizes, *more)

    def fresh(self, name="new"):
        """A path that does not exist yet."""
        self._n += 1
        folder = self.folder / f"case{self._n}"
        folder.mkdir()
        return folder / name

    def copy(self, what="study"):
        """A copy of the study, the model or the corpus."""
        source = self.folder / what
        return Path(shutil.copytree(source, self.fresh(source.name)))

    def clean(self):
        """Remove what attacks have made."""
        for folder in self.folder.glob("case*"):
            shutil.rmtree(folder, ignore_errors=True)
