"""The contract's reference page is generated, complete and up to date."""

from pathlib import Path

from shipworthy.contract import expressions
from shipworthy.contract.outline import inner, keys_of, section_of
from shipworthy.contract.reference import reference_markdown
from shipworthy.contract.sections import Section
from shipworthy.contract.types import Contract

PAGE = Path(__file__).parents[2] / "docs" / "contract.md"


def sections(section: type[Section], found: set[type[Section]]) -> set[type[Section]]:
    found.add(section)
    for key, annotation in keys_of(section).items():
        for part in (annotation, inner(annotation, 0), inner(inner(section, key), "x")):
            nested = section_of(part) if part is not None else None
            if nested is not None and nested not in found:
                sections(nested, found)
    return found


def test_the_page_is_what_the_types_say() -> None:
    assert PAGE.read_text() == reference_markdown(), "python -m shipworthy.contract.reference > docs/contract.md"


def test_every_key_has_a_meaning_and_stands_on_the_page() -> None:
    page = reference_markdown()
    known = sections(Contract, set())
    assert len(known) > 30
    for section in known:
        for name, info in section.model_fields.items():
            assert info.description, f"{section.__name__}.{name}"
            key = info.alias or name
            assert f"`{key}`" in page or f"{{{key}:" in page or key in ("outcomes", "limits"), key


def test_every_function_of_the_language_is_told() -> None:
    page = reference_markdown()
    assert all(f"`{name}`" in page or f"`{name}(" in page for name in expressions.FUNCTIONS)
