"""One SpectrogramTransformer: embedding, positions, encoder, pooling."""
