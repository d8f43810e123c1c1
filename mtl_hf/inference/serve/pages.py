"""The static pages: one HTML file each, which loads nothing from anywhere else.

Notable: the policy (CSP) allows only the script and the style of the file, by their hashes, and connections to this
server. So nothing that a model returns can run as code.
"""

import base64
import hashlib
import re
from importlib.resources import files

from fastapi import Response


class HtmlPage:
    """A page of the package.

    Args:
        name: Name of its file in this folder.
    """

    def __init__(self, name: str) -> None:
        self.text = files(__package__).joinpath(name).read_text(encoding="utf-8")
        scripts, styles = (_hashes(self.text, tag) for tag in ("script", "style"))
        self.headers = {
            "Content-Security-Policy": f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src data:;"
            " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        }

    async def answer(self) -> Response:
        """The page as a response."""
        return Response(self.text, headers=self.headers, media_type="text/html")


def _hashes(html: str, tag: str) -> str:
    blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
