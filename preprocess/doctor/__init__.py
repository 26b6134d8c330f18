"""Checks of finished datasets for corrupt and suspicious contents, with a page of the findings."""
