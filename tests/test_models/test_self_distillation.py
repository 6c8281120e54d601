"""Self-distillation: one stream of crops, losses of a step, teacher, files for detectors."""

import copy
import math

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdet_dinov2.checkpoint import load_backbone
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.models.self_distillation import crop_seeds
from mmdet_dinov2.sample_meta import announce_step

from ..reference import self_distillation as reference
from ..tiny import backbone_cfg, randomize, tiny_backbone

HEAD = dict(num_prototypes=24, hidden=20, bottleneck=16)
GLOBAL, LOCAL = (56, 70), (30, 42)  # not square, and not whole patches
GRID = (4, 5)


def model_cfg(backbone=None, **kwargs):
    return dict(
        type='SelfDistillation',
        data_preprocessor=dict(
            type='CropDataPreprocessor', mean=[120.0, 110, 100], std=[60.0, 50, 40]
        ),
        backbone=backbone_cfg(**(backbone or {})),
        head=HEAD,
        **kwargs,
    )


def tiny_model(backbone=None, **kwargs):
    """Builds a model whose teacher differs from the student, with centers that matter."""
    model = MODELS.build(model_cfg(backbone, **kwargs))
    model.init_weights()
    randomize(model)
    model.teacher_temperature = 0.05
    with torch.no_grad():
        model.dino_center.normal_(std=0.1)
        model.ibot_center.normal_(std=0.1)
    return model.train()


def make_batch(num_images=3, num_local=2, seed=0, masked=True):
    """Makes the batch of a dataloader; masks of crops have 0 to 7 patches."""
    numbers = np.random.default_rng(seed)
    shapes = (GLOBAL,) * 2 + (LOCAL,) * num_local
    inputs, samples = [], []
    for image in range(num_images):
        pixels = [numbers.integers(0, 256, 3 * h * w, dtype=np.uint8) for h, w in shapes]
        masks = tuple(np.zeros(GRID, bool) for _ in range(2))
        for view, mask in enumerate(masks):
            count = 0 if (image, view) == (1, 0) else 2 + image + 2 * view
            mask.flat[numbers.permutation(mask.size)[:count]] = True
        meta = dict(crop_shapes=shapes, sample_seed=seed + image)
        sample = DetDataSample(metainfo=dict(meta, patch_masks=masks) if masked else meta)
        sample.gt_instances = InstanceData()
        inputs.append(torch.from_numpy(np.concatenate(pixels)))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def losses_of(model, batch):
    data = model.data_preprocessor(batch, True)
    return model(**data, mode='loss')


# ---------------------------------------------------------------------- one stream

FAMILIES = [
    dict(),
    dict(num_registers=2),
    dict(window_size=2, global_attn_indexes=(1, 3), num_registers=1),
    dict(type='DINOv3', num_registers=1, window_size=3, global_attn_indexes=(3,)),
]


@pytest.mark.parametrize('kwargs', FAMILIES, ids=['plain', 'registers', 'windows', 'DINOv3'])
def test_crops_in_one_stream_equal_each_crop_alone(kwargs):
    backbone = tiny_backbone(**kwargs)
    groups = [torch.randn(2, 3, *GLOBAL), torch.randn(3, 3, *LOCAL), torch.randn(1, 3, 28, 14)]
    masked = torch.rand(2 * 20 + 3 * 9 + 2) < 0.4
    token = torch.randn(32)
    with torch.no_grad():
        tokens, layout = backbone.forward_packed(groups, None, masked, token)
        alone = []
        crops = [crop[None] for group in groups for crop in group]
        for crop, mask in zip(crops, masked.split([20, 20, 9, 9, 9, 2]), strict=True):
            alone.append(backbone.forward_packed([crop], None, mask, token)[0])
        assert torch.allclose(tokens, torch.cat(alone), atol=1e-6)
        # Patches are those of the maps, whatever the windows.
        plain, layout = backbone.forward_packed(groups)
        maps = backbone(groups[0])[0]
        rows = layout.patch_index([torch.ones(20, dtype=torch.bool)] * 2)
        patches = plain[rows].view(2, *GRID, 32).permute(0, 3, 1, 2)
        assert torch.allclose(patches, maps, atol=1e-6)


