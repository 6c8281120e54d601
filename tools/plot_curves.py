"""Draws the curves of runs. Usage: python tools/plot_curves.py WORK_DIR... [--x hours]"""

from checkout import main

main('curves')
