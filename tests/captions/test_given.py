"""Captions in a file of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given as property_of
from hypothesis import strategies as st

from lensbench.captions.given import place_of, read_given
from lensbench.captions.texts import training_texts
from lensbench.data.corpus import open_corpus
from lensbench.experiment import Captions, Experiment, ShapesCorpus

ROWS = [
    {"key": "train-00000000", "text": "a red circle"},
    {"key": "train-00000001", "text": "a blue ring"},
    {"key": "train-00000000", "text": "one circle, red"},
    {"key": "train-00000002", "text": "", "state": "refused"},
    {"key": "train-00000002", "text": "ein grüner Ring"},
]


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_every_kind_of_file_gives_the_same_captions(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"mine.{kind}"
    if kind == "jsonl":
        jsonl(path, ROWS)
    elif kind == "parquet":
        pd.DataFrame(ROWS).to_parquet(path)
    else:
        pd.DataFrame(ROWS).to_csv(path, index=False)
    found = read_given(path)
    assert found.texts["train-00000000"] == ("a red circle", "one circle, red")
    assert found.states == {"done": 4, "refused": 1}
    assert found.digest == read_given(jsonl(tmp_path / "same.jsonl", ROWS)).digest
    assert found.digest != read_given(jsonl(tmp_path / "other.jsonl", ROWS[:-1])).digest


def test_several_captions_an_image_are_a_mixture_and_a_limit_cuts_it(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "mine.jsonl", ROWS)
    both, first = read_given(path), read_given(path, limit=1)
    assert (both.policy_set(), first.policy_set()) == ("0.500000*given+0.500000*given2", "given")
    policy = Captions(set=both.policy_set(), given=path, given_digest=both.digest)
    corpus = open_corpus(ShapesCorpus(), 3)
    experiment = Experiment(captions=policy, images=3)
    texts = training_texts(corpus, policy, corpus.train_keys, experiment.text_encoder)
    assert texts["given"] == ["a red circle", "a blue ring", "ein grüner Ring"]
    assert texts["given2"] == ["one circle, red", "a blue ring", "ein grüner Ring"], "one caption comes again"


@property_of(st.integers(1, 9))
def test_the_shares_of_any_number_of_captions_sum_to_one(most: int) -> None:
    from lensbench.captions.given import Given

    found = Given({"k": tuple(map(str, range(most)))}, {"done": most})
    policy = Captions(set=found.policy_set(), given=Path("x"), given_digest="0" * 64)
    assert len(policy.shares) == most
    assert sorted(place_of(name) or 0 for name in policy.shares) == list(range(most))
    assert all(abs(share - 1 / most) < 1e-5 for share in policy.shares.values())


def test_a_template_makes_text_of_fields(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "parts.jsonl", [{"key": "k", "color": "red", "shape": "ring", "n": 2}])
    assert read_given(path, "{n} {color} {shape}s").texts == {"k": ("2 red rings",)}
    with pytest.raises(ValueError, match=r"parts.jsonl:1: has no 'size'"):
        read_given(path, "{size} {shape}")
    with pytest.raises(ValueError, match="needs --template"):
        read_given(path)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['{"key": "k", "text": "a"}', '{"key": "k", "text": " "}'], "mine.jsonl:2: an empty caption"),
        (['{"key": "k", "text": 7}'], 'mine.jsonl:1: "text" is 7'),
        (['{"text": "a"}'], 'mine.jsonl:1: no "key"'),
        (["[1]"], "mine.jsonl:1: must be an object"),
        (['{"key": '], "mine.jsonl:1: not JSON"),
        ([], "holds no caption"),
        (['{"key": "k", "text": "", "state": "failed"}'], "holds no caption"),
    ],
)
def test_what_is_no_caption_is_one_line(tmp_path: Path, lines: list[str], said: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=said) as caught:
        read_given(path)
    assert "\n" not in str(caught.value)


@property_of(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n")).filter(str.strip), min_size=1))
def test_a_line_ends_at_a_newline_alone_whatever_breaks_its_texts_hold(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("given") / "mine.jsonl"
    rows = [{"key": "k", "text": text} for text in [*texts, "a\u2028b\u0085c\u2029d\x1ce"]]
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    assert read_given(path).texts == {"k": tuple(row["text"] for row in rows)}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "mine.jsonl",
            b'{"key": "k", "text": "a"}\n{"key": "k", "text": "cat \\ud83d"}\n',
            r"mine.jsonl:2: half of .*\\ud83d",
        ),
        ("mine.jsonl", b'{"key": "k", "text": "a"}\n\xff\n', "mine.jsonl:2: not UTF-8 text"),
        (
            "mine.csv",
            b"key,text\nk,a\nk," + b"a" * 131_073 + b"\n",
            r"mine.csv:3: .*larger than field limit \(131072\)",
        ),
        ("mine.csv", b"key;text\nk;a, b\n", "mine.csv:1: its columns are separated by ';'; save it with commas"),
        ("mine.csv", b"key\ttext\nk\ta\n", r"mine.csv:1: its columns are separated by '\\t'"),
        ("mine.csv", b"key,text\nk,\xff\n", "mine.csv: not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        read_given(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "mine.jsonl", [{"key": "train-00000000", "text": "a"}, {"key": "train-00000001", "text": "b"}]
    )
    policy = Captions(set="given", given=path, given_digest="0" * 64)
    corpus = open_corpus(ShapesCorpus(), 2)
    with pytest.raises(ValueError, match="these are others"):
        training_texts(corpus, policy, corpus.train_keys, Experiment().text_encoder)
    three = open_corpus(ShapesCorpus(), 3)
    own = policy.model_copy(update={"given_digest": read_given(path).digest})
    with pytest.raises(ValueError, match="no caption for 1 of 3 training images, as train-00000002"):
        training_texts(three, own, three.train_keys, Experiment().text_encoder)


def test_what_is_hashed_is_what_the_captions_are_and_not_where_they_lie() -> None:
    def experiment(path: str, digest: str) -> Experiment:
        return Experiment(captions=Captions(set="given", given=Path(path), given_digest=digest * 64))

    assert experiment("a", "1").hash() == experiment("b", "1").hash() != experiment("a", "2").hash()
    with pytest.raises(ValueError, match="given_digest"):
        Captions(set="given")
