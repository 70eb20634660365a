"""The notebooks for a class: copies without solutions and outputs."""

import re
from pathlib import Path

from kdlib.errors import KdlibError

SOLUTION = re.compile(r"\n*<details><summary>Solution</summary>.*?</details>", re.DOTALL)


def handout(notebooks: Path, out: Path) -> list[Path]:
    """Copy every notebook of the folder `notebooks` to `out`, without solutions, outputs and execution counts.

    Raises KdlibError where there are no notebooks, or `out` holds something.
    """
    import nbformat  # with its schema a second to import

    found = sorted(notebooks.glob("*.ipynb"))
    if not found:
        raise KdlibError(f"{notebooks} holds no notebooks; call this where the repository is, or give --notebooks")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise KdlibError(f"{out} is there already; allowed: a new folder, or an empty one")
    books = {path.name: nbformat.read(path, 4) for path in found}
    out.mkdir(parents=True, exist_ok=True)
    for name, book in books.items():
        for cell in book.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
            else:
                cell.source = SOLUTION.sub("", cell.source)
            cell.metadata.pop("execution", None)
        nbformat.write(book, out / name)
    return [out / name for name in books]
