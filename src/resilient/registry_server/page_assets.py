"""The look and the liveliness of the status page, and the policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --bg: #f4f5f7; --card: #fff; --ink: #1b1f24; --dim: #57606c; --line: #dfe3e8;
  --link: #0b5cad; --up: #0f6132; --up-bg: #dcf5e5; --off: #7a4200; --off-bg: #fdeed6; --down: #9d1c16;
  --down-bg: #fde3e1; --bar: #7fbf9a; --bar-late: #d98b1f; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171b; --card: #1d2127; --ink: #e8eaed; --dim: #a0aab6;
  --line: #30363e; --link: #7db8f5; --up: #7fdca3; --up-bg: #14372a; --off: #f2bd70; --off-bg: #3d2c10;
  --down: #ff9d96; --down-bg: #46201e; --bar: #3f8f63; --bar-late: #d98b1f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main, header { max-width: 76rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 1.25rem; display: grid; grid-template-columns: 1fr auto; gap: .25rem 1rem; align-items: end; }
main { padding-bottom: 2rem; }
h1 { font-size: 1.4rem; margin: 0; }
h2 { font-size: 1.05rem; margin: 0; overflow-wrap: anywhere; }
p { margin: 0; }
.dim, th { color: var(--dim); }
.alert { color: var(--down); font-weight: 600; grid-column: 1 / -1; }
form { grid-row: 1 / 3; grid-column: 2; }
label { font-size: .8rem; color: var(--dim); display: block; }
input { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--dim); border-radius: .4rem;
  padding: .3rem .6rem; width: 19rem; max-width: 100%; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; margin: 1rem 0; }
section > h2, section > p { padding: .8rem 1rem; }
section > h2 { display: flex; justify-content: space-between; gap: 1rem; }
section > h2 span { font-weight: 400; color: var(--dim); white-space: nowrap; }
section > h2 + p { padding-top: 0; }
table { width: 100%; border-collapse: collapse; table-layout: fixed; font-size: .95rem; }
th:nth-child(1) { width: 26%; } th:nth-child(2) { width: 15%; } th:nth-child(3) { width: 21%; }
th:nth-child(4) { width: 10%; } th:nth-child(5) { width: 17%; } th:nth-child(6) { width: 11%; }
th { text-align: left; font-weight: 500; font-size: .8rem; }
th, td { padding: .45rem 1rem; border-top: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
a { color: var(--link); }
code { font-size: .9em; }
.links { display: block; font-size: .85rem; }
.links a { margin-right: .75rem; }
summary { cursor: pointer; color: var(--dim); font-size: .85rem; }
dl { margin: .25rem 0 0; font-size: .85rem; }
dl div { display: flex; flex-wrap: wrap; gap: 0 .5rem; }
dt { color: var(--dim); }
dd { margin: 0; }
.status { display: inline-block; padding: 0 .6rem; border-radius: 1rem; font-size: .85rem; font-weight: 600;
  white-space: nowrap; background: var(--off-bg); color: var(--off); }
.status.up { background: var(--up-bg); color: var(--up); }
.status.down { background: var(--down-bg); color: var(--down); }
.late { color: var(--off); font-weight: 600; }
progress { display: block; width: 100%; max-width: 9rem; height: .4rem; margin-top: .2rem; border: 0;
  border-radius: .2rem; overflow: hidden; background: var(--line); accent-color: var(--bar); appearance: none; }
progress::-webkit-progress-bar { background: var(--line); }
progress::-webkit-progress-value { background: var(--bar); }
progress::-moz-progress-bar { background: var(--bar); }
progress.over::-webkit-progress-value { background: var(--bar-late); }
progress.over::-moz-progress-bar { background: var(--bar-late); }
@media (max-width: 48rem) {
  header { grid-template-columns: 1fr; }
  form { grid-row: auto; grid-column: 1; margin-top: .5rem; }
  input { width: 100%; }
  thead { display: none; }
  table, tbody, tr, td { display: block; }
  tr { border-top: 1px solid var(--line); padding: .5rem 0; }
  td { border: 0; padding: .15rem 1rem; width: auto; display: grid; grid-template-columns: 6.5rem minmax(0, 1fr);
    gap: .5rem; }
  td::before { content: attr(data-label); color: var(--dim); font-size: .8rem; padding-top: .15rem; }
}
"""

# The page is asked for again, and only what differs is changed in place: focus, selection, scroll position and opened
# details stay. Elements with a key are the same as before when they have the same key.
SCRIPT: Final = """
const box = document.getElementById("q"), lost = document.getElementById("lost");
let asked = 0, timer = 0;
function morph(old, next) {
  const key = (node) => node && node.dataset && node.dataset.key;
  if (old.nodeName !== next.nodeName) { old.replaceWith(next); return; }
  if (old.nodeType === Node.TEXT_NODE) { if (old.data !== next.data) old.data = next.data; return; }
  for (const {name, value} of next.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const {name} of [...old.attributes]) if (name !== "open" && !next.hasAttribute(name)) old.removeAttribute(name);
  const stay = new Set([...next.children].map(key).filter(Boolean));
  for (const child of [...old.children]) if (key(child) && !stay.has(key(child))) child.remove();
  const known = new Map([...old.children].filter(key).map((child) => [key(child), child]));
  let at = old.firstChild;
  for (const child of [...next.childNodes]) {
    const same = key(child) ? known.get(key(child)) : key(at) ? null : at;
    if (!same) { old.insertBefore(child, at); continue; }
    if (same === at) at = at.nextSibling; else old.insertBefore(same, at);
    morph(same, child);
  }
  while (at) { const gone = at; at = at.nextSibling; gone.remove(); }
}
async function refresh() {
  const number = ++asked, query = box.value.trim();
  const address = location.pathname + (query ? "?q=" + encodeURIComponent(query) : "");
  try {
    const answer = await fetch(address, {cache: "no-store", signal: AbortSignal.timeout(5000)});
    if (!answer.ok) throw new Error(answer.status);
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (number !== asked) return;
    for (const id of ["summary", "protected", "services"])
      morph(document.getElementById(id), next.getElementById(id));
    document.title = next.title;
    lost.hidden = true;
  } catch {
    if (number !== asked) return;
    if (lost.hidden) lost.textContent = "The registry does not answer. This is what it knew at "
      + new Date().toLocaleTimeString() + ".";
    lost.hidden = false;
  }
}
box.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(() => {
    const query = box.value.trim();
    history.replaceState(null, "", location.pathname + (query ? "?q=" + encodeURIComponent(query) : ""));
    refresh();
  }, 150);
});
box.form.addEventListener("submit", (event) => { event.preventDefault(); refresh(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
setInterval(() => { if (!document.hidden) refresh(); }, 2000);
"""


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; connect-src 'self'; img-src data:; style-src 'sha256-{_digest(STYLE)}'; "
        f"script-src 'sha256-{_digest(SCRIPT)}'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
