"""Counts training images that cannot be read; too many of them stop the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mmengine.dist import all_gather_object
from mmengine.runner import Runner

from ..data.image_file import read_image
from ..errors import InputError

# Key of the message hub, which checkpoints hold.
_HUB_KEY = 'bad_images'


class BadImages:
    """The images that could not be read so far, the same in all processes.

    A resumed run continues the count, without images that have been repaired since. Photos without
    labels are named and not counted: a training with fewer of them is as good.

    Args:
        max_share: Share of the training images that may be unreadable, 0..1. One image is always
            allowed: it is the smallest share of a small dataset.

    Raises:
        InputError: If the share is out of range.
    """

    def __init__(self, max_share: float) -> None:
        if not 0 <= max_share <= 1:
            raise InputError(f'train_cfg.max_bad_share must be between 0 and 1, but is {max_share}')
        self.max_share = max_share
        self._known: dict[str, str] = {}
        self._photos: set[str] = set()
        self._resumed = False

    def __len__(self) -> int:
        return len(self._known)

    def add(
        self,
        runner: Runner,
        found: Sequence[tuple[str, str]],
        num_images: int,
        photos: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Counts and logs newly found images. All processes have to call it.

        Args:
            runner: The runner.
            found: Path and reason of each unreadable image of a step of this process.
            num_images: Number of images of the training data.
            photos: As ``found``, for photos without labels.

        Raises:
            InputError: If there are too many, in all processes.
        """
        earlier = []
        if not self._resumed:
            self._resumed = True
            earlier = _still_bad(runner.message_hub.get_info(_HUB_KEY, {}))
        gathered = all_gather_object((earlier, list(found), list(photos)))
        for earlier, _, _ in gathered:
            self._known.update(earlier)
        self._name_photos(runner, [photo for _, _, here in gathered for photo in here])
        for _, here, _ in gathered:
            for path, reason in here:
                if path in self._known:
                    continue
                self._known[path] = reason
                runner.logger.warning(
                    f'Step {runner.iter + 1}: image {path} cannot be read ({reason}) and is '
                    f'replaced by a different one; {len(self)} of {num_images} so far'
                )
        runner.message_hub.update_info(_HUB_KEY, dict(self._known))
        allowed = max(1, math.floor(self.max_share * num_images))
        if len(self) > allowed:
            names = '\n'.join(f'  {path}: {reason}' for path, reason in self._known.items())
            raise InputError(
                f'{len(self)} of {num_images} training images cannot be read, more than the '
                f'{allowed} that train_cfg.max_bad_share={self.max_share:g} allows:\n{names}\n'
                'repair them (`mmdet_dinov2 check CONFIG` finds all of them) or allow '
                'more, and continue from the last checkpoint with --resume'
            )

    def _name_photos(self, runner: Runner, photos: Sequence[tuple[str, str]]) -> None:
        for path, reason in photos:
            if path not in self._photos:
                self._photos.add(path)
                runner.logger.warning(
                    f'Step {runner.iter + 1}: unlabeled photo {path} cannot be read ({reason}) and '
                    'is replaced by a different one'
                )


def _still_bad(known: Mapping[str, str]) -> list[tuple[str, str]]:
    """Returns the images of an earlier part of the run that have not been repaired since."""
    bad = []
    for path, reason in known.items():
        try:
            read_image(path)
        except (InputError, OSError):  # gone, damaged, or not a local file
            bad.append((path, reason))
    return bad
