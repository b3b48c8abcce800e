"""The package is described in pyproject.toml. Here the records of long runs go into it.

They lie in results/, where the runs write them, and in an installed package beside the module that
reads them, metanotes/notebook/records.py. So a chapter runs wherever its notebook is copied to.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

KINDS = (".json", ".safetensors")


class BuildWithRecords(build_py):
    """Copies results/ to metanotes/notebook/results; an editable install has it beside itself."""

    def records(self) -> dict[str, str]:
        """Where each record, and each set of weights, goes, and where it lies."""
        folder = Path(self.build_lib, "metanotes", "notebook")
        kept = [p for p in sorted(Path("results").rglob("*")) if p.suffix in KINDS]
        return {str(folder / path): str(path) for path in kept}

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for target, source in self.records().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return list({*super().get_outputs(include_bytecode), *self.records()})

    def get_output_mapping(self) -> dict[str, str]:
        return {**super().get_output_mapping(), **self.records()}

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *self.records().values()]


setup(cmdclass={"build_py": BuildWithRecords})
