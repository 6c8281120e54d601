"""What a training left behind: log, saved config, and forecasts of its curve."""
