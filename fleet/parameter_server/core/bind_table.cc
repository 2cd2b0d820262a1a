#include "bind_table.h"

#include <pybind11/stl.h>

#include <cfloat>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "kernels.h"
#include "bind_life.h"
#include "table.h"

namespace fleet::python {

namespace {

using Hyper = std::map<std::string, double>;

std::string text_of(double value) { return std::string(py::str(py::float_(value))); }

// Takes one constant out of `hyper`, or its default.
float take_constant(Hyper& hyper, const Constant& constant) {
  const auto found = hyper.find(constant.name);
  const double value = found == hyper.end() ? constant.otherwise : found->second;
  if (found != hyper.end()) hyper.erase(found);
  if (constant.flag && value != 0 && value != 1) throw py::value_error(std::string(constant.name) + " must be 0 or 1, got " + text_of(value));
  if (!(value >= constant.low && value < constant.high)) {
    throw py::value_error(std::string(constant.name) + " must be in [" + text_of(constant.low) + ", " + text_of(constant.high) +
                          "), got " + text_of(value));
  }
  return static_cast<float>(value);
}

// Constants that every row optimizer takes: see Schema.
constexpr double kFloatMax = FLT_MAX;
constexpr Constant kCommon[] = {{"clip_max", kFloatMax, -kFloatMax, HUGE_VAL}, {"clip_min", -kFloatMax, -kFloatMax, HUGE_VAL}, {"l2_decay"}};

void set_optimizer(Schema& schema, const std::string& name, Hyper hyper) {
  const RowOptimizer* found = find_row_optimizer(name.c_str());
  if (found == nullptr) {
    std::string known;
    size_t count = 0;
    const RowOptimizer* all = row_optimizers(&count);
    for (size_t i = 0; i < count; ++i) known += (i > 0 ? ", " : "") + std::string(all[i].name);
    throw py::value_error("optimizer must be one of " + known + ", got " + name);
  }
  schema.choose(*found);
  for (size_t i = 0; i < kMaxConstants && found->constants[i].name != nullptr; ++i) {
    schema.constants[i] = take_constant(hyper, found->constants[i]);
  }
  schema.clip_max = take_constant(hyper, kCommon[0]);
  schema.clip_min = take_constant(hyper, kCommon[1]);
  schema.l2_decay = take_constant(hyper, kCommon[2]);
  if (!(schema.clip_min <= schema.clip_max)) throw py::value_error("clip_min must not be above clip_max");
  if (!hyper.empty()) throw py::value_error("optimizer " + name + " has no hyper-parameter " + hyper.begin()->first);
}

// name -> constant -> [default, low, high]
py::dict row_optimizer_constants() {
  py::dict result;
  size_t count = 0;
  const RowOptimizer* all = row_optimizers(&count);
  for (size_t i = 0; i < count; ++i) {
    py::dict constants;
    for (const Constant* one = all[i].constants; one < all[i].constants + kMaxConstants && one->name != nullptr; ++one) {
      constants[one->name] = py::make_tuple(one->otherwise, one->low, one->high);
    }
    result[all[i].name] = constants;
  }
  return result;
}

void set_initializer(Schema& schema, const std::string& name, std::pair<double, double> args) {
  if (!std::isfinite(static_cast<float>(args.first)) || !std::isfinite(static_cast<float>(args.second))) {
    throw py::value_error("init_args must be finite float32 values");
  }
  schema.init_a = static_cast<float>(args.first);
  schema.init_b = static_cast<float>(args.second);
  if (name == "uniform") {
    schema.initializer = Initializer::kUniform;
    if (!(args.first <= args.second)) throw py::value_error("initializer uniform needs low <= high");
    if (!std::isfinite(schema.init_b - schema.init_a)) throw py::value_error("initializer uniform needs a finite high - low");
  } else if (name == "normal") {
    schema.initializer = Initializer::kNormal;
    if (args.second < 0) throw py::value_error("initializer normal needs a standard deviation >= 0");
  } else if (name == "constant") {
    schema.initializer = Initializer::kConstant;
    if (args.second != 0) throw py::value_error("initializer constant takes (value, 0)");
  } else {
    throw py::value_error("initializer must be uniform, normal or constant, got " + name);
  }
}

Number number_of(const std::string& name, const char* what, std::initializer_list<Number> allowed) {
  std::string known;
  for (const Number number : allowed) {
    if (name == name_of(number)) return number;
    known += (known.empty() ? "" : ", ") + std::string(name_of(number));
  }
  throw py::value_error(std::string(what) + " must be one of " + known + ", got " + name);
}

// Numbers as they go over the wire: the bits of 16-bit floats. Returns how many results are not finite.
size_t narrow(const py::handle& values_, const py::handle& out_, const std::string& dtype) {
  const Number number = number_of(dtype, "dtype", {Number::kBfloat16, Number::kFloat16});
  const py::array values = take<float>(values_, "values", {kAny});
  py::array result = take<uint16_t>(out_, "out", {values.shape(0)}, true);
  const float* from = in<float>(values);
  auto* to = out<uint16_t>(result);
  const auto count = static_cast<size_t>(values.shape(0));
  const uint16_t infinite = number == Number::kBfloat16 ? 0x7f80 : 0x7c00;
  const py::gil_scoped_release released;
  kernels().store_numbers(number, from, count, reinterpret_cast<char*>(to));
  size_t bad = 0;
  for (size_t i = 0; i < count; ++i) bad += (to[i] & infinite) == infinite;
  return bad;
}

void widen(const py::handle& values_, const py::handle& out_, const std::string& dtype) {
  const Number number = number_of(dtype, "dtype", {Number::kBfloat16, Number::kFloat16});
  const py::array values = take<uint16_t>(values_, "values", {kAny});
  py::array result = take<float>(out_, "out", {values.shape(0)}, true);
  const auto* from = reinterpret_cast<const char*>(in<uint16_t>(values));
  float* to = out<float>(result);
  const auto count = static_cast<size_t>(values.shape(0));
  const py::gil_scoped_release released;
  kernels().load_numbers(number, from, count, to);
}

std::shared_ptr<Table> make_table(int64_t dim, const std::string& optimizer, const Hyper& hyper, const std::string& initializer,
                                  std::pair<double, double> init_args, uint64_t seed, uint64_t salt, int64_t stripes,
                                  const std::map<std::string, double>& life, const std::string& weights, const std::string& state) {
  const Schema schema = schema_of(dim, optimizer, hyper, initializer, init_args, seed, salt, life, weights, state, false);
  return std::make_shared<Table>(schema, stripes_of(stripes, schema));
}

uint64_t pull(Table& self, const py::handle& ids_, const py::handle& out_, bool create) {
  const py::array ids = take<uint64_t>(ids_, "ids", {kAny});
  const auto n = static_cast<size_t>(ids.shape(0));
  py::array result = take<float>(out_, "out", {ids.shape(0), static_cast<py::ssize_t>(self.schema().dim)}, true);
  const uint64_t* from = in<uint64_t>(ids);
  float* to = out<float>(result);
  uint64_t num_created = 0;
  Status status;
  {
    const py::gil_scoped_release released;
    status = self.pull(from, n, to, create, &num_created);
  }
  raise_if(status);
  return num_created;
}

size_t push(Table& self, const py::handle& ids_, const py::handle& grads_, float lr, int64_t step, const py::handle& shows_,
            const py::handle& clicks_) {
  const py::array ids = take<uint64_t>(ids_, "ids", {kAny});
  const auto n = static_cast<size_t>(ids.shape(0));
  const py::array grads = take<float>(grads_, "grads", {ids.shape(0), static_cast<py::ssize_t>(self.schema().dim)});
  check_push(self.schema(), lr, step);
  Sightings seen;
  py::array shows, clicks;
  if (!shows_.is_none()) {
    shows = take<uint32_t>(shows_, "shows", {ids.shape(0)});
    seen.shows = in<uint32_t>(shows);
  }
  if (!clicks_.is_none()) {
    clicks = take<uint32_t>(clicks_, "clicks", {ids.shape(0)});
    seen.clicks = in<uint32_t>(clicks);
  }
  const uint64_t* keys = in<uint64_t>(ids);
  const float* values = in<float>(grads);
  size_t num_nonfinite = 0;
  Status status;
  {
    const py::gil_scoped_release released;
    status = self.push(keys, n, values, lr, step, &num_nonfinite, seen);
  }
  raise_if(status);
  return num_nonfinite;
}

void assign(Table& self, const py::handle& ids_, const py::handle& weights_, const py::object& state_) {
  const py::array ids = take<uint64_t>(ids_, "ids", {kAny});
  const py::array weights = take<float>(weights_, "weights", {ids.shape(0), static_cast<py::ssize_t>(self.schema().dim)});
  const uint64_t* keys = in<uint64_t>(ids);
  const float* values = in<float>(weights);
  const auto n = static_cast<size_t>(ids.shape(0));
  py::array state;
  if (!state_.is_none()) state = take<float>(state_, "state", {ids.shape(0), static_cast<py::ssize_t>(self.schema().state_dim())});
  const float* states = state_.is_none() ? nullptr : in<float>(state);
  Status status;
  {
    const py::gil_scoped_release released;
    status = self.assign(keys, n, values, states);
  }
  raise_if(status);
}

py::tuple read(Table& self, const py::handle& ids_) {
  const py::array ids = take<uint64_t>(ids_, "ids", {kAny});
  const py::ssize_t n = ids.shape(0);
  py::array found = fresh<bool>({n});
  py::array weights = fresh<float>({n, static_cast<py::ssize_t>(self.schema().dim)});
  py::array state = fresh<float>({n, static_cast<py::ssize_t>(self.schema().state_dim())});
  const uint64_t* keys = in<uint64_t>(ids);
  auto* to_found = out<bool>(found);
  float* to_weights = out<float>(weights);
  float* to_state = out<float>(state);
  Status status;
  {
    const py::gil_scoped_release released;
    status = self.read(keys, static_cast<size_t>(n), to_found, to_weights, to_state);
  }
  raise_if(status);
  return py::make_tuple(found, weights, state);
}

void room_to_pull(Table& self, const py::handle& ids_) {
  const py::array ids = take<uint64_t>(ids_, "ids", {kAny});
  const uint64_t* keys = in<uint64_t>(ids);
  const auto n = static_cast<size_t>(ids.shape(0));
  Status status;
  {
    const py::gil_scoped_release released;
    status = self.room_to_pull(keys, n);
  }
  raise_if(status);
}

py::dict life_counts(Table& self) {
  LifeCounts counts;
  {
    const py::gil_scoped_release released;
    counts = self.life_counts();
  }
  py::dict result;
  result["waiting"] = counts.waiting;
  result["admitted"] = counts.admitted;
  result["evicted"] = counts.evicted;
  result["dropped"] = counts.dropped;
  return result;
}

py::array keys(Table& self) {
  std::vector<uint64_t> all;
  Status status;
  {
    const py::gil_scoped_release released;
    status = self.keys(&all);
  }
  raise_if(status);
  py::array result = fresh<uint64_t>({static_cast<py::ssize_t>(all.size())});
  std::copy(all.begin(), all.end(), out<uint64_t>(result));
  return result;
}

}  // namespace

Schema schema_of(int64_t dim, const std::string& optimizer, const std::map<std::string, double>& hyper, const std::string& initializer,
                 std::pair<double, double> init_args, uint64_t seed, uint64_t salt, const std::map<std::string, double>& life,
                 const std::string& weights, const std::string& state, bool has_base) {
  constexpr int64_t kMaxDim = Rows::kMaxRowBytes / 4;
  if (dim < 1 || dim > kMaxDim) throw py::value_error("dim must be 1 to " + std::to_string(kMaxDim) + ", got " + std::to_string(dim));
  Schema schema;
  schema.dim = static_cast<size_t>(dim);
  schema.seed = seed;
  schema.salt = salt;
  schema.has_base = has_base;
  schema.life = life_of(life);
  schema.weights = number_of(weights, "weights", {Number::kFloat32, Number::kBfloat16, Number::kFloat16});
  schema.state = number_of(state, "state", {Number::kFloat32, Number::kBfloat16});
  set_optimizer(schema, optimizer, hyper);
  set_initializer(schema, initializer, init_args);
  if (schema.row_bytes() > Rows::kMaxRowBytes) {
    throw py::value_error("a row of " + std::to_string(schema.row_bytes()) + " bytes (dim " + std::to_string(dim) + ", " + optimizer +
                          ") is above the limit of " + std::to_string(Rows::kMaxRowBytes));
  }
  return schema;
}

void check_push(const Schema& schema, float lr, int64_t step) {
  if (!std::isfinite(lr)) throw py::value_error("lr must be finite, got " + std::to_string(lr));
  if (step < 1) throw py::value_error("step must be >= 1 (the first push is step 1), got " + std::to_string(step));
  if (schema.optimizer->divides_by_rate && !(lr > 0)) {
    throw py::value_error(std::string(schema.optimizer_name()) + " divides by lr: it must be above 0, got " + std::to_string(lr));
  }
}

uint32_t stripes_of(int64_t stripes, const Schema& schema) {
  if (stripes < 1 || stripes > int64_t{kMaxStripes} || (stripes & (stripes - 1)) != 0) {
    throw py::value_error("stripes must be 1, 2, 4, 8 or 16, got " + std::to_string(stripes));
  }
  if (schema.life.admits() && stripes != int64_t{kMaxStripes}) throw py::value_error("a table with admission needs 16 stripes");
  return static_cast<uint32_t>(stripes);
}

void bind_table(py::module_& module) {
  module.def("row_optimizers", &row_optimizer_constants);
  module.def("narrow", &narrow, py::arg("values"), py::arg("out"), py::arg("dtype"));
  module.def("widen", &widen, py::arg("values"), py::arg("out"), py::arg("dtype"));
  const auto released = py::call_guard<py::gil_scoped_release>();
  py::class_<Table, std::shared_ptr<Table>>(module, "Table")
      .def(py::init(&make_table), py::kw_only(), py::arg("dim"), py::arg("optimizer"), py::arg("hyper"), py::arg("initializer"),
           py::arg("init_args"), py::arg("seed"), py::arg("salt"), py::arg("stripes") = 16,
           py::arg("life") = std::map<std::string, double>{}, py::arg("weights") = "float32", py::arg("state") = "float32")
      .def("pull", &pull, py::arg("ids"), py::arg("out"), py::arg("create"))
      .def("push", &push, py::arg("ids"), py::arg("grads"), py::arg("lr"), py::arg("step"), py::arg("shows") = py::none(),
           py::arg("clicks") = py::none())
      .def("assign", &assign, py::arg("ids"), py::arg("weights"), py::arg("state") = py::none())
      .def("read", &read, py::arg("ids"))
      .def("keys", &keys)
      .def("shrink", &Table::shrink, py::arg("below"), released)
      .def("forget_evicted", &Table::forget_evicted, py::arg("epoch"), released)
      .def("life_counts", &life_counts)
      .def("room_to_pull", &room_to_pull, py::arg("ids"))
      .def("set_evicts_when_full", &Table::set_evicts_when_full, py::arg("evicts"))
      .def_property("step", &Table::step, &Table::set_step)
      .def_property_readonly("size", py::cpp_function(&Table::size, released))
      .def_property_readonly("memory_bytes", py::cpp_function(&Table::memory_bytes, released))
      .def_property_readonly("num_restarts", &Table::num_restarts)
      .def_property_readonly("dim", [](const Table& self) { return self.schema().dim; })
      .def_property_readonly("state_dim", [](const Table& self) { return self.schema().state_dim(); })
      .def_property_readonly("row_bytes", [](const Table& self) { return self.schema().row_bytes(); })
      .def_property_readonly("optimizer", [](const Table& self) { return self.schema().optimizer_name(); });
}

}  // namespace fleet::python
