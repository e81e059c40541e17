"""Regular expressions in configs, matched in time linear in the text.

Python's `re` can need years for a short text (`(a+)+$`), and a text here comes from a camera. The expressions run in
the Rust engine of pydantic, which has no backtracking, and therefore no look-around and no back references.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import SchemaError, SchemaValidator, core_schema


class Pattern:
    """A compiled expression. Upper and lower case differ unless it begins with `(?i)`."""

    def __init__(self, text: str) -> None:
        """Raises ValueError with the reason why `text` is no expression."""
        self.text = text
        try:
            schema = core_schema.str_schema(pattern=text, regex_engine="rust-regex")
            self._validator = SchemaValidator(schema)
        except SchemaError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            reason = reason.removeprefix("error: ").removeprefix("SchemaError: ").rstrip(".")
            raise ValueError(f"not a regular expression: {reason[:1].lower()}{reason[1:]}") from None

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def found_in(self, text: str) -> bool:
        """Return whether a part of `text` matches."""
        return self._validator.isinstance_python(text)


def parse_pattern(value: Any) -> Pattern:
    """Return the Pattern of a text. Raises ValueError."""
    if isinstance(value, Pattern):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError("must be a regular expression, such as `HH [A-Z]+`")
    return Pattern(value)


PatternField = Annotated[Any, BeforeValidator(parse_pattern, json_schema_input_type=str)]
