"""Files of questions, sets of them, and how answers are scored."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from modeling.answering.config import AnsweringConfig, QuestionsConfig
from modeling.answering.files import read_questions
from modeling.answering.maker import Document, found_in, made_questions
from modeling.answering.metrics import exact_match, f1, scores
from modeling.answering.questions import Question, read_split
from modeling.answering.sets import NOT_FOUND, make_set
from textmill.errors import UserError

ROW = {"question": "Who sees rain?", "context": "The cat sees rain.", "answer": "The cat"}
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Cats",
            "paragraphs": [
                {
                    "context": "The cat sees rain. The cat sleeps.",
                    "qas": [
                        {
                            "id": "a", "question": "Who sleeps?", "is_impossible": False,
                            "answers": [{"text": "The cat", "answer_start": 19}, {"text": "cat", "answer_start": 23}],
                        },
                        {
                            "id": "b", "question": "Who barks?", "is_impossible": True, "answers": [],
                            "plausible_answers": [{"text": "The cat", "answer_start": 0}],
                        },
                    ],
                }
            ],
        }
    ],
}  # fmt: skip


def written(path, content):
    path.write_text(content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content))
    return path


def test_squad_is_read_with_its_places_and_its_impossible_questions(tmp_path):
    first, second = read_questions(written(tmp_path / "dev.json", json.dumps(SQUAD)))
    assert (first.id, first.document, first.answers, first.starts) == ("a", "Cats", ("The cat", "cat"), (19, 23))
    assert (second.id, second.answers, second.is_found) == ("b", (), True)
    v1 = json.loads(json.dumps(SQUAD))
    for question in v1["data"][0]["paragraphs"][0]["qas"]:
        del question["is_impossible"]
    v1["data"][0]["paragraphs"][0]["qas"].pop()
    assert read_questions(written(tmp_path / "train.json", json.dumps(v1))) == [first]


def test_json_lines_parquet_and_csv_say_the_same(tmp_path):
    rows = [ROW, ROW | {"question": "What is seen?", "answer": "rain"}, ROW | {"question": "When?", "answer": ""}]
    lines = written(tmp_path / "q.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    text = "question,context,answer\r\n" + "".join(
        f'"{r["question"]}","{r["context"]}",{r["answer"]}\r\n' for r in rows
    )
    csv = written(tmp_path / "q.csv", text)
    read = read_questions(lines)
    assert [question.starts for question in read] == [(0,), (13,), ()]
    assert read == read_questions(tmp_path / "q.parquet") == read_questions(csv)


def test_several_answers_come_as_texts_or_as_hugging_face_has_them(tmp_path):
    base = {"question": "Who?", "context": "a cat, the cat"}
    plain, places = read_questions(
        written(
            tmp_path / "q.jsonl",
            [
                base | {"answers": ["the cat", "a cat", "the cat"]},
                base | {"answers": {"text": ["cat", "the cat"], "answer_start": [11, 7]}},
            ],
        )
    )
    assert (plain.answers, plain.starts) == (("the cat", "a cat"), (7, 0))
    assert (places.answers, places.starts) == (("cat", "the cat"), (11, 7))


def test_prompts_need_no_context(tmp_path):
    [prompt] = read_questions(written(tmp_path / "p.jsonl", [{"prompt": "2 + 2 =", "answer": "4"}]))
    assert (prompt.question, prompt.context, prompt.answers) == ("2 + 2 =", None, ("4",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.jsonl", '{"question": "Who?"\n', r"q.jsonl:1: not valid JSON \(Expecting"),
        ("q.jsonl", "\n[1]\n", "q.jsonl:2: a JSON object is wanted, with question, context and answer, or prompt and"),
        ("q.jsonl", [ROW, {"question": "Who?", "answer": "x"}], "q.jsonl:2: context is missing; it needs question"),
        ("q.jsonl", [{"question": "Who?", "context": "x"}], "q.jsonl:1: answer is missing; it needs"),
        ("q.jsonl", [ROW | {"question": 3}], "q.jsonl:1: question is 3, not a text"),
        ("q.jsonl", [ROW | {"context": "\ud800 x"}], "q.jsonl:1: context holds half a surrogate pair"),
        ("q.jsonl", [ROW | {"context": " "}], "q.jsonl:1: context is empty"),
        ("q.jsonl", [ROW | {"answer": 1.5}], "q.jsonl:1: answer is 1.5, not a text or a list of texts"),
        ("q.jsonl", [ROW | {"answer_start": "x"}], "q.jsonl:1: answer_start is 'x', not a number of characters"),
        ("q.jsonl", [ROW | {"id": 7}, ROW | {"id": "7"}], r"q.jsonl:2: the id '7' is also that of .*q.jsonl:1; give"),
        ("q.jsonl", [{"prompt": "x", "answer": ""}], "q.jsonl:1: answer is missing or empty; a prompt needs one"),
        ("q.jsonl", "\n", "q.jsonl holds no question"),
        ("q.csv", "question,context,answer\na,b\n", "q.csv:2: this line has another number of columns than the first"),
        ("q.csv", 'question,context,answer\na,"b" c,d\n', r"q.csv:2: not valid CSV \("),
        ("q.json", '{"data": {}}', "q.json: SQuAD's JSON has a list `data` there; other questions go into a .jsonl"),
        ("q.json", '{"data": [{"paragraphs": [{"qas": [{"question": "a", "answers": []}]}]}]}',
         r"q.json: data\[0\].paragraphs\[0\].qas\[0\]: context is null, not a text"),
        ("q.parquet", "PAR1", "q.parquet cannot be read as Parquet"),
        ("q.txt", "x", "q.txt: a file of questions is .jsonl"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_file_and_line(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message) as error:
        read_questions(written(tmp_path / name, content))
    assert "\n" not in str(error.value)


def test_an_answer_that_its_context_lacks_is_counted_listed_and_kept(tmp_path):
    rows = [ROW | {"context": f"{ROW['context']} {n}"} for n in range(9)] + [ROW | {"answer": "the dog"}]
    config = QuestionsConfig(path=str(written(tmp_path / "q.jsonl", rows)), validation_fraction=0.3)
    stats = make_set(config, None, tmp_path / "set")
    assert stats["train"]["questions"] + stats["validation"]["questions"] == 10
    assert stats["train"]["not_found"] + stats["validation"]["not_found"] == 1
    [lost] = map(json.loads, (tmp_path / "set" / NOT_FOUND).read_text().splitlines())
    assert (lost["id"], lost["answer"]) == ("9", "the dog")
    kept = {q.id: q for split in ("train", "validation") for q in read_split(tmp_path / "set", split)}
    assert len(kept) == 10 and kept["9"].starts == (-1,) and not kept["9"].is_found


def test_questions_of_a_document_are_held_out_together(tmp_path):
    rows = [ROW | {"title": f"doc {n // 5}", "question": f"{n}?"} for n in range(50)]
    stats = make_set(QuestionsConfig(path=str(written(tmp_path / "q.jsonl", rows))), None, tmp_path)
    assert stats["validation"] == {"questions": 5, "documents": 1, "prompts": 0, "impossible": 0, "not_found": 0}
    train, held_out = (read_split(tmp_path, split) for split in ("train", "validation"))
    assert not {q.document for q in train} & {q.document for q in held_out}
    with pytest.raises(UserError, match=r"q.jsonl: all questions have the same context, so none can be held out"):
        make_set(QuestionsConfig(path=str(written(tmp_path / "q.jsonl", [ROW, ROW]))), None, tmp_path / "other")


def test_a_file_none_of_whose_answers_occurs_is_refused(tmp_path):
    rows = [ROW | {"answer": "dog"}, ROW | {"context": "x", "answer": "the dog"}]
    with pytest.raises(UserError, match=r"q.jsonl: no answer occurs in its context \(the first: 'dog'\)"):
        make_set(QuestionsConfig(path=str(written(tmp_path / "q.jsonl", rows))), None, tmp_path)


TEXT = """Lists

