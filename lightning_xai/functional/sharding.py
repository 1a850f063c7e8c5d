"""Networks in shards: each rank holds a part of the weights, gradients and optimizer states (FSDP2)."""

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from typing_extensions import override


class FullyShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2 over all ranks, with whole checkpoints in one file.

    The module that is trained shards itself in its ``configure_model``; see :func:`shard`.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    @override
    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def shard(module: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the network ``module.net`` over the ranks, at the first call only.

    Args:
        module: What is trained.
        mesh: The ranks.

    Raises:
        ValueError: If it trains anything else: what is not called like a module cannot be in shards.
    """
    net = getattr(module, "net", None)
    inside = set() if net is None else set(net.parameters())
    if any(parameter.requires_grad and parameter not in inside for parameter in module.parameters()):
        raise ValueError(
            f"trainer=fsdp shards an explainer's network (net), but {type(module).__name__} has other weights, which "
            "are few; use trainer=ddp."
        )
    if isinstance(net, nn.Module) and not isinstance(net, FSDPModule):
        fully_shard(net, mesh=mesh)
