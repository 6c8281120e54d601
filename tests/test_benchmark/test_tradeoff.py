"""AP over time: sizes of the decoder from one checkpoint."""

import json

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from mmdet_dinov2.benchmark import tradeoff

from ..tools import failure_of, run_command, write_config


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A config, and a checkpoint with random weights."""
    folder = tmp_path_factory.mktemp('tradeoff')
    config = write_config(folder, "model['decoder']['num_layers'] = 2\n")
    model = MODELS.build(Config.fromfile(config).model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), folder / 'random.pth')
    return config, folder / 'random.pth'


@pytest.mark.slow
def test_each_size_has_its_ap_and_time(tmp_path, trained, monkeypatch):
    config, checkpoint = trained
    monkeypatch.setattr(tradeoff, '_NUM_IMAGES', 2)
    run_command(
        'benchmark', config, '--checkpoint', checkpoint, '--num-queries', 5, 20,
        '--num-decoder-layers', 1, 2, '--repeats', 1, '--work-dir', tmp_path,
    )  # fmt: skip
    rows = json.loads((tmp_path / 'tiny.json').read_text())['tables'][0]['rows']
    sizes = [(row['queries'], row['decoder layers']) for row in rows]
    assert sizes == [(5, 1), (5, 2), (20, 1), (20, 2)]
    assert all(0 <= row['bbox_mAP'] <= 1 and row['ms per image']['median'] > 0 for row in rows)
    assert (tmp_path / 'tiny.png').is_file()


def test_wrong_arguments_are_refused(tmp_path, capfd):
    config = write_config(tmp_path)
    place = ('--work-dir', tmp_path)
    message = failure_of(capfd, 'benchmark', config, '--num-queries', 3, *place)
    assert 'need --checkpoint' in message
    message = failure_of(capfd, 'benchmark', config, '--checkpoint', 'a', 'b', *place)
    assert 'one file for each of the 1 configs, got 2' in message
