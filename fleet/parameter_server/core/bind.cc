// fleet.parameter_server._core: the only file of the core that knows Python. Every function checks its arrays, releases the
// GIL, works, and turns a failure into an exception. Signatures and their documentation: ../_core.pyi.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "memory_limit.h"
#include "batch.h"
#include "bind_pool.h"
#include "bind_snapshot.h"
#include "bind_table.h"
#include "denormals.h"
#include "frozen.h"
#include "kernels.h"
#include "mix.h"
#include "pages.h"

namespace fleet::python {

namespace {

py::array as_array(uintptr_t address, py::ssize_t count, const std::string& dtype) {
  if (dtype != "float32" && dtype != "int64" && dtype != "uint64" && dtype != "uint32") {
    throw py::value_error("dtype must be float32, int64, uint64 or uint32, got " + dtype);
  }
  if (count < 0) throw py::value_error("count must be >= 0, got " + std::to_string(count));
  const py::dtype type = py::dtype::from_args(py::str(dtype));
  if (address == 0 || address % static_cast<uintptr_t>(type.itemsize()) != 0) {
    throw py::value_error("address " + std::to_string(address) + " is null or not aligned to " + dtype);
  }
  void* memory = reinterpret_cast<void*>(address);  // NOLINT: this function is the one place where addresses come in
  return py::array(type, {count}, {}, memory, py::capsule(memory, [](void*) {}));
}

py::array shard_of(const py::handle& ids_, uint64_t salt) {
  const py::array ids = take<uint64_t>(ids_, "ids", {kAny});
  py::array shards = fresh<uint16_t>({ids.shape(0)});
  const uint64_t* from = in<uint64_t>(ids);
  auto* to = out<uint16_t>(shards);
  const py::ssize_t n = ids.shape(0);
  const py::gil_scoped_release released;
  for (py::ssize_t i = 0; i < n; ++i) to[i] = static_cast<uint16_t>(shard_of_hash(hash_of(from[i], salt)));
  return shards;
}

// One batch of one table: what Unique made of it.
struct Batch {
  Unique* unique;
  py::array ids, inverse;
  std::vector<uint64_t> keys;
  std::vector<int64_t> counts;
};

Batch batch_of(Unique* unique, const py::handle& ids_) {
  py::array ids = take<uint64_t>(ids_, "ids", {kAny});
  const py::ssize_t n = ids.shape(0);
  if (n >= (py::ssize_t{1} << 31)) throw py::value_error("ids must be fewer than 2^31 in one call, got " + std::to_string(n));
  return {unique, std::move(ids), fresh<uint32_t>({n}), {}, {}};
}

// One call, and one release of the GIL, for all tables of a step.
py::list unique_batches(std::vector<Batch> batches, const py::handle& server_of_shard_, int64_t num_servers) {
  const py::array map = take<uint16_t>(server_of_shard_, "server_of_shard", {kNumShards});
  if (num_servers < 1 || num_servers > 65536) {
    throw py::value_error("num_servers must be 1 to 65536, got " + std::to_string(num_servers));
  }
  const uint16_t* servers = in<uint16_t>(map);
  Status status;
  {
    const py::gil_scoped_release released;
    for (Batch& batch : batches) {
      const auto n = static_cast<size_t>(batch.ids.shape(0));
      auto* inverse = static_cast<uint32_t*>(const_cast<void*>(batch.inverse.data()));  // ours, and fresh
      status = batch.unique->run(in<uint64_t>(batch.ids), n, servers, static_cast<uint32_t>(num_servers), inverse);
      if (!status.ok()) break;
      batch.keys = batch.unique->keys();  // copies: a table may come twice
      batch.counts = batch.unique->counts();
    }
  }
  raise_if(status);
  py::list found;
  for (const Batch& batch : batches) {
    found.append(py::make_tuple(array_of(batch.keys), batch.inverse, array_of(batch.counts)));
  }
  return found;
}

py::tuple unique(Unique& self, const py::handle& ids, const py::handle& server_of_shard, int64_t num_servers) {
  std::vector<Batch> batches;
  batches.push_back(batch_of(&self, ids));
  return unique_batches(std::move(batches), server_of_shard, num_servers)[0];
}

py::list unique_all(const py::list& wanted, const py::handle& server_of_shard, int64_t num_servers) {
  std::vector<Batch> batches;
  for (const py::handle& item : wanted) {
    if (!py::isinstance<py::tuple>(item) || py::len(item) != 2) throw py::type_error("unique_all takes a list of (Unique, ids)");
    const auto pair = py::reinterpret_borrow<py::tuple>(item);
    batches.push_back(batch_of(pair[0].cast<Unique*>(), pair[1]));
  }
  return unique_batches(std::move(batches), server_of_shard, num_servers);
}

// Rows are `m`; every value of inverse must name one.
void check_inverse(const uint32_t* inverse, py::ssize_t n, py::ssize_t m) {
  uint32_t highest = 0;
  {
    const py::gil_scoped_release released;
    for (py::ssize_t i = 0; i < n; ++i) highest = inverse[i] > highest ? inverse[i] : highest;
  }
  if (n > 0 && static_cast<py::ssize_t>(highest) >= m) {
    throw py::value_error("inverse holds " + std::to_string(highest) + ", but there are " + std::to_string(m) + " rows");
  }
}

void expand(const py::handle& rows_, const py::handle& inverse_, const py::handle& out_) {
  const py::array rows = take<float>(rows_, "rows", {kAny, kAny});
  const py::array inverse = take<uint32_t>(inverse_, "inverse", {kAny});
  py::array result = take<float>(out_, "out", {inverse.shape(0), rows.shape(1)}, true);
  check_inverse(in<uint32_t>(inverse), inverse.shape(0), rows.shape(0));
  const auto dim = static_cast<size_t>(rows.shape(1));
  const auto n = static_cast<size_t>(inverse.shape(0));
  const float* from = in<float>(rows);
  const uint32_t* places = in<uint32_t>(inverse);
  float* to = out<float>(result);
  const py::gil_scoped_release released;
  kernels().expand(from, dim, places, n, to);
}

size_t merge(const py::handle& grads_, const py::handle& inverse_, float factor, const py::handle& out_) {
  const py::array inverse = take<uint32_t>(inverse_, "inverse", {kAny});
  const py::array grads = take<float>(grads_, "grads", {inverse.shape(0), kAny});
  py::array result = take<float>(out_, "out", {kAny, grads.shape(1)}, true);
  check_inverse(in<uint32_t>(inverse), inverse.shape(0), result.shape(0));
  const auto dim = static_cast<size_t>(grads.shape(1));
  const auto n = static_cast<size_t>(inverse.shape(0));
  const auto size = static_cast<size_t>(result.size());
  const float* from = in<float>(grads);
  const uint32_t* places = in<uint32_t>(inverse);
  float* to = out<float>(result);
  const py::gil_scoped_release released;
  std::fill_n(to, size, 0.0f);
  kernels().add_rows(from, dim, places, n, to);
  return kernels().scale(to, size, factor);
}

size_t count_nonfinite(const py::handle& values_) {
  const py::array values = take<float>(values_, "values", {kAny});
  const float* from = in<float>(values);
  const auto n = static_cast<size_t>(values.shape(0));
  const py::gil_scoped_release released;
  return kernels().count_nonfinite(from, n);
}

py::tuple merge_pushes_of(const py::list& list) {
  std::vector<py::array> held;
  std::vector<Push> pushes;
  py::ssize_t dim = kAny;
  if (list.empty()) throw py::value_error("merge_pushes needs at least one (keys, grads)");
  for (const py::handle& item : list) {
    if (!py::isinstance<py::tuple>(item) || py::len(item) != 2) throw py::type_error("merge_pushes takes a list of (keys, grads)");
    const auto pair = py::reinterpret_borrow<py::tuple>(item);
    held.push_back(take<uint64_t>(pair[0], "keys", {kAny}));
    const py::ssize_t n = held.back().shape(0);
    held.push_back(take<float>(pair[1], "grads", {n, dim}));
    dim = held.back().shape(1);
    pushes.push_back({in<uint64_t>(held[held.size() - 2]), in<float>(held.back()), static_cast<size_t>(n)});
  }
  std::vector<uint64_t> keys;
  std::vector<uint32_t> places;
  Status status;
  {
    const py::gil_scoped_release released;
    status = number_pushes(pushes, &keys, &places);
  }
  raise_if(status);
  py::array all_keys = fresh<uint64_t>({static_cast<py::ssize_t>(keys.size())});
  py::array sums = fresh<float>({static_cast<py::ssize_t>(keys.size()), dim});
  auto* to_keys = out<uint64_t>(all_keys);
  float* to = out<float>(sums);
  {
    const py::gil_scoped_release released;
    std::copy(keys.begin(), keys.end(), to_keys);
    sum_pushes(pushes, static_cast<size_t>(dim), places, keys.size(), to);
  }
  return py::make_tuple(all_keys, sums);
}

// Rows come as float32, or as the bits of 16-bit floats.
py::array frozen_read(const py::handle& ids_, const py::handle& out_, const py::handle& index_, const py::handle& keys_,
                      const py::handle& rows_, const std::string& dtype, uint64_t salt) {
  if (dtype != "float32" && dtype != "float16" && dtype != "bfloat16") {
    throw py::value_error("dtype must be float32, float16 or bfloat16, got " + dtype);
  }
  const py::array ids = take<uint64_t>(ids_, "ids", {kAny});
  const py::array index = take<uint64_t>(index_, "index", {kAny});
  const py::array keys = take<uint64_t>(keys_, "keys", {kAny});
  const bool wide = dtype == "float32";
  const py::array rows = wide ? take<float>(rows_, "rows", {keys.shape(0), kAny}) : take<uint16_t>(rows_, "rows", {keys.shape(0), kAny});
  py::array result = take<float>(out_, "out", {ids.shape(0), rows.shape(1)}, true);
  FrozenTable table;
  while (table.bits < 40 && (py::ssize_t{1} << table.bits) + 1 < index.shape(0)) ++table.bits;
  if ((py::ssize_t{1} << table.bits) + 1 != index.shape(0)) throw py::value_error("index must have 2^bits + 1 entries");
  table.index = in<uint64_t>(index);
  table.keys = in<uint64_t>(keys);
  table.rows = rows.data();
  table.num_rows = static_cast<size_t>(keys.shape(0));
  table.dim = static_cast<size_t>(rows.shape(1));
  table.dtype = wide ? FrozenDtype::kFloat32 : dtype == "float16" ? FrozenDtype::kFloat16 : FrozenDtype::kBfloat16;
  table.salt = salt;
  const auto count = static_cast<size_t>(ids.shape(0));
  const uint64_t* from = in<uint64_t>(ids);
  float* to = out<float>(result);
  std::vector<int64_t> missing(count);
  size_t num_missing = 0;
  Status status;
  {
    const py::gil_scoped_release released;
    status = read_frozen(table, from, count, to, missing.data(), &num_missing);
  }
  raise_if(status);
  py::array places = fresh<int64_t>({static_cast<py::ssize_t>(num_missing)});
  std::copy_n(missing.begin(), num_missing, out<int64_t>(places));
  return places;
}

void set_simd(const std::string& name) {
  if (name == "auto") {
    choose_kernels(*kernels_of(best_simd()));
    return;
  }
  std::string known = "auto";
  for (Simd level : {Simd::kPortable, Simd::kAvx2, Simd::kAvx512}) {
    const Kernels* candidate = kernels_of(level);
    if (candidate == nullptr) continue;
    if (name == candidate->name) {
      choose_kernels(*candidate);
      return;
    }
    known += std::string(", ") + candidate->name;
  }
  throw py::value_error("SIMD level must be one that this CPU has (" + known + "), got " + name);
}

py::dict core_info() {
  py::list levels;
  for (Simd level : {Simd::kPortable, Simd::kAvx2, Simd::kAvx512}) {
    if (kernels_of(level) != nullptr) levels.append(kernels_of(level)->name);
  }
  py::dict info;
  info["simd"] = kernels().name;
  info["simd_levels"] = levels;
  info["huge_pages"] = huge_pages_granted();
  info["num_shards"] = kNumShards;
  info["sources"] = FLEET_SOURCES;  // setup.py says it
  return info;
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.doc() = "The C++ core of fleet's parameter server: tables, batches of ids, placement.";
  module.def("as_array", &as_array, py::arg("address"), py::arg("count"), py::arg("dtype"));
  module.def("shard_of", &shard_of, py::arg("ids"), py::arg("salt"));
  module.def("expand", &expand, py::arg("rows"), py::arg("inverse"), py::arg("out"));
  module.def("merge", &merge, py::arg("grads"), py::arg("inverse"), py::arg("scale"), py::arg("out"));
  module.def("count_nonfinite", &count_nonfinite, py::arg("values"));
  module.def("merge_pushes", &merge_pushes_of, py::arg("pushes"));
  module.def("frozen_read", &frozen_read, py::arg("ids"), py::arg("out"), py::arg("index"), py::arg("keys"), py::arg("rows"),
             py::arg("dtype"), py::arg("salt"));
  module.def("flush_denormals", &flush_denormals, "Flush denormals to zero in the calling thread.");
  module.def("core_info", &core_info);
  module.def("set_memory_limit", [](size_t bytes) { MemoryLimit::of_process().set(bytes); }, py::arg("bytes"));
  module.def("resident_bytes", &resident_bytes);
  module.def("set_simd", &set_simd, py::arg("level"));
  py::class_<Unique>(module, "Unique").def(py::init<uint64_t>(), py::arg("salt")).def(
      "unique", &unique, py::arg("ids"), py::arg("server_of_shard"), py::arg("num_servers"));
  module.def("unique_all", &unique_all, py::arg("batches"), py::arg("server_of_shard"), py::arg("num_servers"));
  bind_pool(module);
  bind_table(module);
  bind_copies(module);
  bind_snapshot(module);
}

}  // namespace fleet::python
