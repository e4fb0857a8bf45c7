import inspect

from shipworthy.kernel import errors
from shipworthy.kernel.errors import ContractError, Problem, ShipworthyError


def test_every_error_stands_in_one_tree_with_a_code_of_its_own():
    classes = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]
    assert all(issubclass(value, ShipworthyError) for value in classes)
    codes = [value.code for value in classes if value is not ShipworthyError]
    assert len(codes) == len(set(codes))


def test_a_problem_names_place_key_and_message():
    problem = Problem("shipworthy.yaml", 3, 7, "features.income.range", "low is above high")
    assert str(problem) == "shipworthy.yaml:3:7: features.income.range: low is above high"
    assert str(ContractError((problem, problem))).count("\n") == 1
