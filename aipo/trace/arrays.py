"""Arrays in frozen dataclasses: flat, read-only, compared by content, and pickled so."""

import pickle
from contextlib import suppress
from dataclasses import fields
from functools import partial
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator

from aipo.errors import TraceError


def frozen(values: Any, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """A read-only flat array; a copy, unless `values` are one already.

    Raises:
        TraceError: more than one axis, no numbers, or what numpy would cut to fit: 1.5 is not an id.
    """
    same = isinstance(values, np.ndarray) and values.dtype == dtype and values.ndim == 1
    if same and not values.flags.writeable:
        return values
    array = np.array(values)
    if array.dtype == object and np.issubdtype(dtype, np.floating):
        with suppress(TypeError, ValueError):
            array = np.array(values, np.float64)  # JSON has no NaN: what was not known comes back as null
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuf"):
        raise TraceError(f"values of tokens: got {array.ndim} axes of {array.dtype}, allowed one of numbers")
    with np.errstate(all="ignore"):
        flat = array.astype(dtype)
    if np.issubdtype(dtype, np.integer) and (flat != array).any():
        raise TraceError(f"token ids: got {array[flat != array][0]}, allowed {np.dtype(dtype)}")
    flat.flags.writeable = False
    return flat


Int32 = Annotated[npt.NDArray[np.int32], BeforeValidator(partial(frozen, dtype=np.int32))]
Float32 = Annotated[npt.NDArray[np.float32], BeforeValidator(partial(frozen, dtype=np.float32))]


class ByValue:
    """Equality that compares arrays by content, which a dataclass's own does not."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        names = [f.name for f in fields(self)]  # type: ignore[arg-type]
        return all(_same(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return type(a) is type(b) and np.array_equal(a, b, equal_nan=True)
    return bool(a == b)


def packed(message: object) -> bytes:
    """A pickle in which arrays are kept apart from the rest, so that they come out as they went in: read-only."""
    arrays: list[pickle.PickleBuffer] = []
    rest = pickle.dumps(message, protocol=5, buffer_callback=arrays.append)
    return pickle.dumps((rest, [array.raw().tobytes() for array in arrays]), protocol=5)


def unpacked(data: bytes) -> Any:
    """The inverse of `packed`."""
    rest, arrays = pickle.loads(data)
    return pickle.loads(rest, buffers=arrays)
