// The binding of Table and of Copies, apart from bind.cc because they are nouns of their own.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "schema.h"

namespace fleet::python {

void bind_table(pybind11::module_& module);
void bind_copies(pybind11::module_& module);  // in bind_copies.cc, after bind_table

// What Table's constructor takes, checked. Raises ValueError.
Schema schema_of(int64_t dim, const std::string& optimizer, const std::map<std::string, double>& hyper, const std::string& initializer,
                 std::pair<double, double> init_args, uint64_t seed, uint64_t salt, const std::map<std::string, double>& life,
                 const std::string& weights, const std::string& state, bool has_base);
// Raises ValueError for a rate or a step that no push has.
void check_push(const Schema& schema, float lr, int64_t step);
// A number of stripes, checked likewise.
uint32_t stripes_of(int64_t stripes, const Schema& schema);

}  // namespace fleet::python
