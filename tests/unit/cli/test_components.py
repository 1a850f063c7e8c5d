"""What the data say goes into the configuration."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from lightning_xai.cli.components import note_data_info


def data_of(*names: str) -> SimpleNamespace:
    return SimpleNamespace(data_info=lambda: {"class_names": list(names), "channels": 1})


def test_class_names_arrive_as_they_are() -> None:
    cfg = OmegaConf.create({"target": {"class_names": "${data_info.class_names}"}})
    names = ["w. matter", "a/b", "$^$", "T1\\T2", "'q'", "100 %", "{x}", "大脳", "a: b # c"]
    note_data_info(cfg, data_of(*names))
    assert list(cfg.target.class_names) == names


@pytest.mark.parametrize("name", ["${seed}", "a ${b} c", "???"])
def test_a_class_that_reads_as_a_reference_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="has a name that configurations read as a reference; rename it"):
        note_data_info(OmegaConf.create({}), data_of("cat", name))
