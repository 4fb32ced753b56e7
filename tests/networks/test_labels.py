"""Hand labels: kept in the study, tied to their maps, used to choose networks."""

import numpy as np
import pytest

from llmbrain.dataset import Study
from llmbrain.exceptions import DatasetError, ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.networks import NetworkSet
from llmbrain.networks.labels import HandLabels, chosen_networks, select_networks, split_choice

NAME = "canica4"


@pytest.fixture
def networks():
    maps = np.random.default_rng(0).laplace(size=(4, 60)) ** 3
    return NetworkSet(maps, NeuronGeometry.from_sizes([30, 30]), info={"method": "CanICA"})


@pytest.fixture
def study(networks, tmp_path):
    study = Study.create(tmp_path / "study", {"id": "tiny", "weights_hash": "0"}, "demo")
    networks.save(study)
    return study


def test_labels_survive_a_save(networks, study):
    labels = HandLabels.blank(networks).set(2, "accepted", "numbers").set(0, decision="rejected").set(2, name="n/a?")
    labels.save(study, NAME)
    again = HandLabels.load(study, NetworkSet.load(study))
    assert again.decisions == ["rejected", "undecided", "accepted", "undecided"]
    assert again.names == ["", "", "n/a?", ""] and again.accepted == [2]


def test_labels_of_other_maps_are_refused(networks, study):
    HandLabels.blank(networks).save(study, NAME)
    other = NetworkSet(networks.maps[::-1], networks.geometry)
    with pytest.raises(DatasetError, match="other networks"):
        HandLabels.load(study, other, NAME)


def test_damaged_tables_are_refused(networks, study):
    path = HandLabels.blank(networks).save(study, NAME)
    for damage in (
        "network\tdecision\tname\n0\tmaybe\tn/a\n",
        "network\tname\n0\tn/a\n",
        "network\tdecision\tname\n0\taccepted\tn/a\n",
    ):
        path.write_text(damage)
        with pytest.raises(DatasetError):
            HandLabels.load(study, networks)


def test_networks_are_chosen_by_their_labels(networks, study):
    assert select_networks(study, "all") == [0, 1, 2, 3]
    assert select_networks(study, [3, 1]) == [1, 3]
    with pytest.raises(DatasetError, match="llmbrain view"):
        select_networks(study, "accepted")
    labels = HandLabels.blank(networks).set(0, "rejected")
    labels.save(study, NAME)
    with pytest.raises(ParameterError, match="No network is accepted"):
        select_networks(study, "accepted")
    labels.set(2, "accepted").save(study, NAME)
    assert select_networks(study, "accepted") == [2]
    assert select_networks(study, "not-rejected") == [1, 2, 3]
    for wrong in ("good", [4], []):
        with pytest.raises(ParameterError):
            select_networks(study, wrong)


def test_wrong_labels_are_refused(networks):
    labels = HandLabels.blank(networks)
    for wrong in ((4, "accepted", None), (-1, None, "x"), (0, "good", None), (0, None, "a\tb"), (0, None, "x" * 81)):
        with pytest.raises(ParameterError):
            labels.set(*wrong)
    assert labels.decisions == ["undecided"] * 4 and labels.names == [""] * 4


def test_chosen_networks_keep_their_maps_and_numbers(networks, study):
    HandLabels.blank(networks).set(3, "accepted").set(1, "accepted").save(study, NAME)
    chosen = chosen_networks(study, "accepted")
    assert chosen.metrics["network"].tolist() == [1, 3]
    np.testing.assert_array_equal(chosen.maps, networks.maps[[1, 3]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, (None, "all")),
        ("canica20", ("canica20", "all")),
        ("accepted", (None, "accepted")),
        ("canica20:not-rejected", ("canica20", "not-rejected")),
        ("0,4-6", (None, [0, 4, 5, 6])),
        ("canica20:3", ("canica20", [3])),
    ],
)
def test_choices_are_read(text, expected):
    assert split_choice(text) == expected


def test_wrong_choices_are_refused():
    for wrong in ("0,x", "3-", "0-99999999"):
        with pytest.raises(ParameterError, match="separated by commas"):
            split_choice(wrong)
