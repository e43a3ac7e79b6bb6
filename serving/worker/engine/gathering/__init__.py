"""Gathering: bodies of many records for handlers that take one at a time."""
