"""Outputs: nothing foreign is replaced."""

import pytest

from llmbrain.exceptions import ParameterError
from llmbrain.files import atomic_dir, check_apart, check_output_figure, check_output_folder, mark_folder

MARKER = "marker.json"


def write(folder, text):
    with atomic_dir(folder) as part:
        (part / "a.txt").write_text(text)
        mark_folder(part, MARKER, {})


def test_what_was_written_before_is_replaced(tmp_path):
    out = tmp_path / "out"
    for text in ("one", "two"):
        check_output_folder(out, MARKER)
        write(out, text)
    assert (out / "a.txt").read_text() == "two" and [p.name for p in tmp_path.iterdir()] == ["out"]
    (tmp_path / "empty").mkdir()
    assert check_output_folder(tmp_path / "empty", MARKER) == tmp_path / "empty"


def a_file(path):
    path.write_text("thesis")


def a_folder_with_a_thesis(path):
    path.mkdir()
    (path / "thesis.txt").write_text("thesis")


def an_output_with_a_thesis(path):
    write(path, "one")
    (path / "thesis.txt").write_text("thesis")


def an_output_with_a_link(path):
    write(path, "one")
    (path / "link").symlink_to(path)


def an_output_that_was_edited(path):
    write(path, "one")
    (path / "a.txt").write_text("my notes")


def an_output_with_other_weights_of_the_same_size(path):
    """As after fine-tuning: a large file, and only its middle differs."""
    write(path, "w" * 1_000_000)
    (path / "a.txt").write_text("w" * 400_000 + "v" * 200_000 + "w" * 400_000)


def an_output_whose_file_is_a_link(path):
    write(path, "one")
    (path / "a.txt").rename(path.with_name("moved.txt"))
    (path / "a.txt").symlink_to(path.with_name("moved.txt"))


def a_foreign_marker(path):
    a_folder_with_a_thesis(path)
    (path / MARKER).write_text('{"files": "thesis.txt"}')


def a_link_to_an_output(path):
    write(path.with_name("real"), "one")
    path.symlink_to(path.with_name("real"))


@pytest.mark.parametrize(
    "make",
    [
        a_file, a_folder_with_a_thesis, an_output_with_a_thesis, an_output_with_a_link, a_foreign_marker,
        a_link_to_an_output, an_output_that_was_edited, an_output_with_other_weights_of_the_same_size,
        an_output_whose_file_is_a_link,
    ],
)  # fmt: skip
def test_nothing_else_is_replaced(make, tmp_path):
    make(tmp_path / "out")
    with pytest.raises(ParameterError, match="Choose another folder"):
        check_output_folder(tmp_path / "out", MARKER)


@pytest.mark.parametrize("out", ["in", "in/deeper/out", "."])
def test_outputs_do_not_overlap_inputs(out, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ParameterError):
        check_output_folder(tmp_path / out, MARKER, inputs=[tmp_path / "in"])
    check_output_folder(tmp_path / "out", MARKER, inputs=[tmp_path / "in", "", "no/such/input"])


@pytest.mark.parametrize("out", ["in", "in/deeper/out"])
def test_no_output_lies_in_an_input(out, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ParameterError, match="overlaps the input"):
        check_apart(tmp_path / out, ["demo", None, object(), tmp_path / "in"], around=False)
    check_apart(tmp_path, [tmp_path / "in"], around=False)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "eps"])
def test_a_figure_replaces_figures_only(suffix, tmp_path):
    from matplotlib.figure import Figure

    path = tmp_path / f"figure.{suffix}"
    for _ in range(2):
        Figure().savefig(check_output_figure(path))
    (tmp_path / "empty.png").touch()
    check_output_figure(tmp_path / "empty.png")


@pytest.mark.parametrize(
    "content", [b"%PDF-1.5\n%\xd0\xd4\xc5\xd8\nmy thesis", b"\x89PNG\r\n\x1a\nmy photograph", None]
)
def test_a_figure_replaces_nothing_else(content, tmp_path):
    path = tmp_path / "figure.png"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ParameterError, match="not replaced"):
        check_output_figure(path)
