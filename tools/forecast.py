"""Predicts the AP of a run. Usage: python tools/forecast.py WORK_DIR_OR_LOG_OR_CSV --at 50ep ..."""

from checkout import main

main('forecast')
