"""`python -m ovt_ray` is `ovt-ray`."""

import sys

from ovt_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
