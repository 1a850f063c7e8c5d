"""What a machine may lack: room on a disk, memory, or a worker process that it killed."""

import errno
import re

from lightning_xai.functional.text import first_line

#: Of a disk that is full, over its quota, read-only or broken, or of a folder that is another user's.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)
NO_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory", re.IGNORECASE)
KILLED_WORKER = re.compile(r"DataLoader worker \(pid.*\) (exited unexpectedly|is killed by signal)")


def lack_of(error: BaseException) -> str | None:
    """Say in one sentence what a machine lacked (disk, memory, a worker process); ``None`` if nothing of these."""
    text = first_line(error)
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        where = "A file" if error.filename is None else error.filename
        return f"{where} cannot be written ({error.strerror}): free space, or name another folder (paths.root=...)."
    # By name: PyTorch need not be imported yet.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or NO_MEMORY.search(text):
        return (
            f"Out of memory ({text}): lower data.batch_size, callbacks.faithfulness.chunk_size, or, where it has one, "
            "explainer.chunk_size."
        )
    if KILLED_WORKER.search(text):
        return f"A process that reads images was killed ({text}), most likely for memory: lower data.num_workers."
    return None
