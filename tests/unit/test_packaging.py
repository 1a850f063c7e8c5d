"""What is installed, what gets imported, and what the repository must not contain."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lightning_xai
from lightning_xai import ClassifierTarget
from lightning_xai.explainers import CAPE, RISE, CaptumExplainer, HiResCAM
from lightning_xai.metrics import DeletionAUC

REPO = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(line.partition("==")[0]): line.partition("==")[2]
    for line in (REPO / "constraints.txt").read_text().splitlines()
    if "==" in line
}
MODULES = sorted(module.name for module in walk_packages(lightning_xai.__path__, "lightning_xai."))
#: Spelt in halves, so that this file does not contain them.
HALVES = [("/wo", "rk/"), ("/tm", "p/"), ("/ro", "ot/"), ("/ho", "me/"), ("py", r"pi\.org"), ("python", r"hosted\.org")]
FORBIDDEN = re.compile("|".join(first + second for first, second in HALVES))


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    found = [Requirement(line) for line in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]]
    return [requirement for requirement in found if requirement.name != PROJECT["name"]]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_pin_is_in_range(requirement: Requirement) -> None:
    pin = PINS.get(canonicalize_name(requirement.name))
    assert pin is not None, f"constraints.txt does not pin {requirement.name}"
    assert requirement.specifier.contains(pin), f"constraints.txt pins {requirement.name}=={pin}"


def test_ranges_have_floors() -> None:
    bare = [str(requirement) for requirement in requirements() if ">=" not in str(requirement.specifier)]
    assert not bare, f"no floor in pyproject.toml: {bare}"


def test_pins_are_plain_versions() -> None:
    odd = [name for name, version in PINS.items() if not re.fullmatch(r"[0-9][0-9A-Za-z.]*", version)]
    assert not odd, f"local or malformed versions in constraints.txt: {odd}"


def test_third_party_imports_are_declared() -> None:
    names = {"PIL": "pillow", "hydra": "hydra-core", "sklearn": "scikit-learn", "yaml": "pyyaml"}
    lines = [
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["pretrained"],
        *PROJECT["optional-dependencies"]["dicom"],
    ]  # what is imported at a call
    declared = {canonicalize_name(Requirement(line).name) for line in lines} | {"lightning-xai"}
    pattern = re.compile(r"^\s*(?:from|import) (\w+)", re.MULTILINE)
    for file in [*(REPO / "lightning_xai").rglob("*.py"), REPO / "train.py"]:
        code = re.sub(r'"""(?:.|\n)*?"""', "", file.read_text())
        found = {name for name in pattern.findall(code) if name not in sys.stdlib_module_names}
        missing = {name for name in found if canonicalize_name(names.get(name, name)) not in declared}
        assert not missing, f"{file.relative_to(REPO)} imports {missing}, which pyproject.toml does not require"


def test_version() -> None:
    assert PROJECT["version"] == lightning_xai.__version__


@pytest.mark.parametrize("name", MODULES)
def test_module_imports(name: str) -> None:
    import_module(name)


#: Makes two packages look as if they were not installed, also to those who ask for them or for their versions.
HIDDEN = """
import sys
from importlib.machinery import PathFinder
from importlib.metadata import DistributionFinder

find_spec, find_distributions = PathFinder.find_spec, PathFinder.find_distributions
hidden = {"torchvision", "pytorch_lightning"}

def spec_of(name, path=None, target=None):
    return None if name.partition(".")[0] in hidden else find_spec(name, path, target)

def distributions_of(context=DistributionFinder.Context()):
    return (found for found in find_distributions(context) if found.name.replace("-", "_") not in hidden)

