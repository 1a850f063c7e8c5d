"""Kill runs at random moments, start them again, and compare all that they leave with an uninterrupted run's.

``python benchmarks/kills.py 20`` kills 20 times: in turn trainings (of target and explainer; with a cache of features),
tests, predictions, global maps and sanity checks. A killed run may be killed again. The last lines are the table; the
exit status is 1 if anything differs.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
TINY = [
    *("data=npz", "data.batch_size=8", "target.model.widths=[4,8]", "trainer.accelerator=cpu", "logger=none"),
    *("trainer.max_epochs=4", "trainer.log_every_n_steps=1", "callbacks.last_checkpoint.save_every=3"),
    *("+trainer.enable_progress_bar=false", "+target_trainer.trainer.enable_progress_bar=false"),
    "target_trainer.trainer.max_epochs=4",
]
CAPE = ("explainer=cape", "explainer.cache=file", "paths.features=${run_dir}/features")
#: Words of a run by name, and whether it trains: then it goes on with ckpt_path=last, else with the very same command.
RUNS: dict[str, tuple[tuple[str, ...], bool]] = {
    "fit": ((), True),
    "fit, cached features": (CAPE, True),
    "test": (("task=test",), False),
    "predict": (("task=predict", "explainer=rise", "explainer.masks=200"), False),
    "global": (("task=global",), True),
    "sanity": (("task=sanity", "sanity.images=4", "sanity.stages=2", "sanity.label_steps=20"), False),
}
TABLES = ("metrics.csv", "per_image.csv", "controls.csv", "summary.json", "global.json", "sanity.json")


def main() -> int:
    """Kill, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=RUNS)
    options = parser.parse_args()
    draw, place = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="kills_"))
    words = [*TINY, f"data.path={write_data(place / 'bars.npz')}"]
    wholes: dict[str, tuple[Path, float]] = {}
    rows, kills = [], 0
    while kills < options.kills:
        name = options.only or list(RUNS)[len(rows) % len(RUNS)]
        if name not in wholes:
            wholes[name] = uninterrupted(place, name, words)
        whole, seconds = wholes[name]
        folder = fresh(place / f"{name.replace(', ', '_').replace(' ', '_')}_{len(rows)}", whole)
        moments = []
        while kills < options.kills and (not moments or draw.random() < 0.3):
            moments.append(killed(command(folder, name, words, moments), folder, draw.uniform(0, seconds)))
            kills += 1
        finish(command(folder, name, words, moments))
        wrong = differences(whole, folder)
        rows.append((name, [f"{moment:.1f}" for moment in moments], f"{seconds:.1f}", ", ".join(wrong) or "nothing"))
        print(*rows[-1], sep=" | ", flush=True)
        shutil.rmtree(folder)
    print("\n| run | killed after seconds of work | of | what differs |\n| --- | --- | --- | --- |")
    for name, moments, seconds_text, wrong_text in rows:
        print(f"| {name} | {', '.join(moments)} | {seconds_text} | {wrong_text} |")
    shutil.rmtree(place)
    return int(any(row[-1] != "nothing" for row in rows))


def write_data(path: Path) -> Path:
    """Bars on noise, of two classes."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 64), ("val", 16), ("test", 40)):
        labels = np.arange(count) % 2
        images = 0.2 * rng.random((count, 16, 16, 1), dtype=np.float32)
        for image, label in zip(images, labels, strict=True):
            image[1 + 6 * label : 3 + 6 * label] += 0.7
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    np.savez(path, **arrays)
    return path


def command(folder: Path, name: str, words: list[str], moments: list[float]) -> list[str]:
    """The command of a run, or of its resumption."""
    own, trains = RUNS[name]
    again = ["ckpt_path=last"] if trains and moments and (folder / "run" / "config.yaml").is_file() else []
    if name == "test":
        again = [f"ckpt_path={folder / 'trained' / 'best.ckpt'}"]
    places = [f"run_dir={folder / 'run'}", f"target_dir={folder / 'targets'}"]
    return [sys.executable, str(ROOT / "train.py"), *words, *own, *places, *again]


def uninterrupted(place: Path, name: str, words: list[str]) -> tuple[Path, float]:
    """The folder of a run that nobody interrupts, and the seconds that it works."""
    folder = place / f"whole_{name.replace(', ', '_').replace(' ', '_')}"
    if name == "test":
        finish(command(folder, "fit", words, []))
        shutil.move(folder / "run" / "checkpoints", folder / "trained")
        shutil.rmtree(folder / "run")
    elif not RUNS[name][1]:
        finish([*command(folder, "fit", words, []), "task=target"])
        shutil.rmtree(folder / "run")
    process = start(command(folder, name, words, []))
    began = when_begun(process, folder)
    if process.wait() not in (0, 1):
        raise RuntimeError(f"The uninterrupted run {name} fails.")
    return folder, time.monotonic() - began


def fresh(folder: Path, whole: Path) -> Path:
    """A folder with what the uninterrupted run began with: trained weights if it was no training."""
    folder.mkdir()
    for name in ("trained", "targets"):
        if (whole / name).is_dir() and whole.name not in ("whole_fit", "whole_fit_cached_features", "whole_global"):
            shutil.copytree(whole / name, folder / name, ignore=shutil.ignore_patterns("peppr", "features"))
    return folder


def start(words: list[str]) -> subprocess.Popen[bytes]:
    """Start a run in a process group of its own."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, cwd=ROOT, env=environment, start_new_session=True, **quiet)


def when_begun(process: subprocess.Popen[bytes], folder: Path) -> float:
    """When a run has made its folder, after all its imports."""
    while process.poll() is None and not (folder / "run" / ".lock").is_file():
        time.sleep(0.02)
    return time.monotonic()


def killed(words: list[str], folder: Path, after: float) -> float:
    """Start a run and kill it; the seconds that it has worked."""
    process = start(words)
    began = when_begun(process, folder)
    while process.poll() is None and time.monotonic() - began < after:
        time.sleep(0.01)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return time.monotonic() - began


def finish(words: list[str]) -> None:
    """Let a run come to its end; sanity checks may fail the explainer."""
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode not in (0, 1) or "Traceback" in done.stderr:
        raise RuntimeError(f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def differences(whole: Path, folder: Path) -> list[str]:
    """The files in which two runs differ, and weights."""
    one, two = whole / "run", folder / "run"
    names = [name for name in TABLES if (one / name).is_file() or (two / name).is_file()]
    names += sorted({path.name for run in (one, two) for path in run.glob("predictions/*.npy")})
    wrong = [name for name in names if content(one, name, whole) != content(two, name, folder)]
    for name in ("best", "last"):
        paths = [run / "checkpoints" / f"{name}.ckpt" for run in (one, two)]
        if paths[0].is_file():
            states = [torch.load(path, weights_only=True)["state_dict"] for path in paths if path.is_file()]
            same = len(states) == 2 and all(torch.equal(value, states[1][key]) for key, value in states[0].items())
            wrong += [] if same else [f"{name}.ckpt"]
    return wrong


def content(run: Path, name: str, folder: Path) -> bytes:
    """What a file holds, without the place of the run."""
    found = [path for path in (run / name, run / "predictions" / name) if path.is_file()]
    return found[0].read_bytes().replace(str(folder).encode(), b"") if found else b""


if __name__ == "__main__":
    sys.exit(main())
