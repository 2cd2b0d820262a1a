// All row optimizers. Included into a namespace: once for each SIMD level (kernels.cc), and once for their descriptions
// (row_optimizer.cc). So no file in here has an include guard, and none includes anything. To add one, name it twice below.
#include "adagrad.inc.h"
#include "adam.inc.h"
#include "adamw.inc.h"
#include "decayed_adagrad.inc.h"
#include "ftrl.inc.h"
#include "momentum.inc.h"
#include "rmsprop.inc.h"
#include "rowwise_adagrad.inc.h"
#include "sgd.inc.h"

template <template <class...> class Into>
using RowOptimizerList =
    Into<Sgd, Momentum, Adagrad, RowwiseAdagrad, DecayedAdagrad, RmsProp, CenteredRmsProp, Adam, AdamW, Ftrl>;
