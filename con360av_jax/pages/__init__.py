"""Base template, style, scripts, plots and images shared by all HTML pages."""
