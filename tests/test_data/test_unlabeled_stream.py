"""Unlabeled photos of steps: the same on any number of processes and from any step on."""

import numpy as np
import pytest
from mmdet.structures import DetDataSample

from mmdet_dinov2.data.loading import BadImageError
from mmdet_dinov2.data.seeded import (
    SeededDataset,
    SeededIndex,
    StepBatchSampler,
    UnlabeledStream,
    images_per_step,
)
from mmdet_dinov2.sample_meta import bad_images, bad_photos


def photos(steps, world_size, total=4, **kwargs):
    """Returns the sorted photos of each step over all processes, and in which order they come."""
    streams = [
        UnlabeledStream(7, 100, total // world_size, rank, world_size, **kwargs)
        for rank in range(world_size)
    ]
    return [sorted(i for stream in streams for i in stream.indices(5, step)) for step in steps]


@pytest.mark.parametrize('world_size', [2, 4])
def test_steps_do_not_depend_on_the_number_of_processes(world_size):
    assert photos(range(9), world_size) == photos(range(9), 1)


def test_each_pass_has_every_photo_once_in_an_order_of_its_own():
    stream = UnlabeledStream(7, 100, 7)
    passes = [stream.indices(5, step) for step in range(3)]
    assert all(sorted(each) == list(range(100, 107)) for each in passes)
    assert len({tuple(each) for each in passes}) == 3
    assert stream.indices(5, 1) == passes[1]  # back to an earlier pass
    assert stream.indices(6, 1) != passes[1]


def test_more_photos_in_a_step_than_there_are():
    assert len(UnlabeledStream(3, 0, 10).indices(0, 0)) == 10


def test_photos_begin_after_the_burn_in():
    assert photos(range(5), 1, begin=3)[:3] == [[], [], []]
    assert photos([3, 4], 1, begin=3) == photos([0, 1], 1)


def test_batches_have_photos_after_the_labeled_images():
    sampler = StepBatchSampler(list(range(6)), batch_size=2, seed=5)
    plain = list(sampler)
    sampler.unlabeled = UnlabeledStream(7, 6, 3, begin=1)
    assert images_per_step(sampler) == 5
    mixed = list(sampler)
    assert mixed[0] == plain[0]
    for step in (1, 2):
        assert mixed[step][:2] == plain[step]
        assert [item.index for item in mixed[step][2:]] == sampler.unlabeled.indices(5, step)
        assert len({item.seed for item in mixed[step]}) == 5
    sampler.start(0, skip=2)
    assert list(sampler) == mixed[2:]


class _Photos(list):
    def __getitem__(self, index):
        if super().__getitem__(index) == 'bad':
            raise BadImageError(f'{index}.jpg', 'it is bad')
        return super().__getitem__(index)


def test_a_bad_photo_is_replaced_by_a_photo():
    dataset = SeededDataset(['label'] * 50, _Photos(['bad', 'bad', 'photo']))
    for seed in np.random.default_rng(0).integers(0, 2**40, 20).tolist():
        sample, bad = dataset._readable_sample(SeededIndex(50, seed))
        assert sample == 'photo' and bad[0] == ('0.jpg', 'it is bad')


def test_bad_photos_are_told_from_bad_images():
    images, photos = (_Photos(['bad', dict(data_samples=DetDataSample())]) for _ in range(2))
    dataset = SeededDataset(images, photos)
    image, photo = (dataset[SeededIndex(index, 0)]['data_samples'] for index in (0, 2))
    assert set(bad_images([image, photo])) == set(bad_images([image])) == {('0.jpg', 'it is bad')}
    assert set(bad_photos([image, photo])) == set(bad_photos([photo])) == {('0.jpg', 'it is bad')}
