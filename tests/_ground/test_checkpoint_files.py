"""Files of checkpoints: damage is found out, and a save that fails leaves what was there."""

import errno
import io
import os

import numpy as np
import pytest
import torch

from metanotes import MAML, CheckpointError, mse
from metanotes._ground import files
from metanotes._ground.checkpoints import seal
from metanotes.nets import mlp
from tests.sines import parameters, sine_learner, train


class Sampler:
    """Some state, and no tasks."""

    def __call__(self, tasks):
        raise AssertionError("work was done")

    def load_state_dict(self, state):
        pass


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny checkpoint's bytes, and the phi that it brings."""
    path = tmp_path_factory.mktemp("tiny") / "run.pt"
    learner = sine_learner(hidden=2)
    train(learner, 2, checkpoint=path)
    return path.read_bytes(), parameters(learner)


def resumed(path, contents) -> torch.Tensor:
    """phi after loading a file with these contents."""
    path.write_bytes(contents)
    learner = sine_learner(hidden=2)
    train(learner, 2, checkpoint=path)
    return parameters(learner)


def test_every_truncation_is_found_out(tmp_path, tiny):
    contents, phi = tiny
    assert torch.equal(resumed(tmp_path / "run.pt", contents), phi)
    lengths = {*range(0, len(contents), 101), *range(len(contents) - 150, len(contents))}
    for length in sorted(lengths):
        with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
            resumed(tmp_path / "run.pt", contents[:length])


def test_every_flipped_bit_is_found_out(tmp_path, tiny):
    contents, _ = tiny
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(8 * len(contents), (500,), generator=generator).tolist()
    for bit in bits:
        flipped = bytearray(contents)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
            resumed(tmp_path / "run.pt", bytes(flipped))


def of_the_format_before() -> bytes:
    file = io.BytesIO()
    torch.save({"description": {"format": "2"}, "learner": {}}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "contents", [b"", b"not a checkpoint", of_the_format_before(), seal(b""), b"x" + seal(b"x")]
)
def test_what_is_no_checkpoint_is_refused_before_any_work(tmp_path, contents):
    learner = sine_learner(hidden=2)
    before = parameters(learner)
    (tmp_path / "run.pt").write_bytes(contents)
    with pytest.raises(CheckpointError, match="delete this one to start anew"):
        train(learner, 2, checkpoint=tmp_path / "run.pt")
    assert torch.equal(parameters(learner), before)


def test_a_file_from_a_stranger_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    file = io.BytesIO()
    torch.save({"description": {}, "learner": Trap()}, file)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        resumed(tmp_path / "run.pt", file.getvalue() + seal(file.getvalue()))
    assert not (tmp_path / "sprung").exists()


def test_torch_load_opens_it(tmp_path):
    learner = sine_learner()
    train(learner, 2, checkpoint=tmp_path / "run.pt")
    phi = torch.load(tmp_path / "run.pt", weights_only=True)["learner"]
    assert all(torch.equal(phi[name], t) for name, t in learner.state_dict().items())


# ------------------------------------------------------------------------------------- writing


def test_a_state_that_could_not_be_read_again_is_found_out_before_any_work(tmp_path):
    class Numpy(Sampler):
        def state_dict(self):
            return {"place": np.arange(3)}

    class Open(Sampler):
        def state_dict(self):
            return {"place": lambda: 3}

    for sampler in (Numpy(), Open()):
        with pytest.raises(CheckpointError, match="cannot keep the state of the sampler"):
            train(sine_learner(), 2, sampler=sampler, checkpoint=tmp_path / "run.pt")
        assert not (tmp_path / "run.pt").exists()


@pytest.mark.parametrize("where", ["file/run.pt", "."])
def test_a_place_that_cannot_be_written_to_is_found_out_before_any_work(tmp_path, where):
    (tmp_path / "file").write_text("")
    learner = sine_learner()
    before = parameters(learner)
    with pytest.raises(CheckpointError, match=r"cannot be (written|read)"):
        train(learner, 4, checkpoint=tmp_path / where)
    assert torch.equal(parameters(learner), before)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_found_out_before_any_work(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="cannot be written"):
            train(sine_learner(), 4, checkpoint=tmp_path / "run.pt")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("call", ["open", "os.fsync", "os.replace"])
def test_a_save_that_fails_leaves_the_file_before_it_whole(tmp_path, monkeypatch, call):
    path = tmp_path / "run.pt"
    train(sine_learner(), 3, checkpoint=path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        *module, name = call.split(".")
        patch.setattr(files.os if module else files, name, full, raising=False)
        with pytest.raises(CheckpointError, match=r"cannot be written: .*No space left"):
            train(sine_learner(), 6, checkpoint=path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.pt"]
    learner, whole = sine_learner(), sine_learner()
    train(learner, 6, checkpoint=path)
    train(whole, 6)
    assert torch.equal(parameters(learner), parameters(whole))


def test_a_symbolic_link_stays_and_permissions_are_those_of_any_file(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run.pt").symlink_to(tmp_path / "disk" / "real.pt")
    umask = os.umask(0o027)
    try:
        train(sine_learner(), 3, checkpoint=tmp_path / "run.pt")
    finally:
        os.umask(umask)
    assert (tmp_path / "run.pt").is_symlink()
    assert (tmp_path / "disk" / "real.pt").stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path)) == ["disk", "run.pt"]


def test_a_learner_whose_repr_has_addresses_goes_on_in_another_process(tmp_path):
    class Shown(MAML):
        def __init__(self):
            super().__init__(mlp(1, 4, 1), inner_lr=0.01, loss=mse)
            self.key = object()

        def extra_repr(self):
            return f"{super().extra_repr()}, key={self.key}"

    first, second = Shown(), Shown()
    assert repr(first) != repr(second)
    train(first, 2, checkpoint=tmp_path / "run.pt")
    assert len(train(second, 3, checkpoint=tmp_path / "run.pt").losses) == 3