def test_the_mask_token_hides_a_patch():
    backbone = tiny_backbone()
    crop = torch.randn(1, 3, 28, 28)
    masked = torch.tensor([False, False, True, False])
    token = torch.randn(32)
    with torch.no_grad():
        before, _ = backbone.forward_packed([crop], None, masked, token)
        other = crop.clone()
        other[:, :, 14:, :14] += 1
        assert torch.equal(backbone.forward_packed([other], None, masked, token)[0], before)
        other[:, :, :14, :14] += 1
        assert not torch.allclose(backbone.forward_packed([other], None, masked, token)[0], before)
        # The place of a hidden patch is known.
        swapped = torch.tensor([False, True, False, False])
        same = torch.zeros_like(crop)
        one, two = (backbone.forward_packed([same], None, m, token)[0] for m in (masked, swapped))
        assert not torch.allclose(one, two)


def test_chosen_patches_come_in_rows():
    backbone = tiny_backbone(window_size=2, global_attn_indexes=(3,))
    groups = [torch.randn(2, 3, *GLOBAL)]
    chosen = [torch.rand(20) < 0.5 for _ in range(2)]
    with torch.no_grad():
        tokens, layout = backbone.forward_packed(groups)
        maps = backbone(groups[0])[0].flatten(2).transpose(1, 2)
    expected = torch.cat([maps[i][mask] for i, mask in enumerate(chosen)])
    assert torch.allclose(tokens[layout.patch_index(chosen)], expected, atol=1e-6)


# ---------------------------------------------------------------------- losses


def expected_losses(model, batch):
    """The losses of a step, crop by crop."""
    (groups, local), samples = model.data_preprocessor(batch, True).values()
    num_images = len(samples)
    views = torch.cat([group.cpu() for group in groups]).unflatten(0, (2, num_images))
    parts = list(views) + list(torch.cat(local).unflatten(0, (-1, num_images)))
    student, teacher = model.student, model.source or model.teacher

    def tokens_of(network, crop, mask=None):
        if mask is None:
            return network.backbone.forward_packed([crop[None]])[0]
        return network.backbone.forward_packed([crop[None]], None, mask, model.mask_token)[0]

    targets, scores = [], []
    patch_targets, patch_scores, cls = [], [], []
    for v, view in enumerate(parts):
        scores.append([])
        if v < 2:
            targets.append([])
            cls.append([])
        for i, crop in enumerate(view):
            if v >= 2:
                scores[v].append(student.dino_head(tokens_of(student, crop)[:1])[0])
                continue
            mask = torch.from_numpy(samples[i].metainfo['patch_masks'][v]).flatten()
            if model.source is not None:
                seen, mask = tokens_of(student, crop), torch.ones_like(mask)
            else:
                seen = tokens_of(student, crop, mask)
            known = tokens_of(teacher, crop)
            scores[v].append(student.dino_head(seen[:1])[0])
            cls[v].append(seen[0].numpy())
            raw = teacher.dino_head(known[:1])[0] - model.dino_center
            targets[v].append(reference.softmax(raw.double().numpy() / model.teacher_temperature))
            raw = teacher.patch_head(known[-len(mask) :][mask]) - model.ibot_center
            patch_targets.append(
                reference.softmax(raw.double().numpy() / model.teacher_temperature)
            )
            patch_scores.append(student.patch_head(seen[-len(mask) :][mask]).numpy())
    return dict(
        loss_dino=reference.dino(targets, scores, 0.1),
        loss_ibot=reference.ibot(patch_targets, patch_scores, 0.1),
        loss_koleo=0.1 * sum(map(reference.koleo, cls)),
    )


