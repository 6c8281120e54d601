"""Names of picture files."""

from __future__ import annotations

import os


class PictureNames:
    """Names the pictures of images, none of them twice: ``a.jpg``, ``a_2.jpg``."""

    def __init__(self) -> None:
        self._images: dict[str, str] = {}

    def name_of(self, image: str | os.PathLike, wanted: str) -> str:
        """Returns the wanted name, with a number where a different image already has it.

        Args:
            image: Path of the image; the same image keeps its name.
            wanted: The name it should have, relative to the folder of the pictures.
        """
        stem, suffix = os.path.splitext(wanted)
        name, number = wanted, 1
        while self._images.setdefault(name, str(image)) != str(image):
            number += 1
            name = f'{stem}_{number}{suffix}'
        return name
