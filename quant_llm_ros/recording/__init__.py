"""Recordings of a robot's decisions, and the same sentences decided again."""
