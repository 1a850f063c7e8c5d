"""A command line on top of an earlier run's config: which run, which words win, what stays."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from lightning_xai.cli.earlier_run import (
    PRIMARY,
    brings_images,
    check_data,
    fit_to_target,
    run_behind,
    start_from,
)
from lightning_xai.cli.overrides import check_overrides
from lightning_xai.cli.saved_config import write_config
from tests.running import CONFIGS

DATA_INFO = {
    "channels": 3,
    "dims": 2,
    "size": [16, 16],
    "classes": 2,
    "class_names": ["a", "b"],
    "activation": "softmax",
}
DATA_INFO |= {"mean": [0.5] * 3, "std": [0.2] * 3, "has_masks": False, "fingerprint": "f"}
TRAINED = (
    "data=folder",
    "data.root=photos",
    "explainer=cape",
    "explainer.temperature=7",
    "metrics=paper",
    "logger=none",
    "seed=5",
)
TRAINED += ("name=mine", "ask=all", "~callbacks.maps", "+trainer.enable_progress_bar=false", "target_dir=elsewhere")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def composed(words, name="train"):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, [word for word in words if word != "-m"])


def trained(folder="runs/mine", *words):
    """A run folder with the config of a run, as it would leave it."""
    cfg = composed([*TRAINED, f"run_dir={folder}", *words])
    OmegaConf.set_struct(cfg, False)
    cfg.data_info, cfg.target_weights = DATA_INFO, "targets/x.ckpt"
    write_config(cfg)
    return cfg


def on_top(*words):
    name, words = start_from(list(words), CONFIGS)
    check_overrides(words, CONFIGS, name)
    assert name == PRIMARY
    return composed([*words, "run_dir=new"], name)


BEST = "ckpt_path=runs/mine/checkpoints/best.ckpt"


def test_everything_is_the_runs_but_what_it_says_about_itself():
    was, now = trained(), on_top("task=test", BEST)
    for key in set(was) - {"task", "run_dir", "ckpt_path"}:
        assert OmegaConf.to_container(now)[key] == OmegaConf.to_container(was)[key], key
    assert (now.task, now.run_dir, now.from_run) == ("test", "new", "runs/mine/config.yaml")
    assert now.callbacks.checkpoint.dirpath == "new/checkpoints", "nothing is written into the run's own folder"


def test_keys_of_the_command_line_win():
    trained()
    now = on_top("task=test", BEST, "explainer.temperature=9", "data.root=others", "seed=1", "trainer.max_epochs=2")
    assert (now.explainer.temperature, now.data.root, now.seed, now.trainer.max_epochs) == (9, "others", 1, 2)
    assert now.data.seed == 1, "what refers to a key follows it"
    assert now.explainer._target_.endswith("CAPE") and now.data._target_.endswith("FolderData")


def test_groups_of_the_command_line_win_as_a_whole():
    trained()
    now = on_top("task=test", BEST, "metrics=fast", "explainer=unoise", "explainer.lr=2", "logger=tensorboard")
    plain = composed(["metrics=fast", "explainer=unoise", "explainer.lr=2"])
    assert now.metrics == plain.metrics and now.callbacks.faithfulness.metrics == plain.metrics
    assert OmegaConf.to_container(now.explainer) == OmegaConf.to_container(plain.explainer), "nothing of cape is left"
    assert list(now.logger) == ["tensorboard"] and now.data.root == "photos"


def test_a_recipe_wins_over_the_run():
    trained()
    now = on_top("task=test", BEST, "experiment=cape_cytology")
    plain = composed(["experiment=cape_cytology"])
    for group in ("data", "target", "metrics"):
        assert OmegaConf.to_container(now[group]) == OmegaConf.to_container(plain[group]), group
    assert now.name == plain.name and now.ask == "all", "what the recipe does not set is the run's"


def test_the_words_of_the_training_can_be_repeated():
    trained()
    now = on_top("task=test", BEST, *TRAINED)
    assert now.trainer.enable_progress_bar is False and "maps" not in now.callbacks and now.explainer.temperature == 7


def test_a_typo_is_answered_with_a_key_of_the_run():
    trained()
    name, words = start_from(["task=test", BEST, "explainer.temprature=3"], CONFIGS)
    with pytest.raises(ValueError, match=r"did you mean 'explainer\.temperature'\?"):
        check_overrides(words, CONFIGS, name)


@pytest.mark.parametrize("folder", ["run_dir=runs/mine", "hydra.run.dir=runs/mine", "++run_dir='runs/mine'"])
def test_last_goes_on_with_the_run_of_its_folder(folder):
    trained()
    name, words = start_from([folder, "ckpt_path=last"], CONFIGS)
    assert (
        name == PRIMARY and composed(words, name).explainer.temperature == 7 and composed(words, name).task == "explain"
    )


@pytest.mark.parametrize(("task", "next_task"), [("global", "global"), ("explain", "explain"), ("test", "explain")])
def test_last_goes_on_with_the_runs_task_if_that_trains(task, next_task):
    trained("runs/mine", f"task={task}")
    words = ["run_dir=runs/mine", "ckpt_path=last"]
    name, words = start_from(words, CONFIGS)
    assert composed(words, name).task == next_task
    assert on_top(BEST).task == "explain", "a checkpoint is no reason to repeat the run's task"


def test_the_keys_of_a_task_are_the_runs_too():
    trained("runs/mine", "task=global", "global.fill=black", "paths.root=results")
    now = on_top(BEST, "task=global", "global.samples=7")
    assert (now["global"].fill, now["global"].samples, now["global"].random_orders) == ("black", 7, 5)
    assert now.paths.root == "results"


def test_a_run_from_before_there_were_groups_of_tasks_and_paths_is_read():
    cfg = trained("runs/mine", "task=sanity", "sanity.images=3")
    del cfg.paths, cfg.optimized_metric
    cfg.target_dir = "runs/targets"
    write_config(cfg)
    now = on_top(BEST, "task=sanity")
    assert (now.sanity.images, now.task, now.paths.root) == (3, "sanity", "runs")


def test_a_trial_of_a_sweep_is_tested_like_any_run():
    trained("runs/mine", "optimized_metric=val/gap")
    assert on_top(BEST, "task=test").optimized_metric is None, "a test has no such number"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "explainer=pcim",
        "ckpt_path=null",
        "ckpt_path=elsewhere/best.ckpt",
        "ckpt_path=runs/none/checkpoints/best.ckpt",
        "ckpt_path=runs/mine/best.ckpt",
        "ckpt_path=last",
        "ckpt_path=last run_dir=runs/none",
        "ckpt_path=runs/mine/checkpoints/best.ckpt -cn other",
        "ckpt_path=runs/mine/checkpoints/best.ckpt --config-dir elsewhere",
        "-m ckpt_path=runs/mine/checkpoints/best.ckpt,runs/other/checkpoints/best.ckpt",
        "ckpt_path=[1",
    ],
)
def test_without_a_run_nothing_changes(line):
    trained()
    trained("runs/other")
    assert start_from(line.split(), CONFIGS) == ("train", line.split())


def test_a_sweep_over_checkpoints_of_one_run_is_on_top_of_it():
    trained()
    swept = "ckpt_path=runs/mine/checkpoints/best.ckpt,runs/mine/checkpoints/last.ckpt"
    name, words = start_from(["-m", "task=test", swept, "metrics=fast,paper"], CONFIGS)
    assert name == PRIMARY and words[0] == "-m"
    check_overrides(words, CONFIGS, name)


def test_an_environment_variable_may_say_where_it_is(monkeypatch):
    trained()
    monkeypatch.setenv("XAI_RUNS", "runs")
    assert start_from(["ckpt_path=${oc.env:XAI_RUNS}/mine/checkpoints/best.ckpt"], CONFIGS)[0] == PRIMARY


def test_a_model_of_the_users_own_is_allowed_again():
    trained("runs/mine", "target.model={_target_: mine.Net}")
    with pytest.raises(ValueError, match=r"config\.yaml names mine\.Net, .* allow=\[mine\.Net\]"):
        start_from(["task=test", BEST], CONFIGS)
    for word in ("target.model._target_=mine.Net", "allow=[mine]"):
        assert on_top("task=test", BEST, word).target.model._target_ == "mine.Net"


def test_a_file_cannot_allow_code():
    trained("runs/mine", "++target.allow_code=true")
    assert on_top("task=test", BEST).target.allow_code is False
    assert on_top("task=test", BEST, "target.allow_code=true").target.allow_code is True


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml")))
def test_what_a_recipe_leaves_can_be_read_again(experiment, monkeypatch):
    monkeypatch.setenv("LIGHTNING_XAI_DATA", "somewhere")
    cfg = composed([f"experiment={experiment}", "run_dir=runs/mine", "name=x"])
    OmegaConf.set_struct(cfg, False)
    cfg.data_info = DATA_INFO
    write_config(cfg)
    assert "somewhere" not in Path("runs/mine/config.yaml").read_text()
    assert OmegaConf.to_container(on_top("task=test", BEST).data) == OmegaConf.to_container(cfg.data)


# ------------------------------------------------------------------ the target and the data of the run


def test_the_run_is_behind_as_long_as_the_target_is_its_own():
    trained()
    assert run_behind(composed(["run_dir=new"])) is None
    assert run_behind(on_top(BEST)).seed == 5
    assert run_behind(on_top(BEST, "target.weights=moved.pt")).seed == 5
    assert run_behind(on_top(BEST, "target.model.widths=[1]")) is None
    assert run_behind(on_top(BEST, "target=densenet121")) is None


@pytest.mark.parametrize(
    ("words", "other"),
    [
        ("task=predict", False),
        ("task=predict data.batch_size=3 data.num_workers=0 data.cache=false", False),
        ("task=predict data.root=new", True),
        ("task=predict data=npz data.path=new.npz", True),
        ("task=predict data.size=8", True),
        ("task=test data.root=new", False),
    ],
)
def test_images_are_brought_by_predict_with_other_data(words, other):
    was = trained()
    assert brings_images(on_top(BEST, *words.split()), was) is other


@pytest.mark.parametrize(
    ("words", "size"),
    [("data.root=new", [16, 16]), ("data=npz data.path=new.npz", [16, 16]), ("data.root=new data.size=8", 8)],
)
def test_new_images_come_in_the_size_of_the_training_and_all_of_them(words, size):
    was = trained("runs/mine", "data.limit=5")
    now = on_top(BEST, "task=predict", *words.split())
    fit_to_target(now, was)
    assert now.data.size == size and now.data.limit is None
    now = on_top(BEST, "task=predict", "data.limit=7")
    fit_to_target(now, was)
    assert now.data.limit == 7, "the command line's"


def test_new_images_come_in_the_unit_of_the_training():
    was = trained("runs/mine", "data.normalize=dataset")
    now = on_top(BEST, "task=predict", "data.root=new")
    with open_dict(now):
        now.data_info.normalize = {"mean": [0.5], "std": [2.0]}
    fit_to_target(now, was)
    assert now.data.normalize == {"mean": [0.5], "std": [2.0]}


def test_new_images_have_no_labels_to_ask_about():
    was = trained()
    with pytest.raises(ValueError, match="ask=label needs labels, which images to explain do not have"):
        fit_to_target(on_top(BEST, "task=predict", "data.root=new", "ask=label"), was)


def data_of(**changes):
    found = SimpleNamespace(channels=3, spatial_dims=2, names=["a", "b"])
    vars(found).update(changes)
    found.data_info = lambda: {"class_names": found.names}
    return found


def test_data_of_another_kind_are_refused():
    trained()
    now = on_top(BEST, "task=test", "data.root=new")
    check_data(now, data_of(), labeled=True)
    check_data(now, data_of(names=[]), labeled=False)
    for changes, sentence in (
        ({"channels": 1}, r"has channels 1, but the run of runs/mine/config\.yaml was trained with 3"),
        ({"spatial_dims": 3}, "has dims 3, but .* 2"),
        ({"names": ["b", "c"]}, r"has class names \['b', 'c'\], but .* \['a', 'b'\]"),
    ):
        with pytest.raises(ValueError, match=sentence):
            check_data(now, data_of(**changes), labeled=True)
