"""Packing planners (integers in, integers out), SegmentLayout and PackedBatch."""
