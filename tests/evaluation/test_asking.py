"""How questions are put, and what counts as the answer of a program."""

import pytest
from support.evaluation import CORPUS, lines_of

from s2l_ray.config import EvaluationConfig, PromptConfig
from s2l_ray.corpus.rows import Example
from s2l_ray.corpus.templates import segments
from s2l_ray.evaluation.asking import Asking, asking_of
from s2l_ray.evaluation.programs import answers_of_programs, program_of

QUESTION = Example([{"role": "user", "text": "2 + 2?"}, {"role": "assistant", "text": "4"}])


def prompt_of(example):
    """The text before the first label, in the plain template."""
    pieces = segments(example, PromptConfig(template="plain"))
    first = next(n for n, piece in enumerate(pieces) if piece.is_label)
    return "|".join(piece.text for piece in pieces[:first])


@pytest.mark.parametrize(
    ("answer_with", "asked"),
    [
        ("text", "2 + 2?\n"),
        ("chain", "2 + 2? Let's think step by step.\n"),
        ("program", "2 + 2? Let's write a program.\n"),
        ("program_or_text", "2 + 2? Let's write a program.\n"),
    ],
)
def test_what_follows_a_question(answer_with, asked):
    assert prompt_of(Asking(answer_with).put(QUESTION)) == asked
    again = Asking(answer_with).again
    assert (again == Asking()) == (answer_with == "program_or_text")
    assert QUESTION.turns[0]["text"] == "2 + 2?"  # the set itself stays as it is


def test_examples_come_before_a_question_and_have_no_label():
    asking = Asking("program", (("1 + 1?", "print(1 + 1)"), ("3 + 1?", "print(4)")))
    assert prompt_of(asking.put(QUESTION)) == (
        "1 + 1? Let's write a program.\n|print(1 + 1)|"
        "3 + 1? Let's write a program.\n|print(4)|2 + 2? Let's write a program.\n"
    )
    asked = asking.put(QUESTION)
    assert [turn.get("train") for turn in asked.turns] == [None, False, None, False, None, None]


def test_examples_are_the_first_rows_of_their_file(local_ray, store, tmp_path):
    rows = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(8)]
    file = lines_of(tmp_path / "shots.jsonl", rows)
    pairs = tuple((f"q{n}", f"a{n}") for n in range(8))

    def asking(**changes):
        return asking_of(store, EvaluationConfig(few_shot=file, **changes), CORPUS)

    assert asking() == Asking("text", pairs)
    assert asking(few_shot_examples=3, answer_with="chain") == Asking("chain", pairs[:3])
    assert asking_of(store, EvaluationConfig(), CORPUS) == Asking()
    with pytest.raises(ValueError, match=r"few_shot_examples: expected at most 8, .*got 9"):
        asking(few_shot_examples=9)
    lines_of(tmp_path / "shots.jsonl", [{"question": "q"}])
    with pytest.raises(ValueError, match=r"evaluation\.few_shot: .*answer"):
        asking()


def test_fields_that_need_each_other():
    for given, found in (
        ({"few_shot_examples": 2}, "few_shot_examples: expected the file few_shot"),
        ({"bert_score_model": "m"}, "bert_score_model, bert_score_layer: expected both"),
        ({"texts": {"a": "f"}, "answers": {"a": "g"}}, "texts: the name 'a' is taken"),
    ):
        with pytest.raises(ValueError, match=found):
            EvaluationConfig(**given)
    plain = EvaluationConfig()
    assert not {"answer_with", "few_shot", "texts"} & plain.settings().keys()


def test_the_program_in_a_text_and_its_answer():
    fenced = "I add them.\n```python\nprint(1)\nprint(2 + 2)\n```\nSo it is 5.\n```\nprint(9)\n```"
    assert program_of(fenced) == "print(1)\nprint(2 + 2)"
    assert program_of("```\nx = 3") == "x = 3"
    assert program_of("x = 3\nprint(x)") == "x = 3\nprint(x)"
    texts = [fenced, "print('a\\n 18.0 \\n\\n')", "The answer is 4.", "x = 1", "ans = 7", ""]
    found, reasons = answers_of_programs(texts)
    assert found == ["4", "18.0", None, None, "7", None]
    assert reasons == ["error", "nothing", "nothing"]
