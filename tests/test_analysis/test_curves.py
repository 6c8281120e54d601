"""Curves of runs."""

import io

import cv2
import pytest

from mmdet_dinov2.analysis.curves import draw_curves
from mmdet_dinov2.analysis.run_log import RunLog, read_run
from mmdet_dinov2.errors import InputError

from ..test_engine.tools import failure_of, run_tool
from .logs import write_part


@pytest.fixture
def runs(tmp_path):
    write_part(tmp_path / 'a', '20250101_000000', 1, 300, drop=200)
    write_part(tmp_path / 'b', '20250101_000000', 1, 200, offset=1.0)
    return [read_run(tmp_path / 'a'), read_run(tmp_path / 'b')]


def test_panels_and_runs(runs):
    picture = io.BytesIO()
    draw_curves(runs, picture, title='<&>')
    text = picture.getvalue().decode()
    for word in ('learning rate', 'seconds per step', 'memory', 'optimizer step', 'AP 50'):
        assert f'<!-- {word}' in text or word in text
    picture = io.BytesIO()
    draw_curves(runs[:1], picture, 'hours')
    assert 'hours of training' in picture.getvalue().decode()


def test_nothing_to_draw(runs):
    with pytest.raises(InputError, match='empty: nothing was logged yet'):
        draw_curves([RunLog('empty')], io.BytesIO())
    with pytest.raises(InputError, match='steps or hours'):
        draw_curves(runs, io.BytesIO(), 'days')


def test_tool(runs, tmp_path, capfd):
    run_tool('plot_curves', tmp_path / 'a', tmp_path / 'b', '--x', 'hours')
    assert cv2.imread(str(tmp_path / 'a/curves.png')).shape[1] > 1000
    assert 'none does not exist' in failure_of(capfd, 'plot_curves', tmp_path / 'none')
