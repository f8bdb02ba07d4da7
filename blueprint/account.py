"""An AWS account that is none: moto's server on loopback. `python -m blueprint.account --port N` serves until SIGTERM."""

import argparse
import json
import uuid
from typing import Any

from moto.core.responses import BaseResponse
from moto.logs.responses import LogsResponse
from moto.server import main as serve


def forgive_tags() -> None:
    """The AWS provider asks for the tags of all that it makes, which moto lacks for a few services: an empty answer
    there says no more than that there are none."""
    call = BaseResponse.call_action

    def call_action(self: Any) -> Any:
        try:
            return call(self)
        except NotImplementedError:
            if "listtags" not in str(self._get_action()).replace("_", "").lower():
                raise
            return 200, {"Content-Type": "application/x-amz-json-1.1"}, "{}"

    BaseResponse.call_action = call_action  # type: ignore[method-assign] # moto offers no other way in


def keep_queries() -> None:
    """moto has no saved queries of CloudWatch Logs. Keeps them as AWS does: put, describe by the name's beginning,
    delete."""
    kept: dict[str, dict[str, Any]] = {}

    def put(self: Any) -> str:
        given = json.loads(self.body)
        key = given.get("queryDefinitionId") or str(uuid.uuid4())
        fields = ("name", "queryString", "logGroupNames")
        kept[key] = {"queryDefinitionId": key, "logGroupNames": []} | {f: given[f] for f in fields if f in given}
        return json.dumps({"queryDefinitionId": key})

    def describe(self: Any) -> str:
        prefix = json.loads(self.body).get("queryDefinitionNamePrefix", "")
        return json.dumps({"queryDefinitions": [one for one in kept.values() if one["name"].startswith(prefix)]})

    def delete(self: Any) -> str:
        return json.dumps({"success": kept.pop(json.loads(self.body)["queryDefinitionId"], None) is not None})

    for verb, action in (("put", put), ("describe", describe), ("delete", delete)):
        setattr(LogsResponse, f"{verb}_query_definition{'s' * (verb == 'describe')}", action)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m blueprint.account", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    forgive_tags()
    keep_queries()
    serve(["-H", "127.0.0.1", "-p", str(parser.parse_args().port)])
