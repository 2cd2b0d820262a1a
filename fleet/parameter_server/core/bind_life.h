// Row life from Python: a mapping from the fields of struct Life to numbers.
#pragma once

#include <map>
#include <string>

#include "life.h"

namespace fleet::python {

// Raises ValueError for a field that does not exist, or rules that no table can keep.
Life life_of(std::map<std::string, double> fields);

}  // namespace fleet::python