@pytest.mark.parametrize('ibot_head', [None, dict(HEAD, num_prototypes=16)], ids=['one', 'two'])
def test_the_losses_of_a_step(ibot_head):
    model = tiny_model(ibot_head=ibot_head)
    batch = make_batch()
    with torch.no_grad():
        losses = losses_of(model, batch)
        expected = expected_losses(model, batch)
    assert list(losses) == list(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=5e-6), name


def test_only_the_student_learns():
    model = tiny_model()
    sum(losses_of(model, make_batch()).values()).backward()
    for name, parameter in model.named_parameters():
        own = name.startswith('student.') or name == 'mask_token'
        assert (parameter.grad is not None and parameter.grad.any()) == own, name


def test_a_batch_without_masked_patches_reaches_all_parameters():
    model = tiny_model(ibot_head=HEAD)
    batch = make_batch(2)
    for sample in batch['data_samples']:
        sample.set_metainfo(dict(patch_masks=(np.zeros(GRID, bool),) * 2))
    losses = losses_of(model, batch)
    assert losses['loss_ibot'] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    center = model.ibot_center.clone()
    model.finish_step(0.9)
    assert torch.equal(model.ibot_center, center)


def test_stochastic_depth_is_drawn_for_each_crop_of_the_student():
    model = tiny_model(backbone=dict(drop_path_rate=0.5))
    batch = make_batch()
    first, again = (losses_of(model, batch)['loss_dino'].item() for _ in range(2))
    assert first == again  # from the seeds of the samples
    other = make_batch(seed=7)
    other['inputs'] = batch['inputs']
    assert losses_of(model, other)['loss_dino'].item() != first
    seeds = crop_seeds([3, 4], 5)
    assert len(set(seeds)) == 10 and seeds[1::2] == crop_seeds([4], 5)


# ---------------------------------------------------------------------- around a step


def gradients_of(model, parts):
    model.zero_grad()
    model.begin_step()
    for part in parts:
        (sum(losses_of(model, part).values()) / len(parts)).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_a_step_in_micro_batches():
    model = tiny_model(backbone=dict(drop_path_rate=0.2), koleo_weight=0.0)
    again = copy.deepcopy(model)
    batch = make_batch(5)
    whole = gradients_of(model, [batch])
    parts = [{key: values[i : i + 2] for key, values in batch.items()} for i in (0, 2, 4)]
    announce_step([part['data_samples'] for part in parts])
    gradients_of(again, parts[:2])  # a step that is done again
    divided = gradients_of(again, parts)
    for name, gradient in whole.items():
        assert torch.allclose(divided[name], gradient, atol=1e-6 * gradient.abs().max()), name
    for each in (model, again):
        each.finish_step(0.9)
    for name in ('dino_center', 'ibot_center'):
        assert torch.allclose(getattr(model, name), getattr(again, name), atol=1e-6), name
    assert model.measures == pytest.approx(again.measures, rel=1e-4)


def test_the_teacher_and_the_centers_move():
    model = tiny_model(center_momentum=0.75)
    before = copy.deepcopy(model.state_dict())
    batch = make_batch()
    losses_of(model, batch)
    model.finish_step(0.9)
    after = model.state_dict()
    for name in before:
        if name.startswith('teacher.'):
            student = before[name.replace('teacher', 'student', 1)]
            expected = 0.9 * before[name] + 0.1 * student
            assert torch.allclose(after[name], expected, atol=1e-6), name
    old = MODELS.build(model_cfg())
    old.load_state_dict(before)
    with torch.no_grad():
        (groups, _), samples = model.data_preprocessor(batch, True).values()
        tokens, layout = old.teacher.backbone.forward_packed(groups)
        mean = old.teacher.dino_head(tokens[list(layout.starts)]).mean(0)
        masks = [
            torch.from_numpy(s.metainfo['patch_masks'][v]).flatten()
            for v in (0, 1)
            for s in samples
        ]
        patches = old.teacher.dino_head(tokens[layout.patch_index(masks)]).mean(0)
    for name, value in (('dino_center', mean), ('ibot_center', patches)):
        expected = 0.75 * before[name] + 0.25 * value
        assert torch.allclose(after[name], expected, atol=1e-6), name


