"""What a training left: its log, config and checkpoints, and forecasts of its curve."""
