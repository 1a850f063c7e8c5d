"""Which folders are splits, which are classes, and which are neither."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_xai.data import FolderData
from lightning_xai.data.items import list_images
from lightning_xai.data.sources.layout import split_in_name

SPLITS = ("train", "val", "test")


def grow(root: Path, *folders: str, count: int = 6) -> Path:
    """Gray noise images in each of the folders."""
    rng = np.random.default_rng(0)
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(root / folder / f"{number}.png")
    return root


def below(splits: tuple[str, ...], classes: tuple[str, ...] = ("cat", "dog")) -> list[str]:
    return [f"{split}/{name}" for split in splits for name in classes]


def ready(root: Path, **options: object) -> FolderData:
    data = FolderData(root, **options)
    data.setup()
    return data


def origins(data: FolderData, depth: int = 1) -> dict[str, set[str]]:
    """The first folders of the images of each split."""
    return {split: {"/".join(i.id.split("/")[:depth]) for i in items} for split, items in data.split_items.items()}


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("Training", "VALIDATION", "Testing"),
        ("training", "dev", "test"),
        ("seg_train", "seg_valid", "seg_test"),
        ("train_images", "val_images", "test_images"),
        ("chest_xray_train", "chest_xray_val", "chest_xray_test"),
        ("train2017", "val2017", "test2017"),
        ("TrainImages", "ValImages", "TestImages"),
        ("training set", "validation set", "test data"),
    ],
)
@pytest.mark.parametrize("more", [(), ("unlabeled",), ("unlabeled/cat", "unlabeled/dog"), ("docs/pages/old",)])
def test_split_folders_are_found_and_others_left_out(
    tmp_path: Path, names: tuple[str, ...], more: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    data = ready(grow(tmp_path, *below(names), *more))
    assert data.class_names == ["cat", "dog"]
    assert origins(data) == {split: {name} for split, name in zip(SPLITS, names, strict=True)}
    said = [text for text in caplog.messages if text.startswith("Left out")]
    assert [more[0].split("/")[0] in text for text in said] == [True] * bool(more)


def test_two_splits_suffice_and_the_third_is_carved_out_of_training(tmp_path: Path) -> None:
    data = ready(grow(tmp_path, *below(("seg_train", "seg_test")), "seg_pred"))
    assert data.class_names == ["cat", "dog"]
    assert origins(data) == {"train": {"seg_train"}, "val": {"seg_train"}, "test": {"seg_test"}}


def test_an_archive_that_repeats_its_name_inside(tmp_path: Path) -> None:
    data = ready(grow(tmp_path, *below(("a_train/a_train", "a_test/a_test")), "a_pred/a_pred"))
    assert data.class_names == ["cat", "dog"] and origins(data)["test"] == {"a_test"}


def test_a_training_folder_alone_with_unlabeled_test_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = ready(grow(tmp_path, *below(("train",)), "test"))
    assert data.class_names == ["cat", "dog"]
    assert origins(data) == dict.fromkeys(SPLITS, {"train"})
    assert any("Left out test of" in text for text in caplog.messages)


@pytest.mark.parametrize(
    "folders",
    [
        ("bus", "car", "train"),
        ("test", "flask"),
        ("test_tube", "train_station"),
        ("dev_board", "test_tube", "train_station", "valley"),
        ("contest", "strain"),
        ("test_tube/2020", "train_station/2020"),
        ("contest/2020", "strain/2020"),
    ],
)
def test_classes_that_contain_the_name_of_a_split(tmp_path: Path, folders: tuple[str, ...]) -> None:
    assert ready(grow(tmp_path, *folders)).class_names == sorted(folder.split("/")[0] for folder in folders)


def test_what_is_none_of_the_users_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    junk = ("__MACOSX/train/cat", ".ipynb_checkpoints", "train/.ipynb_checkpoints", "train/cat/.ipynb_checkpoints")
    grow(tmp_path, *below(SPLITS), *junk)
    for name in ("Thumbs.db", "train/cat/Thumbs.db", "train/cat/._0.png"):
        (tmp_path / name).write_bytes(b"x")
    data = ready(tmp_path)
    assert data.split_counts == {split: {"cat": 6, "dog": 6} for split in SPLITS}
    assert not [text for text in caplog.messages if "Left out" in text]


def test_loose_images_next_to_classes_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grow(tmp_path, "cat", "dog")
    grow(tmp_path, ".", count=2)
    assert sum(map(len, ready(tmp_path).split_items.values())) == 12
    assert any(f"Left out 2 images next to the class folders, such as {tmp_path}/0.png" in t for t in caplog.messages)


@pytest.mark.parametrize("splits", [SPLITS, ("train_x", "test_x")])
def test_a_stray_image_next_to_the_classes_of_a_split(tmp_path: Path, splits: tuple[str, ...]) -> None:
    grow(tmp_path, *below(splits))
    grow(tmp_path, splits[0], count=1)
    assert ready(tmp_path).class_names == ["cat", "dog"]


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        (["cat"], r"{root} holds the one class folder cat, but a classifier needs two classes"),
        (below(SPLITS, ("cat",)), r"{root} holds the one class folder cat, but a classifier needs two"),
        (below(("animals",)), r"{root} holds the one folder animals, .* set data.root={root}/animals if the class"),
        (below(("a/b",)), r"{root} holds the one folder a, .* set data.root={root}/a/b if the class or split"),
        (below(("animals/train", "animals/test")), r"set data.root={root}/animals if the class or split folders"),
        (below(("images", "masks")), r"images, masks of {root} are no classes; set data.root={root}/images and "
                                     r"data.mask_root={root}/masks, with the class"),
        (list(SPLITS), r"The split folders test, train, val of {root} hold images but no class folders; put each"),
        (["trainA", "testA"], r"The split folders testA, trainA of {root} hold images but no class folders"),
        (["train/images", "test/images"], r"The split folders test, train of {root} hold images but no class"),
        (below(("learn", "test")), r"{root} holds the folders learn, test, of which test alone is named as a split"),
        (below(("train", "extra")), r"of which train alone is named as a split, but others hold folders of the same"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_one_sentence(tmp_path: Path, folders: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.format(root=tmp_path)) as caught:
        ready(grow(tmp_path, *folders))
    assert "\n" not in str(caught.value)


def test_a_file_is_no_root_for_training(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="0.png is a file; give the folder of the class folders"):
        ready(grow(tmp_path, ".") / "0.png")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("chestXray_train2017", ("train", "chest xray")),
        ("Validation", ("val", "")),
        ("DEV", ("val", "")),
        ("train_test", None),
        ("train_masks", None),
        ("test_labels", None),
        ("latest", None),
        ("2017", None),
    ],
)
def test_splits_in_names(name: str, found: tuple[str, str] | None) -> None:
    assert split_in_name(name) == found


# ------------------------------------------------------------------ to segment


def segment(root: Path, *folders: str) -> Path:
    """Images in `folder`, and masks next to them or in the folder of masks next to theirs."""
    grow(root, *folders)
    for folder in folders:
        place = root / (folder.replace("images", "masks") if "images" in folder else folder)
        place.mkdir(parents=True, exist_ok=True)
        for number in range(6):
            mask = np.zeros((8, 8), np.uint8)
            mask[: number + 1] = 255
            Image.fromarray(mask).save(place / f"{number}{'' if 'images' in folder else '_mask'}.png")
    return root


@pytest.mark.parametrize(
    ("folders", "given"),
    [
        (["."], False),
        (["images"], False),
        (["train", "val", "test"], True),
        (["train/images", "val/images", "test/images"], True),
        (["train_images", "val_images", "test_images"], True),
        (["seg_train", "seg_val", "seg_test"], True),
    ],
)
def test_layouts_of_images_to_segment(tmp_path: Path, folders: list[str], given: bool) -> None:
    if folders[0] == "train_images":
        grow(tmp_path, *folders)
        for folder in folders:
            grow(tmp_path, f"masks/{folder}")
            for path in (tmp_path / "masks" / folder).iterdir():
                Image.fromarray(np.eye(8, dtype=np.uint8)).save(path)
        data = ready(tmp_path, mask_root=tmp_path / "masks", mask_classes=["none", "thing"])
    else:
        data = ready(segment(tmp_path, *folders), mask_classes=["none", "thing"])
    assert data.class_names == [] and data.has_masks
    assert sum(map(len, data.split_items.values())) == 6 * len(folders)
    if given:
        assert origins(data) == {split: {folder.split("/")[0]} for split, folder in zip(SPLITS, folders, strict=True)}
    for split in SPLITS:
        for batch in data.plain_dataloader(split):
            assert batch["mask"].amax() == 1 and batch["mask"].flatten(1).any(1).all()


def test_splits_below_images_and_masks_need_both_roots(tmp_path: Path) -> None:
    segment(tmp_path, *(f"images/{split}" for split in SPLITS))
    with pytest.raises(ValueError, match=rf"set data.root={tmp_path}/images and data.mask_root={tmp_path}/masks, with"):
        ready(tmp_path, mask_classes=["none", "thing"])
    data = ready(tmp_path / "images", mask_root=tmp_path / "masks", mask_classes=["none", "thing"])
    assert origins(data) == {split: {split} for split in SPLITS}


def test_the_same_folders_in_all_classes_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = ready(grow(tmp_path / "folds", *below(("fold0", "fold1", "fold2"))))
    assert data.class_names == ["fold0", "fold1", "fold2"]
    assert "fold0, fold1, fold2" in caplog.text and "all hold the folders cat, dog" in caplog.text
    caplog.clear()
    ready(grow(tmp_path / "parts", *below(("cat", "dog"), ("images", "masks"))))
    ready(grow(tmp_path / "one", "cat/left", "cat/right", "dog/left", "dog/top"))
    assert "all hold" not in caplog.text
    with pytest.raises(ValueError, match="cat, dog of .* hold the split folders test, train; put the splits above"):
        ready(grow(tmp_path / "below", *below(("cat", "dog"), ("train", "test"))))


def test_a_class_is_one_in_every_unicode_form(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    data = ready(grow(tmp_path, f"train/{names[0]}", f"test/{names[1]}", "train/tea", "test/tea"))
    assert data.class_names == [names[0], "tea"] and data.split_counts["test"] == {names[0]: 6, "tea": 6}
    ready(grow(tmp_path / "case", "train/Cat", "train/dog", "test/cat", "test/dog"))
    assert "'Cat' and 'cat' of the folders of" in caplog.text


def test_linked_folders_are_entered_but_no_loops(tmp_path: Path) -> None:
    grow(tmp_path / "far", "cat", "dog")
    for name in ("cat", "dog"):
        (tmp_path / "near" / name).mkdir(parents=True)
        os.symlink(tmp_path / "far" / name, tmp_path / "near" / name / "more")
        os.symlink(tmp_path / "near", tmp_path / "near" / name / "up")
        os.symlink("self", tmp_path / "near" / name / "self")
        os.symlink("more", tmp_path / "near" / name / "again")
    data = ready(tmp_path / "near")
    assert sum(map(len, data.split_items.values())) == 12 and data.class_names == ["cat", "dog"]
    assert all(item.id.split("/")[1] == "again" for item in data.split_items["train"]), "each folder is entered once"


def test_folders_named_like_files_are_folders(tmp_path: Path) -> None:
    data = ready(grow(tmp_path, "cat", "dog", "dog/x.png", "dog/scan.dcm"))
    assert sum(map(len, data.split_items.values())) == 24


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(tmp_path, "cat/secret")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if os.fspath(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"The folder .*secret cannot be read \(Permission denied\); make it readable"):
        list_images(tmp_path)


@pytest.mark.parametrize("names", [("val", "test"), ("test",), ("valid", "testing")])
def test_splits_without_training_images_are_kept(
    tmp_path: Path, names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    data = ready(grow(tmp_path, *below(names)))
    assert len(data.split_items["test"]) == 12 and not data.split_items["train"]
    assert len(data.split_items["val"]) == 12 * (len(names) - 1)
    assert len(data.mean or []) == len(next(iter(data.test_dataloader()))["image"][0]) == 1
    assert "has no training image: targets and explainers can be applied, but not trained" in caplog.text
    with pytest.raises(ValueError, match="The train split of .* ends up empty; give it images"):
        data.train_dataloader()
    with pytest.raises(ValueError, match="data.normalize=dataset needs training images, and .* has none"):
        ready(tmp_path, normalize="dataset")
