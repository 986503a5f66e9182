"""A member is used only when the record at its locator is the one that the manifest names."""

import pytest
from msgspec import structs

from headrace_schemas.canonical import sha256
from headrace_trainer.data.members import MemberRefused, verify
from support import training_data


def test_a_member_is_what_the_manifest_says() -> None:
    asked, other = training_data.recorded(1), training_data.recorded(2)
    assert verify(asked.member, asked.value) == asked.example
    with pytest.raises(MemberRefused, match=f"{asked.member.example_id} revision 1 at examples/0/1.*{sha256(other.value)}"):
        verify(asked.member, other.value)
    with pytest.raises(MemberRefused, match="no such record"):
        verify(asked.member, None)


def test_a_record_that_is_no_such_example_is_refused() -> None:
    first, second = training_data.recorded(1), training_data.recorded(1, revision=2)
    wrong = structs.replace(first.member, sha256=sha256(second.value))
    with pytest.raises(MemberRefused, match="another's"):
        verify(wrong, second.value)
