"""Loads a program that the role airflow puts on hosts, with stand-ins for what is installed there."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def load(monkeypatch: pytest.MonkeyPatch, file: Path, modules: Mapping[str, Mapping[str, Any]]) -> Any:
    """The program as a module.

    :param modules: name -> content of each module that it imports and that is not here.
    """
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
