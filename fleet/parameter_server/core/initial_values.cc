#include "initial_values.h"

namespace fleet {

namespace {

// Natural logarithm of x in (0, 1], by x = m * 2^e and the series of atanh: libm's own differs between systems.
double log_of(double x) {
  int exponent = 0;
  double m = std::frexp(x, &exponent);
  if (m < 0.70710678118654752440) {
    m *= 2;
    --exponent;
  }
  const double s = (m - 1) / (m + 1);
  const double s2 = s * s;
  double sum = 0;
  for (int k = 23; k >= 1; k -= 2) sum = sum * s2 + 1.0 / k;
  return 2 * s * sum + exponent * 0.69314718055994530942;
}

double polynomial(const double* coefficients, int count, double x) {
  double y = coefficients[count - 1];
  for (int i = count - 2; i >= 0; --i) y = y * x + coefficients[i];
  return y;
}

}  // namespace

// Source: Peter J. Acklam's rational approximation of the normal quantile (relative error 1.15e-9).
float normal_of_bits(uint32_t bits) noexcept {
  static const double a[6] = {2.506628277459239e+00,  -3.066479806614716e+01, 1.383577518672690e+02,
                              -2.759285104469687e+02, 2.209460984245205e+02,  -3.969683028665376e+01};
  static const double b[6] = {1.0,
                              -1.328068155288572e+01,
                              6.680131188771972e+01,
                              -1.556989798598866e+02,
                              1.615858368580409e+02,
                              -5.447609879822406e+01};
  static const double c[6] = {2.938163982698783e+00,  4.374664141464968e+00,  -2.549732539343734e+00,
                              -2.400758277161838e+00, -3.223964580411365e-01, -7.784894002430293e-03};
  static const double d[5] = {1.0, 3.754408661907416e+00, 2.445134137142996e+00, 3.224671290700398e-01,
                              7.784695709041462e-03};
  const double p = (static_cast<double>(bits) + 0.5) * 0x1p-32;
  if (p < 0.02425 || p > 1 - 0.02425) {
    const double q = std::sqrt(-2 * log_of(p < 0.5 ? p : 1 - p));
    const double tail = polynomial(c, 6, q) / polynomial(d, 5, q);
    return static_cast<float>(p < 0.5 ? tail : -tail);
  }
  const double q = p - 0.5;
  const double r = q * q;
  return static_cast<float>(q * polynomial(a, 6, r) / polynomial(b, 6, r));
}

}  // namespace fleet
