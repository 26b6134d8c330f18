"""The style, plots and figures that all HTML pages share."""
