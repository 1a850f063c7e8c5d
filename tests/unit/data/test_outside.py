"""Lists from elsewhere name files below the folders of the data, and no others unless the user allows it."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from lightning_xai.data import DecathlonData, ManifestData
from lightning_xai.data.arrays import BadImageError
from lightning_xai.data.reading import read_image

ALLOW = r"; if you trust the list, allow it with data\.allow_outside=true\."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of images next to a private one, which a link in the folder leads to as well."""
    (tmp_path / "set/im").mkdir(parents=True)
    for path in [tmp_path / "private.png", *(tmp_path / f"set/im/{number}.png" for number in range(12))]:
        Image.fromarray(np.full((8, 8), 90, np.uint8)).save(path)
    (tmp_path / "set/link.png").symlink_to(tmp_path / "private.png")
    return tmp_path / "set"


def manifest(folder: Path, cell: str, column: str = "image", **options) -> ManifestData:
    rows = [{"image": f"im/{number}.png", "label": "ab"[number % 2], "mask": ""} for number in range(12)]
    rows[3][column] = cell
    lines = ["image,label,mask", *(",".join(row.values()) for row in rows)]
    (folder / "table.csv").write_text("\n".join(lines))
    return ManifestData(folder / "table.csv", **options)


@pytest.mark.parametrize("column", ["image", "mask"])
@pytest.mark.parametrize(
    "cell", ["../private.png", "im/../../private.png", "{}/private.png", "..\\private.png", "link.png"]
)
def test_a_row_that_leads_out_is_refused_unless_allowed(folder, cell, column):
    cell = cell.format(folder.parent)
    with pytest.raises(ValueError, match=rf"Row 5 of .*table\.csv names .*\.png, which lies outside of .*set{ALLOW}"):
        manifest(folder, cell, column).items()
    assert manifest(folder, cell, column, allow_outside=True).items()
    if column == "image":
        with pytest.raises(ValueError, match=ALLOW):
            manifest(folder, cell).predict_items()


@pytest.mark.parametrize("cell", ["im/../im/3.png", "{}/im/3.png", "./im/3.png"])
def test_a_roundabout_way_inside_is_none(folder, cell):
    assert len(manifest(folder, cell.format(folder)).items()) == 12


def test_folders_that_the_user_names_are_inside_wherever_they_are(folder):
    (folder.parent / "elsewhere").symlink_to(folder / "im")
    rows = "".join(f"{number}.png,{'ab'[number % 2]}\n" for number in range(12))
    (folder.parent / "lists").mkdir()
    (folder.parent / "lists/table.csv").write_text(f"image,label\n{rows}")
    data = ManifestData(folder.parent / "lists/table.csv", image_root=folder.parent / "elsewhere")
    assert len(data.items()) == 12


def test_a_name_that_no_system_has_is_a_sentence(folder):
    with pytest.raises(
        ValueError, match=r"Row 5 of .*table\.csv names a file that no system has \(File name too long\)"
    ):
        manifest(folder, f"im/{'x' * 300}.png").items()


@pytest.mark.parametrize(("part", "key"), [("training", "image"), ("training", "label"), ("test", "image")])
def test_the_list_of_a_decathlon_task_too(tmp_path, part, key):
    root = tmp_path / "Task01"
    root.mkdir()
    for path in (root / "a.nii", tmp_path / "private.nii"):
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), path)
    rows = {"training": [{"image": "a.nii", "label": "a.nii"}], "test": ["a.nii"]}
    rows[part] = [rows["training"][0] | {key: "../private.nii"}] if part == "training" else ["../private.nii"]
    (root / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "a"}} | rows))
    with pytest.raises(ValueError, match=rf"dataset\.json names .*private\.nii, which lies outside of .*Task01{ALLOW}"):
        DecathlonData(root).predict_items() if key == "image" else DecathlonData(root).items()
    assert DecathlonData(root, allow_outside=True).predict_items()


@pytest.mark.parametrize(
    "text",
    [
        "ObjectType = Image\nNDims = 2\nDimSize = 4 4\nElementType = MET_UCHAR\nElementDataFile = {}\n",
        "ObjectType : Image\nNDims : 2\nDimSize : 4 4\nElementDataFile : {}\n",
        "NRRD0004\ntype: uchar\ndimension: 2\nsizes: 4 4\nencoding: raw\ndata file: {}\n\n",
        "NRRD0004\n# a comment\ndatafile:={}\n\n",
    ],
)
@pytest.mark.parametrize("named", ["/etc/passwd", "../private.raw", "LIST"])
def test_a_head_that_takes_its_pixels_from_elsewhere_is_refused(tmp_path, text, named):
    path = tmp_path / ("scan.mhd" if "Object" in text else "scan.nhdr")
    path.write_text(text.format(named))
    with pytest.raises(BadImageError, match=rf"its pixels are said to be in {named}"):
        read_image(path)
