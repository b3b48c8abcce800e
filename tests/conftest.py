"""What all tests run under. The real data are used where they lie beside the project."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Before torch is imported: a test process computes in one thread, and so do its children.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TQDM_DISABLE"] = "1"

beside = ROOT.parent / "shared" / "data"
if "METANOTES_DATA" not in os.environ and beside.is_dir():
    os.environ["METANOTES_DATA"] = str(beside)
