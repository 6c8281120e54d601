"""Detects objects in images and videos. Usage: python tools/predict.py CHECKPOINT IMAGES..."""

from checkout import main

main('predict')
