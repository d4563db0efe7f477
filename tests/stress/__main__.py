"""``python -m tests.stress NAME``."""

import sys

from tools.door import open_door

sys.exit(open_door("tests.stress"))
