"""What holds for every test: no display, and one thread for each test process.

Both are read when the libraries are first imported, so they are set here, before any test file is.
"""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
