"""Pictures for a page: painted maps, PNG, SVG."""

import re

import numpy as np

from llmbrain.geometry import NeuronGeometry
from llmbrain.reporting.graphics import MapPainter, course_svg, effect_strip, figure_svg, png_bytes, profile_svg
from llmbrain.topography import fit_topography

GEOMETRY = NeuronGeometry.from_sizes([96] * 6)


def test_the_painter_puts_every_neuron_where_the_mosaic_has_it():
    from llmbrain.plotting.sheets import sheet_mosaic

    for geometry in (GEOMETRY, NeuronGeometry.from_sizes([50, 97, 13])):
        topography = fit_topography(np.random.default_rng(0).normal(size=(3, geometry.n_neurons)), geometry)
        for order in (None, topography):
            painter = MapPainter(geometry, order)
            mosaic, _ = sheet_mosaic(np.arange(geometry.n_neurons), geometry, order, aspect=2.4)
            np.testing.assert_array_equal(mosaic.ravel()[painter.pixel], np.arange(geometry.n_neurons))


def test_a_painted_map_decodes_to_the_thresholded_map():
    import base64
    import io

    import matplotlib.image

    painter = MapPainter(GEOMETRY, threshold=3.0)
    z = np.zeros(GEOMETRY.n_neurons)
    z[[5, 200]] = [9, -4]
    uri = painter.paint(z)
    picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(uri.split(",")[1])), format="png")
    assert picture.shape == (painter.height, painter.width, 4)
    flat = picture.reshape(-1, 4)
    red, blue = flat[painter.pixel[5]], flat[painter.pixel[200]]
    assert red[0] > red[2] and blue[2] > blue[0] and red[3] > blue[3]
    coloured = np.ptp(flat[:, :3], axis=1) > 0.2
    assert coloured.sum() == 2


def test_png_bytes_hold_palette_and_transparency():
    import io

    import matplotlib.image

    palette = [[0, 0, 0, 0], [255, 0, 0, 255], [0, 0, 255, 128]]
    png = png_bytes(np.array([[0, 1], [2, 1]]), palette)
    picture = (matplotlib.image.imread(io.BytesIO(png), format="png") * 255).round()
    np.testing.assert_array_equal(
        picture, np.array([[[0, 0, 0, 0], [255, 0, 0, 255]], [[0, 0, 255, 128], [255, 0, 0, 255]]])
    )


def test_figures_become_svg_in_the_pages_colours():
    from llmbrain import plotting
    from llmbrain.plotting import style

    fig = plotting.plot_stability([0.9, 0.3])
    svg = figure_svg(fig, "fig-x", 'a "label"')
    assert svg.startswith("<svg") and 'aria-label="a &quot;label&quot;"' in svg and "viewBox" in svg
    for ink in (style.INK, style.MUTED, style.GRID, style.FACE):
        assert ink not in svg
    assert "var(--ink)" in svg and "var(--font)" in svg and "<metadata" not in svg
    assert all(i.startswith("fig-x-") for i in re.findall(r' id="([^"]+)"', svg))
    assert svg == figure_svg(plotting.plot_stability([0.9, 0.3]), "fig-x", 'a "label"'), (
        "the same figure, the same text"
    )


def test_small_charts_name_what_they_show():
    svg = profile_svg(np.array([0.1, 0.0]), np.array([0.0, 0.2]), [4, 9], "profile")
    assert "layer 4: 10 % positive" in svg and "layer 9: 20 % negative" in svg
    course = course_svg(np.array([2.0, -6.0, 0.0]), [" a", "\n", "<b>"], "a course")
    assert course.count("<rect") == 2 and "a, z = 2.0" in course and "⏎, z = −6.0" in course
    strip = effect_strip(0.5, 0.4, 0.6, np.array([0.0, 0.1]), (-0.1, 0.7), "effect")
    assert strip.count('class="control"') == 2 and "interval" in strip
    assert 'class="interval"' not in effect_strip(0.5, None, None, np.array([]), (0, 1), "effect")
