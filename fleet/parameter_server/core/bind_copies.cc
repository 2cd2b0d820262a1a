#include <pybind11/stl.h>

#include <cmath>
#include <memory>
#include <vector>

#include "arrays.h"
#include "bind_table.h"
#include "copies.h"

namespace fleet::python {

namespace {

std::shared_ptr<Copies> make_copies(int64_t dim, const std::string& optimizer, const std::map<std::string, double>& hyper,
                                    const std::string& initializer, std::pair<double, double> init_args, uint64_t seed, uint64_t salt,
                                    const std::string& state) {
  const Schema schema = schema_of(dim, optimizer, hyper, initializer, init_args, seed, salt, {}, "float32", state, true);
  return std::make_shared<Copies>(schema, kMaxStripes);
}

py::array rows_of(const Copies& self, const py::handle& values, const char* name, const py::array& ids, bool writes = false) {
  return take<float>(values, name, {ids.shape(0), static_cast<py::ssize_t>(self.schema().dim)}, writes);
}

py::array pull_fresh(Copies& self, const py::handle& ids_, const py::handle& out_) {
  const py::array ids = take<uint64_t>(ids_, "ids", {kAny});
  py::array result = rows_of(self, out_, "out", ids, true);
  const uint64_t* keys = in<uint64_t>(ids);
  const auto n = static_cast<size_t>(ids.shape(0));
  float* to = out<float>(result);
  std::vector<uint32_t> stale;
  Status status;
  {
    const py::gil_scoped_release released;
    status = self.pull_fresh(keys, n, to, &stale);
  }
  raise_if(status);
  return array_of(stale);
}

py::tuple push_fresh(Copies& self, const py::handle& ids_, const py::handle& grads_, float lr, int64_t step) {
  const py::array ids = take<uint64_t>(ids_, "ids", {kAny});
  const py::array grads = rows_of(self, grads_, "grads", ids);
  check_push(self.schema(), lr, step);
  const uint64_t* keys = in<uint64_t>(ids);
  const auto n = static_cast<size_t>(ids.shape(0));
  const float* values = in<float>(grads);
  std::vector<uint32_t> stale;
  size_t num_nonfinite = 0;
  Status status;
  {
    const py::gil_scoped_release released;
    status = self.push_fresh(keys, n, values, lr, step, &num_nonfinite, &stale);
  }
  raise_if(status);
  return py::make_tuple(num_nonfinite, array_of(stale));
}

void take_rows(Copies& self, const py::handle& ids_, const py::handle& weights_, bool owed) {
  const py::array ids = take<uint64_t>(ids_, "ids", {kAny});
  py::array weights = rows_of(self, weights_, "weights", ids, true);
  const uint64_t* keys = in<uint64_t>(ids);
  const auto n = static_cast<size_t>(ids.shape(0));
  float* values = out<float>(weights);
  Status status;
  {
    const py::gil_scoped_release released;
    status = self.take(keys, n, values, owed);
  }
  raise_if(status);
}

void moves(Copies& self, const py::handle& ids_, float parts, bool follow, const py::handle& out_) {
  const py::array ids = take<uint64_t>(ids_, "ids", {kAny});
  py::array result = rows_of(self, out_, "out", ids, true);
  if (!(parts >= 1)) throw py::value_error("parts must be >= 1, got " + std::to_string(parts));
  const uint64_t* keys = in<uint64_t>(ids);
  const auto n = static_cast<size_t>(ids.shape(0));
  float* to = out<float>(result);
  Status status;
  {
    const py::gil_scoped_release released;
    status = self.moves(keys, n, parts, follow, to);
  }
  raise_if(status);
}

void settle(Copies& self, const py::handle& ids_, const py::object& sent_) {
  const py::array ids = take<uint64_t>(ids_, "ids", {kAny});
  py::array sent;
  if (!sent_.is_none()) sent = rows_of(self, sent_, "sent", ids);
  const uint64_t* keys = in<uint64_t>(ids);
  const auto n = static_cast<size_t>(ids.shape(0));
  const float* values = sent_.is_none() ? nullptr : in<float>(sent);
  Status status;
  {
    const py::gil_scoped_release released;
    status = self.settle(keys, n, values);
  }
  raise_if(status);
}

}  // namespace

void bind_copies(py::module_& module) {
  py::class_<Copies, Table, std::shared_ptr<Copies>>(module, "Copies")
      .def(py::init(&make_copies), py::kw_only(), py::arg("dim"), py::arg("optimizer"), py::arg("hyper"), py::arg("initializer"),
           py::arg("init_args"), py::arg("seed"), py::arg("salt"), py::arg("state") = "float32")
      .def("pull_fresh", &pull_fresh, py::arg("ids"), py::arg("out"))
      .def("push_fresh", &push_fresh, py::arg("ids"), py::arg("grads"), py::arg("lr"), py::arg("step"))
      .def("take", &take_rows, py::arg("ids"), py::arg("weights"), py::arg("owed"))
      .def("moves", &moves, py::arg("ids"), py::arg("parts"), py::arg("follow"), py::arg("out"))
      .def("settle", &settle, py::arg("ids"), py::arg("sent") = py::none())
      .def("renew", &Copies::renew, py::call_guard<py::gil_scoped_release>());
}

}  // namespace fleet::python
