"""Files that are complete after every addition."""

from __future__ import annotations

from pathlib import Path


class GrowingFile:
    """A file of a head, parts and a tail, which is complete after each part.

    Each addition is one write at the end, over the tail. So a program that is killed loses nothing
    that was added before, and neither does a full disk: what did not fit is taken back.

    Args:
        path: The file, which is replaced.
        head: First bytes.
        tail: Last bytes.
        separator: Bytes between two parts.

    Raises:
        OSError: If the file cannot be written.
    """

    def __init__(self, path: Path, head: bytes, tail: bytes = b'', separator: bytes = b'') -> None:
        self._tail, self._separator = tail, separator
        self._start = self._end = self._previous_end = len(head)
        # Without a buffer, whose rest would be lost.
        self._file = path.open('wb', buffering=0)
        self._write(0, head + tail)

    def append(self, part: bytes) -> None:
        """Adds a part.

        Raises:
            OSError: If it cannot be written; then the file is as it was before.
        """
        self._previous_end = self._end
        if not part:
            return
        if self._end > self._start:
            part = self._separator + part
        try:
            self._write(self._end, part + self._tail)
        except BaseException:
            self.undo()
            raise
        self._end += len(part)

    def undo(self) -> None:
        """Takes the last part back."""
        self._end = self._previous_end
        self._file.truncate(self._end)
        self._write(self._end, self._tail)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, position: int, data: bytes) -> None:
        self._file.seek(position)
        while data:
            data = data[self._file.write(data) :]
