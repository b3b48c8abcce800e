"""Every method of the book is on the map: its documentation says what the map says of it."""

import importlib
import inspect

import api_pages
import pytest

from metanotes.notebook import map_fields

ROOMS = [place for place in api_pages.packages() if place.startswith("metanotes.methods.")]

# Public names that are no method: what a method is made of, or answers with, and what judges it.
PARTS = {
    "metanotes.methods.architecture": {
        "CELLS", "CellNetwork", "DigitCell", "MixedOperation", "OPERATIONS", "Policy", "Sine",
        "Spline", "TensorRates", "Trail", "best_choice", "edges", "function_of", "only_path",
        "operation", "policy_search", "train_classifier",
    },
    "metanotes.methods.bilevel": {"Hypergradient", "InnerProblemError"},
    "metanotes.methods.comparison": {
        "Comparing", "Examples", "FullContext", "Neighbors", "RelationModule", "Voters", "Weighted",
        "feature_relation", "map_relation", "pair_loss", "sigmoid_mse",
    },
    "metanotes.methods.continual": {"accuracy_matrix", "average_accuracy", "backward_transfer"},
    "metanotes.methods.datapolicy": {"AffineAugmentation", "LookaheadLearner"},
    "metanotes.methods.domains": {
        "Parts", "TwoSampleTest", "difference_loss", "gaussian_kernels", "gradient_reversal",
        "mmd_test", "reversal_schedule", "scale_invariant_mse",
    },
    "metanotes.methods.estimators": {"RunningMean"},
    "metanotes.methods.initialization": {"LearnedRates"},
    "metanotes.methods.language": {
        "CorpusScore", "Difference", "FineTuned", "bleu", "chrf", "dev_loss", "paired_difference",
        "token_loss", "translate", "turned", "word_vectors",
    },
    "metanotes.methods.memory": {
        "Activations", "Conditioned", "Counting", "Recall", "Slots", "by_presentation",
        "check_sequences", "presentation_accuracy",
    },
    "metanotes.methods.optimizers": {
        "GatedRule", "LSTMRule", "LearnedOptimizer", "Position", "Rollout", "log_and_sign",
        "reinforce", "trajectory",
    },
    "metanotes.methods.teaching": set[str](),
}  # fmt: skip


@pytest.mark.parametrize("room", ROOMS)
def test_what_is_no_part_is_on_the_map(room: str) -> None:
    module = importlib.import_module(room)
    on_the_map = {name for name in module.__all__ if map_fields(getattr(module, name))}
    assert on_the_map == set(module.__all__) - PARTS[room], "a method says it under 'On the map:'"


@pytest.mark.parametrize("room", ROOMS)
def test_what_the_map_says_is_short(room: str) -> None:
    module = importlib.import_module(room)
    for name in module.__all__:
        for field, text in map_fields(getattr(module, name)).items():
            assert 0 < len(text) <= 80, f"{name}: {field}"
            assert not text.endswith("."), f"{name}: {field}"


def test_a_subclass_is_not_on_the_map_by_its_base() -> None:
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in set(module.__all__) - PARTS[room]:
            thing = getattr(module, name)
            assert inspect.isfunction(thing) or "On the map:" in thing.__dict__["__doc__"]
