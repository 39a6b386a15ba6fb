"""Sentences with known meaning, to teach a model the way people speak to robots."""
