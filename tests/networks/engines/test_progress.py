"""Progress bars: on a terminal, and only where they were asked for."""

import io
from contextlib import redirect_stderr

import pytest
from planted import planted_runs

from llmbrain.networks import CanICA
from llmbrain.networks.engines import progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0)


def test_bars_are_shown_on_a_terminal_only_where_they_are_turned_on():
    with redirect_stderr(Terminal()) as terminal:
        assert list(progress.track(range(3), "Steps")) == [0, 1, 2] and not terminal.getvalue()
        with progress.show_progress():
            assert list(progress.track(iter("ab"), "Steps", 2)) == ["a", "b"]
            with progress.show_progress(False):  # an inner False does not turn off what a caller turned on
                list(progress.track(range(3), "Inner"))
        list(progress.track(range(3), "Later"))
    assert "Steps" in terminal.getvalue() and "Inner" in terminal.getvalue() and "Later" not in terminal.getvalue()
    with redirect_stderr(io.StringIO()) as file, progress.show_progress():
        list(progress.track(range(3), "Steps"))
    assert not file.getvalue()


def test_a_verbose_fit_shows_its_steps():
    runs, _ = planted_runs(600, 3, (80, 70))
    with redirect_stderr(Terminal()) as terminal:
        quiet = CanICA(3, n_init=2).fit(runs)
    assert not terminal.getvalue()
    with redirect_stderr(Terminal()) as terminal:
        loud = CanICA(3, n_init=2, verbose=1).fit(runs)
    assert "Reading runs" in terminal.getvalue() and "FastICA" in terminal.getvalue()
    assert (quiet.components_ == loud.components_).all()
