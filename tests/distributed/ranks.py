"""Two ranks that stay: processes that import the package once and run one function after the other."""

import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import train
from tests.running import configure

TIMEOUT = 240


class TwoRanks:
    """Two processes, started when they are first needed."""

    def __init__(self) -> None:
        self.processes: list[Any] = []
        self.connections: list[Connection] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What ``function(rank, *arguments)`` returns on each rank."""
        if not self.processes:
            self.start()
        port = free_port()
        for connection in self.connections:
            connection.send((function, arguments, port))
        answers: dict[int, Any] = {}
        while len(answers) < 2:
            waiting = [connection for rank, connection in enumerate(self.connections) if rank not in answers]
            ready = wait(waiting, TIMEOUT)
            for connection in ready:
                answers[self.connections.index(connection)], error = connection.recv()
                if error:
                    self.stop()  # the other rank may wait for this one
                    raise AssertionError(error)
            if not ready:
                self.stop()
                raise TimeoutError(f"two ranks were not done with {function.__name__} after {TIMEOUT} seconds")
        return [answers[rank] for rank in range(2)]

    def start(self) -> None:
        context = mp.get_context("spawn")
        for rank in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs,), daemon=True)
            # Lightning reads the rank when it is imported: a rank finds it there, as from a launcher.
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2"}
            with patch.dict(os.environ, place | {"MASTER_ADDR": "localhost"}):
                process.start()
            self.processes.append(process)
            self.connections.append(ours)

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.processes, self.connections = [], []


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


def serve(connection: Connection) -> None:
    """Run what comes, each in a process group of its own."""
    torch.set_num_threads(1)
    while True:
        function, arguments, os.environ["MASTER_PORT"] = connection.recv()
        try:
            connection.send((function(int(os.environ["RANK"]), *arguments), None))
        except Exception:
            connection.send((None, traceback.format_exc()))
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


def run_train(rank: int, folder: Path, words: list[str]) -> dict[str, float]:
    """A rank's part of a run of train.py: what main returns."""
    close, sizes = dist.destroy_process_group, []

    def closing() -> None:
        sizes.append(dist.get_world_size())
        close()

    with patch.object(dist, "destroy_process_group", closing):
        result = run_main(rank, folder, words)
    assert sizes == [2], "the run did not go through two ranks, or left their group open"
    return result


def run_main(rank: int, folder: Path, words: list[str]) -> dict[str, float]:
    """A rank's part of a run of train.py that need not take both ranks."""
    trainer = [] if any(word.startswith("trainer=") for word in words) else ["trainer=ddp"]
    return train.main(configure(folder, *words, *trainer, "trainer.devices=2"))
