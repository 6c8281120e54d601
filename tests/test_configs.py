"""Every config builds, trains a step, names what runs, and states its command and batch."""

import ast
import copy
from pathlib import Path

import pytest
import torch
import yaml
from mmcv.transforms import Compose
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmdet_dinov2.config.own_types import use_own_types

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(ROOT.glob('configs/*.py'))
PARTS = sorted(ROOT.glob('configs/_base_/**/*.py'))


def name_of(path: Path) -> str:
    return path.stem


def pipeline_of(loader) -> list:
    """Returns the pipeline of the dataset of a dataloader, inside of wrappers."""
    dataset = loader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset.pipeline


@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_config_builds_at_full_size(path):
    cfg = Config.fromfile(path)
    with torch.device('meta'):
        model = MODELS.build(copy.deepcopy(cfg.model))
    num_levels = cfg.model.neck.num_outs
    layer = cfg.model.encoder.layer_cfg
    assert layer.self_attn_cfg.num_levels == num_levels == len(model.strides)
    assert model.backbone.embed_dims == cfg.model.neck.in_channels
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        pipeline = pipeline_of(loader)
        Compose(pipeline)
        assert not any(t.type == 'Pad' for t in pipeline)
    build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))


@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_config_states_command_and_batch(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert f'configs/{path.name}' in text or f'mmdet_dinov2 train {path.stem}' in text
    assert 'Batch:' in text and ' = ' in text


@pytest.mark.parametrize('path', PARTS, ids=name_of)
def test_parts_parse(path):
    assert Config.fromfile(path)


@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_config_names_what_runs(path):
    cfg = Config.fromfile(path)
    named = copy.deepcopy(cfg)
    assert use_own_types(cfg) == []
    assert cfg.to_dict() == named.to_dict()  # nor is there a name of an earlier version


@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_pipelines_go_by_the_names_of_mmdet(path):
    cfg = Config.fromfile(path)
    assert pipeline_of(cfg.train_dataloader) == cfg.train_pipeline
    assert pipeline_of(cfg.val_dataloader) == cfg.test_pipeline
    assert pipeline_of(cfg.test_dataloader) == cfg.test_pipeline


def test_the_12_epoch_recipe():
    cfg = Config.fromfile(ROOT / 'configs/dino_dinov2_b_12ep.py')
    with torch.device('meta'):
        model = MODELS.build(copy.deepcopy(cfg.model))
    assert model.strides == (8, 16, 32, 64)
    assert {p.requires_grad for p in model.backbone.parameters()} == {False}
    optimizer = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper)).optimizer
    rates = {id(p): group['lr'] for group in optimizer.param_groups for p in group['params']}
    trained = {n: rates[id(p)] for n, p in model.named_parameters() if p.requires_grad}
    assert set(trained.values()) == {1e-4}
    assert any(name.startswith('neck.') for name in trained)
    optim = cfg.optim_wrapper
    assert (optim.optimizer.type, optim.optimizer.weight_decay) == ('AdamW', 1e-4)
    assert optim.clip_grad == dict(max_norm=0.1, norm_type=2)
    assert cfg.train_dataloader.batch_size * 4 == cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_cfg.max_epochs == 12 and cfg.param_scheduler[0].milestones == [11]
    scales = cfg.train_dataloader.dataset.pipeline[3].transforms[0][0].scales
    assert [tuple(s) for s in scales] == [(s, 1333) for s in range(480, 801, 32)]


@pytest.mark.slow
def test_the_12_epoch_recipe_trains_a_step_at_full_size():
    from .tiny import data_sample, total_loss

    cfg = Config.fromfile(ROOT / 'configs/dino_dinov2_b_12ep.py')
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = model.backbone.blocks[11].mlp.fc2.weight.clone()
    losses = model.loss(torch.randn(1, 3, 518, 518), [data_sample(518, 518, 3)])
    optim_wrapper.update_params(total_loss(losses))
    assert torch.isfinite(total_loss(losses))
    assert torch.equal(model.backbone.blocks[11].mlp.fc2.weight, before)


@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_config_trains_a_step_at_reduced_size(path):
    from .tiny import data_sample, total_loss

    cfg = Config.fromfile(path)
    with torch.device('meta'):
        depth = len(MODELS.build(copy.deepcopy(cfg.model)).backbone.blocks)
    arch = dict(embed_dims=32, num_layers=depth, num_heads=2, feedforward_channels=32, ffn='mlp')
    cfg.model.backbone.arch = arch
    cfg.model.backbone.init_cfg = None
    cfg.model.neck.in_channels = arch['embed_dims']
    cfg.model.num_queries = 20
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    cfg.optim_wrapper.optimizer.lr = 0.01
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = model.with_mask
    samples = [data_sample(120, 168, 3, masks), data_sample(99, 90, 0, masks)]
    losses = model.loss(torch.randn(2, 3, 120, 168), samples)
    assert torch.isfinite(total_loss(losses))
    optim_wrapper.update_params(total_loss(losses))
    # The state dict, because frozen weights may be held in a different precision.
    after = model.state_dict()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name in before.keys() - trained:
        assert torch.equal(after[name], before[name]), name
    assert any(not torch.equal(after[name], before[name]) for name in trained)


def training_pipelines():
    for path in CONFIGS:
        cfg = Config.fromfile(path)
        yield path.stem, cfg.train_pipeline
    for path in sorted(ROOT.glob('configs/_base_/augmentations/*.py')):
        for name, value in Config.fromfile(path).items():
            if name.startswith('train_pipeline'):
                yield f'{path.stem}-{name}', value


def test_training_pipelines_keep_boxes_inside_the_image(tmp_path):
    from mmdet_dinov2.data import ShapesDataset

    seen = []
    for name, pipeline in training_pipelines():
        if pipeline in seen:
            continue
        seen.append(pipeline)
        dataset = ShapesDataset(
            data_root=str(tmp_path / 'shapes'),
            ann_file='annotations/train.json',
            data_prefix=dict(img='train/'),
            generate=dict(num_train=12, num_val=1, seed=0),
            pipeline=pipeline,
        )
        num_boxes = 0
        for index in range(len(dataset)):
            sample = dataset[index]
            height, width = sample['data_samples'].img_shape
            assert sample['inputs'].shape[1:] == (height, width), name
            boxes = sample['data_samples'].gt_instances.bboxes.tensor
            assert (boxes >= 0).all() and (boxes <= torch.tensor([width, height] * 2)).all(), name
            num_boxes += len(boxes)
        assert num_boxes > 0, name
    assert len(seen) == 11


@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_reference_world_size_and_base_batch_agree(path):
    cfg = Config.fromfile(path)
    images = cfg.train_dataloader.batch_size * cfg.reference_world_size
    assert images == cfg.auto_scale_lr.base_batch_size
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert f'= {images}' in text


def test_the_model_index_lists_every_config_once():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    listed = {model['Config']: model['Metadata']['Epochs'] for model in index['Models']}
    assert len(listed) == len(index['Models'])
    assert listed == {
        f'{path.relative_to(ROOT)}': Config.fromfile(path).train_cfg.max_epochs
        for path in (*CONFIGS, *ROOT.glob('configs/vitdet/*.py'))
        if 'quickstart' not in path.name
    }
