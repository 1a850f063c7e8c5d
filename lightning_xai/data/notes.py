"""Collect what a user should know about the files that were read, and say it once for all of them."""

import logging

log = logging.getLogger(__name__)


class Notes:
    """Collects remarks about files; each remark is logged once, with the number of files.

    Example:
        >>> notes = Notes()
        >>> notes.add("no date", "a.png")
        >>> notes.add("no date", "b.png")
        >>> notes.sentences()
        ['2 files have no date, such as a.png.']
    """

    def __init__(self) -> None:
        self._files: dict[str, dict[str, None]] = {}

    def add(self, remark: str, name: str) -> None:
        """Add a remark: what a file has.

        Args:
            remark: The end of the sentence "1 file has ...".
            name: The file; a second remark of the same kind about it is the same.
        """
        self._files.setdefault(remark, {})[name] = None

    def sentences(self) -> list[str]:
        """Return a sentence for each kind of remark."""
        return [
            f"{len(names)} {'file has' if len(names) == 1 else 'files have'} {remark}, such as {min(names)}."
            for remark, names in self._files.items()
        ]

    def report(self) -> None:
        """Log all remarks, and forget them."""
        for sentence in self.sentences():
            log.warning(sentence)
        self._files = {}
