"""The recipes for segmenters on real data, cut short: their maps and their table."""

import json

import pytest
from hydra import compose, initialize_config_dir

import train
from tests.running import CONFIGS, tiny

STEPS = ["metrics.visibility.steps=2", "metrics.visibility_image.steps=2"]
STEPS += [f"metrics.{name}.steps=1" for name in ("leak_shifted", "leak_noise")]


def short(folder, name, *overrides):
    """The configuration of a recipe, cut to seconds."""
    words = [word for word in tiny(folder, f"experiment={name}", *STEPS, *overrides) if "widths" not in word]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", words)


@pytest.mark.slow
def test_vessels_of_the_published_network(data_root, tmp_path):
    results = train.main(short(tmp_path / "run", "seghires_vessels", "data.limit=2", "data.size=256"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    others = {"seg_hires_cam_decoder", "seg_grad_cam", "random", "center", "edge"}
    assert set(summary["explainers"]) == {"HiResCAM", *others}
    table = {name: values["visibility_image"]["mean"] for name, values in summary["explainers"].items()}
    assert results["test/visibility_image"] == pytest.approx(table["HiResCAM"])
    assert table["HiResCAM"] > table["random"] + 0.1, "what the map shows must be enough to find vessels"
    assert (tmp_path / "run" / "maps" / "test.png").is_file()
