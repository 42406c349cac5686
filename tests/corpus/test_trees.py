"""OpenAssistant's rows, one per message: every way through a tree is a chat."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
from support.parsed import check_bad, encoded, read

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.dividing import _rows
from s2l_ray.corpus.files.ranges import ranges_of
from s2l_ray.corpus.rows import one_by_one
from s2l_ray.corpus.sources import resolve


def row(name, parent, role, text=None, **more):
    text = text or f"text of {name}"
    return {
        "message_id": name,
        "parent_id": parent,
        "role": role,
        "text": text,
        "lang": "en",
    } | more


def tree(root="q"):
    """
    q - a1 - r1 - b1
      |         - b2
      - a2 - r2
      - a3
    """
    return [
        row(root, None, "prompter", rank=None),
        row(f"{root}a1", root, "assistant", rank=0),
        row(f"{root}r1", f"{root}a1", "prompter"),
        row(f"{root}b1", f"{root}r1", "assistant"),
        row(f"{root}b2", f"{root}r1", "assistant"),
        row(f"{root}a2", root, "assistant"),
        row(f"{root}r2", f"{root}a2", "prompter"),
        row(f"{root}a3", root, "assistant"),
    ]


def lines(rows):
    return b"".join(encoded(each) + b"\n" for each in rows)


def shown(found):
    """The messages of each chat; those without labels in brackets."""
    return [
        " ".join(
            f"({turn['text']})" if turn["train"] is False else turn["text"]
            for turn in each["turns"]
        ).replace("text of ", "")
        for each in found
        if each["reason"] is None
    ]


CHATS = ["q qa1 qr1 qb1", "q (qa1) qr1 qb2", "q qa2 qr2", "q qa3"]


def test_every_way_through_a_tree_is_a_chat(tmp_path):
    found = read(tmp_path / "trees.jsonl", lines(tree() + tree("p")))
    assert shown(found) == CHATS + [chat.replace("q", "p") for chat in CHATS]
    assert [each["row"] for each in found] == [4, 5, 7, 8, 12, 13, 15, 16]
    assert {turn["role"] for each in found for turn in each["turns"]} == {"user", "assistant"}
    path = tmp_path / "trees.parquet"
    pq.write_table(pa.Table.from_pylist(tree() + tree("p")), path)
    again = read(path)
    assert [each["example_id"] for each in again] == [each["example_id"] for each in found]


def test_a_shared_answer_has_labels_once_under_the_user_s_own_role_names(tmp_path):
    names = {"prompter": "asker", "assistant": "Clerk "}
    rows = [each | {"role": names[each["role"]]} for each in tree()]
    roles = {"asker": "user", "clerk": "assistant"}
    assert shown(read(tmp_path / "trees.jsonl", lines(rows), roles=roles)) == CHATS


def test_a_question_that_nothing_answers_adds_no_chat_of_its_own(tmp_path):
    rows = [row("q", None, "prompter"), row("a", "q", "assistant"), row("r", "a", "prompter"),
            row("b", "r", "assistant"), row("s", "a", "prompter")]  # fmt: skip
    assert shown(read(tmp_path / "trees.jsonl", lines(rows))) == ["q a r b"]
    path = tmp_path / "alone.jsonl"
    alone, chat = read(path, lines([row("q", None, "prompter"), *tree()[:2]]))
    check_bad(alone, path, 1, "no assistant turn: 1 messages")
    assert shown([chat]) == ["q qa1"]


def test_bad_messages_are_rejected_with_all_that_follow_from_them(tmp_path):
    path = tmp_path / "trees.jsonl"
    rows = tree()
    rows[1]["review_result"] = False
    rows[7]["deleted"] = True
    *chats, last = sorted(read(path, lines(rows)), key=lambda each: each["row"])
    assert shown(chats) == ["q qa2 qr2"]
    check_bad(chats[0], path, 2, "marked as a bad answer: 'deleted' is true or 'review_result' is")
    for number, parent in ((3, "qa1"), (4, "qr1"), (5, "qr1")):
        bad = next(each for each in chats if each["row"] == number)
        check_bad(bad, path, number, f"missing parent of a message: '{parent}' is not among")
        assert json.loads(bad["raw"])["parent_id"] == parent
    check_bad(last, path, 8, "marked as a bad answer")


def test_other_columns_of_a_message_are_used_or_refused(tmp_path):
    path = tmp_path / "trees.jsonl"
    rows = [row("q", None, "prompter", images=["a.png"], system_prompt="Be brief."),
            row("a", "q", "assistant", images=None), row("p", None, "prompter", system="Rhyme."),
            row("b", "p", "chatgpt")]  # fmt: skip
    bad, good = sorted(read(path, lines(rows)), key=lambda each: each["row"])
    check_bad(bad, path, 2, "column 'images': media are not supported")
    assert [turn["text"] for turn in good["turns"]] == ["Rhyme.", "text of p", "text of b"]


def test_odd_ids(tmp_path):
    path = tmp_path / "trees.jsonl"
    rows = [row("q", None, "prompter"), row("a", "q", "assistant"), row("a", "q", "assistant"),
            row(["b"], "q", "assistant"), row("c", "c", "assistant")]  # fmt: skip
    twice, listed, own, chat = read(path, lines(rows))
    check_bad(twice, path, 3, "'message_id' twice in a tree: 'a'")
    check_bad(listed, path, 4, "wrong type of 'message_id' or 'parent_id'")
    check_bad(own, path, 5, "missing parent of a message: 'c'")
    assert shown([chat]) == ["q a"]


def test_other_rows_pass_between_trees(tmp_path):
    pair = {"prompt": "q", "response": "a"}
    found = read(tmp_path / "mixed.jsonl", lines([pair, *tree(), pair]))
    assert sorted(shown(found)) == sorted([*CHATS, "q a", "q a"])


def test_trees_are_whole_however_a_file_is_divided(tmp_path):
    path = tmp_path / "trees.jsonl"
    path.write_bytes(lines([each for n in range(40) for each in tree(f"t{n}")]))
    config = CorpusConfig(path=str(path))
    ranges = ranges_of(resolve(config), 5000, map)
    assert len(ranges) > 3
    divided = [each.content for piece in ranges for each in one_by_one(_rows(piece, config))]
    assert divided == [json.loads(line) for line in path.read_bytes().splitlines()]
    path.write_bytes(lines([{"prompt": f"q{n}", "response": "a"} for n in range(400)]))
    ranges = ranges_of(resolve(config), 5000, map)
    counts = [len(list(one_by_one(_rows(piece, config)))) for piece in ranges]
    assert sum(counts) == 400 and min(counts) > 0
