#include "bind_life.h"

#include "arrays.h"
#include "index.h"

namespace fleet::python {

namespace {

// Takes a field out of `fields`, or its default; it must lie in [low, high].
double take_field(std::map<std::string, double>& fields, const char* name, double otherwise, double low, double high) {
  const auto found = fields.find(name);
  if (found == fields.end()) return otherwise;
  const double value = found->second;
  fields.erase(found);
  if (!(value >= low && value <= high)) throw py::value_error("life: " + std::string(name) + " is out of range: " + std::to_string(value));
  return value;
}

}  // namespace

Life life_of(std::map<std::string, double> fields) {
  constexpr double kLarge = 1e30;
  constexpr double kSteps = 1e15;
  Life life;
  life.admission = static_cast<Admission>(static_cast<int>(take_field(fields, "admission", 0, 0, 3)));
  life.admit_count = static_cast<uint32_t>(take_field(fields, "admit_count", 1, 1, Index::kMaxCount));
  life.admit_probability = take_field(fields, "admit_probability", 1, 1e-12, 1);
  life.admit_score = take_field(fields, "admit_score", 1, 1e-12, kLarge);
  life.unseen_zero = take_field(fields, "unseen_zero", 0, 0, 1) != 0;
  life.age_steps = static_cast<uint64_t>(take_field(fields, "age_steps", 0, 0, kSteps));
  life.scored = take_field(fields, "scored", 0, 0, 1) != 0;
  life.nonclick = static_cast<float>(take_field(fields, "nonclick", 1, 0, kLarge));
  life.click = static_cast<float>(take_field(fields, "click", 1, 0, kLarge));
  life.decay = take_field(fields, "decay", 1, 1e-6, 1);
  life.decay_steps = static_cast<uint64_t>(take_field(fields, "decay_steps", 1, 1, kSteps));
  life.delete_below = static_cast<float>(take_field(fields, "delete_below", 0, 0, kLarge));
  life.capacity = static_cast<uint64_t>(take_field(fields, "capacity", 0, 0, kSteps));
  life.keep_frequent = take_field(fields, "keep_frequent", 0, 0, 1) != 0;
  if (!fields.empty()) throw py::value_error("life has no field " + fields.begin()->first);
  if ((life.delete_below > 0 || life.keep_frequent) && !life.scored) throw py::value_error("life: a rule by score needs scored");
  if ((life.delete_below > 0 || life.decay < 1) && life.age_steps == 0) throw py::value_error("life: scores that decay need age_steps");
  return life;
}

}  // namespace fleet::python
