"""A checkpoint is whole or as it was, and one that cannot be read is a sentence."""

import errno
import os

import pytest
import torch

from lightning_xai.functional.checkpoint_io import WholeCheckpoints

CHECKPOINT = {"state_dict": {"w": torch.arange(4.0)}, "epoch": 3}


class Code:
    def __reduce__(self):
        return os.system, ("true",)


def test_it_comes_back(tmp_path):
    WholeCheckpoints().save_checkpoint(CHECKPOINT, tmp_path / "new" / "last.ckpt")
    found = WholeCheckpoints().load_checkpoint(tmp_path / "new" / "last.ckpt", weights_only=True)
    assert torch.equal(found["state_dict"]["w"], CHECKPOINT["state_dict"]["w"]) and found["epoch"] == 3
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_is_full_leaves_the_old_one(tmp_path, monkeypatch, call):
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint(CHECKPOINT, path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        WholeCheckpoints().save_checkpoint({"state_dict": {}, "epoch": 4}, path)
    assert torch.load(path, weights_only=True)["epoch"] == 3 and len(list(tmp_path.iterdir())) == 1


def test_its_place_is_the_file_system_of_the_run(tmp_path, monkeypatch):
    """Across file systems a move is a copy, which a kill cuts in two."""
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, place: moved.append(source) or replace(source, place))
    monkeypatch.setenv("TMPDIR", "/nowhere")
    WholeCheckpoints().save_checkpoint(CHECKPOINT, tmp_path / "last.ckpt")
    assert [os.path.dirname(source) for source in moved] == [str(tmp_path)]


@pytest.mark.parametrize("kind", ["half", "empty", "text", "code", "list", "foreign"])
def test_what_is_no_checkpoint_is_a_sentence(tmp_path, kind):
    path = tmp_path / "x.ckpt"
    torch.save(CHECKPOINT, path)
    content = path.read_bytes()
    written = {"half": content[: len(content) // 2], "empty": b"", "text": b"weights"}
    saved = {"code": {"state_dict": {}, "x": Code()}, "list": [1], "foreign": {"weights": torch.zeros(2)}}
    if kind in written:
        path.write_bytes(written[kind])
    else:
        torch.save(saved[kind], path)
    with pytest.raises(ValueError, match=r"x\.ckpt (cannot be read as a checkpoint|is no checkpoint)") as error:
        WholeCheckpoints().load_checkpoint(path, weights_only=True)
    assert "\n" not in str(error.value) and str(error.value).endswith("give another one.")
