"""Whether what `import resilient` brings is this library, whole, with the versions and extras that it needs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from resilient.cli.findings import Finding, Verdict

DISTRIBUTION = "resilient-patterns"
_IBM = "resilient"  # the distribution of IBM's SOAR client, which owns the same import name


def examine_installation() -> Iterator[Finding]:
    """All of it."""
    yield from _ourselves()
    yield from _name_clash()
    try:
        required = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return
    yield from _requirements(required)


def _ourselves() -> Iterator[Finding]:
    import resilient

    place = Path(resilient.__file__).parent
    try:
        yield Finding("resilient-patterns", Verdict.GOOD, f"{metadata.version(DISTRIBUTION)} in {place}")
    except metadata.PackageNotFoundError:
        yield Finding(
            "resilient-patterns",
            Verdict.WARNING,
            f"imported from {place}, but not installed: versions and extras are not known",
            "pip install resilient-patterns",
        )


def _name_clash() -> Iterator[Finding]:
    """Two distributions that write the same directory, or two directories of the same name on the path."""
    clashing = False
    try:
        version = metadata.version(_IBM)
    except metadata.PackageNotFoundError:
        pass
    else:
        clashing = True
        yield Finding(
            "import name",
            Verdict.WRONG,
            f"the distribution resilient {version} (IBM's SOAR client) is installed too, and both are"
            " `import resilient`: that which was installed last has overwritten files of the other",
            "use a virtual environment for each: uninstall both here, then install the one that you need",
        )
    import resilient

    here = Path(resilient.__file__).resolve().parent
    others = [str(place) for place in _places(sys.path) if place.resolve() not in {here, here / "__init__.py"}]
    if others:
        clashing = True
        yield Finding(
            "import name",
            Verdict.WARNING,
            f"`resilient` is also at {', '.join(others)}: which one is imported depends on the order of sys.path",
            "rename the other one, or take its directory off the path",
        )
    if not clashing:
        yield Finding("import name", Verdict.GOOD, "`resilient` is this library alone")


def _places(path: Iterable[str]) -> Iterator[Path]:
    for entry in dict.fromkeys(path):
        for candidate in (Path(entry or ".") / "resilient", Path(entry or ".") / "resilient.py"):
            if (candidate / "__init__.py").is_file() or (candidate.suffix == ".py" and candidate.is_file()):
                yield candidate


def _requirements(required: Iterable[str]) -> Iterator[Finding]:
    missing: list[str] = []
    present: list[str] = []
    extras: dict[str, list[str]] = {}
    for line in required:
        found = re.match(r"[A-Za-z0-9._-]+", line)
        if found is None:
            continue
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", line)
        if extra is not None:
            extras.setdefault(extra[1], []).append(found[0])
        elif (version := _version(found[0])) is None:
            missing.append(found[0])
        else:
            present.append(f"{found[0]} {version}")
    if missing:
        yield Finding(
            "dependencies",
            Verdict.WRONG,
            f"{', '.join(sorted(missing))} missing",
            f"pip install --force-reinstall {DISTRIBUTION}",
        )
    yield Finding("dependencies", Verdict.GOOD, ", ".join(sorted(present)))
    for name, names in sorted(extras.items()):
        yield _extra(name, names)


def _extra(extra: str, names: list[str]) -> Finding:
    versions = {name: _version(name) for name in names}
    absent = sorted(name for name, version in versions.items() if version is None)
    if absent:
        return Finding(
            f"extra {extra}",
            Verdict.NOTE,
            f"not installed ({', '.join(absent)})",
            f"when you need it: pip install '{DISTRIBUTION}[{extra}]'",
        )
    return Finding(f"extra {extra}", Verdict.GOOD, ", ".join(f"{name} {versions[name]}" for name in names))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
