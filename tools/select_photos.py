"""Chooses photos to label. Usage: python tools/select_photos.py --unlabeled FOLDER --data PATH"""

from checkout import main

main('select')
