"""phi is the teacher: a network whose answers a student learns from, or the images it is shown."""

from metanotes.methods.teaching.dataset_distillation import DatasetDistillation
from metanotes.methods.teaching.distillation import distillation_loss
from metanotes.methods.teaching.meta_distillation import MetaDistillation

__all__ = ["DatasetDistillation", "MetaDistillation", "distillation_loss"]
