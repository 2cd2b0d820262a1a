#include "row_optimizer.h"

#include <cstring>

namespace fleet {

namespace {

#include "row_optimizers/list.inc.h"

template <class O>
constexpr RowOptimizer described(size_t number) {
  return {number, O::kName, O::kConstants, O::kPerColumn, O::kPerRow, O::kInitialState, O::kUsesPowers, O::kDividesByRate};
}

// The numbers count up in the order of the list.
template <class... All>
struct List {
  static constexpr size_t kCount = sizeof...(All);
  RowOptimizer all[kCount];
  constexpr List() : all{described<All>(0)...} {
    for (size_t i = 0; i < kCount; ++i) all[i].number = i;
  }
};

constexpr RowOptimizerList<List> kList;

}  // namespace

const RowOptimizer* row_optimizers(size_t* count) noexcept {
  *count = kList.kCount;
  return kList.all;
}

const RowOptimizer* find_row_optimizer(const char* name) noexcept {
  for (const RowOptimizer& one : kList.all) {
    if (std::strcmp(one.name, name) == 0) return &one;
  }
  return nullptr;
}

}  // namespace fleet
