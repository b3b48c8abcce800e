"""What the notebooks use beside the methods: figures to touch, records of long runs, checks."""

from metanotes.notebook.checks import check_close
from metanotes.notebook.figures import dropdown, image, notebook_style, slider
from metanotes.notebook.overview import Cost, cost_of, map_fields, numbers_in
from metanotes.notebook.palette import color_of, looks_of
from metanotes.notebook.records import (
    OverSeeds,
    Record,
    kept,
    record,
    record_data,
    record_file,
    record_names,
    score_text,
)
from metanotes.notebook.tables import HtmlTable, grouped_table, html_table

__all__ = [
    "Cost",
    "HtmlTable",
    "OverSeeds",
    "Record",
    "check_close",
    "color_of",
    "cost_of",
    "dropdown",
    "grouped_table",
    "html_table",
    "image",
    "kept",
    "looks_of",
    "map_fields",
    "notebook_style",
    "numbers_in",
    "record",
    "record_data",
    "record_file",
    "record_names",
    "score_text",
    "slider",
]
