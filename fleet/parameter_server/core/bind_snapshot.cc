#include "bind_snapshot.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "side_memory.h"
#include "snapshot.h"

namespace fleet::python {

namespace {

using Tables = std::vector<std::shared_ptr<Table>>;

std::unique_ptr<Cut> make_cut(Tables tables, std::vector<uint16_t> after) {
  if (tables.size() != after.size()) throw py::value_error("after must have one epoch a table");
  for (size_t i = 0; i < tables.size(); ++i) {
    if (std::count(tables.begin(), tables.end(), tables[i]) > 1) throw py::value_error("a table is named twice");
  }
  std::unique_ptr<Cut> cut;
  Status status;
  {
    const py::gil_scoped_release released;
    status = Cut::begin(std::move(tables), std::move(after), &cut);
  }
  raise_if(status);
  return cut;
}

py::list write(Cut& self, const std::vector<std::string>& prefixes, int64_t shard_low, int64_t shard_high, size_t file_bytes) {
  if (shard_low < 0 || shard_high <= shard_low || shard_high > int64_t{kNumShards}) {
    throw py::value_error("shards [" + std::to_string(shard_low) + ", " + std::to_string(shard_high) + ") are not a range in [0, 1024)");
  }
  if (prefixes.size() != self.until().size()) throw py::value_error("prefixes must have one entry a table");
  std::vector<std::vector<SavedFile>> saved;
  Status status;
  {
    const py::gil_scoped_release released;
    status = self.write(prefixes, static_cast<uint32_t>(shard_low), static_cast<uint32_t>(shard_high), file_bytes, &saved);
  }
  raise_if(status, status.path);
  py::list tables;
  for (const std::vector<SavedFile>& files : saved) {
    py::list list;
    for (const SavedFile& file : files) {
      py::dict entry;
      entry["path"] = file.path;
      entry["rows"] = file.rows;
      entry["bytes"] = file.bytes;
      entry["checksums"] = file.checksums;
      entry["holds"] = file.holds == SavedFile::Holds::kRows ? "rows" : file.holds == SavedFile::Holds::kRemoved ? "removed" : "waiting";
      list.append(entry);
    }
    tables.append(list);
  }
  return tables;
}

std::unique_ptr<Load> make_load(std::shared_ptr<Table> table, const py::handle& keep_, bool keep_state) {
  const py::array keep = take<bool>(keep_, "keep", {kNumShards});
  return std::make_unique<Load>(std::move(table), in<bool>(keep), keep_state);
}

void raise_damage(Status status, const std::string& path) {
  if (status.kind == Status::kDamaged) status.text = path + ": " + status.text;
  raise_if(status, path);
}

Load::Claim claim_of(std::map<std::string, uint32_t> checksums, std::pair<int64_t, int64_t> shards, int64_t count) {
  if (shards.first < 0 || shards.second < shards.first || shards.second > int64_t{kNumShards}) {
    throw py::value_error("shards must be a range in [0, 1024)");
  }
  return {std::move(checksums), static_cast<uint32_t>(shards.first), static_cast<uint32_t>(shards.second), count};
}

uint64_t rows(Load& self, const std::string& path, std::map<std::string, uint32_t> checksums, std::pair<int64_t, int64_t> shards,
              int64_t count) {
  const Load::Claim claim = claim_of(std::move(checksums), shards, count);
  uint64_t num_made = 0;
  Status status;
  {
    const py::gil_scoped_release released;
    status = self.rows(path, claim, &num_made);
  }
  raise_damage(status, path);
  return num_made;
}

void drop_shards(Load& self, int64_t low, int64_t high) {
  if (low < 0 || high < low || high > int64_t{kNumShards}) throw py::value_error("shards must be a range in [0, 1024)");
  self.drop_shards(static_cast<uint32_t>(low), static_cast<uint32_t>(high));
}

// Load::removed or Load::waiting.
template <Status (Load::*kTake)(const std::string&, const Load::Claim&) noexcept>
void ids(Load& self, const std::string& path, std::map<std::string, uint32_t> checksums, std::pair<int64_t, int64_t> shards, int64_t count) {
  const Load::Claim claim = claim_of(std::move(checksums), shards, count);
  Status status;
  {
    const py::gil_scoped_release released;
    status = (self.*kTake)(path, claim);
  }
  raise_damage(status, path);
}

}  // namespace

void bind_snapshot(py::module_& module) {
  py::class_<Cut>(module, "Cut")
      .def(py::init(&make_cut), py::arg("tables"), py::arg("after"))
      .def("write", &write, py::arg("prefixes"), py::arg("shard_low"), py::arg("shard_high"), py::arg("file_bytes") = kFileBytes)
      .def("cancel", &Cut::cancel)
      .def_property_readonly("after", &Cut::after)
      .def_property_readonly("until", &Cut::until);
  const std::pair<int64_t, int64_t> all{0, kNumShards};
  py::class_<Load>(module, "Load")
      .def(py::init(&make_load), py::arg("table"), py::arg("keep"), py::arg("keep_state") = true)
      .def("expect", &Load::expect, py::arg("num_rows"))
      .def("next_snapshot", &Load::next_snapshot)
      .def("rows", &rows, py::arg("path"), py::arg("checksums"), py::arg("shards") = all, py::arg("count") = -1)
      .def("drop_shards", &drop_shards, py::arg("low"), py::arg("high"))
      .def("removed", &ids<&Load::removed>, py::arg("path"), py::arg("checksums"), py::arg("shards") = all, py::arg("count") = -1)
      .def("waiting", &ids<&Load::waiting>, py::arg("path"), py::arg("checksums"), py::arg("shards") = all, py::arg("count") = -1);
  module.def(
      "set_side_memory", [](size_t bytes, double patience_s) { SideMemory::of_process().set(bytes, patience_s); },
      py::arg("bytes") = SideMemory::kDefaultBound, py::arg("patience_s") = SideMemory::kPatienceS);
}

}  // namespace fleet::python
