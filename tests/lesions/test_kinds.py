"""Lesion kinds: the contract of every member, and kinds that users add."""

import numpy as np
import pytest
import torch
from tiny import tiny_model

from llmbrain.exceptions import ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.lesions import KINDS, Edit, LesionKind, check_lesion_kind, lesion
from llmbrain.masks import NeuronMask


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


@pytest.fixture
def register():
    """Register kinds for one test."""
    added = []

    def add(name, **traits):
        added.append(name)
        return KINDS.register(name, **traits)

    yield add
    for name in added:
        del KINDS._members[name]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_keeps_the_contract(llama, name):
    check_lesion_kind(name, llama)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_declares_what_it_needs(llama, name):
    mask = NeuronMask(np.arange(192) < 9, NeuronGeometry.from_model(llama))
    member = KINDS[name]
    if member.needs_value or member.reference:
        with pytest.raises(ParameterError, match="needs"):
            Edit(mask, name)
    if not member.needs_value:
        with pytest.raises(ParameterError, match="takes no value="):
            Edit(mask, name, value=1.0)
    assert member.alternative in ("greater", "less")


@pytest.mark.parametrize("wrong", [{"how": "scale", "value": "two"}, {"how": "add", "value": {}}, {"strength": "1"}])
def test_values_that_are_no_numbers_are_one_sentence(llama, wrong):
    geometry = NeuronGeometry.from_model(llama)
    mask = NeuronMask(np.arange(geometry.n_neurons) < 3, geometry)
    with pytest.raises(ParameterError, match="must be"):
        lesion(llama, mask, **wrong)


def test_an_unknown_kind_answers_with_the_nearest(llama):
    mask = NeuronMask(np.arange(192) < 9, NeuronGeometry.from_model(llama))
    with pytest.raises(ParameterError, match="Did you mean 'resample'"):
        Edit(mask, "resampel")


def test_a_kind_of_ones_own_prepares_its_numbers_once(llama, register):
    prepared = []

    @register("clip", reference="samples")
    class Clip(LesionKind):
        """Limit the neurons to the range that they have on the reference text."""

        def prepare(self, given):
            prepared.append(given.shape)
            return np.stack([given.min(axis=0), given.max(axis=0)])

        def target(self, x, numbers, tokens):
            return torch.minimum(torch.maximum(x, numbers[0]), numbers[1])

    check_lesion_kind("clip", llama)
    geometry = NeuronGeometry.from_model(llama)
    mask = NeuronMask(geometry.layer_of == 1, geometry)
    del prepared[:]
    with lesion(llama, mask, "clip", reference=np.zeros((3, 192), np.float32)), torch.no_grad():
        clipped = [llama(torch.arange(5)[None]).logits for _ in range(2)]
    assert prepared == [(3, 48)]
    with lesion(llama, mask), torch.no_grad():
        expected = llama(torch.arange(5)[None]).logits
    torch.testing.assert_close(clipped[0], expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x.mul_(2), "changed in place"),
        (lambda x: x + torch.rand_like(x), "second call"),
        (lambda x: x[..., :1], "shape"),
        (lambda x: x - x.mean(), "row alone"),
    ],
)
def test_the_contract_finds_kinds_that_break_it(llama, register, wrong, message):
    @register("wrong")
    class Wrong(LesionKind):
        """Breaks the contract."""

        def target(self, x, numbers, tokens):
            return wrong(x)

    with pytest.raises(AssertionError, match=message):
        check_lesion_kind("wrong", llama)
