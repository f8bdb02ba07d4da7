"""Static files, served from this package under an address that changes with their contents."""

import hashlib
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).with_name("static")
FOREVER = "public, max-age=31536000, immutable"


def digest(folder: Path = FOLDER) -> str:
    """12 hex digits over the names and contents of all files: one version for all, because they refer to each other."""
    hashed = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            hashed.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return hashed.hexdigest()[:12]


class Assets(StaticFiles):
    """`/static/<digest>/<path>`: cached for ever under the current digest, not at all under another one (a page
    that a browser still holds from before an update goes on working)."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER)
        self.version = digest()

    def url(self, path: str) -> str:
        return f"/static/{self.version}/{path}"

    async def get_response(self, path: str, scope: Scope) -> Response:
        version, _, rest = path.partition("/")
        if not rest:
            raise HTTPException(status_code=404)
        response = await super().get_response(rest, scope)
        response.headers["Cache-Control"] = FOREVER if version == self.version else "no-cache"
        return response
