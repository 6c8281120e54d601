"""What holds for the training on whole images holds for that on tiles of them."""

import pytest

from ..test_resume.test_choose import assert_a_stopped_run_goes_on, losses_of
from ..tools import run_tool, train_in_turns, write_config
from .test_distributed import CURVE, largest_difference

# 9 steps of 4 tiles in 3 epochs; some tiles are empty, and 2 of 3 images are not kept in memory.
TILES = (
    CURVE
    + """
sample_data.update(
    root=data_root, num_train=3, num_val=1, seed=0,
    scene=dict(width=260, height=180, num_shapes=12))
model['tile'] = dict(size=70, overlap=0.2)
dataset.update(filter_cfg=dict(filter_empty_gt=False), pipeline=[
    dict(type='TiledLoadImageFromFile', reduced=False, keep=1),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomTile', size=70, empty_share=0.4),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')])
tiled = {**_base_.train_dataloader.dataset, **dataset}
train_dataloader['dataset'] = dict(_delete_=True, type='RepeatDataset', times=4, dataset=tiled)
"""
)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    """Work folder of a run in one process."""
    folder = tmp_path_factory.mktemp('tiles')
    config = write_config(folder, TILES, 'undisturbed.py')
    run_tool('train', config, '--work-dir', folder / 'undisturbed')
    assert len(losses_of(folder / 'undisturbed')) == 9
    return folder


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(undisturbed):
    assert_a_stopped_run_goes_on(undisturbed, TILES)


@pytest.mark.slow
def test_two_processes_have_the_curve_of_one(undisturbed):
    config = write_config(undisturbed, TILES, 'two.py')
    options = ['--cfg-options', 'train_dataloader.batch_size=2']
    training = [config, '--work-dir', undisturbed / 'two', *options]
    train_in_turns([training], processes=2, cwd=undisturbed)
    expected = losses_of(undisturbed / 'undisturbed')
    assert largest_difference(losses_of(undisturbed / 'two'), expected) <= 1e-3
