"""The playground agrees with lesions and losses of the package, and names its words."""

import numpy as np
import pytest
import torch
from recorded import HERON

from llmbrain.evaluation import generate_texts, token_losses
from llmbrain.exceptions import MaskError, ParameterError
from llmbrain.lesions import lesion
from llmbrain.lesions.kinds import KINDS
from llmbrain.masks import NeuronMask
from llmbrain.networks import NetworkSet
from llmbrain.viewer.explorer import Explorer
from llmbrain.viewer.playground import chosen_mask, control_families, parse_neurons, word_of


@pytest.fixture(scope="module")
def explorer(made, tiny):
    found = Explorer(made[0], load=lambda: tiny)
    found.start().thread.submit("wait", lambda job: None).result(60)
    assert found.status() == {"state": "ready", "message": ""}
    yield found
    found.close()


@pytest.fixture(scope="module")
def networks(made):
    return NetworkSet.load(made[0])


def test_a_lesion_changes_the_losses_as_the_package_says(explorer, tiny, networks):
    model, tokenizer = tiny
    found = explorer.lesion({"text": HERON, "networks": [0, 2], "threshold": 1.5}).result(60)
    masks = networks.masks(1.5)
    union = masks[0] | masks[2]
    assert found["n_neurons"] == union.count > 0
    plain = token_losses(model, tokenizer, [HERON])[0]
    with lesion(model, union):
        lesioned = token_losses(model, tokenizer, [HERON])[0]
    with lesion(model, union.matched_control("layer", random_state=0)):
        control = token_losses(model, tokenizer, [HERON])[0]
    for name, expected in (("intact", plain), ("lesion", lesioned), ("control", control)):
        np.testing.assert_allclose(found["losses"][name], expected, atol=2e-3)
        assert found["means"][name] == pytest.approx(expected.mean(), abs=1e-3)
    assert found["n_shared"] == (union & union.matched_control("layer", random_state=0)).count
    assert len(found["words"]) == len(found["tokens"]) == len(plain)


def test_the_next_tokens_are_those_that_move_most(explorer, tiny, networks):
    model, tokenizer = tiny
    request = {"text": HERON, "networks": [1], "threshold": 1.0}
    rows = explorer.lesion(request).result(60)["next"]
    ids = torch.tensor([tokenizer(HERON)["input_ids"]])
    with torch.no_grad():
        intact = model(ids).logits[0, -1].softmax(-1)
        with lesion(model, networks.masks(1.0)[1]):
            lesioned = model(ids).logits[0, -1].softmax(-1)
    moves = (lesioned - intact).abs()
    assert [abs(row["lesion"] - row["intact"]) for row in rows] == pytest.approx(
        moves.sort(descending=True).values[: len(rows)].tolist(), abs=1e-5
    )


def test_a_text_is_continued_in_the_condition_that_was_asked_for(explorer, tiny, networks):
    model, tokenizer = tiny
    request = {"text": HERON, "networks": [0], "threshold": 1.0, "new_tokens": 8}
    written = {c: explorer.write_on({**request, "condition": c}).result(60)["text"] for c in ("intact", "lesion")}
    assert written["intact"] == generate_texts(model, tokenizer, [HERON], max_new_tokens=8)[0].text
    with lesion(model, networks.masks(1.0)[0]):
        assert written["lesion"] == generate_texts(model, tokenizer, [HERON], max_new_tokens=8)[0].text
    with pytest.raises(ParameterError, match="at most"):
        explorer.write_on({**request, "condition": "intact", "new_tokens": 5000})


@pytest.mark.parametrize("how", list(KINDS))
def test_every_kind_of_lesion_works(explorer, how):
    request = {"text": HERON, "networks": [0], "threshold": 1.0, "how": how, "strength": 0.5, "value": 0.1}
    found = explorer.lesion(request).result(60)
    assert found["losses"]["lesion"] != found["losses"]["intact"]


@pytest.mark.parametrize("family", control_families())
def test_every_control_family_works(explorer, family):
    found = explorer.lesion({"text": HERON, "networks": [0], "threshold": 2.0, "control": family, "seed": 1})
    assert found.result(60)["control"] == family


def test_positions_are_honoured(explorer):
    request = {"text": HERON, "networks": [0], "threshold": 1.0}
    generated = explorer.lesion({**request, "positions": "generated"}).result(60)
    assert generated["losses"]["lesion"] == generated["losses"]["intact"]  # nothing of the text is generated
    assert explorer.lesion({**request, "positions": "prompt"}).result(60) == explorer.lesion(request).result(60)


def test_masks_are_made_as_they_are_asked_for(networks):
    own = [NeuronMask.from_names([(0, 1)], networks.geometry)]
    assert chosen_mask(networks, own, {"mask": 0}) is own[0]
    assert chosen_mask(networks, own, {"neurons": "0:1, 2:3-4"}).names == [(0, 1), (2, 3), (2, 4)]
    top = chosen_mask(networks, own, {"networks": [0, 1], "top": 5})
    strongest = np.argsort(-np.abs(networks.z[:2]).max(0))[:5]
    assert sorted(top.indices) == sorted(strongest)


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        ({}, MaskError, "No network is chosen"),
        ({"networks": [99]}, ParameterError, "no network 99"),
        ({"networks": "0"}, ParameterError, "list"),
        ({"networks": [0], "top": 0}, ParameterError, "top=0"),
        ({"networks": [0], "threshold": "high"}, ParameterError, "threshold"),
        ({"neurons": "0-1"}, ParameterError, "layer:unit"),
        ({"neurons": "0:5-2"}, ParameterError, "smaller unit first"),
        ({"neurons": "77:0"}, ParameterError, "Layer 77"),
        ({"mask": 3}, ParameterError, "no mask number"),
        ({"networks": [0], "threshold": 900.0}, MaskError, "empty"),
    ],
)
def test_wrong_requests_are_answered_with_a_sentence(explorer, request_, error, words):
    with pytest.raises(error, match=words):
        explorer.lesion({"text": HERON, **request_})


def test_strength_and_kind_are_checked(explorer):
    for wrong in ({"strength": 2}, {"how": "delete"}, {"how": "scale"}, {"positions": "never"}):
        with pytest.raises(ParameterError):
            explorer.lesion({"text": HERON, "networks": [0], "threshold": 1.0, **wrong}).result(60)


def test_neurons_are_read_from_text():
    assert parse_neurons(" 3:17 ;5:20-22\n") == [(3, 17), (5, 20), (5, 21), (5, 22)]
    with pytest.raises(ParameterError, match="at most"):
        parse_neurons("0:0-900000")


def test_words_begin_at_white_space():
    assert word_of(["The", " riv", "er", "\\n", "run", "s", " "]) == [0, 1, 1, 2, 3, 3, 4]
