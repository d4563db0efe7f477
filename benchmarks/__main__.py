"""``python -m benchmarks NAME``."""

import sys

from tools.commands import run_command

sys.exit(run_command("benchmarks"))
