"""Evaluates a checkpoint. Usage: python tools/test.py CONFIG CHECKPOINT [--data PATH] ..."""

from checkout import main

main('test')
