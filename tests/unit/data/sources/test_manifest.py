from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from lightning_xai.data import ManifestData


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """24 gray 16-bit images of 12 patients in three classes, with all usual columns."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    lines = ["image,label,mask,group,laterality,id,oedema,bleeding"]
    for i in range(24):
        Image.fromarray(np.full((8, 6), 2000 * i, np.uint16)).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(np.full((8, 6), i % 2, np.uint8)).save(tmp_path / "masks" / f"{i}.png")
        mask = f"masks/{i}.png" if i else ""
        name = ("none", "mild", "severe")[i // 2 % 3]
        lines.append(f"images/{i}.png,{name},{mask},patient{i // 2},{'LR'[i % 2]},eye{i},{i % 2},{int(i < 6)}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "table.csv"


def test_columns_with_usual_names_are_used(table: Path) -> None:
    data = ManifestData(table)
    data.setup()
    assert data.class_names == ["mild", "none", "severe"]
    assert data.has_masks
    patients = [{item.group for item in items} for items in data.split_items.values()]
    assert sum(len(group) for group in patients) == len(set.union(*patients)) == 12
    for batch in data.train_dataloader():
        for i, name in enumerate(batch["id"]):
            number = int(name.removeprefix("eye"))
            assert batch["image"][i].unique().tolist() == pytest.approx([2000 * number / 65535])
            assert data.class_names[batch["label"][i]] == ("none", "mild", "severe")[number // 2 % 3]
            assert batch["mask"][i].unique().tolist() == [number % 2]
            assert batch["laterality"][i] == "LR"[number % 2]
            assert batch["group"][i] == f"patient{number // 2}"


def test_named_columns_and_folders(table: Path) -> None:
    rows = ["file;klass;who;fold"] + [f"{i}.png;{i % 2};p{i};{('train', 'test')[i > 15]}" for i in range(24)]
    other = table.parent / "other.csv"
    other.write_text("\n".join(rows), encoding="utf-8-sig")
    data = ManifestData(
        other, "file", "klass", image_root="images", mask_root="masks", split_column="fold", group_column="who"
    )
    data.setup()
    assert sorted(item.id for item in data.split_items["test"]) == [str(i) for i in range(16, 24)]
    batch = next(iter(data.test_dataloader()))
    assert torch.equal(batch["mask"].flatten(1).amax(1), batch["label"])
    assert "laterality" not in batch


def test_root_replaces_the_folder_of_the_table(table: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = tmp_path_factory.mktemp("elsewhere") / "table.csv"
    moved.write_text(table.read_text())
    data = ManifestData(moved, root=table.parent)
    data.setup()
    assert data.image_shape == (1, 8, 6)


def test_several_label_columns(table: Path) -> None:
    data = ManifestData(table, label_column=["oedema", "bleeding"])
    data.setup()
    assert data.class_names == ["oedema", "bleeding"] and data.multilabel
    for batch in data.train_dataloader():
        numbers = [int(name.removeprefix("eye")) for name in batch["id"]]
        assert batch["label"].tolist() == [[float(n % 2), float(n < 6)] for n in numbers]


def test_classes_are_kept_in_the_order_asked(table: Path) -> None:
    data = ManifestData(table, classes=["severe", "none"])
    data.setup()
    assert data.class_names == ["severe", "none"]
    assert [sum(c.values()) for c in zip_counts(data)] == [8, 8]


def zip_counts(data: ManifestData) -> list[dict[str, int]]:
    return [{split: counts[name] for split, counts in data.split_counts.items()} for name in data.class_names]


def test_numeric_classes_are_sorted_by_value(table: Path) -> None:
    path = table.parent / "grades.csv"
    path.write_text("image,label\n" + "".join(f"images/{i}.png,{(2, 10, 1)[i % 3]}\n" for i in range(24)))
    data = ManifestData(path)
    data.setup()
    assert data.class_names == ["1", "2", "10"]


def test_unlabeled_table(table: Path) -> None:
    data = ManifestData(table, label_column=None)
    data.setup()
    assert data.num_classes == 0
    assert "label" not in next(iter(data.predict_dataloader()))


def test_five_channel_tiff(table: Path) -> None:
    for i in range(24):
        tifffile.imwrite(table.parent / "images" / f"{i}.tif", np.full((5, 24, 24), 1000 * i, np.uint16))
    path = table.parent / "tiff.csv"
    path.write_text("image,label\n" + "".join(f"images/{i}.tif,{i % 2}\n" for i in range(24)))
    data = ManifestData(path)
    data.setup()
    assert data.channels == 5 and data.image_shape == (5, 24, 24)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"image_column": "imgae"},
            "table.csv has no column 'imgae', did you mean 'image'; its columns are image, lab",
        ),
        ({"label_column": "labels"}, "has no column 'labels', did you mean 'label'"),
        ({"group_column": "xyz"}, "has no column 'xyz'; its columns are image, label, mask"),
        (
            {"classes": ["none", "sever"]},
            "Class 'sever' is not in column 'label' of .*, did you mean 'severe'; correct",
        ),
        ({"label_column": ["oedema", "id"]}, "Row 2 of .*table.csv has 'eye0' in column 'id'; give it 0 or 1"),
    ],
)
def test_wrong_columns_are_named(table: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ManifestData(table, **options).setup()


def test_classes_need_a_single_label_column(table: Path) -> None:
    with pytest.raises(ValueError, match="data.classes needs a single label column"):
        ManifestData(table, label_column=["oedema"], classes=["none"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("images/3.png,mild", "images/3.png,", "Row 5 of .*table.csv has '' in column 'label'; give it a class"),
        ("images/3.png", "", "Row 5 of .*table.csv has no 'image'; fill it in"),
        ("eye3", "eye4", "2 images of .*table.csv have the id 'eye4'"),
        ("images/3.png", "images/33.png", "The image .*33.png does not exist; correct its path"),
    ],
)
def test_wrong_cells_are_named(table: Path, old: str, new: str, message: str) -> None:
    text = table.read_text()
    assert text.count(old) == 1
    table.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        ManifestData(table).setup()


def test_group_in_two_given_splits_is_named(table: Path) -> None:
    header, *rows = table.read_text().splitlines()
    splits = ["train", "val", "test"] * 8
    table.write_text("\n".join([header + ",split", *(f"{r},{s}" for r, s in zip(rows, splits, strict=True))]))
    with pytest.raises(ValueError, match="Group 'patient0' is in two splits, train and val .image eye1."):
        ManifestData(table).setup()


def test_missing_table_and_folders_are_named(table: Path) -> None:
    with pytest.raises(FileNotFoundError, match="The table nowhere.csv does not exist; set data.csv"):
        ManifestData("nowhere.csv").setup()
    with pytest.raises(NotADirectoryError, match="The image folder .*pictures does not exist; correct data.image_root"):
        ManifestData(table, image_root="pictures").setup()


@pytest.mark.parametrize("cache", [True, False])
def test_an_image_without_a_group_travels_with_others(table: Path, cache: bool) -> None:
    table.write_text(table.read_text().replace(",patient0,", ",,").replace(",patient3,", ",,"))
    data = ManifestData(table, batch_size=24, splits=(0.8, 0.1, 0.1), cache=cache)
    data.setup()
    groups = {
        name: group
        for batch in data.plain_dataloader("train")
        for name, group in zip(batch["id"], batch["group"], strict=True)
    }
    assert len(groups) > 12
    expected = {f"eye{i}": "" if i // 2 in (0, 3) else f"patient{i // 2}" for i in range(24)}
    assert groups == {name: expected[name] for name in groups}
