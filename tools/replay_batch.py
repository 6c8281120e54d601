"""Replays a batch that stopped a training. Usage: python tools/replay_batch.py CONFIG FILE"""

from checkout import main

main('replay')
