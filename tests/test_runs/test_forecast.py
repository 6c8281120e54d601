"""Forecasts, the drop of the learning rate and its prior."""

import cv2
import numpy as np
import pytest

from mmdet_dinov2.analysis.forecast_picture import draw_forecast
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.runs.forecast import describe_gain, make_forecast
from mmdet_dinov2.runs.lr_drop import (
    PUBLISHED_DROPS,
    DropGain,
    describe_prior,
    log_odds,
    published_gain,
)
from mmdet_dinov2.runs.run_log import read_run

from ..logs import power_law, write_part
from ..tools import failure_of, run_tool

CURVE = 'data/ap-curve/bbox_ap.csv'
STEPS = np.arange(1, 21) * 500


def test_the_real_drop_is_predicted_from_evaluations_before_it(shared):
    steps, ap = read_run(shared / CURVE).ap_curve()
    forecast = make_forecast(steps, ap, drop=82_500, until=82_500)
    assert forecast.steps.max() < 82_500 and len(forecast.hidden[0]) == 4
    final = forecast.at(90_000)
    assert abs(final.ap - 51.94) < 1.0
    assert final.low < 51.94 < final.high
    # The same curve without the drop misses it.
    assert not make_forecast(steps, ap, until=82_500).at(90_000).high > 51.94


def test_prior_is_the_t_interval_of_the_cited_gains():
    gains = np.array([drop.gain for drop in PUBLISHED_DROPS])
    prior = published_gain()
    assert prior.mean == pytest.approx(gains.mean())
    # 4.303 is Student's t at 97.5 % with 2 degrees of freedom.
    assert prior.half_width == pytest.approx(4.303 * gains.std(ddof=1) * np.sqrt(4 / 3), rel=1e-3)
    text = describe_prior()
    assert all(drop.source in text for drop in PUBLISHED_DROPS)


def test_gain_stays_within_0_and_100():
    gain = published_gain()
    for ap in (0.0, 1.0, 50.0, 99.0, 100.0):
        assert max(0, ap - 0.1) <= gain.apply(ap) <= 100
    assert gain.apply(50.0) - 50 > gain.apply(95.0) - 95 > 0
    delta = 1e-6
    wider = DropGain(gain.mean + delta, gain.sd, gain.freedom)
    slope = (wider.apply(40.0) - gain.apply(40.0)) / delta
    assert gain.ap_half_width(40.0) == pytest.approx(gain.half_width * slope, rel=1e-4)


def test_evaluations_after_the_drop_correct_the_prior():
    ap = power_law(STEPS)
    after = STEPS > 8000
    seen = ap + np.where(after, 5.0, 0.0)
    blind = make_forecast(STEPS, ap, drop=8000, until=8001)
    informed = make_forecast(STEPS, seen, drop=8000)
    truth = power_law(20_000) + 5.0
    assert abs(informed.at(20_000).ap - truth) < 0.3 < abs(blind.at(20_000).ap - truth)
    assert informed.gain.sd < blind.gain.sd
    assert informed.gain.num_evaluations == 4
    assert 'from published runs alone' in describe_gain(blind)
    assert 'from 4 evaluations after it' in describe_gain(informed)
    assert log_odds(50.0) == 0


def test_too_few_evaluations():
    with pytest.raises(InputError, match='at least 5 evaluations, but the log has 4;'):
        make_forecast(STEPS[:4], power_law(STEPS[:4]))
    with pytest.raises(InputError, match='up to the drop at step 1000, but the log has 2;'):
        make_forecast(STEPS, power_law(STEPS), drop=1000)


def test_picture(tmp_path):
    forecast = make_forecast(STEPS, power_law(STEPS), drop=9000)
    draw_forecast(forecast, [forecast.at(20_000)], tmp_path / 'new/f.png', 'title')
    assert cv2.imread(str(tmp_path / 'new/f.png')).shape == (600, 1080, 3)


def test_tool_on_a_work_folder(tmp_path, capfd):
    config = (
        'train_cfg = dict(max_epochs=15)\n'
        "param_scheduler = [dict(type='MultiStepLR', milestones=[12], by_epoch=True)]\n"
    )
    write_part(tmp_path / 'work', '20250101_000000', 1, 1000, config=config)
    run_tool('forecast', tmp_path / 'work', '--at', '1200', '15ep')
    text = capfd.readouterr().out
    assert 'drop at step 1200' in text  # planned
    assert 'IDEA-Research/DINO/issues/128' in text and '*power law' in text
    assert 'step 1200 (12 epochs): AP' in text and 'step 1500 (15 epochs): AP' in text
    assert (tmp_path / 'work/forecast.png').stat().st_size > 1000
    run_tool('forecast', tmp_path / 'work', '--no-drop', '--out', tmp_path / 'b.png')
    text = capfd.readouterr().out
    assert 'prior' not in text
    expected = power_law(1500)
    assert f'step 1500 (15 epochs): AP {expected:.2f}' in text


def test_tool_says_what_is_missing(tmp_path, capfd):
    table = tmp_path / 'ap.csv'
    table.write_text('step,AP\n' + ''.join(f'{s},{a}\n' for s, a in zip(STEPS, power_law(STEPS))))
    assert 'give --epoch-length' in failure_of(capfd, 'forecast', table, '--at', '50ep')
    assert 'give --at' in failure_of(capfd, 'forecast', table)
    for wrong in ('0', '-5'):
        message = failure_of(capfd, 'forecast', table, '--at', '12ep', '--epoch-length', wrong)
        assert 'must be a whole number of at least 1' in message
    assert "but got 'soon'" in failure_of(capfd, 'forecast', table, '--at', 'soon')
    table.write_text('when,AP\n1,2\n')
    assert 'columns when, AP; expected' in failure_of(capfd, 'forecast', table, '--at', '5')
