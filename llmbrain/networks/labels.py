"""Labels that a person gives to networks: accepted, rejected, a name. Stored as a table in the study.

They belong to the maps they were given to: a hash of the maps is stored beside them, and labels of other maps are
refused, because network 3 of a new decomposition need not be the old network 3.
"""

import hashlib

import numpy as np

from ..dataset import as_study, result_name
from ..dataset.checks import read_own
from ..dataset.publication import publish_together, recover
from ..exceptions import DatasetError, ParameterError, check_count, read_numbers
from ..files import with_hashes
from ..registry import choose
from .result import NetworkSet

DECISIONS = ("accepted", "rejected", "undecided")
CHOICES = ("all", "accepted", "not-rejected")
LONGEST_NAME = 80
COLUMNS = {
    "network": {"Description": "Number of the network, from 0."},
    "decision": {
        "Description": "What a person decided.",
        "Levels": {
            "accepted": "It is used.",
            "rejected": "It is an artefact, or of no interest.",
            "undecided": "Nobody has decided yet.",
        },
    },
    "name": {"Description": "Name that a person gave, or n/a."},
}


class HandLabels:
    """The labels of one set of networks.

    Parameters
    ----------
    decisions : sequence of {"accepted", "rejected", "undecided"}
        One per network.
    names : sequence of str
        One per network; empty for networks without a name.
    maps_hash : str
        Of the maps that the labels belong to, see :func:`maps_hash`.

    Examples
    --------
    >>> labels = HandLabels(["undecided", "undecided"], ["", ""], "0123")
    >>> labels.set(1, decision="accepted", name="numbers").accepted
    [1]
    """

    def __init__(self, decisions, names, maps_hash):
        self.decisions = [choose("decision", decision, DECISIONS) for decision in decisions]
        self.names, self.maps_hash = [_checked_name(name) for name in names], maps_hash

    def __len__(self):
        return len(self.decisions)

    @classmethod
    def blank(cls, networks):
        """Make labels in which nothing is decided for a :class:`NetworkSet`."""
        return cls(["undecided"] * len(networks), [""] * len(networks), maps_hash(networks))

    def set(self, network, decision=None, name=None):
        """Change the decision or the name of a network; returns the labels.

        Raises
        ------
        ParameterError
            If there is no such network, the decision is unknown, or the name is too long.
        """
        check_count("network", network, 0)
        if network >= len(self):
            raise ParameterError(f"network={network}: there are {len(self)} networks, 0 to {len(self) - 1}.")
        decision = None if decision is None else choose("decision", decision, DECISIONS)
        name = None if name is None else _checked_name(name)
        if decision is not None:
            self.decisions[network] = decision
        if name is not None:
            self.names[network] = name
        return self

    def having(self, decision):
        """Numbers of the networks with a decision, a list."""
        return [k for k, one in enumerate(self.decisions) if one == choose("decision", decision, DECISIONS)]

    @property
    def accepted(self):
        """Numbers of the accepted networks."""
        return self.having("accepted")

    @property
    def table(self):
        """The labels as a data frame: ``network, decision, name``."""
        import pandas as pd

        names = [name or np.nan for name in self.names]
        return pd.DataFrame({"network": range(len(self)), "decision": self.decisions, "name": names})

    def save(self, study, desc):
        """Write the table and its description into a study; returns the path of the table.

        Both are published as one, so that a table never stands beside the hash of other maps.
        """
        study = as_study(study)
        path, description = study.path("labels", desc=desc), with_hashes({**COLUMNS, "MapsHash": self.maps_hash})
        publish_together(study.path("labels_json", desc=desc), {path: self.table}, lambda _: description, lambda: ())
        return path

    @classmethod
    def load(cls, study, networks, desc=None):
        """Read the labels of a set of networks.

        Parameters
        ----------
        study : Study or path-like
        networks : NetworkSet
            The networks that the labels must belong to.
        desc : str, optional
            Name of the networks in the study; by default :attr:`NetworkSet.name`.

        Returns
        -------
        HandLabels or None
            None if there are none.

        Raises
        ------
        DatasetError
            If they were given to other networks, or the table is damaged.
        """
        study, desc = as_study(study), desc or networks.name
        path = study.path("labels", desc=desc)
        recover(path.parent)
        table = study.read("labels", desc=desc, dtype={"name": str, "decision": str})
        if table is None:
            return None
        described = study.path("labels_json", desc=desc)
        if not described.is_file() or read_own(described).get("MapsHash") != maps_hash(networks):
            raise DatasetError(
                f"The labels in {path} were given to other networks than those that are in the study now. Move the "
                "file away and label the new networks."
            )
        missing = [name for name in ("network", "decision", "name") if name not in table]
        if missing:
            raise DatasetError(f"{path} has no column {missing[0]!r}. Restore it, or move it away.")
        if table["network"].tolist() != list(range(len(networks))):
            raise DatasetError(f"{path} must have one line per network, 0 to {len(networks) - 1}. Restore it.")
        try:
            return cls(table["decision"].tolist(), table["name"].fillna("").tolist(), maps_hash(networks))
        except ParameterError as error:
            raise DatasetError(f"{path} cannot be read: {error} Restore it, or move it away.") from error


