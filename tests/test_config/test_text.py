"""The text of configs equals the config, and does not need yapf."""

import sys

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmdet_dinov2.config.plain import read_plain_config
from mmdet_dinov2.config.text import format_config, readable_config
from mmdet_dinov2.errors import InputError

from ..tools import ROOT, run_tool, write_config

VALUES = {
    'basic': [1, -2.5, 1e-8, True, None, 'it\'s "so"\n', 'x' * 150],
    'empty': dict(a={}, b=[], c=()),
    'tuples': ((1,), ((2, 3),), (dict(a=1),), ('y' * 120,)),
    'keys that are not identifiers': {
        'a b': dict(c=1),
        'd': {'e.f': (1, 2)},
        'lambda': {1: 'one', -1: 2},
    },
    'deep': dict(a=[dict(b=[dict(c=(dict(d=list(range(60))), 'z' * 80))])]),
    'infinite': float('inf'),
}

CONFIGS = sorted((ROOT / 'configs').glob('*.py'))


@pytest.mark.parametrize('name', VALUES, ids=lambda name: name.replace(' ', '_'))
def test_what_was_written_is_read(tmp_path, name):
    content = dict(key=VALUES[name], other='last')
    text = readable_config(content).pretty_text
    assert read_plain_config(text) == content
    (tmp_path / 'config.py').write_text(text.replace('inf', "float('inf')"))
    assert Config.fromfile(tmp_path / 'config.py').to_dict() == content


@pytest.mark.parametrize(
    'path', sorted((ROOT / 'configs').glob('*.py')), ids=lambda path: path.stem
)
def test_every_config_is_written_in_lines_that_can_be_read(path):
    cfg = readable_config(Config.fromfile(path))
    text = cfg.pretty_text
    assert read_plain_config(text) == cfg.to_dict()
    # Only long strings may exceed the limit.
    assert all(len(line) <= 100 or '://' in line for line in text.splitlines())


def test_entries_share_a_line_if_they_fit():
    fits = dict(c=['a' * 44, 'b' * 44])
    assert format_config(fits) == f'c = {fits["c"]}\n'
    assert len(format_config(fits)) == 101  # with the end of the line
    longer = dict(c=['a' * 45, 'b' * 45])
    assert format_config(longer) == f'c = [\n    {"a" * 45!r},\n    {"b" * 45!r},\n]\n'
    inner = dict(b=1, a=dict(d=('e' * 50,), c='f' * 50))
    assert format_config(inner) == (
        f'a = dict(\n    c={"f" * 50!r},\n    d=({"e" * 50!r},),\n)\nb = 1\n'
    )


def test_lines_are_never_longer_than_allowed():
    # Every length of an entry around the limit, at two depths.
    for length in range(70, 100):
        text = format_config(dict(key=dict(a=dict(b=['c' * length], d=1))))
        assert max(map(len, text.splitlines())) <= max(100, len('            ') + length + 3), text
        assert read_plain_config(text)['key']['a']['b'] == ['c' * length]


def test_classes_are_written_by_name():
    assert format_config(dict(a=dict(type=nn.Linear, of=int))) == (
        'a = dict(of=int, type=torch.nn.modules.linear.Linear)\n'
    )


@pytest.mark.parametrize('key', ['a-b', 'lambda', 'a b', '1'])
def test_a_key_that_cannot_be_written_is_named(key):
    with pytest.raises(InputError, match=f"config key '{key}' cannot be the name of a variable"):
        format_config({key: 1})


def test_a_copy_does_not_share_values(tmp_path):
    (tmp_path / 'config.py').write_text('a = dict(b=[1])\n')
    cfg = Config.fromfile(tmp_path / 'config.py')
    copy = readable_config(cfg)
    copy.a.b.append(2)
    assert cfg.a.b == [1] and copy.a.b == [1, 2] and copy.filename == cfg.filename
    given = dict(a=dict(b=[1]))
    readable_config(given).a.b.append(2)
    assert given == dict(a=dict(b=[1]))


def test_a_training_writes_its_config_without_yapf(tmp_path, monkeypatch):
    """yapf shares files in the cache of the user with other processes, without a lock."""
    monkeypatch.setitem(sys.modules, 'yapf', None)
    config = write_config(tmp_path, 'train_cfg = dict(max_epochs=1)\n')
    work = tmp_path / 'work'
    run_tool('train', config, '--work-dir', work)
    saved = (work / 'tiny.py').read_text()
    assert read_plain_config(saved)['train_cfg']['max_epochs'] == 1
    assert torch.load(work / 'epoch_1.pth', weights_only=False)['meta']['cfg'] == saved
    (log,) = work.glob('*/*.log')
    assert saved in log.read_text()
    (backend,) = work.glob('*/vis_data/config.py')
    assert backend.read_text() == saved
