"""The folder tree is the architecture: imports go one way, and the package root stays small."""

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PACKAGE = REPO / "lightning_xai"
FILES = sorted(PACKAGE.rglob("*.py"))
#: From the leaves up; parts of one line do not import each other, and no part imports one of a later line.
LAYERS = (
    ("functional",),
    ("structures", "typing"),
    ("networks", "data", "loggers", "visualization"),
    ("targets",),
    ("perturbation",),
    ("reveal",),
    ("explainers",),
    ("metrics",),
    ("report",),
    ("global_maps", "sanity"),
    ("callbacks",),
    ("cli",),
)
LEVEL = {part: level for level, layer in enumerate(LAYERS) for part in layer}
ROOT_MODULES = {"__init__.py", "reveal.py", "structures.py", "typing.py"}
#: Words that had a meaning of this project's own, and the field's word for each; and spellings that are not US.
PRIVATE_WORDS = {
    "told": "the value's name",
    "artist": "perturbation",
    "scene": "context",
    "beside": "references",
    "respondent": "source",
    "question": "query",
    "answer": "output",
    "PixelSet": "region",
    "facts": "data_info",
    "slope": "gradient",
    "steepness": "gradient",
    "grain": "block_size",
    "shares": "fractions",
    "ask_pixels": "QueryPolicy",
    "maker": "factory",
    "TargetTrainer": "ClassifierTask or SegmenterTask",
    "behaviour": "behavior",
    "centre": "center",
    "colour": "color",
    "localisation": "localization",
    "neighbour": "neighbor",
    "normalisation": "normalization",
}


def imported(path: Path) -> set[str]:
    """The parts of the package that a module imports, wherever the import stands."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in modules if name.startswith("lightning_xai.") and name.count(".") >= 1}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_climbs(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return  # the package's face
    for part in imported(path) & LEVEL.keys():
        climbs = part != own and LEVEL[part] >= LEVEL[own]
        assert not climbs, f"{path.relative_to(REPO)} imports {part}, which is not below {own}"


def test_every_part_has_its_layer():
    parts = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__init__", "__pycache__", "py.typed"} <= LEVEL.keys()


def test_the_package_root_holds_no_other_module():
    assert {path.name for path in PACKAGE.glob("*.py")} <= ROOT_MODULES


@pytest.mark.parametrize("path", [*FILES, REPO / "train.py"], ids=lambda path: path.name)
def test_a_file_can_be_read_in_one_sitting(path):
    lines = len(path.read_text().splitlines())
    assert lines <= (80 if path.name == "train.py" else 300), f"{path.relative_to(REPO)} has {lines} lines"


@pytest.mark.parametrize("word", PRIVATE_WORDS)
def test_no_private_word_is_left(word):
    pattern = re.compile(rf"(?<![A-Za-z]){word}{'' if word == 'beside' else 's?'}(?![A-Za-z])", re.IGNORECASE)
    places = [
        f"{path.relative_to(REPO)}:{number}"
        for path in [*FILES, *(REPO / "configs").rglob("*.yaml"), REPO / "train.py"]
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not places, f"{word!r} (use {PRIVATE_WORDS[word]}) stands in {', '.join(places[:10])}"
