"""``python -m tools NAME``."""

import sys

from tools.commands import run_command

sys.exit(run_command("tools"))
