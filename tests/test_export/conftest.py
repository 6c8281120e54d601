"""One tiny detector, exported once."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from mmdet_dinov2.data.shapes_dataset import make_sample_data
from mmdet_dinov2.export.exporting import proof_path
from mmdet_dinov2.inference import Detector, load

from ..tiny import randomize
from ..tools import run_command, write_config


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tracing a detector takes half a minute, so tests of the exported file are slow ones."""
    for item in items:
        if 'exported' in getattr(item, 'fixturenames', ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
    """A folder with a tiny config, its sample data, and a checkpoint of random weights."""
    folder = tmp_path_factory.mktemp('export')
    # Images of which no side is too small for the graph, and windows of which the smallest has one.
    extra = 'small[2].update(scale=(140, 140))\n'
    extra += "model['backbone'].update(window_size=8, global_attn_indexes=[1])\n"
    config = Config.fromfile(write_config(folder, extra))
    make_sample_data(config)
    torch.manual_seed(0)
    model = randomize(MODELS.build(config.model), std=0.15)
    torch.save(
        dict(
            state_dict=model.state_dict(),
            meta=dict(cfg=config.pretty_text, dataset_meta=dict(classes=config.metainfo.classes)),
        ),
        folder / 'tiny.pth',
    )
    return folder


@pytest.fixture(scope='session')
def detector(tiny) -> Detector:
    return load(tiny / 'tiny.pth', device='cpu')


@pytest.fixture(scope='session')
def exported(tiny):
    """The exported file; the tests of files without the optional packages need none."""
    for name in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(name)
    file = tiny / 'out' / 'tiny.onnx'
    run_command('export', tiny / 'tiny.pth', '--out', file, '--with-reader', '--score-thr', '0.1')
    return file


@pytest.fixture(scope='session')
def proof(exported):
    return json.loads(proof_path(exported).read_text())


@pytest.fixture
def pictures(tiny, tmp_path):
    """A few pictures of the validation split, copied."""
    found = sorted((tiny / 'shapes/val').iterdir())[:3]
    return [shutil.copy(path, tmp_path) for path in found]