def maps_hash(networks):
    """Short hash of the maps of a :class:`NetworkSet`."""
    return hashlib.sha256(np.ascontiguousarray(networks.maps).tobytes()).hexdigest()[:16]


def select_networks(study, which, desc=None, networks=None):
    """Numbers of the networks of a study that a user asks for.

    ``which`` is ``"all"``, ``"accepted"`` or ``"not-rejected"``, which use the labels that were given by hand
    (``llmbrain view``), or numbers. ``desc`` names the networks, if the study holds several; ``networks`` are those of
    the study, if they are loaded already. It is an error if no network is left, one that is asked for is not there, or
    there are no labels of these networks.
    """
    if networks is None:
        desc = result_name(as_study(study), "networks", desc)
        networks = NetworkSet.load(study, desc)
    everything = list(range(len(networks)))
    if not isinstance(which, str):
        unknown = sorted(set(which) - set(everything))
        if unknown or not len(which):
            shown = ", ".join(map(str, unknown[:3])) + ("..." if len(unknown) > 3 else "")
            wrong = f"There is no network {shown}" if unknown else "No network is chosen"
            raise ParameterError(f"{wrong}: choose some of 0 to {len(networks) - 1}.")
        return sorted(set(which))
    if choose("choice of networks", which, CHOICES) == "all":
        return everything
    labels = HandLabels.load(study, networks, desc)
    if labels is None:
        root = as_study(study).root
        raise DatasetError(f"No network of {root} is labelled yet. Label them with 'llmbrain view {root}'.")
    chosen = labels.accepted if which == "accepted" else sorted(set(everything) - set(labels.having("rejected")))
    if not chosen:
        raise ParameterError(f"No network is {which.replace('-', ' ')}. Accept some with 'llmbrain view'.")
    return chosen


def chosen_networks(study, choice=None):
    """Load the networks of a study that a user asks for with a choice as in :func:`split_choice`.

    They are numbered anew; ``metrics["network"]`` holds their numbers in the study.
    """
    name, which = split_choice(choice)
    name = result_name(as_study(study), "networks", name)
    networks = NetworkSet.load(study, name)
    rows = select_networks(study, which, name, networks)
    courses = networks.time_courses and [course[:, rows] for course in networks.time_courses]
    support = None if networks.support is None else networks.support[rows]
    metrics = networks.metrics.iloc[rows].reset_index(drop=True)
    return NetworkSet(networks.maps[rows], networks.geometry, metrics, networks.info, courses, support)


def split_choice(text):
    """Read which networks a user asks for: a name, a choice for :func:`select_networks`, or both with a colon.

    Examples
    --------
    >>> split_choice("accepted"), split_choice("canica20"), split_choice("canica20:0,4-6")
    ((None, 'accepted'), ('canica20', 'all'), ('canica20', [0, 4, 5, 6]))
    """
    if text is not None and not isinstance(text, str):
        raise ParameterError(f"networks={text!r}: pass a name or a choice as text, such as 'canica20' or '0,4-6'.")
    name, colon, which = (text or "").rpartition(":")
    if not colon and which not in CHOICES and not which[:1].isdecimal():
        return which or None, "all"
    if which[:1].isdecimal():
        which = read_numbers("networks", which)
    return name or None, which


def _checked_name(name):
    if not isinstance(name, str) or len(name) > LONGEST_NAME or not name.isprintable():
        raise ParameterError(f"The name {name!r} must be printable text of at most {LONGEST_NAME} characters.")
    return name.strip()
