"""Texts that try to be markup, scripts, event lines or names of object properties."""

from __future__ import annotations

HOSTILE = [
    '<img src=x onerror="window.executed=1">', "<script>window.executed=2</script>", '"><svg onload=window.executed=3>',
    "javascript:window.executed=4", "</textarea><iframe srcdoc='<script>parent.executed=5</script>'>",
    "{{constructor.constructor('window.executed=6')()}}", "\u202eevil\u2066", "\u2028window.executed=7\u2029",
    'a\n\nid: 999\nevent: other\ndata: {"x":1}\n\n', "x" * 5000, "__proto__", "constructor", "\U0001f600" * 50,
]  # fmt: skip
