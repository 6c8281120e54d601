"""Iterations of the training loops are optimizer steps."""

import json

import pytest
import torch

from mmdet_dinov2.sample_meta import IMAGE_WEIGHT, UNSURE_BOXES, announce_step

from ..recipe_parts import TOGETHER, detector_with
from ..tiny import data_sample, total_loss
from ..tools import failure_of, run_tool, write_config


def scalars_of(work_dir) -> list[dict]:
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ('loop', 'steps'),
    [
        ("dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=2)", 2 * 2),
        ("dict(_delete_=True, type='IterBasedTrainLoop', max_iters=3, val_interval=3)", 3),
    ],
)
def test_steps_of_accumulated_micro_batches(tmp_path, loop, steps, capfd):
    # 8 images in micro-batches of 2, 3 micro-batches a step: an epoch has steps of 6 and 2 images.
    extra = f"""
optim_wrapper = dict(accumulative_counts=3)
train_cfg = {loop}
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=3)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=100))
"""
    run_tool('train', write_config(tmp_path, extra), '--work-dir', tmp_path / 'work')
    training = [row for row in scalars_of(tmp_path / 'work') if 'loss' in row]
    assert [row['iter'] for row in training] == list(range(1, steps + 1))
    rates = [row['lr'] for row in training]
    assert rates[:3] == pytest.approx([8e-4 * f for f in (0.1, 0.55, 1.0)])
    printed = capfd.readouterr()
    assert '1 process x 2 images x 3 accumulated = 6 images a step' in printed.out + printed.err
    assert 'enc_loss_cls' in training[0] and 'enc_loss_cls' not in printed.out
    assert 50 < training[0]['memory'] < 50_000 and 'memory: ' in printed.out


@pytest.mark.parametrize(
    ('extra', 'message'),
    [
        (
            'train_dataloader.update(batch_size=16, drop_last=True)',
            'fewer images than one step takes',
        ),
        ("train_dataloader['sampler'] = dict(type='InfiniteSampler')", 'would not end; set'),
    ],
)
def test_epochs_without_a_step_or_an_end_are_refused(tmp_path, capfd, extra, message):
    config = write_config(tmp_path, f'{extra}\n')
    assert message in failure_of(capfd, 'train', config, '--work-dir', tmp_path / 'work')
    assert not list((tmp_path / 'work').glob('*.pth'))


def gradients(model, images, micro_batches, announce):
    model.zero_grad()
    torch.manual_seed(1)
    samples = [[sample.clone() for _, sample in part] for part in micro_batches]
    if announce:
        announce_step(samples)
    for part, part_samples in zip(micro_batches, samples, strict=True):
        inputs = torch.stack([image for image, _ in part])
        (total_loss(model.loss(inputs, part_samples)) / len(micro_batches)).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize('photos', [False, True], ids=['labeled', 'with photos'])
@pytest.mark.parametrize('parts', [{}, TOGETHER], ids=['published', 'all parts'])
def test_accumulated_gradients_equal_those_of_the_whole_batch(parts, photos):
    torch.manual_seed(0)
    # Without noise and with a fixed number of groups, denoising does not depend on random numbers.
    noiseless = dict(
        label_noise_scale=1e-9, box_noise_scale=1e-9, group_cfg=dict(dynamic=False, num_groups=2)
    )
    model = detector_with({'dn_cfg': noiseless, **parts}).train()
    images = [
        (torch.randn(3, 90, 70), data_sample(90, 70, num_boxes)) for num_boxes in (5, 1, 2, 0)
    ]
    if photos:
        for _, sample in images[1:]:
            sample.set_metainfo({IMAGE_WEIGHT: 0.4})
            sample.set_field(torch.tensor([[5.0, 9.0, 60.0, 80.0]]), UNSURE_BOXES)
    whole = gradients(model, images, [images], announce=False)
    pairs = [images[:2], images[2:]]
    accumulated = gradients(model, images, pairs, announce=True)
    difference = (accumulated - whole).norm() / whole.norm()
    assert difference < 1e-5
    # In mmengine's accumulation, each micro-batch is divided by its own boxes.
    alone = gradients(model, images, pairs, announce=False)
    assert (alone - whole).norm() / whole.norm() > 0.05
