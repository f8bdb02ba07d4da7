"""An AWS account that is none: moto's server on loopback. `python -m blueprint.account --port N` serves until SIGTERM."""

import argparse
from typing import Any

from moto.core.responses import BaseResponse
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m blueprint.account", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    forgive_tags()
    serve(["-H", "127.0.0.1", "-p", str(parser.parse_args().port)])
