"""``run=<folder>`` from the shell: nothing but the folder is named."""

import shutil

import numpy as np
from PIL import Image

from tests.running import TINY, bars_npz, command_line, rows


def test_a_run_is_applied_by_its_folder_from_elsewhere_and_predict_goes_on(tmp_path):
    """No checkpoint, target or data are named; a kill after some images costs those that were not written."""
    start, here = tmp_path / "start", tmp_path / "here"
    here.mkdir()
    start.mkdir()
    (here / "new").mkdir()
    for number, values in enumerate(np.random.default_rng(0).integers(0, 255, (5, 24, 24), dtype=np.uint8)):
        Image.fromarray(values).save(here / f"new/new_{number}.png")
    quick = (*bars_npz(start / "bars.npz").replace(str(start) + "/", "").split(), *TINY)
    assert command_line("run_dir=runs/mine", *quick, cwd=start).returncode == 0
    tested = command_line("task=test", "run=../start/runs/mine", cwd=here)
    assert tested.returncode == 0 and "AmortizedPCIM" in tested.stdout, tested.stderr[-1500:]
    line = ("task=predict", "run=../start/runs/mine", "data.root=new", "data.batch_size=2")
    done = command_line(*line, cwd=here)
    assert done.returncode == 0, done.stderr[-1500:]
    folder = start / "runs/mine/predict/new/predictions"
    lines = done.stdout.splitlines()
    assert lines[-1].split()[-1].endswith("predictions.csv") and (here / lines[-2].split()[-1]).resolve() == folder
    first = {row["id"]: row for row in rows(folder / "predictions.csv")}
    assert set(first) == {f"new_{number}" for number in range(5)}
    text = (folder / "predictions.csv").read_text()
    (folder / "predictions.csv").write_text(text[:-7])
    (folder / "new_1.npy").unlink()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    last = text.splitlines()[-1].split(",")[0]
    assert command_line(*line, cwd=here).returncode == 0
    assert {row["id"]: row for row in rows(folder / "predictions.csv")} == first
    changed = {path.stem for path, stamp in kept.items() if path.stat().st_mtime_ns != stamp}
    assert changed == {last} - {"new_1"} and (folder / "new_1.npy").is_file()
    assert not (folder.parent / "earlier").exists()
    assert command_line(*line, "ask=all", cwd=here).returncode == 0
    assert len(rows(folder / "predictions.csv")) == 10, "other maps are made anew"
    assert len(list((folder.parent / "earlier").iterdir())) == 1, "and the first ones kept"


def test_a_run_without_a_checkpoint_is_one_sentence(tmp_path):
    quick = (*bars_npz(tmp_path / "bars.npz").split(), *TINY)
    assert command_line("run_dir=mine", *quick, cwd=tmp_path).returncode == 0
    shutil.rmtree(tmp_path / "mine" / "checkpoints")
    done = command_line("task=test", "run=mine", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("train.py: run=mine holds no checkpoint;")
