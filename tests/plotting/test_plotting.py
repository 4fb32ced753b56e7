"""Figures: what they show is tied to the arrays behind them, and their structure to what a reader needs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from synthetic import Networks, activations, events, lesion_tables, planted_maps, prune_table, time_courses

from llmbrain import plotting
from llmbrain.exceptions import GeometryMismatchError, ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.lesions import DoseResponse, LesionResult
from llmbrain.networks import CanICA, NetworkSet
from llmbrain.plotting import style
from llmbrain.plotting.carpet import carpet_rows
from llmbrain.plotting.sheets import as_maps, layer_shares, sheet_mosaic, signed_max, unit_mosaic
from llmbrain.subjects import Comparison
from llmbrain.topography import fit_topography

GEOMETRY = NeuronGeometry.from_sizes([96] * 6, layers=[2, 3, 5, 7, 11, 13])
UNEVEN = NeuronGeometry.from_sizes([50, 97, 13])


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def maps():
    return planted_maps(GEOMETRY, 6)


@pytest.fixture(scope="module")
def table_of_tokens():
    return events(120)


def texts(fig):
    """All words on a figure."""
    fig.canvas.draw()
    return [t.get_text() for t in fig.findobj(plt.matplotlib.text.Text) if t.get_text().strip() and t.get_visible()]


def inside(fig):
    """Whether all visible words lie on the figure, with a pixel to spare."""
    fig.canvas.draw()
    renderer = fig.canvas.get_renderer()
    width, height = fig.get_size_inches() * fig.dpi
    hidden = _not_drawn(fig)
    for text in fig.findobj(plt.matplotlib.text.Text):
        if not text.get_text().strip() or not text.get_visible() or text in hidden:
            continue
        box = text.get_window_extent(renderer)
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1:
            return f"{text.get_text()!r} leaves the figure: {box.extents} of {width} x {height}"
    return True


def _not_drawn(fig):
    """Labels of ticks beyond the limits of an axis, and of axes that are switched off."""
    hidden = set()
    for axes in fig.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.majorTicks, *axis.minorTicks]:
                if not axes.axison or not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                    hidden |= {tick.label1, tick.label2}
            if not axes.axison:
                hidden |= {axis.label, axis.offsetText}
    return hidden


# -- arrays behind the pictures -----------------------------------------------------------------------------------
@pytest.mark.parametrize("geometry", [GEOMETRY, UNEVEN])
def test_a_mosaic_holds_every_neuron_once_at_its_sheet(geometry):
    values = np.arange(geometry.n_neurons, dtype=float)
    mosaic, corners = sheet_mosaic(values, geometry)
    found = mosaic[~np.isnan(mosaic)]
    np.testing.assert_array_equal(np.sort(found), values)
    rows, cols = geometry.shape[1:]
    for i, (top, left) in enumerate(corners):
        sheet = mosaic[top : top + rows, left : left + cols].ravel()
        np.testing.assert_array_equal(sheet[: geometry.sizes[i]], geometry.split(values)[i])


def test_a_mosaic_equals_the_slices_of_the_image():
    """Two ways to the same sheet: the mosaic, and the volume that is written as NIfTI."""
    values = np.random.default_rng(0).normal(size=GEOMETRY.n_neurons).astype(np.float32)
    mosaic, corners = sheet_mosaic(values, GEOMETRY)
    volume = np.asarray(GEOMETRY.to_img(values).dataobj)
    rows, cols = GEOMETRY.shape[1:]
    for i, (top, left) in enumerate(corners):
        np.testing.assert_array_equal(mosaic[top : top + rows, left : left + cols], volume[i])


def test_pooled_units_keep_the_strongest_neuron_and_its_sign():
    values = np.zeros(UNEVEN.n_neurons)
    values[[3, 60, 150]] = [5, -7, 2]
    picture = unit_mosaic(values, UNEVEN, n_bins=10)
    assert np.nanmax(picture) == 5 and np.nanmin(picture) == -7
    assert np.isnan(picture[2, -1]) and picture.shape[0] == 3
    assert signed_max(np.array([[1, -4, np.nan], [np.nan] * 3])).tolist()[0] == -4


def test_the_profile_counts_what_the_masks_count(maps):
    networks = Networks(GEOMETRY, 6)
    z, _ = as_maps(networks)
    for row in z:
        positive, negative = layer_shares(row, GEOMETRY, 2.5)
        counts = np.bincount(GEOMETRY.layer_of[np.abs(row) > 2.5], minlength=6)
        np.testing.assert_allclose((positive + negative) * 96, counts)


def test_networks_come_as_objects_arrays_images_and_estimators(maps):
    networks = Networks(GEOMETRY, 6)

    estimator = CanICA()
    estimator.networks_ = networks
    expected = as_maps(networks)[0]
    for given, geometry in ((networks.maps, GEOMETRY), (GEOMETRY.to_img(networks.maps), GEOMETRY), (estimator, None)):
        np.testing.assert_allclose(as_maps(given, geometry)[0], expected, atol=1e-5)
    with pytest.raises(ParameterError, match="geometry="):
        as_maps(maps)
    with pytest.raises(GeometryMismatchError, match="do not fit"):
        as_maps(maps[:, :-1], GEOMETRY)


def test_carpet_rows_recover_the_course_of_each_network(maps, table_of_tokens):
    courses = time_courses(table_of_tokens, 6)
    strong = np.where(np.abs(maps) > 6, maps, 0)
    best = np.where(np.abs(strong).max(axis=0) > 0, np.abs(strong).argmax(axis=0), -1)
    picture, bounds = carpet_rows(activations(strong, courses), best, 60, order_within=strong.max(axis=0))
    for k, low, high in bounds:
        assert np.corrcoef(np.abs(picture[low:high]).mean(axis=0), np.abs(courses[:, k]))[0, 1] > 0.5
    assert bounds[-1][2] == len(picture)
    with pytest.raises(ParameterError, match="threshold"):
        carpet_rows(activations(strong, courses), np.full(GEOMETRY.n_neurons, -1))


# -- every figure -------------------------------------------------------------------------------------------------
def dose_table():
    dose = np.linspace(0, 1, 5)
    return pd.concat(
        [
            pd.DataFrame(
                {"network": k, "strength": dose, "effect": k * dose**2, "ci_low": k * dose**2 - 0.1,
                 "ci_high": k * dose**2 + 0.1, "control_mean": 0.02 * dose, "control_sd": 0.01}
            )
            for k in range(5)
        ]
    )  # fmt: skip


def one_size_table():
    """The pruning table of a study: one ratio, and a row of the unpruned model."""
    table = prune_table(seeds=(0,))
    dense = {"score": "dense", "allocation": "-", "compensation": "-", "ratio": 0.0, "perplexity": 18.2}
    return pd.concat([pd.DataFrame([dense]), table[table["ratio"] == 0.2]], ignore_index=True)


def compared(n_models):
    """A comparison of models, each a little further from the first."""
    names = [f"sub-model{i}" for i in range(n_models)]
    fates = [
        {"model": a, "other": b, "network": k, "fate": ("kept", "split", "lost")[(i + j + k) % 3]}
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        for k in range(9)
        if a != b
    ]
    place = np.arange(n_models)
    similarity = pd.DataFrame(1.1 ** -np.abs(place[:, None] - place).astype(float), index=names, columns=names)
    return Comparison(None, pd.DataFrame(fates), similarity, {"models": names})


def figures():
    """Every kind of figure: name -> (function, arguments, keywords)."""
    maps, tokens = planted_maps(GEOMETRY, 6), events(120)
    courses = time_courses(tokens, 6)
    activity = activations(maps, courses)
    topography = fit_topography(maps, GEOMETRY, source="runs 1, 3")
    table, controls = lesion_tables(6, tasks=("loss", "code", "arithmetic"))
    order = pd.DataFrame({"n_components": [5, 10, 20], "n_reproduced": [5, 9, 8], "share": [1, 0.9, 0.4]})
    kept = [np.arange(40 + 9 * i) for i in range(6)]
    r = np.corrcoef(courses.T)
    noise = np.random.default_rng(3).normal(size=maps.shape)
    checkpoints = [NetworkSet(m, GEOMETRY) for m in (maps, (maps + noise)[[3, 1, 0, 2, 5]])]
    flagged = NetworkSet(maps, GEOMETRY)
    flagged.metrics["flagged"] = [False, True, False, False, False, True]
    return {
        "map-flagged": (plotting.plot_network_map, (flagged, 1), {"topography": topography}),
        "maps-flagged": (plotting.plot_network_maps, (flagged,), {}),
        "map": (plotting.plot_network_map, (maps, 2, GEOMETRY), {"topography": topography}),
        "map-plain": (plotting.plot_network_map, (maps[0], 0, GEOMETRY), {}),
        "map-uneven": (plotting.plot_network_map, (planted_maps(UNEVEN, 2), 0, UNEVEN), {}),
        "maps": (plotting.plot_network_maps, (maps, GEOMETRY), {"topography": topography}),
        "maps-sheets": (plotting.plot_network_maps, (maps, GEOMETRY), {"kind": "sheets"}),
        "maps-one": (plotting.plot_network_maps, (maps[:1], GEOMETRY), {}),
        "maps-two": (plotting.plot_network_maps, (maps[:2], GEOMETRY), {"topography": topography}),
        "maps-64": (plotting.plot_network_maps, (planted_maps(GEOMETRY, 64), GEOMETRY), {}),
        "atlas": (plotting.plot_atlas, (maps, GEOMETRY), {"topography": topography}),
        "comparison": (plotting.plot_comparison, tuple(checkpoints), {"topography": topography}),
        "profiles": (plotting.plot_layer_profiles, (maps, GEOMETRY), {}),
        "carpet": (plotting.plot_carpet, (activity, maps, GEOMETRY), {"events": tokens}),
        "carpet-words": (plotting.plot_carpet, (activity, maps, GEOMETRY), {"events": tokens, "tokens": (20, 80)}),
        "carpet-layers": (plotting.plot_carpet, (activity, None, GEOMETRY), {"order": "layer"}),
        "courses": (plotting.plot_time_courses, (courses, tokens), {}),
        "courses-words": (plotting.plot_time_courses, (courses, tokens), {"tokens": (0, 60), "networks": [1, 4]}),
        "connectivity": (plotting.plot_connectivity, (r,), {}),
        "layer-graph": (plotting.plot_layer_graph, (np.corrcoef(activity[:40]),), {"keep": 0.1}),
        "matching": (plotting.plot_matching, (np.abs(r[:4]),), {"names": ("half A", "half B")}),
        "coupling": (plotting.plot_coupling, (courses, -courses[:, ::-1]), {"events": tokens, "tokens": (0, 60)}),
        "models": (plotting.plot_models, (compared(2),), {}),
        "models-10": (plotting.plot_models, (compared(10),), {}),
        "stability": (plotting.plot_stability, (np.linspace(0.99, 0.2, 6),), {}),
        "order": (plotting.plot_order, (order,), {"chosen": 10}),
        "lesions": (plotting.plot_lesion_effects, (table, controls), {}),
        "lesions-64": (plotting.plot_lesion_effects, lesion_tables(64), {}),
        "dose": (plotting.plot_dose_response, (dose_table(),), {}),
        "selectivity": (plotting.plot_selectivity, (table,), {}),
        "pruning": (plotting.plot_pruning_grid, (prune_table(),), {}),
        "pruning-ratio": (plotting.plot_pruning_grid, (prune_table().drop(columns="parameters"),), {}),
        "pruning-one-size": (plotting.plot_pruning_grid, (one_size_table(),), {}),
        "dose-gain": (plotting.plot_dose_response, (dose_table().rename(columns={"strength": "gain"}),), {}),
        "kept": (plotting.plot_kept_neurons, (kept, GEOMETRY), {}),
        "kept-many": (plotting.plot_kept_neurons, ({"flap": kept, "random": kept[::-1]}, GEOMETRY), {}),
        "words": (plotting.plot_words, (tokens["token"][:60], courses[:60, 0]), {"title": "Network 0"}),
    }  # fmt: skip


@pytest.fixture(scope="module")
def all_figures():
    return figures()


@pytest.mark.parametrize("name", list(figures()))
def test_every_figure_is_titled_fits_and_loses_no_word(name, all_figures, recwarn):
    function, args, kwargs = all_figures[name]
    fig = function(*args, **kwargs)
    title = kwargs.get("title")
    shown = texts(fig)
    assert title or any(len(t) > 5 for t in shown), "a figure says what it is"
    width, height = fig.get_size_inches()
    assert 2 <= width <= style.PAGE + 0.01 and 1.2 <= height <= 13
    assert inside(fig) is True
    for axes in fig.axes:
        assert axes.has_data() or axes.texts or axes.patches or axes.get_legend() is not None, "no empty axes"
    assert not [w for w in recwarn if "constrained_layout" in str(w.message) or "Glyph" in str(w.message)]


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_output_file_saves_and_closes(tmp_path, maps, suffix):
    path = tmp_path / "deep" / f"map.{suffix}"
    before = plt.get_fignums()
    assert plotting.plot_network_map(maps, 0, GEOMETRY, output_file=path) is None
    assert path.stat().st_size > 2000 and plt.get_fignums() == before


@pytest.mark.parametrize("plot", [plotting.plot_network_map, plotting.plot_atlas, plotting.plot_prob_atlas])
def test_a_figure_replaces_only_figures(tmp_path, maps, plot):
    path, more = tmp_path / "map.pdf", (0,) if plot is plotting.plot_network_map else ()
    path.write_bytes(b"%PDF-1.5 my thesis")
    with pytest.raises(ParameterError, match="not replaced"):
        plot(maps, *more, GEOMETRY, output_file=path)
    assert path.read_bytes() == b"%PDF-1.5 my thesis" and not plt.get_fignums()
    path.unlink()
    for _ in range(2):
        plot(maps, *more, GEOMETRY, output_file=path)


def test_an_unknown_format_is_named_and_nothing_stays_open(tmp_path, maps):
    with pytest.raises(ParameterError, match="png"):
        plotting.plot_atlas(maps, GEOMETRY, output_file=tmp_path / "map.bmpx")
    assert not plt.get_fignums()


def test_the_users_own_style_is_left_alone(maps):
    before = plt.rcParams["font.size"], plt.rcParams["axes.spines.top"]
    plotting.plot_atlas(maps, GEOMETRY)
    assert (plt.rcParams["font.size"], plt.rcParams["axes.spines.top"]) == before


def test_the_display_order_is_said_on_every_figure_that_uses_it(all_figures):
    for name in ("map", "maps", "atlas"):
        function, args, kwargs = all_figures[name]
        assert any("isplay order" in t and "runs 1, 3" in t for t in texts(function(*args, **kwargs))), name
        without = function(*args, **{k: v for k, v in kwargs.items() if k != "topography"})
        assert not any("isplay order" in t for t in texts(without)), name


# -- what single figures promise ----------------------------------------------------------------------------------
def test_maps_name_the_models_own_layers(maps):
    shown = texts(plotting.plot_network_map(maps, 0, GEOMETRY))
    assert {"2", "11", "13"} <= set(shown)


def test_lesion_points_and_clouds_lie_where_the_table_says():
    table, controls = lesion_tables(5)
    fig = plotting.plot_lesion_effects(table, controls)
    axes = next(a for a in fig.axes if a.get_xlabel())
    drawn = sorted(float(x) for c in axes.collections for x, _ in np.asarray(c.get_offsets()) if len(c.get_offsets()))
    expected = sorted([*table["effect"], *controls["effect"]])
    drawn = [x for x in drawn if min(abs(x - e) for e in expected) < 1e-9]
    np.testing.assert_allclose(drawn, expected)
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        str(n) for n in table.sort_values("effect", ascending=False)["network"]
    ]


def test_lesions_take_results_names_tasks_and_families():
    table, controls = lesion_tables(3, tasks=("loss", "code"))
    table["network"] = controls["network"] = None
    table["network"] = [f"network-{k:02d}" for k in [0, 1, 2] * 2]
    controls["network"] = [f"network-{k:02d}" for k in np.repeat([0, 1, 2] * 2, 20)]

    result = LesionResult(table, controls, None)
    fig = plotting.plot_lesion_effects(result, task="code")
    assert {"0", "1", "2"} <= set(texts(fig)) and any("code" in t for t in texts(fig))
    with pytest.raises(ParameterError, match="choose one of"):
        plotting.plot_lesion_effects(result, task="prose")
    with pytest.raises(ParameterError, match="no column"):
        plotting.plot_selectivity(pd.DataFrame({"network": [0], "effect": [1.0]}))


def test_matched_pairs_come_to_the_diagonal():
    rng = np.random.default_rng(0)
    order = rng.permutation(7)
    similarity = 0.1 * rng.random((7, 7))
    similarity[np.arange(7), order] = 0.9
    fig = plotting.plot_matching(similarity)
    image = fig.axes[0].images[0].get_array()
    np.testing.assert_allclose(np.diag(image), 0.9)


def test_similar_networks_become_neighbours(table_of_tokens):
    courses = time_courses(table_of_tokens, 10)
    fig = plotting.plot_connectivity(np.corrcoef(courses.T))
    order = [int(t.get_text()) for t in fig.axes[0].get_yticklabels()]
    apart = np.abs([order.index(k) - order.index(k + 5) for k in range(5)])
    assert np.mean(apart) < 2  # networks k and k + 5 wake in the same kind of text; by chance they are 3.7 apart


def test_pruning_lines_are_the_recipes_and_the_dense_model():
    fig = plotting.plot_pruning_grid(prune_table())
    axes = fig.axes[0]
    dense = next(line for line in axes.get_lines() if line.get_label() == "unpruned")
    assert dense.get_ydata()[0] == pytest.approx(18.2, rel=1e-6)
    assert {line.get_label() for line in axes.get_lines()} == {
        "flap + bias", "network + affine", "wanda + none", "random + none", "unpruned"
    }  # fmt: skip
    with pytest.raises(ParameterError, match="no column of recipes"):
        plotting.plot_pruning_grid(pd.DataFrame({"ratio": [0.1], "perplexity": [3.0]}))


def test_recipes_that_broke_the_model_are_named_not_drawn():
    table = prune_table(seeds=(0,))
    table.loc[table["score"] == "random", "perplexity"] = np.inf
    fig = plotting.plot_pruning_grid(table)
    assert any("not finite: random" in text for text in texts(fig)) and inside(fig) is True


def test_the_unpruned_row_is_a_line_and_no_recipe():
    from llmbrain.plotting.pruning import split_dense

    table = one_size_table()
    recipes, dense = split_dense(table)
    assert dense == 18.2 and len(recipes) == 4 and "dense" not in set(recipes["score"])
    fig = plotting.plot_pruning_grid(table)
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == list(
        recipes.sort_values("perplexity")["score"].str.cat(recipes["compensation"], " + ").loc[lambda s: s.index]
    )
    only = split_dense(table[table["score"] == "dense"])
    assert len(only[0]) == 1 and only[1] == 18.2


def test_results_of_other_rooms_are_taken_as_they_are(table_of_tokens):
    from llmbrain.networks.connectivity import functional_connectivity
    from llmbrain.networks.evidence.matching import match_maps
    from llmbrain.networks.evidence.order import Order

    courses = time_courses(table_of_tokens, 4)
    fig = plotting.plot_connectivity(functional_connectivity([courses], "partial correlation"))
    assert "partial correlation" in texts(fig)
    maps = planted_maps(GEOMETRY, 4)
    fig = plotting.plot_matching(match_maps(maps, -maps[[2, 0, 3, 1]]))
    np.testing.assert_allclose(np.diag(fig.axes[0].images[0].get_array()), -1, atol=1e-5)
    curve = pd.DataFrame({"n_components": [5, 10], "n_reproduced": [5, 8], "mean_r": [0.9, 0.8]})
    assert "10" in texts(plotting.plot_order(Order(10, 80, 60, curve, pd.DataFrame())))

    dose = DoseResponse(dose_table().rename(columns={"strength": "threshold"}), None)
    assert "threshold" in texts(plotting.plot_dose_response(dose))


def test_shared_parts_of_task_names_are_left_out():
    table, _ = lesion_tables(3, tasks=("loss", "loss:code", "loss:prose"))
    assert {"loss", "code", "prose"} <= set(texts(plotting.plot_selectivity(table)))


def test_words_are_escaped_and_shaded():
    html = plotting.words_html(["<b>", " 5", " & 6", "\\n"], [3.0, -3.0, 0.0, np.nan], mark=1)
    assert "&lt;b&gt;" in html and "<b>" not in html and "&amp;" in html
    assert html.count("pos") and html.count("neg") and "peak" in html and "z = −3.0" in html
    with pytest.raises(ParameterError, match="one value each"):
        plotting.words_html(["a"], [1.0, 2.0])


def test_dollars_in_a_text_are_not_mathematics():
    fig = plotting.plot_words(["costs", " $5", " or", " $6", " a_b^c"], [1, 2, -1, 0, 1.0])
    fig.canvas.draw()
    plotting.plot_time_courses(np.ones((2, 1)).cumsum(0), pd.DataFrame({"token": ["$x", "y$_"]})).canvas.draw()


def test_documents_without_a_kind_are_marked_beside_those_with_one():
    events = pd.DataFrame({"token": list("abcd" * 100), "kind": ["code"] * 200 + [None] * 200})
    fig = plotting.plot_time_courses(np.ones((400, 1)).cumsum(0), events)
    assert {text.get_text() for ax in fig.axes for text in ax.texts} >= {"code", "n/a"}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m: plotting.plot_network_map(m, 9, GEOMETRY), "there are 6 networks"),
        (lambda m: plotting.plot_network_maps(m, GEOMETRY, kind="brain"), "units"),
        (lambda m: plotting.plot_carpet(np.zeros((4, 576)), m, GEOMETRY, order="time"), "order"),
        (lambda m: plotting.plot_carpet(np.zeros(576), m, GEOMETRY), "n_tokens"),
        (lambda m: plotting.plot_time_courses(np.zeros((5, 2)), networks=[3]), "2 time courses"),
        (lambda m: plotting.plot_time_courses(np.zeros((5, 2)), tokens=(7, 9)), "selects none"),
        (lambda m: plotting.plot_connectivity(np.zeros((2, 3))), "square"),
        (lambda m: plotting.plot_layer_graph(np.eye(4), keep=0), "keep"),
        (lambda m: plotting.plot_coupling(np.zeros((5, 2)), np.zeros((6, 2))), "same words"),
        (lambda m: plotting.plot_stability([]), "values is empty"),
        (lambda m: plotting.plot_order(pd.DataFrame({"k": [1]})), "n_components"),
        (lambda m: plotting.plot_prob_atlas(m, GEOMETRY, view_type="contours"), "scattered"),
        (lambda m: plotting.plot_network_map(m, "a", GEOMETRY), "network='a'"),
        (lambda m: plotting.plot_lesion_effects(pd.DataFrame({"network": [1]})), "effect"),
        (lambda m: plotting.plot_matching(np.zeros((0, 3))), "not empty"),
        (lambda m: plotting.plot_pruning_grid(prune_table().assign(perplexity=np.nan)), "finite"),
        (lambda m: plotting.plot_prob_atlas(m, GEOMETRY, view_type="brain"), "Unknown"),
        (
            lambda m: plotting.plot_comparison(*(NetworkSet(m, GEOMETRY) for _ in range(2)), pairs=[(0, 9)]),
            "networks are 0 to 5",
        ),
        (lambda m: plotting.plot_kept_neurons([np.arange(3)], GEOMETRY), "6 layers"),
    ],
)
def test_bad_input_says_what_is_allowed(call, match, maps):
    with pytest.raises(ValueError, match=match):
        call(maps)


def test_colours_of_networks_can_be_told_apart():
    colors = style.network_colors(20)
    assert colors.min() >= 0 and colors.max() <= 1
    distance = np.linalg.norm(colors[:, None] - colors[None], axis=-1) + 10 * np.eye(20)
    assert distance.min() > 0.07


def test_nilearns_viewers_show_layers_not_brains(maps, tmp_path):
    view = plotting.view_map(maps, 1, GEOMETRY)
    assert "Network 1" in view.html and "MNI" not in view.html
    assert '"showLR": false' in view.html and "raw.githubusercontent" not in view.html
    topography = fit_topography(maps, GEOMETRY)
    for kind in ("continuous", "contours"):
        path = tmp_path / f"{kind}.png"
        plotting.plot_prob_atlas(
            maps, GEOMETRY, topography=topography, layers=[2, 13], view_type=kind, output_file=path
        )
        assert path.stat().st_size > 2000


def test_matched_networks_share_a_colour_in_two_models(maps):
    from matplotlib.image import AxesImage

    first, second = NetworkSet(maps, GEOMETRY), NetworkSet(maps[[4, 2]], GEOMETRY)
    fig = plotting.plot_comparison(first, second, names=("base", "tuned"), threshold=4.0)
    seen = [
        {tuple(c) for c in ax.findobj(AxesImage)[0].get_array()[..., :3].reshape(-1, 3).round(4)} for ax in fig.axes[:2]
    ]
    colours = [tuple(c) for c in style.network_colors(6).round(4)]
    assert set(colours) <= seen[0]
    assert {colours[4], colours[2]} <= seen[1] and not {colours[0], colours[1], colours[3], colours[5]} & seen[1]
    assert {"base", "tuned", "4=0", "2=1", "0"} <= set(texts(fig))
    given = plotting.plot_comparison(first, second, pairs=[(0, 1)])
    assert "0=1" in texts(given) and "4" in texts(given)


def test_flagged_networks_are_marked(maps):
    networks = NetworkSet(maps, GEOMETRY)
    networks.metrics["flagged"] = [False, False, True, False, False, False]
    for function in (plotting.plot_network_maps, plotting.plot_atlas, plotting.plot_layer_profiles):
        shown = texts(function(networks))
        assert "2°" in shown and "1" in shown and any("flagged" in text for text in shown), function.__name__
        assert not any("°" in text for text in texts(function(maps, GEOMETRY)))
    assert any("Network 2°" in text for text in texts(plotting.plot_network_map(networks, 2)))


def test_importing_the_room_does_not_import_matplotlib():
    import subprocess
    import sys

    code = "import sys, llmbrain.plotting; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_twenty_networks_have_colours_that_differ():
    """Smallest distance in OKLab, also as colour-blind readers see them; 0.04 is a clear difference of two patches."""
    linear = np.where((c := style.network_colors(20)) <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    cone = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                     [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
    lab = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                    [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip
    deuteranopia = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                             [-0.011820, 0.042940, 0.968881]])  # fmt: skip
    for seen, least in ((linear, 0.1), (np.clip(linear @ deuteranopia.T, 0, 1), 0.05)):
        colors = np.cbrt(seen @ cone.T) @ lab.T
        distance = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
        assert distance[~np.eye(20, dtype=bool)].min() > least
    assert len(style.network_colors(40)) == 40 and len(np.unique(style.network_colors(40), axis=0)) == 40


def test_time_courses_are_not_clipped_and_surprisal_stands_below():
    courses = np.zeros((50, 2))
    courses[7, 0] = 1.0  # 7 standard deviations
    events = pd.DataFrame({"token": ["a"] * 50, "surprisal": np.linspace(0, 9, 50)})
    figure = plotting.plot_time_courses(courses, events, surprisal=True)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "±7" in texts and figure.axes[0].get_yticklabels()[-1].get_text().startswith("surprisal\n(to 9")
    heights = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert np.ptp(heights) == pytest.approx(7 / (2.2 * 7), abs=0.01)
    plt.close(figure)


def test_names_of_networks_stand_beside_their_connectivity():
    figure = plotting.plot_connectivity(np.eye(3), ["0 fires at numbers", "1", "2 silent at quotes"], reorder=False)
    rows, columns = (
        [t.get_text() for t in axis.get_ticklabels()] for axis in (figure.axes[0].yaxis, figure.axes[0].xaxis)
    )
    assert rows == ["0 fires at numbers", "1", "2 silent at quotes"] and columns == ["0", "1", "2"]
    plt.close(figure)
