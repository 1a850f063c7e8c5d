"""Types that several parts of the project name."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

#: What a data loader yields: ``image (B, C, *S)``, ``id`` and, where there are any, ``label``, ``mask``, ``group``.
Batch = dict[str, Any]
#: ``(inputs (n, C, *S), rows (n,)) -> (n,)``; row ``b * T + t`` is query ``t`` of image ``b``.
Scorer = Callable[[Tensor, Tensor], Tensor]
