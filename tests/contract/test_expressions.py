"""Expressions: what they mean, what they refuse, and that nothing else can happen."""

import math
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.contract.expression_nodes import Arithmetic, Column, Constant
from shipworthy.contract.expressions import (
    FUNCTIONS,
    MAX_DEPTH,
    MAX_LENGTH,
    Kind,
    Row,
    Value,
    compile_row,
    parse_derived,
    parse_expression,
)
from shipworthy.kernel.errors import ExpressionError

COLUMNS: dict[str, Kind] = {
    "a": "float",
    "b": "float",
    "n": "int",
    "f": "bool",
    "g": "bool",
    "c": "category",
    "t": "text",
    "s": "text",
    "d": "datetime",
    "e": "datetime",
    "h": "datetime",
    "class": "float",
}
VALUES = {"c": ("red", "green")}


def value_of(text: str, **row: object) -> Value | None:
    return compile_row(parse_expression(text, COLUMNS, values=VALUES))(row)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b * 2 ** 3", 26.0),
        ("(a + b) * 2", 10.0),
        ("-a ** 2", -4.0),
        ("a - b - 1", -2.0),
        ("7 // 2", 3.0),
        ("-7 // 2", -4.0),
        ("-7 % 3", 2.0),
        ("7 % -3", -2.0),
        ("1 // 0.1", 10.0),  # floor(1 / 0.1), where Python's own // gives 9
        ("a ** 0", 1.0),
        ("1.5e1 + .5", 15.5),
        ("a < b < n", True),
        ("a < b > n", False),
        ("not a > b and b != a or false", True),
        ('c == "red"', True),
        ("c != 'red'", False),
        ("t in ['x', 'y']", True),
        ("t not in ['x', 'y']", False),
        ("n in [-4, 4]", True),
        ("f == true", True),
        ("where(f, a, b)", 2.0),
        ("where(not f, 'u', t)", "x"),
        ("abs(-a)", 2.0),
        ("min(3, a, b)", 2.0),
        ("max(3, a, b)", 3.0),
        ("clip(n, 0, 3)", 3.0),
        ("clip(n, b, a)", 2.0),  # the upper bound wins
        ("floor(-1.5) + ceil(-1.5)", -3.0),
        ("round(2.5) + round(3.5)", 6.0),
        ("log(exp(1))", 1.0),
        ("log1p(0)", 0.0),
        ("sqrt(n)", 2.0),
        ("year(d) * 10000 + month(d) * 100 + day(d)", 20240229.0),
        ("hour(d) * 100 + minute(d)", 2345.0),
        ("weekday(d)", 4.0),
        ("d == e", True),
        ("missing(b)", False),
        ("coalesce(class, a)", 2.0),
        ("class", None),
        ("bucket(a, 2, 3)", 1.0),  # an edge belongs to the bucket above it
        ("bucket(b, 1, 2.5)", 2.0),
        ("bucket(-a, -1, 0)", 0.0),
        ("quarter(d) * 1000 + day_of_year(d)", 1060.0),
        ("week(d)", 9.0),
        ("days_between(d, e)", 0.0),
        ("hours_between(h, d)", 36.5),
        ("days_between(d, h)", -36.5 / 24),
        ("lower(s)", " été αςΟΔΟΣ".replace("ΟΔΟΣ", "οδοσ") + " "),
        ("upper(strip('straße'))", "STRASSE"),
        ("strip(s)", "Été ΑςΟΔΟΣ"),
        ("length(s)", 12.0),
        ("contains(s, 'ΟΔ')", True),
        ("starts_with(strip(s), 'é')", False),
        ("ends_with(s, ' ')", True),
        ("replace('aaa', 'aa', '$0')", "$0a"),
        ("replace(t, 'x', '')", ""),
        ("left(t + '-' + c, 3) + right(c, 2)", "x-red"[:3] + "ed"),
        ("concat(t, c, 'z')", "xredz"),
        ("left(c, 100)", "red"),
    ],
)
def test_each_operator_means_what_the_reference_says(text: str, expected: object) -> None:
    moment = datetime(2024, 2, 29, 23, 45, tzinfo=UTC)
    same = moment.astimezone(timezone(timedelta(hours=5)))
    earlier = moment - timedelta(hours=36, minutes=30)
    row = {
        "a": 2.0,
        "b": 3,
        "n": 4,
        "f": True,
        "c": "red",
        "t": "x",
        "s": " Été ΑςΟΔΟΣ ",
        "d": moment,
        "e": same,
        "h": earlier,
    }
    assert value_of(text, **row) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a / 0",
        "a // 0",
        "a % 0",
        "log(0)",
        "log(-1)",
        "log1p(-1)",
        "sqrt(-1)",
        "exp(1000)",
        "1e300 * 1e300",
        "1e308 + 1e308",
        "1e100 ** 8",
        "1e300 // 1e-300",
        "1e300 % 1e-300",
        "b + 1",
        "b < 1",
        "b == b",
        "b in [1]",
        "not g",
        "abs(b)",
        "max(a, b)",
        "where(g, 1, 2)",
        "where(a == 2, b, 1)",
        "coalesce(b, b)",
        "year(d)",
        "d < e",
        "g and true",
        "g or false",
        "bucket(b, 1)",
        "days_between(d, e)",
        "lower(s)",
        "s + t",
        "contains(s, 'x')",
    ],
)
def test_what_has_no_answer_is_missing(text: str) -> None:
    assert value_of(text, a=2.0, b=None, e=datetime(2024, 1, 1)) is None


