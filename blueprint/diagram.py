"""x"""

from pathlib import Path

FOLDER = Path("docs/images")
NAME = "architecture-{}.svg"
