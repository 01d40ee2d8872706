"""Pages that load nothing: their templates, style sheets and what they may run."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = resources.files("qa_fast.pages") / "templates"


def environment() -> Environment:
    """Jinja2 with the package's templates; everything is escaped that is not marked as markup."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ImportError("a report needs Jinja2: pip install 'qa-fast[eval]'") from error
    return Environment(
        loader=PackageLoader("qa_fast.pages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )


def template_text(name: str) -> str:
    """A template file as it is."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def styles(name: str, selector: str) -> Any:
    """Style sheets for what is below ``selector``: colours, marks in a text, and ``name``."""
    sheets = (environment().get_template(n) for n in ("colours.css", "marks.css", name))
    return markup("\n".join(sheet.render(selector=selector) for sheet in sheets))


def markup(text: str) -> Any:
    """``text`` of our own, which must not be escaped."""
    from markupsafe import Markup

    return Markup(text)


def sha256(script: str) -> str:
    """The hash by which a page's policy allows ``script``."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
