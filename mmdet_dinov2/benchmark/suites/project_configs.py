"""The configs of the project that the suites measure."""

QUICKSTART = 'dino_dinov2_quickstart'
# Makes the quick start so small that a step takes a moment, to see that everything runs.
TINY_OPTIONS = {
    'model.backbone.arch.embed_dims': 32,
    'model.backbone.arch.num_layers': 2,
    'model.backbone.arch.num_heads': 2,
    'model.backbone.arch.feedforward_channels': 32,
    'model.encoder.num_layers': 1,
    'model.decoder.num_layers': 1,
}
