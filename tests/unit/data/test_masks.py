"""What the values of masks mean."""

import io
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monai.data.image_reader import NibabelReader
from PIL import Image

from lightning_xai.data import BadImageError, Item
from lightning_xai.data.loading import LoadItem
from lightning_xai.data.mask_rules import MaskRule, mask_rule
from lightning_xai.data.masks import MaskValues, read_mask
from lightning_xai.data.survey import survey_masks
from lightning_xai.functional.segmentation import IGNORED

TWO, THREE = ["background", "thing"], ["background", "inner", "outer"]
SHAPE = np.zeros((32, 32), np.uint8)
SHAPE[8:24, 6:20] = 1
Make = Callable[..., object]


def rule_of(*masks: np.ndarray, classes: list[str] | None = TWO, lossy: bool = False) -> MaskRule:
    mask_values = MaskValues()
    for number, mask in enumerate(masks):
        mask_values.add(mask, f"mask{number}", lossy)
    return mask_rule(mask_values, classes, "the set")


def soft(top: int = 255, angle: float = 7) -> np.ndarray:
    """The shape with the edges that turning and shrinking leave."""
    large = Image.fromarray(np.kron(SHAPE, np.ones((4, 4), np.uint8)) * np.uint8(top))
    return np.asarray(large.resize((32, 32), Image.LANCZOS).rotate(angle, Image.BICUBIC))


def jpeg(mask: np.ndarray, quality: int = 60) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 255), (1, 2), (38, 75), (0, 2), (254, 255), (0, 65535)])
@pytest.mark.parametrize("classes", [TWO, None])
def test_the_larger_of_two_values_is_the_thing(low: int, high: int, classes: list[str] | None) -> None:
    mask = np.where(SHAPE > 0, high, low)
    assert np.array_equal(rule_of(mask, classes=classes)(mask) > 0, SHAPE > 0)
    # A mask of one value follows the others.
    plain = np.full((4, 4), low)
    rule = rule_of(plain, mask, plain + high - low, classes=classes)
    assert not rule(plain).any() and rule(plain + high - low).all()


@pytest.mark.parametrize(("value", "all_of_it"), [(0, False), (1, True), (255, True)])
def test_masks_of_one_value(value: int, all_of_it: bool) -> None:
    mask = np.full((4, 4), value, np.uint8)
    rule = rule_of(mask, mask)
    assert rule.note is None and rule(mask).all() == rule(mask).any() == all_of_it


@pytest.mark.parametrize("classes", [TWO, None])
@pytest.mark.parametrize(
    "mask", [soft(), jpeg(SHAPE * np.uint8(255)), soft(200), jpeg(soft(angle=30))], ids=["soft", "jpeg", "200", "both"]
)
def test_soft_edges_and_noise_are_cut_halfway(mask: np.ndarray, classes: list[str] | None) -> None:
    assert len(np.unique(mask)) > 4
    rule = rule_of(mask, np.zeros_like(mask), classes=classes)
    assert np.array_equal(rule(mask), mask > mask.max() / 2)
    assert rule.note is not None and f"from 0 to {mask.max()}" in rule.note and "\n" not in rule.note
    assert not rule(np.full((4, 4), 3)).any(), "the noise of an empty mask is nothing"


@pytest.mark.parametrize("labels", [(0, 1, 2), (0, 3), (0, 1, 2, 3, 17), (0, *range(1, 30))])
def test_small_values_are_labels_of_which_all_are_the_thing(labels: tuple[int, ...]) -> None:
    mask = np.array([labels])
    assert np.array_equal(rule_of(mask)(mask), mask > 0)
    assert np.array_equal(rule_of(mask, classes=None)(mask), mask), "evidence keeps its values"
    assert np.array_equal(rule_of(mask, classes=THREE)(mask), mask), "so do several classes"


