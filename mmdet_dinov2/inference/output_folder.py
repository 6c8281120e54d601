"""The folder that predictions are written to: checked before the first image, told from inputs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..data.prediction_output import IMAGES, PICTURES, RESULTS, TABLE, holds_drawn_pictures
from ..errors import InputError
from ..wording import name_some


class EarlierOutputs:
    """The pictures that predictions drew, which are not inputs.

    Args:
        out: Output folder of this prediction, if it draws.

    Attributes:
        skipped: Number of files that were asked for and left out, by their folder.
    """

    def __init__(self, out: Path | None = None) -> None:
        self._out = None if out is None else os.path.realpath(out)
        self._known: dict[str, bool] = {}
        self.skipped: dict[str, int] = {}

    def leaves_out(self, path: Path) -> bool:
        """Returns whether a file is such a picture, and counts it."""
        folder = os.path.dirname(os.path.realpath(path))
        while folder != os.path.dirname(folder):
            if os.path.basename(folder) == PICTURES and self._is_drawn(os.path.dirname(folder)):
                self.skipped[folder] = self.skipped.get(folder, 0) + 1
                return True
            folder = os.path.dirname(folder)
        return False

    def note(self) -> str:
        """Says what was left out; empty if nothing was."""
        return '; '.join(
            f'{count} pictures in {folder} were drawn by an earlier prediction and are not inputs'
            for folder, count in self.skipped.items()
        )

    def _is_drawn(self, out: str) -> bool:
        if out not in self._known:
            drawn = holds_drawn_pictures(Path(out))
            if drawn is None:  # an earlier version wrote them, if anybody
                drawn = out == self._out and _is_output(Path(out))
            self._known[out] = drawn
        return self._known[out]


def check_output(out: Path, pictures: Mapping[str, Path]) -> None:
    """Makes the output folder and checks that the results can be written and replace no others.

    Args:
        out: The folder.
        pictures: Input file of each picture that will be drawn, by the name of the picture.

    Raises:
        InputError: If the folder cannot be made or written to, holds such files of somebody else,
            or a picture would replace its image.
    """
    remedy = 'choose a different folder with --out'
    for folder in (out, out / PICTURES) if pictures else (out,):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            reason = 'it is a file' if folder.is_file() else error.strerror or error
            raise InputError(
                f'the output folder {folder} cannot be written ({reason}); {remedy}'
            ) from error
    for name in (RESULTS, IMAGES, TABLE):
        path = out / name
        if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
            raise InputError(f'{path} cannot be written; {remedy}')
    is_output = _is_output(out)
    foreign = [name for name in (RESULTS, IMAGES, TABLE) if (out / name).exists()]
    if foreign and not is_output:
        raise InputError(
            f'{out} holds {name_some(foreign)}, which no prediction wrote, but this one would '
            f'replace; {remedy}'
        )
    inputs = {os.path.realpath(path) for path in pictures.values()}
    for name, path in pictures.items():
        target = out / PICTURES / name
        if os.path.realpath(target) in inputs:
            raise InputError(f'the picture of {path} would replace the input {target}; {remedy}')
        if not is_output and os.path.exists(target):
            raise InputError(
                f'the picture of {path} would replace {target}, which no prediction drew; {remedy}'
            )


def keeps_pictures(out: Path, draws: bool) -> bool:
    """Returns whether the output folder has drawn pictures after a prediction that draws or not."""
    return draws or (holds_drawn_pictures(out) is True and (out / PICTURES).is_dir())


def _is_output(out: Path) -> bool:
    """Returns whether a prediction wrote the results in a folder, one of an earlier version too."""
    if holds_drawn_pictures(out) is not None:
        return True
    files: Sequence[str] = (RESULTS, IMAGES, TABLE)
    return all((out / name).is_file() for name in files)
