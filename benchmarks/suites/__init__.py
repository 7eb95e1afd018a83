"""Suites for asv (asv.conf.json): how fastrnn's times, memory and errors go over its commits."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
