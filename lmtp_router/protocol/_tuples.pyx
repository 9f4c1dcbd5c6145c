# cython: language_level=3, boundscheck=False, wraparound=False
"""Named tuples made without a call of Python: one is made for each reply and each recipient.

Rule: all fields are given, in their order; a wrong number of them is a TypeError.
"""

from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_SIZE, PyTuple_SET_ITEM

cdef extern from *:
    """
    static PyObject *cyxr_new(PyObject *cls, Py_ssize_t size)
    {
        return ((PyTypeObject *)cls)->tp_alloc((PyTypeObject *)cls, size);
    }
    """
    object cyxr_new(object cls, Py_ssize_t size)

cdef dict sizes = {}


def record(cls, *fields):
    """A named tuple of the class `cls` with these `fields`."""
    cdef Py_ssize_t size = PyTuple_GET_SIZE(fields), i
    cdef object known = sizes.get(cls)
    cdef object made
    if known is None:
        known = sizes[cls] = len(cls._fields)
    if <Py_ssize_t>known != size:
        raise TypeError(f"{cls.__name__} has {known} fields, not {size}")
    made = cyxr_new(cls, size)
    for i in range(size):
        field = fields[i]
        Py_INCREF(field)
        PyTuple_SET_ITEM(made, i, field)
    return made
