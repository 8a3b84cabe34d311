"""Packages whose modules load when a name of theirs is used."""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

__all__: list[str] = []


def serve(package: str, homes: Mapping[str, str], extra: str, needed: Sequence[str]) -> None:
    """Make the names of a package load their modules.

    Parameters
    ----------
    package : str
    homes : mapping of str to str
        The module that holds a name.
    extra : str
        That installs what the modules import.
    needed : sequence of str
        The packages of the extra: an error that one is missing names the extra.
    """

    class Package(ModuleType):
        """Some functions have the name of their module; the import of the module must not hide the function."""

        def __setattr__(self, name: str, value: Any) -> None:
            if isinstance(value, ModuleType) and homes.get(name) == name:
                value = getattr(value, name)
            super().__setattr__(name, value)

        def __getattr__(self, name: str) -> Any:
            if name not in homes:
                raise AttributeError(f"module '{package}' has no attribute {name!r}")
            try:
                value = getattr(import_module(f"{package}.{homes[name]}"), name)
            except ImportError as error:
                missing = str(error.name).partition(".")[0]
                if missing not in needed:
                    raise
                sentence = f"{package}.{name}: {missing} must be installed: pip install 'qnumpy[{extra}]'."
                raise ImportError(sentence, name=missing) from error
            setattr(self, name, value)
            return value

        def __dir__(self) -> list[str]:
            return sorted(homes)

    sys.modules[package].__class__ = Package
