// The binding of pool.h.
#pragma once

#include <pybind11/pybind11.h>

namespace fleet::python {

void bind_pool(pybind11::module_& module);

}  // namespace fleet::python
