"""What the chapters use beside the methods: figures to touch, and records of long runs."""

from metanotes.notebook.figures import dropdown, image, notebook_style, slider

__all__ = ["dropdown", "image", "notebook_style", "slider"]
