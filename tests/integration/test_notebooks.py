"""Every notebook runs from top to bottom, shows pictures, and what it prints bears out what it says."""

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
#: Run as a last cell, in the notebook's own names.
CLAIMS = {
    "01_quickstart": """
assert quality["accuracy"] > 0.9, quality
for name in ("PCIM", "AmortizedPCIM"):
    assert scores[name]["insertion"] > scores["random"]["insertion"] + 0.1, scores
    assert scores[name]["deletion"] < scores["random"]["deletion"] - 0.1, scores
""",
    "02_cape": """
left, right = contributions[..., :5].flatten(1).sum(dim=1), contributions[..., 5:].flatten(1).sum(dim=1)
assert left[0] > 10 * right[0] and right[1] > 10 * left[1], (left, right)
assert min(totals) > 2 and agreement["agreement"] > 0.6, (totals, agreement)
assert abs(float(maps[0, 0].sum()) - float(cape.probabilities(mosaic[None])[0, PALACE])) < 1e-5
""",
    "03_segmentation": """
assert quality["dice"] > 0.8, quality
fifth = {name: curve[0.2].mean for name, curve in curves.items()}
assert fifth["U-Noise (visibility)"] > fifth["random"] + 0.2 and fifth["oracle"] > fifth["random"] + 0.2, fifth
assert leaks["U-Noise (visibility)"][0.2].mean < fifth["U-Noise (visibility)"] - 0.2, leaks
""",
    "04_global": """
assert numbers["area_erase"] < numbers["area_random"] < numbers["area_reversed"], numbers
assert intervals["random_minus_erase"][0] > 0 and numbers["sufficient"] < 1, intervals
order = three.flatten().argsort(descending=True)[: round(0.02 * pixels)]
corner = {row * 28 + column for row in range(3) for column in range(3)}
assert corner <= set(order.tolist()), sorted(order.tolist())
assert alone["shortcut"] > 0.9 > 0.75 > alone["honest"], alone
assert biases[0].label == "3" and biases[0].outside > 2 * biases[1].outside, biases
""",
}


def test_every_notebook_is_tested():
    assert sorted(CLAIMS) == sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture(scope="module")
def kernel() -> Iterator[AsyncKernelManager]:
    """One for all notebooks, as half of a short one's time is that of the imports."""
    manager = AsyncKernelManager()
    yield manager
    NotebookClient(nbformat.v4.new_notebook(), km=manager)._cleanup_kernel()


@pytest.mark.parametrize("name", CLAIMS)
def test_a_notebook_runs_and_shows_what_it_says(kernel, name, tmp_path):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), f"clear the outputs of {name} before a commit"
    notebook.cells.append(nbformat.v4.new_code_cell(CLAIMS[name]))
    fresh = f"%reset -f\n%cd -q {tmp_path}\nimport sys\nsys.path[:0] = [{str(NOTEBOOKS.parent)!r}]\ndel sys"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(fresh))
    NotebookClient(notebook, timeout=600, km=kernel).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3, "the notebook shows too few pictures"
