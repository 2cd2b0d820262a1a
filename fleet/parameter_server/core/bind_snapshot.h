// Python's view of snapshots: Cut, Load.
#pragma once

#include <pybind11/pybind11.h>

namespace fleet::python {

void bind_snapshot(pybind11::module_& module);

}  // namespace fleet::python
