"""``python -m studies NAME``."""

import sys

from tools.door import open_door

sys.exit(open_door("studies"))
