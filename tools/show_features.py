"""Draws the features of a backbone. Usage: python tools/show_features.py CONFIG IMAGES..."""

from checkout import main

main('features')
