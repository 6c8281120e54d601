"""Curves of runs."""

import cv2
import pytest
from matplotlib.figure import Figure

from mmdet_dinov2.analysis.curves import curve_panels, draw_curves, draw_panel
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.runs.run_log import RunLog, read_run

from ..logs import write_part
from ..tools import failure_of, run_tool


@pytest.fixture
def runs(tmp_path):
    write_part(tmp_path / 'a', '20250101_000000', 1, 300, drop=200)
    write_part(tmp_path / 'b', '20250101_000000', 1, 200, offset=1.0)
    return [read_run(tmp_path / 'a'), read_run(tmp_path / 'b')]


def test_panels_and_runs(runs, tmp_path):
    panels = {panel.title: panel for panel in curve_panels(runs)}
    assert {'loss, sum of all terms', 'learning rate', 'seconds per step'} <= set(panels)
    assert 'denoising loss' not in panels  # not logged
    rate = panels['learning rate']
    assert rate.log_scale and len(rate.curves) == 2
    assert rate.curves[0][0][1].tolist() == [1e-4] * 4 + [1e-5] * 2
    figure = Figure()
    axes = figure.subplots()
    draw_panel(axes, panels['AP (dashed, square: AP 50; dotted, triangle: AP 75)'], runs, 'hours')
    assert len(axes.lines) == 4  # AP and AP 50 of two runs
    assert axes.lines[0].get_xdata() == pytest.approx([50 / 3600, 100 / 3600, 150 / 3600])
    assert axes.get_xlabel() == 'hours of training'
    assert not any(title.startswith('mask AP') for title in panels)


def test_masks_have_a_panel_of_their_own(runs):
    for record in runs[0].evaluations:
        record.update({'coco/segm_mAP': 0.3, 'coco/segm_mAP_50': 0.5})
    panels = {panel.title.split(' (')[0]: panel for panel in curve_panels(runs)}
    assert [len(lines) for lines in panels['mask AP'].curves] == [2, 0]
    assert panels['mask AP'].curves[0][1][1].tolist() == [50.0] * len(runs[0].evaluations)
    assert [len(lines) for lines in panels['AP'].curves] == [2, 2]


def test_nothing_to_draw(runs, tmp_path):
    with pytest.raises(InputError, match='empty: nothing was logged'):
        draw_curves([RunLog('empty')], tmp_path / 'a.png')
    with pytest.raises(InputError, match='steps or hours'):
        draw_curves(runs, tmp_path / 'a.png', 'days')


def test_tool(runs, tmp_path, capfd):
    run_tool('plot_curves', tmp_path / 'a', tmp_path / 'b', '--x', 'hours')
    assert cv2.imread(str(tmp_path / 'a/curves.png')).shape[1] > 1000
    assert 'none does not exist' in failure_of(capfd, 'plot_curves', tmp_path / 'none')
    error = failure_of(capfd, 'plot_curves', tmp_path / 'a', '--out', tmp_path / 'folder')
    assert 'folder must end in .png' in error and not (tmp_path / 'folder.png').exists()
