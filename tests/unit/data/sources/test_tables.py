"""Tables as spreadsheets and hospitals write them."""

import logging
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_xai.data import ManifestData
from lightning_xai.data.sources.table import FileFinder, read_table

TEXT = "image;label\n" + "".join(f"ä{i}.png;{('grün', 'rot')[i % 2]}\n" for i in range(8))
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a table and an image of each name."""

    def make(content: str | bytes, *images: str, size: tuple[int, int] = (8, 6)) -> Path:
        for number, name in enumerate(images):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full(size, number % 2, np.uint8)).save(path)
        table = tmp_path / "table.csv"
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
        return table

    return make


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        b"\x00\x00\xfe\xff" + TEXT.encode("utf-32-be"),
        TEXT.replace(";", "|").encode(),
        (TEXT + ";\n;\n").encode(),
        TEXT.encode("cp1252"),
        ("sep=;\r\n" + TEXT.replace("\n", "\r\n")).encode(),
        ("sep=\t\n" + TEXT.replace(";", "\t")).encode("utf-16"),
        ('"sep=,"\n' + TEXT.replace(";", ",")).encode("utf-8-sig"),
        ("\n" + TEXT.replace("image;label", " image ; label ")).encode(),
        unicodedata.normalize("NFD", TEXT).encode(),
    ],
)
def test_encodings_and_separators_are_found(write: Write, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    table = write(content, *(f"ä{i}.png" for i in range(8)))
    data = ManifestData(table)
    data.setup()
    assert data.class_names == ["grün", "rot"]
    assert sum(len(items) for items in data.split_items.values()) == 8
    assert ("read as Windows-1252" in caplog.text) == (content == TEXT.encode("cp1252"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image,label\n\x81\xff.png,a\n", "The encoding of the table .* is unknown; save it as CSV UTF-8"),
        (b"PK\x03\x04sheet", "is a workbook or compressed, not text"),
        (b"\x1f\x8b\x08\x00" + bytes(range(1, 200)), "is a workbook or compressed, not text"),
        ('image,label\na.png,"x\nb.png,y\n', "cannot be read as CSV .* look for a quote that is not closed"),
        ('image,label\na.png,"x\nb.png,"y"\n', "cannot be read as CSV .* look for a quote that is not closed"),
        (b"", "is empty; give it a header"),
        (b"sep=;\n", "is empty; give it a header"),
        (b"image,label,label\na.png,1,2\n", "has the column 'label' twice"),
        ("image,label\na.png,1\n".encode("utf-16")[:-1], "The encoding of the table .* is unknown"),
        ("image,label\n\0.png,a\n".encode("utf-16"), "The table .* holds the character NUL, which no text has"),
    ],
)
def test_what_is_no_table_names_file_and_remedy(write: Write, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_table(write(content))
    assert "table.csv" in str(caught.value) and not isinstance(caught.value, UnicodeError)


def test_quoted_cells_keep_line_breaks_and_separators(write: Write) -> None:
    header, rows = read_table(write('image,note\n"a,1.png","first\nsecond"\nb.png,x\n'))
    assert header == ["image", "note"]
    assert [row for _, row in rows] == [
        {"image": "a,1.png", "note": "first\nsecond"}, {"image": "b.png", "note": "x"},
    ]  # fmt: skip


def test_files_are_found_by_what_is_meant(tmp_path: Path, write: Write) -> None:
    decomposed = unicodedata.normalize("NFD", "fälle/größe.png")
    write("", "deep/er/1.png", "2.jpg", decomposed, "3.png", "3.jpg", "case.01.png")
    find = FileFinder(tmp_path).find
    assert find("deep/er/1.png") == find("deep\\er\\1.png") == find("deep/er/1") == tmp_path / "deep/er/1.png"
    assert find("2") == tmp_path / "2.jpg" and find("case.01") == tmp_path / "case.01.png"
    assert find("fälle/größe.png") == find("fälle\\größe") == tmp_path / decomposed
    assert find("absent.png") == tmp_path / "absent.png"
    assert find("DEEP/er/1.PNG") == find("Deep\\ER\\1") == tmp_path / "deep/er/1.png"
    with pytest.raises(ValueError, match="'3' may mean .*; write the whole name into the table"):
        find("3")


def test_capital_letters_tell_files_apart_where_they_are_written(tmp_path: Path, write: Write) -> None:
    write("", "a/x.png", "b/X.png", "c/Y.png", "C/y.png")
    find = FileFinder(tmp_path).find
    assert find("a/x") == tmp_path / "a/x.png" and find("b/X") == tmp_path / "b/X.png"
    assert find("C/y") == tmp_path / "C/y.png" and find("c/Y") == tmp_path / "c/Y.png"
    with pytest.raises(ValueError, match="'c/y' may mean .*; write the whole name into the table"):
        find("c/y")


def test_ids_and_masks_of_windows_tables(tmp_path: Path, write: Write) -> None:
    rows = [f"a\\{i},{'xy'[i % 2]},m\\{i}.png" for i in range(8)]
    table = write("image,label,mask\n" + "\n".join(rows), *(f"{folder}/{i}.png" for folder in "am" for i in range(8)))
    data = ManifestData(table)
    data.setup()
    items = [item for items in data.split_items.values() for item in items]
    assert sorted(item.id for item in items) == [f"a/{i}" for i in range(8)]
    assert all(item.mask == tmp_path / "m" / f"{Path(item.id).name}.png" for item in items)


FINDINGS = "image,Edema,Mass\n" + "".join(
    f"{i}.png,{edema},{mass}\n"
    for i, (edema, mass) in enumerate([("1.0", ""), ("", "-1.0"), ("0", "1"), ("-1", "0")] * 3)
)


@pytest.mark.parametrize(
    ("uncertain", "expected"),
    [
        ("zero", [(1, 0), (0, 0), (0, 1), (0, 0)] * 3),
        ("one", [(1, 0), (0, 1), (0, 1), (1, 0)] * 3),
        ("ignore", [(1, 0), (0, -1), (0, 1), (-1, 0)] * 3),
    ],
)
def test_uncertain_findings(
    write: Write, uncertain: str, expected: list[tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    table = write(FINDINGS, *(f"{i}.png" for i in range(12)))
    data = ManifestData(table, label_column=["Edema", "Mass"], uncertain=uncertain)
    data.setup()
    labels = {int(item.id): item.label for items in data.split_items.values() for item in items}
    assert labels == dict(enumerate(expected))
    assert ("6 are uncertain and count in no loss and no metric" in caplog.text) == (uncertain == "ignore")
    assert sum(count["Edema"] for count in data.split_counts.values()) == sum(label[0] == 1 for label in expected)


def test_an_uncertain_finding_of_a_single_column_leaves_the_image_out(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    data = ManifestData(write(FINDINGS, *(f"{i}.png" for i in range(12))), label_column="Edema", uncertain="ignore")
    data.setup()
    assert data.class_names == ["0", "1"] and "Left out 3 images" in caplog.text
    assert sum(map(len, data.split_items.values())) == 9


def test_uncertain_findings_need_a_word(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    table = write(FINDINGS, *(f"{i}.png" for i in range(12)))
    with pytest.raises(
        ValueError, match="Row 2 .* has '' in column 'Mass'; give it 0 or 1, or set data.uncertain=ignore"
    ):
        ManifestData(table, label_column=["Edema", "Mass"]).setup()
    with pytest.raises(ValueError, match="data.uncertain is 'drop'; use ignore, zero or one"):
        ManifestData(table, uncertain="drop")
    data = ManifestData(table, label_column="Edema", uncertain="one")
    data.setup()
    assert data.class_names == ["0", "1"] and not data.multilabel
    one = "image,label\n" + "".join(f"{i}.png,{(0, 1, -1)[i % 3]}\n" for i in range(12))
    ManifestData(write(one)).setup()
    assert "The label -1 of column 'label'" in caplog.text and "data.uncertain" in caplog.text


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["0", "1", "1.0"], "'1' and '1.0' of .* look alike, but count as 2 classes"),
        (["Cat", "cat", "dog"], "'Cat' and 'cat'"),
        (["left eye", "left_eye"], "look alike"),
        (
            ["None", "Mass", "Mass|Edema"],
            r"'Mass\|Edema' of .* looks like several findings .* data.label_separator='\|'",
        ),
        (["Mass", "Edema", "Edema, Mass"], "data.label_separator=','"),
        (["1", "10", "2.5"], None),
        (["ill", "NaN"], "'NaN' of .* counts as a class; delete its rows"),
        ([str(number / 7) for number in range(12)], "each of 12 labels does; if they are measurements"),
        (["A/B test", "C"], None),
    ],
)
def test_labels_that_look_alike(
    write: Write, labels: list[str], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "".join(f'{i}.png,"{labels[i % len(labels)]}"\n' for i in range(12))
    data = ManifestData(write("image,label\n" + rows, *(f"{i}.png" for i in range(12))))
    data.setup()
    assert sorted(data.class_names) == sorted(labels)
    if said is None:
        assert "labels" not in caplog.text
    else:
        assert re.search(said, caplog.text)


def test_cells_with_several_labels_on_request(write: Write) -> None:
    cells = ["Mass", "Mass | Edema", "Edema", "None"] * 3
    table = write(
        "image,label\n" + "".join(f"{i}.png,{c}\n" for i, c in enumerate(cells)), *(f"{i}.png" for i in range(12))
    )
    data = ManifestData(table, label_separator="|")
    data.setup()
    assert data.class_names == ["Edema", "Mass", "None"] and data.multilabel
    assert data.data_info()["activation"] == "sigmoid"
    labels = {int(item.id): item.label for items in data.split_items.values() for item in items}
    assert [labels[i] for i in range(4)] == [(0, 1, 0), (1, 1, 0), (1, 0, 0), (0, 0, 1)]
    data = ManifestData(table, label_separator="|", classes=["Mass", "Edema"])
    data.setup()
    assert sorted(int(item.id) for items in data.split_items.values() for item in items) == [
        i for i in range(12) if i % 4 < 3
    ]
    with pytest.raises(ValueError, match="data.label_separator needs a single label column"):
        ManifestData(table, label_column=["a", "b"], label_separator="|")


def test_nothing_is_said_of_plain_tables(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    rows = "".join(f"{i}.png,{('cat', 'dog')[i % 2]}\n" for i in range(12))
    with caplog.at_level(logging.WARNING):
        ManifestData(write("image,label\n" + rows, *(f"{i}.png" for i in range(12)))).setup()
    assert not [text for text in caplog.messages if "label" in text]
