"""torchvision must import even where its compiled operators do not fit torch."""

import importlib.util
import subprocess
import sys

import pytest

FOUND = importlib.util.find_spec("torchvision") is not None


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not FOUND, reason="needs torchvision")
@pytest.mark.parametrize("before", ["", "try: import torchvision\nexcept RuntimeError: pass\n"])
def test_data_sets_and_transforms_work(before):
    """Also after the reader's own import of it has failed."""
    out = run(
        before + "import torch\n"
        "from metanotes.data.images.with_torchvision import import_torchvision\n"
        "torchvision = import_torchvision()\n"
        "assert import_torchvision() is torchvision\n"
        "from torchvision.transforms import v2\n"
        "small = v2.Resize(28)(torch.ones(1, 105, 105))\n"
        "print(torchvision.datasets.Omniglot.__name__, *small.shape)"
    )
    assert out.split() == ["Omniglot", "1", "28", "28"]


@pytest.mark.skipif(not FOUND, reason="needs torchvision")
def test_operators_that_can_be_loaded_are_not_declared_again():
    out = run(
        "from metanotes.data.images import with_torchvision\n"
        "torchvision = with_torchvision.import_torchvision()\n"
        "print(torchvision.extension._has_ops() != (with_torchvision._declared is not None))"
    )
    assert out.strip() == "True"


def test_without_torchvision_the_error_says_what_to_install():
    run(
        "import sys\n"
        "sys.modules['torchvision'] = None\n"
        "from metanotes.data.images.with_torchvision import import_torchvision\n"
        "try: import_torchvision()\n"
        "except ImportError as error: assert 'pip install torchvision' in str(error), error\n"
        "else: raise AssertionError\n"
    )
