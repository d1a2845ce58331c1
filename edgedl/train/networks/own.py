"""A user's own network: `module:callable`, importable or a file."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from edgedl.core.errors import BadOption, BadValue
from edgedl.core.own import own_callable

FORM = "module:callable or file.py:callable, with def callable(inputs, outputs, *, width=16): ..."


def own_network(spec: str) -> Callable[..., Any]:
    """The user's callable, which makes a network of (inputs, outputs, *, settings by keyword).

    Raises:
        BadValue: there is no such file, module or callable, it cannot be loaded, or it takes fewer
            than two arguments.
    """
    try:
        factory = own_callable(spec, "network", FORM)
        inspect.signature(factory).bind_partial({}, 0)
    except BadOption as error:
        raise BadValue(error.message, keys=("name",), hint=error.hint) from error
    except (TypeError, ValueError):
        message = f"`{spec}` cannot be called with inputs and outputs"
        raise BadValue(message, keys=("name",), hint=FORM) from None
    return factory
