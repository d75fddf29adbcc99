"""Prints a document's first Python program: `readme_example.py README.md`."""

import re
import sys
from pathlib import Path


text = Path(sys.argv[1]).read_text("utf-8")
print(re.search(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1])
