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
