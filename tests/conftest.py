import os
import random
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

# Before anything imports wandb: no test talks to a server.
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

torch.set_num_threads(1)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets."""
    if "LIGHTNING_XAI_DATA" not in os.environ:
        pytest.skip("LIGHTNING_XAI_DATA is not set")
    return Path(os.environ["LIGHTNING_XAI_DATA"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With LIGHTNING_XAI_REQUIRE_DATA a test that skips for want of data fails, however it skipped."""
    report = yield
    if report.skipped and "LIGHTNING_XAI_REQUIRE_DATA" in os.environ and "LIGHTNING_XAI_DATA" in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped for want of data, and LIGHTNING_XAI_REQUIRE_DATA is set."
    return report
