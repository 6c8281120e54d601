"""Training data whose order and randomness depend on the step, not on the process.

The random numbers that augment a sample depend only on the seed of the run, the optimizer step and
the index of the sample. They are therefore the same on any number of processes and workers, and a
run that continues in the middle of an epoch sees the same samples as one that was not stopped.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from ..errors import InputError
from ..sample_meta import BAD_IMAGES, BAD_PHOTOS, SAMPLE_SEED
from .loading import BadImageError

# After so many unreadable images in a row, all are assumed to be unreadable.
_MAX_REPLACEMENTS = 16
# Tells the random numbers of the order of unlabeled photos from others.
_PHOTOS = 0x70686F74


class SeededIndex(NamedTuple):
    """What the batch sampler passes to the dataset.

    Attributes:
        index: Index of the sample.
        seed: Seed of its augmentation and of the noise that the model adds for it.
    """

    index: int
    seed: int


def derive_seed(*numbers: int) -> int:
    """Mixes non-negative numbers into one of 63 bits."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def images_per_step(batch_sampler: Any) -> int:
    """Returns the largest number of images of a batch, photos without labels included."""
    unlabeled = getattr(batch_sampler, 'unlabeled', None)
    return batch_sampler.batch_size + (unlabeled.per_step if unlabeled else 0)


class SeededDataset:
    """Wraps a dataset and seeds the random numbers of every sample.

    An image that cannot be read is replaced by a different one, which the seed of the sample
    chooses: the same one on any number of processes, and after resuming. The metadata of the sample
    name the images that it replaces.

    Samplers and hooks read attributes of the dataset through the wrapper.

    Args:
        dataset: A dataset of mmengine.
        unlabeled: A dataset of photos without labels, whose indices follow those of ``dataset``.
            Samplers, which ask for the length, do not see it (:class:`UnlabeledStream` does), and a
            photo that cannot be read is replaced by another one of it.
    """

    def __init__(self, dataset: Sized, unlabeled: Sized | None = None) -> None:
        self.dataset = dataset
        self.unlabeled = unlabeled

    @property
    def pipeline(self) -> Any:
        """The transforms of the dataset, which hooks such as ``PipelineSwitchHook`` set.

        They reach the datasets within ``RepeatDataset``, ``ConcatDataset`` and the like.
        """
        return next(_innermost(self.dataset)).pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Any) -> None:
        for dataset in _innermost(self.dataset):
            dataset.pipeline = pipeline

    def __getitem__(self, item: SeededIndex | int) -> dict:
        """Returns a sample, with its seed in the metadata of its data sample.

        Raises:
            InputError: If too many images in a row cannot be read.
        """
        if not isinstance(item, SeededIndex):
            return self.dataset[item]
        sample, bad = self._readable_sample(item)
        if isinstance(sample, dict) and hasattr(sample.get('data_samples'), 'set_metainfo'):
            metainfo = {SAMPLE_SEED: item.seed}
            if bad:
                metainfo[BAD_PHOTOS if self._is_photo(item) else BAD_IMAGES] = bad
            sample['data_samples'].set_metainfo(metainfo)
        return sample

    def _is_photo(self, item: SeededIndex) -> bool:
        return self.unlabeled is not None and item.index >= len(self.dataset)

    def _readable_sample(self, item: SeededIndex) -> tuple[Any, tuple[tuple[str, str], ...]]:
        dataset, index = self.dataset, item.index
        if self._is_photo(item):
            dataset, index = self.unlabeled, index - len(dataset)
        bad: list[tuple[str, str]] = []
        for attempt in range(_MAX_REPLACEMENTS):
            seed_everything(item.seed)
            try:
                return dataset[index], tuple(bad)
            except BadImageError as error:
                bad.append(error.described)
                index = derive_seed(item.seed, attempt) % len(dataset)
        path, reason = bad[-1]
        raise InputError(
            f"{len(bad)} images in a row cannot be read, the last one '{path}' because {reason}; "
            'check that the disk is mounted, then the images with '
            '`mmdet_dinov2 check CONFIG`'
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name in ('dataset', 'unlabeled'):  # not set yet, while the wrapper is being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


def _innermost(dataset: Any) -> Iterator[Any]:
    """Yields the datasets that load samples."""
    inner = getattr(dataset, 'datasets', None) or getattr(dataset, 'dataset', None)
    if inner is None:
        yield dataset
        return
    for part in inner if isinstance(inner, (list, tuple)) else [inner]:
        yield from _innermost(part)


class _SamplerOfSizes(Sampler):
    """Gives the sizes of images in place of all that their dataset knows.

    A batch sampler that groups images by their sizes asks for those of all images that it passes
    over, which are many in a run that resumes.
    """

    def __init__(self, sampler: Sampler, widths: np.ndarray, heights: np.ndarray) -> None:
        self.sampler = sampler
        self.dataset = self
        self._widths = widths
        self._heights = heights

    def __iter__(self) -> Iterator[int]:
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)

    def get_data_info(self, idx: int) -> dict[str, float]:
        return dict(width=self._widths[idx], height=self._heights[idx])


