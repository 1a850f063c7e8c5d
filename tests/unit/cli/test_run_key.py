"""run=<folder>: what it stands for."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lightning_xai.cli.earlier_run import start_from
from lightning_xai.cli.run_key import anchored, chosen_run, quoted, words_of_run
from tests.running import CONFIGS


def parsed(*words):
    return OverridesParser.create().parse_overrides(list(words))


def run_in(folder, *checkpoints):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    for name in checkpoints:
        (folder / "checkpoints" / f"{name}.ckpt").touch()
    return folder


@pytest.mark.parametrize(
    ("task", "there", "found"),
    [
        ("test", ("best", "last"), "best"),
        ("predict", ("last",), "last"),
        ("sanity", (), None),
        ("explain", ("best", "last"), "last"),
        (None, ("best",), "best"),
    ],
)
def test_the_best_checkpoint_is_applied_and_the_last_trained_on(tmp_path, task, there, found):
    folder = run_in(tmp_path / "it's a run", *there)
    given = [f"task={task}"] if task else []
    words = parsed(*words_of_run(folder, parsed(f"run={quoted(folder)}", *given), False))
    path = {word.key_or_group: word.value() for word in words}.get("ckpt_path")
    assert (None if path is None else str(path)) == (found and str(folder / "checkpoints" / f"{found}.ckpt"))


def test_the_maps_of_predict_lie_in_the_run_unless_a_folder_is_named(tmp_path):
    folder = run_in(tmp_path / "mine", "best")
    places = {
        ("data.root='new photos/'",): "predict/new_photos",
        ("data.root=list.txt",): "predict/list.txt",
        (): "predict/test",
    }
    for more, place in places.items():
        words = parsed(*words_of_run(folder, parsed(f"run={folder}", "task=predict", *more), False))
        assert str(words[-1].value()) == str(folder / place) and words[-1].key_or_group == "run_dir"
    for more, sweep in ((("run_dir=here",), False), ((), True)):
        words = words_of_run(folder, parsed(f"run={folder}", "task=predict", *more), sweep)
        assert [word.partition("=")[0] for word in words] == ["ckpt_path"]
    assert words_of_run(folder, parsed(f"run={folder}", "task=test", "ckpt_path=mine.ckpt"), False) == []


def test_what_is_no_run_is_one_sentence(tmp_path):
    assert chosen_run(parsed("seed=1")) is None and chosen_run(parsed("run=null")) is None
    for word, sentence in {
        f"run={tmp_path}": "holds no config.yaml",
        f"run={tmp_path}/nowhere": "is no folder",
        "run=a,b": "run names one run",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            start_from([word], CONFIGS)


def test_a_link_is_followed_so_that_the_same_run_is_meant_tomorrow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_in(tmp_path / "first")
    (tmp_path / "latest").symlink_to("first")
    assert str(chosen_run(parsed("run=latest"))) == "first"


def test_relative_paths_of_the_data_mean_those_of_the_run(tmp_path, monkeypatch):
    start, here = tmp_path / "start", tmp_path / "here"
    for folder in (start / "run" / ".hydra", start / "photos", here / "masks", start / "masks"):
        folder.mkdir(parents=True)
    (start / "run" / ".hydra" / "hydra.yaml").write_text(f"hydra: {{runtime: {{cwd: {start}}}}}")
    monkeypatch.chdir(here)
    data = {"root": "photos", "mask_root": "masks", "csv": "${oc.env:NOWHERE}/x", "path": None, "size": "auto"}
    saved = OmegaConf.create({"data": data, "target": {"weights": "builtin"}})
    found = OmegaConf.to_container(anchored(saved, start / "run"))
    assert found["data"] == data | {"root": str(start / "photos")} and found["target"] == {"weights": "builtin"}
