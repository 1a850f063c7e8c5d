"""Train and judge an explainer around a frozen model: ``python train.py explainer=pcim``; see ``--help``."""

import sys
from pathlib import Path

import hydra
import lightning
from hydra.utils import instantiate
from omegaconf import DictConfig

from lightning_xai.cli import run_folder, runs
from lightning_xai.cli.earlier_run import start_from
from lightning_xai.cli.errors import one_sentence
from lightning_xai.cli.overrides import check_overrides
from lightning_xai.cli.summary import finish
from lightning_xai.cli.target_cache import build_target
from lightning_xai.cli.tasks import global_maps as global_task
from lightning_xai.cli.tasks import sanity as sanity_task
from lightning_xai.loggers import RunCSVLogger, finish_loggers

CONFIGS = Path(__file__).parent / "configs"


def main(cfg: DictConfig) -> dict[str, float]:
    """Run one job; no other run writes in its folder meanwhile.

    Args:
        cfg: The composed configuration; ``run_dir`` must be set when Hydra does not run the job.

    Returns:
        ``target/...`` and ``test/...`` numbers; ``sanity/...`` and ``global/...`` ones of those tasks.
    """
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    with run_folder.writing(cfg.run_dir):
        return run(cfg)


def run(cfg: DictConfig) -> dict[str, float]:
    """The parts of a job, in order; see :func:`main`."""
    resume = runs.prepare(cfg)
    data = runs.open_data(cfg)
    target, quality = build_target(cfg, data)
    if cfg.task == "target":
        return quality
    if cfg.task == "sanity":
        return quality | sanity_task.check_sanity(cfg, data, target)
    explainer = runs.build_explainer(cfg, target)

    loggers = [RunCSVLogger(cfg.run_dir), *instantiate(cfg.logger).values()]
    trainer = instantiate(cfg.trainer, logger=loggers, callbacks=list(instantiate(cfg.callbacks).values()))
    runs.log_config(cfg, trainer)
    best = resume
    if explainer.learned and (cfg.task == "explain" or (cfg.task == "global" and resume is None)):
        trainer.fit(explainer, datamodule=explainer.fit_data(data), ckpt_path=resume, weights_only=True)
        best = trainer.checkpoint_callback.best_model_path or None
    if cfg.task == "predict":
        trainer.predict(explainer, datamodule=data, ckpt_path=best, return_predictions=False, weights_only=True)
        results = {}
    elif cfg.task == "global":
        results = global_task.explain_globally(cfg, data, explainer, loggers, best)
    else:
        trainer.test(explainer, datamodule=data, ckpt_path=best, verbose=False, weights_only=True)
        results = finish(cfg, trainer, quality, best)
    finish_loggers(loggers)
    return quality | results


if __name__ == "__main__":
    try:
        config_name, sys.argv[1:] = start_from(sys.argv[1:], CONFIGS)
        check_overrides(sys.argv[1:], CONFIGS, config_name)
    except ValueError as error:
        sys.exit(f"train.py: {error}")
    failed: list[bool] = []
    hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(one_sentence(main, failed))()
    if any(failed):
        sys.exit(f"train.py: {sum(failed)} of {len(failed)} jobs failed." if len(failed) > 1 else 1)
