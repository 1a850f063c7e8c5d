import inspect
from pathlib import Path

import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from lightning_xai.data import ImageDataModule
from tests.running import load_config

CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "data").glob("[a-z]*.yaml"))
REQUIRED = {"root": "somewhere", "csv": "somewhere.csv", "path": "somewhere.npz"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_names_every_option_once_and_can_be_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_XAI_DATA", "somewhere")
    first_line = path.read_text().splitlines()[0]
    assert first_line.startswith("# ") and first_line.endswith(".")
    node = OmegaConf.merge({"seed": 3}, {"data": load_config(path)})
    for key in node.data:
        if OmegaConf.is_missing(node.data, key):
            node.data[key] = REQUIRED[key]
    data = instantiate(node.data)
    assert isinstance(data, ImageDataModule) and data.seed == 3
    accepted = {
        name
        for function in (get_class(node.data._target_).__init__, ImageDataModule.__init__)
        for name in inspect.signature(function).parameters
    }
    assert set(node.data) - {"_target_", "_convert_"} == accepted - {"self", "options"}
