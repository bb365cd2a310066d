"""Packs clips into batches: planners (integers in, integers out), SegmentLayout and PackedBatch."""
