"""The configs of ViTDet: they build, follow the recipe, train and test through the tools."""

import copy
import json
import pickle
import pprint
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

import mmdet_dinov2
from mmdet_dinov2.analysis.predictions import read_predictions
from mmdet_dinov2.config.own_types import use_own_types
from mmdet_dinov2.data.annotation_file import read_annotations
from mmdet_dinov2.models.simple_feature_pyramid import ChannelLayerNorm

from .families import batch_of, shrink
from .tiny import ARCH, total_loss
from .tools import run_tool

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(ROOT.glob('configs/vitdet/*.py'))


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def cfg(request):
    return Config.fromfile(request.param)


def test_there_are_two_families_in_two_sizes():
    assert [path.stem for path in CONFIGS] == [
        f'{kind}_rcnn_dinov2_{size}_100ep' for kind in ('faster', 'mask') for size in 'bs'
    ]


def test_the_recipe_of_vitdet(cfg):
    with torch.device('meta'):
        model = MODELS.build(copy.deepcopy(cfg.model))
    depth = len(model.backbone.blocks)
    windowed = [i for i, block in enumerate(model.backbone.blocks) if block.windowed]
    assert (depth, windowed) == (12, [0, 1, 3, 4, 6, 7, 9, 10])
    assert len(model.rpn_head.rpn_conv) == 2
    heads = [model.roi_head.bbox_head]
    assert len(heads[0].shared_convs) == 4 and len(heads[0].shared_fcs) == 1
    if cfg.model.type == 'MaskRCNN':
        heads.append(model.roi_head.mask_head)
        assert len(heads[1].convs) == 4
    for head in heads:
        assert sum(isinstance(module, ChannelLayerNorm) for module in head.modules()) == 4
    optimizer = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper)).optimizer
    groups = {name: g for g in optimizer.param_groups for name in g['names']}
    assert set(groups) == {name for name, _ in model.named_parameters()}
    assert groups['rpn_head.rpn_cls.weight']['lr'] == pytest.approx(1e-4)
    assert groups['backbone.blocks.11.mlp.fc2.weight']['lr'] == pytest.approx(1e-4 * 0.7)
    assert groups['backbone.patch_embed.proj.weight']['lr'] == pytest.approx(1e-4 * 0.7**13)
    decays = {name: groups[name]['weight_decay'] for name in groups}
    assert decays['backbone.pos_embed'] == decays['backbone.blocks.0.norm1.weight'] == 0
    assert decays['roi_head.bbox_head.fc_cls.weight'] == 0.1
    strides = [s[0] for s in model.rpn_head.prior_generator.strides]
    assert strides == list(model.neck.strides(model.backbone.patch_size)) == [4, 8, 16, 32, 64]


def test_they_name_what_runs(cfg):
    named = cfg.to_dict()
    assert use_own_types(cfg) == []
    assert cfg.to_dict() == named


def test_command_and_batch(cfg):
    text = Path(cfg.filename).read_text()
    path = Path(cfg.filename).relative_to(ROOT)
    assert f'tools/dist_train.sh {path} {cfg.reference_world_size}' in text
    assert cfg.train_dataloader.batch_size * cfg.reference_world_size == 64
    assert cfg.auto_scale_lr.base_batch_size == 64 and '= 64' in text
    assert cfg.train_dataloader.dataset.pipeline == cfg.train_pipeline
    assert (
        cfg.val_dataloader.dataset.pipeline
        == cfg.test_pipeline
        == (cfg.test_dataloader.dataset.pipeline)
    )


def test_a_step_at_reduced_size(cfg):
    model = shrink(cfg.model)
    model.backbone.update(arch=dict(ARCH, num_layers=12), init_cfg=None)
    model.neck.in_channels = ARCH['embed_dims']
    detector = MODELS.build(model)
    detector.init_weights()
    optim_wrapper = build_optim_wrapper(detector, cfg.optim_wrapper)
    name = 'Mask R-CNN' if cfg.model.type == 'MaskRCNN' else 'Faster R-CNN'
    data = detector.data_preprocessor(batch_of(name, (70, 100), (150, 61)), True)
    before = {n: p.detach().clone() for n, p in detector.named_parameters()}
    loss = total_loss(detector(**data, mode='loss'))
    assert torch.isfinite(loss)
    optim_wrapper.update_params(loss)
    for name in ('backbone.blocks.0.mlp.fc1', 'rpn_head.rpn_cls', 'roi_head.bbox_head.fc_cls'):
        name = f'{name}.weight'
        assert not torch.equal(detector.get_parameter(name), before[name]), name