def test_logic_is_decided_by_the_side_that_decides() -> None:
    assert value_of("g and false") is False
    assert value_of("false and g") is False
    assert value_of("g or true") is True
    assert value_of("where(true, 1, b)") == 1.0
    assert value_of("missing(b / 0)") is True
    assert value_of("coalesce(b, 2)") == 2.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, None])
def test_inputs_that_are_no_finite_number_are_missing(value: object) -> None:
    assert value_of("a", a=value) is None
    assert value_of("missing(a)", a=value) is True


def test_datetimes_are_compared_as_instants_through_a_change_of_clocks() -> None:
    zone = ZoneInfo("America/New_York")
    first = datetime(2024, 11, 3, 1, 30, tzinfo=zone, fold=0)
    second = datetime(2024, 11, 3, 1, 30, tzinfo=zone, fold=1)
    assert value_of("d < e", d=first, e=second) is True
    assert value_of("d == e", d=datetime(2024, 1, 1), e=datetime(2024, 1, 1, tzinfo=UTC)) is True
    assert value_of("coalesce(d, e) != e", d=first, e=second) is True
    extreme = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))
    assert value_of("d < e", d=extreme, e=datetime.max) is True


def test_the_tree_is_plain_values() -> None:
    expression = parse_expression("100 * a / n", COLUMNS)
    product = Arithmetic("*", Constant(100.0), Column("a", "float"))
    assert expression.root == Arithmetic("/", product, Column("n", "int"))
    assert expression.columns == ("a", "n")
    assert expression.kind == "number"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("n", True),
        ("n + 1", True),
        ("n * n - 3 % n", True),
        ("a // 1", True),
        ("round(a)", True),
        ("where(f, 1, 0)", True),
        ("max(n, 2)", True),
        ("year(d)", True),
        ("bucket(a, 0.5)", True),
        ("length(t) + quarter(d)", True),
        ("days_between(d, e)", False),
        ("-n ** 2", True),
        ("coalesce(n, 0)", True),
        ("a", False),
        ("n / 2", False),
        ("n + 0.5", False),
        ("where(f, 1, 0.5)", False),
        ("max(n, a)", False),
        ("sqrt(n)", False),
    ],
)
def test_whole_numbers_are_recognised_by_construction(text: str, whole: bool) -> None:
    assert parse_expression(text, COLUMNS).whole is whole


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 1, "empty"),
        ("a +", 4, "ends where a column, a literal or a function was expected"),
        ("(a", 3, r"ends where '\)' was expected"),
        ("a b", 3, "expected an operator or the end, not 'b'"),
        ("a = 1", 3, "write == to compare"),
        ("f && g", 3, "write and"),
        ("f | g", 3, "write or"),
        ("a ^ 2", 3, r"write \*\*"),
        ("t == 'x", 6, "no closing quote"),
        ("a.b", 2, "plain names"),
        ("2a", 2, "runs into a name"),
        ("1e999", 1, "beyond the range"),
        ("aa + 1", 1, "no column is called 'aa' here; did you mean a"),
        ("A + 1", 1, r"did you mean a\?"),
        ("True", 1, r"did you mean true\?"),
        ("a == None", 6, r"write missing\(column\)"),
        ("mni(a, b)", 1, r"no function 'mni'; did you mean min\?"),
        ("if(f, 1, 2)", 1, r"did you mean where\?"),
        ("abs + 1", 1, r"write abs\("),
        ("abs(a, b)", 1, "takes 1 arguments, not 2"),
        ("min(a)", 1, "takes 2 or more arguments, not 1"),
        ("clip(a, 1)", 1, "takes 3 arguments, not 2"),
        ("clip(a, 3, 1)", 9, "lower bound 3.0 is above"),
        ("a + f", 5, r"takes a number, not a bool; where\(condition, 1, 0\)"),
        ("a + t", 5, "takes a number, not a text"),
        ("t + a", 1, "takes a number, not a text"),
        ("d - e", 3, r"write days_between\(start, end\)"),
        ("days_between(d)", 1, "takes 2 arguments, not 1"),
        ("bucket(a)", 1, "takes 2 or more arguments, not 1"),
        ("bucket(a, 3, 1)", 14, "the edges of bucket ascend, and 1 is not above 3"),
        ("bucket(a, 1, 1)", 14, "ascend"),
        ("bucket(a, b)", 11, "an edge of bucket is a number written out"),
        ("bucket(a, 'x')", 11, "an edge of bucket is a number written out"),
        ("bucket(t, 1)", 8, "bucket takes a number, not a text"),
        ("lower(a)", 7, "lower takes a text, not a number"),
        ("contains(t, s)", 13, "is a text written out"),
        ("contains(t, '')", 13, "the text that contains looks for is empty"),
        ("replace(t, '', 'x')", 12, "the text that replace looks for is empty"),
        ("left(t, 0)", 9, "a whole number of characters, 1 to 10000, not 0"),
        ("left(t, 1.5)", 9, "not 1.5"),
        ("right(t, -1)", 10, "not -1"),
        ("right(t, n)", 10, "is a number written out"),
        ("concat(t, a)", 11, "concat takes a text, not a number"),
        ("a and f", 1, "and takes a bool, not a number"),
        ("not a", 5, "not takes a bool"),
        ("hour(a)", 6, "takes a datetime, not a number"),
        ("d + 1", 1, "not a datetime"),
        ("a == t", 3, "compares a number with a text"),
        ("t == 1", 3, 'write "1" in quotes'),
        ("t < 'x'", 3, "orders numbers or datetimes, not a text"),
        ("f < g", 3, "orders numbers or datetimes, not a bool"),
        ("c == 'rde'", 6, r"no value of c \(green, red\); did you mean red\?"),
        ("'rde' != c", 1, "no value of c"),
        ("c in ['red', 'rde']", 14, "no value of c"),
        ("c in [1]", 7, "holds a number where a text was expected"),
        ("d in [1]", 1, "asks for a number or a text, not a datetime"),
        ("a in [b]", 7, "holds literals"),
        ("a in []", 7, "holds literals"),
        ("a in 3", 6, r"expected '\['"),
        ("a not b", 7, "expected 'in'"),
        ("a ** b", 6, "a whole number written out, 0 to 8"),
        ("a ** 9", 6, "0 to 8"),
        ("a ** -1", 6, "0 to 8"),
        ("a ** 2 ** 3", 8, "needs parentheses"),
        ("where(a, 1, 2)", 7, "the condition of where takes a bool"),
        ("where(f, 1, 'x')", 13, "takes a number, not a text"),
        ("coalesce(a, f)", 13, "takes a number, not a bool"),
        ("in", 1, "is an operator"),
        ("a; b", 2, "one expression"),
        ("__import__('os')", 1, "no function '__import__'"),
    ],
)
def test_a_wrong_expression_says_where_and_what_to_do(text: str, position: int, message: str) -> None:
    with pytest.raises(ExpressionError, match=message) as caught:
        parse_expression(text, COLUMNS, values=VALUES)
    assert caught.value.position == position


