"""Mapping aliases back to terms: the reference implementation in three languages, and its tests."""

ALIAS_CODE = ("apply_aliases.py", "apply_aliases.js", "ApplyAliases.swift", "alias_vectors.json")
"""Files of this package that an app can take."""
