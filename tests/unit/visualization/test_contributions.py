"""Figures of contributions: what is written in the cells, one scale for all classes, slices of volumes."""

import pytest
import torch
from matplotlib.axes import Axes

from lightning_xai.visualization.contributions import contribution_figure, percentage


@pytest.fixture
def written(monkeypatch):
    """The numbers that are written, with their positions, panel by panel."""
    texts = []
    monkeypatch.setattr(Axes, "text", lambda axis, x, y, text, **_: texts.append((id(axis), x, y, text)))
    return texts


@pytest.fixture
def tinted(monkeypatch):
    """The colors that panels are drawn in."""
    drawn, draw = [], Axes.imshow

    def note(axis, pixels, *args, **options):
        drawn.append(pixels)
        return draw(axis, pixels, *args, **options)

    monkeypatch.setattr(Axes, "imshow", note)
    return drawn


FRACTIONS = torch.tensor([[[0.5, 0.0], [0.0, 0.002]], [[0.1, 0.0], [0.25, 0.0004]]])


def test_each_cell_holds_its_percentage(written):
    pixels = contribution_figure(torch.rand(3, 20, 40), FRACTIONS, ["cat", "dog"], "cat - dog")
    assert pixels.dtype.name == "uint8" and pixels.shape[2] == 3 and pixels.shape[1] > 2 * pixels.shape[0]
    panels = list(dict.fromkeys(text[0] for text in written))
    cells = [[text[1:] for text in written if text[0] == panel] for panel in panels]
    assert cells[0] == [(10, 5, "50"), (30, 15, "0.2")]
    assert cells[1] == [(10, 5, "10"), (10, 15, "25")]
    assert cells[2] == [(10, 5, "40"), (10, 15, "-25"), (30, 15, "0.2")]


@pytest.mark.parametrize(
    ("fraction", "text"), [(0.5, "50"), (0.0994, "9.9"), (0.0996, "10"), (-0.25, "-25"), (-0.004, "-0.4"), (1.0, "100")]
)
def test_percentages_are_short(fraction, text):
    assert percentage(fraction) == text


def test_all_classes_fraction_one_scale(tinted):
    contribution_figure(torch.rand(1, 8, 8), FRACTIONS, ["cat", "dog"])
    first, second = (pixels for pixels in tinted if pixels.shape == (2, 2, 4))
    assert tuple(second[0, 0]) != tuple(first[0, 0]), "a tenth looks like a half"
    tinted.clear()
    contribution_figure(torch.rand(1, 8, 8), FRACTIONS[[0, 0]] * torch.tensor([1, 0.5]).view(2, 1, 1), ["cat", "dog"])
    halved = [pixels for pixels in tinted if pixels.shape == (2, 2, 4)][1]
    assert halved[0, 0, 3] == pytest.approx(0.25 + 0.6 * 0.5**0.5)


def test_fine_grids_have_no_room_for_numbers(written):
    contribution_figure(torch.rand(1, 64, 64), torch.rand(1, 64, 64), ["cat"])
    assert not written


def test_a_volume_shows_the_slice_with_most(written, tinted):
    image = torch.zeros(1, 8, 8, 12)
    image[..., 7:] = 1
    fractions = torch.zeros(1, 2, 2, 4)
    fractions[0, 0, 1, 2] = 0.3
    contribution_figure(image, fractions, ["lesion"])
    assert [text[3] for text in written] == ["30"]
    assert tinted[0].shape == (8, 8, 3) and tinted[0].mean() == 1, "slice 7 of the image, where the region lies"


def test_nothing_contributes_nothing():
    assert contribution_figure(torch.zeros(1, 8, 8), torch.zeros(2, 2, 2), ["a", "b"], "a - b").any()


def test_clear_errors():
    with pytest.raises(ValueError, match="1 titles for 2 classes"):
        contribution_figure(torch.zeros(1, 8, 8), FRACTIONS, ["cat"])
    with pytest.raises(ValueError, match="two classes for a difference"):
        contribution_figure(torch.zeros(1, 8, 8), FRACTIONS[:1], ["cat"], "cat - dog")
