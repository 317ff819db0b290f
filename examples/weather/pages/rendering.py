"""Turning answers into pages: the templates, the style sheet, and JSON for programs at the same address."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

_HERE = Path(__file__).parent
_NO_PROBLEMS: dict[str, str] = {}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src data:; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",  # weather grows old, and we are the ones who say so
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept",
}


@dataclass(frozen=True, slots=True)
class Form:
    """What the user typed, so that it need not be typed again."""

    zip_code: str = ""
    country: str = ""


@dataclass(frozen=True, slots=True)
class Behind:
    """How an answer came about, for the curious: who gave it, the states of both circuits, how long it took."""

    producer: str
    api_circuit: str
    producer_circuit: str
    milliseconds: float


def wants_json(request: Request) -> bool:
    """Whether a program asks: one that accepts JSON and says nothing of HTML."""
    accept = request.headers.get("accept", "")
    return "application/json" in accept and "text/html" not in accept


def page(request: Request, template: str, form: Form, *, status: int = 200, error: str = "", **data: Any) -> Response:
    """Render a page, or its report or error as JSON for those who want that.

    Args:
        request: what is answered.
        template: the file's name.
        form: what the user typed.
        status: of the answer.
        error: one sentence for the user.
        data: what else the template needs.
    """
    if wants_json(request) and error:
        return JSONResponse({"error": error, **data}, status, _HEADERS)
    if wants_json(request) and "report" in data:
        return JSONResponse(data["report"].to_json(), status, _HEADERS)
    text = _templates.get_template(template).render(form=form, error=error, **{"problems": _NO_PROBLEMS, **data})
    return Response(text, status, _HEADERS, media_type="text/html")


async def stylesheet(_: Request) -> Response:
    """The style sheet; nothing else is loaded."""
    headers = {"Cache-Control": "max-age=60", "X-Content-Type-Options": "nosniff"}
    return Response(_STYLE, headers=headers, media_type="text/css")


def _ago(seconds: float) -> str:
    """12.4 as "12 seconds"."""
    for length, unit in ((3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "a moment"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%-d %b %Y, %H:%M:%S UTC")


def _sky(description: str) -> str:
    """Which picture fits the words."""
    for picture, words in {
        "rain": ("rain", "drizzle", "thunder", "shower"),
        "snow": ("snow", "sleet"),
        "mist": ("mist", "fog", "haze", "smoke", "dust"),
        "sun": ("clear",),
        "few": ("few", "scattered"),
    }.items():
        if any(word in description.lower() for word in words):
            return picture
    return "cloud"


_templates = Environment(loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined)
_templates.filters.update(ago=_ago, time=_time, sky=_sky)
_STYLE = (_HERE / "style.css").read_text()
