"""What a training tells the model about the samples of a step, as their metadata."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.structures import SampleList

# Seed of the augmentation of a sample and of the noise that the model adds for it.
SAMPLE_SEED = 'sample_seed'
# Images that could not be read and that this sample stands for: pairs of path and reason.
BAD_IMAGES = 'bad_images'
# Boxes of every image of the step in this process, and the number of its micro-batches.
_STEP_BOXES = 'step_boxes'
_STEP_MICRO_BATCHES = 'step_micro_batches'


def sample_seeds(batch_data_samples: SampleList) -> list[int]:
    """Seeds of the noise that the model adds to images; random where the loader gave none."""
    return [
        sample.metainfo[SAMPLE_SEED]
        if SAMPLE_SEED in sample.metainfo
        else int(torch.randint(2**62, ()))
        for sample in batch_data_samples
    ]


def announce_step(micro_batches: Sequence[SampleList]) -> None:
    """Tells the data samples of an accumulated step how many boxes the whole step has.

    Losses are divided by the number of boxes. Known over all micro-batches of the step, it makes
    their gradients add up to that of one large batch.

    Args:
        micro_batches: The data samples of each micro-batch.
    """
    boxes = tuple(len(sample.gt_instances) for samples in micro_batches for sample in samples)
    step = {_STEP_BOXES: boxes, _STEP_MICRO_BATCHES: len(micro_batches)}
    for samples in micro_batches:
        for sample in samples:
            sample.set_metainfo(step)


def step_counts(img_metas: Sequence[dict], counts: Sequence[int]) -> tuple[Sequence[int], int]:
    """Returns the boxes of every image of the step, and the number of its micro-batches.

    Args:
        img_metas: Metadata of the images of one micro-batch.
        counts: Boxes of these images: the whole step, unless one was announced.
    """
    meta = img_metas[0]
    return meta.get(_STEP_BOXES, counts), meta.get(_STEP_MICRO_BATCHES, 1)


def bad_images(batch_data_samples: SampleList) -> list[tuple[str, str]]:
    """Path and reason of every image that could not be read while the samples were made."""
    return [bad for sample in batch_data_samples for bad in sample.metainfo.get(BAD_IMAGES, ())]
