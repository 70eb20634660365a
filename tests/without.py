"""`python without.py MODULES PROGRAM ...`: PROGRAM where some modules are not installed.

PROGRAM: kdlib, faas, faas.function.server, or -c CODE. MODULES: top-level names, with commas between them; neither they
nor their distributions can be found.
"""

import importlib.metadata
import re
import runpy
import sys
from importlib.machinery import PathFinder

PROGRAMS = {"kdlib": "kdlib.cli.main", "faas": "faas", "faas.function.server": "faas.function.server"}


def plain(name):
    """A distribution's name as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def hide(modules):
    """From now on this process finds none of them."""
    brought_by = importlib.metadata.packages_distributions()
    hidden = {plain(name) for module in modules for name in brought_by.get(module, ())}

    class Hiding(PathFinder):
        """Python's own finder, which overlooks some."""

        @classmethod
        def find_spec(cls, name, path=None, target=None):
            return None if name.partition(".")[0] in modules else super().find_spec(name, path, target)

        @staticmethod
        def find_distributions(*context):
            return (one for one in PathFinder.find_distributions(*context) if plain(one.name) not in hidden)

    sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding


def main():
    """See the module."""
    modules, program, *sys.argv[1:] = sys.argv[1:]
    hide(modules.split(","))
    sys.path[0] = ""
    if program == "-c":
        exec(sys.argv[1], {"__name__": "__main__"})
    elif program == "kdlib":
        runpy.run_module(PROGRAMS[program])["main"]()
    else:
        runpy.run_module(PROGRAMS[program], run_name="__main__")


if __name__ == "__main__":
    main()
