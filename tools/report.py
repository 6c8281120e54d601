"""Writes an HTML page about a run. Usage: python tools/report.py WORK_DIR ..."""

from checkout import main

main('report')
