"""`python benchmarks/select.py`: the benchmark in mask_selection.py, under the name it is asked for by.

Python looks for modules beside a script first, so that this file would stand for the standard
library's `select` in every script of this folder. Imported, it therefore hands on the real one.
"""

import os.path
import sys

HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
OTHER_PLACES = [place for place in sys.path if os.path.abspath(place) != HERE]  # noqa: PTH100

if __name__ == "__main__":
    sys.path[:] = [os.path.dirname(HERE), *OTHER_PLACES]  # noqa: PTH120
    from benchmarks.mask_selection import main

    main()
else:
    places = sys.path[:]
    sys.path[:] = OTHER_PLACES
    del sys.modules["select"]
    import select  # noqa: F401

    sys.path[:] = places
