"""A trained model in daily use: labels and embeddings of recordings, nearest clips, export."""
