"""Defines the SpectrogramTransformer: patch embedding, positions, encoder, pooling."""
