"""Tells whether a text is a filter pattern as Lambda takes it. Matching is no part of this module.

The grammar is in the Lambda developer guide, "Control which events Lambda sends to your function".
"""

from __future__ import annotations

import json

__all__ = ["is_pattern"]

_COMPARISONS = frozenset({"=", "<", "<=", ">", ">="})


def is_pattern(text: str) -> bool:
    """Return whether `text` is a JSON object of fields, `$or` alternatives and, as leaves, lists of allowed values and operators.

    Example:
        >>> is_pattern('{"data": {"city": ["Oslo", {"prefix": "Ber"}]}}')
        True
        >>> is_pattern('{"data": {"city": "Oslo"}}')
        False
    """
    try:
        pattern = json.loads(text)
        return isinstance(pattern, dict) and _is_fields(pattern)
    except (ValueError, RecursionError):
        return False


def _is_fields(fields: dict[str, object]) -> bool:
    return bool(fields) and all(_is_or(value) if name == "$or" else _is_field(value) for name, value in fields.items())


def _is_or(value: object) -> bool:
    """Two or more alternatives, each an object of fields."""
    return isinstance(value, list) and len(value) >= 2 and all(isinstance(one, dict) and _is_fields(one) for one in value)


def _is_field(value: object) -> bool:
    if isinstance(value, dict):
        return _is_fields(value)
    return isinstance(value, list) and bool(value) and all(_is_leaf(one) for one in value)


def _is_leaf(value: object) -> bool:
    if not isinstance(value, dict):
        return not isinstance(value, list)
    if len(value) != 1:
        return False
    ((operator, operand),) = value.items()
    match operator:
        case "prefix" | "suffix" | "equals-ignore-case":
            return isinstance(operand, str)
        case "exists":
            return isinstance(operand, bool)
        case "numeric":
            return _is_numeric(operand)
        case "anything-but":
            values = operand if isinstance(operand, list) else [operand]
            return bool(values) and all(isinstance(one, str) or _is_number(one) for one in values)
        case _:
            return False


def _is_numeric(operand: object) -> bool:
    """One comparison, or a lower and an upper bound."""
    if not isinstance(operand, list) or len(operand) not in (2, 4):
        return False
    names, numbers = operand[::2], operand[1::2]
    return all(isinstance(name, str) and name in _COMPARISONS for name in names) and all(_is_number(number) for number in numbers)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
