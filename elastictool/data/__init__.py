"""Prepares corpora, stores and loads their clips, plans batches and collates them."""
