"""The projections that come with the product, and how a name in the settings becomes one."""

from __future__ import annotations

import importlib

from programs.errors import UserError
from projections.model import Projection, ProjectionError

BUILTIN = {"voting": "projections.catalog.voting:VOTING"}


def resolve(name: str) -> Projection:
    """The projection of a setting: a builtin name, or "package.module:NAME". UserError when there is none."""
    path = BUILTIN.get(name, name)
    module_name, _, attribute = path.partition(":")
    if not attribute:
        raise UserError(f"projections = {name!r}: no such projection; use {', '.join(BUILTIN)} or package.module:NAME")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"projections = {name!r}: {error}; check the path, and that the package is installed") from None
    except ProjectionError as error:
        raise UserError(f"projections = {name!r}: {error}") from None
    except Exception as error:  # the module is somebody else's code: whatever it raises belongs to the setting
        raise UserError(f"projections = {name!r}: {type(error).__name__}: {error}; mend the module") from None
    if not isinstance(found, Projection):
        raise UserError(
            f"projections = {name!r}: {type(found).__name__} is no Projection; name the object made by Projection(…)"
        )
    return found
