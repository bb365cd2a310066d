"""Provides helpers for all packages; they import no other package of the project."""
