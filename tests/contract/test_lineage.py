"""`lineage` in the contract: a receiver or a file, nobody by default, and no secret in sight."""

import pytest

from shipworthy.contract.parse import parse_contract
from shipworthy.kernel.errors import ContractError
from tests.stories.loans import CONTRACT


@pytest.mark.parametrize(
    "place", ["https://lineage.example/api", "'${URL}'", "'http://${HOST}:5000'", "lineage.ndjson"]
)
def test_a_receiver_or_a_file(place: str):
    assert parse_contract(f"{CONTRACT}lineage: {{openlineage: {place}}}\n").lineage.openlineage == place.strip("'")


def test_nobody_is_told_by_default():
    assert parse_contract(CONTRACT).lineage.openlineage is None


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{openlineage: 'kafka://broker'}", "neither an http or https address nor a file in the project"),
        ("{openlineage: /tmp/lineage.ndjson}", "is absolute"),
        ("{openlineage: ../lineage.ndjson}", "leaves the project"),
        ("{openlineage: 'https://ann:secret@lineage.example'}", "a literal password or token in an address"),
        ("{openlineage: 'https://$HOST'}", "a variable is written"),
        ("{openlineage: 'https://a.example', token: abc}", "lineage.token"),
        ("{openlineage: lineage.ndjson, token: '${KEY}'}", "lineage.openlineage is a file"),
        ("{token: '${KEY}'}", "a token goes to an address"),
    ],
)
def test_what_cannot_be_told_is_refused(section: str, words: str):
    with pytest.raises(ContractError) as refused:
        parse_contract(f"{CONTRACT}lineage: {section}\n")
    assert words in str(refused.value)
    assert "secret@" not in str(refused.value)
