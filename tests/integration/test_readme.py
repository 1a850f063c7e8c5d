"""The README's commands, run word by word on a small folder of ordinary photos of unequal sizes.

The sweep's line is run in ``test_command_line``.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.running import command_line

REPO = Path(__file__).parents[2]
LINES = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("python train.py")
]
#: What makes a command small enough for a test, and puts the photos where the README has no data of its own.
SMALL = (
    "trainer.max_epochs=1",
    "target_trainer.trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "target_trainer.trainer.accelerator=cpu",
)
PHOTOS = ("data=folder", "data.root=photos")
FEW_STEPS = ("+explainer.steps=5",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos of two classes and of unequal sizes with masks, a table, an npz file, and scans with masks."""
    root, rng = tmp_path_factory.mktemp("readme"), np.random.default_rng(0)
    table = ["image,label,split,patient"]
    for label, name in enumerate(("cat", "dog")):
        for number in range(14):
            height, width = rng.integers(40, 70, 2)
            photo = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
            row = 4 + label * 20
            photo[row : row + 10] += 150
            mask = np.zeros((height, width), np.uint8)
            mask[row : row + 10] = 255
            for kind, suffix, values in (("photos", "jpg", photo), ("masks", "png", mask)):
                path = root / kind / name / f"{number}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
            split = ("train", "train", "val", "test")[number % 4]
            table.append(f"photos/{name}/{number}.jpg,{name},{split},{name}{number}")
    (root / "labels.csv").write_text("\n".join(table))
    images = rng.random((24, 20, 20, 1), dtype=np.float32)
    np.savez(root / "cells.npz", images=images, labels=np.arange(24) % 2)
    (root / "new_photos").mkdir()
    for number in range(3):
        new = rng.integers(0, 255, (40 + number, 50, 3), dtype=np.uint8)
        Image.fromarray(new).save(root / f"new_photos/new_{number}.jpg")
    (root / "scans").mkdir()
    for number in range(10):
        mask = np.zeros((32, 32), np.uint8)
        mask[8 + number : 16 + number, 8:20] = 1
        Image.fromarray((rng.integers(0, 60, (32, 32)) + 150 * mask).astype(np.uint8)).save(
            root / f"scans/{number}.png"
        )
        Image.fromarray(mask).save(root / f"masks/{number}.png")
    return root


def run(line: str, folder: Path, *more: str) -> str:
    """Run a command of the README in the folder, with words on top; what it printed."""
    words = line.split()[2:] + list(more)
    done = command_line(*words, cwd=folder)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout[-500:]}{done.stderr[-1500:]}"
    return done.stdout


def line_with(*words: str) -> str:
    """The README's command that has all these words, and no word besides."""
    found = [line for line in LINES if set(line.split()[2:]) == set(words)]
    assert len(found) == 1, f"the README has {len(found)} commands of the words {words}"
    return found[0]


@pytest.mark.parametrize(
    "words",
    [
        ("data=folder", "data.root=photos"),
        ("data=folder", "data.root=photos", "data.mask_root=masks", "explainer=pcim"),
        ("data=manifest", "data.csv=labels.csv", "data.split_column=split", "data.group_column=patient"),
        ("data=npz", "data.path=cells.npz"),
        ("task=global", "data=folder", "data.root=photos", "explainer=hires_cam", "global.fill=mean_image"),
    ],
    ids=lambda words: words[1],
)
def test_a_command_on_own_data_runs_as_it_stands(folder, words):
    more = {"explainer=pcim": FEW_STEPS, "data=npz": ()}  # one just as it stands
    said = run(line_with(*words), folder, *next((more[word] for word in words if word in more), SMALL))
    place = "Page" if "task=global" in words else "Per image"
    assert place in said, "the command must say where its results are"


def test_a_segmenter_on_own_scans(folder):
    line = next(line for line in LINES if "data.root=scans" in line and "target=unet_segmenter" in line)
    said = run(line, folder, *SMALL)
    assert "Per image" in said


def test_a_run_is_resumed_tested_applied_and_fine_tuned(folder):
    """A checkpoint brings its own configuration along: nothing is trained again, and no word is repeated."""
    run(line_with("run_dir=runs/mine"), folder, *PHOTOS, *SMALL)
    targets = set((folder / "runs" / "targets").iterdir())
    run(line_with("run_dir=runs/mine", "ckpt_path=last"), folder, "trainer.max_epochs=2")
    assert "AmortizedPCIM" in run(line_with("task=test", "run=runs/mine"), folder)
    run(line_with("task=predict", "run=runs/mine"), folder)
    run(line_with("task=predict", "run=runs/mine", "data.root=new_photos"), folder)
    maps = {path.stem for path in (folder / "runs").rglob("predictions/*.npy")}
    assert {"new_0", "new_1", "new_2"} <= maps, "every new image has its map"
    assert set((folder / "runs" / "targets").iterdir()) == targets, "a target was trained again"
    run(line_with(*PHOTOS, "explainer.init_from=runs/mine/checkpoints/best.ckpt"), folder, *SMALL)


def test_the_help(folder):
    assert "explainer" in run(line_with("--help"), folder)
