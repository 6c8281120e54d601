"""What a run saves, and how another run goes on from it."""
