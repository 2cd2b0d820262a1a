// How bind.cc takes NumPy arrays: exactly as the kernels want them, or an error that says what is wrong. Nothing is converted.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>
#include <vector>

#include "status.h"

namespace fleet::python {

namespace py = pybind11;

constexpr py::ssize_t kAny = -1;  // a length that only this array decides

inline std::string shape_text(const std::vector<py::ssize_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i > 0 ? ", " : "") + (shape[i] == kAny ? std::string("n") : std::to_string(shape[i]));
  }
  return text + "]";
}

// Returns `object` as an array of T with this shape, C-contiguous and aligned.
// Raises TypeError if it is no array or has another dtype, ValueError for shape, layout or a read-only output.
template <class T>
py::array take(const py::handle& object, const char* name, const std::vector<py::ssize_t>& shape, bool writes = false) {
  const auto wanted = [&shape] {  // made when it is needed: NumPy names a dtype in Python code, 5 us
    return std::string(py::str(static_cast<py::handle>(py::dtype::of<T>()))) + shape_text(shape);
  };
  if (!py::isinstance<py::array>(object)) {
    throw py::type_error(std::string(name) + " must be a numpy array " + wanted() + ", got " +
                         std::string(py::str(py::type::handle_of(object).attr("__name__"))));
  }
  auto array = py::reinterpret_borrow<py::array>(object);
  if (!array.dtype().equal(py::dtype::of<T>())) {
    throw py::type_error(std::string(name) + " must be " + wanted() + ", got dtype " +
                         std::string(py::str(static_cast<py::handle>(array.dtype()))));
  }
  bool fits = static_cast<size_t>(array.ndim()) == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] == kAny || shape[i] == array.shape(static_cast<py::ssize_t>(i));
  const std::vector<py::ssize_t> got(array.shape(), array.shape() + (fits ? 0 : array.ndim()));
  if (!fits) throw py::value_error(std::string(name) + " must be " + wanted() + ", got shape " + shape_text(got));
  const int flags = array.flags();
  if ((flags & py::array::c_style) == 0 || (flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0) {
    throw py::value_error(std::string(name) + " must be C-contiguous and aligned; numpy.ascontiguousarray makes it so");
  }
  if (writes && !array.writeable()) throw py::value_error(std::string(name) + " must be writeable: results go there");
  return array;
}

template <class T>
const T* in(const py::array& array) {
  return static_cast<const T*>(array.data());
}

template <class T>
T* out(py::array& array) {
  return static_cast<T*>(array.mutable_data());
}

// A fresh array without a copy of anything.
template <class T>
py::array fresh(const std::vector<py::ssize_t>& shape) {
  return py::array(py::dtype::of<T>(), shape);
}

// A fresh array with these values.
template <class T>
py::array array_of(const std::vector<T>& values) {
  py::array array = fresh<T>({static_cast<py::ssize_t>(values.size())});
  std::copy(values.begin(), values.end(), out<T>(array));
  return array;
}

// Turns a failure of the core into the Python exception it stands for. `path` names the file of kIo.
inline void raise_if(const Status& status, const std::string& path = {}) {
  switch (status.kind) {
    case Status::kOk: return;
    case Status::kFull:
    case Status::kNoMemory: PyErr_SetString(PyExc_MemoryError, status.text.c_str()); break;
    case Status::kIo: {
      // OSError(errno, text, path) picks its own subclass: FileNotFoundError, PermissionError...
      const py::object error = py::reinterpret_borrow<py::object>(PyExc_OSError)(status.error_number, status.text, path);
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
      break;
    }
    case Status::kDamaged:
    case Status::kInvalid: PyErr_SetString(PyExc_ValueError, status.text.c_str()); break;
  }
  throw py::error_already_set();
}

}  // namespace fleet::python
