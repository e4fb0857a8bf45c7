"""KServe's own client, in the environment that it needs: asks over HTTP and gRPC, prints what it was told as JSON.

python kserve_client.py BASE_URL GRPC_ADDRESS SYSTEM TOKEN    (columns on standard input, as JSON)
"""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


def make_request(system: str, columns: dict[str, list[Any]], *, binary: bool) -> InferRequest:
    inputs = []
    for name, values in columns.items():
        datatype = {float: "FP64", int: "INT64", bool: "BOOL", str: "BYTES"}[type(values[0])]
        inputs.append(InferInput(name, [len(values)], datatype))
        array = np.array(values, dtype=object if datatype == "BYTES" else None)
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    return InferRequest(system, inputs, request_id="r-1")


def told(response: Any) -> dict[str, Any]:
    found = {output.name: output.as_numpy().tolist() for output in response.outputs}
    texts = {
        name: [each.decode() if isinstance(each, bytes) else each for each in values] for name, values in found.items()
    }
    return {"model": response.model_name, "version": response.model_version, "id": response.id, "outputs": texts}


async def main(base: str, grpc: str, system: str, token: str) -> dict[str, Any]:
    columns = json.load(sys.stdin)
    headers = {"authorization": f"Bearer {token}"}
    found: dict[str, Any] = {}
    rest = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    found["rest"] = [
        await rest.is_server_live(base),
        await rest.is_server_ready(base),
        await rest.is_model_ready(base, system),
    ]
    for form in ("json", "binary"):
        request = make_request(system, columns, binary=form == "binary")
        found[form] = told(await rest.infer(base, request, model_name=system, headers=headers))
    await rest.close()
    caller = InferenceGRPCClient(grpc, retries=2)
    found["grpc"] = [
        await caller.is_server_live(),
        await caller.is_server_ready(),
        await caller.is_model_ready(system),
    ]
    for form, binary in (("typed", False), ("raw", True)):
        request = make_request(system, columns, binary=binary)
        found[form] = told(await caller.infer(request, headers=tuple(headers.items())))
    try:
        await caller.infer(make_request(system, columns, binary=True), headers=())
    except Exception as error:  # noqa: BLE001 (whatever it raises is what is asked)
        found["refused"] = str(error)
    await caller.close()
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(*sys.argv[1:]))))
