import json
from pathlib import Path
from typing import Any

import pytest

from airlora.errors import DataError
from airlora.text import Completion, Conversation, load_completions

MESSAGES = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]


def written(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_the_columns_decide_the_format(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    plain = load_completions(written(file, {"text": "one"}, {"text": "two"}))
    assert (plain.format, plain.samples) == ("text", (Completion("", "one"), Completion("", "two")))
    asked = load_completions(written(file, {"prompt": "1 +", "completion": " 1", "id": 3}))
    assert (asked.format, asked.samples) == ("prompt-completion", (Completion("1 +", " 1"),))
    talk = load_completions(written(file, {"messages": MESSAGES}))
    expected = Conversation((("user", "hello"), ("assistant", "good day")))
    assert (talk.format, talk.samples) == ("messages", (expected,))
    assert expected.as_dicts() == MESSAGES
    lists = load_completions(written(file, {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}))
    assert lists.samples == (Conversation(expected.messages, num_prompt=1),)


def test_tables_hold_texts_and_completions(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("completion\tprompt\nyes\tis it?\n")
    assert load_completions(tmp_path / "a.tsv").samples == (Completion("is it?", "yes"),)
    (tmp_path / "a.csv").write_text("sentence\none\n")
    assert load_completions(tmp_path / "a.csv", text_column=("text", "sentence")).samples == (Completion("", "one"),)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a", "prompt": "b", "completion": "c"}, r"several formats, text and prompt-completion.*data\.format"),
        ({"question": "a", "answer": "b"}, r"no column of a text; there are 'question', 'answer'.*data\.prompt_column"),
        ({"prompt": "a", "completion": ""}, r"line 1, column completion: the text is empty"),
        ({"prompt": "a", "completion": 3}, r"line 1, column completion = 3"),
        ({"messages": "hello"}, r"column messages = 'hello': allowed is a list of messages"),
        ({"messages": [{"role": "user"}]}, r"allowed is a message with role and content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, r"half a surrogate pair"),
        ({"prompt": MESSAGES, "completion": MESSAGES[:1]}, r"column completion: roles = 'user'"),
        ({"messages": MESSAGES[:1]}, r"roles = 'user': allowed is one message with content of the role 'assistant'"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, record: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_completions(written(tmp_path / "a.jsonl", record))


def test_a_format_may_be_chosen(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", {"text": "a", "prompt": "b", "completion": "c"})
    assert load_completions(file, format="text").samples == (Completion("", "a"),)
    with pytest.raises(DataError, match=r"column 'messages' is missing"):
        load_completions(file, format="messages")


def test_prompts_of_two_kinds_are_refused(tmp_path: Path) -> None:
    records = [{"prompt": "b", "completion": "c"}, {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}]
    with pytest.raises(DataError, match=r"some prompts are texts and some are lists"):
        load_completions(written(tmp_path / "a.jsonl", *records))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column of a text"):
        load_completions(written(tmp_path / "a.jsonl"))
    with pytest.raises(DataError, match=r"no samples"):
        load_completions(written(tmp_path / "a.jsonl"), format="text")
