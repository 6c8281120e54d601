"""Figures of matplotlib as files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ..errors import InputError


def save_figure(figure: Figure, path: str | Path, dpi: int = 120) -> None:
    """Writes a figure to a file, whose folder is made.

    Args:
        figure: The figure.
        path: The file; its suffix is the format, such as ``.png`` or ``.svg``.
        dpi: Pixels per inch.

    Raises:
        InputError: If the suffix is not that of a picture.
    """
    path = Path(path)
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        # matplotlib would write a file of another name.
        raise InputError(f'picture {path} must end in .png, .svg, .pdf or .jpg')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