def test_measures():
    model = tiny_model()
    batch = make_batch()
    with torch.no_grad():
        losses_of(model, batch)
        (groups, _), samples = model.data_preprocessor(batch, True).values()
        masks = [torch.from_numpy(s.metainfo['patch_masks'][v]) for v in (0, 1) for s in samples]
        hidden = torch.cat([mask.flatten() for mask in masks])
        tokens, layout = model.student.backbone.forward_packed(
            groups, None, hidden, model.mask_token
        )
        cls = torch.nn.functional.normalize(tokens[list(layout.starts)], dim=-1)
        known, _ = model.teacher.backbone.forward_packed(groups)
        scores = model.teacher.dino_head(known[list(layout.starts)]) - model.dino_center
        target = (scores / model.teacher_temperature).softmax(-1)
    model.finish_step(1.0)
    cosines = cls @ cls.T
    spread = 1 - cosines[~torch.eye(6, dtype=torch.bool)].mean().item()
    assert model.measures['cls_spread'] == pytest.approx(spread, abs=1e-5)
    entropy = -(target * target.log()).sum(-1).mean().item() / math.log(24)
    assert model.measures['target_entropy'] == pytest.approx(entropy, abs=1e-5)
    assert 0 < model.measures['patch_entropy'] < 1 < model.measures['patch_cross_entropy']


def test_sinkhorn_targets():
    model = tiny_model(centring='sinkhorn')
    batch = make_batch()
    center = model.dino_center.clone()
    with torch.no_grad():
        loss = losses_of(model, batch)['loss_dino'].item()
        model.dino_center.zero_()
        assert losses_of(model, batch)['loss_dino'].item() == loss  # there is no center
    assert center.any()
    assert model.communicates_in_forward
    assert not tiny_model(koleo_weight=0.0).communicates_in_forward


# ---------------------------------------------------------------------- a frozen source


def source_file(folder, backbone):
    larger = tiny_model(backbone)
    path = folder / 'larger.pth'
    torch.save(dict(state_dict=larger.state_dict()), path)
    return larger, path


def test_distillation_from_a_frozen_network(tmp_path):
    arch = dict(embed_dims=48, num_layers=3, num_heads=3, feedforward_channels=40, ffn='swiglu')
    backbone = dict(arch=arch, num_registers=1)
    larger, path = source_file(tmp_path, backbone)
    source = dict(checkpoint=str(path), backbone=backbone_cfg(**backbone), head=HEAD)
    model = MODELS.build(model_cfg(source=source))
    model.init_weights()
    for name, tensor in model.source.state_dict().items():
        assert torch.equal(tensor, larger.teacher.state_dict()[name]), name
    randomize(model.student)
    batch = make_batch()
    model.train()
    assert not model.source.training and not hasattr(model, 'mask_token')
    with torch.no_grad():
        losses, expected = losses_of(model, batch), expected_losses(model, batch)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=5e-6), name
    sum(losses_of(model, batch).values()).backward()
    assert all(p.grad is None for p in model.source.parameters())
    assert all(p.grad is not None for p in model.student.parameters())
    model.finish_step(0.5)
    # What a detector loads is the average of the student.
    path = tmp_path / 'smaller.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    detector = MODELS.build(backbone_cfg())
    assert load_backbone(detector, path).missing == []
    assert torch.equal(detector.norm.weight, model.teacher.backbone.norm.weight)


