from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from lightning_xai.cli.overrides import PLUGINS, check_overrides

REPO = Path(__file__).parents[3]

TREE = {
    "train.yaml": """
defaults: [{task: fit}, {explainer: pcim}, {data/source: digits}, {callbacks: default}, {trainer: default},
  {experiment: null}, _self_]
seed: 0
run_dir: ${hydra:runtime.output_dir}
root: ${oc.env:NO_SUCH_VARIABLE}
ckpt_path: null
""",
    "other.yaml": "depth: 3",
    "task/fit.yaml": "# @package _global_\ntask: fit",
    "task/audit.yaml": "# @package _global_\n{task: audit, audit: {color: 1}}",
    "explainer/_base.yaml": "steps: 1",
    "explainer/pcim.yaml": "{steps: 300, baseline: auto}",
    "explainer/random.yaml": "seed: 0",
    "data/source/digits.yaml": "path: ???",
    "data/source/npz.yaml": "path: ???\ngroup: null",
    "callbacks/default.yaml": "grid: {every: 1}",
    "callbacks/quiet.yaml": "{}",
    "trainer/default.yaml": "{max_epochs: 3, accelerator: auto}",
    "experiment/cells.yaml": """# @package _global_
defaults: [{override /explainer: random}]
only_in_cells: 1
""",
    "experiment/searched.yaml": """# @package _global_
defaults: [{override /hydra/sweeper: nowhere}]
""",
    "experiment/broken.yaml": """# @package _global_
defaults: [{override /explainer: nonsense}]
""",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "",
        "explainer=pcim trainer.max_epochs=5 seed=1",
        "explainer=random explainer.seed=3",
        "experiment=cells explainer.seed=3 only_in_cells=2",
        "-m explainer=pcim,random trainer.max_epochs=1,2 seed=range(3)",
        "-m explainer=glob(p*) explainer.steps=choice(1,2)",
        "callbacks=[default,quiet] callbacks.grid.every=2",
        "data/source=npz data.source.group=plate",
        "+trainer.fast_dev_run=true trainer.fast_dev_run=false ++trainer.new.deep=1 trainer.new.deep=2",
        "~callbacks ~trainer.accelerator",
        "~callbacks explainer.baseline=[zero,median]",
        "hydra.run.dir=here hydra/launcher=basic hydra.verbose=true -m",
        "--help",
        "--cfg job explainer=random",
        "--config-name other depth=4",
        "-cp .hydra -cn config nonsense=1",
        "--config-dir elsewhere explainer=mine",
        "explainer.steps=[1",  # malformed: Hydra's to answer
        "--nonsense 3",
        "+explainer=pcim",
        "experiment=broken",  # the recipe is wrong, not the command line
    ],
)
def test_valid_or_hydras(tree: Path, line: str) -> None:
    check_overrides(line.split(), tree)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("trainer.max_epoch=3", "Unknown key 'trainer.max_epochs?': did you mean 'trainer.max_epochs'\\?"),
        ("~trainer.acelerator", "Unknown key 'trainer.acelerator': did you mean 'trainer.accelerator'\\?"),
        ("trainr.max_epochs=3", "Unknown key 'trainr.max_epochs': did you mean 'trainer.max_epochs'\\?"),
        ("max_epochs=3", "Unknown key 'max_epochs': did you mean 'trainer.max_epochs'\\?"),
        ("sed=3", "Unknown key 'sed': did you mean 'seed'\\?"),
        (
            "trainer.color=3",
            "Unknown key 'trainer.color': 'trainer' has accelerator, max_epochs; .*\\+trainer.color=\\.\\.\\.$",
        ),
        ("zzz=3", "Unknown key 'zzz': there are callbacks, ckpt_path, .*trainer; .*\\+zzz="),
        ("explainer=pcmi", "There is no explainer 'pcmi'; did you mean 'pcim'\\? \\(available: pcim, random\\)$"),
        ("explainer=_base", "There is no explainer '_base' \\(available: pcim, random\\)$"),
        ("-m explainer=pcim,_base", "There is no explainer '_base'"),
        ("+trainer.new=1 trainer.nw=2", "Unknown key 'trainer.nw': did you mean 'trainer.new'\\?"),
        ("audit.color=3", "'audit.color' is a key of task=audit: add that to the command line.$"),
        ("task=audit audit.colr=3", "Unknown key 'audit.colr': did you mean 'audit.color'\\?"),
        (
            "experiment=searched",
            "^There is no hydra/sweeper 'nowhere' \\(available: basic, optuna\\)$",
        ),
        ("explainer=xyz seed=1", "There is no explainer 'xyz' \\(available: pcim, random\\)$"),
        ("experiment=cels explainer.seed=1", "There is no experiment 'cels'; did you mean 'cells'\\?"),
        ("callbacks=[default,quite]", "There is no callbacks 'quite'; did you mean 'quiet'\\?"),
        ("experiment=null", "not null: leave 'experiment' out with ~experiment"),
        ("data/source=digit", "There is no data/source 'digit'; did you mean 'digits'\\?"),
        ("data/sorce=digits", "Unknown group 'data/sorce'; did you mean 'data/source'\\?"),
        ("hydra/launcher=submitit_slrum", "There is no hydra/launcher 'submitit_slrum'; did you mean 'submitit_slurm'"),
        ("explaner=pcim", "Unknown group 'explaner'; did you mean 'explainer'\\?"),
        ("~calbacks", "Unknown group 'calbacks'; did you mean 'callbacks'\\?"),
        ("-m explainer=pcim,rndom", "There is no explainer 'rndom'; did you mean 'random'\\?"),
        ("-m explainer=glob(x*)", "There is no explainer 'x\\*'"),
        ("-m explainer.step=1,2", "Unknown key 'explainer.step': did you mean 'explainer.steps'\\?"),
        ("-m explainer=pcim,random explainer.steps=5", "Unknown key 'explainer.steps': 'explainer' has seed"),
        ("explainer=random explainer.steps=5", "Unknown key 'explainer.steps': 'explainer' has seed"),
        ("experiment=cells explainer.steps=5", "Unknown key 'explainer.steps': 'explainer' has seed"),
        ("--cfg job sed=3", "Unknown key 'sed'"),
        ("-cn other dept=3", "Unknown key 'dept': did you mean 'depth'\\?"),
    ],
)
def test_names_the_nearest(tree: Path, line: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_overrides(line.split(), tree)


@pytest.mark.parametrize("line", ["experiment=searched", "-m hydra/sweeper=nowhere seed=1,2"])
def test_a_plugin_that_is_missing_names_its_extra(tree: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setitem(PLUGINS, "hydra/sweeper", ["basic", "nowhere"])
    with pytest.raises(ValueError, match=r"^hydra/sweeper=nowhere needs packages that are missing: pip install"):
        check_overrides(line.split(), tree)


def test_hydra_runs_afterwards(tree: Path) -> None:
    check_overrides(["seed=1"], tree)
    with pytest.raises(ValueError):
        check_overrides(["sed=1"], tree)
    assert not GlobalHydra.instance().is_initialized()
    with initialize_config_dir(str(tree), version_base="1.3"):
        assert compose("train", ["seed=2"]).seed == 2


def test_project_configs() -> None:
    check_overrides(["data=folder", "data.root=somewhere", "trainer.max_epochs=3", "logger=none"], REPO / "configs")
    with pytest.raises(ValueError, match=r"did you mean 'trainer\.max_epochs'"):
        check_overrides(["trainer.max_epoch=3"], REPO / "configs")
    with pytest.raises(
        ValueError, match=r"There is no data 'foldr'; did you mean 'folder'\? \(available: .*digits.*npz"
    ):
        check_overrides(["data=foldr"], REPO / "configs")
