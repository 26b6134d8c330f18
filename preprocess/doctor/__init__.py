"""Checks of finished datasets: what is damaged, what is suspicious, and a page to look at."""
