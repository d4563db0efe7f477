"""Real data sets beside the paper's benchmarks, registered as a user's own are: ``import studies.datasets``.

A recipe or a command that runs in a clone takes their addresses, such as "studies.datasets.emoji:ENTRY".
"""

from alignmamba2.datasets import register_dataset

for _name in ("ict-mmmo", "emoji", "mosi-words", "spoken-reviews"):
    register_dataset(_name, f"{__name__}.{_name.replace('-', '_')}:ENTRY")
