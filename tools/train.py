"""Trains a detector. Usage: python tools/train.py CONFIG [--data PATH] [--amp] [--resume] ..."""

from checkout import main

main('train')
