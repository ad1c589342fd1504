"""`python -m vitrail`: the same as the console script `vitrail`."""

import sys

from .headless.cli import main

if __name__ == "__main__":
    sys.exit(main())
