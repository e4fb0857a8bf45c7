"""Our client against the real server."""

import pytest

from shipworthy.client.client import Client, InvalidRequestError, Prediction
from shipworthy.kernel.errors import NotFoundError
from tests.serving.conftest import SYSTEM, Running, good_request


def test_the_client_predicts_with_reasons_and_names_bad_fields(server: Running) -> None:
    with Client(f"http://{server.host}:{server.port}", system=SYSTEM) as client:
        request = good_request()
        answer = client.predict(request["inputs"], context=request["context"], id="c-1", reasons=True)
        assert (answer.prediction, answer.decision, answer.source) == ("1", "approve", "model")
        assert answer.reasons is not None
        assert len(answer.reasons["changes"]) == 3
        with pytest.raises(InvalidRequestError, match=r"inputs\.income: expected a number from 0 to 1000") as caught:
            client.predict({**request["inputs"], "income": "001"})
        assert [problem.field for problem in caught.value.problems] == ["inputs.income"]
        first, second = client.predict_many([request, {"inputs": {}}])
        assert isinstance(first, Prediction)
        assert isinstance(second, InvalidRequestError)


def test_another_system_is_not_found(server: Running) -> None:
    with Client(f"http://{server.host}:{server.port}", system="other") as client, pytest.raises(NotFoundError):
        client.predict({})
