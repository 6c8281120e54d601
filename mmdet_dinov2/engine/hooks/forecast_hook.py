"""Logs the forecast of the final AP."""

from __future__ import annotations

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...runs.forecast import MIN_EVALUATIONS, Forecast, make_forecast
from ...runs.run_log import read_run
from ...runs.saved_config import planned_drops


@HOOKS.register_module()
class ForecastHook(Hook):
    """Logs the forecast of the final AP after each evaluation.

    The forecast is that of ``mmdet_dinov2 forecast``, from the logs of the run, including those
    before it was resumed. With too few evaluations nothing is logged. An error of a forecast never
    ends the run.

    Args:
        metric: Metric to predict, as it is logged; by default ``coco/bbox_mAP``, or the only one
            that ends in ``bbox_mAP``.
    """

    # After the logger has written the evaluation.
    priority = 'VERY_LOW'

    def __init__(self, metric: str | None = None) -> None:
        self.metric = metric

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Logs the forecast in one line."""
        try:
            forecast = self._forecast(runner)
            if forecast is not None:
                runner.logger.info(_describe(forecast, runner.max_iters))
        except Exception as error:  # a forecast must not end a run
            runner.logger.warning(f'no forecast of AP: {type(error).__name__}: {error}')

    def _forecast(self, runner: Runner) -> Forecast | None:
        if runner.iter >= runner.max_iters:
            return None
        try:
            run = read_run(runner.work_dir)
        except FileNotFoundError:  # no log on this machine
            return None
        steps, ap = run.ap_curve(self.metric)
        drops = run.lr_drops() or planned_drops(runner.cfg, len(runner.train_dataloader))
        drop = drops[0] if drops and drops[0] < runner.max_iters else None
        if (steps <= (drop or runner.max_iters)).sum() < MIN_EVALUATIONS:
            return None
        return make_forecast(steps, ap, drop)


def _describe(forecast: Forecast, last_step: int) -> str:
    final = forecast.at(last_step)
    how = forecast.fit.family.name
    if forecast.gain is not None:
        known = forecast.gain.num_evaluations
        how += ', learning-rate drop ' + ('as seen' if known else 'as in published runs')
    return (
        f'Forecast of AP after step {last_step}: {final.ap:.1f}, 95 % interval {final.low:.1f} to '
        f'{final.high:.1f} ({how})'
    )
