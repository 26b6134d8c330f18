"""`python -m preprocess`: see `preprocess.cli`."""

import sys

from preprocess.cli import main

sys.exit(main())
