"""What a training passes to the model about the samples of a step, as their metadata.

Metadata of samples is the only thing besides images and boxes that mmdet's data preprocessor and
``train_step`` pass on from the loop to the head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.structures import SampleList
from mmengine.dist import all_gather
from torch import Tensor

# Seed of the augmentation of a sample and of the noise that the model adds for it.
SAMPLE_SEED = 'sample_seed'
# Images that this sample replaces, as they cannot be read: pairs of path and reason. Photos without
# labels are told apart, since nothing is lost with them.
BAD_IMAGES, BAD_PHOTOS = 'bad_images', 'bad_photos'
# Weight of an image in the losses, 0 to 1; images without it have 1.
IMAGE_WEIGHT = 'image_weight'
# Fields of the sample of an unlabeled photo: the view that the teacher sees, (3, H, W), uint8, and
# boxes (x1, y1, x2, y2) in pixels that it is not sure of, (N, 4).
TEACHER_VIEW = 'teacher_view'
UNSURE_BOXES = 'unsure_boxes'
# The first crops of a sample, which the teacher of a self-distillation sees too.
NUM_GLOBAL_CROPS = 2
# Height and width of each crop of a sample, whose inputs are the pixels of all of them in a row.
CROP_SHAPES = 'crop_shapes'
# For each global crop, which of its patches the student does not see.
PATCH_MASKS = 'patch_masks'
# Boxes and weights of all images of the step in all processes, and number of micro-batches.
_STEP_BOXES = 'step_boxes'
_STEP_MICRO_BATCHES = 'step_micro_batches'
# Number of images of the step in this process.
_STEP_IMAGES = 'step_images'


def sample_seeds(batch_data_samples: SampleList) -> list[int]:
    """Returns the seeds of the noise that the model adds; random if the loader gave none."""
    return [
        sample.metainfo[SAMPLE_SEED]
        if SAMPLE_SEED in sample.metainfo
        else int(torch.randint(2**62, ()))
        for sample in batch_data_samples
    ]


def boxes_of_step(batch_data_samples: SampleList, num_images: int, device: torch.device) -> Tensor:
    """Returns the numbers of boxes of all images of a step; every process has to call it.

    Args:
        batch_data_samples: The data samples of this process.
        num_images: Largest number of images that a process has in a step.
        device: Device of the model.

    Returns:
        Number of boxes and weight of each image, shape (processes, num_images, 2), 0 where a
        process has fewer images.
    """
    counts = _boxes_and_weights(batch_data_samples)
    counts += [(0.0, 0.0)] * (num_images - len(counts))
    own = torch.tensor(counts).to(device, non_blocking=True)
    return torch.stack(all_gather(own))


def _boxes_and_weights(batch_data_samples: SampleList) -> list[tuple[float, float]]:
    return [
        (float(len(sample.gt_instances)), sample.metainfo.get(IMAGE_WEIGHT, 1.0))
        for sample in batch_data_samples
    ]


def announce_step(micro_batches: Sequence[SampleList], boxes: Tensor | None = None) -> None:
    """Records in each data sample of a step how many boxes and images the whole step has.

    Losses are divided by the number of boxes. If all micro-batches of all processes divide by the
    boxes of the whole step, their gradients add up to that of one large batch.

    Args:
        micro_batches: The data samples of each micro-batch.
        boxes: What :func:`boxes_of_step` returned; None if these micro-batches are all of the step.
    """
    if boxes is None:
        counts = [entry for samples in micro_batches for entry in _boxes_and_weights(samples)]
        boxes = torch.tensor([counts])
    step = {
        _STEP_BOXES: boxes,
        _STEP_MICRO_BATCHES: len(micro_batches),
        _STEP_IMAGES: sum(map(len, micro_batches)),
    }
    for samples in micro_batches:
        for sample in samples:
            sample.set_metainfo(step)


def announced_step(img_metas: Sequence[dict]) -> tuple[Tensor, int] | None:
    """Returns what :func:`announce_step` recorded, or None if it was not called.

    Args:
        img_metas: Metadata of the images of one micro-batch.

    Returns:
        Numbers of boxes and weights, shape (processes, images, 2), and the number of micro-batches
        of this process.
    """
    meta = img_metas[0]
    return (meta[_STEP_BOXES], meta[_STEP_MICRO_BATCHES]) if _STEP_BOXES in meta else None


def weight_in_step(batch_data_samples: SampleList) -> float:
    """Returns the factor of a mean over the images of a micro-batch.

    The gradient of a step is the mean over its micro-batches, the last of which may have fewer
    images. With this factor it is that of the mean over all images of the process.

    Args:
        batch_data_samples: The data samples of one micro-batch.

    Returns:
        Its share of the images of the step, times the number of micro-batches; 1 if
        :func:`announce_step` was not called.
    """
    meta = batch_data_samples[0].metainfo
    if _STEP_IMAGES not in meta:
        return 1.0
    return len(batch_data_samples) * meta[_STEP_MICRO_BATCHES] / meta[_STEP_IMAGES]


def bad_images(batch_data_samples: SampleList) -> list[tuple[str, str]]:
    """Returns path and reason of each image that could not be read for these samples."""
    return [bad for sample in batch_data_samples for bad in sample.metainfo.get(BAD_IMAGES, ())]


def bad_photos(batch_data_samples: SampleList) -> list[tuple[str, str]]:
    """Returns path and reason of each photo without labels that could not be read."""
    return [bad for sample in batch_data_samples for bad in sample.metainfo.get(BAD_PHOTOS, ())]
