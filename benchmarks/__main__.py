"""``python -m benchmarks NAME``."""

import sys

from tools.door import open_door

sys.exit(open_door("benchmarks"))
