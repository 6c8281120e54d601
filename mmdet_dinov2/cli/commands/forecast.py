"""Predicts the AP of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...analysis.forecast_picture import draw_forecast
from ...runs.curve_fits import FAMILIES
from ...runs.forecast import describe_fits, describe_gain, make_forecast
from ...runs.lr_drop import describe_prior
from ...runs.run_log import parse_step, read_run
from ...runs.saved_config import plan_of
from ..arguments import at_least_one
from ..messages import one_sentence_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = 'Fit curves to the validation AP of a run and predict how it continues'
    parser.epilog = 'A STEP is a number of optimizer steps (90000) or epochs (12ep).'
    parser.add_argument(
        'log', help='work folder, scalars.json of MMEngine, or CSV with the columns step and AP'
    )
    parser.add_argument(
        '--at',
        nargs='+',
        metavar='STEP',
        help='steps to predict AP at; by default the end of the training',
    )
    drop = parser.add_mutually_exclusive_group()
    drop.add_argument(
        '--drop',
        metavar='STEP',
        help='step at which the learning rate falls to a tenth; by default read from the log or '
        'the config beside it',
    )
    drop.add_argument('--no-drop', action='store_true', help='fit one curve to all evaluations')
    parser.add_argument(
        '--until', metavar='STEP', help='hide the evaluations from this step on, as a check'
    )
    parser.add_argument(
        '--family',
        choices=list(FAMILIES),
        help='family of curves; by default the one with the smallest held-out error',
    )
    parser.add_argument('--metric', help='name of the metric; by default coco/bbox_mAP')
    parser.add_argument(
        '--epoch-length',
        type=at_least_one,
        help='optimizer steps per epoch; by default read from the log',
    )
    parser.add_argument('--out', help='picture file; by default forecast.png beside the log')


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    with one_sentence_errors(every_error=True):
        run = read_run(args.log)
        length = args.epoch_length or run.epoch_length
        end, planned = plan_of(args.log, length)
        drops = [] if args.no_drop else run.lr_drops() or planned
        drop = parse_step(args.drop, length) if args.drop else (drops or [None])[0]
        if not args.at and end is None:
            raise ValueError(f'{args.log} does not say when the training ends; give --at')
        at = [parse_step(text, length) for text in args.at] if args.at else [end]
        until = parse_step(args.until, length) if args.until else None
        steps, ap = run.ap_curve(args.metric)
        forecast = make_forecast(steps, ap, drop, until, args.family)
        predictions = [forecast.at(step) for step in at]
        folder = Path(args.log) if Path(args.log).is_dir() else Path(args.log).parent
        out = args.out or folder / 'forecast.png'
        draw_forecast(forecast, predictions, out, f'{run.name}: forecast of AP')
    print(f'{len(forecast.steps)} evaluations, steps {steps.min():.0f} to {steps.max():.0f}')
    print(describe_fits(forecast))
    if forecast.drop is not None:
        print(f'{describe_prior()}\n{describe_gain(forecast)}')
    if len(drops) > 1:
        print(f'only the first of {len(drops)} drops is modelled')
    for p in predictions:
        epochs = f' ({p.step / length:.4g} epochs)' if length else ''
        print(f'step {p.step}{epochs}: AP {p.ap:.2f}, 95 % interval {p.low:.2f} to {p.high:.2f}')
    print(f'drawn: {out}')
