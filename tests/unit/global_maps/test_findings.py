"""What the page says of groups and intervals."""

import pytest
import torch

from lightning_xai.global_maps import GlobalMaps
from lightning_xai.global_maps.findings import Findings, counted, sentences
from tests.unit.global_maps.test_progressive import exclusive, scores_of


def findings_of(truth, units=None):
    """Findings of random maps and scores, with an image a group for maps."""
    maps = GlobalMaps(truth.shape[1])
    images = torch.rand(len(truth), 1, 4, 4)
    groups = None if units is None else [f"p{unit}" for unit in units.tolist()]
    maps.update(maps=images, labels=truth.long().argmax(dim=1), images=images, groups=groups)
    result = scores_of(truth, units=units)
    return Findings(maps.compute(), result, result.bootstrap(20), torch.ones(4, 4).bool(), [])


def test_the_number_of_groups_is_said_and_how_intervals_are_made():
    text = "\n".join(sentences(findings_of(exclusive(40, 2), torch.arange(40) // 3)))
    assert "On the 40 images of 14 groups judged" in text and "40 images of 14 groups" in text
    assert "Intervals: bootstrap over 14 groups (40 images)." in text and "nan" not in text
    text = "\n".join(sentences(findings_of(exclusive(8, 2))))
    assert "Intervals: Student's t over 8 images, which are too few for a bootstrap." in text
    assert "On the 8 images judged" in text


def test_without_intervals_nothing_is_claimed():
    text = "\n".join(sentences(findings_of(exclusive(40, 2), torch.zeros(40, dtype=torch.long))))
    assert "nan" not in text and "[none]" in text and "(no interval)" in text
    assert "Without intervals nothing shows that the map is faithful" in text
    assert "Intervals: none, as there is only 1 group (40 images)" in text


def test_rare_labels_are_named():
    truth = torch.cat([exclusive(40, 2), torch.zeros(40, 1).bool()], dim=1)
    truth[0, 2] = True
    assert any(
        "Too rare for the mean over labels" in line and line.endswith(": 2.") for line in sentences(findings_of(truth))
    )
    text = "\n".join(sentences(findings_of(torch.eye(6).bool())))
    assert "Intervals: none, as no label has 2 images of either kind." in text and "nan" not in text


@pytest.mark.parametrize(("units", "text"), [(1, "9 images of 1 group"), (9, "9 images of 9 groups")])
def test_counting(units, text):
    assert counted({"unit": "groups", "units": units, "images": 9}) == text
