"""What a run saves, and how it is resumed."""
