import gc
import os
import random
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.torchvision_operators import declare_operators

# Before anything imports wandb: no test talks to a server.
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

declare_operators()  # before torchmetrics imports torchvision, where that is installed

TESTS = Path(__file__).parent
#: Folders whose tests run train.py, start processes, or train networks until they are good.
SLOW = ("integration", "distributed", "unit/targets/training")

#: PyTorch's compiler of scripts knows operators by their address: one that is freed must not leave its address to a
#: list of integers, which could then not be scripted ("builtin cannot be used as a value").
KEPT: list[object] = []
register = torch.jit._builtins._register_builtin


def register_and_keep(operator: object, name: str) -> None:
    """Register an operator as PyTorch does, and keep it."""
    KEPT.append(operator)
    register(operator, name)


torch.jit._builtins._register_builtin = register_and_keep

torch.set_num_threads(1)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what ``make test-fast`` leaves out: folders, real data, and the contract but for 2-D classifiers."""
    for item in items:
        asked = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        rest = item.path.is_relative_to(TESTS / "contract") and ("segmenter" in asked.values() or 3 in asked.values())
        real = "data_root" in getattr(item, "fixturenames", ())
        if rest or real or any(item.path.is_relative_to(TESTS / folder) for folder in SLOW):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What is imported stays: garbage collection need not look at it again, which is a tenth of the whole time."""
    gc.collect()
    gc.freeze()


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
