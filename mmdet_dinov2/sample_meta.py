"""What a training passes to the model about the samples of a step, as their metadata.

Metadata of samples is the only thing besides images and boxes that mmdet's data preprocessor and
``train_step`` pass on from the loop to the head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.structures import SampleList

# Seed of the augmentation of a sample and of the noise that the model adds for it.
SAMPLE_SEED = 'sample_seed'
# Images that this sample replaces, as they cannot be read: pairs of path and reason.
BAD_IMAGES = 'bad_images'
# Numbers of boxes of all images of the step in this process, and number of micro-batches.
_STEP_BOXES = 'step_boxes'
_STEP_MICRO_BATCHES = 'step_micro_batches'


def sample_seeds(batch_data_samples: SampleList) -> list[int]:
    """Returns the seeds of the noise that the model adds; random if the loader gave none."""
    return [
        sample.metainfo[SAMPLE_SEED]
        if SAMPLE_SEED in sample.metainfo
        else int(torch.randint(2**62, ()))
        for sample in batch_data_samples
    ]


def announce_step(micro_batches: Sequence[SampleList]) -> None:
    """Records in each data sample of an accumulated step how many boxes the whole step has.

    Losses are divided by the number of boxes. If all micro-batches of a step divide by the boxes of
    the whole step, their gradients add up to that of one large batch.

    Args:
        micro_batches: The data samples of each micro-batch.
    """
    boxes = tuple(len(sample.gt_instances) for samples in micro_batches for sample in samples)
    step = {_STEP_BOXES: boxes, _STEP_MICRO_BATCHES: len(micro_batches)}
    for samples in micro_batches:
        for sample in samples:
            sample.set_metainfo(step)


def step_counts(img_metas: Sequence[dict], counts: Sequence[int]) -> tuple[Sequence[int], int]:
    """Returns the numbers of boxes of all images of the step, and the number of micro-batches.

    Args:
        img_metas: Metadata of the images of one micro-batch.
        counts: Numbers of boxes of these images. They are the whole step, unless
            :func:`announce_step` was called.
    """
    meta = img_metas[0]
    return meta.get(_STEP_BOXES, counts), meta.get(_STEP_MICRO_BATCHES, 1)


def bad_images(batch_data_samples: SampleList) -> list[tuple[str, str]]:
    """Returns path and reason of each image that could not be read for these samples."""
    return [bad for sample in batch_data_samples for bad in sample.metainfo.get(BAD_IMAGES, ())]