@pytest.mark.parametrize(
    "text",
    ["(" * 1900, "-" * 1900 + "a", "not " * 400 + "f", "abs(" * 400, "+".join(["a"] * 900), "[" * 1900, "a in [" * 300],
)
def test_deep_expressions_are_refused_not_recursed_into(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_expression(text, COLUMNS)


def test_length_and_depth_are_bounded() -> None:
    with pytest.raises(ExpressionError, match=f"at most {MAX_LENGTH}"):
        parse_expression("a" * (MAX_LENGTH + 1), COLUMNS)
    with pytest.raises(ExpressionError, match="split it into derived columns"):
        parse_expression("+".join(["a"] * (MAX_DEPTH + 1)), COLUMNS)
    assert value_of("+".join(["a"] * MAX_DEPTH), a=1) == MAX_DEPTH
    assert value_of(" and ".join(["f"] * 300), f=True) is True


SIGNS = ["(", ")", "[", "]", ",", "**", "+", "-", "*", "/", "//", "%", "<", "<=", "==", "!=", "="]
OTHERS = ["and", "or", "not", "in", "true", "1", "0.5", "'red'", '"', "é", "\x00", "1e9", "9" * 50]
WORDS = st.sampled_from([*COLUMNS, *FUNCTIONS, *SIGNS, *OTHERS])
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "a": st.none() | st.floats(),
        "b": st.none() | st.floats(),
        "class": st.none() | st.floats(),
        "n": st.none() | st.integers(),
        "f": st.none() | st.booleans(),
        "g": st.none() | st.booleans(),
        "c": st.none() | st.sampled_from(["red", "green"]),
        "t": st.none() | st.text(),
        "s": st.none() | st.text(),
        "d": st.none() | st.datetimes(timezones=st.none() | st.just(UTC)),
        "e": st.none() | st.datetimes(timezones=st.none() | st.just(UTC)),
        "h": st.none() | st.datetimes(timezones=st.none() | st.just(UTC)),
    },
)