PathFinder.find_spec, PathFinder.find_distributions = spec_of, distributions_of
"""
PARTS = ", ".join(f"lightning_xai.{part}" for part in ("explainers", "metrics", "data", "report"))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> list[set[str]]:
    """What a fresh process has loaded after the method code, and after every module, beside a broken torchvision."""
    site = tmp_path_factory.mktemp("site")
    for folder, file, text in (
        ("torchvision", "__init__.py", "raise ImportError('broken')"),
        ("torchvision-0.99.0.dist-info", "METADATA", "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99.0\n"),
    ):
        (site / folder).mkdir()
        (site / folder / file).write_text(text)
    code = f"{HIDDEN}\nimport {PARTS}\nprint(*sys.modules)\nimport {', '.join(MODULES)}\nprint(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, env=environment)
    assert done.returncode == 0, done.stderr
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_imports_without_torchvision(loaded: list[set[str]]) -> None:
    """Whether it is installed beside the package or not."""
    assert set(MODULES) <= loaded[1] and not {"torchvision", "pytorch_lightning"} & loaded[1]


def test_no_module_loads_what_only_some_runs_use(loaded: list[set[str]]) -> None:
    assert "lightning_xai.loggers.wandb" in loaded[1] and not {"wandb", "captum"} & loaded[1]


def test_no_machine_paths_or_package_indexes() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True, cwd=REPO
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        data = (REPO / name).read_bytes() if (REPO / name).is_file() else b""
        if b"\0" not in data[:1000]:
            found = FORBIDDEN.search(data.decode(errors="ignore"))
            assert found is None, f"{name} mentions {found and found.group()}"


def contributing(number: int) -> dict[str, object]:
    """What a Python block of CONTRIBUTING.md defines."""
    blocks = re.findall(r"```python\n(.*?)```", (REPO / "CONTRIBUTING.md").read_text(), re.DOTALL)
    namespace: dict[str, object] = {"__name__": "example"}
    exec(blocks[number], namespace)
    return namespace


def test_the_explainer_that_contributing_shows() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    explainer = contributing(0)["GradientTimesInput"](ClassifierTarget(network))
    images, weight = torch.rand(2, 1, 4, 4), network[1].weight.view(3, 1, 4, 4)
    maps = explainer.explain(images, torch.tensor([[0, 2], [1, 2]]))
    expected = images * torch.stack([weight[[0, 2], 0], weight[[1, 2], 0]])
    torch.testing.assert_close(maps, expected.detach())


def test_the_metric_that_contributing_shows() -> None:
    target = ClassifierTarget(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)))
    metric, images = contributing(1)["KeptAtHalf"](), torch.rand(2, 1, 4, 4)
    maps = torch.arange(16.0).view(1, 1, 4, 4).expand(2, 1, 4, 4)
    metric.update(target=target, images=images, maps=maps, targets=torch.tensor([0, 2]))
    half = images.clone()
    half[:, :, :2] = 0
    expected = [target.predict(shown)[[0, 1], [0, 2]] for shown in (half, images)]
    torch.testing.assert_close(metric.per_image()[:, 0].float(), (expected[0] / expected[1]).detach())


def test_the_target_that_contributing_shows() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(1)
    )
    target = contributing(2)["RegressorTarget"](network)
    images, masked = torch.rand(2, 1, 6, 6), torch.rand(2, 1, 6, 6)
    assert target.num_classes == 3 and target.query(images).targets.tolist() == [[0], [0]]
    maps = HiResCAM(target, "0").explain(images, torch.tensor([[0, 2]] * 2))
    torch.testing.assert_close(maps.sum((2, 3)), network(images)[:, [0, 2]].detach())
    metric = DeletionAUC(steps=2, output="score")
    metric.update(target=target, images=images, maps=masked, targets=torch.tensor([[1]] * 2))
    assert metric.per_image().isfinite().all()
    for explainer in (RISE(target, masks=8, output="score"), CaptumExplainer(target, "Saliency")):
        assert explainer.explain(images).shape == (2, 1, 6, 6)
    with pytest.raises(ValueError, match="CAPE explains classification, but a RegressorTarget does regression"):
        CAPE(target)


def test_the_package_offers_its_names_and_its_parts_and_nothing_else():
    for name in lightning_xai.__all__:
        assert getattr(lightning_xai, name) is not None and name in dir(lightning_xai)
    assert lightning_xai.explainers.PCIM.__name__ == "PCIM", "a part that nobody imported"
    with pytest.raises(AttributeError, match="has no attribute 'Explaner'"):
        _ = lightning_xai.Explaner
