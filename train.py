"""Train and judge an explainer around a frozen model: ``python train.py explainer=pcim``; see ``--help``."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from lightning_xai.cli.earlier_run import start_from
from lightning_xai.cli.errors import one_sentence
from lightning_xai.cli.overrides import check_overrides
from lightning_xai.cli.run_folder import prepare_folder, writing
from lightning_xai.cli.sweep_table import recorded, sweep_reported
from lightning_xai.cli.tasks import check_task, find_task

CONFIGS = Path(__file__).parent / "configs"


def main(cfg: DictConfig) -> dict[str, float]:
    """Run one job; no other run writes in its folder meanwhile.

    Args:
        cfg: The composed configuration; ``run_dir`` must be set when Hydra does not run the job.

    Returns:
        ``target/...`` numbers, and those of the task: ``test/...``, ``val/...``, ``sanity/...`` or ``global/...``.
    """
    check_task(cfg.task)
    with writing(cfg.run_dir):
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
    try:
        config_name, sys.argv[1:] = start_from(sys.argv[1:], CONFIGS)
        check_overrides(sys.argv[1:], CONFIGS, config_name)
    except ValueError as error:
        sys.exit(f"train.py: {error}")
    failed: list[bool] = []
    job = one_sentence(recorded(main), failed)
    with sweep_reported():
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(job)()
    if any(failed):
        sys.exit(1)
