"""What is read from files: where it lies, what is in it, and whether it is whole."""

from metanotes.data.files.archives import read_npz, read_tar, read_zip
from metanotes.data.files.cache import cached_arrays
from metanotes.data.files.damage import DamagedDataError
from metanotes.data.files.fingerprints import fingerprint
from metanotes.data.files.folders import cache_folder, data_folder
from metanotes.data.files.pictures import decode, square

__all__ = [
    "DamagedDataError",
    "cache_folder",
    "cached_arrays",
    "data_folder",
    "decode",
    "fingerprint",
    "read_npz",
    "read_tar",
    "read_zip",
    "square",
]
