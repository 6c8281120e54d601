"""Writes weights, config and classes of a checkpoint. Usage: python tools/publish.py CHECKPOINT"""

from checkout import main

main('publish')