def write_masks(folder):
    """Writes a dataset of 4 pictures with rectangles as polygons."""
    rng = np.random.default_rng(0)
    (folder / 'annotations').mkdir(parents=True)
    for split in ('train', 'val'):
        (folder / split).mkdir()
        images, annotations = [], []
        for number in range(1, 5):
            width, height = rng.integers(60, 100, 2).tolist()
            picture = rng.integers(0, 256, (height, width, 3), np.uint8)
            cv2.imwrite(str(folder / split / f'{number}.png'), picture)
            images.append(dict(id=number, file_name=f'{number}.png', width=width, height=height))
            x, y, w, h = 10, 5, 30, 40
            annotations.append(
                dict(
                    id=number, image_id=number, category_id=1 + number % 2, bbox=[x, y, w, h],
                    area=w * h, iscrowd=0,
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                )
            )  # fmt: skip
        content = dict(
            images=images,
            annotations=annotations,
            categories=[dict(id=1, name='a'), dict(id=2, name='b')],
        )
        (folder / f'annotations/{split}.json').write_text(json.dumps(content))


def _masks_of(sample):
    return sample['pred_instances']['masks']


def test_boxes_and_masks_through_the_tools(tmp_path, capfd):
    path = next(path for path in CONFIGS if 'mask_rcnn_dinov2_s' in path.name)
    model = shrink(Config.fromfile(path).model).to_dict()
    model['backbone'].update(arch=ARCH, global_attn_indexes=[1, 3], init_cfg=None)
    model['neck']['in_channels'] = ARCH['embed_dims']
    config = tmp_path / 'tiny.py'
    config.write_text(
        f'_base_ = {str(path)!r}\nmodel = dict(_delete_=True, **{pprint.pformat(model)})\n'
    )
    write_masks(tmp_path / 'data')
    loaders = [
        f'{split}_dataloader.{option}'
        for split in ('train', 'val', 'test')
        for option in ('num_workers=0', 'persistent_workers=False')
    ]
    options = (
        '--data', tmp_path / 'data', '--work-dir', tmp_path / 'work',
        '--cfg-options', *loaders, 'train_dataloader.batch_size=2', 'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1', 'train_dataloader.dataset.pipeline.3.scale=(96,96)',
        'val_dataloader.dataset.pipeline.1.scale=(96,96)',
        'test_dataloader.dataset.pipeline.1.scale=(96,96)',
    )  # fmt: skip
    run_tool('train', config, *options)
    checkpoint = tmp_path / 'work/epoch_1.pth'
    run_tool('test', config, checkpoint, *options, '--out', tmp_path / 'a.pkl')
    printed = ''.join(capfd.readouterr())
    assert 'coco/bbox_mAP: ' in printed and 'coco/segm_mAP: ' in printed
    tested = pickle.loads((tmp_path / 'a.pkl').read_bytes())
    assert all(mask['size'] == [*s['ori_shape']] for s in tested for mask in _masks_of(s))
    pictures = sorted((tmp_path / 'data/val').iterdir())
    run_tool('predict', checkpoint, *pictures, '--out', tmp_path / 'out', '--score-thr', '0',
             '--polygons', '--device', 'cpu')  # fmt: skip
    results = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert len(results) == sum(len(_masks_of(sample)) for sample in tested) > 0
    assert all(isinstance(entry['segmentation'], list) for entry in results)
    assert (tmp_path / 'out/predictions.csv').read_text().startswith('image,class,score,x1,y1,')
    capfd.readouterr()
    run_tool('report', tmp_path / 'work', '--out', tmp_path / 'report.html')
    text = (tmp_path / 'report.html').read_text()
    assert 'COCO evaluation of masks' in text and 'Worst false masks' in text
    assert 'note:' not in capfd.readouterr().out
    coco = read_annotations(str(tmp_path / 'data/annotations/val.json'))
    read = read_predictions(tmp_path / 'a.pkl', coco)
    assert len(read) == len(results) and all('segmentation' in entry for entry in read)
    detector = mmdet_dinov2.load(tmp_path / 'work/epoch_1.pth', device='cpu')
    assert detector.classes == ('a', 'b')
    assert detector.model.roi_head.mask_head.num_classes == 2
