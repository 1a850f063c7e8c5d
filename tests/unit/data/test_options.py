"""Options of the wrong kind are refused in one sentence that names them, before a file is read."""

from pathlib import Path

import numpy as np
import pytest

from lightning_xai.data.options import check_options
from lightning_xai.data.reading import read_image, read_shape

RIGHT = {"size": None, "mask_classes": None}


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("size", ["a", True, 0.5, [8, "8"], [], {"x": 1}], ["auto", 8, [8, 9], (8, 9, 10), np.int64(8)]),
        ("batch_size", [0, -1, None, "8", 1.5, True], [1, np.int64(4)]),
        ("splits", [None, 1, "abc", [0.5, 0.5], [0.5, 0.5, float("nan")], [1, 1, -1]], [[0.6, 0.2, 0.2]]),
        ("seed", [-1, None, 1.5, 2**32, "a"], [0, 7]),
        ("cache", [None, 1, "yes"], [True, False]),
        ("cache_limit", [0, -1, "8", True, float("nan")], [None, 0.5, 8]),
        ("num_workers", [-1, "2", True], [None, 0, 4]),
        ("limit", [0, -1, "all", 0.5], [None, 5]),
        ("channel_axis", [9, "last", True, [0]], [None, "none", -1]),
        ("mask_classes", ["ab", [], ["a"], ["a", "a"], ["a", None], 3], [["background", "a"], ["0", 1]]),
        (
            "normalize",
            [{"mean": [0], "std": [0]}, {"mean": 1, "std": 2}, {"mean": [0]}, 3, True],
            ["image", {"mean": [0], "std": [1]}],
        ),
        ("channels", [2, True, "1"], [None, 1, 3]),
        ("ignore_index", [-1, "255", 0.5], [None, 255]),
        ("orientation", [3, "RAR", "XYZ", ["R", "A", "S"]], [None, "RAS"]),
        (
            "spacing",
            [1, "1", [1, 1], [1, 1, 0], [1, 1, -1], [1, "1", 1], [1, True, 1], [1, 1, float("inf")], [1, 1, None]],
            [None, "any", [1, 1, 0.5], (1.0, 1.0, 1.0)],
        ),
        ("window_hu", [3, [1], [2, 1], [0, float("inf")], "ab"], [None, [-150, 250]]),
        ("patch", [0, -1, [], [8, 0], "8"], [None, 8, [8, 9]]),
        ("boxes", [3, "", True, ["a"]], [None, "a.json", Path("a")]),
    ],
)
def test_a_value_of_another_kind_is_named(name, wrong, right):
    for value in wrong:
        with pytest.raises(ValueError, match=rf"^data\.{name} is "):
            check_options(RIGHT | {name: value})
    for value in right:
        check_options(RIGHT | {name: value})


@pytest.mark.parametrize("read", [read_image, read_shape])
def test_a_channel_axis_that_an_image_lacks_is_named(read):
    with pytest.raises(ValueError, match=r"data\.channel_axis is 3, but photo has the shape \(8, 9, 3\)"):
        read(np.zeros((8, 9, 3), np.uint8), 3, "photo")
