#include "bind_pool.h"

#include <algorithm>
#include <string>

#include "arrays.h"
#include "pool.h"

namespace fleet::python {

namespace {

// Bags out of arrays that this holds while the kernels work on them.
struct TakenBags {
  py::array inverse, lengths, weights;
  Bags bags{};

  TakenBags(const py::handle& inverse_, const py::handle& lengths_, const py::handle& weights_, const std::string& pooling)
      : inverse(take<uint32_t>(inverse_, "inverse", {kAny})) {
    bags.pooling = pooling == "mean" ? Pooling::kMean : pooling == "sqrtn" ? Pooling::kSqrtn : Pooling::kSum;
    if (bags.pooling == Pooling::kSum && pooling != "sum") {
      throw py::value_error("pooling must be sum, mean or sqrtn, got " + pooling);
    }
    bags.inverse = in<uint32_t>(inverse);
    bags.num_ids = bags.num_bags = static_cast<size_t>(inverse.shape(0));
    if (!weights_.is_none()) {
      weights = take<float>(weights_, "weights", {inverse.shape(0)});
      bags.weights = in<float>(weights);
    }
    if (!lengths_.is_none()) {
      lengths = take<int64_t>(lengths_, "lengths", {kAny});
      bags.lengths = in<int64_t>(lengths);
      bags.num_bags = static_cast<size_t>(lengths.shape(0));
      raise_if(check_bags(bags.lengths, bags.num_bags, bags.num_ids));
    }
  }

  py::ssize_t num_bags() const { return static_cast<py::ssize_t>(bags.num_bags); }

  void check_rows(py::ssize_t num_rows) const {
    const uint32_t* end = bags.inverse + bags.num_ids;
    const uint32_t highest = bags.num_ids == 0 ? 0 : *std::max_element(bags.inverse, end);
    if (bags.num_ids > 0 && static_cast<py::ssize_t>(highest) >= num_rows) {
      throw py::value_error("inverse holds " + std::to_string(highest) + ", but there are " + std::to_string(num_rows) + " rows");
    }
  }
};

void pool_into(const py::handle& rows_, const py::handle& inverse_, const py::handle& lengths_, const py::handle& weights_,
               const std::string& pooling, const py::handle& out_) {
  const TakenBags taken(inverse_, lengths_, weights_, pooling);
  const py::array rows = take<float>(rows_, "rows", {kAny, kAny});
  py::array result = take<float>(out_, "out", {taken.num_bags(), rows.shape(1)}, true);
  taken.check_rows(rows.shape(0));
  const float* from = in<float>(rows);
  float* to = out<float>(result);
  const auto dim = static_cast<size_t>(rows.shape(1));
  const py::gil_scoped_release released;
  pool(taken.bags, from, dim, to);
}

void unpool_into(const py::handle& grads_, const py::handle& inverse_, const py::handle& lengths_, const py::handle& weights_,
                 const std::string& pooling, const py::handle& out_) {
  const TakenBags taken(inverse_, lengths_, weights_, pooling);
  const py::array grads = take<float>(grads_, "grads", {taken.num_bags(), kAny});
  py::array result = take<float>(out_, "out", {kAny, grads.shape(1)}, true);
  taken.check_rows(result.shape(0));
  const float* from = in<float>(grads);
  float* to = out<float>(result);
  const auto dim = static_cast<size_t>(grads.shape(1));
  const py::gil_scoped_release released;
  unpool(taken.bags, from, dim, to);
}

py::array weight_gradients_of(const py::handle& rows_, const py::handle& grads_, const py::handle& inverse_,
                              const py::handle& lengths_, const py::handle& weights_, const std::string& pooling) {
  if (weights_.is_none()) throw py::type_error("weights must be a numpy array, got None");
  const TakenBags taken(inverse_, lengths_, weights_, pooling);
  const py::array rows = take<float>(rows_, "rows", {kAny, kAny});
  const py::array grads = take<float>(grads_, "grads", {taken.num_bags(), rows.shape(1)});
  taken.check_rows(rows.shape(0));
  py::array result = fresh<float>({static_cast<py::ssize_t>(taken.bags.num_ids)});
  const float* from = in<float>(rows);
  const float* with = in<float>(grads);
  float* to = out<float>(result);
  const auto dim = static_cast<size_t>(rows.shape(1));
  {
    const py::gil_scoped_release released;
    weight_gradients(taken.bags, from, with, dim, to);
  }
  return result;
}

py::object drop_padding_of(const py::handle& ids_, uint64_t padding, const py::handle& lengths_) {
  const py::array ids = take<uint64_t>(ids_, "ids", {kAny});
  const uint64_t* from = in<uint64_t>(ids);
  const auto n = static_cast<size_t>(ids.shape(0));
  py::array lengths;
  const int64_t* bags = nullptr;
  size_t num_bags = 0;
  if (!lengths_.is_none()) {
    lengths = take<int64_t>(lengths_, "lengths", {kAny});
    bags = in<int64_t>(lengths);
    num_bags = static_cast<size_t>(lengths.shape(0));
    raise_if(check_bags(bags, num_bags, n));
  }
  Kept kept;
  Status status;
  bool none = false;
  {
    const py::gil_scoped_release released;
    none = std::find(from, from + n, padding) == from + n;
    if (!none) status = drop_padding(from, n, padding, bags, num_bags, &kept);
  }
  raise_if(status);
  if (none) return py::none();
  return py::make_tuple(array_of(kept.ids), array_of(kept.places), array_of(kept.lengths));
}

}  // namespace

void bind_pool(py::module_& module) {
  module.def("pool", &pool_into, py::arg("rows"), py::arg("inverse"), py::arg("lengths"), py::arg("weights"), py::arg("pooling"),
             py::arg("out"));
  module.def("unpool", &unpool_into, py::arg("grads"), py::arg("inverse"), py::arg("lengths"), py::arg("weights"),
             py::arg("pooling"), py::arg("out"));
  module.def("weight_gradients", &weight_gradients_of, py::arg("rows"), py::arg("grads"), py::arg("inverse"), py::arg("lengths"),
             py::arg("weights"), py::arg("pooling"));
  module.def("drop_padding", &drop_padding_of, py::arg("ids"), py::arg("padding"), py::arg("lengths"));
}

}  // namespace fleet::python
