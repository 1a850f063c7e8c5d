"""A GPU that is not there is one sentence, before anything is trained."""

import pytest
from omegaconf import OmegaConf

import train
from lightning_xai.cli import devices
from lightning_xai.cli.devices import check_accelerator
from tests.running import bars_npz, configure


def there(monkeypatch, *kinds):
    for kind, accelerator in devices.GPUS.items():
        monkeypatch.setattr(accelerator, "is_available", lambda kind=kind: kind in kinds)


def asked(name):
    return OmegaConf.create({"trainer": {"accelerator": name}})


@pytest.mark.parametrize(
    ("name", "kinds", "fits"),
    [
        ("gpu", (), False), ("cuda", (), False), ("mps", (), False), ("cuda", ("mps",), False),
        ("gpu", ("mps",), True), ("gpu", ("cuda",), True), ("cuda", ("cuda",), True), ("auto", (), True),
    ],
)  # fmt: skip
def test_a_gpu_must_be_there(monkeypatch, name, kinds, fits):
    there(monkeypatch, *kinds)
    if fits:
        check_accelerator(asked(name))
    else:
        with pytest.raises(
            ValueError, match=f"^trainer.accelerator is {name}, but PyTorch finds no such GPU .*default"
        ):
            check_accelerator(asked(name))


def test_nothing_is_trained_for_it(monkeypatch, tmp_path):
    there(monkeypatch)
    bars = bars_npz(tmp_path / "bars.npz").split()
    with pytest.raises(ValueError, match="no such GPU"):
        train.main(configure(tmp_path / "run", *bars, "trainer=gpu", "trainer.accelerator=gpu"))
    assert not (tmp_path / "targets").exists()
