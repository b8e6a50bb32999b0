"""Dialogues taken apart are the same put together again, and say what they say."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollgate.dataset import identity, turns
from tollgate.dataset.schema import ROLES, ROW_SCHEMA

MESSAGES = ROW_SCHEMA.field("messages").type
Dialogue = list[tuple[str, str]]

dialogues = st.lists(st.lists(st.tuples(st.sampled_from(ROLES), st.text("가나a ", max_size=4)), max_size=6), max_size=8)


def column(chats: list[Dialogue]) -> pa.ListArray:
    """Dialogues as the batches hold them."""
    return pa.array([[{"role": role, "content": text} for role, text in chat] for chat in chats], MESSAGES)


@settings(deadline=None)
@given(dialogues, st.integers(0, 3))
def test_nothing_is_lost(chats: list[Dialogue], start: int) -> None:
    messages = column(chats).slice(start)
    apart = turns.take_apart(messages)
    assert turns.put_together(apart, MESSAGES).to_pylist() == messages.to_pylist()
    for role in ROLES:
        said = ["|".join(text for one, text in chat if one == role) for chat in chats[start:]]
        assert turns.said_by(apart, role, "|").to_pylist() == said
        lengths = [sum(len(text) for one, text in chat if one == role) for chat in chats[start:]]
        assert turns.characters(apart, role).tolist() == lengths


@pytest.mark.parametrize(
    ("roles", "right"),
    [
        ("ua", 1),
        ("sua", 1),
        ("suaua", 1),
        ("", 0),
        ("s", 0),
        ("u", 0),
        ("au", 0),
        ("uua", 0),
        ("usua", 0),
        ("ssua", 0),
        ("suau", 0),
    ],
)
def test_user_and_assistant_take_turns(roles: str, right: int) -> None:
    names = {role[0]: role for role in ROLES}
    others = [("user", "a"), ("assistant", "b")]
    messages = column([others, [(names[one], "x") for one in roles], others])
    assert turns.take_turns(turns.take_apart(messages)).tolist() == [True, bool(right), True]


def test_an_id_follows_from_roles_and_contents_alone() -> None:
    chats: list[Dialogue] = [
        [("user", "가"), ("assistant", "나")],
        [("user", "가나"), ("assistant", "")],
        [("system", "가"), ("assistant", "나")],
        [("user", "가"), ("assistant", "나")],
    ]
    keys = identity.keys(turns.take_apart(column(chats)))
    alone = identity.keys(turns.take_apart(column(chats[2:3])))
    assert (len(set(keys.tolist())), alone[0]) == (3, keys[2])
    found = identity.ids(keys).to_list()
    assert found[0] == "cf9d5116da921d44"  # XXH3 of the roles and contents, as in every version
    assert found[3] == f"{found[0]}-2"
    assert [len(one) for one in found[:3]] == [16, 16, 16]
