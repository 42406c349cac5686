"""Rows of tests/cases as the corpus stage reads them, with what is right for each by hand."""

from pathlib import Path

import pytest
from support.parsed import read, refusal

CASES = Path(__file__).parents[1] / "cases"
PLAIN = ("role", "text")

WEATHER = (
    '[{"type":"function","function":{"name":"weather","parameters":{"type":"object",'
    '"properties":{"city":{"type":"string"}}}}}]'
)
AREA = '[{"type":"function","function":{"name":"area","arguments":{"a":2,"b":3}}}]'


def called(city):
    function = '{"name":"weather","arguments":"{\\"city\\": \\"CITY\\"}"}'.replace("CITY", city)
    return f'[{{"id":"c1","type":"function","function":{function}}}]'


def shown(row):
    """A row's turns as `role: text`, with the fields beyond them in brackets; or its reason."""
    if row["reason"] is not None:
        return row["reason"].split(":")[0]
    return [
        f"{turn['role']}: {turn['text']}"
        + "".join(
            f" [{name}: {value}]"
            for name, value in turn.items()
            if name not in PLAIN and value is not None
        )
        for turn in row["turns"]
    ]


SAY_HI = ["user: Say hi", "assistant: hi"]
AB = ["user: a", "assistant: b"]
EXPECTED = {
    "c01_reasoning.jsonl": [
        ["user: What is 7*8?", "assistant: 56 [reasoning: Seven eights are fifty-six.]"],
        ["user: What is 7*8?", "assistant: 56 [reasoning: 8*8 is 64, less 8 is 56.]"],
        ["user: What is 9*9?", "assistant: 81 [reasoning: Nine nines.]"],
    ],
    "c02_tool_calls.jsonl": [
        ["user: Weather there?", f"assistant: One moment. [tool_calls: {called(city)}]"]
        for city in ("Oslo", "Rome")
    ],
    "c03_tool_turns.jsonl": [
        [
            "user: Weather in Oslo?",
            f"assistant:  [tool_calls: {called('Oslo')}]",
            'tool: {"t": 3} [tool_call_id: c1]',
            "assistant: It is 3 degrees.",
        ]
    ],
    "c04_sharegpt_tools.jsonl": [
        [
            "user: Area of 2 by 3?",
            f"assistant:  [tool_calls: {AREA}]",
            'tool: {"area": 6}',
            "assistant: It is 6.",
        ],
        ["user: Hi", "assistant: Hello.", "tool: {}", "assistant: Done."],
    ],
    "c05_system_column.jsonl": [
        ["system: Speak formally.", "user: Greet me.", "assistant: Good day."],
        ["system: You are a butler.", "user: Greet me.", "assistant: Good day."],
        ["user: Name a colour.", "assistant: Red."],
    ],
    "c07_history.jsonl": [
        [
            "system: Be terse.",
            "user: What is two and two?",
            "assistant: Four.",
            "user: And times three?",
            "assistant: Twelve.",
        ]
    ],
    "c08_weight.jsonl": [
        ["user: 2+2?", "assistant: Five. [train: False]", "user: No.", "assistant: Four."]
    ],
    "c09_parts.jsonl": [
        SAY_HI,
        SAY_HI,
        SAY_HI,
        "wrong type of 'content'",  # an image
        SAY_HI,
        "wrong type of 'content'",  # a part of thinking
    ],
    "c10_sequence_of_dict.parquet": [["user: Hi", "assistant: Hello."]],
    "c16c_input_and_context.jsonl": [
        ["user: Who?", "input: Ann did it.", "assistant: Ann"],
        ["user: Who?", "input: Bob did it.", "assistant: Ann"],
    ],
    "c17_union.parquet": [["user: Hi", "assistant: Hello."], ["user: Say c", "assistant: c"]],
    "c21_orders.jsonl": [
        "the first turn is the assistant's",
        ["system: Be terse.", "assistant: Hello.", "user: 2+2?", "assistant: Four."],
    ],
    "c21b_roles.jsonl": [
        AB,
        AB,
        AB,
        "empty field 'content'",
        "empty field 'content'",
        ["system: ", *AB],
        ["system: ", *AB],
        "no assistant turn",
        "no assistant turn",
    ],
    "c34_json_string.jsonl": [AB],
    "c40c_prompt_completion_messages.jsonl": [SAY_HI],
    "c40e_query_response.jsonl": [["user: 2+2?", "assistant: 4"]],
    "c40f_input_output.jsonl": [["user: 2+2?", "assistant: 4"]],
    "c40g_problem_solution.jsonl": [["user: 2+2?", "assistant: 4"]],
    "c40h_conversation.jsonl": [AB],
    "c40i_int_answer.jsonl": [
        "wrong type of 'answer'",
        ["user: Sky?", "assistant: blue"],
        "wrong type of 'answer'",
        "wrong type of 'answer'",
    ],
    "c55_duplicates.jsonl": [
        AB,
        ["user: a", "assistant: b "],
        AB,
        ["user: a\r\n", "assistant: b"],
        ["user: e\u0301", "assistant: b"],
        ["user: \u00e9", "assistant: b"],
    ],
    "c56_source.jsonl": [
        AB,
        ["user: c", "assistant: d"],
        "wrong type of 'source'",
        ["user: g", "assistant: h"],
        ["user: i", "assistant: j"],
    ],
    "c62_kto.jsonl": [["user: q", "assistant: good"], "marked as a bad answer"],
    "c64_empty_instruction.jsonl": ["empty field 'instruction'"],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_rows_are_read_or_refused_by_name(name):
    rows = read(CASES / name)
    assert [shown(row) for row in rows] == EXPECTED[name]
    tools = {"c02_tool_calls.jsonl": WEATHER, "c03_tool_turns.jsonl": WEATHER}
    good = [row for row in rows if row["reason"] is None]
    assert {row["tools"] for row in good} <= {tools.get(name)}
    assert [row["example_id"] is None for row in rows] == [
        row["reason"] is not None for row in rows
    ]
    # No two that differ share an id.
    ids = {row["example_id"]: shown(row) for row in good}
    assert all(ids[row["example_id"]] == shown(row) for row in good)
    distinct = {(row["source"], str(shown(row)), row["tools"]) for row in good}
    assert len(ids) == len(distinct)


def test_sources_of_rows():
    sources = [row["source"] for row in read(CASES / "c56_source.jsonl")]
    assert sources == ["x", "default", None, "3", "default"]


def test_a_column_that_is_mapped_holds_one_thing():
    rows = read(
        CASES / "c57_input_output_mapped.jsonl",
        columns={"instruction": "input", "output": "output"},
    )
    assert [shown(row) for row in rows] == [
        ["user: 2+2?", "assistant: 4"],
        ["user: Sky?", "assistant: Blue."],
    ]


@pytest.mark.parametrize(
    "name, hint",
    [
        ("c40_dpo.jsonl", "set corpus.columns: {instruction: prompt, output: chosen}"),
        ("c40b_dpo_messages.jsonl", "set corpus.columns: {messages: chosen}"),
        ("c40d_text.jsonl", "found text; expected messages or conversations or"),
    ],
)
def test_files_that_hold_no_examples_are_refused_with_what_to_do(name, hint):
    assert hint in refusal(CASES / name)


@pytest.mark.parametrize(
    "name, columns",
    [
        ("c40_dpo.jsonl", {"instruction": "prompt", "output": "chosen"}),
        ("c40b_dpo_messages.jsonl", {"messages": "chosen"}),
    ],
)
def test_the_hint_for_preferences_reads_the_chosen_answers(name, columns):
    assert [shown(row) for row in read(CASES / name, columns=columns)] == [SAY_HI]
