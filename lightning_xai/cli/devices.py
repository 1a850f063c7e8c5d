"""The devices that a run asks for."""

from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from omegaconf import DictConfig, OmegaConf

GPUS = {"cuda": CUDAAccelerator, "mps": MPSAccelerator}


def check_accelerator(cfg: DictConfig) -> None:
    """Refuse a run that asks for a GPU where there is none, before anything is read or trained for it.

    Args:
        cfg: ``trainer.accelerator`` is read.

    Raises:
        ValueError: If there is none.
    """
    name = OmegaConf.select(cfg, "trainer.accelerator")
    wanted = list(GPUS) if name == "gpu" else [kind for kind in GPUS if kind == name]
    if wanted and not any(GPUS[kind].is_available() for kind in wanted):
        raise ValueError(
            f"trainer.accelerator is {name}, but PyTorch finds no such GPU on this machine; use trainer=default, which "
            "takes what is there."
        )
