#!/bin/sh
# Makes .venv and installs one pinned set into it: `sh requirements/install.sh demo|demo-hospital|dev`.
# Every failure is one sentence; the full output is kept in .venv/install.log.
set -u
set_name=$1

fail() { echo "resilient: $*" >&2; exit 1; }

python=""
for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 \
        && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "Python 3.11 or newer is needed and none was found; install it, or name one: make PYTHON=/path/to/python3.11"

if ! .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
    rm -rf .venv
    "$python" -m venv .venv >/dev/null 2>&1 \
        || fail "$python cannot make a virtual environment here (on Debian and Ubuntu: apt-get install python3-venv)"
fi

log=.venv/install.log
echo "Installing what 'make' needs into .venv (once; log: $log) ..."
{
    .venv/bin/python -m pip install --disable-pip-version-check --require-hashes -r "requirements/$set_name.txt" \
        && .venv/bin/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
} >"$log" 2>&1 || fail "installing requirements/$set_name.txt failed: $(grep -m1 '^ERROR' "$log" || tail -n 1 "$log") (all of it: $log)"

touch ".venv/$set_name.installed"