A list is a mutable sequence of objects. It can grow.

append(self, object, /)
    Append object to the end of the list. Nothing is returned.

copy(self, /)
    Return a shallow copy of the list.

IndexError is raised if the list is empty. The size of a chunk defaults to 64, at most.

Changed in version 3.8: Slices may be reversed.

A list inside a list is called a nested list."""


def test_the_rules_make_questions_whose_answers_are_in_their_contexts():
    made = list(made_questions([Document("d", "list", TEXT)], QuestionsConfig(context_characters=200)))
    assert {question.question: question.answers[0] for question in made} == {
        "What is a list?": "a mutable sequence of objects",
        "What does append() of list do?": "Append object to the end of the list",
        "What does copy() of list return?": "a shallow copy of the list",
        "What is raised if the list is empty?": "IndexError",
        "What does the size of a chunk default to?": "64",
        "In which version was it changed: Slices may be reversed?": "3.8",
        "What is a list inside a list called?": "nested list",
    }
    for question in made:
        assert question.context.startswith(question.answers[0], question.starts[0])
        assert len(question.context) <= 260
    assert made == list(made_questions([Document("d", "list", TEXT)], QuestionsConfig(context_characters=200)))


def test_a_gap_leaves_out_a_term_that_occurs_once():
    gaps = []
    for n in range(30):
        sentence = f"The module number {n} of this library reads its settings from the file setup.cfg."
        gaps += [(sentence[found.start : found.end], found.question) for found in found_in(sentence, "")]
    assert 3 < len(gaps) < 20
    assert all(term == "setup.cfg" or term.isdigit() for term, _ in gaps)
    assert all(question.count("____") == 1 and term not in question for term, question in gaps)


def test_impossible_questions_get_a_context_without_their_answer():
    text = "\n\n".join(f"The word number {n} is a thing called T{n}{n}, and so on." for n in range(100, 160))
    config = QuestionsConfig(impossible=0.4, per_document=100, context_characters=100)
    made = list(made_questions([Document("d", "", text)], config))
    impossible = [question for question in made if not question.answers]
    assert 0.2 < len(impossible) / len(made) < 0.6
    possible = {q.question: q for q in made_questions([Document("d", "", text)], QuestionsConfig(per_document=100))}
    assert all(possible[q.question].answers[0] not in q.context for q in impossible)


# From SQuAD's own evaluation (v2, `compute_exact` and `compute_f1`)
@pytest.mark.parametrize(
    ("answer", "right", "exact", "harmonic"),
    [
        ("The Eiffel Tower!", "eiffel  tower", 1.0, 1.0),
        ("the tall tower", "Eiffel Tower", 0.0, 0.5),
        ("a b b c", "b b d", 0.0, 2 / 3),
        ("", "", 1.0, 1.0),
        ("", "x", 0.0, 0.0),
        ("the", "", 1.0, 1.0),
        ("U.S.A.", "USA", 1.0, 1.0),
        ("well-known", "well known", 0.0, 0.0),
    ],
)
def test_answers_are_scored_as_squad_does(answer, right, exact, harmonic):
    assert exact_match(answer, right) == exact
    assert f1(answer, right) == pytest.approx(harmonic)


def test_the_answer_that_suits_best_counts_and_an_empty_one_where_there_is_none():
    def question(*answers):
        return Question("", "", "?", "", answers, ())

    scored = scores(["big cat", "", "dog"], [question("cat", "the big cat"), question(), question("cat")])
    assert scored == {"exact_match": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3)}


@pytest.mark.parametrize("setting", [{"mixture": {"docs": {"weight": 1}}}, {"window_start": "document"}])
def test_settings_of_running_text_are_refused(setting):
    with pytest.raises(ValidationError, match="windows of questions are not cut from running text; leave it out"):
        AnsweringConfig.model_validate(setting)


def test_a_template_has_a_place_for_both():
    with pytest.raises(ValidationError, match=r"write \{context\} and \{question\} once each"):
        AnsweringConfig(template="{question}")
