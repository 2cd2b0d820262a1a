// The binding of Table, apart from bind.cc because it is a noun of its own.
#pragma once

#include <pybind11/pybind11.h>

namespace fleet::python {

void bind_table(pybind11::module_& module);

}  // namespace fleet::python
