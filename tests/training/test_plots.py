"""Pictures of a run are files that show something, or it is said why there are none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distnum import InputError, Network
from distnum.networks.model import Model
from distnum.training.plots import plot_curves, plot_weights

pytest.importorskip("matplotlib", reason="plotting is an extra")

BLUE, ORANGE = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


def rows(n_rows: int = 40, above: float = 0.0, tested_every: int | None = None) -> list[dict[str, Any]]:
    found = [{"step": step, "loss": above + 2 / step} for step in range(1, n_rows + 1)]
    for row in found[tested_every - 1 :: tested_every] if tested_every else []:
        row |= {"test_loss": row["loss"], "test_accuracy": 1 - 1 / row["step"]}
    return found


def a_model(sizes: tuple[int, ...] = (784, 4, 10), example_shape: tuple[int, ...] = (28, 28)) -> Model:
    network = Network(sizes)
    return Model(network, network.initial_params(), example_shape, True, "arrays")


def draw_weights(model: Model, path: Path, most_units: int = 50) -> None:
    """The weights themselves: what was added to zeros."""
    plot_weights(model, np.zeros_like(model.params), path, most_units)


def pixels_of(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def n_colours(path: Path) -> int:
    pixels = pixels_of(path).astype(np.uint32)
    return len(np.unique(pixels @ np.array([1, 2**8, 2**16], np.uint32)))


def n_like(path: Path, colour: tuple[int, int, int]) -> int:
    return int((np.abs(pixels_of(path).astype(int) - colour).max(axis=2) < 20).sum())


@pytest.mark.parametrize(("n_rows", "tested_every"), [(1, None), (1, 1), (2, None), (40, 10)])
def test_the_curve_of_a_loss_is_a_picture(tmp_path: Path, n_rows: int, tested_every: int | None) -> None:
    plot_curves(rows(n_rows, tested_every=tested_every), tmp_path / "loss.png", title="a run")
    height, width, _ = pixels_of(tmp_path / "loss.png").shape
    assert width > height > 400
    assert n_colours(tmp_path / "loss.png") > 20


def test_the_accuracy_is_drawn_where_it_was_measured(tmp_path: Path) -> None:
    # An older picture is replaced.
    (tmp_path / "without.png").write_text("older")
    plot_curves(rows(), tmp_path / "without.png")
    plot_curves(rows(tested_every=40), tmp_path / "once.png")
    plot_curves(rows(tested_every=10), tmp_path / "often.png")
    assert n_like(tmp_path / "without.png", ORANGE) == 0
    # Once it is a point and its number, often a line too.
    assert n_like(tmp_path / "often.png", ORANGE) > n_like(tmp_path / "once.png", ORANGE) + 500 > 800


def test_a_loss_below_zero_is_shown_too(tmp_path: Path) -> None:
    plot_curves(rows(), tmp_path / "above.png")
    plot_curves(rows(above=-20.0), tmp_path / "below.png")
    assert n_like(tmp_path / "below.png", BLUE) > n_like(tmp_path / "above.png", BLUE) / 2


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [((784, 4, 10), (28, 28)), ((784, 1, 10), (28, 28)), ((784, 10), (28, 28)), ((6, 12, 2), (2, 3))],
    ids=["hidden units", "one unit", "no hidden layer", "wide examples"],
)
def test_the_weights_are_a_picture_in_both_signs(
    tmp_path: Path, sizes: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    draw_weights(a_model(sizes, shape), tmp_path / "weights.png")
    pixels = pixels_of(tmp_path / "weights.png").astype(int)
    assert min(pixels.shape[:2]) > 80
    assert n_colours(tmp_path / "weights.png") > 20
    assert (pixels[..., 0] - pixels[..., 2] > 60).any()
    assert (pixels[..., 2] - pixels[..., 0] > 60).any()


@pytest.mark.slow
def test_more_units_make_a_larger_picture_up_to_the_most_to_draw(tmp_path: Path) -> None:
    heights = []
    for number, (n_units, most) in enumerate([(5, 50), (25, 50), (25, 15)]):
        draw_weights(a_model((784, n_units, 10)), tmp_path / f"{number}.png", most_units=most)
        heights.append(pixels_of(tmp_path / f"{number}.png").shape[0])
    five, twenty_five, fifteen = heights
    assert five < fifteen < twenty_five


def test_what_is_drawn_is_what_training_added(tmp_path: Path) -> None:
    network = Network((784, 4, 10))
    added = np.random.default_rng(0).integers(-8, 9, network.n_params) / 4
    initial = np.arange(network.n_params, dtype=np.float64)
    draw_weights(Model(network, added, (28, 28), True, "arrays"), tmp_path / "added.png")
    plot_weights(Model(network, initial + added, (28, 28), True, "arrays"), initial, tmp_path / "weights.png")
    np.testing.assert_array_equal(pixels_of(tmp_path / "weights.png"), pixels_of(tmp_path / "added.png"))


def test_weights_that_have_not_changed_can_be_drawn(tmp_path: Path) -> None:
    model = a_model()
    plot_weights(model, model.params, tmp_path / "weights.png")
    assert n_colours(tmp_path / "weights.png") > 20


def test_weights_that_began_in_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3,190 parameters, but it began with 6"):
        plot_weights(a_model(), np.zeros(6), tmp_path / "weights.png")
    assert list(tmp_path.iterdir()) == []


# --- what cannot be drawn -----------------------------------------------------------


def test_a_run_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no steps to plot"):
        plot_curves([], tmp_path / "loss.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(784,), (28, 28, 1)])
def test_weights_of_examples_that_are_no_pictures_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="pictures only") as caught:
        draw_weights(a_model(example_shape=shape), tmp_path / "weights.png")
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("target", ["no/folder/p.png", "file/p.png", "taken.png", "p.unknown"])
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, target: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken.png").mkdir()
    for draw in (lambda path: plot_curves(rows(), path), lambda path: draw_weights(a_model(), path)):
        with pytest.raises(InputError) as caught:
            draw(tmp_path / target)
        assert str(tmp_path / target) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.png"]


def test_the_file_named_is_the_file_written(tmp_path: Path) -> None:
    plot_curves(rows(), tmp_path / "loss")
    assert [path.name for path in tmp_path.iterdir()] == ["loss"]


def test_without_matplotlib_the_error_names_the_extra_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match="pip install"):
        plot_curves(rows(), tmp_path / "loss.png")
