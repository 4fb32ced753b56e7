"""Studies over doses: strength, gain, threshold and size."""

import numpy as np
import pandas as pd
import pytest
from held import REFERENCE, TEXTS

from llmbrain.evaluation import token_losses
from llmbrain.exceptions import MaskError, ParameterError
from llmbrain.lesions import (
    LesionStudy,
    LossTask,
    lesion,
)


def curve(tiny, masks, over, doses, **kwargs):
    settings = {"tasks": LossTask(TEXTS), "n_controls": 4, "controls": ["layer+importance"], "reference": REFERENCE}
    options = {"doses": {over: doses}, **kwargs}
    return LesionStudy(masks, **settings, options=options).run(*tiny, progress=False)


def mean_loss(tiny):
    return np.concatenate(token_losses(*tiny, TEXTS)).mean()


@pytest.mark.parametrize(
    ("over", "doses", "options"),
    [
        ("strength", (0.0, 0.5, 1.0), lambda dose: {"strength": dose}),
        ("gain", (0.5, 1.0, 2.0), lambda dose: {"how": "scale", "value": dose}),
    ],
)
def test_each_dose_is_the_lesion_of_that_dose(tiny, masks, over, doses, options):
    got = curve(tiny, masks, over, doses).table
    intact = mean_loss(tiny)
    for mask in masks:
        for dose in doses:
            with lesion(tiny[0], mask, **options(dose)):
                expected = mean_loss(tiny) - intact
            row = got[(got.network == mask.name) & (got[over] == dose)].iloc[0]
            assert row.effect == pytest.approx(expected, abs=1e-5)
            assert row.n_neurons == mask.count


def test_nothing_happens_at_strength_0_and_gain_1(tiny, masks):
    for over, dose in (("strength", 0.0), ("gain", 1.0)):
        result = curve(tiny, masks, over, (dose,))
        np.testing.assert_allclose(result.table.effect, 0, atol=1e-6)
        np.testing.assert_allclose(result.controls.effect, 0, atol=1e-6)


def test_a_control_is_one_set_along_the_whole_curve(tiny, masks):
    both, alone = curve(tiny, masks, "strength", (0.5, 1.0)).controls, curve(tiny, masks, "strength", (1.0,)).controls
    pd.testing.assert_series_equal(
        both[both.strength == 1.0].effect.reset_index(drop=True), alone.effect.reset_index(drop=True), atol=1e-6
    )


@pytest.mark.parametrize(("over", "doses"), [("threshold", (1.0, 2.0)), ("n_neurons", (5, 20))])
def test_doses_of_size_take_the_neurons_they_say(tiny, masks, maps, over, doses):
    got = curve(tiny, masks, over, doses, maps=maps)
    z = np.abs(maps)
    for row in got.table.itertuples():
        k = [m.name for m in masks].index(row.network)
        expected = (z[k] > row.threshold).sum() if over == "threshold" else row.n_neurons
        assert row.n_neurons == expected
    if over == "threshold":
        sizes = got.table.set_index(["network", over]).n_neurons
        assert all(row.n_neurons == sizes[row.network, row.threshold] for row in got.controls.itertuples())
    assert got.controls.groupby(["network", over]).size().eq(4).all()
    assert (got.table.control_low <= got.table.control_high).all()


def test_bad_doses_are_refused(tiny, masks, maps):
    for over, doses, error, message in [
        ("size", (1,), ParameterError, "Choose from 'strength'"),
        ("strength", (2.0,), ParameterError, "gain"),
        ("strength", (), ParameterError, "at least one"),
        ("threshold", (9.0,), MaskError, "leave this threshold out"),
        ("n_neurons", (10**6,), ParameterError, "number of neurons"),
    ]:
        with pytest.raises(error, match=message):
            curve(tiny, masks, over, doses, maps=maps)
    with pytest.raises(ParameterError, match="need the maps"):
        curve(tiny, masks, "threshold", (1.0,))


def test_a_curve_may_match_by_importances_of_ones_own(tiny, masks):
    own = np.arange(masks[0].geometry.n_neurons, dtype=float)
    result = curve(tiny, masks, "strength", (1.0,), importance=own)
    assert result.info["family"]["layer+importance"].endswith("importance: given")
    assert result.table.n_controls.eq(4).all()


def test_dose_curves_can_be_drawn(tiny, masks, tmp_path):
    from llmbrain.plotting import plot_dose_response

    plot_dose_response(curve(tiny, masks, "strength", (0.0, 1.0)).table, x="strength", output_file=tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
