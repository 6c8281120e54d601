"""The checkpoints that a training left in its work folder."""

from __future__ import annotations

from pathlib import Path

LAST_CHECKPOINT = 'last_checkpoint'


def find_last_checkpoint(work_dir: str | Path) -> str | None:
    """Finds the checkpoint that a run in this folder resumes from.

    The file ``last_checkpoint`` names it. A checkpoint of that name in the folder itself comes
    first, because the folder may have been moved since.

    Args:
        work_dir: Work folder of a run.

    Returns:
        Path or URL of the checkpoint, which may be missing; None if no file names one.
    """
    pointer = Path(work_dir) / LAST_CHECKPOINT
    if not pointer.is_file():
        return None
    path = pointer.read_text().strip()
    beside = Path(work_dir) / Path(path).name
    return str(beside) if path and '://' not in path and beside.is_file() else path or None


def find_best_or_last(work_dir: str | Path) -> str | None:
    """Finds the newest ``best_*.pth`` in a work folder, or else the last checkpoint.

    Args:
        work_dir: Work folder of a run.

    Returns:
        Path or URL of the checkpoint; None if there is neither.
    """
    best = max(
        Path(work_dir).glob('best_*.pth'), key=lambda path: path.stat().st_mtime, default=None
    )
    return find_last_checkpoint(work_dir) if best is None else str(best)