def test_a_source_without_heads_is_refused(tmp_path):
    _, path = source_file(tmp_path, None)
    content = torch.load(path)['state_dict']
    content = {name: tensor for name, tensor in content.items() if '_head' not in name}
    torch.save(dict(state_dict=content), path)
    source = dict(checkpoint=str(path), backbone=backbone_cfg(), head=HEAD)
    with pytest.raises(InputError, match='released weights have no heads; train them first'):
        MODELS.build(model_cfg(source=source)).init_weights()
    for wrong, message in (
        (dict(source, head=dict(HEAD, num_prototypes=8)), '24 prototypes, that of the source 8'),
        (dict(source, teacher=1), r"it has \['teacher'\]"),
        (dict(backbone=backbone_cfg()), 'must have a checkpoint'),
    ):
        with pytest.raises(InputError, match=message):
            MODELS.build(model_cfg(source=wrong))
    other = dict(source, checkpoint=None, backbone=backbone_cfg(patch_size=7))
    model = MODELS.build(model_cfg(source=other)).train()
    with pytest.raises(InputError, match='patches of 14 pixels, that of source has 7'):
        losses_of(model, make_batch())


# ---------------------------------------------------------------------- files and errors


@pytest.mark.parametrize('kwargs', [dict(), dict(num_registers=2), dict(type='DINOv3')])
def test_a_detector_takes_the_teacher(tmp_path, kwargs):
    model = tiny_model(kwargs)
    if kwargs.get('type') == 'DINOv3':  # whose keys have no bias
        for block in model.teacher.backbone.blocks:
            block.attn.qkv.bias.data.chunk(3)[1].zero_()
    path = tmp_path / 'run.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    backbone = MODELS.build(
        dict(backbone_cfg(**kwargs), init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    )
    backbone.init_weights()
    report = load_backbone(backbone, path)
    assert report.missing == [] and not report.adapted
    for name, tensor in model.teacher.backbone.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], tensor), name


def test_the_teacher_starts_as_the_student(tmp_path):
    saved = tiny_backbone()
    torch.save(saved.state_dict(), tmp_path / 'released.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'released.pth'))
    model = MODELS.build(model_cfg(dict(init_cfg=init_cfg)))
    model.init_weights()
    for name, tensor in model.student.state_dict().items():
        assert torch.equal(tensor, model.teacher.state_dict()[name]), name
    assert torch.equal(model.teacher.backbone.norm.bias, saved.norm.bias)
    assert model.student.dino_head.last_layer.weight.std() > 0.01


def test_depths_of_parameters():
    model = tiny_model()
    depths = {name: model.get_layer_depth(name)[0] for name, _ in model.named_parameters()}
    assert depths['mask_token'] == depths['student.backbone.cls_token'] == 0
    assert depths['student.backbone.blocks.2.norm1.weight'] == 3
    assert (
        depths['student.dino_head.last_layer.weight'] == depths['student.backbone.norm.bias'] == 5
    )


def test_errors():
    with pytest.raises(InputError, match="centring must be one of .* but is 'mean'"):
        MODELS.build(model_cfg(centring='mean'))
    model = tiny_model()
    batch = make_batch()
    batch['data_samples'][1].set_metainfo(dict(patch_masks=(np.zeros((2, 2), bool),) * 2))
    with pytest.raises(InputError, match='set patch_size of PackCrops to that of the backbone, 14'):
        losses_of(model, batch)
    with pytest.raises(InputError, match='set mask_prob of PackCrops above 0'):
        losses_of(model, make_batch(masked=False))
    uneven = {k: [*v, *make_batch(1, num_local=3)[k]] for k, v in make_batch(1).items()}
    with pytest.raises(InputError, match=r'have \[4, 5\] crops'):
        losses_of(model, uneven)
    with pytest.raises(InputError, match='predicts nothing'):
        model(**model.data_preprocessor(make_batch()), mode='predict')
    assert model(**model.data_preprocessor(make_batch(1)), mode='tensor').shape == (4, 32)
