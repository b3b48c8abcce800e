"""Vocabularies: sentences as tokens and back, and what is refused."""

import pytest

from metanotes.data import END, MASK, PAD, START, UNKNOWN, Pieces, Words, english, meanings

SENTENCES = [english(m) for m in meanings(300, seed=0)]


@pytest.fixture(scope="module", params=["words", "pieces"])
def vocabulary(request):
    return Words(SENTENCES) if request.param == "words" else Pieces.trained(SENTENCES, 200)


def test_a_sentence_comes_back(vocabulary) -> None:
    for sentence in SENTENCES[:50]:
        tokens = vocabulary.encode(sentence)
        assert vocabulary.decode([START, *tokens, END, PAD, *tokens]) == sentence
        assert min(tokens) > MASK
        assert max(tokens) < len(vocabulary)


def test_an_empty_sentence_is_refused(vocabulary) -> None:
    for empty in ("", "   "):
        with pytest.raises(ValueError, match="is empty"):
            vocabulary.encode(empty)


def test_the_same_sentences_give_the_same_vocabulary() -> None:
    assert Words(SENTENCES).digest == Words(SENTENCES).digest != Words(SENTENCES[:20]).digest
    one, other = (Pieces.trained(SENTENCES, 150) for _ in range(2))
    assert one.model == other.model
    assert one.digest == other.digest != Pieces.trained(SENTENCES, 151).digest


def test_words_by_how_often_they_occur() -> None:
    words = Words(["a b b", "c b a"], size=7)
    assert words.words[5:] == ("b", "a")
    assert words.encode("a c b") == [6, UNKNOWN, 5]
    assert words.token("a") == 6
    with pytest.raises(ValueError, match="'c' is no word"):
        words.token("c")
    assert Words.of(["z", "y"]).encode("y z") == [6, 5]
    assert Words.of(["z", "y"]).digest != Words.of(["y", "z"]).digest


def test_pieces_are_kept_in_a_file(tmp_path) -> None:
    pieces = Pieces.trained(SENTENCES, 150)
    pieces.write(tmp_path / "pieces.model")
    again = Pieces.read(tmp_path / "pieces.model")
    assert again.digest == pieces.digest
    assert again.encode(SENTENCES[0]) == pieces.encode(SENTENCES[0])


def test_what_is_no_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="no word"):
        Words([" "])
    with pytest.raises(ValueError, match="size=5"):
        Words(SENTENCES, size=5)
    with pytest.raises(ValueError, match="size=100000 pieces cannot be had"):
        Pieces.trained(SENTENCES[:5], 100_000)
    with pytest.raises(ValueError, match="no model of sentencepiece"):
        Pieces(b"nothing")
