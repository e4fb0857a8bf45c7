"""Labels, late and repeated and contradicting: the truth depends on when they were received, never on their order."""

import random

from hypothesis import given
from hypothesis import strategies as st

from shipworthy.feedback.labels import LabelReport, Truths, join_labels
from shipworthy.records.format import Outcome, Record

tellings = st.builds(
    Outcome,
    id=st.sampled_from(["a", "b", "c"]),
    value=st.sampled_from(["0", "1", "2"]),
    time=st.floats(0, 3),
    received=st.integers(0, 3).map(float),
    source=st.sampled_from(["api:x", "api:y", "file:z"]),
)


def tell(value: str, received: float = 10.0, *, id: str = "a", time: float = 1.0, source: str = "api:x") -> Outcome:
    return Outcome(id=id, value=value, time=time, received=received, source=source)


@given(outcomes=st.lists(tellings, max_size=12), seed=st.integers())
def test_the_order_of_reading_never_matters(outcomes: list[Outcome], seed: int):
    shuffled = list(outcomes)
    random.Random(seed).shuffle(shuffled)
    one, other = Truths(outcomes), Truths(shuffled)
    assert sorted(one, key=lambda truth: truth.id) == sorted(other, key=lambda truth: truth.id)
    assert (one.repeated, one.contradicting) == (other.repeated, other.contradicting)
    assert one.contradicted() == other.contradicted()


@given(outcomes=st.lists(tellings, max_size=12))
def test_the_latest_received_counts_and_every_telling_is_counted_once(outcomes: list[Outcome]):
    truths = Truths(outcomes)
    assert len(truths) + truths.repeated + truths.contradicting == len(outcomes)
    for truth in truths:
        mine = [outcome for outcome in outcomes if outcome.id == truth.id]
        latest = max(outcome.received for outcome in mine)
        assert truth.value in {outcome.value for outcome in mine if outcome.received == latest}
        assert truth.time == min(outcome.time for outcome in mine if outcome.value == truth.value)
        assert {one.value for one in truths.tellings(truth.id)} == {outcome.value for outcome in mine}


@given(outcomes=st.lists(tellings, max_size=12))
def test_telling_everything_again_changes_no_truth(outcomes: list[Outcome]):
    once, twice = Truths(outcomes), Truths([*outcomes, *outcomes])
    assert list(once) == list(twice)
    assert once.contradicting == twice.contradicting
    assert twice.repeated == once.repeated + len(outcomes)


def test_a_contradiction_is_kept_beside_what_counts_with_who_said_what_and_when():
    truths = Truths([tell("1", 10.0, source="file:march.csv")])
    assert truths.tell(tell("0", 20.0, source="api:lending")) == "contradicting"
    assert truths.find("a") == tell("0", 20.0, source="api:lending")
    assert truths.contradicted() == {
        "a": (tell("0", 20.0, source="api:lending"), tell("1", 10.0, source="file:march.csv"))
    }
    assert truths.tell(tell("1", 30.0, source="file:april.csv")) == "repeated"
    assert [truth.value for truth in truths] == ["1"]  # taken back
    assert truths.find("a") == tell("1", 30.0, source="file:april.csv")


def test_a_truth_is_found_by_the_callers_id_or_the_predictions():
    def record(prediction: str, id: str | None) -> Record:
        names = {"system": "loans", "release": "loans:1", "environment": "local", "worker": "w0"}
        return Record(prediction_id=prediction, time=0.0, id=id, **names)

    truths = Truths([tell("1", id="loan-1"), tell("0", 5.0, id="p_1"), tell("1", id="p_2")])
    assert truths.find_of(record("p_1", "loan-1")) == tell("1", id="loan-1")  # received later
    assert truths.find_of(record("p_1", None)) == tell("0", 5.0, id="p_1")
    assert truths.find_of(record("p_2", "loan-2")) == tell("1", id="p_2")
    assert truths.find_of(record("p_3", "loan-3")) is None


def test_a_telling_is_parted_into_what_is_new_what_is_not_and_what_nobody_asked_about():
    truths, report = Truths([tell("1"), tell("1", id="b")]), LabelReport()
    rows = [("a", "1"), ("b", "0"), ("c", "1"), ("d", "1")]
    file = [tell(value, 20.0, id=name, source="file:x") for name, value in rows]
    fresh, unknown = join_labels(file, truths, {"a", "b", "c"}, report)
    assert (fresh, unknown) == ([file[1], file[2]], [file[3]])
    assert report == LabelReport(accepted=1, repeated=1, contradicting=1, unknown=1)
    assert report.to_json()["rows"] == 4


def test_one_file_that_contradicts_itself_ends_with_its_later_row_and_is_told_again_without_effect():
    """The clock stands still within a file, and may even have gone back since the last one."""
    truths, report = Truths([tell("2", 99.0)]), LabelReport()
    file = [tell("0", 20.0, source="file:x"), tell("1", 20.0, source="file:x")]
    fresh, _ = join_labels(file, truths, {"a"}, report)
    assert report == LabelReport(contradicting=2)
    assert [outcome.value for outcome in Truths(reversed(fresh))] == ["1"]
    again = LabelReport()
    assert join_labels(file, truths, {"a"}, again) == ([], [])
    assert again == LabelReport(repeated=2)
    assert [truth.value for truth in truths] == ["1"]


def test_a_telling_that_wavers_and_was_stopped_before_its_record_ends_with_its_last_word():
    """Its first value had been told by another: kept all the same, or it would come last when told again."""
    truths = Truths([tell("0")])
    file = [tell("0", 20.0, source="file:x"), tell("1", 20.0, source="file:x")]
    fresh, _ = join_labels(file, truths, {"a"}, LabelReport())
    assert [outcome.value for outcome in fresh] == ["0", "1"]
    for kept in (fresh[:1], fresh):
        resumed = Truths([tell("0"), *kept])
        join_labels(file, resumed, {"a"}, LabelReport())
        assert [truth.value for truth in resumed] == ["1"]


def test_a_file_told_to_its_end_takes_nothing_back_even_where_another_had_said_the_same_before():
    truths = Truths([tell("0", source="file:x"), tell("1", 20.0, source="file:z")])
    again = [tell("0", 30.0, source="file:y")]  # said 0 after x and before z, which was not kept twice
    report = LabelReport()
    assert join_labels(again, truths, {"a"}, report, is_again=True) == ([], [])
    assert report == LabelReport(repeated=1)
    fresh, _ = join_labels(again, truths, {"a"}, LabelReport())
    assert [outcome.value for outcome in fresh] == ["0"]  # a new file may
