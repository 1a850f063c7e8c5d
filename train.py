"""Train and judge an explainer around a frozen model: ``python train.py explainer=pcim``; see ``--help``."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from lightning_xai.cli import rank_zero
from lightning_xai.cli.earlier_run import start_from
from lightning_xai.cli.errors import FULL, environment, one_gate, one_sentence
from lightning_xai.cli.overrides import check_overrides
from lightning_xai.cli.run_folder import is_first, prepare_folder, writing
from lightning_xai.cli.saved_config import mask_hydra_files
from lightning_xai.cli.start_checkpoint import check_checkpoint
from lightning_xai.cli.sweep_table import recorded, sweep_reported
from lightning_xai.cli.tasks import check_task, find_task
from lightning_xai.cli.trust import check_command_line, checked
from lightning_xai.functional.interruption import interruption

CONFIGS = Path(__file__).parent / "configs"


def main(cfg: DictConfig) -> dict[str, float]:
    """Run one job; no other run writes in its folder meanwhile.

    Args:
        cfg: The composed configuration; ``run_dir`` must be set when Hydra does not run the job.

    Returns:
        ``target/...`` numbers, and those of the task: ``test/...``, ``val/...``, ``sanity/...`` or ``global/...``.
    """
    check_task(cfg.task)
    if is_first():
        mask_hydra_files()
    with interruption.listening(), rank_zero.met(), writing(cfg.run_dir):
        check_checkpoint(cfg)
        prepare_folder(cfg)
        # PyTorch and Lightning take seconds to import: what only reads a command line does without, and a run says
        # where it writes before.
        import lightning

        from lightning_xai.cli.components import open_data
        from lightning_xai.cli.process_group import closed_at_the_end
        from lightning_xai.cli.target_cache import build_target

        lightning.seed_everything(cfg.seed, workers=True, verbose=False)
        with closed_at_the_end():
            data = open_data(cfg)
            target, quality = build_target(cfg, data)
            return quality | find_task(cfg.task)(cfg, data, target)


if __name__ == "__main__":
    failed: list[bool] = []
    with one_gate():
        config_name, sys.argv[1:] = start_from(sys.argv[1:], CONFIGS)
        check_overrides(sys.argv[1:], CONFIGS, config_name)
        check_command_line(sys.argv[1:], CONFIGS, config_name)
        job = one_sentence(recorded(checked(main)), failed)
        with sweep_reported(), environment(FULL, "1"):  # Hydra raises its errors then, instead of printing them
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(job)()
    if any(failed):
        sys.exit(1)
