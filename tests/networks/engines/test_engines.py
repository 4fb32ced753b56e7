"""The fast engine piece by piece: every shortcut against the long way round."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from planted import planted_runs, recovery
from scipy.signal import detrend

from llmbrain.exceptions import NumericalWarning, ParameterError
from llmbrain.networks.engines import fixed_point, linalg, polar, reduction
from llmbrain.networks.engines import ica as batched
from llmbrain.networks.engines import runs as blocks
from llmbrain.networks.engines.dictionary import sparse_dictionary
from llmbrain.networks.engines.group import group_ica
from llmbrain.networks.engines.parallel import block_map, workers
from llmbrain.stats.precision import full_precision


def white(c=6, v=4000, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((c, c)) @ rng.laplace(size=(c, v)) ** 3
    z -= z.mean(1, keepdims=True)
    values, vectors = np.linalg.eigh(z @ z.T / v)
    return torch.from_numpy(((vectors / np.sqrt(values)).T @ z).astype(np.float32))


# -- reading and cleaning -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("with_trend", [False, True])
@pytest.mark.parametrize("n_confounds", [0, 2])
def test_cleaning_is_nilearns(with_trend, n_confounds):
    from nilearn.signal import clean

    rng = np.random.default_rng(0)
    run = (1 + rng.standard_normal((80, 700)) * (0.3 + rng.gamma(1, size=700))).astype(np.float32)
    confounds = rng.standard_normal((80, n_confounds)) if n_confounds else None
    expected = clean(run, detrend=with_trend, standardize="zscore_sample", confounds=confounds)
    data = blocks.CleanedRuns([run], [confounds], detrend=with_trend)
    for _ in range(2):  # the second pass uses what the first one stored
        found = np.hstack([data.block(0, *b).numpy() for b in data.blocks(4096)])
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_trend_is_scipys():
    run = np.cumsum(np.random.default_rng(0).standard_normal((60, 50)), 0).astype(np.float32)
    data = blocks.CleanedRuns([run], detrend=True, standardize=False)
    np.testing.assert_allclose(data.block(0, 0, 50).numpy(), detrend(run, axis=0), atol=1e-4)


def test_blocks_of_any_size_hold_the_same(tmp_path):
    rng = np.random.default_rng(0)
    run = rng.standard_normal((30, 900)).astype(np.float32)
    path = tmp_path / "run.bin"
    path.write_bytes(b"head" + run.tobytes())
    columns = np.sort(rng.choice(900, 700, replace=False))

    def mapped():
        return np.memmap(path, np.float32, "r", 4, run.shape)

    for source in (
        blocks.ArraySource(mapped, 30, 900),
        blocks.ArraySource(lambda: run, 30, 900),
        blocks.ArraySource(lambda: run.astype(">f8"), 30, 900),
    ):
        out = np.empty((30, 333), np.float32)
        source.read(100, 433, out)
        np.testing.assert_array_equal(out, run[:, 100:433])
    some = blocks.ArraySource(mapped, 30, 700, columns)
    out = np.empty((30, 200), np.float32)
    some.read(50, 250, out)
    np.testing.assert_array_equal(out, run[:, columns[50:250]])


def test_gaps_between_columns_are_read_into_the_void(tmp_path):
    run = np.random.default_rng(0).standard_normal((20, 1000)).astype(np.float32)
    run.tofile(tmp_path / "run.bin")
    columns = np.setdiff1d(np.arange(1000), [0, 17, 18, 400, 401, 402, 999])
    mapped = np.memmap(tmp_path / "run.bin", np.float32, "r", 0, run.shape)
    for where in (columns, columns[100:500], columns[390:399], slice(3, 700)):
        out = np.zeros((20, len(run[0, where])), np.float32)
        assert blocks._read_file(mapped, where, out)
        np.testing.assert_array_equal(out, run[:, where])
    for where in (columns[::-1], np.arange(0, 1000, 3), np.arange(0, 1000, 2)):  # not worth it, or in another order
        assert blocks._pieces(where) is None
        source = blocks.ArraySource(lambda: mapped, 20, len(where), where)
        out = np.zeros((20, len(where)), np.float32)
        source.read(0, len(where), out)
        np.testing.assert_array_equal(out, run[:, where])


@pytest.mark.parametrize("offset", [0, 4, 3 * 4096 + 352])
def test_pieces_of_a_map_are_read_from_their_own_place(offset, tmp_path):
    run = np.random.default_rng(0).standard_normal((40, 900)).astype(np.float32)
    (tmp_path / "run.bin").write_bytes(bytes(offset) + run.tobytes())
    whole = np.memmap(tmp_path / "run.bin", np.float32, "r", offset, run.shape)
    flat = np.memmap(tmp_path / "run.bin", np.float32, "r", offset)
    for piece in (
        whole, whole[7:], whole[3:9], whole[2:20][3:], whole[39:], whole.reshape(80, 450)[11:],
        flat[1800:].reshape(-1, 300), flat.reshape(run.shape)[5:6], whole.view(np.uint8)[4:].view(np.float32),
    ):  # fmt: skip
        out = np.zeros((len(piece), 250), np.float32)
        assert blocks._read_file(piece, slice(20, 270), out)
        np.testing.assert_array_equal(out, np.array(piece)[:, 20:270])
    private = np.memmap(tmp_path / "run.bin", np.float32, "c", offset, run.shape)
    private[:] = 7  # in this process alone
    for other in (private, whole[3:].copy(), whole[::2], whole[::-1], whole[:, 100:500], whole + 1, np.asarray(whole)):
        out = np.zeros((len(other), 250), np.float32)
        assert not blocks._read_file(other, slice(20, 270), out)
        blocks.ArraySource(lambda other=other: other, *other.shape).read(20, 270, out)
        np.testing.assert_array_equal(out, np.array(other)[:, 20:270])


@pytest.mark.parametrize("n_tokens", [(300,), (150, 90, 60)])
@pytest.mark.parametrize("held", [True, False])
def test_gram_matrix_of_all_tokens(n_tokens, held):
    runs, _ = planted_runs(9000, 5, n_tokens)
    data = blocks.CleanedRuns(runs)
    if held:
        data.hold()
    x = np.concatenate([(r - r.mean(0)) / r.std(0, ddof=1) for r in runs]).astype(np.float64)
    found = [reduction.token_gram(data)]
    with workers(n=3):
        found.append(reduction.token_gram(data))
    np.testing.assert_allclose(found[0], x @ x.T, atol=1e-2)
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(found[0], found[0].T)


def test_rows_are_reordered_in_place():
    from llmbrain.networks.engines.maps import reorder

    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 20):
        rows, order = torch.from_numpy(rng.standard_normal((n, 5))), torch.from_numpy(rng.permutation(n))
        expected = rows[order]
        reorder(rows, order)
        assert torch.equal(rows, expected)


def test_integers_with_a_scale():
    stored = np.random.default_rng(0).integers(-9, 9, (20, 300)).astype(np.int16)
    scale = np.linspace(0.1, 2, 300).astype(np.float32)
    source = blocks.ArraySource(lambda: stored, 20, 300, None, scale)
    out = np.empty((20, 100), np.float32)
    source.read(200, 300, out)
    np.testing.assert_allclose(out, stored[:, 200:] * scale[200:], rtol=1e-6)


def test_bad_confounds():
    run = np.random.default_rng(0).standard_normal((20, 30)).astype(np.float32)
    with pytest.raises(ParameterError, match="finite"):
        blocks.CleanedRuns([run], [np.full((20, 1), np.nan)])
    with pytest.raises(ParameterError, match="as many confounds"):
        blocks.CleanedRuns([run], [None, None])
    with pytest.raises(ParameterError, match="same neurons"):
        blocks.CleanedRuns([run, run[:, :9]])


# -- linear algebra -------------------------------------------------------------------------------------------------
def test_krylov_finds_what_eigh_finds():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((300, 900)) * np.r_[np.linspace(6, 2, 12), np.ones(288)][:, None]
    matrix = torch.from_numpy(root @ root.T)
    values, vectors, residual = linalg.krylov_eigenpairs(lambda q: matrix @ q, 300, 12, tol=1e-8)
    exact, basis = linalg.leading_eigenpairs(matrix, 12)
    np.testing.assert_allclose(values, exact, rtol=1e-9)
    assert torch.linalg.matrix_norm(vectors.T @ basis, 2) == pytest.approx(1, abs=1e-9)
    assert residual < 1e-8


def test_krylov_on_data_equals_the_gram_matrix(monkeypatch):
    runs, _ = planted_runs(3000, 5, (150, 120))
    data = blocks.CleanedRuns(runs)
    exact, basis, _ = reduction.leading_rows(data, 5)
    monkeypatch.setattr(reduction, "GRAM_ROWS", 10)
    monkeypatch.setattr(reduction, "GRAM_ROWS_PER_VECTOR", 0)
    values, vectors, _ = reduction.leading_rows(data, 5)
    np.testing.assert_allclose(values, exact, rtol=1e-4)
    assert np.linalg.svd((vectors.T @ basis).numpy(), compute_uv=False).min() > 0.9999


def test_polar_factor_is_the_decorrelation():
    generator = torch.Generator().manual_seed(0)
    m = torch.randn(5, 40, 40, dtype=torch.float64, generator=generator)
    np.testing.assert_allclose(polar.polar_factor(m), linalg.symmetric_decorrelation(m), atol=1e-9)


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
def test_polar_factor_of_bad_matrices(condition):
    generator = torch.Generator().manual_seed(0)
    u, v = torch.linalg.qr(torch.randn(2, 30, 30, dtype=torch.float64, generator=generator)).Q
    m = 1e-9 * (u * torch.logspace(0, -np.log10(condition), 30, dtype=torch.float64)) @ v
    np.testing.assert_allclose(polar.polar_factor(m), u @ v, atol=1e-8)


def test_polar_factor_never_blows_up():
    w = polar.polar_factor(torch.diag(torch.tensor([1.0, 1e-12, 0.0], dtype=torch.float64)))
    assert torch.isfinite(w).all() and w.abs().max() < 1.1


# -- the fixed point ------------------------------------------------------------------------------------------------
def test_step_from_moments_is_the_step_over_the_data():
    z = white()
    w = fixed_point.draw_rotations(3, 6, 0)
    step = fixed_point._Step(z, "cube")
    direct = step._direct(w)
    step.moments = fixed_point._fourth_moments(z)
    np.testing.assert_allclose(step._from_moments(w), direct, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("contrast", "g", "slope"), [
    ("cube", lambda y: y**3, lambda y: 3 * y**2),
    ("logcosh", np.tanh, lambda y: 1 - np.tanh(y) ** 2),
])  # fmt: skip
def test_step_is_the_definition(contrast, g, slope):
    z = white()
    w = fixed_point.draw_rotations(2, 6, 0)
    y = w.numpy() @ z.double().numpy()
    expected = g(y) @ z.double().numpy().T / z.shape[1] - slope(y).mean(-1, keepdims=True) * w.numpy()
    np.testing.assert_allclose(fixed_point._Step(z, contrast)._direct(w), expected, rtol=1e-3, atol=1e-4)


def test_fastica_is_scikit_learns_step_by_step():
    from sklearn.decomposition import fastica as stock

    z = white(4)
    start = fixed_point.draw_rotations(1, 4, 0)
    ours = fixed_point.fastica(z, start)
    _, rotation, _, n_iter = stock(
        z.T.double().numpy(), 4, whiten=False, fun="cube", w_init=start[0].numpy(), return_n_iter=True
    )
    assert ours.n_iter[0] == n_iter
    np.testing.assert_allclose(ours.w[0], rotation, atol=1e-4)


def test_restarts_are_those_run_alone():
    z = white()
    starts = fixed_point.draw_rotations(4, 6, 0)
    together = fixed_point.fastica(z, starts)
    for i in range(4):
        alone = fixed_point.fastica(z, starts[i : i + 1])
        assert alone.n_iter[0] == together.n_iter[i]
        np.testing.assert_allclose(alone.w[0], together.w[i], atol=1e-4)


def test_batched_is_one_by_one():
    z = torch.stack([white(seed=s) for s in range(3)])
    starts = fixed_point.draw_rotations(6, 6, 0).reshape(3, 2, 6, 6)
    w, n_iter, converged, _ = batched.batched_fastica(z, starts, max_iter=100)
    for i in range(3):
        alone = fixed_point.fastica(z[i], starts[i], max_iter=100)
        np.testing.assert_array_equal(n_iter[i], alone.n_iter)
        np.testing.assert_array_equal(converged[i], alone.converged)
        np.testing.assert_allclose(w[i], alone.w, atol=1e-3)


# -- whole decompositions -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_in_one_batch_are_layers_one_by_one(dtype):
    cases = [planted_runs(1500, 5, (250,), seed=s, snr=1.0) for s in range(4)]
    layers = (torch.from_numpy(runs[0].copy()).to(dtype) for runs, _ in cases)
    found = batched.layered_ica(layers, 5, n_init=2)
    assert found.converged.all()
    for i, (runs, truth) in enumerate(cases):
        alone = group_ica(runs, 5)
        maps = found.maps[i].numpy()
        assert recovery(alone.maps, maps).min() > (0.9999 if dtype == torch.float32 else 0.999)
        np.testing.assert_allclose(found.variance[i], alone.variance, rtol=0.02)
        np.testing.assert_allclose(maps @ maps.T / 1500, np.eye(5), atol=1e-5)
        assert recovery(truth, maps).min() > 0.8


def test_group_model_is_chosen_by_the_tails_of_the_maps():
    runs, truth = planted_runs(6000, 6, (200,) * 4, snr=0.25)
    found = group_ica(runs, 6)
    assert found.group == "tokens" and found.tail_weights["tokens"] > found.tail_weights["runs"]
    rng = np.random.default_rng(0)
    for run in runs:  # strong directions that no two runs share, without structure
        run += (0.5 * rng.standard_normal((200, 12)) @ rng.standard_normal((12, 6000))).astype(np.float32)
    found = group_ica(runs, 6)
    assert found.group == "runs" and found.tail_weights["tokens"] < found.tail_weights["runs"]
    forced = group_ica(runs, 6, group="tokens", warn=False)
    assert recovery(truth, found.maps).mean() > recovery(truth, forced.maps).mean() + 0.2
    direct = group_ica(runs, 6, group="runs")
    assert recovery(direct.maps, found.maps).min() > 0.999
    assert found.tail_weights["runs"] == pytest.approx(group_ica(runs, 6).tail_weights["runs"])


@pytest.mark.parametrize("snr", [0.2, 0.5, 1.0])
def test_default_is_the_best_group_model_for_planted_networks(snr):
    for seed in (1, 2):
        runs, truth = planted_runs(1200, 4, (100,) * 4, snr=snr, seed=seed)
        models = ({"group": "tokens"}, {"group": "runs"}, {"group": "runs", "rows_per_run": 1}, {})
        *others, default = (recovery(truth, group_ica(runs, 5, n_init=2, warn=False, **m).maps).mean() for m in models)
        assert default > max(others) - 0.002


@pytest.mark.parametrize("search", [{"max_iter": 3}, {"max_iter": 5}, {"tol": 1e-8}, {"tol": 1e-2}, {}])
@pytest.mark.parametrize("group", ["tokens", "runs"])
@pytest.mark.filterwarnings("ignore::llmbrain.exceptions.NumericalWarning")
def test_choosing_the_group_model_leaves_no_trace_in_the_search(search, group):
    """The steps of the comparison are gone on from where they are part of this search, and forgotten where not."""
    runs, _ = planted_runs(3000, 5, (150, 120, 90), snr=0.25)
    rng = np.random.default_rng(0)
    for run in runs if group == "runs" else []:  # strong directions that no two runs share
        run += (0.5 * rng.standard_normal((len(run), 12)) @ rng.standard_normal((12, 3000))).astype(np.float32)
    chosen = group_ica(runs, 5, n_init=3, **search)
    forced = group_ica(runs, 5, n_init=3, group=group, **search)
    assert chosen.group == group and chosen.tail_weights and not forced.tail_weights
    assert (chosen.n_iter <= search.get("max_iter", 200)).all()
    assert recovery(forced.maps, chosen.maps).min() > (0.99 if search == {"max_iter": 3} else 0.9999)
    if group == "tokens":  # the two ways to the common rows of the runs give them other signs, so other starts
        assert chosen.chosen == forced.chosen
        np.testing.assert_array_equal(chosen.n_iter, forced.n_iter)
        np.testing.assert_array_equal(chosen.converged, forced.converged)


def test_runs_without_signal_are_refused_in_every_group_model():
    flat = [np.ones((50, 300), np.float32), np.zeros((40, 300), np.float32)]
    for group in ("runs", "tokens", "auto"):
        for runs in (flat, [np.full_like(run, np.nan) for run in flat]):
            with pytest.raises(ParameterError, match="Every neuron is constant or not finite in every run"):
                group_ica(runs, 3, group=group)
    runs, truth = planted_runs(300, 3, (100, 100), snr=2.0)
    found, alone = group_ica([*runs, flat[0]], 3, group="runs"), group_ica(runs, 3, group="runs")  # one of three
    assert recovery(alone.maps, found.maps).min() > 0.999


@pytest.mark.parametrize("seed", [None, np.random.RandomState(3), np.int64(3), 3])
def test_layers_in_one_batch_take_every_kind_of_seed(seed):
    layers = [torch.from_numpy(planted_runs(500, 3, (80,), seed=s, snr=2.0)[0][0]) for s in range(3)]
    found = batched.layered_ica([x.clone() for x in layers], 3, random_state=seed)
    fixed = batched.layered_ica([x.clone() for x in layers], 3, random_state=3)
    for a, b in zip(found.maps.numpy(), fixed.maps.numpy()):
        assert recovery(a, b).min() > 0.99
    if isinstance(seed, (int, np.integer)):
        assert torch.equal(found.maps, fixed.maps)
    again = [batched.layered_ica([x.clone() for x in layers], 3, random_state=np.random.RandomState(5)) for _ in "ab"]
    assert torch.equal(again[0].maps, again[1].maps)


def test_batches_are_computed_in_full_precision_whatever_is_set(monkeypatch):
    seen = []

    def spy(*args):
        seen.append(torch.get_float32_matmul_precision())
        return polar.polar_factor(*args)

    monkeypatch.setattr(batched, "polar_factor", spy)
    torch.set_float32_matmul_precision("high")
    try:
        batched.batched_fastica(white(3, 500)[None], fixed_point.draw_rotations(2, 3, 0)[None], max_iter=3)
        batched.layered_ica([torch.randn(40, 90, generator=torch.Generator().manual_seed(0))], 2, max_iter=3)
        with workers("meta"):  # what every decomposition on another device than the CPU runs in
            seen.append(torch.get_float32_matmul_precision())
        with pytest.raises(ParameterError):
            batched.layered_ica([torch.ones(3, 3)], 9)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert len(seen) == 7 and set(seen) == {"highest"}


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="needs the switches of torch 2.9")
def test_either_switch_of_precision_is_put_back_as_it_was():
    def state():
        return torch.backends.cuda.matmul.fp32_precision

    try:
        for value in ("tf32", "ieee", "none"):  # "tf32" makes torch refuse to name the older setting
            torch.backends.cuda.matmul.fp32_precision = value
            with full_precision():
                assert torch.get_float32_matmul_precision() == "highest" and state() == "ieee"
            assert state() == value
        torch.set_float32_matmul_precision("medium")
        with full_precision(), full_precision():
            assert state() == "ieee"
        assert torch.get_float32_matmul_precision() == "medium" and state() == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision = "none"


def test_parts_in_one_batch_have_the_same_results():
    from llmbrain.networks.engines.layers import can_batch, group_ica_of_parts

    cases = [planted_runs(900, 4, (150, 100), seed=s, snr=1.0)[0] for s in range(3)]
    cases[1][0][:, 7], cases[1][1][:, 7] = 2, 3
    parts = [blocks.as_sources(runs) for runs in cases]
    assert can_batch(parts, "cuda", "tokens", "cube") and not can_batch(parts, "cpu", "tokens", "cube")
    assert not can_batch(parts, "cuda", "runs", "cube") and not can_batch(parts[:1], "cuda", "tokens", "cube")
    with pytest.warns(NumericalWarning, match="1 of 900"):
        found = group_ica_of_parts(parts, 4, n_init=2, device="cpu", dtype=torch.float32)
    for runs, result in zip(cases, found):
        alone = group_ica(runs, 4, n_init=2, group="tokens", warn=False)
        assert recovery(alone.maps, result.maps).min() > 0.999
        np.testing.assert_allclose(result.variance, alone.variance, rtol=1e-2)
        assert [c.shape for c in result.time_courses] == [(150, 4), (100, 4)]
        np.testing.assert_array_equal(result.dead, alone.dead)


def test_exact_engine_is_never_worse_than_stock_and_keeps_weak_networks():
    from llmbrain.networks import CanICA

    for snr in (0.15, 0.3):
        runs, truth = planted_runs(8000, 8, (256, 256, 256), snr=snr, seed=3)
        stock = recovery(truth, CanICA(8, engine="nilearn", n_init=2).fit(runs).components_).mean()
        same = recovery(truth, group_ica(runs, 8, group="runs", rows_per_run=1).maps).mean()
        more = recovery(truth, group_ica(runs, 8, group="runs").maps).mean()
        default = recovery(truth, group_ica(runs, 8).maps).mean()
        assert same > stock - 0.005
        assert more > same - 0.005
        assert default > more - 0.005
    assert default > 0.5


def test_gram_matrix_of_many_tokens_is_one_sum_for_all_workers():
    runs, _ = planted_runs(5000, 4, (300, 200, 140))
    expected = np.vstack([(x - x.mean(0)) / x.std(0, ddof=1) for x in (r.astype(np.float64) for r in runs)])
    found = []
    for n in (1, 2, 3):
        with workers(n=n):
            found.append(reduction.token_gram(blocks.CleanedRuns(runs)))
    np.testing.assert_allclose(found[0], expected @ expected.T, atol=0.02)
    assert torch.equal(found[0], found[0].T) and all(torch.equal(found[0], f) for f in found[1:])


def test_a_start_goes_on_where_it_was_left():
    runs, _ = planted_runs(2000, 4, (100,))
    data = blocks.CleanedRuns(runs)
    z = reduction.whiten(data, reduction.group_subspace(data, 4))
    starts = fixed_point.draw_rotations(3, 4, 0)
    whole = fixed_point.fastica(z, starts)
    begun = fixed_point.fastica(z, starts[:1], max_iter=3)
    later = fixed_point.fastica(z, starts, begun=begun)
    assert begun.n_iter[0] == 3 and later.n_iter.tolist() == whole.n_iter.tolist()
    np.testing.assert_allclose(later.w, whole.w, atol=1e-6)


def test_subspace_is_orthonormal_in_every_group_model():
    runs, _ = planted_runs(2000, 4, (100, 80, 60))
    data = blocks.CleanedRuns(runs)
    for options in ({"group": "tokens"}, {"group": "runs"}, {"group": "runs", "do_cca": False, "rows_per_run": 1}):
        rows = reduction.project(data, reduction.group_subspace(data, 4, **options)).double()
        np.testing.assert_allclose(rows @ rows.T, np.eye(4), atol=1e-5)


def test_short_runs_give_fewer_rows():
    runs, truth = planted_runs(3000, 5, (12,) * 30, snr=1.5)  # fewer tokens a run than components asked for thrice
    found = group_ica(runs, 5, group="runs")
    assert recovery(truth, found.maps).min() > 0.8


def test_dictionary_lowers_its_objective_and_leaves_no_gradient():
    rng = np.random.default_rng(0)
    codes = torch.from_numpy((rng.laplace(size=(5, 3000)) * (rng.random((5, 3000)) < 0.05)).astype(np.float32))
    x = torch.from_numpy(rng.standard_normal((20, 5)).astype(np.float32)) @ codes
    x += 0.1 * torch.from_numpy(rng.standard_normal((20, 3000)).astype(np.float32))
    found = sparse_dictionary(x, codes + 0.1 * torch.randn_like(codes), 0.3, tol=1e-6)
    assert found.converged and (np.diff(found.objective) <= 1e-6 * found.objective[0]).all()
    rest = x.double() - found.atoms @ found.codes.double()
    assert found.objective[-1] == pytest.approx(
        0.5 * float(rest.square().sum()) + 0.3 * float(found.codes.abs().sum()), rel=1e-4
    )
    pull = found.atoms.T @ rest  # zero codes stay zero, the others balance the penalty
    assert float(pull.abs()[found.codes == 0].max()) < 0.3 * 1.02
    assert float((pull - 0.3 * found.codes.sign())[found.codes != 0].abs().max()) < 0.02


def test_more_components_than_signal_is_said():
    runs, _ = planted_runs(1500, 3, (120,), snr=1.0)
    with pytest.warns(NumericalWarning, match="did not converge"):
        found = group_ica(runs, 20, max_iter=30)
    assert np.isfinite(found.maps).all() and not found.converged.all()


# -- threads and memory ---------------------------------------------------------------------------------------------
def test_block_map_keeps_order_and_passes_errors():
    with workers(n=3):
        assert list(block_map(lambda i: i * i, range(50))) == [i * i for i in range(50)]
        with pytest.raises(ZeroDivisionError):
            list(block_map(lambda i: 1 / (i - 5), range(10)))
    before = torch.get_num_threads()
    with workers(n=2):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_engine_imports_without_nilearn_and_nibabel():
    code = (
        "import sys; sys.modules['nilearn'] = sys.modules['nibabel'] = sys.modules['pandas'] = None; "
        "from llmbrain.networks.engines import ica; from llmbrain.networks import group_ica"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_is_below_one_run(tmp_path):
    code = """
import sys, warnings
import numpy as np
import nilearn.decomposition, torch
from llmbrain.geometry import NeuronGeometry
from llmbrain.networks import CanICA
def memory(field):
    return next(int(x.split()[1]) / 1024 for x in open("/proc/self/status") if x.startswith(field))
geometry = NeuronGeometry.from_sizes([2048] * 24)
path = sys.argv[1]
CanICA(8, n_init=2).fit(np.random.default_rng(0).standard_normal((60, 900)).astype(np.float32))
before = memory("VmRSS")
CanICA(8, n_init=2, geometry=geometry).fit([path])
print(memory("VmHWM") - before)
"""
    from llmbrain.geometry import NeuronGeometry

    geometry = NeuronGeometry.from_sizes([2048] * 24)
    rng = np.random.default_rng(0)
    run = rng.standard_normal((400, geometry.n_neurons), dtype=np.float32)
    run += rng.laplace(size=(400, 8)).astype(np.float32) @ rng.laplace(size=(8, geometry.n_neurons)).astype(np.float32)
    geometry.to_img(run).to_filename(tmp_path / "run.nii")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "run.nii")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.0 * run.nbytes / 2**20
