"""What stays in fp32 while everything else runs in bf16."""

import pytest
import torch

from mmdet_dinov2.models import BatchedHungarianAssigner
from mmdet_dinov2.models.targets import BoxTargets
from mmdet_dinov2.sample_meta import SAMPLE_SEED

from ..tiny import NUM_CLASSES, data_sample, detector_cfg, tiny_detector

bf16 = torch.autocast('cpu', torch.bfloat16)


@pytest.fixture(scope='module')
def step():
    """Runs a step under autocast and returns inputs and outputs of the parts of the detector."""
    torch.manual_seed(0)
    model = tiny_detector().train()
    samples = [data_sample(70, 60, 3), data_sample(60, 80, 0)]
    for seed, sample in enumerate(samples):
        sample.set_metainfo({SAMPLE_SEED: seed})
    outputs, head_inputs, references = {}, {}, []

    def keep(name):
        return lambda module, args, output: outputs.setdefault(name, []).append(output)

    for name, module in model.named_modules():
        module.register_forward_hook(keep(name))
    for layer in model.decoder.layers:
        layer.register_forward_pre_hook(
            lambda module, args, kwargs: references.append(kwargs['reference_points']),
            with_kwargs=True,
        )
    loss = model.bbox_head.loss
    model.bbox_head.loss = lambda **kwargs: head_inputs.update(kwargs) or loss(**kwargs)
    with bf16:
        losses = model.loss(torch.randn(2, 3, 70, 80), samples)
    return loss, losses, outputs, head_inputs, references


def test_the_rest_runs_in_bf16(step):
    outputs = step[2]
    for name in ('backbone.blocks.0.attn.qkv', 'encoder.layers.0.ffn.layers.1'):
        assert {output.dtype for output in outputs[name]} == {torch.bfloat16}, name


def test_heads_and_query_selection_are_fp32(step):
    outputs = step[2]
    last = len([name for name in outputs if name.startswith('bbox_head.reg_branches.')])
    names = [n for n in outputs if 'bbox_head.' in n and 'branches.' in n] + ['memory_trans_fc']
    assert last and len(names) > last
    for name in names:
        assert {output.dtype for output in outputs[name]} == {torch.float32}, name


def test_reference_points_are_fp32(step):
    references = step[4]
    assert len(references) == 2
    for points in references:
        assert points.dtype == torch.float32
        # They were not rounded before, either.
        assert (points.bfloat16().float() != points).float().mean() > 0.9


def test_losses_are_those_of_fp32(step):
    loss, losses, _, head_inputs, _ = step
    for tensor in (head_inputs['hidden_states'], *head_inputs['references']):
        assert tensor.dtype == torch.float32
    expected = loss(**head_inputs)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(losses[name], value), name
    with bf16:  # a difference would be noticed
        rounded = loss(**head_inputs)
    assert any(not torch.equal(losses[name], rounded[name]) for name in losses)


def test_the_matcher_distinguishes_boxes_that_are_equal_in_bf16():
    sample = data_sample(800, 800, 1)
    sample.gt_instances.bboxes = torch.tensor([[200.0, 200.0, 600.0, 600.0]])
    sample.gt_instances.labels = torch.tensor([0])
    targets = BoxTargets.collate([sample])
    # The second query is closer by a tenth of a pixel.
    boxes = torch.tensor([0.5, 0.5, 0.5, 0.5]) + torch.tensor([3e-4, 2e-4])[None, None, :, None]
    scores = torch.zeros(1, 1, 2, NUM_CLASSES)
    costs = detector_cfg()['train_cfg']['assigner']['match_costs']
    assigner = BatchedHungarianAssigner(costs)
    with bf16:
        assert assigner.assign_batch(scores.bfloat16(), boxes, targets).query.tolist() == [1]
        # In bf16 they are equal, and the first is taken.
        rounded = boxes.bfloat16()
        assert assigner.assign_batch(scores, rounded, targets).query.tolist() == [0]
