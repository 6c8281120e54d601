"""What a model costs, and how it compares with its peers, measured in one run."""
