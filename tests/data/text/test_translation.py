"""The reader of real sentences, on a small folder and archive made here; and the real ones."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from metanotes.data import DamagedDataError, Pairs, data_folder, translation

HERE = any((data_folder() / "mt" / name).exists() for name in ("mt.tar.gz", "mt"))
LINES = {
    "ron": "ron-eng/tatoeba-test-v1\tbună\thello\nron-eng/newstest2016\tștiri\tnews\n"
    "ron-eng/tatoeba-test-v1\t \tempty\nhalf a line\n",
    "kor": "kor-eng/tatoeba-test-v1\t안녕\thello\n",
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    lists = {
        f"mt/opus-mt-testsets/pairs_xx-eng/{name}-eng.tsv.gz": gzip.compress(text.encode())
        for name, text in LINES.items()
    }
    return lists | {
        "mt/laser-tatoeba/tatoeba.slk-eng.slk": b"ahoj\n",
        "mt/laser-tatoeba/tatoeba.slk-eng.eng": b"hi\n",
        "mt/laser-tatoeba/tatoeba.ron-eng.ron": b"da\n",
        "mt/laser-tatoeba/tatoeba.ron-eng.eng": b"yes\n",
        "mt/README.md": b"something else",
    }


def as_archive(files: dict[str, bytes], root: Path) -> Path:
    (root / "mt").mkdir(parents=True)
    with tarfile.open(root / "mt" / "mt.tar.gz", "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return root


def as_folder(files: dict[str, bytes], root: Path) -> Path:
    for name, content in files.items():
        path = root / "mt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.mark.parametrize("made", [as_archive, as_folder])
def test_the_pairs_of_a_folder_or_an_archive(files, made, tmp_path: Path) -> None:
    root = made(files, tmp_path / "data")
    read = translation(root=root)
    assert read.keys() == {"ron", "kor", "slk"}
    assert read["ron"] == Pairs(("bună",), ("hello",))  # LASER's would be a part of them
    assert read["slk"] == Pairs(("ahoj",), ("hi",))
    assert translation(["ron"], part="news", root=root) == {"ron": Pairs(("știri",), ("news",))}
    assert list(translation(["slk", "kor"], root=root)) == ["slk", "kor"]


def test_a_language_without_pairs_is_refused(files, tmp_path: Path) -> None:
    root = as_archive(files, tmp_path / "data")
    with pytest.raises(ValueError, match=r"\['xyz'\] have no pairs here; there are kor, ron, slk"):
        translation(["ron", "xyz"], root=root)
    with pytest.raises(ValueError, match="'kor' has no pairs"):
        translation(["kor"], part="news", root=root)
    with pytest.raises(ValueError, match="part='tales'"):
        translation(["kor"], part="tales", root=root)  # type: ignore[arg-type]


def test_data_that_is_not_there_or_damaged_is_refused(files, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="METANOTES_DATA"):
        translation(root=tmp_path / "nowhere")
    name = "mt/opus-mt-testsets/pairs_xx-eng/ron-eng.tsv.gz"
    with pytest.raises(DamagedDataError, match="ron-eng"):
        translation(root=as_archive(files | {name: files[name][:-9]}, tmp_path / "half"))
    with pytest.raises(DamagedDataError, match="ron-eng"):
        translation(root=as_folder(files | {name: gzip.compress(b"\xff\xfe")}, tmp_path / "bytes"))
    with pytest.raises(DamagedDataError, match="no pairs of any language"):
        translation(root=as_archive({"mt/README.md": b"x"}, tmp_path / "none"))
    del files["mt/laser-tatoeba/tatoeba.slk-eng.eng"]
    with pytest.raises(DamagedDataError, match="not whole"):
        translation(root=as_archive(files, tmp_path / "one side"))


@pytest.mark.skipif(not HERE, reason="the sentences are not here")
def test_the_real_sentences() -> None:
    read = translation(["ron", "fra", "slk"])
    assert [len(pairs.source) for pairs in read.values()] == [5508, 12_681, 1000]
    assert "Respectă-ți promisiunea." in read["ron"].source