def check_total(text: str, row: Row) -> None:
    try:
        expression = parse_expression(text, COLUMNS, values=VALUES)
    except ExpressionError:
        return
    value = compile_row(expression)(row)
    kinds = {"number": float, "bool": bool, "text": str, "datetime": datetime}
    assert value is None or type(value) is kinds[expression.kind]
    assert not isinstance(value, float) or math.isfinite(value)


@given(st.text(max_size=60), ROWS)
def test_any_text_is_an_expression_or_an_expression_error(text: str, row: Row) -> None:
    check_total(text, row)


@given(st.lists(WORDS, max_size=14).map(" ".join), ROWS)
def test_any_row_of_words_is_an_expression_or_an_expression_error(text: str, row: Row) -> None:
    check_total(text, row)


NUMBERS = st.recursive(
    st.sampled_from(["a", "b", "n", "class", "2", "0", "0.1", "1e200", "year(d)"]),
    lambda part: st.one_of(
        st.tuples(part, st.sampled_from(["+", "-", "*", "/", "//", "%"]), part).map("({0[0]} {0[1]} {0[2]})".format),
        st.tuples(st.sampled_from(["abs", "floor", "ceil", "round", "log", "log1p", "exp", "sqrt", "-"]), part).map(
            "{0[0]}({0[1]})".format
        ),
        st.tuples(part, st.integers(0, 8)).map("({0[0]}) ** {0[1]}".format).map("({})".format),
        st.tuples(st.sampled_from(["min", "max", "coalesce"]), part, part).map("{0[0]}({0[1]}, {0[2]})".format),
        st.tuples(part, part, part).map("where({0[0]} < {0[1]} and f or missing({0[2]}), {0[1]}, {0[2]})".format),
    ),
    max_leaves=12,
)


@given(NUMBERS, ROWS)
def test_every_well_formed_expression_is_answered_for_every_row(text: str, row: Row) -> None:
    expression = parse_expression(text, COLUMNS)
    value = compile_row(expression)(row)
    if value is not None:
        assert isinstance(value, float)
        assert math.isfinite(value)
        assert value.is_integer() or not expression.whole


def test_buckets_of_a_category_are_its_labels() -> None:
    expression = parse_derived("bucket(a, 18, 65)", COLUMNS, ["child", "adult", "old"])
    found = [compile_row(expression)({"a": age}) for age in (17.9, 18, 64, 65, None, math.nan)]
    assert found == ["child", "adult", "adult", "old", None, None]
    assert (expression.kind, expression.whole, expression.columns) == ("text", False, ("a",))
    assert parse_derived("bucket(a, 18)", COLUMNS).kind == "number"
    with pytest.raises(ExpressionError, match="2 edges make 3 buckets, and there are 2 values; write one for each"):
        parse_derived("bucket(a, 18, 65)", COLUMNS, ["child", "adult"])


def test_a_text_that_grows_too_long_is_missing() -> None:
    assert value_of("t + t", t="x" * 5000) == "x" * 10_000
    assert value_of("t + t + 'x'", t="x" * 5000) is None
    assert value_of("upper(t)", t="ß" * 5001) is None
    assert value_of("replace(t, 'x', 'xx')", t="x" * 5001) is None
    doubled = "t"
    for _ in range(40):  # two to the 40th characters, were they ever made
        doubled = f"replace({doubled}, 'x', 'xx')"
    assert value_of(doubled, t="x") is None


def test_case_is_that_of_unicode_14_on_every_python() -> None:
    later = "".join(map(chr, [0x19B, 0x264, 0xA7CB, 0xA7DC, 0x10D50, 0x10D70, 0x16EA0, 0x16ED3]))
    assert value_of("lower(t)", t=f"A{later}Σ") == f"a{later}\u03c3"
    assert value_of("upper(t)", t=f"a{later}ŉ") == f"A{later}\u02bcN"
