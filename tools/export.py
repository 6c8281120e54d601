"""Writes a detector to a file without PyTorch. Usage: python tools/export.py CHECKPOINT"""

from checkout import main

main('export')
