"""The table of tasks: each has its file, its function and its YAML, and an unknown one is a sentence."""

import inspect

import pytest

import train
from lightning_xai.cli.tasks import TASKS, find_task
from tests.running import cfg_of


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_one_function_of_one_file(name):
    function = find_task(name)
    assert list(inspect.signature(function).parameters) == ["cfg", "data", "target"]
    assert function.__name__ == "run" and function.__module__.rpartition(".")[2].removesuffix("_maps") == name


def test_an_unknown_task_is_one_sentence_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="^task is 'fit'; use one of explain, test, predict, target, sanity, global.$"):
        train.main(cfg_of(tmp_path / "run", task="fit"))
    assert not (tmp_path / "run").exists()
