"""Files for the Moonshine runtime, and the proof that they are the trained model.

The package can be called: `moonshine_tune.export(...)` is the function of the Python API, and it
stays so after a module of this package was imported.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moonshine_tune.runs.records import ExportRecord


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> "ExportRecord":
        from moonshine_tune.export.api import export_model

        return export_model(*args, **options)


sys.modules[__name__].__class__ = _CallablePackage
