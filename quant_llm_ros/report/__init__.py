"""Comparing ways of quantization: the sweep over recipes, the search, and the page about both."""
