"""What helps to judge a run: before it, during it, after it."""
