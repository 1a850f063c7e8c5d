"""A list of images to explain, and what is wrong with one."""

import numpy as np
import pytest
from PIL import Image

from lightning_xai.data import FolderData
from lightning_xai.data.sources.image_list import listed_items


@pytest.fixture
def images(tmp_path):
    for name in ("a/1.png", "b/1.png", "b/2.jpg", "b/2.png", "left out.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "b/1.png\n# a comment\n\na/1.png\n"),
        ("list.csv", "image,label\nb/1.png,cat\na/1.png,dog\n"),
        ("list.csv", "file\nb/1.png\na/1\n"),
        ("list.tsv", "label\timage\ncat\tb\\1.png\ndog\ta/1.png\n"),
    ],
)
def test_what_is_listed_is_explained_in_its_order(images, name, text):
    (images / name).write_text(text)
    data = FolderData(images / name, batch_size=2)
    data.setup("predict")
    assert [image_id for batch in data.predict_dataloader() for image_id in batch["id"]] == ["b/1", "a/1"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_a_list_is_read_in_the_encodings_of_tables(images, encoding):
    (images / "b" / "2.png").rename(images / "b" / "Zürich.png")
    (images / "list.txt").write_text("b/Zürich.png\n", encoding=encoding)
    assert [item.id for item in listed_items(images / "list.txt")] == ["b/Zürich"]


def test_images_that_differ_in_their_suffix_alone_keep_it(images):
    (images / "list.txt").write_text("b/2.png\nb/2.jpg\nb/1.png\n")
    assert [item.id for item in listed_items(images / "list.txt")] == ["b/2.png", "b/2.jpg", "b/1"]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("list.txt", "# nothing\n", "lists no images"),
        ("list.txt", "a/1.png\na/9.png\n", "line 2: .*9.png does not exist"),
        ("list.txt", "a/1.png\n./a/1.png\n", "in the lines 1 and 2"),
        ("list.csv", "picture,label\na/1.png,cat\n", "image"),
    ],
)
def test_what_is_wrong_is_named(images, name, text, sentence):
    (images / name).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        listed_items(images / name)
