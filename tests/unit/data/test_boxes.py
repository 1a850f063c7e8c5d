"""Boxes as masks of the evidence."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_xai.data import FolderData, ManifestData
from lightning_xai.data.boxes import draw_boxes, parse_box, with_boxes
from lightning_xai.data.items import Item


def masks_of(data: object) -> dict[str, torch.Tensor]:
    data.setup()
    return {
        name: mask[0]
        for split in data.split_items
        for batch in data.plain_dataloader(split)
        for name, mask in zip(batch["id"], batch["mask"], strict=True)
    }


def filled(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (10, 20)) -> torch.Tensor:
    mask = torch.zeros(size, dtype=torch.int64)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = 1
    return mask


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(8):
        path = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((10, 20, 3), number, np.uint8)).save(path)
    return tmp_path / "photos"


def test_partly_covered_pixels_count_and_edges_are_cut() -> None:
    mask = draw_boxes([(-3, 1.5, 2.2, 30), (18, 0, 19, 1)], (10, 20), "a")
    assert np.array_equal(mask[0], filled((0, 1, 3, 10), (18, 0, 19, 1)).numpy())
    with pytest.raises(ValueError, match="The box 30, 0, 40, 5 .* of a has no pixel in the image of 20 x 10"):
        draw_boxes([(30, 0, 40, 5)], (10, 20), "a")
    with pytest.raises(ValueError, match="a is a volume, but its evidence is given as boxes"):
        draw_boxes([(0, 0, 1, 1)], (4, 4, 4), "a")


def coco(folder: Path, name: str = "{}.jpg", categories: tuple[str, ...] = ("cat", "dog")) -> Path:
    content = {
        "images": [{"id": 100 + n, "file_name": name.format(n)} for n in range(8)],
        "categories": [{"id": 5 + n, "name": category} for n, category in enumerate(categories)],
        "annotations": [
            {"image_id": 100 + n, "category_id": 5 + k, "bbox": [2 * n, 1 + 3 * k, 4, 2]}
            for n in range(8)
            for k in (0, 1)
        ],
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder / "boxes.json"


@pytest.mark.parametrize("name", ["{}.jpg", "./{}", "images\\{}.jpg"])
def test_coco_files_give_the_boxes_of_the_images_class(photos: Path, tmp_path: Path, name: str) -> None:
    masks = masks_of(FolderData(photos, boxes=coco(tmp_path, name)))
    assert len(masks) == 8
    for image, mask in masks.items():
        number = int(image[-1])
        top = 1 + 3 * (number % 2)
        assert torch.equal(mask, filled((2 * number, top, min(2 * number + 4, 20), top + 2)))


def test_boxes_of_other_things_count_all(photos: Path, tmp_path: Path) -> None:
    masks = masks_of(FolderData(photos, boxes=coco(tmp_path, categories=("head", "tail"))))
    assert torch.equal(masks["dog/1"], filled((2, 1, 6, 3), (2, 4, 6, 6)))


def test_voc_files_count_pixels_from_one(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    folder.mkdir()
    for number in range(7):
        (folder / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.jpg</filename><object><name>thing</name><bndbox><xmin>1</xmin>"
            f"<ymin>2</ymin><xmax>{number + 1}</xmax><ymax>4</ymax></bndbox></object></annotation>"
        )
    masks = masks_of(FolderData(photos, boxes=folder, size=(20, 40), resize="stretch"))
    assert torch.equal(masks["cat/6"], filled((0, 2, 14, 8), size=(20, 40)))
    assert not masks["dog/7"].any()


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"images": []}', "is no COCO file"), ("[", "is no COCO file"), (None, "no COCO file and no folder with VOC")],
)
def test_other_files_are_refused(photos: Path, tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        FolderData(photos, boxes=path).setup()


def test_boxes_of_other_images_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names none of the images, such as .*; correct data.boxes"):
        FolderData(photos, boxes=coco(tmp_path, "other{}.jpg")).setup()


def test_the_fuller_path_decides() -> None:
    items = [Item(f"{folder}/1", Path(f"root/{folder}/1.png"), 0) for folder in "ab"]
    given = Path("unused")
    assert with_boxes(items, None, ["x"]) == items and not given.exists()


def test_columns_of_a_table(photos: Path) -> None:
    rows = ["image,label,x,y,width,height"]
    for number in range(8):
        image, label = f"{('cat', 'dog')[number % 2]}/{number}.jpg", int(number > 3)
        rows.append(f"{image},{label}," + (f"{number},1,3,2.5" if label else ",,,"))
        if number == 5:
            rows.append(f"{image},{label},15,0,5,1")
    (photos / "t.csv").write_text("\n".join(rows))
    columns = ["x", "y", "width", "height"]
    masks = masks_of(ManifestData(photos / "t.csv", box_columns=columns))
    assert len(masks) == 8 and not masks["cat/2"].any()
    assert torch.equal(masks["dog/5"], filled((5, 1, 8, 4), (15, 0, 20, 1)))
    data = ManifestData(photos / "t.csv", box_columns=columns)
    data.setup("predict")
    assert len(data.split_items["predict"]) == 8
    (photos / "t.csv").write_text("\n".join([*rows, "dog/5.jpg,0,1,1,1,1"]))
    with pytest.raises(ValueError, match="Rows 7 and 11 of .* give 'dog/5.jpg' different labels"):
        ManifestData(photos / "t.csv", box_columns=columns).setup()
    with pytest.raises(ValueError, match="data.box_columns names 2 columns"):
        ManifestData(photos / "t.csv", box_columns=columns[:2])


def test_cells_become_boxes_or_an_error() -> None:
    def parse(columns: str, *cells: str) -> object:
        names = columns.split()
        return parse_box(dict(zip(names, cells, strict=True)), names, "Row 2 of t")

    assert parse("x_min y_min x_max y_max", "1", "2", "3.5", "4") == (1, 2, 3.5, 4)
    assert parse("bx by bbox_w bbox_h", "1", "2", "3", "4") == (1, 2, 4, 6)
    assert parse("a b c d", "", "", "", "") is None
    with pytest.raises(ValueError, match="Row 2 of t has 1, , 3, 4 as a box"):
        parse("a b c d", "1", "", "3", "4")
    with pytest.raises(ValueError, match="Row 2 of t has a box without area"):
        parse("a b c d", "10", "10", "5", "5")
