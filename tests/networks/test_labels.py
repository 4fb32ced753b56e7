"""Hand labels: kept in the study, tied to their maps, used to choose networks."""

import os

import numpy as np
import pytest
from killing import end_at_step

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
        "decision\tname\naccepted\tn/a\n",
        "",
        "network\tdecision\tname\n0\taccepted\tn/a\tmore\tand more\n",
        "network\tdecision\tname\n0\taccepted\t\xff\n",
    ):
        path.write_bytes(damage.encode("latin-1"))
        with pytest.raises(DatasetError):
            HandLabels.load(study, networks)


def readable(study, networks):
    """Whether the labels of a study are those of some maps."""
    try:
        return HandLabels.load(study, networks, NAME) is not None
    except DatasetError:
        return False


def test_a_kill_never_puts_labels_beside_other_maps(networks, study):
    """Old labels of old maps are replaced by new ones; at every rename the table is refused or belongs to its maps."""
    HandLabels.blank(networks).set(0, "accepted").save(study, NAME)
    other = NetworkSet(networks.maps[::-1], networks.geometry)
    new = HandLabels.blank(other).set(3, "accepted")
    found = []
    for n in range(12):
        child = os.fork()
        if not child:
            end_at_step(n)
            new.save(study, NAME)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        owners = [maps for maps in (networks, other) if readable(study, maps)]
        assert len(owners) == 1  # the table belongs to the maps whose hash is beside it
        found.append(owners[0] is other)
        assert HandLabels.load(study, owners[0], NAME).accepted == ([3] if found[-1] else [0])
        HandLabels.blank(networks).set(0, "accepted").save(study, NAME)
        if code == 0:
            break
    assert code == 0 and found[-1] and not found[0]


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
        with pytest.raises(ParameterError, match="separated by commas|Pass a smaller range"):
            split_choice(wrong)


@pytest.mark.parametrize("text", ["5-3", "0,5-3", "canica20:2-1"])
def test_empty_ranges_are_refused(text):
    with pytest.raises(ParameterError, match="is empty"):
        split_choice(text)


def test_many_unknown_networks_make_a_short_message(study):
    with pytest.raises(ParameterError) as found:
        select_networks(study, list(range(100_000)))
    assert "4, 5, 6..." in str(found.value) and len(str(found.value)) < 100
