"""`python benchmarks/select.py`: the benchmark in mask_selection.py, under the name it is asked for
by.

Python looks for modules beside a script first, so that this file would stand for the standard
library's `select` in every script of this folder. Imported, it therefore hands on the real one.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OTHER_PLACES = [place for place in sys.path if Path(place).resolve() != HERE]

if __name__ == "__main__":
    sys.path[:] = [str(HERE.parent), *OTHER_PLACES]
    from benchmarks.mask_selection import main

    main()
else:
    places = sys.path[:]
    sys.path[:] = OTHER_PLACES
    del sys.modules["select"]
    # What asked for this name gets the standard library's module, from sys.modules.
    __import__("select")
    sys.path[:] = places
