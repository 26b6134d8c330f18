"""Every setting, the dimension names, and reading and writing of configs."""