def test_numbers_of_objects_are_the_thing_whatever_their_number() -> None:
    mask = np.zeros((60, 60), np.int64)
    for number in range(1, 101):  # a hundred cells of nine pixels
        row, column = 6 * ((number - 1) // 10), 6 * ((number - 1) % 10)
        mask[row : row + 3, column : column + 3] = number
    few = np.where(mask > 70, 0, mask)
    for masks in ((mask,), (few, mask), (mask + 100000 * (mask > 0),)):
        assert all(np.array_equal(rule_of(*masks)(part), part > 0) for part in masks)


@pytest.mark.parametrize("classes", [TWO, None])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0, 1, 100), r"hold 100 \(such as mask1\) next to the small values 0, 1"),
        ((1, 2, 3), r"hold the values 1, 2, 3 and no 0 for the background; save class indices"),
    ],
)
def test_odd_labels_and_no_background_are_refused(
    values: tuple[int, ...], said: str, classes: list[str] | None
) -> None:
    with pytest.raises(ValueError, match=f"The masks of the set {said}") as caught:
        rule_of(np.array(values[:-1]), np.array(values), classes=classes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", [TWO, None])
@pytest.mark.parametrize("labels", [(0, 1), (0, 1, 2, 3), tuple(range(21))])
@pytest.mark.parametrize("white", [255, 65535])
def test_the_brightest_value_next_to_small_ones_is_left_out(
    labels: tuple[int, ...], white: int, classes: list[str] | None
) -> None:
    bordered, empty = np.array([[*labels, white, white]]), np.array([[0, 0, white]])
    rule = rule_of(np.array([labels]), bordered, empty, classes=classes)
    found = rule(bordered)[0]
    expected = [min(label, 1) if classes else label for label in labels]
    assert found.tolist() == [*expected, IGNORED, IGNORED]
    assert rule.note is not None and f"data.ignore_index={white}" in rule.note and "\n" not in rule.note


def test_masks_that_are_drawn_in_two_ways_are_refused() -> None:
    one, other = SHAPE, SHAPE * np.uint8(255)
    stray = other.copy()
    stray[0, 0] = 1  # a single pixel does not make the shape a border
    for masks in ((one, other), (stray,), (one, other, np.array([[0, 255]]))):
        with pytest.raises(ValueError, match="data.ignore_index=255 if masks say nothing.*draw all alike"):
            rule_of(*masks)


@pytest.mark.parametrize("values", [(0, 128, 255), (0, 85, 170, 255), (0, 1, 128, 255)])
def test_three_brightnesses_for_two_classes_are_refused(values: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"hold the {len(values)} values .* but data.mask_classes names 2"):
        rule_of(np.array(values))
    assert rule_of(np.array(values), classes=None).threshold is None


# ------------------------------------------------------------------ in files


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
@pytest.mark.parametrize("color", [0, 255])
def test_a_shape_in_the_alpha_channel_alone_is_named(tmp_path: Path, mode: str, color: int) -> None:
    alpha = Image.fromarray(SHAPE * np.uint8(255))
    if mode == "P":
        picture = alpha.convert("P")
        picture.putpalette([color] * 768)
        picture.info["transparency"] = bytes([0] + [255] * 255)
        picture = picture.convert("RGBA")
    else:
        picture = Image.new(mode, alpha.size, color if mode == "LA" else (color,) * 4)
        picture.putalpha(alpha)
    picture.save(tmp_path / "m.png")
    with pytest.raises(BadImageError, match="The shape of the mask .*m.png is drawn in its alpha channel alone"):
        read_mask(tmp_path / "m.png", (32, 32))
    opaque = Image.new("RGBA", (32, 32), (color, color, color, 128))
    opaque.save(tmp_path / "empty.png")
    assert (read_mask(tmp_path / "empty.png", (32, 32)) == color).all(), "an even alpha channel draws nothing"


def test_color_next_to_alpha_counts(tmp_path: Path) -> None:
    picture = Image.fromarray(SHAPE * np.uint8(255)).convert("RGBA")
    picture.putalpha(Image.fromarray(SHAPE * np.uint8(255)))
    picture.save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png", (32, 32))[0] > 0, SHAPE > 0)


@pytest.mark.parametrize("suffix", ["png", "npy", "tif", "jpg"])
def test_values_are_counted_as_they_are_stored(tmp_path: Path, suffix: str) -> None:
    mask = np.dstack([SHAPE * np.uint8(255)] * 3) if suffix in ("png", "jpg") else SHAPE * np.uint8(255)
    path = tmp_path / f"m.{suffix}"
    np.save(path, mask) if suffix == "npy" else Image.fromarray(mask).save(path)
    mask_values = MaskValues()
    mask_values.add_source((path, path), "m")
    assert mask_values.lossy == (suffix == "jpg")
    assert sum(mask_values.counts.values()) == 2 * SHAPE.size
    if suffix != "jpg":
        assert mask_values.counts == {0: 2 * int((SHAPE == 0).sum()), 255: 2 * int((SHAPE == 1).sum())}


def test_several_masks_of_one_image_are_united_with_each_its_own_edge(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(soft()).save(tmp_path / "0.png")
    Image.fromarray(soft().T).save(tmp_path / "1.png")
    item = Item("a", tmp_path / "image.png", None, (tmp_path / "0.png", tmp_path / "1.png"))
    mask = LoadItem(None, None, True, TWO, rule=survey_masks([item], TWO, "a"))(item)["mask"][0].numpy()
    assert np.array_equal(mask > 0, (soft() > 127) | (soft().T > 127))


# ------------------------------------------------------------------ in data sets


def test_the_whole_data_set_decides_and_says_so_once(
    array_data: Make, digits_like: list[Item], caplog: pytest.LogCaptureFixture
) -> None:
    masks = [np.full((12, 10), 2, np.uint8), np.zeros((12, 10), np.uint8)] + [soft()[6:18, 4:14]] * 38
    items = [replace(item, mask=mask) for item, mask in zip(digits_like, masks, strict=True)]
    data = array_data(items, ["even", "odd"], mask_classes=TWO)
    data.setup()
    assert len([text for text in caplog.messages if "soft edges" in text]) == 1
    by_id = {item.id: item.mask for item in items}
    for split in data.split_items:
        for batch in data.plain_dataloader(split):
            for name, mask in zip(batch["id"], batch["mask"], strict=True):
                assert np.array_equal(mask[0], by_id[name] > 127), name


def test_two_classes_of_labels_are_logged(
    array_data: Make, digits_like: list[Item], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "lightning_xai"):
        array_data(digits_like, ["even", "odd"], mask_classes=TWO).setup()
    assert "The masks of the arrays hold the values 0, 1, 2: all above 0 are 'thing'." in caplog.messages


@pytest.mark.parametrize(("classes", "labels"), [(TWO, 1), (None, 2), (THREE, 2)])
@pytest.mark.parametrize("given", [None, 255, 77])
def test_ignored_pixels_reach_the_batch_as_such(
    array_data: Make,
    digits_like: list[Item],
    caplog: pytest.LogCaptureFixture,
    classes: list[str] | None,
    labels: int,
    given: int | None,
) -> None:
    mask = digits_like[7].mask.copy()
    mask[0, :3] = given or 255
    items = [*digits_like[:7], replace(digits_like[7], mask=mask), *digits_like[8:]]
    data = array_data(items, ["even", "odd"], mask_classes=classes, ignore_index=given)
    data.setup()
    for split in data.split_items:
        for batch in data.plain_dataloader(split):
            for name, found in zip(batch["id"], batch["mask"], strict=True):
                if name == "im07":
                    assert (found[0, 0, :3] == IGNORED).all() and (found == IGNORED).sum() == 3
                assert (found == IGNORED).any() == (name == "im07") and found.max() <= labels
    assert (
        f"1 file has pixels of the value {given or 255} in the mask, which are ignored, such as im07."
        in caplog.messages
    )


def test_a_given_label_to_ignore_may_be_any_value() -> None:
    for value in (-1, 0, 3, 255):
        stored = np.array([[1, 2, 1, 2, 9]])
        stored[0, -1] = value
        mask_values = MaskValues(value)
        mask_values.add(stored, "mask")
        rule = mask_rule(mask_values, TWO, "the set")
        found = rule(read_mask(stored, (1, 5), "m", rule.ignored)[0])
        assert found.tolist() == [[0, 1, 0, 1, IGNORED]]
    other = np.array([[2, -1, 0, 0, 0]])
    assert read_mask((np.array([[-1, 1, 0, 1, 0]]), other), (1, 5), "m", -1).tolist() == [[[-1, -1, 0, 1, 0]]]
    with pytest.raises(BadImageError, match="negative"):
        read_mask(other, (1, 5), "m", 255)


def test_labels_of_a_scaled_nifti_are_whole_again(tmp_path: Path) -> None:
    labels = np.arange(4 * 5 * 6).reshape(4, 5, 6) % 4
    image = nibabel.Nifti1Image((labels * 85).astype(np.uint8), np.eye(4))
    image.header.set_slope_inter(1 / 85, 0)
    nibabel.save(image, tmp_path / "m.nii.gz")
    stored = np.asarray(nibabel.load(tmp_path / "m.nii.gz").dataobj)
    assert not np.array_equal(stored, np.rint(stored)), "the header does not keep whole numbers"
    assert np.array_equal(read_mask(tmp_path / "m.nii.gz", (4, 5, 6))[0], labels)
    mask_values = MaskValues()
    mask_values.add_source(tmp_path / "m.nii.gz", "m")
    assert set(mask_values.counts) == {0, 1, 2, 3}
    image.header.set_slope_inter(1 / 170, 0)
    nibabel.save(image, tmp_path / "half.nii.gz")
    with pytest.raises(BadImageError, match="half.nii.gz holds values that are not whole numbers"):
        read_mask(tmp_path / "half.nii.gz", (4, 5, 6))


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("suffix", ["nii.gz", "npy"])
def test_a_mask_elsewhere_in_the_world_is_refused_where_both_say_where_they_lie(
    tmp_path: Path, depth: int, suffix: str
) -> None:
    volume, place = np.zeros((6, 7, depth), np.uint8), np.diag([2.0, 2.0, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(volume, place), tmp_path / "image.nii.gz")
    moved = place.copy()
    moved[0, 3] = 5
    if suffix == "npy":
        np.save(tmp_path / "mask.npy", volume.squeeze())
    else:
        nibabel.save(nibabel.Nifti1Image(volume, moved), tmp_path / f"mask.{suffix}")
    load = LoadItem(None, None, True, TWO)
    item = Item("a", tmp_path / "image.nii.gz", None, tmp_path / f"mask.{suffix}")
    if suffix == "npy":
        assert load(item)["mask"].shape[1:] == load(item)["image"].shape[1:]
    else:
        with pytest.raises(BadImageError, match="lies elsewhere in the world"):
            load(item)


@pytest.mark.parametrize("classes", [TWO, None])
def test_fractions_are_soft_edges_of_any_format(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, classes: list[str] | None
) -> None:
    fractions, plain = (soft() / 255).astype(np.float32), SHAPE.astype(np.float32)
    Image.fromarray(fractions).save(tmp_path / "tiff.tif")
    np.save(tmp_path / "npy.npy", fractions)
    masks = [tmp_path / "tiff.tif", tmp_path / "npy.npy", fractions.astype(np.float64), plain, plain.astype(np.uint8)]
    items = [Item(str(number), SHAPE, None, mask) for number, mask in enumerate(masks)]
    rule = survey_masks(items, classes, "the set")
    assert "hold fractions from 0 to 1" in caplog.text and "above 0.5 are" in caplog.text
    load = LoadItem(None, None, True, classes, rule=rule)
    for item, expected in zip(items, [fractions > 0.5] * 3 + [SHAPE] * 2, strict=True):
        assert np.array_equal(load(item)["mask"][0], expected)


def test_fractions_are_refused_where_they_cannot_be_one_class() -> None:
    items = [Item("a", SHAPE, None, SHAPE * 0.7)]
    with pytest.raises(BadImageError, match="holds values that are not whole numbers"):
        LoadItem(None, None, True, THREE, rule=survey_masks(items, THREE, "the set"))(items[0])
    items = [Item("a", SHAPE, None, SHAPE * 1.5)]
    with pytest.raises(BadImageError, match="holds values that are not whole numbers"):
        LoadItem(None, None, True, TWO, rule=survey_masks(items, TWO, "the set"))(items[0])


def test_a_volume_and_its_mask_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, read = np.diag([2.0, 2.0, 3.0, 1.0]), []
    for name in ("image", "mask"):
        nibabel.save(nibabel.Nifti1Image(np.ones((6, 7, 4), np.uint8), place), tmp_path / f"{name}.nii.gz")
    get_data = NibabelReader.get_data
    monkeypatch.setattr(NibabelReader, "get_data", lambda reader, img: read.append(img) or get_data(reader, img))
    sample = LoadItem(None, None, True, TWO)(Item("a", tmp_path / "image.nii.gz", None, tmp_path / "mask.nii.gz"))
    assert len(read) == 2 and np.array_equal(sample["affine"], place)
