"""What a lesion result says about itself."""

import pandas as pd
import pytest

from llmbrain.lesions import LesionResult


@pytest.mark.parametrize(("networks", "word"), [([], "masks"), (["1f2e"], "networks")])
def test_sets_that_come_from_no_network_are_called_masks(networks, word):
    row = {"network": "mine", "task": "loss", "family": "layer", "effect": 0.4, "ci_low": 0.3, "ci_high": 0.5}
    row |= {"control_max": 0.1, "p": 0.05, "q": 0.05, "q_pooled": 0.04, "n_controls": 19}
    result = LesionResult(pd.DataFrame([row]), None, None, {"networks": networks})
    assert f"1 of 1 {word} do more harm than each of their 19 controls" in result.summary()
    assert f"LesionResult(1 {word[:-1]} on loss" in repr(result)


@pytest.mark.parametrize("family", ["layer", "layer+kurtosis", "permuted", "gone"])
def test_controls_that_are_the_lesion_itself_are_named(family):
    row = {"network": "whole layer", "task": "loss", "family": family, "effect": 0.4, "ci_low": 0.3, "ci_high": 0.5}
    row |= {"control_max": 0.4, "p": 1.0, "q": 1.0, "q_pooled": 1.0, "n_controls": 2}
    controls = pd.DataFrame({"network": ["whole layer", "small"] * 2, "task": "loss", "family": family})
    result = LesionResult(pd.DataFrame([row]), controls.assign(overlap=[1.0, 0.4] * 2), None, {})
    said = f"Controls by {family} are mostly the lesioned neurons themselves: whole layer (100%)." in result.summary()
    assert said == family.startswith("layer") and "small" not in result.summary()
