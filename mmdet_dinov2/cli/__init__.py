"""What the command-line tools share."""

from .arguments import *  # noqa: F403
