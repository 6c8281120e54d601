"""What holds for the training of boxes holds for that of masks."""

import pytest

from ..test_resume.test_choose import assert_a_stopped_run_goes_on, losses_of
from ..tools import run_tool, train_in_turns, write_config
from .test_distributed import CURVE, largest_difference

MASKS = (
    CURVE.replace('with_bbox=True', 'with_bbox=True, with_mask=True').replace(
        'max_epochs=3', 'max_epochs=1'
    )
    + """
model['mask_head'] = dict(mask_dims=8, num_upsamples=1)
model['train_cfg'] = dict(assigner=dict(match_costs=[
    *_base_.model.train_cfg.assigner.match_costs,
    dict(type='CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
    dict(type='DiceCost', weight=5.0, pred_act=True, eps=1.0)]))
"""
)
SHARDED = """
model_wrapper_cfg = dict(type='FullyShardedModel', reduce_dtype='float32')
"""


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    """Work folder of 10 steps of 4 images in one process."""
    folder = tmp_path_factory.mktemp('masks')
    config = write_config(folder, MASKS, 'undisturbed.py')
    run_tool('train', config, '--work-dir', folder / 'undisturbed')
    losses = losses_of(folder / 'undisturbed')
    assert len(losses) == 10
    return folder


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(undisturbed):
    assert_a_stopped_run_goes_on(undisturbed, MASKS)


def test_the_largest_micro_batch_has_masks(tmp_path, capfd):
    config = write_config(tmp_path, MASKS)
    run_tool('train', config, '--work-dir', tmp_path / 'work', '--batch-size', 'auto')
    assert 'Micro-batches of 4 of the 4 images of a step' in ''.join(capfd.readouterr())
    assert len(losses_of(tmp_path / 'work')) == 10


@pytest.mark.slow
def test_exhausted_memory_does_not_change_the_curve(undisturbed):
    faults = [(2, 0, 'mask_head', 1), (4, 0, 'bbox_head', 1), (9, 0, 'decoder', 2)]
    extra = f"custom_hooks = [dict(type='ExhaustMemory', faults={faults})]\n"
    config = write_config(undisturbed, MASKS + extra, 'faults.py')
    run_tool('train', config, '--work-dir', undisturbed / 'faults')
    expected = losses_of(undisturbed / 'undisturbed')
    assert largest_difference(losses_of(undisturbed / 'faults'), expected) <= 1e-4


@pytest.mark.slow
def test_two_processes_have_the_curve_of_one(undisturbed):
    """With averaged gradients, and with divided parameters."""
    trainings = [
        [
            write_config(undisturbed, MASKS + extra, f'{name}.py'), '--work-dir',
            undisturbed / name, '--cfg-options', 'train_dataloader.batch_size=2',
        ]
        for name, extra in (('averaged', ''), ('sharded', SHARDED))
    ]  # fmt: skip
    train_in_turns(trainings, processes=2, cwd=undisturbed)
    expected = losses_of(undisturbed / 'undisturbed')
    for name in ('averaged', 'sharded'):
        assert largest_difference(losses_of(undisturbed / name), expected) <= 1e-3
