"""numpy and pandas: arrays of their own in each call."""

import numpy
import pandas


def handle(value: str) -> str:
    n = int(value)
    frame = pandas.DataFrame({"n": numpy.arange(100) + n})
    return str(int(frame["n"].sum() + numpy.linalg.norm(numpy.ones(4)) * n))
