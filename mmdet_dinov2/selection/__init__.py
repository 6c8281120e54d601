"""Which photos to label: embeddings, near-duplicates, a diverse choice."""
