"""Two checkouts take turns. Nothing is said about who is faster."""

import json
import shutil
from pathlib import Path

import pytest

import metanotes
from benchmarks.__main__ import main
from benchmarks.against import Pair
from benchmarks.turn import take_metanotes

ARGUMENTS = ["--quick", "--threads", "1", "--only", "^sine/"]


@pytest.mark.slow
def test_a_copy_of_the_package_is_measured_beside_it(tmp_path, capsys):
    old = tmp_path / "old"
    ours = Path(metanotes.__file__).parent
    shutil.copytree(ours, old / "metanotes", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "ratios.json"
    main([*ARGUMENTS, "--against", str(old), "--record", str(path)])
    (entry,) = json.loads(path.read_text(encoding="utf-8"))["workloads"]
    assert "note" not in entry
    assert entry["turns"] == 4  # two rounds of two
    low, middle, high = entry["ratio"]
    assert 0 < low <= middle <= high
    assert entry["old_ms"][1] > 0
    assert entry["new_ms"][1] > 0
    assert entry["workload"] in capsys.readouterr().out
    assert str(tmp_path) not in path.read_text(encoding="utf-8")


def test_work_that_the_other_cannot_do_is_left_out_and_says_why(tmp_path, capsys):
    (tmp_path / "metanotes").mkdir()
    (tmp_path / "metanotes" / "__init__.py").touch()
    main([*ARGUMENTS, "--against", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "left out: old: ImportError: " in printed
    assert "sine: cannot import name 'Batch'" in printed
    assert "0 of 1 are slower" in printed


def test_a_folder_without_the_package_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="it has no folder metanotes/"):
        main(["--against", str(tmp_path)])


def test_a_package_that_is_imported_already_is_not_taken_for_another(tmp_path):
    (tmp_path / "metanotes").mkdir()
    with pytest.raises(ImportError, match="imported from elsewhere"):
        take_metanotes(tmp_path)


def test_a_ratio_is_new_over_old_turn_by_turn():
    pair = Pair("work", "metanotes", {"old": [1.0, 2.0, 4.0], "new": [1.0, 2.2, 4.8]})
    assert pair.ratios() == pytest.approx((1.05, 1.1, 1.15))
    assert pair.slower
    assert not Pair("work", "metanotes", {"old": [1.0], "new": [1.02]}).slower
    assert not Pair("work", "metanotes", note="it could not").slower