@dataclass
class UnlabeledStream:
    """Which unlabeled photos belong to a step, the same on any number of processes.

    One pass over all photos follows the other, each in an order of its own.

    Attributes:
        num_photos: Number of photos.
        first_index: Index of the first photo in the dataset.
        per_step: Number of photos of a step in this process.
        rank: Number of this process.
        world_size: Number of processes.
        begin: First step that has photos.
    """

    num_photos: int
    first_index: int
    per_step: int
    rank: int = 0
    world_size: int = 1
    begin: int = 0
    _order: tuple[tuple[int, int], np.ndarray] | None = field(default=None, repr=False)

    def indices(self, seed: int, step: int) -> list[int]:
        """Returns the indices of the photos of a step in this process.

        Args:
            seed: Seed of the run.
            step: Number of the step, from 0.
        """
        if step < self.begin:
            return []
        start = (step - self.begin) * self.per_step * self.world_size + self.rank
        places = range(start, start + self.per_step * self.world_size, self.world_size)
        return [self._photo(seed, place) + self.first_index for place in places]

    def _photo(self, seed: int, place: int) -> int:
        round_, place = divmod(place, self.num_photos)
        if self._order is None or self._order[0] != (seed, round_):
            numbers = np.random.default_rng((seed, _PHOTOS, round_))
            self._order = (seed, round_), numbers.permutation(self.num_photos)
        return int(self._order[1][place])


@DATA_SAMPLERS.register_module()
class StepBatchSampler:
    """Yields batches of seeded indices, from any step on.

    Args:
        sampler: Yields the indices of this process.
        batch_size: Number of samples in a batch.
        drop_last: Whether to leave out a smaller last batch.
        seed: Seed of the run, the same in all processes.
        batch_sampler: Config of the batch sampler that forms the batches; ``None`` takes the
            indices in order.

    Attributes:
        unlabeled: Adds photos without labels to each batch; None adds none.
    """

    def __init__(
        self,
        sampler: Sized,
        batch_size: int,
        drop_last: bool = False,
        seed: int = 0,
        batch_sampler: dict | None = None,
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.seed = seed
        self.batches = batch_sampler and DATA_SAMPLERS.build(
            batch_sampler,
            default_args=dict(
                sampler=sampler, batch_size=batch_size, **({'drop_last': True} if drop_last else {})
            ),
        )
        if type(self.batches) is AspectRatioBatchSampler:
            sizes = getattr(sampler.dataset, 'image_sizes', lambda: None)()
            if sizes is not None:
                self.batches.sampler = _SamplerOfSizes(sampler, *sizes)
        self.unlabeled: UnlabeledStream | None = None
        self._first_step = 0
        self._skip = 0

    def start(self, first_step: int, skip: int = 0) -> None:
        """Sets where the next iteration begins.

        Args:
            first_step: Optimizer step of its first batch, including those that are skipped.
            skip: Number of batches to leave out, in the next iteration only.
        """
        self._first_step = first_step
        self._skip = skip

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        first_step, skip = self._first_step, self._skip
        self._skip = 0
        for number, batch in islice(enumerate(self._batches()), skip, None):
            step = first_step + number
            photos = self.unlabeled.indices(self.seed, step) if self.unlabeled else ()
            yield [
                SeededIndex(int(index), derive_seed(self.seed, step, int(index)))
                for index in (*batch, *photos)
            ]

    def _batches(self) -> Iterator[Sequence[int]]:
        if self.batches is not None:
            yield from self.batches
            return
        indices = iter(self.sampler)
        while batch := list(islice(indices, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self) -> int:
        if self.batches is not None:
            return len(self.batches)
        if self.drop_last:
            return len(self.sampler) // self.batch_size
        return -(-len(self.sampler) // self.batch_size)
