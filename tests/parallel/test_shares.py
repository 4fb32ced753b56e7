"""Shares: every item once, balanced, with files of their own."""

import numpy as np
import pytest

from llmbrain.exceptions import DatasetError, ParameterError
from llmbrain.parallel import Share, check_complete, only_launch, split


@pytest.mark.parametrize(("n", "count"), [(10, 3), (2, 5), (0, 2), (7, 7)])
def test_shares_hold_every_item_once_and_differ_by_one(n, count):
    shares = split(n, count)
    assert sorted(sum(shares, [])) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [Share(k, count).of(range(n)) for k in range(count)] == shares


def test_shares_are_balanced_by_cost():
    costs = np.random.default_rng(0).exponential(size=100)
    shares = split(100, 4, costs)
    assert sorted(sum(shares, [])) == list(range(100))
    loads = [costs[part].sum() for part in shares]
    assert max(loads) - min(loads) <= costs.max() / 2
    assert max(loads) < 1.02 * costs.sum() / 4


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(ParameterError, match="NUMBER/COUNT"):
        Share.parse(text)
    assert Share.parse(None) is None and str(Share.parse("3/40")) == "3/40"


def test_shares_have_files_of_their_own(tmp_path):
    whole, parts = tmp_path / "grid.tsv", [Share(k, 12) for k in range(12)]
    for part in parts:
        part.path(whole).touch()
    assert parts[9].path(whole).name == "grid.share-10-of-12.tsv"
    assert list(Share.find(whole)) == parts
    check_complete(parts, tmp_path)
    with pytest.raises(DatasetError, match="lacks the shares 3/12, 12/12"):
        check_complete(parts[:2] + parts[3:-1], tmp_path)
    with pytest.raises(DatasetError, match="different splits: of 2 and of 12"):
        check_complete([*parts, Share(0, 2)], tmp_path)


def test_a_second_launch_is_refused(tmp_path):
    with only_launch(tmp_path / "a.tsv"):
        with pytest.raises(DatasetError, match="Another launch is writing"), only_launch(tmp_path / "a.tsv"):
            pass
        with only_launch(tmp_path / "b.tsv"):
            pass
    with only_launch(tmp_path / "a.tsv"):
        pass
