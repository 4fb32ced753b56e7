"""Scores against their formulas and brute force."""

import pytest
import torch
from blockwise import moments_of

from llmbrain.exceptions import ParameterError
from llmbrain.pruning import scores as sc
from llmbrain.pruning.compensation import compensate, output_error, schur_residual
from llmbrain.pruning.equations import removed_of


def test_simple_scores_are_their_formulas(data):
    m, w = moments_of(data["x"]), data["w"].double()
    torch.testing.assert_close(sc.magnitude(w), w.norm(dim=0))
    rms = data["x"].double().square().mean(0).sqrt()
    wanda = torch.stack([(w[:, j].abs() * rms[j]).mean() for j in range(30)])
    torch.testing.assert_close(sc.wanda_sp(w, m.second_moment), wanda, rtol=1e-5, atol=1e-6)
    fluctuation = data["x"].double().var(0, correction=0) * w.norm(dim=0) ** 2
    torch.testing.assert_close(sc.flap(w, m.variance), fluctuation, rtol=1e-5, atol=1e-6)


def test_obs_column_is_the_error_of_removing_one_column(data):
    m = moments_of(data["x"])
    score = sc.obs_column(data["w"], m.gram, ridge=1e-9)
    for j in (0, 7, 29):
        kept = removed_of(torch.tensor([j]), 30)
        refit = compensate(data["w"], m, kept, "ridge", 1e-9)
        assert float(score[j]) * 2 == pytest.approx(output_error(data["w"], m, kept, refit), rel=0.02)


def test_greedy_elimination_equals_refitting_after_every_step(data):
    m = moments_of(data["x"])
    score = sc.greedy_obs(data["w"], m.covariance, ridge=1e-7)
    order = score.argsort()
    left = list(range(30))
    for step in range(12):  # brute force: try every column, refit all others
        errors = {j: schur_residual(data["w"], m.covariance, torch.tensor([i for i in left if i != j])) for j in left}
        best = min(errors, key=errors.get)
        assert int(order[step]) == best
        assert float(score[best]) == pytest.approx(errors[best], rel=0.02, abs=1e-4)
        left.remove(best)


def test_obs_blocks_are_the_error_of_removing_a_block(data):
    m = moments_of(data["x"])
    score = sc.obs_blocks(data["w"], m.gram, 5, ridge=1e-9)
    assert len(score) == 6
    kept = torch.arange(5, 30)
    refit = compensate(data["w"], m, kept, "ridge", 1e-9)
    assert 2 * float(score[0]) == pytest.approx(output_error(data["w"], m, kept, refit), rel=0.02)


def test_leverage_sums_to_the_effective_rank(data):
    m = moments_of(data["x"])
    leverage = sc.ridge_leverage(m.covariance, ridge=1e-2)
    c = m.covariance
    penalty = 1e-2 * float(c.diagonal().mean())
    values = torch.linalg.eigvalsh(c)
    assert float(leverage.sum()) == pytest.approx(float((values / (values + penalty)).sum()), rel=1e-3)


def test_dead_units_score_nothing(data):
    x = data["x"].clone()
    x[:, 3] = 0
    m = moments_of(x)
    for score in (sc.obs_column(data["w"], m.gram), sc.ridge_leverage(m.covariance), sc.flap(data["w"], m.variance)):
        assert float(score[3]) == 0


def test_block_sum_refuses_what_does_not_divide():
    with pytest.raises(ParameterError, match="heads of 3"):
        sc.block_sum(torch.ones(4), 3)
